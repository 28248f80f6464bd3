//! Temperatures and what is done against them, from `/sys/class/thermal`, documented
//! in `Documentation/driver-api/thermal/sysfs-api.rst`.
//!
//! A sensor that is asleep or has not measured yet refuses the read, and its zone is
//! left out until it answers.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Temperature of the zone in degrees Celsius.
    TEMP: Gauge = "node_thermal_zone_temp" ["type", "zone"];
    /// How hard the device cools at the moment, on its own scale from 0 to its maximum.
    CUR_STATE: Gauge = "node_cooling_device_cur_state" ["name", "type"];
    /// The hardest that the device can cool, on its own scale.
    MAX_STATE: Gauge = "node_cooling_device_max_state" ["name", "type"];
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ThermalZone;

impl Collector for ThermalZone {
    const NAME: &'static str = "thermal_zone";
    const ABOUT: &'static str = "temperatures and what is done against them";
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
