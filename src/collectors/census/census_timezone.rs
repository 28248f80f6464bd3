//! The host's time zone by name, from `TZ`, `/etc/timezone` or `/etc/localtime`, documented in
//! `tzset(3)` and `localtime(5)`. `node_time_zone_offset_seconds` has only the current offset.

use std::path::PathBuf;

use crate::{
    collector::{Collector, NoFlags},
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::Snapshot,
};

metrics! {
    /// Time zone of the machine, such as Europe/Berlin: always 1.
    TIMEZONE: Info = "census_timezone_info" ["timezone"];
}

#[derive(Debug)]
pub(super) struct CensusTimezone;

impl Collector for CensusTimezone {
    const NAME: &'static str = "census_timezone";
    const ABOUT: &'static str = "the machine's time zone";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let name = snapshot.time_zone_name()?;
        let unnamed = || Error::NotFound(PathBuf::from("time zone name"));
        out.add(&TIMEZONE, [&name.ok_or_else(unnamed)?], true);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::MachineFixture;

    #[test]
    fn exposes_time_zone_name() {
        if std::env::var_os("TZ").is_some() {
            return;
        }
        let machine = MachineFixture::new("census-zone");
        machine.write("root/etc/timezone", "Pacific/Auckland\n");
        let lines = CensusTimezone.collect(&machine.snapshot()).unwrap().lines();
        let line = r#"census_timezone_info{timezone="Pacific/Auckland"} 1"#;
        assert_eq!(lines, [line]);
    }
}
