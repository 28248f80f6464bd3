//! Login sessions, from systemd-logind over D-Bus, documented in `org.freedesktop.login1(5)`.
//!
//! Every combination of label values is exposed, so that a sum over one label always has a
//! result; that is 70 series per seat.

use std::collections::BTreeMap;

use zbus::ObjectPath;

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Daemon, DbusSession, MethodCall, Reply, Snapshot},
};

metrics! {
    /// Number of sessions registered in logind; the seat is empty for sessions without one, such as
    /// SSH.
    SESSIONS: Gauge = "node_logind_sessions" ["class", "remote", "seat", "type"];
}

const OBJECT: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SESSION: &str = "org.freedesktop.login1.Session";

/// Session types; types of newer versions are counted as `other`.
const TYPES: [&str; 7] = [
    "other",
    "unspecified",
    "tty",
    "x11",
    "wayland",
    "mir",
    "web",
];
const CLASSES: [&str; 5] = ["other", "user", "greeter", "lock-screen", "background"];

/// Properties read for each session.
const PROPERTIES: [&str; 3] = ["Class", "Remote", "Type"];

#[derive(Debug)]
pub(super) struct Logind {
    logind: Daemon,
}

impl Collector for Logind {
    const NAME: &'static str = "logind";
    const ABOUT: &'static str = "login sessions";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self {
            logind: Daemon::on_system_bus(Self::NAME, "org.freedesktop.login1"),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        self.logind.with_session(snapshot.deadline(), families)
    }
}

/// A session as returned by `ListSessions`: ID, user ID, user name, seat, object path.
type ListedSession<'a> = (&'a str, u32, &'a str, &'a str, ObjectPath<'a>);

/// Label values of a session: class, remote, seat, type.
type SessionLabels<'a> = (&'static str, bool, &'a str, &'static str);

/// Metrics of all sessions, for the fuzz target `dbus`.
#[cfg(any(test, fuzzing))]
pub(crate) fn collect_with(daemon: &Daemon, deadline: std::time::Instant) -> Result<Families> {
    daemon.with_session(deadline, families)
}

fn families(bus: &mut DbusSession<'_>) -> Result<Families> {
    let seats = bus.call(MethodCall::method(OBJECT, MANAGER, "ListSeats"))?;
    let seats: Vec<(&str, ObjectPath<'_>)> = seats.read()?;
    let sessions = bus.call(MethodCall::method(OBJECT, MANAGER, "ListSessions"))?;
    let sessions: Vec<ListedSession<'_>> = sessions.read()?;
    let mut replies = bus
        .call_all(sessions.iter().flat_map(|(.., object)| {
            PROPERTIES.map(|property| MethodCall::property(object.as_str(), SESSION, property))
        }))?
        .into_iter();

    let mut out = Families::default();
    let mut counts = BTreeMap::new();
    for (_, _, _, seat, _) in &sessions {
        let [class, remote, kind] = std::array::from_fn(|_| replies.next());
        let (Some(class), Some(remote), Some(kind)) = (class, remote, kind) else {
            break;
        };
        if let Some(labels) = out.ok_or_skip(labels(seat, class, remote, kind)) {
            *counts.entry(labels).or_default() += 1;
        }
    }
    // Remote sessions have no seat.
    let seats = seats.iter().map(|(seat, _)| *seat).chain([""]);
    add_all_combinations(&mut out, seats, &counts);
    Ok(out)
}

fn labels(
    seat: &str,
    class: Result<Reply>,
    remote: Result<Reply>,
    kind: Result<Reply>,
) -> Result<SessionLabels<'_>> {
    Ok((
        known_or_other(&class?.text()?, &CLASSES),
        remote?.boolean()?,
        seat,
        known_or_other(&kind?.text()?, &TYPES),
    ))
}

fn known_or_other<const N: usize>(
    word: &str,
    known_words: &'static [&'static str; N],
) -> &'static str {
    let found = known_words.iter().find(|known| **known == word);
    found.copied().unwrap_or("other")
}

fn add_all_combinations<'a>(
    out: &mut Families,
    seats: impl Iterator<Item = &'a str>,
    counts: &BTreeMap<SessionLabels<'_>, u64>,
) {
    for seat in seats {
        for class in CLASSES {
            for remote in [false, true] {
                for kind in TYPES {
                    let count = counts.get(&(class, remote, seat, kind));
                    let labels = [class, if remote { "true" } else { "false" }, seat, kind];
                    out.add(&SESSIONS, labels, count.copied().unwrap_or(0));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zbus::{Message, Variant};

    use super::*;
    use crate::sources::fake_bus::{FakeBus, called_method};

    fn reply_to(call: &Message) -> Option<Message> {
        let header = call.header();
        let reply = Message::method_return(&header);
        let object = |name: &str| ObjectPath::try_from(format!("{OBJECT}/{name}")).unwrap();
        let (path, _, member) = called_method(call);
        match member.as_str() {
            "ListSeats" => reply.build(&vec![("seat0", object("seat/seat0"))]),
            "ListSessions" => reply.build(&vec![
                ("1", 0_u32, "root", "seat0", object("session/_31")),
                ("2", 7_u32, "user", "", object("session/_32")),
                ("3", 7_u32, "user", "", object("session/_33")),
                ("4", 7_u32, "user", "", object("session/gone")),
            ]),
            _ if path.ends_with("gone") => {
                let error = Message::error(&header, "org.freedesktop.login1.NoSuchSession");
                error.build(&"no such session")
            }
            _ => {
                let body = call.body();
                let (_, property): (&str, &str) = body.deserialize().unwrap();
                let local = path.ends_with("_31");
                reply.build(&match property {
                    "Class" if local => Variant::from("manager-early"),
                    "Class" => Variant::from("user"),
                    "Remote" => Variant::from(!local),
                    _ => Variant::from("tty"),
                })
            }
        }
        .ok()
    }

    #[test]
    fn all_combinations_exist_and_ended_sessions_are_skipped() {
        let bus = FakeBus::start("sessions", reply_to);
        let logind = bus.daemon("logind", "org.freedesktop.login1");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let out = logind.with_session(deadline, families).unwrap();
        let mut lines = out.lines();
        assert_eq!(lines.len(), CLASSES.len() * 2 * 2 * TYPES.len());
        lines.retain(|line| !line.ends_with(" 0"));
        assert_eq!(
            lines,
            [
                r#"node_logind_sessions{class="other",remote="false",seat="seat0",type="tty"} 1"#,
                r#"node_logind_sessions{class="user",remote="true",seat="",type="tty"} 2"#,
            ]
        );
        assert_eq!(out.errors().0, 0);
    }
}
