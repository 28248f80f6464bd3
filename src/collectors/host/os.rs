//! Operating system, from `/etc/os-release` or `/usr/lib/os-release`, documented in
//! `os-release(5)`.
//!
//! The file is a shell fragment: a value may have single quotes, double quotes or none.

use std::collections::BTreeMap;

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Snapshot, Text, unquote},
};

metrics! {
    /// Operating system information: names and versions.
    OS: Info = "node_os_info" [
        "build_id", "id", "id_like", "image_id", "image_version", "name", "pretty_name",
        "variant", "variant_id", "version", "version_codename", "version_id",
    ];
    /// Operating system version up to the second dot, as a number: 24.10 is less than 24.4.
    VERSION: Gauge = "node_os_version" ["id", "id_like", "name"];
    /// End of support of the operating system, in seconds since the epoch.
    SUPPORT_END: Gauge = "node_os_support_end_timestamp_seconds" [];
}

#[derive(Debug)]
pub(super) struct Os;

impl Collector for Os {
    const NAME: &'static str = "os";
    const ABOUT: &'static str = "operating system name and version";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.os_release()?))
    }
}

fn families(release: &Text) -> Families {
    let mut out = Families::default();
    let mut fields = BTreeMap::new();
    for (number, line) in (1..).zip(release.body().lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let field = line.split_once('=');
        let field = field.and_then(|(name, value)| Some((name, unquote(value)?)));
        let field = field.ok_or_else(|| release.error(number, "invalid assignment"));
        if let Some((name, value)) = out.ok_or_skip(field) {
            fields.insert(name, (number, value));
        }
    }
    let field = |name| fields.get(name).map_or("", |(_, value)| value);
    let [id, id_like, name] = ["ID", "ID_LIKE", "NAME"].map(field);
    out.add(
        &OS,
        [
            field("BUILD_ID"),
            id,
            id_like,
            field("IMAGE_ID"),
            field("IMAGE_VERSION"),
            name,
            field("PRETTY_NAME"),
            field("VARIANT"),
            field("VARIANT_ID"),
            field("VERSION"),
            field("VERSION_CODENAME"),
            field("VERSION_ID"),
        ],
        true,
    );
    if let Some(version) = parse_version(field("VERSION_ID")) {
        out.add(&VERSION, [id, id_like, name], version);
    }
    if let Some((number, end)) = fields.get("SUPPORT_END") {
        let invalid = || release.error(*number, format_args!("invalid date {end:?}"));
        if let Some(end) = out.ok_or_skip(parse_date(end).ok_or_else(invalid)) {
            out.add(&SUPPORT_END, [], end);
        }
    }
    out
}

/// Parses the number that a version begins with.
fn parse_version(version: &str) -> Option<f64> {
    let mut dots = 0;
    let end = version.find(|c: char| {
        dots += usize::from(c == '.');
        !c.is_ascii_digit() && (c != '.' || dots > 1)
    });
    let (number, _) = version.split_at_checked(end.unwrap_or(version.len()))?;
    number.parse().ok().filter(|version| *version > 0.0)
}

/// Returns the start of a day in seconds since the epoch.
fn parse_date(date: &str) -> Option<i64> {
    let mut parts = date.splitn(3, '-').map(|part| {
        let is_number = part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u16>().ok().filter(|_| is_number)
    });
    let [year, month, day] = [parts.next()??, parts.next()??, parts.next()??];
    let is_leap = |year: u16| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::from(month).checked_sub(1)?;
    if day == 0 || day > *months.get(before)? || year < 1970 {
        return None;
    }
    let years = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 });
    let months = months.iter().take(before).map(|days| i64::from(*days));
    let days = years.sum::<i64>() + months.sum::<i64>() + i64::from(day) - 1;
    Some(days * 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{collectors::testing::MachineFixture, error::Error};

    #[test]
    fn malformed_line_is_skipped() {
        let text = Text::from(
            "NAME='Odd \"Linux\"'\n# a comment\n\nnonsense\nID=odd\nVERSION=\"1\nVERSION_ID=7.2.1\nSUPPORT_END=2031-02-29\n",
        );
        let out = families(&text);
        assert_eq!(
            out.lines(),
            [
                r#"node_os_info{build_id="",id="odd",id_like="",image_id="",image_version="",name="Odd \"Linux\"",pretty_name="",variant="",variant_id="",version="",version_codename="",version_id="7.2.1"} 1"#,
                r#"node_os_version{id="odd",id_like="",name="Odd \"Linux\""} 7.2"#,
            ]
        );
        let (skipped, reason) = out.errors();
        assert_eq!(skipped, 3);
        assert_eq!(reason.unwrap().to_string(), "test:4: invalid assignment");
    }

    #[test]
    fn a_version_is_a_number_up_to_the_second_dot() {
        for (text, number) in [
            ("12", Some(12.0)),
            ("24.04.1", Some(24.04)),
            ("37.20221225.1.0", Some(37.202_212_25)),
            ("9.", Some(9.0)),
            ("3x", Some(3.0)),
            (".5", Some(0.5)),
            ("rolling", None),
            ("0", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), number, "{text}");
        }
    }

    #[test]
    fn support_ends_when_the_day_begins() {
        for (date, seconds) in [
            ("1970-01-01", Some(0)),
            ("2024-02-29", Some(1_709_164_800)),
            ("2025-11-15", Some(1_763_164_800)),
            ("2100-03-01", Some(4_107_542_400)),
            ("2025-02-29", None),
            ("2025-13-01", None),
            ("2025-00-01", None),
            ("2025-+1-01", None),
            ("2025-01-00", None),
            ("2025-01", None),
            ("2025-01-01-01", None),
            ("soon", None),
        ] {
            assert_eq!(parse_date(date), seconds, "{date}");
        }
    }

    #[test]
    fn etc_os_release_takes_precedence_over_usr_lib() {
        let machine = MachineFixture::new("os");
        assert!(matches!(
            Os.collect(&machine.snapshot()),
            Err(Error::NotFound(_))
        ));
        machine.write("root/usr/lib/os-release", "ID=vendor\n");
        let id =
            |machine: &MachineFixture| Os.collect(&machine.snapshot()).unwrap().lines()[0].clone();
        assert!(id(&machine).contains(r#"id="vendor""#));
        machine.write("root/etc/os-release", "ID=owner\n");
        assert!(id(&machine).contains(r#"id="owner""#));
    }
}
