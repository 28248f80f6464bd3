//! Hardware monitoring chips: temperatures, fans, voltages and other sensors, from `class/hwmon`
//! in sysfs, documented in the kernel's `hwmon/sysfs-interface.rst`.
//!
//! The name of an attribute consists of the kind of sensor, its number and a property:
//! `temp1_crit_alarm`. Metric names and units are derived from these as in `node_exporter`,
//! including its quirk that only a plain `alarm` is recognized as an alarm: the alarm of a limit
//! is scaled like the limit. Old drivers have their attributes in the directory of the device
//! instead of the chip's.

use std::{collections::HashSet, ffi::OsString};

use crate::{
    collector::Collector,
    error::{Error, Result},
    family::Families,
    metric::{Desc, Metric},
    metrics,
    pattern::{Filter, Pattern},
    sources::{Dir, Snapshot},
};

metrics! {
    /// Annotation metric for human-readable chip names; always 1.
    CHIP_NAMES: Gauge = "node_hwmon_chip_names" ["chip", "chip_name"];
    /// Label for given chip and sensor; always 1.
    SENSOR_LABEL: Gauge = "node_hwmon_sensor_label" ["chip", "sensor", "label"];
    /// Whether the chip may beep (1) or not (0).
    BEEP: Gauge = "node_hwmon_beep_enabled" ["chip", "sensor"];
    /// Seconds between two measurements of the chip.
    UPDATE_INTERVAL: Gauge = "node_hwmon_update_interval_seconds" ["chip", "sensor"];
    /// Voltage regulator module (VRM) version assumed by the chip, multiplied by 10.
    REGULATOR_VERSION: Gauge = "node_hwmon_voltage_regulator_version" ["chip", "sensor"];
    /// Whether the * sensor is in alarm (1) or not (0).
    ALARM: Gauge = "node_hwmon_*_alarm" ["chip", "sensor"];
    /// Whether the * sensor is faulty (1) or not (0); its other values are invalid if it is.
    FAULT: Gauge = "node_hwmon_*_fault" ["chip", "sensor"];
    /// Whether the chip may beep for an alarm of the * sensor (1) or not (0).
    SENSOR_BEEP: Gauge = "node_hwmon_*_beep_enabled" ["chip", "sensor"];
    /// Voltage in volts at the chip's pin; the board may divide it.
    VOLTS: Gauge = "node_hwmon_in_volts" ["chip", "sensor"];
    /// Voltage in volts: *. An active alarm is 0.001.
    VOLTS_OTHER: Gauge = "node_hwmon_in_*_volts" ["chip", "sensor"];
    /// Core voltage of the CPU in volts: *.
    CPU_VOLTS: Gauge = "node_hwmon_cpu_*_volts" ["chip", "sensor"];
    /// Temperature in degrees Celsius.
    CELSIUS: Gauge = "node_hwmon_temp_celsius" ["chip", "sensor"];
    /// Temperature in degrees Celsius: *. An active alarm is 0.001.
    CELSIUS_OTHER: Gauge = "node_hwmon_temp_*_celsius" ["chip", "sensor"];
    /// Temperature sensor type: 1 CPU embedded diode, 3 thermal diode, 4 thermistor, 5 AMDSI, 6
    /// PECI.
    TEMP_TYPE: Gauge = "node_hwmon_temp_type" ["chip", "sensor"];
    /// Current in amperes.
    AMPS: Gauge = "node_hwmon_curr_amps" ["chip", "sensor"];
    /// Current in amperes: *. An active alarm is 0.001.
    AMPS_OTHER: Gauge = "node_hwmon_curr_*_amps" ["chip", "sensor"];
    /// Cumulative energy used in joules.
    JOULES: Counter = "node_hwmon_energy_joule_total" ["chip", "sensor"];
    /// Cumulative energy used in joules: *.
    JOULES_OTHER: Counter = "node_hwmon_energy_*_joule_total" ["chip", "sensor"];
    /// Power in watts.
    WATTS: Gauge = "node_hwmon_power_watt" ["chip", "sensor"];
    /// Power in watts: *. An active alarm is 0.000001.
    WATTS_OTHER: Gauge = "node_hwmon_power_*_watt" ["chip", "sensor"];
    /// Accuracy of the power meter as a ratio.
    POWER_ACCURACY: Gauge = "node_hwmon_power_accuracy" ["chip", "sensor"];
    /// Averaging interval of the power meter in seconds: *.
    POWER_INTERVAL: Gauge = "node_hwmon_power_*_seconds" ["chip", "sensor"];
    /// Relative humidity as a ratio.
    HUMIDITY: Gauge = "node_hwmon_humidity" ["chip", "sensor"];
    /// Relative humidity as a ratio: *.
    HUMIDITY_OTHER: Gauge = "node_hwmon_humidity_*" ["chip", "sensor"];
    /// Fan speed in revolutions per minute.
    RPM: Gauge = "node_hwmon_fan_rpm" ["chip", "sensor"];
    /// Fan speed in revolutions per minute: *.
    RPM_OTHER: Gauge = "node_hwmon_fan_*_rpm" ["chip", "sensor"];
    /// Fan attribute * in the driver's unit.
    FAN: Gauge = "node_hwmon_fan_*" ["chip", "sensor"];
    /// Frequency in megahertz, such as the clocks of a GPU; sensor is the driver's label.
    MEGAHERTZ: Gauge = "node_hwmon_freq_freq_mhz" ["chip", "sensor"];
    /// Frequency sensor attribute * in the driver's unit.
    FREQ: Gauge = "node_hwmon_freq_*" ["chip", "sensor"];
    /// PWM duty cycle of the fan, from 0 to 255.
    PWM: Gauge = "node_hwmon_pwm" ["chip", "sensor"];
    /// PWM attribute * in the driver's unit; temperatures are in millidegrees Celsius.
    PWM_OTHER: Gauge = "node_hwmon_pwm_*" ["chip", "sensor"];
}

/// Sensor kinds with numbered attributes.
const KINDS: &[&str] = &[
    "in",
    "cpu",
    "fan",
    "pwm",
    "temp",
    "curr",
    "power",
    "energy",
    "humidity",
    "intrusion",
    "freq",
];

/// Attributes of the whole chip, exposed as sensors of their own.
const CHIP_ATTRIBUTES: &[&str] = &["beep_enable", "update_interval", "vrm"];

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct HwmonFlags {
    /// Regexp of chips to include (mutually exclusive with chip-exclude).
    #[arg(long = "collector.hwmon.chip-include", value_name = "REGEX")]
    hwmon_chip_include: Option<Pattern>,
    /// Regexp of chips to exclude (mutually exclusive with chip-include).
    #[arg(long = "collector.hwmon.chip-exclude", value_name = "REGEX")]
    hwmon_chip_exclude: Option<Pattern>,
    /// Regexp of sensors to include, matched against "chip;sensor" (mutually exclusive with
    /// sensor-exclude).
    #[arg(long = "collector.hwmon.sensor-include", value_name = "REGEX")]
    hwmon_sensor_include: Option<Pattern>,
    /// Regexp of sensors to exclude, matched against "chip;sensor" (mutually exclusive with
    /// sensor-include).
    #[arg(long = "collector.hwmon.sensor-exclude", value_name = "REGEX")]
    hwmon_sensor_exclude: Option<Pattern>,
}

#[derive(Debug)]
pub(super) struct Hwmon {
    chips: Filter,
    sensors: Filter,
}

impl Collector for Hwmon {
    const NAME: &'static str = "hwmon";
    const ABOUT: &'static str = "temperatures, fans, voltages and other hardware sensors";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = HwmonFlags;

    fn new(flags: HwmonFlags) -> Result<Self, String> {
        Ok(Self {
            chips: Filter::new(
                ("collector.hwmon.chip-include", flags.hwmon_chip_include),
                ("collector.hwmon.chip-exclude", flags.hwmon_chip_exclude),
                "",
            )?,
            sensors: Filter::new(
                ("collector.hwmon.sensor-include", flags.hwmon_sensor_include),
                ("collector.hwmon.sensor-exclude", flags.hwmon_sensor_exclude),
                "",
            )?,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let mut seen = HashSet::new();
        for dir in snapshot.sys_dir("class/hwmon")?.dirs()? {
            let driver = dir.read_trimmed("name").map(|name| sanitize(&name));
            let driver = out.ok_or_skip(driver).filter(|name| !name.is_empty());
            let chip = chip_name(&dir, driver.as_deref());
            if self.chips.matches(&chip) {
                // Two chips of one device have the same name. Of duplicate sensors only those of
                // the first chip are exposed.
                let driver = driver.filter(|driver| seen.insert(format!("{chip} {driver}")));
                if let Some(driver) = driver {
                    out.add(&CHIP_NAMES, [&chip, &driver], 1_u64);
                }
                self.add_sensors(&mut out, &mut seen, &dir, &chip);
            }
        }
        Ok(out)
    }
}

impl Hwmon {
    fn add_sensors(&self, out: &mut Families, seen: &mut HashSet<String>, dir: &Dir, chip: &str) {
        let device = dir.dir("device").ok();
        let dirs = [device.as_ref(), Some(dir)];
        let mut attributes = Vec::new();
        for dir in dirs.into_iter().flatten() {
            let names = dir.names();
            let names = out.ok_or_skip(names).unwrap_or_default();
            attributes.extend(
                names
                    .into_iter()
                    .filter_map(|name| Attribute::parse(dir, name)),
            );
        }
        // The device's attributes come first, so these are the ones that survive deduplication.
        attributes.sort_by(|a, b| a.key().cmp(&b.key()));
        attributes.dedup_by(|a, b| a.key() == b.key());

        for sensor in attributes.chunk_by(|a, b| a.sensor() == b.sensor()) {
            let name = sensor.first().map(Attribute::name).unwrap_or_default();
            let name_in_flags = format!("{chip};{name}");
            if !self.sensors.matches(&name_in_flags) {
                continue;
            }
            if seen.insert(name_in_flags) {
                add_sensor(out, seen, sensor, [chip, &name]);
            } else {
                out.record_error(duplicate_error(dir, chip, &name));
            }
        }
    }
}

/// An attribute file of a sensor.
#[derive(Debug)]
struct Attribute<'a> {
    dir: &'a Dir,
    file: OsString,
    kind: &'static str,
    number: u32,
    /// The part after the number; empty if there is none, as in `pwm1`.
    property: String,
}

impl<'a> Attribute<'a> {
    fn parse(dir: &'a Dir, file: OsString) -> Option<Self> {
        let (kind, number, property) = split_attribute(file.to_str()?)?;
        let property = property.to_owned();
        Some(Self {
            dir,
            file,
            kind,
            number,
            property,
        })
    }

    /// Kind and number of the sensor that the attribute belongs to.
    fn sensor(&self) -> (&'static str, u32) {
        (self.kind, self.number)
    }

    fn key(&self) -> (&'static str, u32, &str) {
        (self.kind, self.number, &self.property)
    }

    /// The sensor's name, such as `temp1`.
    fn name(&self) -> String {
        format!("{}{}", self.kind, self.number)
    }
}

/// Splits a file name into kind, number and property; `None` if it is not a sensor attribute.
fn split_attribute(file: &str) -> Option<(&'static str, u32, &str)> {
    if let Some(kind) = CHIP_ATTRIBUTES.iter().find(|name| **name == file) {
        return Some((kind, 0, ""));
    }
    let is_digit = |c: char| c.is_ascii_digit();
    let (kind, rest) = file.split_at(file.find(is_digit)?);
    let kind = KINDS.iter().find(|prefix| **prefix == kind)?;
    let end = rest.find(|c| !is_digit(c)).unwrap_or(rest.len());
    let (number, rest) = rest.split_at(end);
    let property = match rest.strip_prefix('_') {
        None if rest.is_empty() && *kind == "pwm" => "",
        // `reset_history` attributes are write-only.
        Some(property) if !property.is_empty() && !property.ends_with("reset_history") => property,
        _ => return None,
    };
    Some((kind, number.parse().ok()?, property))
}

fn add_sensor(
    out: &mut Families,
    seen: &mut HashSet<String>,
    sensor: &[Attribute<'_>],
    [chip, name]: [&str; 2],
) {
    let mut label = None;
    if let Some(attribute) = sensor
        .iter()
        .find(|attribute| attribute.property == "label")
    {
        let read = attribute.dir.read(&attribute.file);
        if let Some(text) = out.ok_or_skip(read) {
            // Spaces belong to the label, as the firmware reports it.
            let text = text.body().trim_matches('\n');
            out.add(&SENSOR_LABEL, [chip, name, text], 1_u64);
            label = Some(sanitize(text)).filter(|label| !label.is_empty());
        }
    }
    for attribute in sensor {
        let Some(mapping) = map_attribute(attribute.kind, &attribute.property) else {
            continue;
        };
        let read = attribute.dir.read(&attribute.file);
        // Attributes that are text, such as a model name, are ignored.
        let number = out
            .ok_or_skip(read)
            .and_then(|text| text.trimmed().parse().ok());
        let Some(number) = number.filter(|number: &f64| number.is_finite()) else {
            continue;
        };
        // Dividing gives the correctly rounded result; multiplying by 0.001 does not.
        let value = number / mapping.per_unit;
        let mut sensor = name;
        if (attribute.kind, attribute.property.as_str()) == ("freq", "input") {
            // As in node_exporter, the driver's label replaces the sensor name.
            sensor = label.as_deref().unwrap_or(name);
            if !seen.insert(format!("{chip};{sensor} frequency")) {
                out.record_error(duplicate_error(attribute.dir, chip, sensor));
                continue;
            }
        }
        if mapping.name_part.is_empty() {
            out.add(mapping.metric, [chip, sensor], value);
        } else {
            out.add_named(mapping.metric, mapping.name_part, [chip, sensor], value);
        }
    }
}

/// Metric of an attribute, the variable part of the metric name, and the divisor that converts
/// the kernel's value to the metric's unit.
#[derive(Debug)]
struct AttributeMapping<'a> {
    metric: &'static Metric<2>,
    name_part: &'a str,
    per_unit: f64,
}

fn map_attribute<'a>(kind: &'a str, property: &'a str) -> Option<AttributeMapping<'a>> {
    let (metric, word, per_unit) = match (kind, property) {
        (_, "label") => return None,
        ("beep_enable", _) => (&BEEP, "", 1.0),
        ("update_interval", _) => (&UPDATE_INTERVAL, "", 1e3),
        ("vrm", _) => (&REGULATOR_VERSION, "", 1.0),
        (_, "alarm") => (&ALARM, kind, 1.0),
        (_, "fault") => (&FAULT, kind, 1.0),
        (_, "beep") => (&SENSOR_BEEP, kind, 1.0),
        ("in", "input") => (&VOLTS, "", 1e3),
        ("in", _) => (&VOLTS_OTHER, property, 1e3),
        ("cpu", _) => (&CPU_VOLTS, property, 1e3),
        ("temp", "input") => (&CELSIUS, "", 1e3),
        ("temp", "type") => (&TEMP_TYPE, "", 1.0),
        ("temp", _) => (&CELSIUS_OTHER, property, 1e3),
        ("curr", "input") => (&AMPS, "", 1e3),
        ("curr", _) => (&AMPS_OTHER, property, 1e3),
        ("energy", "input") => (&JOULES, "", 1e6),
        ("energy", _) => (&JOULES_OTHER, property, 1e6),
        ("power", "input") => (&WATTS, "", 1e6),
        ("power", "accuracy") => (&POWER_ACCURACY, "", 1e6),
        ("power", "average_interval" | "average_interval_min" | "average_interval_max") => {
            (&POWER_INTERVAL, property, 1e3)
        }
        ("power", _) => (&WATTS_OTHER, property, 1e6),
        ("humidity", "input") => (&HUMIDITY, "", 1e6),
        ("humidity", _) => (&HUMIDITY_OTHER, property, 1e6),
        ("fan", "input") => (&RPM, "", 1.0),
        ("fan", "min" | "max" | "target") => (&RPM_OTHER, property, 1.0),
        ("fan", _) => (&FAN, property, 1.0),
        ("freq", "input") => (&MEGAHERTZ, "", 1e6),
        ("freq", _) => (&FREQ, property, 1.0),
        ("pwm", "") => (&PWM, "", 1.0),
        ("pwm", _) => (&PWM_OTHER, property, 1.0),
        _ => return None,
    };
    Some(AttributeMapping {
        metric,
        name_part: word,
        per_unit,
    })
}

/// Names a chip after its device and bus, which does not depend on the order in which drivers
/// are loaded; without a device, after its driver.
fn chip_name(dir: &Dir, driver: Option<&str>) -> String {
    let device = dir.real_path("device").unwrap_or_default();
    let mut parts = device
        .iter()
        .rev()
        .map(|part| sanitize(&part.to_string_lossy()));
    let name = parts.next().filter(|name| !name.is_empty());
    let bus = parts.next().filter(|bus| !bus.is_empty());
    match (bus, name, driver) {
        (Some(bus), Some(name), _) => format!("{bus}_{name}"),
        (None, Some(name), _) => name,
        (_, None, Some(driver)) => driver.to_owned(),
        (_, None, None) => sanitize(&dir.name()),
    }
}

/// Replaces characters that are not allowed in a chip name.
fn sanitize(word: &str) -> String {
    let sanitize_char = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | ':' | '_') => c,
        _ => '_',
    };
    let word: String = word.chars().map(sanitize_char).collect();
    word.trim_matches('_').to_owned()
}

/// Error for a value that is dropped because another one has the same name.
fn duplicate_error(dir: &Dir, chip: &str, sensor: &str) -> Error {
    Error::Parse {
        path: dir.path().to_owned(),
        line: 1,
        reason: format!("duplicate chip {chip}: {sensor} was read from another device"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sources::Roots;

    /// Metrics of the fixture `hardware` with these patterns excluded.
    fn collect(chips: &str, sensors: &str) -> Families {
        let hardware = crate::fixtures::fixture("hardware");
        let roots = Roots {
            procfs: hardware.join("proc"),
            sysfs: hardware.join("sys"),
            rootfs: hardware.join("root"),
            udev_data: hardware.join("udev"),
        };
        let exclude = |pattern: &str| {
            let pattern = pattern.parse().ok();
            Filter::new(("include", None), ("exclude", pattern), "").unwrap()
        };
        let hwmon = Hwmon {
            chips: exclude(chips),
            sensors: exclude(sensors),
        };
        let machine = Snapshot::new(roots.into(), Instant::now());
        hwmon.collect(&machine).unwrap()
    }

    #[test]
    fn chips_and_their_sensors_can_be_left_out() {
        let lines = collect(
            "nct6775|acpi|pci|03_1|odd",
            "^platform_coretemp_0;temp[13]$",
        )
        .lines();
        assert_eq!(
            lines,
            [
                r#"node_hwmon_chip_names{chip="platform_coretemp_0",chip_name="coretemp"} 1"#,
                r#"node_hwmon_sensor_label{chip="platform_coretemp_0",sensor="temp2",label="Core 0"} 1"#,
                r#"node_hwmon_temp_crit_celsius{chip="platform_coretemp_0",sensor="temp2"} 99"#,
                r#"node_hwmon_temp_crit_alarm_celsius{chip="platform_coretemp_0",sensor="temp2"} 0.001"#,
                r#"node_hwmon_temp_celsius{chip="platform_coretemp_0",sensor="temp2"} 54.35"#,
                r#"node_hwmon_temp_celsius{chip="hwmon5",sensor="temp1"} 28.9"#,
                r#"node_hwmon_temp_max_celsius{chip="platform_coretemp_0",sensor="temp2"} 83"#,
                r#"node_hwmon_freq_freq_mhz{chip="hwmon5",sensor="freq1"} 48"#,
            ]
        );
    }

    #[test]
    fn chips_of_one_device_yield_no_duplicate_sensors() {
        let out = collect("platform", "");
        let lines = out.lines();
        let device_lines: Vec<_> = lines
            .iter()
            .filter_map(|line| line.strip_prefix("node_hwmon_temp_celsius{chip=\"0000:00:03_1"))
            .collect();
        assert_eq!(
            device_lines,
            [
                r#"_0000:09:00_0",sensor="temp1"} 61.5"#,
                r#"_0000:09:00_0",sensor="temp2"} 63.75"#,
            ]
        );
        assert_eq!(out.errors().0, 1);
    }

    fn named(kind: &str, property: &str) -> String {
        let meaning = map_attribute(kind, property).unwrap();
        let name = meaning.metric.desc().name.replace('*', meaning.name_part);
        format!("{name} / {}", meaning.per_unit)
    }

    #[test]
    fn splits_attribute_into_kind_number_property() {
        for (file, is) in [
            ("temp12_crit_alarm", Some(("temp", 12, "crit_alarm"))),
            ("pwm01", Some(("pwm", 1, ""))),
            ("pwm1_auto_point1_pwm", Some(("pwm", 1, "auto_point1_pwm"))),
            ("beep_enable", Some(("beep_enable", 0, ""))),
            ("name", None),
            ("power", None),
            ("fan1", None),
            ("fan1_", None),
            ("fan1x", None),
            ("fan99999999999_input", None),
            ("eth0_input", None),
            ("temp1_reset_history", None),
        ] {
            assert_eq!(split_attribute(file), is, "{file}");
        }
    }

    #[test]
    fn metric_name_has_the_unit_of_its_kind() {
        for (kind, property, name) in [
            ("temp", "input", "node_hwmon_temp_celsius / 1000"),
            (
                "temp",
                "crit_alarm",
                "node_hwmon_temp_crit_alarm_celsius / 1000",
            ),
            ("temp", "alarm", "node_hwmon_temp_alarm / 1"),
            (
                "power",
                "average",
                "node_hwmon_power_average_watt / 1000000",
            ),
            ("fan", "target", "node_hwmon_fan_target_rpm / 1"),
            ("fan", "min_alarm", "node_hwmon_fan_min_alarm / 1"),
            ("pwm", "", "node_hwmon_pwm / 1"),
        ] {
            assert_eq!(named(kind, property), name);
        }
        assert!(map_attribute("temp", "label").is_none());
    }

    #[test]
    fn chip_names_are_sanitized() {
        assert_eq!(sanitize("Odd Chip (1)\n"), "odd_chip__1");
        assert_eq!(sanitize("0000:00:03.1"), "0000:00:03_1");
        assert_eq!(sanitize("Ü"), "");
    }
}
