//! The machine's clock: what it shows, where, and how the kernel keeps it right.

use std::{
    env,
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{CWD, readlinkat},
    io::Errno,
};

use super::{dir, syscall};
use crate::error::{Error, Result};

/// The local time zone at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeZone {
    /// Its short name, such as `CEST`.
    pub name: String,
    /// How many seconds it is ahead of UTC.
    pub offset: i64,
}

/// How the kernel keeps its clock right, in the words and units of `adjtimex(2)`.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "adjtimex(2) has them")]
pub struct Adjtimex {
    /// Anything but `TIME_ERROR`.
    pub is_synchronised: bool,
    pub status: i32,
    pub offset: i64,
    pub freq: i64,
    pub maxerror: i64,
    pub esterror: i64,
    pub constant: i64,
    pub tick: i64,
    pub ppsfreq: i64,
    pub jitter: i64,
    pub shift: i32,
    pub stabil: i64,
    pub jitcnt: i64,
    pub calcnt: i64,
    pub errcnt: i64,
    pub stbcnt: i64,
    pub tai: i32,
}

/// `STA_NANO`: some fields are in nanoseconds, not in microseconds.
const STA_NANO: i32 = 0x2000;
/// `TIME_ERROR`, the state of a clock that nothing keeps right.
const TIME_ERROR: i32 = 5;

impl Adjtimex {
    /// In how many parts [`offset`](Self::offset) and [`jitter`](Self::jitter)
    /// divide a second.
    #[must_use]
    pub fn units_per_second(&self) -> u32 {
        if self.status & STA_NANO == 0 {
            1_000_000
        } else {
            1_000_000_000
        }
    }

    /// Asks the kernel. Where it may not be asked, as in many containers, there is
    /// nothing here.
    pub(super) fn read() -> Result<Self> {
        let (state, timex) = syscall::adjtimex().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => {
                Error::NotFound("adjtimex(2)".into())
            }
            _ => Error::io("adjtimex(2)", error),
        })?;
        #[allow(clippy::useless_conversion, reason = "are i32 elsewhere")]
        Ok(Self {
            is_synchronised: state != TIME_ERROR,
            status: timex.status,
            offset: timex.offset.into(),
            freq: timex.freq.into(),
            maxerror: timex.maxerror.into(),
            esterror: timex.esterror.into(),
            constant: timex.constant.into(),
            tick: timex.tick.into(),
            ppsfreq: timex.ppsfreq.into(),
            jitter: timex.jitter.into(),
            shift: timex.shift,
            stabil: timex.stabil.into(),
            jitcnt: timex.jitcnt.into(),
            calcnt: timex.calcnt.into(),
            errcnt: timex.errcnt.into(),
            stbcnt: timex.stbcnt.into(),
            tai: timex.tai,
        })
    }
}

/// What the clock shows, counted from the beginning of 1970; nothing where it shows
/// an earlier time.
pub(super) fn unix_time() -> Option<Duration> {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
}

/// The time zone as `TZ` in the environment says, else `/etc/localtime`.
pub(super) fn time_zone() -> Option<TimeZone> {
    let seconds = i64::try_from(unix_time()?.as_secs()).ok()?;
    let (name, offset) = syscall::local_time_zone(seconds)?;
    Some(TimeZone { name, offset })
}

/// The name of the time zone: see [`Snapshot::time_zone_name`](super::Snapshot::time_zone_name).
pub(super) fn time_zone_name(rootfs: &Path) -> Result<Option<String>> {
    if let Some(name) = env::var("TZ").ok().as_deref().and_then(parse_tz_variable) {
        return Ok(Some(name));
    }
    match dir::read(&rootfs.join("etc/timezone")) {
        Ok(text) if !text.trimmed().is_empty() => return Ok(Some(text.trimmed().to_owned())),
        Ok(_) => {}
        Err(error) if error.is_gone() => {}
        Err(error) => return Err(error),
    }
    let link = rootfs.join("etc/localtime");
    match readlinkat(CWD, &link, Vec::new()) {
        Ok(target) => Ok(target.to_str().ok().and_then(zone_name_from_path)),
        // A file, not a link.
        Err(Errno::INVAL) => Ok(None),
        // Then it is UTC: `tzset(3)`.
        Err(Errno::NOENT) => Ok(Some("UTC".to_owned())),
        Err(errno) => Err(Error::io(link, errno)),
    }
}

/// What `TZ` says, documented in `tzset(3)`: a zone's name, perhaps behind a colon, or a
/// file, or a rule such as `CET-1CEST`, which is shown as it is.
fn parse_tz_variable(value: &str) -> Option<String> {
    let value = value.strip_prefix(':').unwrap_or(value);
    match value {
        "" => None,
        file if file.starts_with('/') => zone_name_from_path(file),
        name => Some(name.to_owned()),
    }
}

/// The name of the zone that a file below `zoneinfo` describes.
fn zone_name_from_path(path: &str) -> Option<String> {
    let (_, name) = path.rsplit_once("/zoneinfo/")?;
    let name = name.strip_prefix("posix/").unwrap_or(name);
    let name = name.strip_prefix("right/").unwrap_or(name);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_it_keeps_its_clock() {
        // Not allowed in every container.
        if let Ok(discipline) = Adjtimex::read() {
            // 10 ms less or more than a tenth, as the kernel itself makes sure of.
            assert!(
                (9_000..=11_000).contains(&discipline.tick),
                "{discipline:?}"
            );
        }
    }

    #[test]
    fn the_time_zone_is_the_one_date_knows() {
        let date = std::process::Command::new("date").arg("+%Z %z").output();
        let date = String::from_utf8(date.unwrap().stdout).unwrap();
        let zone = time_zone().unwrap();
        let sign = if zone.offset < 0 { '-' } else { '+' };
        let minutes = zone.offset.abs() / 60;
        let shown = format!("{} {sign}{:02}{:02}", zone.name, minutes / 60, minutes % 60);
        assert_eq!(shown, date.trim());
    }

    #[test]
    fn a_zone_goes_by_its_name_however_it_was_chosen() {
        for (file, name) in [
            ("/usr/share/zoneinfo/Europe/Berlin", Some("Europe/Berlin")),
            ("../usr/share/zoneinfo/Etc/UTC", Some("Etc/UTC")),
            ("/usr/share/zoneinfo/right/Asia/Tokyo", Some("Asia/Tokyo")),
            ("/etc/alternatives/localtime", None),
        ] {
            assert_eq!(zone_name_from_path(file).as_deref(), name, "{file}");
        }
        for (value, name) in [
            ("Europe/Oslo", Some("Europe/Oslo")),
            (":Europe/Oslo", Some("Europe/Oslo")),
            (":/usr/share/zoneinfo/Europe/Oslo", Some("Europe/Oslo")),
            ("CET-1CEST", Some("CET-1CEST")),
            (":/etc/localtime", None),
            ("", None),
        ] {
            assert_eq!(parse_tz_variable(value).as_deref(), name, "{value}");
        }
    }

    #[test]
    fn a_machine_without_a_time_zone_keeps_utc() {
        let root = env::temp_dir().join(format!("strata-zone-{}", std::process::id()));
        let etc = root.join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        let says = || time_zone_name(&root).unwrap();
        if env::var_os("TZ").is_none() {
            assert_eq!(says().as_deref(), Some("UTC"));
            let zone = "/usr/share/zoneinfo/Africa/Cairo";
            std::os::unix::fs::symlink(zone, etc.join("localtime")).unwrap();
            assert_eq!(says().as_deref(), Some("Africa/Cairo"));
            std::fs::write(etc.join("timezone"), "America/Lima\n").unwrap();
            assert_eq!(says().as_deref(), Some("America/Lima"));
            for file in ["timezone", "localtime"] {
                std::fs::remove_file(etc.join(file)).unwrap();
            }
            std::fs::write(etc.join("localtime"), "TZif2").unwrap();
            assert_eq!(says(), None);
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
