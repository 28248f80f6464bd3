//! Temperatures and cooling devices, from `/sys/class/thermal`, documented in
//! `Documentation/driver-api/thermal/sysfs-api.rst`.
//!
//! Reading a sensor fails while it is asleep or before its first measurement; its zone is
//! missing until a read succeeds.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Zone temperature in Celsius.
    TEMP: Gauge = "node_thermal_zone_temp" ["type", "zone"];
    /// Current throttle state of the cooling device.
    CUR_STATE: Gauge = "node_cooling_device_cur_state" ["name", "type"];
    /// Maximum throttle state of the cooling device.
    MAX_STATE: Gauge = "node_cooling_device_max_state" ["name", "type"];
}

#[derive(Debug)]
pub(super) struct ThermalZone;

impl Collector for ThermalZone {
    const NAME: &'static str = "thermal_zone";
    const ABOUT: &'static str = "temperatures and cooling devices";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for device in snapshot.sys_dir("class/thermal")?.dirs()? {
            let name = device.name();
            if let Some(zone) = name.strip_prefix("thermal_zone") {
                let read = read_zone(&device);
                if let Some((kind, celsius)) = out.ok_or_skip(read) {
                    out.add(&TEMP, [&kind, zone], celsius);
                }
            } else if let Some(name) = name.strip_prefix("cooling_device") {
                let read = read_cooling_device(&device);
                if let Some((kind, current, max)) = out.ok_or_skip(read) {
                    out.add(&CUR_STATE, [name, &kind], current);
                    out.add(&MAX_STATE, [name, &kind], max);
                }
            }
        }
        Ok(out)
    }
}

fn read_zone(zone: &Dir) -> Result<(String, f64)> {
    let millidegrees: i32 = zone.read_number("temp")?;
    Ok((zone.read_trimmed("type")?, f64::from(millidegrees) / 1000.0))
}

fn read_cooling_device(device: &Dir) -> Result<(String, u64, u64)> {
    let current = device.read_number("cur_state")?;
    let max = device.read_number("max_state")?;
    Ok((device.read_trimmed("type")?, current, max))
}
