//! A full disk that holds the exporter's state, text files and log.

use super::exporter::{BIND_OWN_MOUNTS, Exporter, Fault, flags, subdir, with_mounts};
use crate::support::{can_mount, server_process::TempDir};

/// A separate file system with a text file.
const DISK: &str = "mount -i -t tmpfs -o size=1m ours disk
    mkdir -p disk/state disk/texts
    echo 'good 1' >disk/texts/good.prom";
const FILL: &str = r#"! dd if=/dev/zero of="$0/disk/much" bs=64k 2>/dev/null
    ! echo 'late 1' >"$0/disk/texts/late.prom" || exit 1"#;
/// A second one without earlier state, where even the log has no space.
const FULL: &str = "
    dd if=/dev/zero of=disk/much bs=64k 2>/dev/null || true
    exec 2>disk/log 1>&2";

#[test]
fn full_disk_costs_nothing() {
    if !can_mount() {
        return;
    }
    let scratch = TempDir::new("fault-disk");
    subdir(&scratch.0, "disk");
    let dir = scratch.0.display();
    let flags = flags(
        &["census_timezone", "filesystem", "textfile"],
        &[
            format!("--collector.filesystem.mount-points-include=^{dir}/"),
            format!("--collector.textfile.directory={dir}/disk/texts"),
            format!("--census.state-directory={dir}/disk/state"),
        ],
    );
    let exporter = Exporter::start(
        with_mounts(&scratch.0, &format!("{BIND_OWN_MOUNTS}{DISK}"), &[]),
        &flags,
        &scratch.0,
    );
    let free = "node_filesystem_avail_bytes";
    let baseline = exporter.wait_until_stable("a disk", |metrics| {
        metrics.value("good", &[]) == Some(1.0) && metrics.value(free, &[]) > Some(0.0)
    });
    let id = || {
        let census = exporter.program.get("/api/v1/census", "").unwrap();
        let id = census.split("\"installation_id\":\"").nth(1).unwrap();
        id.split('"').next().unwrap().to_owned()
    };
    let before = id();

    exporter.run_in_namespace(&scratch.0, FILL);
    let metrics = exporter.assert_fault(
        &baseline,
        &Fault {
            name: "the disk is full",
            remaining: "everything",
            ..Fault::default()
        },
    );
    assert_eq!(metrics.value(free, &[]), Some(0.0));
    assert_eq!(metrics.value("late", &[]), None);
    assert_eq!(id(), before);

    // A second exporter, started while the disk is full.
    let script = format!("{BIND_OWN_MOUNTS}{DISK}\n{FULL}");
    let other = Exporter::start(with_mounts(&scratch.0, &script, &[]), &flags, &scratch.0);
    let metrics = other.scrape();
    assert_eq!(metrics.value("good", &[]), Some(1.0));
    assert_eq!(metrics.value(free, &[]), Some(0.0));
    assert!(other.program.get("/api/v1/census", "").is_ok());
    assert!(other.program.log().is_empty());

    exporter.run_in_namespace(&scratch.0, "rm \"$0/disk/much\"");
    exporter.assert_recovers(&baseline);
    assert!(exporter.scrape().value(free, &[]) > Some(0.0));
}
