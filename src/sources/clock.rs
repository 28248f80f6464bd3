//! The system clock: time, time zone and the kernel's synchronisation.

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

/// The local time zone at a point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeZone {
    /// Abbreviation, such as `CEST`.
    pub name: String,
    /// Offset to UTC in seconds.
    pub offset: i64,
}

/// State of the kernel's clock synchronisation, with the names and units of `adjtimex(2)`.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "documented in adjtimex(2)")]
pub struct Adjtimex {
    /// Whether the state is not `TIME_ERROR`.
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

/// `STA_NANO`: some fields are in nanoseconds instead of microseconds.
const STA_NANO: i32 = 0x2000;
/// `TIME_ERROR`: the clock is not synchronised.
const TIME_ERROR: i32 = 5;

impl Adjtimex {
    /// Units per second of [`offset`](Self::offset) and [`jitter`](Self::jitter).
    #[must_use]
    pub fn units_per_second(&self) -> u32 {
        if self.status & STA_NANO == 0 {
            1_000_000
        } else {
            1_000_000_000
        }
    }

    /// Reads the state from the kernel. An error without permission, as in many containers.
    pub(super) fn read() -> Result<Self> {
        let (state, timex) = syscall::adjtimex().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => {
                Error::NotFound("adjtimex(2)".into())
            }
            _ => Error::io("adjtimex(2)", error),
        })?;
        #[allow(clippy::useless_conversion, reason = "i32 on other platforms")]
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

/// Returns the system time since the Unix epoch; `None` if it is earlier.
pub(super) fn unix_time() -> Option<Duration> {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
}

/// Returns the time zone from `TZ` in the environment, else from `/etc/localtime`.
pub(super) fn time_zone() -> Option<TimeZone> {
    let seconds = i64::try_from(unix_time()?.as_secs()).ok()?;
    let (name, offset) = syscall::local_time_zone(seconds)?;
    Some(TimeZone { name, offset })
}

/// Returns the name of the time zone: see
/// [`Snapshot::time_zone_name`](super::Snapshot::time_zone_name).
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
        // A regular file.
        Err(Errno::INVAL) => Ok(None),
        // The default is UTC: `tzset(3)`.
        Err(Errno::NOENT) => Ok(Some("UTC".to_owned())),
        Err(errno) => Err(Error::io(link, errno)),
    }
}

/// Parses `TZ`, documented in `tzset(3)`: the name of a zone, optionally after a colon, or a file,
/// or a rule such as `CET-1CEST`, which is returned unchanged.
fn parse_tz_variable(value: &str) -> Option<String> {
    let value = value.strip_prefix(':').unwrap_or(value);
    match value {
        "" => None,
        file if file.starts_with('/') => zone_name_from_path(file),
        name => Some(name.to_owned()),
    }
}

/// Returns the name of the zone in a file below `zoneinfo`.
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
    fn adjtimex_values_are_plausible() {
        // Some containers do not permit the call.
        if let Ok(timex) = Adjtimex::read() {
            // The kernel keeps the tick within 10 % of 10 ms.
            assert!((9_000..=11_000).contains(&timex.tick), "{timex:?}");
        }
    }

    #[test]
    fn time_zone_matches_date_command() {
        let date = std::process::Command::new("date").arg("+%Z %z").output();
        let date = String::from_utf8(date.unwrap().stdout).unwrap();
        let zone = time_zone().unwrap();
        let sign = if zone.offset < 0 { '-' } else { '+' };
        let minutes = zone.offset.abs() / 60;
        let formatted = format!("{} {sign}{:02}{:02}", zone.name, minutes / 60, minutes % 60);
        assert_eq!(formatted, date.trim());
    }

    #[test]
    fn zone_name_is_found_for_every_way_to_set_it() {
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
    fn host_without_time_zone_uses_utc() {
        let root = env::temp_dir().join(format!("strata-zone-{}", std::process::id()));
        let etc = root.join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        let zone_name = || time_zone_name(&root).unwrap();
        if env::var_os("TZ").is_none() {
            assert_eq!(zone_name().as_deref(), Some("UTC"));
            let zone_file = "/usr/share/zoneinfo/Africa/Cairo";
            std::os::unix::fs::symlink(zone_file, etc.join("localtime")).unwrap();
            assert_eq!(zone_name().as_deref(), Some("Africa/Cairo"));
            std::fs::write(etc.join("timezone"), "America/Lima\n").unwrap();
            assert_eq!(zone_name().as_deref(), Some("America/Lima"));
            for file in ["timezone", "localtime"] {
                std::fs::remove_file(etc.join(file)).unwrap();
            }
            std::fs::write(etc.join("localtime"), "TZif2").unwrap();
            assert_eq!(zone_name(), None);
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
