//! Whether libvirt can be asked about virtual machines, and how to fix it if not.

use std::path::PathBuf;

use super::diagnosis::{Finding, few};
use crate::{
    error::{Error, Result},
    sources::{
        Snapshot, SocketAccess,
        libvirt::{Connection, Fetched, State},
    },
};

/// What was found of the one that the flags name, or of those that are looked for.
pub(super) fn findings(machine: &Snapshot, user: &str) -> Vec<Finding> {
    let (sockets, is_named) = machine.libvirt_sockets();
    let sockets = sockets.into_iter().map(|socket| {
        let access = machine.socket_access(&socket);
        (socket, access)
    });
    let sockets: Vec<_> = sockets.collect();
    of_libvirt(&sockets, is_named, machine.domains(), user)
}

fn of_libvirt(
    sockets: &[(PathBuf, SocketAccess)],
    is_named: bool,
    fetched: Result<&Fetched>,
    user: &str,
) -> Vec<Finding> {
    let connection = match fetched {
        Ok(fetched) if fetched.connection.is_up => return answering(fetched),
        Ok(fetched) => Some(&fetched.connection),
        Err(Error::Absent(_)) => None,
        Err(why) => return vec![unanswering(why.to_string(), None)],
    };
    let looked = sockets.iter();
    let mut found: Vec<_> = looked
        .filter_map(|(socket, access)| {
            let path = socket.display();
            Some(match access {
                SocketAccess::Missing if is_named => {
                    Finding::wrong(format!("{path} does not exist")).fix(
                        "start the daemon (systemctl start libvirtd-ro.socket, or \
                     virtqemud-ro.socket), or name its socket with --libvirt.uri",
                    )
                }
                SocketAccess::Missing => return None,
                SocketAccess::NoSocket => Finding::wrong(format!("{path} is not a socket"))
                    .fix("name libvirt's socket with --libvirt.uri"),
                SocketAccess::Refused { group } => {
                    let text = format!("{path}: {user} may not connect");
                    Finding::wrong(text).fix(match group {
                        Some(group) => format!(
                            "let the user join the group {group} (usermod -aG {group} USER, or \
                             SupplementaryGroups={group} in the unit) and restart the exporter, or run as \
                             root"
                        ),
                        None => "run as root, or let all users connect to the read-only socket, \
                                 as they may by default: SocketMode=0666 in libvirtd-ro.socket"
                            .to_owned(),
                    })
                }
                SocketAccess::Open => {
                    let why = connection.and_then(|it| it.error.as_deref());
                    let why = why.unwrap_or("did not answer in time");
                    let own = format!("{path}: ");
                    let is_of = |(other, _): &(PathBuf, _)| {
                        why.starts_with(&format!("{}: ", other.display()))
                    };
                    if !why.starts_with(&own) && sockets.iter().any(is_of) {
                        // Of another that was tried.
                        return None;
                    }
                    let why = why.strip_prefix(&own).unwrap_or(why);
                    unanswering(format!("{own}{why}"), connection)
                }
            })
        })
        .collect();
    if found.is_empty() {
        found.push(match connection {
            // It takes no socket here.
            Some(connection) => {
                let why = connection.error.as_deref().unwrap_or("no answer");
                let text = format!("{}: {why}", connection.uri);
                Finding::wrong(text).fix(format!(
                    "see whether this user can reach it: virsh -r -c '{}' list",
                    connection.uri
                ))
            }
            None => none(sockets),
        });
    }
    found
}

/// That there is none, as on most machines.
fn none(sockets: &[(PathBuf, SocketAccess)]) -> Finding {
    let looked = sockets.iter().map(|(it, _)| it.display().to_string());
    let looked: Vec<_> = looked.collect();
    let looked = looked.join(", ");
    Finding::nothing(format!(
        "none found at {looked}: virtual machines, if any, are not shown"
    ))
    .fix("if there is a libvirt, name its socket: --libvirt.uri=unix:///PATH")
}

fn unanswering(why: String, connection: Option<&Connection>) -> Finding {
    let is_locked_out = connection.is_some_and(|it| it.is_locked_out);
    Finding::wrong(why).fix(if is_locked_out {
        "run as root; or allow the user org.libvirt.unix.monitor by a rule in \
         /etc/polkit-1/rules.d; or set auth_unix_ro = \"none\" in /etc/libvirt/libvirtd.conf (or \
         virtqemud.conf) and restart the daemon"
    } else {
        "see whether the daemon runs and answers (virsh -r list); the exporter tries again by \
         itself"
    })
}

fn answering(fetched: &Fetched) -> Vec<Finding> {
    let Fetched {
        connection,
        domains,
    } = fetched;
    let uri = &connection.uri;
    let what = match &connection.versions {
        Some(versions) => {
            let hypervisor = versions.hypervisor.as_deref().unwrap_or("unknown");
            let (daemon, driver) = (&versions.daemon, &versions.driver);
            format!("libvirt {daemon}, {driver} {hypervisor}")
        }
        None => "libvirt of an unknown version".to_owned(),
    };
    let runs = |state| matches!(state, Some(State::Running | State::Blocked));
    let running = domains.iter().filter(|it| runs(it.state)).count();
    let all = domains.len();
    let text = format!("{uri}: {what}; domains: {all}, {running} of them running");
    let mut found = vec![Finding::fine(text)];
    let stuck = domains.iter().filter(|it| it.is_stuck);
    let stuck: Vec<_> = stuck.map(|it| it.name.as_str()).collect();
    if !stuck.is_empty() {
        let few = few(stuck.into_iter());
        found.push(
            Finding::note(format!("no answer in time about {few}"))
                .fix("see whether these guests, or what their disks are on, hang"),
        );
    }
    if let Some(why) = &connection.error {
        found.push(Finding::note(format!("not everything is known: {why}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::diagnosis::Mark,
        sources::libvirt::{Domain, Versions},
    };

    const SOCKET: &str = "/run/libvirt/libvirt-sock-ro";
    const OTHER: &str = "/run/libvirt/virtqemud-sock-ro";

    fn down(error: &str) -> Fetched {
        Fetched {
            connection: Connection {
                uri: SOCKET.to_owned(),
                error: Some(error.to_owned()),
                ..Connection::default()
            },
            domains: Vec::new(),
        }
    }

    fn of(access: SocketAccess, is_named: bool, fetched: Result<&Fetched>) -> Vec<Finding> {
        let sockets = [
            (OTHER.into(), SocketAccess::Missing),
            (SOCKET.into(), access),
        ];
        let sockets = if is_named { &sockets[1..] } else { &sockets };
        of_libvirt(sockets, is_named, fetched, "nobody (uid 65534)")
    }

    fn only(found: &[Finding]) -> (Mark, String, String) {
        let [one] = found else { panic!("{found:?}") };
        (
            one.mark,
            one.text.clone(),
            one.fix.clone().unwrap_or_default(),
        )
    }

    #[test]
    fn a_machine_without_libvirt_has_nothing_to_mend() {
        let absent = || Err(Error::Absent(SOCKET.into()));
        let (mark, text, _) = only(&of(SocketAccess::Missing, false, absent()));
        assert_eq!(mark, Mark::Nothing);
        assert!(text.starts_with(&format!("none found at {OTHER}, {SOCKET}: ")));
        let named = of(
            SocketAccess::Missing,
            true,
            Ok(&down("there is no such socket")),
        );
        let (mark, text, _) = only(&named);
        assert_eq!(
            (mark, text),
            (Mark::Wrong, format!("{SOCKET} does not exist"))
        );
    }

    #[test]
    fn each_way_libvirt_cannot_be_asked_has_its_own_words() {
        let refused = down(&format!("{SOCKET}: Permission denied"));
        let group = Some("libvirt".to_owned());
        let (mark, text, fix) = only(&of(SocketAccess::Refused { group }, false, Ok(&refused)));
        assert_eq!(mark, Mark::Wrong);
        assert!(
            text.ends_with("nobody (uid 65534) may not connect"),
            "{text}"
        );
        assert!(fix.contains("usermod -aG libvirt USER"), "{fix}");

        let mut fetched = down(&format!("{SOCKET}: authentication unavailable"));
        fetched.connection.is_locked_out = true;
        let (_, text, fix) = only(&of(SocketAccess::Open, false, Ok(&fetched)));
        assert_eq!(text, format!("{SOCKET}: authentication unavailable"));
        assert!(fix.contains("org.libvirt.unix.monitor"), "{fix}");

        let silent = down("no answer in time");
        let (mark, text, fix) = only(&of(SocketAccess::Open, true, Ok(&silent)));
        let expected = format!("{SOCKET}: no answer in time");
        assert_eq!((mark, text), (Mark::Wrong, expected));
        assert!(!fix.contains("polkit"), "{fix}");

        let (mark, text, _) = only(&of(
            SocketAccess::Open,
            false,
            Err(Error::TimedOut("libvirt".to_owned())),
        ));
        assert_eq!(mark, Mark::Wrong);
        assert_eq!(text, "libvirt did not answer in time");
    }

    #[test]
    fn an_error_is_said_of_the_socket_that_it_is_of() {
        let sockets = [OTHER, SOCKET].map(|it| (it.into(), SocketAccess::Open));
        let fetched = down(&format!("{SOCKET}: Connection refused"));
        let (_, text, _) = only(&of_libvirt(&sockets, false, Ok(&fetched), "root"));
        assert_eq!(text, format!("{SOCKET}: Connection refused"));
    }

    #[test]
    fn a_uri_that_takes_no_socket_says_what_the_library_says() {
        let mut fetched = down("cannot resolve");
        fetched.connection.uri = "qemu+ssh://host/system".to_owned();
        let (mark, text, fix) = only(&of_libvirt(&[], true, Ok(&fetched), "root"));
        assert_eq!(mark, Mark::Wrong);
        assert_eq!(text, "qemu+ssh://host/system: cannot resolve");
        assert!(fix.ends_with("virsh -r -c 'qemu+ssh://host/system' list"));
    }

    #[test]
    fn a_daemon_that_answers_says_what_it_is_and_what_hangs() {
        let domain = |name: &str, state, is_stuck| Domain {
            name: name.to_owned(),
            state: Some(state),
            is_stuck,
            ..Domain::default()
        };
        let mut fetched = down("event 23: not supported");
        fetched.connection.is_up = true;
        fetched.connection.versions = Some(Versions {
            driver: "QEMU".to_owned(),
            hypervisor: Some("7.2.22".to_owned()),
            daemon: "9.0.0".to_owned(),
        });
        fetched.domains = vec![
            domain("a", State::Running, false),
            domain("b", State::Paused, true),
            domain("c", State::Shutoff, false),
        ];
        let found = of(SocketAccess::Open, false, Ok(&fetched));
        let said: Vec<_> = found.iter().map(|it| (it.mark, it.text.as_str())).collect();
        let fine = "/run/libvirt/libvirt-sock-ro: libvirt 9.0.0, QEMU 7.2.22; domains: 3, 1 of \
                    them running";
        assert_eq!(
            said,
            [
                (Mark::Fine, fine),
                (Mark::Note, "no answer in time about b"),
                (
                    Mark::Note,
                    "not everything is known: event 23: not supported"
                ),
            ]
        );
    }
}
