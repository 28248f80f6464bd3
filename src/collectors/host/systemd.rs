//! Systemd units and the state of the system, from systemd over D-Bus, documented in
//! `org.freedesktop.systemd1(5)`.
//!
//! The names and states of all units are returned by a single call. Further values are requested
//! as single properties, all of them at once: `GetAll` on a service makes systemd read the files
//! of its cgroup and serialize some 300 values, which took systemd 1.7 times as long as the at
//! most four single properties.

use std::collections::BTreeMap;

use clap::ArgAction;
use zbus::ObjectPath;

use crate::{
    collector::Collector,
    error::{Error, Result},
    family::{Families, Value},
    metric::Desc,
    metrics,
    pattern::Pattern,
    sources::{Daemon, DbusSession, MethodCall, Reply, Snapshot},
};

metrics! {
    /// Systemd unit state, 1 for the current state; type is the service's start type or the file
    /// system.
    UNIT_STATE: Gauge = "node_systemd_unit_state" ["name", "state", "type"];
    /// Number of units in each state, including units without other metrics.
    UNITS: Gauge = "node_systemd_units" ["state"];
    /// Whether the system is operational (see 'systemctl is-system-running').
    SYSTEM_RUNNING: Gauge = "node_systemd_system_running" [];
    /// Detected systemd version; the full version is in the label.
    VERSION: Gauge = "node_systemd_version" ["version"];
    /// Detected virtualization technology, or none.
    VIRTUALIZATION: Info = "node_systemd_virtualization_info" ["virtualization_type"];
    /// Service unit count of Restart triggers; reset by a manual restart.
    RESTARTS: Counter = "node_systemd_service_restart_total" ["name"];
    /// Start time of the unit since unix epoch in seconds; 0 if it is not active.
    START_TIME: Gauge = "node_systemd_unit_start_time_seconds" ["name"];
    /// Current number of tasks per systemd unit; missing without task accounting.
    TASKS_CURRENT: Gauge = "node_systemd_unit_tasks_current" ["name"];
    /// Maximum number of tasks per systemd unit; missing if unlimited.
    TASKS_MAX: Gauge = "node_systemd_unit_tasks_max" ["name"];
    /// Seconds since epoch of last trigger; 0 if the timer was never triggered.
    LAST_TRIGGER: Gauge = "node_systemd_timer_last_trigger_seconds" ["name"];
    /// Total number of accepted socket connections, if accepted by systemd itself.
    ACCEPTED: Counter = "node_systemd_socket_accepted_connections_total" ["name"];
    /// Current number of socket connections, if accepted by systemd itself.
    CONNECTIONS: Gauge = "node_systemd_socket_current_connections" ["name"];
    /// Total number of refused socket connections.
    REFUSED: Gauge = "node_systemd_socket_refused_connections_total" ["name"];
}

const BUS_NAME: &str = "org.freedesktop.systemd1";
const PRIVATE_SOCKET: &str = "/run/systemd/private";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// States that are always exposed, for each unit and in total. A unit can be in another state,
/// such as `reloading`.
const STATES: [&str; 5] = ["active", "activating", "deactivating", "inactive", "failed"];

/// Far more units than a healthy host has; units beyond the limit are counted only in the
/// totals.
const MAX_UNITS: usize = 10_000;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[expect(
    clippy::struct_excessive_bools,
    clippy::struct_field_names,
    reason = "each field is a flag, and clap requires unique field names across all collectors"
)]
pub(super) struct SystemdFlags {
    /// Regexp of systemd units to include. Units must both match include and not match exclude to
    /// be included.
    #[arg(
        long = "collector.systemd.unit-include",
        alias = "collector.systemd.unit-whitelist",
        value_name = "REGEX",
        default_value = ".+"
    )]
    systemd_unit_include: Pattern,
    /// Regexp of systemd units to exclude. Units must both match include and not match exclude to
    /// be included.
    #[arg(
        long = "collector.systemd.unit-exclude",
        alias = "collector.systemd.unit-blacklist",
        value_name = "REGEX",
        default_value = r".+\.(automount|device|mount|scope|slice)"
    )]
    systemd_unit_exclude: Pattern,
    /// Expose the current and the maximum number of tasks of service units.
    #[arg(long = "collector.systemd.enable-task-metrics", default_value_t = false, action = ArgAction::Set)]
    systemd_enable_task_metrics: bool,
    /// Expose the number of restarts of service units.
    #[arg(long = "collector.systemd.enable-restarts-metrics", default_value_t = false, action = ArgAction::Set)]
    systemd_enable_restarts_metrics: bool,
    /// Expose the start time of units.
    #[arg(long = "collector.systemd.enable-start-time-metrics", default_value_t = false, action = ArgAction::Set)]
    systemd_enable_start_time_metrics: bool,
    /// Establish a private, direct connection to systemd without the system bus (requires root).
    #[arg(long = "collector.systemd.private", default_value_t = false, action = ArgAction::Set, hide = true)]
    systemd_private: bool,
}

#[derive(Debug)]
pub(super) struct Systemd {
    include: Pattern,
    exclude: Pattern,
    tasks: bool,
    restarts: bool,
    start_times: bool,
    daemon: Daemon,
}

impl Collector for Systemd {
    const NAME: &'static str = "systemd";
    const ABOUT: &'static str = "systemd units and their states";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = SystemdFlags;

    fn new(flags: SystemdFlags) -> Result<Self, String> {
        Ok(Self {
            include: flags.systemd_unit_include.anchored(),
            exclude: flags.systemd_unit_exclude.anchored(),
            tasks: flags.systemd_enable_task_metrics,
            restarts: flags.systemd_enable_restarts_metrics,
            start_times: flags.systemd_enable_start_time_metrics,
            daemon: if flags.systemd_private {
                Daemon::on_socket(Self::NAME, PRIVATE_SOCKET)
            } else {
                Daemon::on_system_bus_or_socket(Self::NAME, BUS_NAME, PRIVATE_SOCKET)
            },
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        self.daemon
            .with_session(snapshot.deadline(), |bus| self.families(bus))
    }
}

/// Metrics of all units, for the fuzz target `dbus`.
#[cfg(any(test, fuzzing))]
pub(crate) fn collect_with(daemon: Daemon, deadline: std::time::Instant) -> Result<Families> {
    let pattern = |text: &str| {
        text.parse::<Pattern>()
            .map_err(|it| Error::api("fuzzing", it))
    };
    let systemd = Systemd {
        include: pattern(".+")?.anchored(),
        exclude: pattern("no unit")?.anchored(),
        tasks: true,
        restarts: true,
        start_times: true,
        daemon,
    };
    systemd
        .daemon
        .with_session(deadline, |bus| systemd.families(bus))
}

/// A unit as returned by `ListUnits`: name, description, load state, active state, sub state,
/// followed unit, object path, job ID, job type, job object path.
type ListedUnit<'a> = (
    &'a str,
    &'a str,
    &'a str,
    &'a str,
    &'a str,
    &'a str,
    ObjectPath<'a>,
    u32,
    &'a str,
    ObjectPath<'a>,
);

struct SelectedUnit<'a> {
    name: &'a str,
    object: &'a str,
    active_state: &'a str,
}

/// A property read from a single unit.
#[derive(Debug, Clone, Copy)]
enum UnitProperty {
    ServiceType,
    MountType,
    Restarts,
    StartTime,
    TasksCurrent,
    TasksMax,
    LastTrigger,
    Accepted,
    Connections,
    Refused,
}

impl UnitProperty {
    /// Returns the interface and the name of the D-Bus property.
    fn dbus_name(self) -> (&'static str, &'static str) {
        const UNIT: &str = "org.freedesktop.systemd1.Unit";
        const SERVICE: &str = "org.freedesktop.systemd1.Service";
        const MOUNT: &str = "org.freedesktop.systemd1.Mount";
        const TIMER: &str = "org.freedesktop.systemd1.Timer";
        const SOCKET: &str = "org.freedesktop.systemd1.Socket";
        match self {
            Self::ServiceType => (SERVICE, "Type"),
            Self::MountType => (MOUNT, "Type"),
            Self::Restarts => (SERVICE, "NRestarts"),
            Self::StartTime => (UNIT, "ActiveEnterTimestamp"),
            Self::TasksCurrent => (SERVICE, "TasksCurrent"),
            Self::TasksMax => (SERVICE, "TasksMax"),
            Self::LastTrigger => (TIMER, "LastTriggerUSec"),
            Self::Accepted => (SOCKET, "NAccepted"),
            Self::Connections => (SOCKET, "NConnections"),
            Self::Refused => (SOCKET, "NRefused"),
        }
    }
}

impl Systemd {
    fn families(&self, bus: &mut DbusSession<'_>) -> Result<Families> {
        let property = |name| MethodCall::property(OBJECT, MANAGER, name);
        let mut replies = bus
            .call_all([
                MethodCall::method(OBJECT, MANAGER, "ListUnits"),
                property("Version"),
                property("Virtualization"),
                property("SystemState"),
            ])?
            .into_iter();
        let mut next = || {
            let none = Err(Error::api(Self::NAME, "no response"));
            replies.next().unwrap_or(none)
        };

        let mut out = Families::default();
        let listed = next()?;
        let listed: Vec<ListedUnit<'_>> = listed.read()?;
        if let Some(version) = out.ok_or_skip(next().and_then(|it| it.text()))
            && let Some(number) = version_number(&version)
        {
            out.add(&VERSION, [&version], number);
        }
        if let Some(kind) = out.ok_or_skip(next().and_then(|it| it.text())) {
            let kind = if kind.is_empty() { "none" } else { &kind };
            out.add(&VIRTUALIZATION, [kind], true);
        }
        if let Some(state) = out.ok_or_skip(next().and_then(|it| it.text())) {
            out.add(&SYSTEM_RUNNING, [], state == "running");
        }
        add_unit_counts(&mut out, &listed);
        let units = self.select_units(&mut out, &listed);
        self.add_units(&mut out, bus, &units)?;
        Ok(out)
    }

    /// Selects the units to expose, sorted by name.
    fn select_units<'a>(
        &self,
        out: &mut Families,
        listed: &'a [ListedUnit<'_>],
    ) -> Vec<SelectedUnit<'a>> {
        let mut units: Vec<_> = listed
            .iter()
            .filter(|(name, _, load_state, ..)| {
                *load_state == "loaded" && self.include.matches(name) && !self.exclude.matches(name)
            })
            .map(
                |(name, _, _, active_state, _, _, object, ..)| SelectedUnit {
                    name,
                    object: object.as_str(),
                    active_state,
                },
            )
            .collect();
        units.sort_unstable_by_key(|unit| unit.name);
        if units.len() > MAX_UNITS {
            let many = format_args!(
                "too many units: exposing only {MAX_UNITS} of {}",
                units.len()
            );
            out.record_error(Error::api(Self::NAME, many));
            units.truncate(MAX_UNITS);
        }
        units
    }

    fn add_units(
        &self,
        out: &mut Families,
        bus: &mut DbusSession<'_>,
        units: &[SelectedUnit<'_>],
    ) -> Result<()> {
        let properties: Vec<_> = units
            .iter()
            .map(|unit| (unit, self.properties_for(unit)))
            .collect();
        let calls = properties.iter().flat_map(|(unit, properties)| {
            properties.iter().map(|property| {
                let (interface, property) = property.dbus_name();
                MethodCall::property(unit.object, interface, property)
            })
        });
        let mut replies = bus.call_all(calls)?.into_iter();
        for (unit, properties) in properties {
            let unit_replies = properties.into_iter().zip(replies.by_ref());
            self.add_unit(out, unit, unit_replies);
        }
        Ok(())
    }

    fn properties_for(&self, unit: &SelectedUnit<'_>) -> Vec<UnitProperty> {
        let mut properties = Vec::new();
        match unit.name.rsplit_once('.').map(|(_, suffix)| suffix) {
            Some("service") => {
                properties.push(UnitProperty::ServiceType);
                if self.restarts {
                    properties.push(UnitProperty::Restarts);
                }
                if self.tasks {
                    properties.extend([UnitProperty::TasksCurrent, UnitProperty::TasksMax]);
                }
            }
            Some("mount") => properties.push(UnitProperty::MountType),
            Some("timer") => properties.push(UnitProperty::LastTrigger),
            Some("socket") => {
                properties.extend([
                    UnitProperty::Accepted,
                    UnitProperty::Connections,
                    UnitProperty::Refused,
                ]);
            }
            _ => {}
        }
        if self.start_times && unit.active_state == "active" {
            properties.push(UnitProperty::StartTime);
        }
        properties
    }

    fn add_unit(
        &self,
        out: &mut Families,
        unit: &SelectedUnit<'_>,
        replies: impl Iterator<Item = (UnitProperty, Result<Reply>)>,
    ) {
        let name = [unit.name];
        let mut kind = Some(String::new());
        for (property, reply) in replies {
            if matches!(
                property,
                UnitProperty::ServiceType | UnitProperty::MountType
            ) {
                kind = out.ok_or_skip(reply.and_then(|it| it.text()));
                continue;
            }
            let Some(number) = out.ok_or_skip(reply.and_then(|it| it.number())) else {
                continue;
            };
            let time = Value::quotient(number, 1_000_000);
            match property {
                UnitProperty::ServiceType | UnitProperty::MountType => {}
                UnitProperty::Restarts => out.add(&RESTARTS, name, number),
                UnitProperty::StartTime => out.add(&START_TIME, name, time),
                // Tasks are not accounted, or there is no limit.
                UnitProperty::TasksCurrent | UnitProperty::TasksMax if number == u64::MAX => {}
                UnitProperty::TasksCurrent => out.add(&TASKS_CURRENT, name, number),
                UnitProperty::TasksMax => out.add(&TASKS_MAX, name, number),
                UnitProperty::LastTrigger => out.add(&LAST_TRIGGER, name, time),
                UnitProperty::Accepted => out.add(&ACCEPTED, name, number),
                UnitProperty::Connections => out.add(&CONNECTIONS, name, number),
                UnitProperty::Refused => out.add(&REFUSED, name, number),
            }
        }
        if self.start_times && unit.active_state != "active" {
            out.add(&START_TIME, name, 0_u64);
        }
        if let Some(kind) = kind {
            for state in STATES {
                let is_current = state == unit.active_state;
                out.add(&UNIT_STATE, [unit.name, state, &kind], is_current);
            }
        }
    }
}

fn add_unit_counts(out: &mut Families, listed: &[ListedUnit<'_>]) {
    let mut sums: BTreeMap<&str, usize> = STATES.iter().map(|state| (*state, 0)).collect();
    for (_, _, _, active_state, ..) in listed {
        *sums.entry(active_state).or_default() += 1;
    }
    for (state, sum) in sums {
        out.add(&UNITS, [state], sum);
    }
}

/// Parses the number in a version such as `252.39-1~deb12u1` or `v257-rc1`: at least three
/// digits, and the first fraction.
fn version_number(version: &str) -> Option<Value> {
    version
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .find_map(|word| {
            let mut parts = word.split('.').skip_while(|part| part.len() < 3);
            let integer = parts.next()?;
            match parts.next() {
                None | Some("") => integer.parse().ok(),
                Some(fraction) => format!("{integer}.{fraction}").parse().ok(),
            }
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zbus::{Message, Variant};

    use super::*;
    use crate::sources::fake_bus::{FakeBus, called_method};

    /// Fake systemd with some units, one of which disappears when a property is read.
    fn reply_to(call: &Message) -> Option<Message> {
        let header = call.header();
        let units = || {
            let unit = |name, load, state| {
                let object = ObjectPath::try_from(format!("{OBJECT}/unit/{}", escape(name)));
                let root = ObjectPath::from_static_str_unchecked("/");
                (
                    name,
                    "",
                    load,
                    state,
                    "",
                    "",
                    object.unwrap(),
                    0_u32,
                    "",
                    root,
                )
            };
            vec![
                unit("t.timer", "loaded", "active"),
                unit("s.socket", "loaded", "failed"),
                unit("gone.service", "loaded", "active"),
                unit("b.service", "loaded", "reloading"),
                unit("a.service", "loaded", "active"),
                unit("absent.service", "not-found", "inactive"),
                unit("x.mount", "loaded", "active"),
                unit("x.slice", "loaded", "active"),
            ]
        };
        let (path, interface, member) = called_method(call);
        let reply = Message::method_return(&header);
        if member == "ListUnits" {
            return reply.build(&units()).ok();
        }
        if path.contains("gone") {
            let name = "org.freedesktop.systemd1.NoSuchUnit";
            let error = Message::error(&header, name);
            return error.build(&"no such unit").ok();
        }
        let body = call.body();
        let (property_of, property): (&str, &str) = body.deserialize().unwrap();
        let value = match (
            interface.as_str(),
            property_of.rsplit_once('.').unwrap().1,
            property,
        ) {
            (_, "Manager", "Version") => Variant::from("252.39-1~deb12u1"),
            (_, "Manager", "Virtualization") => Variant::from(""),
            (_, "Manager", "SystemState") => Variant::from("degraded"),
            (_, "Service", "Type") => Variant::from("notify"),
            (_, "Service", "NRestarts") => Variant::from(3_u32),
            (_, "Service", "TasksCurrent") => Variant::from(u64::MAX),
            (_, "Service", "TasksMax") => Variant::from(4_u64),
            (_, "Mount", "Type") => Variant::from("ext4"),
            (_, "Unit", "ActiveEnterTimestamp") => Variant::from(1_500_000_u64),
            (_, "Timer", "LastTriggerUSec") => Variant::from(2_250_000_u64),
            (_, "Socket", "NAccepted") => Variant::from(5_u32),
            (_, "Socket", "NConnections") => Variant::from("many"),
            (_, "Socket", "NRefused") => {
                let name = "org.freedesktop.DBus.Error.UnknownProperty";
                let error = Message::error(&header, name);
                return error.build(&"unknown property").ok();
            }
            other => panic!("unexpected property {other:?}"),
        };
        reply.build(&value).ok()
    }

    /// Escapes a unit name for an object path as systemd does; only the characters used in this
    /// test.
    fn escape(name: &str) -> String {
        name.replace('.', "_2e")
    }

    fn systemd(bus: &FakeBus, all: bool) -> Systemd {
        let pattern = |text: &str| text.parse::<Pattern>().unwrap().anchored();
        Systemd {
            include: pattern(".+"),
            exclude: pattern(if all {
                r".+\.slice"
            } else {
                r"t|.+\.(mount|slice)"
            }),
            tasks: all,
            restarts: all,
            start_times: all,
            daemon: bus.daemon("systemd", BUS_NAME),
        }
    }

    fn collect(systemd: &Systemd) -> Families {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        systemd
            .daemon
            .with_session(deadline, |bus| systemd.families(bus))
            .unwrap()
    }

    #[test]
    fn tolerates_vanished_units_and_invalid_replies() {
        let bus = FakeBus::start("units", reply_to);
        let out = collect(&systemd(&bus, false));
        let states = |name: &str| {
            let lines = out.lines();
            let prefix = format!("node_systemd_unit_state{{name=\"{name}\"");
            let unit_lines = lines.iter().filter(|line| line.starts_with(&prefix));
            unit_lines.cloned().collect::<Vec<_>>()
        };
        assert_eq!(
            states("a.service"),
            [
                r#"node_systemd_unit_state{name="a.service",state="active",type="notify"} 1"#,
                r#"node_systemd_unit_state{name="a.service",state="activating",type="notify"} 0"#,
                r#"node_systemd_unit_state{name="a.service",state="deactivating",type="notify"} 0"#,
                r#"node_systemd_unit_state{name="a.service",state="inactive",type="notify"} 0"#,
                r#"node_systemd_unit_state{name="a.service",state="failed",type="notify"} 0"#,
            ]
        );
        assert!(states("b.service").iter().all(|line| line.ends_with('0')));
        assert_eq!(
            states("t.timer").len(),
            5,
            "the pattern must match the full name"
        );
        for left_out in ["gone.service", "absent.service", "x.mount", "x.slice"] {
            assert!(states(left_out).is_empty(), "{left_out}");
        }
        let mut others = out.lines();
        others.retain(|line| !line.starts_with("node_systemd_unit_state"));
        assert_eq!(
            others,
            [
                r#"node_systemd_version{version="252.39-1~deb12u1"} 252.39"#,
                r#"node_systemd_virtualization_info{virtualization_type="none"} 1"#,
                "node_systemd_system_running 0",
                r#"node_systemd_units{state="activating"} 0"#,
                r#"node_systemd_units{state="active"} 5"#,
                r#"node_systemd_units{state="deactivating"} 0"#,
                r#"node_systemd_units{state="failed"} 1"#,
                r#"node_systemd_units{state="inactive"} 1"#,
                r#"node_systemd_units{state="reloading"} 1"#,
                r#"node_systemd_socket_accepted_connections_total{name="s.socket"} 5"#,
                r#"node_systemd_timer_last_trigger_seconds{name="t.timer"} 2.25"#,
            ]
        );
        let (skipped, reason) = out.errors();
        assert_eq!(skipped, 1);
        let reason = reason.unwrap().to_string();
        assert!(reason.starts_with("systemd: expected a number"), "{reason}");
    }

    #[test]
    fn uncounted_tasks_are_absent_and_start_time_is_zero_if_down() {
        let bus = FakeBus::start("details", reply_to);
        let mut lines = collect(&systemd(&bus, true)).lines();
        lines.retain(|line| {
            ["restart", "tasks", "start_time", "mount"]
                .iter()
                .any(|part| line.contains(part))
        });
        lines.retain(|line| !line.contains("unit_state") || line.ends_with(" 1"));
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                r#"node_systemd_service_restart_total{name="a.service"} 3"#,
                r#"node_systemd_service_restart_total{name="b.service"} 3"#,
                r#"node_systemd_unit_start_time_seconds{name="a.service"} 1.5"#,
                r#"node_systemd_unit_start_time_seconds{name="b.service"} 0"#,
                r#"node_systemd_unit_start_time_seconds{name="s.socket"} 0"#,
                r#"node_systemd_unit_start_time_seconds{name="t.timer"} 1.5"#,
                r#"node_systemd_unit_start_time_seconds{name="x.mount"} 1.5"#,
                r#"node_systemd_unit_state{name="x.mount",state="active",type="ext4"} 1"#,
                r#"node_systemd_unit_tasks_max{name="a.service"} 4"#,
                r#"node_systemd_unit_tasks_max{name="b.service"} 4"#,
            ]
        );
    }

    #[test]
    fn version_is_first_number_with_three_digits() {
        for (version, number) in [
            ("252.39-1~deb12u1", Some(252.39)),
            ("v257-rc1", Some(257.0)),
            ("99.245.3", Some(245.3)),
            ("239 (239-82.el8)", Some(239.0)),
            ("249.", Some(249.0)),
            ("main", None),
        ] {
            let mut text = String::new();
            if let Some(value) = version_number(version) {
                value.write_to(&mut text);
            }
            assert_eq!(text.parse::<f64>().ok(), number, "{version}");
        }
    }
}
