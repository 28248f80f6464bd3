//! A machine on which every mount that the exporter sees is read-only.

use super::exporter::{Exporter, Fault, flags, subdir, with_mounts};
use crate::support::{can_mount, server_process::TempDir, synthetic_cgroups::SyntheticCgroups};

/// Innermost first, because a mount may hide another.
const READ_ONLY: &str = r#"mount --bind /proc/$$ /proc/1
    mount -i -t tmpfs -o size=1m ours disk
    mkdir disk/texts
    echo 'good 1' >disk/texts/good.prom
    awk '{ print $2 }' /proc/self/mounts | sort -r | while read -r place; do
        mount -o remount,bind,ro "$place"
    done
    if touch disk/x || touch /x || mkdir /sys/fs/cgroup/memory/x; then exit 1; fi 2>/dev/null"#;

#[test]
fn read_only_mounts_cost_nothing() {
    if !can_mount() {
        return;
    }
    let Some(groups) = SyntheticCgroups::new("read-only", 3) else {
        return;
    };
    let scratch = TempDir::new("fault-read-only");
    subdir(&scratch.0, "disk");
    let dir = scratch.0.display();
    let flags = flags(
        &[
            "census_timezone",
            "container_cpu",
            "container_memory",
            "filesystem",
            "history",
            "textfile",
        ],
        &[
            format!("--collector.filesystem.mount-points-include=^{dir}/"),
            format!("--collector.textfile.directory={dir}/disk/texts"),
            SyntheticCgroups::exclude_others_flag(&[&groups]),
        ],
    );
    let start = |script: &str| {
        let exporter = Exporter::start(with_mounts(&scratch.0, script, &[]), &flags, &scratch.0);
        exporter.restrict_to(groups.path_prefix(), groups.is_own_series())
    };
    let writable: String = READ_ONLY.lines().take(4).collect::<Vec<_>>().join("\n");
    let baseline = start(&writable).wait_until_stable("a text and groups", |metrics| {
        metrics.value("good", &[]) == Some(1.0) && groups.count_sampled(metrics) == 3
    });

    let flags_with_state = [
        &flags[..],
        &[format!("--census.state-directory={dir}/disk")],
    ]
    .concat();
    let command = with_mounts(&scratch.0, READ_ONLY, &[]);
    let exporter = Exporter::start(command, &flags_with_state, &scratch.0);
    let exporter = exporter.restrict_to(groups.path_prefix(), groups.is_own_series());
    // The first scrapes may precede the first sample.
    exporter.assert_recovers(&baseline);
    let metrics = exporter.assert_fault(
        &baseline,
        &Fault {
            name: "everything read-only",
            remaining: "everything",
            log_lines: 1,
            from_start: true,
            ..Fault::default()
        },
    );
    assert_eq!(metrics.value("node_filesystem_readonly", &[]), Some(1.0));
    assert!(
        exporter
            .program
            .log()
            .contains("installation-id: Read-only file system")
    );
}
