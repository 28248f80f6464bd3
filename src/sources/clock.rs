//! The machine's clock: what it shows, where, and how the kernel keeps it right.

use std::time::{Duration, SystemTime};

use super::syscall;
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
pub struct Discipline {
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
const NANO: i32 = 0x2000;
/// `TIME_ERROR`, the state of a clock that nothing keeps right.
const TIME_ERROR: i32 = 5;

impl Discipline {
    /// In how many parts [`offset`](Self::offset) and [`jitter`](Self::jitter)
    /// divide a second.
    #[must_use]
    pub fn parts_of_second(&self) -> u32 {
        if self.status & NANO == 0 {
            1_000_000
        } else {
            1_000_000_000
        }
    }

    /// Asks the kernel. Where it may not be asked, as in many containers, there is
    /// nothing here.
    pub(super) fn read() -> Result<Self> {
        let (state, timex) = syscall::adjtimex().map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => Error::Absent("adjtimex(2)".into()),
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
pub(super) fn now() -> Option<Duration> {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
}

/// The time zone as `TZ` in the environment says, else `/etc/localtime`.
pub(super) fn time_zone() -> Option<TimeZone> {
    let seconds = i64::try_from(now()?.as_secs()).ok()?;
    let (name, offset) = syscall::local_time_zone(seconds)?;
    Some(TimeZone { name, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_it_keeps_its_clock() {
        // Not allowed in every container.
        if let Ok(discipline) = Discipline::read() {
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
}
