//! Whether the libvirt daemon responds, and the fix if it does not.

use std::path::PathBuf;

use super::findings::{Finding, first_few};
use crate::{
    error::{Error, Result},
    sources::{
        Snapshot, SocketAccess,
        libvirt::{ConnectionInfo, DomainState, FetchResult},
    },
};

/// Returns findings for the configured socket, or for the default sockets.
pub(super) fn findings(snapshot: &Snapshot, user: &str) -> Vec<Finding> {
    let (sockets, is_named) = snapshot.libvirt_sockets();
    let sockets = sockets.into_iter().map(|socket| {
        let access = snapshot.socket_access(&socket);
        (socket, access)
    });
    let sockets: Vec<_> = sockets.collect();
    connection_findings(&sockets, is_named, snapshot.domains(), user)
}

fn connection_findings(
    sockets: &[(PathBuf, SocketAccess)],
    is_named: bool,
    fetched: Result<&FetchResult>,
    user: &str,
) -> Vec<Finding> {
    let connection = match fetched {
        Ok(fetched) if fetched.connection.is_up => return daemon_is_up(fetched),
        Ok(fetched) => Some(&fetched.connection),
        Err(Error::NotFound(_)) => None,
        Err(why) => return vec![not_responding(why.to_string(), None)],
    };
    let checked = sockets.iter();
    let mut found: Vec<_> = checked
        .filter_map(|(socket, access)| {
            let path = socket.display();
            Some(match access {
                SocketAccess::Missing if is_named => {
                    Finding::error(format!("{path}: no such file or directory")).fix(
                        "start the daemon (systemctl start libvirtd-ro.socket or \
                         virtqemud-ro.socket), or set its socket with --libvirt.uri",
                    )
                }
                SocketAccess::Missing => return None,
                SocketAccess::NotASocket => Finding::error(format!("{path}: not a socket"))
                    .fix("set the socket of libvirt with --libvirt.uri"),
                SocketAccess::Denied { group } => {
                    let text = format!("{path}: permission denied for {user}");
                    Finding::error(text).fix(match group {
                        Some(group) => format!(
                            "join group {group} (usermod -aG {group} USER, or \
                             SupplementaryGroups={group} in the unit) and restart the exporter, \
                             or run as root"
                        ),
                        None => "run as root, or set SocketMode=0666 in libvirtd-ro.socket (the \
                                 default of the read-only socket)"
                            .to_owned(),
                    })
                }
                SocketAccess::Allowed => {
                    let why = connection.and_then(|it| it.error.as_deref());
                    let why = why.unwrap_or("timed out");
                    let own = format!("{path}: ");
                    let is_of = |(other, _): &(PathBuf, _)| {
                        why.starts_with(&format!("{}: ", other.display()))
                    };
                    if !why.starts_with(&own) && sockets.iter().any(is_of) {
                        // The error belongs to another socket that was tried.
                        return None;
                    }
                    let why = why.strip_prefix(&own).unwrap_or(why);
                    not_responding(format!("{own}{why}"), connection)
                }
            })
        })
        .collect();
    if found.is_empty() {
        found.push(match connection {
            // The URI has no local socket.
            Some(connection) => {
                let why = connection.error.as_deref().unwrap_or("no response");
                let text = format!("{}: {why}", connection.uri);
                Finding::error(text).fix(format!(
                    "check that this user can connect: virsh -r -c '{}' list",
                    connection.uri
                ))
            }
            None => not_found(sockets),
        });
    }
    found
}

/// No libvirt daemon, as on most machines.
fn not_found(sockets: &[(PathBuf, SocketAccess)]) -> Finding {
    let paths = sockets.iter().map(|(it, _)| it.display().to_string());
    let paths: Vec<_> = paths.collect();
    let paths = paths.join(", ");
    Finding::info(format!(
        "no libvirt socket at {paths}: domains, if any, are not monitored"
    ))
    .fix("if libvirt runs, set its socket: --libvirt.uri=unix:///PATH")
}

fn not_responding(why: String, connection: Option<&ConnectionInfo>) -> Finding {
    let is_denied = connection.is_some_and(|it| it.is_permission_denied);
    Finding::error(why).fix(if is_denied {
        "run as root; or allow org.libvirt.unix.monitor for the user with a polkit rule in \
         /etc/polkit-1/rules.d; or set auth_unix_ro = \"none\" in /etc/libvirt/libvirtd.conf (or \
         virtqemud.conf) and restart the daemon"
    } else {
        "check that the daemon is running and responds (virsh -r list); the exporter retries \
         automatically"
    })
}

fn daemon_is_up(fetched: &FetchResult) -> Vec<Finding> {
    let FetchResult {
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
        None => "libvirt (unknown version)".to_owned(),
    };
    let runs = |state| matches!(state, Some(DomainState::Running | DomainState::Blocked));
    let running = domains.iter().filter(|it| runs(it.state)).count();
    let all = domains.len();
    let text = format!("{uri}: {what}; domains: {all}, running: {running}");
    let mut found = vec![Finding::ok(text)];
    let stuck = domains.iter().filter(|it| it.is_stuck);
    let stuck: Vec<_> = stuck.map(|it| it.name.as_str()).collect();
    if !stuck.is_empty() {
        let few = first_few(stuck.into_iter());
        found.push(
            Finding::warning(format!("timed out querying domains: {few}"))
                .fix("check whether these domains or the storage of their disks hang"),
        );
    }
    if let Some(why) = &connection.error {
        found.push(Finding::warning(format!("incomplete data: {why}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::findings::Severity,
        sources::libvirt::{Domain, Versions},
    };

    const SOCKET: &str = "/run/libvirt/libvirt-sock-ro";
    const OTHER: &str = "/run/libvirt/virtqemud-sock-ro";

    fn down(error: &str) -> FetchResult {
        FetchResult {
            connection: ConnectionInfo {
                uri: SOCKET.to_owned(),
                error: Some(error.to_owned()),
                ..ConnectionInfo::default()
            },
            domains: Vec::new(),
        }
    }

    fn findings_for(
        access: SocketAccess,
        is_named: bool,
        fetched: Result<&FetchResult>,
    ) -> Vec<Finding> {
        let sockets = [
            (OTHER.into(), SocketAccess::Missing),
            (SOCKET.into(), access),
        ];
        let sockets = if is_named { &sockets[1..] } else { &sockets };
        connection_findings(sockets, is_named, fetched, "nobody (uid 65534)")
    }

    fn single_finding(found: &[Finding]) -> (Severity, String, String) {
        let [one] = found else { panic!("{found:?}") };
        (
            one.severity,
            one.text.clone(),
            one.fix.clone().unwrap_or_default(),
        )
    }

    #[test]
    fn missing_libvirt_needs_no_remedy() {
        let absent = || Err(Error::NotFound(SOCKET.into()));
        let (severity, text, _) =
            single_finding(&findings_for(SocketAccess::Missing, false, absent()));
        assert_eq!(severity, Severity::Info);
        assert!(text.starts_with(&format!("no libvirt socket at {OTHER}, {SOCKET}: ")));
        let named = findings_for(SocketAccess::Missing, true, Ok(&down("no such socket")));
        let (severity, text, _) = single_finding(&named);
        assert_eq!(
            (severity, text),
            (
                Severity::Error,
                format!("{SOCKET}: no such file or directory")
            )
        );
    }

    #[test]
    fn each_libvirt_failure_has_its_own_message() {
        let denied = down(&format!("{SOCKET}: Permission denied"));
        let group = Some("libvirt".to_owned());
        let (severity, text, fix) = single_finding(&findings_for(
            SocketAccess::Denied { group },
            false,
            Ok(&denied),
        ));
        assert_eq!(severity, Severity::Error);
        assert!(
            text.ends_with("permission denied for nobody (uid 65534)"),
            "{text}"
        );
        assert!(fix.contains("usermod -aG libvirt USER"), "{fix}");

        let mut fetched = down(&format!("{SOCKET}: authentication unavailable"));
        fetched.connection.is_permission_denied = true;
        let (_, text, fix) =
            single_finding(&findings_for(SocketAccess::Allowed, false, Ok(&fetched)));
        assert_eq!(text, format!("{SOCKET}: authentication unavailable"));
        assert!(fix.contains("org.libvirt.unix.monitor"), "{fix}");

        let silent = down("timed out");
        let (severity, text, fix) =
            single_finding(&findings_for(SocketAccess::Allowed, true, Ok(&silent)));
        let expected = format!("{SOCKET}: timed out");
        assert_eq!((severity, text), (Severity::Error, expected));
        assert!(!fix.contains("polkit"), "{fix}");

        let (severity, text, _) = single_finding(&findings_for(
            SocketAccess::Allowed,
            false,
            Err(Error::TimedOut("libvirt".to_owned())),
        ));
        assert_eq!(severity, Severity::Error);
        assert_eq!(text, Error::TimedOut("libvirt".to_owned()).to_string());
    }

    #[test]
    fn error_is_reported_for_its_own_socket() {
        let sockets = [OTHER, SOCKET].map(|it| (it.into(), SocketAccess::Allowed));
        let fetched = down(&format!("{SOCKET}: Connection refused"));
        let (_, text, _) =
            single_finding(&connection_findings(&sockets, false, Ok(&fetched), "root"));
        assert_eq!(text, format!("{SOCKET}: Connection refused"));
    }

    #[test]
    fn non_socket_uri_reports_library_error() {
        let mut fetched = down("cannot resolve");
        fetched.connection.uri = "qemu+ssh://host/system".to_owned();
        let (severity, text, fix) =
            single_finding(&connection_findings(&[], true, Ok(&fetched), "root"));
        assert_eq!(severity, Severity::Error);
        assert_eq!(text, "qemu+ssh://host/system: cannot resolve");
        assert!(fix.ends_with("virsh -r -c 'qemu+ssh://host/system' list"));
    }

    #[test]
    fn running_daemon_reports_version_and_stuck_domains() {
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
            domain("a", DomainState::Running, false),
            domain("b", DomainState::Paused, true),
            domain("c", DomainState::Shutoff, false),
        ];
        let findings = findings_for(SocketAccess::Allowed, false, Ok(&fetched));
        let found: Vec<_> = findings
            .iter()
            .map(|it| (it.severity, it.text.as_str()))
            .collect();
        let summary = "/run/libvirt/libvirt-sock-ro: libvirt 9.0.0, QEMU 7.2.22; domains: 3, \
                       running: 1";
        assert_eq!(
            found,
            [
                (Severity::Ok, summary),
                (Severity::Warning, "timed out querying domains: b"),
                (
                    Severity::Warning,
                    "incomplete data: event 23: not supported"
                ),
            ]
        );
    }
}
