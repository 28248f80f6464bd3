//! What this user may not see, which families that costs, and what would fix it.
//!
//! Whether it is so is asked of the kernel where it shows: nobody's name or number says.

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

const ROOT_REMEDY: &str =
    "run as root, or with AmbientCapabilities=CAP_DAC_READ_SEARCH in the unit";
const PTRACE_REMEDY: &str =
    "run as root, or with AmbientCapabilities=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH in the unit";

/// Something that not everybody may read.
struct Privilege {
    /// Who would read it.
    collector: &'static str,
    what: &'static str,
    probe: fn(&Snapshot) -> Result<()>,
    /// What is not there without it.
    affected: &'static [&'static str],
    fix: &'static str,
}

const PRIVILEGES: &[Privilege] = &[
    Privilege {
        collector: "cpufreq",
        what: "how fast the CPUs run by their own account",
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
        what: "the machine's UUID",
        probe: |snapshot| snapshot.read_sys("class/dmi/id/product_uuid").map(drop),
        affected: &["the label system_uuid of machine_*"],
        fix: ROOT_REMEDY,
    },
    Privilege {
        collector: "rapl",
        what: "the energy that the processor takes",
        probe: |snapshot| {
            let file = "class/powercap/intel-rapl:0/energy_uj";
            snapshot.read_sys(file).map(drop)
        },
        affected: &["node_rapl_*_joules_total", "node_rapl_joules_total"],
        fix: ROOT_REMEDY,
    },
    Privilege {
        collector: "slabinfo",
        what: "the kernel's caches of objects",
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
        what: "how many files other users' processes have open, which this kernel tells to \
               few (before Linux 6.2)",
        probe: |snapshot| snapshot.process(1)?.open_files().map(drop),
        affected: &["container_file_descriptors"],
        fix: PTRACE_REMEDY,
    },
    Privilege {
        collector: "container_processes",
        what: "what other users' processes have open and use",
        probe: |snapshot| {
            // With it the flags are off, else it would be.
            let landlocked = sandbox::active().is_some_and(|it| it.landlock.is_ok());
            let asked = (!landlocked).then(|| snapshot.process(1)?.open_sockets());
            asked.map_or(Ok(()), |asked| asked.map(drop))
        },
        affected: &[
            "container_sockets (--collector.container_processes.sockets)",
            "container_referenced_bytes (--collector.container_processes.referenced)",
        ],
        fix: PTRACE_REMEDY,
    },
];

/// Collectors that say what engines say.
const ENGINE_COLLECTORS: &[&str] = &[
    "census",
    "census_images",
    "container_engine",
    "container_lifecycle",
    "container_size",
];
/// Those that say what libvirt says, and what they are said to cost: of the first, which
/// families there are is for a flag to say.
const LIBVIRT_COLLECTORS: &[(&str, Option<&str>)] = &[
    ("libvirt", Some("libvirt_*")),
    ("libvirt_network", None),
    ("libvirt_pool", None),
    ("census_domains", None),
];

/// What is to be known of what was collected.
pub(super) struct CollectedFamilies {
    /// The collectors that are on, with the families that they have and did not show.
    missing: BTreeMap<&'static str, Vec<&'static str>>,
    /// The mounts that this user may not go to.
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
            let shown: BTreeSet<&str> = families(entry.name)?.iter().map(|it| &*it.name).collect();
            let metrics = entry.metrics.iter().map(|metric| metric.name);
            let missing = metrics.filter(|name| !shown.contains(name));
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
    let closed = samples.filter(|(_, labels, _)| {
        let why = labels.value("device_error").unwrap_or_default();
        why.to_lowercase().contains("permission denied")
    });
    closed
        .filter_map(|(_, labels, _)| labels.value("mountpoint"))
        .collect()
}

/// What this user may not, where something that is on would.
pub(super) fn findings(snapshot: &Snapshot, collected: &CollectedFamilies) -> Vec<Finding> {
    let mut found: Vec<_> = PRIVILEGES
        .iter()
        .filter(|right| collected.is_on(right.collector))
        .filter_map(|right| {
            let refused = (right.probe)(snapshot)
                .err()
                .filter(Error::is_permission_denied)?;
            let text = format!(
                "without the right to read {}: {refused}. It costs {}",
                right.what,
                right.affected.join(", ")
            );
            Some(Finding::warning(text).fix(right.fix))
        })
        .collect();
    found.extend(mounts_finding(&collected.denied_mounts));
    found.extend(hidepid_finding(snapshot));
    found.extend(socket_findings(snapshot, collected));
    if found.is_empty() {
        let text = "this user may read what is on, but for what is said above";
        found.push(Finding::ok(text));
    }
    found
}

fn mounts_finding(closed: &[String]) -> Option<Finding> {
    let few = first_few(closed.iter().map(String::as_str));
    let text = format!(
        "without the right to go where {few} is mounted. It costs container_fs_* of what is \
         mounted nowhere else, and all of node_filesystem_* but \
         node_filesystem_device_error and node_filesystem_readonly: node_filesystem_avail_bytes, \
         node_filesystem_files, node_filesystem_files_free, node_filesystem_free_bytes, \
         node_filesystem_mount_info, node_filesystem_size_bytes"
    );
    (!closed.is_empty()).then(|| Finding::warning(text).fix(ROOT_REMEDY))
}

fn hidepid_finding(snapshot: &Snapshot) -> Option<Finding> {
    let text = "procfs hides the processes of others (hidepid). It costs container_network_* of \
                containers, what container_processes says of them but container_processes and \
                container_threads, and of virtual machines what is read of their threads and \
                interfaces without asking libvirt";
    let fix = "run as root, or in the group that procfs is mounted with (gid=), or with \
                AmbientCapabilities=CAP_SYS_PTRACE in the unit";
    (!snapshot.can_see_other_processes()).then(|| Finding::warning(text).fix(fix))
}

/// What there would be if daemons let this user in. How to be let in is said where these are.
fn socket_findings(snapshot: &Snapshot, collected: &CollectedFamilies) -> Vec<Finding> {
    let refused = |sockets: Vec<PathBuf>| {
        let refused = sockets
            .into_iter()
            .filter(|socket| {
                let access = snapshot.socket_access(socket);
                matches!(access, SocketAccess::Denied { .. })
            })
            .map(|socket| socket.display().to_string());
        refused.collect::<BTreeSet<_>>()
    };
    let engines = refused(snapshot.engine_sockets().0);
    let libvirts = refused(snapshot.libvirt_sockets().0);
    let names = "the labels name, image and container_label_* of all series of containers, the \
                 label dockerVersion of cadvisor_version_info";
    let mut found = Vec::new();
    if !engines.is_empty() {
        let missing = ENGINE_COLLECTORS
            .iter()
            .flat_map(|it| collected.missing(it));
        let costs = std::iter::once(names.to_owned()).chain(missing);
        found.push(socket_denied(&engines, &costs.collect::<Vec<_>>()));
    }
    let of_libvirt = LIBVIRT_COLLECTORS
        .iter()
        .filter(|(it, _)| collected.is_on(it));
    let costs = of_libvirt.flat_map(|(it, all)| match all {
        Some(all) => vec![(*all).to_owned()],
        None => collected.missing(it),
    });
    let costs: Vec<_> = costs.collect();
    if !libvirts.is_empty() && !costs.is_empty() {
        found.push(socket_denied(&libvirts, &costs));
    }
    found
}

fn socket_denied(sockets: &BTreeSet<String>, costs: &[String]) -> Finding {
    let sockets = first_few(sockets.iter().map(String::as_str));
    let costs = costs.join(", ");
    let text = format!("without the right to connect to {sockets}. It costs {costs}");
    Finding::warning(text).fix("see the finding about this daemon")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors;

    #[test]
    fn affected_families_belong_to_their_collector() {
        for right in PRIVILEGES {
            let mut all = collectors::ALL.iter();
            let entry = all.find(|entry| entry.name == right.collector).unwrap();
            for cost in right.affected {
                let mut words = cost.split_whitespace();
                let family = if cost.starts_with("the label") {
                    words.next_back().unwrap()
                } else {
                    words.next().unwrap()
                };
                let mut metrics = entry.metrics.iter();
                let is_its = |name: &str| match family.strip_suffix("_*") {
                    Some(start) => name.starts_with(start),
                    None => name == family,
                };
                assert!(metrics.any(|metric| is_its(metric.name)), "{cost}");
            }
        }
    }

    #[test]
    fn denied_mounts_list_affected_families() {
        let finding = mounts_finding(&["/srv/closed".to_owned()]).unwrap();
        let mut all = collectors::ALL.iter();
        let entry = all.find(|entry| entry.name == "filesystem").unwrap();
        let purgeable = "node_filesystem_purgeable_bytes";
        for metric in entry.metrics.iter().filter(|it| it.name != purgeable) {
            assert!(finding.text.contains(metric.name), "{}", metric.name);
        }
        assert_eq!(mounts_finding(&[]), None);
    }
}
