//! Privileges that this user lacks, the metric families lost without them, and the fix.
//!
//! Each privilege is probed by a system call that needs it, not derived from user name or UID.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::findings::{Finding, first_few};
use crate::{
    collector::{Entry, Layer},
    error::{Error, Result},
    family::{Families, Family},
    sandbox,
    scrape::CollectorReport,
    sources::{Snapshot, SocketAccess},
};

const ROOT_REMEDY: &str = "run as root, or set AmbientCapabilities=CAP_DAC_READ_SEARCH in the unit";
const PTRACE_REMEDY: &str =
    "run as root, or set AmbientCapabilities=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH in the unit";

/// A file or kernel interface that needs a privilege.
struct Privilege {
    collector: &'static str,
    what: &'static str,
    probe: fn(&Snapshot) -> Result<()>,
    /// Metric families and labels that are missing without it.
    affected: &'static [&'static str],
    fix: &'static str,
}

const PRIVILEGES: &[Privilege] = &[
    Privilege {
        collector: "cpufreq",
        what: "the CPU frequency reported by hardware",
        probe: |snapshot| {
            let file = "devices/system/cpu/cpu0/cpufreq/cpuinfo_cur_freq";
            snapshot.read_sys(file).map(drop)
        },
        affected: &["node_cpu_frequency_hertz"],
        fix: ROOT_REMEDY,
    },
    Privilege {
        collector: "dmi",
        what: "serial numbers",
        probe: |snapshot| snapshot.read_sys("class/dmi/id/product_serial").map(drop),
        affected: &["the labels *_serial and product_uuid of node_dmi_info"],
        fix: ROOT_REMEDY,
    },
    Privilege {
        collector: "machine",
        what: "the system UUID",
        probe: |snapshot| snapshot.read_sys("class/dmi/id/product_uuid").map(drop),
        affected: &["the label system_uuid of machine_*"],
        fix: ROOT_REMEDY,
    },
    Privilege {
        collector: "rapl",
        what: "RAPL energy counters",
        probe: |snapshot| {
            let file = "class/powercap/intel-rapl:0/energy_uj";
            snapshot.read_sys(file).map(drop)
        },
        affected: &["node_rapl_*_joules_total", "node_rapl_joules_total"],
        fix: ROOT_REMEDY,
    },
    Privilege {
        collector: "slabinfo",
        what: "slab caches",
        probe: |snapshot| snapshot.read_proc("slabinfo").map(drop),
        affected: &[
            "node_slabinfo_active_objects",
            "node_slabinfo_object_size_bytes",
            "node_slabinfo_objects",
            "node_slabinfo_objects_per_slab",
            "node_slabinfo_pages_per_slab",
        ],
        fix: ROOT_REMEDY,
    },
    Privilege {
        collector: "container_processes",
        what: "file descriptors of other users' processes (unprivileged since Linux 6.2)",
        probe: |snapshot| snapshot.process(1)?.open_files().map(drop),
        affected: &["container_file_descriptors"],
        fix: PTRACE_REMEDY,
    },
    Privilege {
        collector: "container_processes",
        what: "sockets and memory references of other users' processes",
        probe: |snapshot| {
            // Landlock is only active if these flags are off.
            let landlocked = sandbox::active().is_some_and(|it| it.landlock.is_ok());
            let result = (!landlocked).then(|| snapshot.process(1)?.open_sockets());
            result.map_or(Ok(()), |sockets| sockets.map(drop))
        },
        affected: &[
            "container_sockets (--collector.container_processes.sockets)",
            "container_referenced_bytes (--collector.container_processes.referenced)",
        ],
        fix: PTRACE_REMEDY,
    },
];

/// Collectors that need an engine's API.
const ENGINE_COLLECTORS: &[&str] = &[
    "census",
    "census_images",
    "container_engine",
    "container_lifecycle",
    "container_size",
];
/// Collectors that need libvirt, with the families lost without it. The families of `libvirt`
/// depend on flags, so a pattern stands for them.
const LIBVIRT_COLLECTORS: &[(&str, Option<&str>)] = &[
    ("libvirt", Some("libvirt_*")),
    ("libvirt_network", None),
    ("libvirt_pool", None),
    ("census_domains", None),
];

/// Families missing from the collectors' results.
pub(super) struct CollectedFamilies {
    /// Enabled collectors, each with its families that were not exposed.
    missing: BTreeMap<&'static str, Vec<&'static str>>,
    /// Mount points that this user cannot access.
    denied_mounts: Vec<String>,
}

impl CollectedFamilies {
    pub(super) fn from_reports(
        reports: &[(&'static str, Layer, &CollectorReport)],
        all: &[Entry],
    ) -> Self {
        let families = |name: &str| {
            let mut reports = reports.iter().filter(|(it, ..)| *it == name);
            reports.next().map(|(.., report)| &*report.families)
        };
        let missing = all.iter().filter_map(|entry| {
            let exposed: BTreeSet<&str> =
                families(entry.name)?.iter().map(|it| &*it.name).collect();
            let metrics = entry.metrics.iter().map(|metric| metric.name);
            let missing = metrics.filter(|name| !exposed.contains(name));
            Some((entry.name, missing.collect()))
        });
        Self {
            missing: missing.collect(),
            denied_mounts: families("filesystem").map_or_else(Vec::new, denied_mounts),
        }
    }

    fn is_on(&self, collector: &str) -> bool {
        self.missing.contains_key(collector)
    }

    fn missing(&self, collector: &str) -> Vec<String> {
        let missing = self.missing.get(collector).into_iter().flatten();
        missing.map(|name| (*name).to_owned()).collect()
    }
}

fn denied_mounts(families: &Families) -> Vec<String> {
    let mut errors = families
        .iter()
        .filter(|it| it.name == "node_filesystem_device_error");
    let samples = errors.next().into_iter().flat_map(Family::samples);
    let denied = samples.filter(|(_, labels, _)| {
        let why = labels.value("device_error").unwrap_or_default();
        why.to_lowercase().contains("permission denied")
    });
    denied
        .filter_map(|(_, labels, _)| labels.value("mountpoint"))
        .collect()
}

/// Returns the privileges that enabled collectors need and this user lacks.
pub(super) fn findings(snapshot: &Snapshot, collected: &CollectedFamilies) -> Vec<Finding> {
    let mut found: Vec<_> = PRIVILEGES
        .iter()
        .filter(|privilege| collected.is_on(privilege.collector))
        .filter_map(|privilege| {
            let error = (privilege.probe)(snapshot)
                .err()
                .filter(Error::is_permission_denied)?;
            let text = format!(
                "missing privilege: cannot read {}: {error}; lost: {}",
                privilege.what,
                privilege.affected.join(", ")
            );
            Some(Finding::warning(text).fix(privilege.fix))
        })
        .collect();
    found.extend(mounts_finding(&collected.denied_mounts));
    found.extend(hidepid_finding(snapshot));
    found.extend(socket_findings(snapshot, collected));
    if found.is_empty() {
        let text = "no missing privileges apart from the findings above";
        found.push(Finding::ok(text));
    }
    found
}

fn mounts_finding(denied: &[String]) -> Option<Finding> {
    let few = first_few(denied.iter().map(String::as_str));
    let text = format!(
        "missing privilege: cannot traverse mount point {few} (permission denied); lost: \
         container_fs_* of devices without another mount point, and all of node_filesystem_* \
         except node_filesystem_device_error and node_filesystem_readonly: \
         node_filesystem_avail_bytes, node_filesystem_files, node_filesystem_files_free, \
         node_filesystem_free_bytes, node_filesystem_mount_info, node_filesystem_size_bytes"
    );
    (!denied.is_empty()).then(|| Finding::warning(text).fix(ROOT_REMEDY))
}

fn hidepid_finding(snapshot: &Snapshot) -> Option<Finding> {
    let text = "missing privilege: procfs hides other users' processes (mount option hidepid); \
                lost: container_network_* of containers, all families of the collector \
                container_processes except container_processes and container_threads, and the \
                metrics of libvirt domains that are read from their threads and interfaces in \
                procfs";
    let fix = "run as root, join the group of procfs's mount option gid=, or set \
               AmbientCapabilities=CAP_SYS_PTRACE in the unit";
    (!snapshot.can_see_other_processes()).then(|| Finding::warning(text).fix(fix))
}

/// Metric families lost because a daemon's socket denies access. The daemon's own finding has the
/// fix.
fn socket_findings(snapshot: &Snapshot, collected: &CollectedFamilies) -> Vec<Finding> {
    let denied = |sockets: Vec<PathBuf>| {
        let denied = sockets
            .into_iter()
            .filter(|socket| {
                let access = snapshot.socket_access(socket);
                matches!(access, SocketAccess::Denied { .. })
            })
            .map(|socket| socket.display().to_string());
        denied.collect::<BTreeSet<_>>()
    };
    let engines = denied(snapshot.engine_sockets().0);
    let libvirts = denied(snapshot.libvirt_sockets().0);
    let names = "the labels name, image and container_label_* of all container series, the label \
                 dockerVersion of cadvisor_version_info";
    let mut found = Vec::new();
    if !engines.is_empty() {
        let missing = ENGINE_COLLECTORS
            .iter()
            .flat_map(|it| collected.missing(it));
        let lost = std::iter::once(names.to_owned()).chain(missing);
        found.push(socket_denied(&engines, &lost.collect::<Vec<_>>()));
    }
    let libvirt_collectors = LIBVIRT_COLLECTORS
        .iter()
        .filter(|(it, _)| collected.is_on(it));
    let lost = libvirt_collectors.flat_map(|(it, all)| match all {
        Some(all) => vec![(*all).to_owned()],
        None => collected.missing(it),
    });
    let lost: Vec<_> = lost.collect();
    if !libvirts.is_empty() && !lost.is_empty() {
        found.push(socket_denied(&libvirts, &lost));
    }
    found
}

fn socket_denied(sockets: &BTreeSet<String>, lost: &[String]) -> Finding {
    let sockets = first_few(sockets.iter().map(String::as_str));
    let lost = lost.join(", ");
    let text =
        format!("missing privilege: permission denied connecting to {sockets}; lost: {lost}");
    Finding::warning(text).fix("see the finding for this daemon")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors;

    #[test]
    fn affected_families_belong_to_their_collector() {
        for privilege in PRIVILEGES {
            let mut all = collectors::ALL.iter();
            let entry = all.find(|entry| entry.name == privilege.collector).unwrap();
            for item in privilege.affected {
                let mut words = item.split_whitespace();
                let family = if item.starts_with("the label") {
                    words.next_back().unwrap()
                } else {
                    words.next().unwrap()
                };
                let mut metrics = entry.metrics.iter();
                let is_its = |name: &str| match family.strip_suffix("_*") {
                    Some(start) => name.starts_with(start),
                    None => name == family,
                };
                assert!(metrics.any(|metric| is_its(metric.name)), "{item}");
            }
        }
    }

    #[test]
    fn denied_mounts_list_affected_families() {
        let finding = mounts_finding(&["/srv/denied".to_owned()]).unwrap();
        let mut all = collectors::ALL.iter();
        let entry = all.find(|entry| entry.name == "filesystem").unwrap();
        let purgeable = "node_filesystem_purgeable_bytes";
        for metric in entry.metrics.iter().filter(|it| it.name != purgeable) {
            assert!(finding.text.contains(metric.name), "{}", metric.name);
        }
        assert_eq!(mounts_finding(&[]), None);
    }
}
