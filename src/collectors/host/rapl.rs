//! Energy used by parts of the CPU (RAPL), from `/sys/class/powercap`, documented in
//! `Documentation/power/powercap/powercap.rst`.
//!
//! Since Linux 5.10 the counters are readable only by root, because energy is a side channel
//! (CVE-2020-8694); without root the result is not found, which is no failure. The counters wrap
//! at `max_energy_range_uj`, after less than an hour on a busy server.

use std::collections::HashMap;

use clap::ArgAction;

use crate::{
    collector::Collector,
    error::{Error, Result},
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Current RAPL value of zone * in joules; wraps when the hardware counter overflows.
    ZONE_JOULES: Counter = "node_rapl_*_joules_total" ["index", "path"];
    /// Current RAPL value in joules by zone; wraps when the hardware counter overflows.
    JOULES: Counter = "node_rapl_joules_total" ["index", "path", "rapl_zone"];
}

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct RaplFlags {
    /// Expose the RAPL zone as a label instead of a part of the metric name.
    #[arg(
        long = "collector.rapl.enable-zone-label",
        default_value_t = false,
        action = ArgAction::Set
    )]
    rapl_enable_zone_label: bool,
}

#[derive(Debug)]
pub(super) struct Rapl {
    zone_label: bool,
}

impl Collector for Rapl {
    const NAME: &'static str = "rapl";
    const ABOUT: &'static str = "CPU energy counters (RAPL)";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = RaplFlags;

    fn new(flags: RaplFlags) -> Result<Self, String> {
        Ok(Self {
            zone_label: flags.rapl_enable_zone_label,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let powercap = snapshot.sys_dir("class/powercap")?;
        let mut names = ZoneIndexes::default();
        let mut permission_denied = false;
        for dir in powercap.dirs()? {
            // A directory without a name is not a zone but a driver of zones.
            let Ok(name) = dir.read_trimmed("name") else {
                continue;
            };
            let (zone, index) = names.index(&name);
            match read_energy(&dir) {
                Err(error) if error.is_permission_denied() => permission_denied = true,
                read => {
                    if let Some(joules) = out.ok_or_skip(read) {
                        self.add(&mut out, zone, index, &dir, joules);
                    }
                }
            }
        }
        if permission_denied && out.is_empty() {
            return Err(Error::NotFound(powercap.path().to_owned()));
        }
        Ok(out)
    }
}

impl Rapl {
    fn add(&self, out: &mut Families, zone: &str, index: u64, dir: &Dir, joules: Value) {
        let index = index.to_string();
        let path = dir.path().to_string_lossy();
        if self.zone_label {
            out.add(&JOULES, [&index, &path, zone], joules);
        } else {
            out.add_named(&ZONE_JOULES, zone, [&index, &path], joules);
        }
    }
}

fn read_energy(zone: &Dir) -> Result<Value> {
    let microjoules = zone.read_number("energy_uj")?;
    Ok(Value::quotient(microjoules, 1_000_000))
}

/// Next index by zone name. Some zones contain a number, such as `package-1`; others do not,
/// such as the `core` of each package, and are numbered here.
#[derive(Default)]
struct ZoneIndexes(HashMap<String, u64>);

impl ZoneIndexes {
    /// Splits a name into the name without its number, and the number.
    fn index<'a>(&mut self, name: &'a str) -> (&'a str, u64) {
        let numbered = name.split_once('-');
        let numbered = numbered.and_then(|(name, n)| Some((name, n.parse::<u64>().ok()?)));
        let (name, index) =
            numbered.unwrap_or_else(|| (name, self.0.get(name).copied().unwrap_or(0)));
        self.0.insert(name.to_owned(), index.saturating_add(1));
        (name, index)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sources::Roots;

    #[test]
    fn zone_label_is_optional() {
        let machine = crate::fixtures::fixture("hardware");
        let roots = Roots {
            procfs: "/nowhere".into(),
            sysfs: machine.join("sys"),
            rootfs: "/nowhere".into(),
            udev_data: "/nowhere".into(),
        };
        let machine = Snapshot::new(roots.into(), Instant::now());
        let out = Rapl { zone_label: true }.collect(&machine).unwrap();
        let lines = out.lines();
        assert_eq!(lines.len(), 5);
        assert!(lines[0].starts_with(r#"node_rapl_joules_total{index="0",path=""#));
        let end = r#"/sys/class/powercap/intel-rapl:0",rapl_zone="package"} 240422.366267"#;
        assert!(lines[0].ends_with(end), "{}", lines[0]);
    }

    #[test]
    fn zones_are_numbered_by_name_or_order() {
        let mut names = ZoneIndexes::default();
        for (name, index) in [
            ("package-0", ("package", 0)),
            ("core", ("core", 0)),
            ("package-1", ("package", 1)),
            ("core", ("core", 1)),
            ("package-0-die-1", ("package-0-die-1", 0)),
            ("package-0-die-1", ("package-0-die-1", 1)),
        ] {
            assert_eq!(names.index(name), index);
        }
    }
}
