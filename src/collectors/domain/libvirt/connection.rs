//! How libvirt was reached, and what was there.

use crate::{
    error::Error,
    family::Families,
    metrics,
    sources::libvirt::{Connection, Versions},
};

metrics! {
    /// Whether libvirt answered in this scrape.
    UP: Gauge = "libvirt_up" [];
    /// The versions of the hypervisor and of libvirt's daemon: always 1. There is no libvirt_library, as this exporter speaks to the daemon itself.
    VERSIONS: Info = "libvirt_versions_info" ["hypervisor_running", "libvirtd_running", "libvirt_library"];
    /// Which libvirt is asked, and the driver that answers there: always 1.
    ABOUT_CONNECTION: Info = "strata_libvirt_info" ["uri", "driver"];
    /// How often this exporter connected to libvirt; after the first time, because the daemon was restarted or a connection was lost or given up.
    CONNECTIONS: Counter = "strata_libvirt_connections_total" [];
    /// Requests that were made to libvirt.
    REQUESTS: Counter = "strata_libvirt_requests_total" [];
    /// Events that libvirt told of.
    EVENTS: Counter = "strata_libvirt_events_total" [];
    /// Requests that have no answer yet and whose scrapes are over: each is about a guest, or a daemon, that hangs.
    STUCK_REQUESTS: Gauge = "strata_libvirt_stuck_requests" [];
}

pub(super) fn families(out: &mut Families, of: &Connection) {
    out.add(&UP, [], of.is_up);
    if let Some(error) = &of.error {
        out.skip(Error::api("libvirt", error));
    } else if !of.is_up {
        out.skip(Error::api("libvirt", "no answer"));
    }
    let driver = of
        .versions
        .as_ref()
        .map(|versions| versions.driver.as_str());
    let driver = driver.unwrap_or_default();
    out.add(&ABOUT_CONNECTION, [&of.uri, driver], true);
    out.add(&CONNECTIONS, [], of.connections);
    out.add(&REQUESTS, [], of.requests);
    out.add(&EVENTS, [], of.events);
    out.add(&STUCK_REQUESTS, [], of.stuck_requests);
    if let (Some(versions), true) = (&of.versions, of.is_up) {
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

    fn connection(is_up: bool, error: Option<&str>) -> Connection {
        Connection {
            uri: "/run/libvirt/libvirt-sock-ro".to_owned(),
            is_up,
            error: error.map(str::to_owned),
            is_locked_out: false,
            connections: 2,
            requests: 30,
            events: 4,
            stuck_requests: 1,
            versions: Some(Versions {
                driver: "QEMU".to_owned(),
                hypervisor: Some("7.2.22".to_owned()),
                daemon: "9.0.0".to_owned(),
            }),
        }
    }

    #[test]
    fn a_daemon_that_answers_has_its_versions() {
        let mut out = Families::default();
        families(&mut out, &connection(true, None));
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
        assert_eq!(out.skipped().0, 0);
    }

    #[test]
    fn a_daemon_that_is_down_is_said_to_be_and_why() {
        let mut out = Families::default();
        families(&mut out, &connection(false, Some("connection refused")));
        let lines = out.lines();
        assert_eq!(lines[0], "libvirt_up 0");
        assert!(!lines.iter().any(|line| line.contains("versions")));
        let (skipped, reason) = out.skipped();
        assert_eq!(skipped, 1);
        assert_eq!(reason.unwrap().to_string(), "libvirt: connection refused");
    }
}
