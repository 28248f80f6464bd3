//! What this user may not see, which families that costs, and what would fix it.
//!
//! Whether it is so is asked of the kernel where it shows: nobody's name or number says.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::diagnosis::{Finding, few};
use crate::{
    collector::{Entry, Layer},
    error::{Error, Result},
    family::{Families, Family},
    sandbox,
    scrape::Report,
    sources::{Snapshot, SocketAccess},
};

const AS_ROOT: &str = "run as root, or with AmbientCapabilities=CAP_DAC_READ_SEARCH in the unit";
const TRACING: &str =
    "run as root, or with AmbientCapabilities=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH in the unit";

/// Something that not everybody may read.
struct Right {
    /// Who would read it.
    collector: &'static str,
    what: &'static str,
    asked: fn(&Snapshot) -> Result<()>,
    /// What is not there without it.
    costs: &'static [&'static str],
    fix: &'static str,
}

const RIGHTS: &[Right] = &[
    Right {
        collector: "cpufreq",
        what: "how fast the CPUs run by their own account",
        asked: |machine| {
            let file = "devices/system/cpu/cpu0/cpufreq/cpuinfo_cur_freq";
            machine.sys(file).map(drop)
        },
        costs: &["node_cpu_frequency_hertz"],
        fix: AS_ROOT,
    },
    Right {
        collector: "dmi",
        what: "serial numbers",
        asked: |machine| machine.sys("class/dmi/id/product_serial").map(drop),
        costs: &["the labels *_serial and product_uuid of node_dmi_info"],
        fix: AS_ROOT,
    },
    Right {
        collector: "machine",
        what: "the machine's UUID",
        asked: |machine| machine.sys("class/dmi/id/product_uuid").map(drop),
        costs: &["the label system_uuid of machine_*"],
        fix: AS_ROOT,
    },
    Right {
        collector: "rapl",
        what: "the energy that the processor takes",
        asked: |machine| {
            let file = "class/powercap/intel-rapl:0/energy_uj";
            machine.sys(file).map(drop)
        },
        costs: &["node_rapl_*_joules_total", "node_rapl_joules_total"],
        fix: AS_ROOT,
    },
    Right {
        collector: "slabinfo",
        what: "the kernel's caches of objects",
        asked: |machine| machine.proc("slabinfo").map(drop),
        costs: &[
            "node_slabinfo_active_objects",
            "node_slabinfo_object_size_bytes",
            "node_slabinfo_objects",
            "node_slabinfo_objects_per_slab",
            "node_slabinfo_pages_per_slab",
        ],
        fix: AS_ROOT,
    },
    Right {
        collector: "container_processes",
        what: "how many files other users' processes have open, which this kernel tells to \
               few (before Linux 6.2)",
        asked: |machine| machine.process(1)?.open_files().map(drop),
        costs: &["container_file_descriptors"],
        fix: TRACING,
    },
    Right {
        collector: "container_processes",
        what: "what other users' processes have open and use",
        asked: |machine| {
            // With it the flags are off, else it would be.
            let landlocked = sandbox::in_force().is_some_and(|it| it.landlock.is_ok());
            let asked = (!landlocked).then(|| machine.process(1)?.open_sockets());
            asked.map_or(Ok(()), |asked| asked.map(drop))
        },
        costs: &[
            "container_sockets (--collector.container_processes.sockets)",
            "container_referenced_bytes (--collector.container_processes.referenced)",
        ],
        fix: TRACING,
    },
];

/// Collectors that say what engines say.
const OF_ENGINES: &[&str] = &[
    "census",
    "census_images",
    "container_engine",
    "container_lifecycle",
    "container_size",
];
/// Those that say what libvirt says, and what they are said to cost: of the first, which
/// families there are is for a flag to say.
const OF_LIBVIRT: &[(&str, Option<&str>)] = &[
    ("libvirt", Some("libvirt_*")),
    ("libvirt_network", None),
    ("libvirt_pool", None),
    ("census_domains", None),
];

/// What is to be known of what was collected.
pub(super) struct Collected {
    /// The collectors that are on, with the families that they have and did not show.
    missing: BTreeMap<&'static str, Vec<&'static str>>,
    /// The mounts that this user may not go to.
    closed_mounts: Vec<String>,
}

impl Collected {
    pub(super) fn of(reports: &[(&'static str, Layer, &Report)], all: &[Entry]) -> Self {
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
            closed_mounts: families("filesystem").map_or_else(Vec::new, closed_mounts),
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

fn closed_mounts(families: &Families) -> Vec<String> {
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
pub(super) fn findings(machine: &Snapshot, collected: &Collected) -> Vec<Finding> {
    let mut found: Vec<_> = RIGHTS
        .iter()
        .filter(|right| collected.is_on(right.collector))
        .filter_map(|right| {
            let refused = (right.asked)(machine).err().filter(Error::is_refused)?;
            let text = format!(
                "without the right to read {}: {refused}. It costs {}",
                right.what,
                right.costs.join(", ")
            );
            Some(Finding::note(text).fix(right.fix))
        })
        .collect();
    found.extend(mounts(&collected.closed_mounts));
    found.extend(hidden(machine));
    found.extend(sockets(machine, collected));
    if found.is_empty() {
        let text = "this user may read what is on, but for what is said above";
        found.push(Finding::fine(text));
    }
    found
}

fn mounts(closed: &[String]) -> Option<Finding> {
    let few = few(closed.iter().map(String::as_str));
    let text = format!(
        "without the right to go where {few} is mounted. It costs container_fs_* of what is \
         mounted nowhere else, and all of node_filesystem_* but \
         node_filesystem_device_error and node_filesystem_readonly: node_filesystem_avail_bytes, \
         node_filesystem_files, node_filesystem_files_free, node_filesystem_free_bytes, \
         node_filesystem_mount_info, node_filesystem_size_bytes"
    );
    (!closed.is_empty()).then(|| Finding::note(text).fix(AS_ROOT))
}

fn hidden(machine: &Snapshot) -> Option<Finding> {
    let text = "procfs hides the processes of others (hidepid). It costs container_network_* of \
                containers, what container_processes says of them but container_processes and \
                container_threads, and of virtual machines what is read of their threads and \
                interfaces without asking libvirt";
    let fix = "run as root, or in the group that procfs is mounted with (gid=), or with \
                AmbientCapabilities=CAP_SYS_PTRACE in the unit";
    (!machine.sees_others()).then(|| Finding::note(text).fix(fix))
}

/// What there would be if daemons let this user in. How to be let in is said where these are.
fn sockets(machine: &Snapshot, collected: &Collected) -> Vec<Finding> {
    let refused = |sockets: Vec<PathBuf>| {
        let refused = sockets
            .into_iter()
            .filter(|socket| {
                let access = machine.socket_access(socket);
                matches!(access, SocketAccess::Refused { .. })
            })
            .map(|socket| socket.display().to_string());
        refused.collect::<BTreeSet<_>>()
    };
    let engines = refused(machine.engine_sockets().0);
    let libvirts = refused(machine.libvirt_sockets().0);
    let names = "the labels name, image and container_label_* of all series of containers, the \
                 label dockerVersion of cadvisor_version_info";
    let mut found = Vec::new();
    if !engines.is_empty() {
        let missing = OF_ENGINES.iter().flat_map(|it| collected.missing(it));
        let costs = std::iter::once(names.to_owned()).chain(missing);
        found.push(not_let_in(&engines, &costs.collect::<Vec<_>>()));
    }
    let of_libvirt = OF_LIBVIRT.iter().filter(|(it, _)| collected.is_on(it));
    let costs = of_libvirt.flat_map(|(it, all)| match all {
        Some(all) => vec![(*all).to_owned()],
        None => collected.missing(it),
    });
    let costs: Vec<_> = costs.collect();
    if !libvirts.is_empty() && !costs.is_empty() {
        found.push(not_let_in(&libvirts, &costs));
    }
    found
}

fn not_let_in(sockets: &BTreeSet<String>, costs: &[String]) -> Finding {
    let sockets = few(sockets.iter().map(String::as_str));
    let costs = costs.join(", ");
    let text = format!("without the right to connect to {sockets}. It costs {costs}");
    Finding::note(text).fix("see the finding about this daemon")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors;

    #[test]
    fn what_a_right_costs_is_a_family_of_the_collector_that_needs_it() {
        for right in RIGHTS {
            let mut all = collectors::ALL.iter();
            let entry = all.find(|entry| entry.name == right.collector).unwrap();
            for cost in right.costs {
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
    fn closed_mounts_cost_what_is_said_of_each_mount() {
        let finding = mounts(&["/srv/closed".to_owned()]).unwrap();
        let mut all = collectors::ALL.iter();
        let entry = all.find(|entry| entry.name == "filesystem").unwrap();
        let purgeable = "node_filesystem_purgeable_bytes";
        for metric in entry.metrics.iter().filter(|it| it.name != purgeable) {
            assert!(finding.text.contains(metric.name), "{}", metric.name);
        }
        assert_eq!(mounts(&[]), None);
    }
}
