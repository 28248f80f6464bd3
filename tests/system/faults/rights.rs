//! An unprivileged exporter: no capabilities, a user that owns nothing, and a procfs that hides
//! other users' processes.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use super::exporter::{Exporter, Fault, flags, subdir, with_mounts, wrapped_command};
use crate::support::{
    can_mount, is_installed, server_process::TempDir, skip, synthetic_cgroups::SyntheticCgroups,
};

const NOBODY: [&str; 6] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--bounding-set=-all",
    "--no-new-privs",
];
/// Collectors that show processes.
const PROCESSES: [&str; 2] = ["processes", "container_processes"];

#[test]
fn missing_capabilities_cost_only_what_needs_them() {
    let Some(groups) = groups("nobody") else {
        return;
    };
    let scratch = TempDir::new("fault-nobody");
    let (flags, texts) = line(&scratch, &groups);
    let start = |prefix: &[&str]| {
        let exporter = Exporter::start(wrapped_command(prefix), &flags, &scratch.0);
        exporter.restrict_to(groups.path_prefix(), groups.is_own_series())
    };
    let baseline = start(&[]).wait_until_stable("everything", |metrics| {
        metrics.value("good", &[]) == Some(1.0) && groups.count_exposed(metrics) == 3
    });
    let exporter = start(&NOBODY);
    exporter.assert_fault(
        &baseline,
        &Fault {
            name: "no capabilities",
            remaining: "everything, but open files of others' processes",
            may_lose: &|_, _| false,
            log_lines: 3,
            from_start: true,
            ..Fault::default()
        },
    );
    fs::remove_dir_all(texts).unwrap();
}

#[test]
fn hidden_processes_are_absent_not_miscounted() {
    if !can_mount() {
        return;
    }
    let Some(groups) = groups("hidepid") else {
        return;
    };
    let scratch = TempDir::new("fault-hidepid");
    let (flags, _) = line(&scratch, &groups);
    let start = |script: &str| {
        let exporter =
            Exporter::start(with_mounts(&scratch.0, script, &NOBODY), &flags, &scratch.0);
        exporter.restrict_to(groups.path_prefix(), groups.is_own_series())
    };
    let baseline = start("").wait_until_stable("everything", |metrics| {
        metrics.value("good", &[]) == Some(1.0) && groups.count_exposed(metrics) == 3
    });
    let process = Sleeper::new();
    groups.add_process(0, process.0.id());
    let exporter = start("mount -t proc -o hidepid=2 proc /proc");
    let metrics = exporter.assert_fault(
        &baseline,
        &Fault {
            name: "procfs with hidepid=2",
            remaining: "everything but sums over processes that cannot be seen: `node_processes_*`, `container_file_descriptors`",
            may_lose: &|name, _| {
                name.starts_with("node_processes_") || name == "container_file_descriptors"
            },
            log_lines: 3,
            from_start: true,
            ..Fault::default()
        },
    );
    // The cgroup's process count comes from the cgroup, not from procfs.
    let is_ours = groups.is_own_series();
    let value_of = |family: &str| {
        let all = metrics
            .series_named(family)
            .filter(|(labels, _)| is_ours(labels));
        all.map(|(_, value)| value).sum::<f64>()
    };
    assert_eq!(value_of("container_processes"), 1.0);
    let descriptors = metrics.series_named("container_file_descriptors");
    let stderr = descriptors.filter(|(labels, _)| is_ours(labels)).count();
    assert_eq!(stderr, 2, "of the groups that have no process");
    for family in [
        "node_processes_pids",
        "node_processes_threads",
        "node_processes_state",
    ] {
        assert_eq!(metrics.series_named(family).next(), None, "{family}");
    }
    drop(process);
}

/// A process of root.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        let mut sleep = Command::new("sleep");
        let sleep = sleep.arg("infinity").stdout(Stdio::null());
        Self(sleep.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _result = self.0.kill();
        let _result = self.0.wait();
    }
}

fn groups(test: &str) -> Option<SyntheticCgroups> {
    if !is_installed("setpriv") {
        skip("setpriv");
        return None;
    }
    SyntheticCgroups::new(test, 3)
}

/// The command line, and a directory of text files.
fn line(scratch: &TempDir, groups: &SyntheticCgroups) -> (Vec<String>, std::path::PathBuf) {
    let texts = subdir(&scratch.0, "texts");
    fs::write(texts.join("good.prom"), "good 1\n").unwrap();
    let directory = format!("--collector.textfile.directory={}", texts.display());
    let collectors = [
        &[
            "container_cpu",
            "container_memory",
            "netdev",
            "textfile",
            "timex",
        ],
        &PROCESSES[..],
    ];
    (
        flags(
            &collectors.concat(),
            &[directory, SyntheticCgroups::exclude_others_flag(&[groups])],
        ),
        texts,
    )
}
