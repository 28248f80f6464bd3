//! A FUSE file system whose server never replies: statfs(2) blocks.

use super::exporter::{BIND_OWN_MOUNTS, Exporter, Fault, flags, subdir, with_mounts};
use crate::support::{can_mount_fuse, server_process::TempDir, spawn_mount_server};

const MOUNTS: &str = "mount -i -t tmpfs -o size=1m ours good";
const SERVE: &str = r#"exec 7<>/dev/fuse
    mount -i -t fuse -o fd=7,rootmode=40000,user_id=0,group_id=0 nobody "$0/stuck"
    echo mounted
    read never"#;

#[test]
fn hanging_mount_costs_its_timeout_once() {
    if !can_mount_fuse() {
        return;
    }
    let scratch = TempDir::new("fault-mount");
    for name in ["good", "stuck"] {
        subdir(&scratch.0, name);
    }
    let dir = scratch.0.display();
    let more = [
        format!("--collector.filesystem.mount-points-include=^{dir}/"),
        "--collector.filesystem.mount-timeout=1s".to_owned(),
    ];
    let exporter = Exporter::start(
        with_mounts(&scratch.0, &format!("{BIND_OWN_MOUNTS}{MOUNTS}"), &[]),
        &flags(&["filesystem"], &more),
        &scratch.0,
    );
    let mountpoint = |name: &str| format!("{dir}/{name}");
    let (good, stuck) = (mountpoint("good"), mountpoint("stuck"));
    let size = "node_filesystem_size_bytes";
    let baseline = exporter.wait_until_stable("a mount", |metrics| {
        metrics.value(size, &[("mountpoint", &good)]) == Some(1_048_576.0)
    });

    let mut server = spawn_mount_server(&mut exporter.namespace_command(&scratch.0, SERVE));
    let metrics = exporter.assert_fault(
        &baseline,
        &Fault {
            name: "a mount that never responds",
            remaining: "everything; of the mount `node_filesystem_device_error` 1 and no sizes",
            threads: 1,
            log_lines: 2,
            ..Fault::default()
        },
    );
    let mut errors = metrics.series_named("node_filesystem_device_error");
    let (labels, value) = errors
        .find(|(labels, _)| labels["mountpoint"] == stuck)
        .unwrap();
    assert_eq!(value, 1.0);
    assert_eq!(labels["device_error"], "mountpoint timeout");
    assert_eq!(metrics.value(size, &[("mountpoint", &stuck)]), None);

    server.kill().unwrap();
    server.wait().unwrap();
    exporter.run_in_namespace(&scratch.0, "umount -i -l \"$0/stuck\"");
    exporter.assert_recovers(&baseline);
    let metrics = exporter.scrape();
    let error = "node_filesystem_device_error";
    assert_eq!(metrics.value(error, &[("mountpoint", &stuck)]), None);
}
