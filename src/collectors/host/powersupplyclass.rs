//! Power supplies such as batteries and mains adapters, from `class/power_supply` in sysfs,
//! documented in the kernel's `ABI/testing/sysfs-class-power`.
//!
//! The kernel reports millionths of a unit and tenths of a degree. Names and values are those of
//! `node_exporter`: only some of the names contain the unit, and two limits that are unitless
//! levels are divided by a million like the other values.

use crate::{
    collector::Collector,
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    pattern::Pattern,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Info of the power supply; a missing or empty attribute has no label.
    SUPPLY: Info = "node_power_supply_info" ["power_supply"];
    /// Whether the battery is known to be genuine (1) or not (0).
    AUTHENTIC: Gauge = "node_power_supply_authentic" ["power_supply"];
    /// Whether the battery is being calibrated (1) or not (0).
    CALIBRATE: Gauge = "node_power_supply_calibrate" ["power_supply"];
    /// Charge of the battery in percent.
    CAPACITY: Gauge = "node_power_supply_capacity" ["power_supply"];
    /// Charge in percent above which the driver raises an alert.
    CAPACITY_ALERT_MAX: Gauge = "node_power_supply_capacity_alert_max" ["power_supply"];
    /// Charge in percent below which the driver raises an alert.
    CAPACITY_ALERT_MIN: Gauge = "node_power_supply_capacity_alert_min" ["power_supply"];
    /// Charge throttling level, which has no unit but is divided by 1000000.
    CHARGE_CONTROL_LIMIT: Gauge = "node_power_supply_charge_control_limit" ["power_supply"];
    /// Maximum charge throttling level, which has no unit but is divided by 1000000.
    CHARGE_CONTROL_LIMIT_MAX: Gauge = "node_power_supply_charge_control_limit_max" ["power_supply"];
    /// Charge in ampere hours counted by the fuel gauge since an arbitrary time; can be negative.
    CHARGE_COUNTER: Gauge = "node_power_supply_charge_counter" ["power_supply"];
    /// Last known charge in ampere hours at which the battery is considered empty.
    CHARGE_EMPTY: Gauge = "node_power_supply_charge_empty" ["power_supply"];
    /// Design charge in ampere hours at which the battery is considered empty.
    CHARGE_EMPTY_DESIGN: Gauge = "node_power_supply_charge_empty_design" ["power_supply"];
    /// Last known charge of the full battery in ampere hours.
    CHARGE_FULL: Gauge = "node_power_supply_charge_full" ["power_supply"];
    /// Design charge of the full battery in ampere hours.
    CHARGE_FULL_DESIGN: Gauge = "node_power_supply_charge_full_design" ["power_supply"];
    /// Current charge of the battery in ampere hours, despite the name.
    CHARGE: Gauge = "node_power_supply_charge_ampere" ["power_supply"];
    /// Current in amperes at which charging ends.
    CHARGE_TERM_CURRENT: Gauge = "node_power_supply_charge_term_current" ["power_supply"];
    /// Charge current in amperes that is set for the constant-current phase.
    CONSTANT_CHARGE_CURRENT: Gauge = "node_power_supply_constant_charge_current" ["power_supply"];
    /// Maximum charge current in amperes that can be set for the constant-current phase.
    CONSTANT_CHARGE_CURRENT_MAX: Gauge = "node_power_supply_constant_charge_current_max" ["power_supply"];
    /// Charge voltage in volts that is set for the constant-voltage phase.
    CONSTANT_CHARGE_VOLTAGE: Gauge = "node_power_supply_constant_charge_voltage" ["power_supply"];
    /// Maximum charge voltage in volts that can be set for the constant-voltage phase.
    CONSTANT_CHARGE_VOLTAGE_MAX: Gauge = "node_power_supply_constant_charge_voltage_max" ["power_supply"];
    /// Current in amperes measured at boot.
    CURRENT_BOOT: Gauge = "node_power_supply_current_boot" ["power_supply"];
    /// Maximum current of the supply in amperes.
    CURRENT_MAX: Gauge = "node_power_supply_current_max" ["power_supply"];
    /// Current in amperes; whether a discharging battery is negative depends on the driver.
    CURRENT: Gauge = "node_power_supply_current_ampere" ["power_supply"];
    /// Number of full charge cycles; 0 also if the firmware does not report it.
    CYCLECOUNT: Gauge = "node_power_supply_cyclecount" ["power_supply"];
    /// Last known energy in watt hours at which the battery is considered empty.
    ENERGY_EMPTY: Gauge = "node_power_supply_energy_empty" ["power_supply"];
    /// Design energy in watt hours at which the battery is considered empty.
    ENERGY_EMPTY_DESIGN: Gauge = "node_power_supply_energy_empty_design" ["power_supply"];
    /// Last known energy of the full battery in watt hours.
    ENERGY_FULL: Gauge = "node_power_supply_energy_full" ["power_supply"];
    /// Design energy of the full battery in watt hours.
    ENERGY_FULL_DESIGN: Gauge = "node_power_supply_energy_full_design" ["power_supply"];
    /// Current energy of the battery in watt hours.
    ENERGY: Gauge = "node_power_supply_energy_watthour" ["power_supply"];
    /// Input current limit of the charger in amperes.
    INPUT_CURRENT_LIMIT: Gauge = "node_power_supply_input_current_limit" ["power_supply"];
    /// Whether the supply is online: 0 no, 1 fixed voltage, 2 programmable voltage.
    ONLINE: Gauge = "node_power_supply_online" ["power_supply"];
    /// Power in watts.
    POWER: Gauge = "node_power_supply_power_watt" ["power_supply"];
    /// Charge current in amperes used at first for an empty battery.
    PRECHARGE_CURRENT: Gauge = "node_power_supply_precharge_current" ["power_supply"];
    /// Whether the battery is present (1) or not (0).
    PRESENT: Gauge = "node_power_supply_present" ["power_supply"];
    /// Temperature of the supply in degrees Celsius.
    TEMP: Gauge = "node_power_supply_temp_celsius" ["power_supply"];
    /// Temperature in degrees Celsius above which the driver raises an alert.
    TEMP_ALERT_MAX: Gauge = "node_power_supply_temp_alert_max_celsius" ["power_supply"];
    /// Temperature in degrees Celsius below which the driver raises an alert.
    TEMP_ALERT_MIN: Gauge = "node_power_supply_temp_alert_min_celsius" ["power_supply"];
    /// Ambient temperature of the supply in degrees Celsius.
    TEMP_AMBIENT: Gauge = "node_power_supply_temp_ambient_celsius" ["power_supply"];
    /// Ambient temperature in degrees Celsius above which the driver raises an alert.
    TEMP_AMBIENT_MAX: Gauge = "node_power_supply_temp_ambient_max_celsius" ["power_supply"];
    /// Ambient temperature in degrees Celsius below which the driver raises an alert.
    TEMP_AMBIENT_MIN: Gauge = "node_power_supply_temp_ambient_min_celsius" ["power_supply"];
    /// Maximum operating temperature of the supply in degrees Celsius.
    TEMP_MAX: Gauge = "node_power_supply_temp_max_celsius" ["power_supply"];
    /// Minimum operating temperature of the supply in degrees Celsius.
    TEMP_MIN: Gauge = "node_power_supply_temp_min_celsius" ["power_supply"];
    /// Estimated seconds until the battery is empty.
    TIME_TO_EMPTY: Gauge = "node_power_supply_time_to_empty_seconds" ["power_supply"];
    /// Estimated seconds until the battery is full.
    TIME_TO_FULL: Gauge = "node_power_supply_time_to_full_seconds" ["power_supply"];
    /// Voltage in volts measured at boot.
    VOLTAGE_BOOT: Gauge = "node_power_supply_voltage_boot" ["power_supply"];
    /// Voltage in volts of the full battery, or the maximum of the supply.
    VOLTAGE_MAX: Gauge = "node_power_supply_voltage_max" ["power_supply"];
    /// Design voltage of the full battery in volts.
    VOLTAGE_MAX_DESIGN: Gauge = "node_power_supply_voltage_max_design" ["power_supply"];
    /// Voltage in volts of the empty battery, or the minimum of the supply.
    VOLTAGE_MIN: Gauge = "node_power_supply_voltage_min" ["power_supply"];
    /// Design voltage of the empty battery in volts.
    VOLTAGE_MIN_DESIGN: Gauge = "node_power_supply_voltage_min_design" ["power_supply"];
    /// Voltage in volts.
    VOLTAGE: Gauge = "node_power_supply_voltage_volt" ["power_supply"];
    /// Open circuit voltage of the battery in volts.
    VOLTAGE_OCV: Gauge = "node_power_supply_voltage_ocv" ["power_supply"];
}

/// Divisors that convert the kernel's value to the metric's unit.
const WHOLE: u32 = 1;
const TENTHS: u32 = 10;
const MILLIONTHS: u32 = 1_000_000;

/// Numeric attributes.
const NUMBERS: &[(&str, &Metric<1>, u32)] = &[
    ("authentic", &AUTHENTIC, WHOLE),
    ("calibrate", &CALIBRATE, WHOLE),
    ("capacity", &CAPACITY, WHOLE),
    ("capacity_alert_max", &CAPACITY_ALERT_MAX, WHOLE),
    ("capacity_alert_min", &CAPACITY_ALERT_MIN, WHOLE),
    ("charge_control_limit", &CHARGE_CONTROL_LIMIT, MILLIONTHS),
    (
        "charge_control_limit_max",
        &CHARGE_CONTROL_LIMIT_MAX,
        MILLIONTHS,
    ),
    ("charge_counter", &CHARGE_COUNTER, MILLIONTHS),
    ("charge_empty", &CHARGE_EMPTY, MILLIONTHS),
    ("charge_empty_design", &CHARGE_EMPTY_DESIGN, MILLIONTHS),
    ("charge_full", &CHARGE_FULL, MILLIONTHS),
    ("charge_full_design", &CHARGE_FULL_DESIGN, MILLIONTHS),
    ("charge_now", &CHARGE, MILLIONTHS),
    ("charge_term_current", &CHARGE_TERM_CURRENT, MILLIONTHS),
    (
        "constant_charge_current",
        &CONSTANT_CHARGE_CURRENT,
        MILLIONTHS,
    ),
    (
        "constant_charge_current_max",
        &CONSTANT_CHARGE_CURRENT_MAX,
        MILLIONTHS,
    ),
    (
        "constant_charge_voltage",
        &CONSTANT_CHARGE_VOLTAGE,
        MILLIONTHS,
    ),
    (
        "constant_charge_voltage_max",
        &CONSTANT_CHARGE_VOLTAGE_MAX,
        MILLIONTHS,
    ),
    ("current_boot", &CURRENT_BOOT, MILLIONTHS),
    ("current_max", &CURRENT_MAX, MILLIONTHS),
    ("current_now", &CURRENT, MILLIONTHS),
    ("cycle_count", &CYCLECOUNT, WHOLE),
    ("energy_empty", &ENERGY_EMPTY, MILLIONTHS),
    ("energy_empty_design", &ENERGY_EMPTY_DESIGN, MILLIONTHS),
    ("energy_full", &ENERGY_FULL, MILLIONTHS),
    ("energy_full_design", &ENERGY_FULL_DESIGN, MILLIONTHS),
    ("energy_now", &ENERGY, MILLIONTHS),
    ("input_current_limit", &INPUT_CURRENT_LIMIT, MILLIONTHS),
    ("online", &ONLINE, WHOLE),
    ("power_now", &POWER, MILLIONTHS),
    ("precharge_current", &PRECHARGE_CURRENT, MILLIONTHS),
    ("present", &PRESENT, WHOLE),
    ("temp", &TEMP, TENTHS),
    ("temp_alert_max", &TEMP_ALERT_MAX, TENTHS),
    ("temp_alert_min", &TEMP_ALERT_MIN, TENTHS),
    ("temp_ambient", &TEMP_AMBIENT, TENTHS),
    ("temp_ambient_max", &TEMP_AMBIENT_MAX, TENTHS),
    ("temp_ambient_min", &TEMP_AMBIENT_MIN, TENTHS),
    ("temp_max", &TEMP_MAX, TENTHS),
    ("temp_min", &TEMP_MIN, TENTHS),
    ("time_to_empty_now", &TIME_TO_EMPTY, WHOLE),
    ("time_to_full_now", &TIME_TO_FULL, WHOLE),
    ("voltage_boot", &VOLTAGE_BOOT, MILLIONTHS),
    ("voltage_max", &VOLTAGE_MAX, MILLIONTHS),
    ("voltage_max_design", &VOLTAGE_MAX_DESIGN, MILLIONTHS),
    ("voltage_min", &VOLTAGE_MIN, MILLIONTHS),
    ("voltage_min_design", &VOLTAGE_MIN_DESIGN, MILLIONTHS),
    ("voltage_now", &VOLTAGE, MILLIONTHS),
    ("voltage_ocv", &VOLTAGE_OCV, MILLIONTHS),
];

/// Text attributes, which are labels of the info metric.
const WORDS: &[&str] = &[
    "capacity_level",
    "charge_type",
    "health",
    "manufacturer",
    "model_name",
    "scope",
    "serial_number",
    "status",
    "technology",
    "type",
    "usb_type",
];

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct PowerSupplyClassFlags {
    /// Regexp of power supplies to ignore.
    #[arg(
        long = "collector.powersupply.ignored-supplies",
        value_name = "REGEX",
        default_value = "^$"
    )]
    powersupply_ignored_supplies: Pattern,
}

#[derive(Debug)]
pub(super) struct PowerSupplyClass {
    ignored: Pattern,
}

impl Collector for PowerSupplyClass {
    const NAME: &'static str = "powersupplyclass";
    const ABOUT: &'static str = "batteries and other power supplies";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = PowerSupplyClassFlags;

    fn new(flags: PowerSupplyClassFlags) -> Result<Self, String> {
        Ok(Self {
            ignored: flags.powersupply_ignored_supplies,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for supply in snapshot.sys_dir("class/power_supply")?.dirs()? {
            if !self.ignored.matches(&supply.name()) {
                add_power_supply(&mut out, &supply);
            }
        }
        Ok(out)
    }
}

fn add_power_supply(out: &mut Families, dir: &Dir) {
    // The set of attributes depends on the driver. Listing the directory avoids some forty
    // failing attempts to open a file.
    let files = dir.names();
    let Some(files) = out.ok_or_skip(files) else {
        return;
    };
    let has = |name: &str| {
        files
            .binary_search_by(|file| file.as_os_str().cmp(name.as_ref()))
            .is_ok()
    };

    let supply = dir.name();
    for (file, metric, per_unit) in NUMBERS {
        if has(file) {
            let number = dir.read_number::<i64>(file);
            if let Some(number) = out.ok_or_skip(number) {
                out.add(metric, [&supply], scaled(number, *per_unit));
            }
        }
    }

    let mut labels = Vec::with_capacity(WORDS.len());
    for name in WORDS {
        if has(name) {
            let word = dir.read_trimmed(name);
            let word = out.ok_or_skip(word).filter(|word| !word.is_empty());
            labels.extend(word.map(|word| (*name, word)));
        }
    }
    let labels: Vec<_> = labels
        .iter()
        .map(|(name, word)| (*name, word.as_str()))
        .collect();
    out.add_dynamic(&SUPPLY, [&supply], &labels, true);
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus values are 64-bit floats"
)]
fn scaled(number: i64, per_unit: u32) -> Value {
    match per_unit {
        WHOLE => Value::Signed(number),
        _ => Value::Float(number as f64 / f64::from(per_unit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_to_base_units_and_keeps_sign() {
        assert_eq!(scaled(-1_125_000, MILLIONTHS), Value::Float(-1.125));
        assert_eq!(scaled(301, TENTHS), Value::Float(30.1));
        assert_eq!(scaled(2, WHOLE), Value::Signed(2));
    }
}
