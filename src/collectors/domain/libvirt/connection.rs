//! State of the connection to libvirt, and the versions and host it reports.

use crate::{
    error::Error,
    family::Families,
    metrics,
    sources::libvirt::{ConnectionInfo, Versions},
};

metrics! {
    /// Whether libvirt responded in this scrape.
    UP: Gauge = "libvirt_up" [];
    /// Versions of the hypervisor and of the libvirt daemon: always 1; without libvirt_library,
    /// because this exporter speaks the protocol itself.
    VERSIONS: Info = "libvirt_versions_info" ["hypervisor_running", "libvirtd_running", "libvirt_library"];
    /// Connection URI and driver of libvirt: always 1.
    INFO: Info = "strata_libvirt_info" ["uri", "driver"];
    /// Connections opened to libvirt; more than one after a restart of the daemon or a lost
    /// connection.
    CONNECTIONS: Counter = "strata_libvirt_connections_total" [];
    /// Requests sent to libvirt.
    REQUESTS: Counter = "strata_libvirt_requests_total" [];
    /// Events received from libvirt.
    EVENTS: Counter = "strata_libvirt_events_total" [];
    /// Requests that are still unanswered after their scrape ended: the domain or the daemon hangs.
    STUCK_REQUESTS: Gauge = "strata_libvirt_stuck_requests" [];
}

pub(super) fn collect_into(out: &mut Families, connection: &ConnectionInfo) {
    out.add(&UP, [], connection.is_up);
    if let Some(error) = &connection.error {
        out.record_error(Error::api("libvirt", error));
    } else if !connection.is_up {
        out.record_error(Error::api("libvirt", "no response"));
    }
    let driver = connection
        .versions
        .as_ref()
        .map(|versions| versions.driver.as_str());
    let driver = driver.unwrap_or_default();
    out.add(&INFO, [&connection.uri, driver], true);
    out.add(&CONNECTIONS, [], connection.connections);
    out.add(&REQUESTS, [], connection.requests);
    out.add(&EVENTS, [], connection.events);
    out.add(&STUCK_REQUESTS, [], connection.abandoned_requests);
    if let (Some(versions), true) = (&connection.versions, connection.is_up) {
        let Versions {
            hypervisor, daemon, ..
        } = versions;
        let hypervisor = hypervisor.as_deref().unwrap_or_default();
        out.add(&VERSIONS, [hypervisor, daemon, ""], true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(is_up: bool, error: Option<&str>) -> ConnectionInfo {
        ConnectionInfo {
            uri: "/run/libvirt/libvirt-sock-ro".to_owned(),
            is_up,
            error: error.map(str::to_owned),
            is_permission_denied: false,
            connections: 2,
            requests: 30,
            events: 4,
            abandoned_requests: 1,
            versions: Some(Versions {
                driver: "QEMU".to_owned(),
                hypervisor: Some("7.2.22".to_owned()),
                daemon: "9.0.0".to_owned(),
            }),
        }
    }

    #[test]
    fn responding_daemon_exposes_versions() {
        let mut out = Families::default();
        collect_into(&mut out, &connection(true, None));
        assert_eq!(
            out.lines(),
            [
                "libvirt_up 1",
                r#"strata_libvirt_info{uri="/run/libvirt/libvirt-sock-ro",driver="QEMU"} 1"#,
                "strata_libvirt_connections_total 2",
                "strata_libvirt_requests_total 30",
                "strata_libvirt_events_total 4",
                "strata_libvirt_stuck_requests 1",
                r#"libvirt_versions_info{hypervisor_running="7.2.22",libvirtd_running="9.0.0",libvirt_library=""} 1"#,
            ]
        );
        assert_eq!(out.errors().0, 0);
    }

    #[test]
    fn unreachable_daemon_is_down_with_error() {
        let mut out = Families::default();
        collect_into(&mut out, &connection(false, Some("connection refused")));
        let lines = out.lines();
        assert_eq!(lines[0], "libvirt_up 0");
        assert!(!lines.iter().any(|line| line.contains("versions")));
        let (skipped, reason) = out.errors();
        assert_eq!(skipped, 1);
        assert_eq!(reason.unwrap().to_string(), "libvirt: connection refused");
    }
}
