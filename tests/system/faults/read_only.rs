//! A machine on which every mount that the exporter sees is read-only.

use super::exporter::{Exporter, Fault, flags, made, with_mounts};
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
    made(&scratch.0, "disk");
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
        exporter.looking_at(groups.path_prefix(), groups.is_own_series())
    };
    let writable: String = READ_ONLY.lines().take(4).collect::<Vec<_>>().join("\n");
    let well = start(&writable).well("a text and groups", |page| {
        page.value("good", &[]) == Some(1.0) && groups.count_sampled(page) == 3
    });

    let flags_with_state = [
        &flags[..],
        &[format!("--census.state-directory={dir}/disk")],
    ]
    .concat();
    let command = with_mounts(&scratch.0, READ_ONLY, &[]);
    let exporter = Exporter::start(command, &flags_with_state, &scratch.0);
    let exporter = exporter.looking_at(groups.path_prefix(), groups.is_own_series());
    // The first scrapes may precede the first sample.
    exporter.recovers(&well);
    let page = exporter.suffers(
        &well,
        &Fault {
            name: "everything read-only",
            stays: "everything",
            log_lines: 1,
            from_start: true,
            ..Fault::default()
        },
    );
    assert_eq!(page.value("node_filesystem_readonly", &[]), Some(1.0));
    assert!(
        exporter
            .program
            .log()
            .contains("installation-id: Read-only file system")
    );
}
