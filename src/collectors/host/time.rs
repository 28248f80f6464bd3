//! System clock, and its clock source from `/sys/devices/system/clocksource`, documented in the
//! kernel's `Documentation/ABI/testing/sysfs-devices-clock`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// System time in seconds since epoch (1970).
    SECONDS: Gauge = "node_time_seconds" [];
    /// Offset of the exporter's time zone from UTC in seconds.
    ZONE_OFFSET: Gauge = "node_time_zone_offset_seconds" ["time_zone"];
    /// Available clocksources read from '/sys/devices/system/clocksource'.
    AVAILABLE: Info = "node_time_clocksource_available_info" ["device", "clocksource"];
    /// Current clocksource read from '/sys/devices/system/clocksource'.
    CURRENT: Info = "node_time_clocksource_current_info" ["device", "clocksource"];
}

#[derive(Debug)]
pub(super) struct Time;

impl Collector for Time {
    const NAME: &'static str = "time";
    const ABOUT: &'static str = "system time and clock source";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        if let Some(now) = snapshot.unix_time() {
            out.add(&SECONDS, [], now);
        }
        if let Some(zone) = snapshot.time_zone() {
            out.add(&ZONE_OFFSET, [&zone.name], zone.offset);
        }
        let clocks = snapshot.sys_dir("devices/system/clocksource");
        if let Some(clocks) = out.ok_or_skip(clocks.and_then(|clocks| clocks.dirs())) {
            for clock in clocks {
                add_sources(&mut out, &clock);
            }
        }
        Ok(out)
    }
}

fn add_sources(out: &mut Families, clock: &Dir) {
    let name = clock.name();
    // Other entries, such as `power`, are not clocks.
    let Some(number) = name.strip_prefix("clocksource") else {
        return;
    };
    if let Some(available) = out.ok_or_skip(clock.read("available_clocksource")) {
        for source in available.body().split_ascii_whitespace() {
            out.add(&AVAILABLE, [number, source], true);
        }
    }
    if let Some(current) = out.ok_or_skip(clock.read_trimmed("current_clocksource")) {
        out.add(&CURRENT, [number, &current], true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::MachineFixture;

    #[test]
    fn separates_current_and_available_clock_sources() {
        let machine = MachineFixture::new("clocksource");
        let dir = "sys/devices/system/clocksource/clocksource0";
        machine.write(
            &format!("{dir}/available_clocksource"),
            "tsc hpet acpi_pm \n",
        );
        machine.write(&format!("{dir}/current_clocksource"), "hpet\n");
        machine.write("sys/devices/system/clocksource/power/control", "auto\n");
        let lines = Time.collect(&machine.snapshot()).unwrap().lines();
        assert_eq!(
            lines[2..],
            [
                r#"node_time_clocksource_available_info{device="0",clocksource="tsc"} 1"#,
                r#"node_time_clocksource_available_info{device="0",clocksource="hpet"} 1"#,
                r#"node_time_clocksource_available_info{device="0",clocksource="acpi_pm"} 1"#,
                r#"node_time_clocksource_current_info{device="0",clocksource="hpet"} 1"#,
            ]
        );
    }

    #[test]
    fn exposes_time_without_clock_source() {
        let out = Time
            .collect(&MachineFixture::new("no-clocksource").snapshot())
            .unwrap();
        assert_eq!(out.lines().len(), 2);
        assert_eq!(out.errors().0, 0);
    }
}
