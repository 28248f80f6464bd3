//! Domains as libvirt reports them at the time of the request: each is queried, as in a scrape.
//! Disks and network interfaces have their device names; paths of disks are not returned.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{Api, MissingPart, error::ApiError, ok_or_missing, seconds, to_json};
use crate::{
    scrape::SharedRead,
    sources::{
        Snapshot,
        libvirt::{self, DomainState, FetchResult},
    },
};

#[derive(Debug)]
pub(super) struct DomainReads {
    /// Snapshots whose domains have been read.
    domains: SharedRead<Arc<Snapshot>>,
}

impl DomainReads {
    pub(super) fn new() -> Self {
        Self {
            domains: SharedRead::new("libvirt", |snapshot| {
                snapshot.domains()?;
                Ok(Arc::clone(snapshot))
            }),
        }
    }
}

#[derive(Serialize)]
struct DomainsResponse<'a> {
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    time: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<ConnectionResponse<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domains: Option<Vec<DomainStatus<'a>>>,
    missing: Vec<MissingPart>,
}

#[derive(Serialize)]
struct ConnectionResponse<'a> {
    uri: &'a str,
    is_up: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hypervisor_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    libvirt_version: Option<&'a str>,
}

#[derive(Serialize)]
struct DomainStatus<'a> {
    name: &'a str,
    uuid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    started: Option<Duration>,
    is_partial: bool,
    is_stuck: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpus: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpus_maximum: Option<u64>,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    cpu_seconds: Option<Duration>,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    cpu_user_seconds: Option<Duration>,
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    cpu_system_seconds: Option<Duration>,
    memory: DomainMemory,
    interfaces: Vec<InterfaceResponse<'a>>,
    disks: Vec<DiskResponse<'a>>,
}

#[derive(Serialize)]
struct DomainMemory {
    #[serde(skip_serializing_if = "Option::is_none")]
    current_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unused_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usable_bytes: Option<u64>,
}

#[derive(Serialize)]
struct InterfaceResponse<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes: Option<u64>,
}

#[derive(Serialize)]
struct DiskResponse<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocation_bytes: Option<u64>,
}

pub(super) async fn respond(api: &Api, snapshot: Arc<Snapshot>) -> Result<Vec<u8>, ApiError> {
    let reading = &api.domains.domains;
    let time = snapshot.unix_time();
    let read = reading.take(&snapshot, &api.workers).await;
    let what = reading.what();
    api.run_on_worker(move || {
        let mut missing = Vec::new();
        let read = ok_or_missing(&mut missing, what, read);
        // Was read before the snapshot was returned.
        let fetched = read.as_ref().and_then(|snapshot| snapshot.domains().ok());
        to_json(&DomainsResponse {
            time,
            connection: fetched.map(|it| connection(&it.connection)),
            domains: fetched.and_then(|it| domains(it, what, &mut missing)),
            missing,
        })
    })
    .await
}

fn connection(connection: &libvirt::ConnectionInfo) -> ConnectionResponse<'_> {
    let versions = connection.versions.as_ref();
    ConnectionResponse {
        uri: &connection.uri,
        is_up: connection.is_up,
        driver: versions.map(|it| it.driver.as_str()),
        hypervisor_version: versions.and_then(|it| it.hypervisor.as_deref()),
        libvirt_version: versions.map(|it| it.daemon.as_str()),
    }
}

/// All domains, or `None` if the daemon did not respond.
fn domains<'a>(
    fetched: &'a FetchResult,
    part: &'static str,
    missing: &mut Vec<MissingPart>,
) -> Option<Vec<DomainStatus<'a>>> {
    let connection = &fetched.connection;
    // A daemon that is up may report an error, too; then some data is missing.
    let reason = connection.error.as_deref();
    let reason = reason.or((!connection.is_up).then_some("no response"));
    missing.extend(reason.map(|reason| MissingPart {
        part,
        reason: reason.to_owned(),
    }));
    let domains = fetched.domains.iter().map(DomainStatus::from_domain);
    connection.is_up.then(|| domains.collect())
}

impl<'a> DomainStatus<'a> {
    fn from_domain(domain: &'a libvirt::Domain) -> Self {
        let (stats, balloon) = (&domain.stats, &domain.stats.balloon);
        let definition = domain.definition.as_deref();
        Self {
            name: &domain.name,
            uuid: &domain.uuid,
            id: domain.id,
            title: definition.and_then(|definition| definition.title.as_deref()),
            state: domain.state.map(state_name),
            started: domain.started,
            is_partial: domain.is_partial,
            is_stuck: domain.is_stuck,
            vcpus: stats.vcpu_current,
            vcpus_maximum: stats.vcpu_maximum,
            cpu_seconds: stats.cpu.time,
            cpu_user_seconds: stats.cpu.user,
            cpu_system_seconds: stats.cpu.system,
            memory: DomainMemory {
                current_bytes: balloon.current,
                maximum_bytes: balloon.maximum,
                rss_bytes: balloon.rss,
                available_bytes: balloon.available,
                unused_bytes: balloon.unused,
                usable_bytes: balloon.usable,
            },
            interfaces: stats
                .interfaces
                .iter()
                .map(|interface| InterfaceResponse {
                    name: &interface.name,
                    received_bytes: interface.received.bytes,
                    sent_bytes: interface.sent.bytes,
                })
                .collect(),
            disks: stats
                .disks
                .iter()
                .map(|disk| DiskResponse {
                    name: &disk.name,
                    read_bytes: disk.read.bytes,
                    written_bytes: disk.written.bytes,
                    capacity_bytes: disk.capacity,
                    allocation_bytes: disk.allocation,
                })
                .collect(),
        }
    }
}

fn state_name(state: DomainState) -> &'static str {
    match state {
        DomainState::NoState => "no_state",
        DomainState::Running => "running",
        DomainState::Blocked => "blocked",
        DomainState::Paused => "paused",
        DomainState::Shutdown => "shutdown",
        DomainState::Shutoff => "shutoff",
        DomainState::Crashed => "crashed",
        DomainState::PmSuspended => "pmsuspended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(is_up: bool, error: Option<&str>) -> FetchResult {
        FetchResult {
            connection: libvirt::ConnectionInfo {
                is_up,
                error: error.map(str::to_owned),
                ..libvirt::ConnectionInfo::default()
            },
            domains: Vec::new(),
        }
    }

    #[test]
    fn unavailable_daemon_differs_from_no_domains() {
        for (is_up, error, expected) in [
            (true, None, &[][..]),
            (true, Some("no events"), &["no events"]),
            (false, Some("refused"), &["refused"]),
            (false, None, &["no response"]),
        ] {
            let mut missing = Vec::new();
            let fetched = fetched(is_up, error);
            assert_eq!(domains(&fetched, "libvirt", &mut missing).is_some(), is_up);
            let reasons: Vec<_> = missing.iter().map(|it| it.reason.as_str()).collect();
            assert_eq!(reasons, expected);
        }
    }

    #[test]
    fn all_domain_fields_match_schema() {
        let (one, two) = (Some(1), Some(Duration::from_millis(2500)));
        let mut web = libvirt::Domain {
            name: "web".to_owned(),
            uuid: "u".to_owned(),
            id: Some(7),
            started: two,
            definition: Some(Arc::new(libvirt::DomainDef {
                title: Some("The web".to_owned()),
                ..libvirt::DomainDef::default()
            })),
            ..libvirt::Domain::default()
        };
        let stats = &mut web.stats;
        (stats.vcpu_current, stats.vcpu_maximum) = (one, one);
        stats.cpu = libvirt::CpuTimes {
            time: two,
            user: two,
            system: two,
        };
        stats.balloon = libvirt::Balloon {
            current: one,
            maximum: one,
            rss: one,
            available: one,
            unused: one,
            usable: one,
            ..libvirt::Balloon::default()
        };
        let operations = libvirt::DiskOperations {
            bytes: one,
            ..libvirt::DiskOperations::default()
        };
        stats.disks = vec![libvirt::DomainDisk {
            name: "vda".to_owned(),
            path: Some("/secret-path".to_owned()),
            read: operations,
            written: operations,
            capacity: one,
            allocation: one,
            ..libvirt::DomainDisk::default()
        }];
        let traffic = libvirt::InterfaceTraffic {
            bytes: one,
            ..libvirt::InterfaceTraffic::default()
        };
        stats.interfaces = vec![libvirt::DomainInterface {
            name: "vnet0".to_owned(),
            received: traffic,
            sent: traffic,
        }];
        let in_each_state = DomainState::ALL.into_iter().map(|state| libvirt::Domain {
            state: Some(state),
            ..web.clone()
        });
        let mut fetched = fetched(true, None);
        fetched.domains = in_each_state.collect();
        fetched.connection.versions = Some(libvirt::Versions {
            driver: "QEMU".to_owned(),
            hypervisor: Some("7.2.0".to_owned()),
            daemon: "9.0.0".to_owned(),
        });
        let mut missing = Vec::new();
        let response = DomainsResponse {
            time: two,
            connection: Some(connection(&fetched.connection)),
            domains: domains(&fetched, "libvirt", &mut missing),
            missing,
        };
        crate::api::assert_matches_schema("Domains", &response);
        let json = serde_json::to_string(&response).unwrap();
        assert!(!json.contains("secret-path"));
        // Every described field is present.
        let first = serde_json::to_value(&response).unwrap()["domains"][0].clone();
        let description: serde_json::Value = serde_json::from_slice(crate::api::OPENAPI).unwrap();
        let properties = &description["components"]["schemas"]["Domain"]["properties"];
        let names = |value: &serde_json::Value| {
            let fields = value.as_object().unwrap().keys().cloned();
            fields.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&first), names(properties));
    }

    #[test]
    fn shut_off_domain_has_no_invented_values() {
        let off = libvirt::Domain {
            name: "web".to_owned(),
            uuid: "u".to_owned(),
            state: Some(DomainState::Shutoff),
            ..libvirt::Domain::default()
        };
        assert_eq!(
            serde_json::to_value(DomainStatus::from_domain(&off)).unwrap(),
            serde_json::json!({
                "name": "web", "uuid": "u", "state": "shutoff", "is_partial": false,
                "is_stuck": false, "memory": {}, "interfaces": [], "disks": [],
            })
        );
    }
}
