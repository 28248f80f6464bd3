//! File descriptors run out: clients hold connections until the exporter has none left, while each
//! cgroup needs one.

use std::{net::TcpStream, thread, time::Duration};

use super::exporter::{Exporter, Fault, flags, subdir, wrapped_command};
use crate::support::{
    is_installed,
    server_process::{TempDir, wait_until},
    skip,
    synthetic_cgroups::SyntheticCgroups,
};

/// More cgroups than there are descriptors for.
const NUMBER: usize = 20;

#[test]
fn descriptor_exhaustion_is_survived() {
    if !is_installed("prlimit") {
        return skip("prlimit");
    }
    let Some(groups) = SyntheticCgroups::new("descriptors", NUMBER) else {
        return;
    };
    let scratch = TempDir::new("fault-descriptors");
    let texts = subdir(&scratch.0, "texts");
    std::fs::write(texts.join("good.prom"), "good 1\n").unwrap();
    let directory = format!("--collector.textfile.directory={}", texts.display());
    let flags = flags(
        &["container_cpu", "container_memory", "filefd", "textfile"],
        &[directory, SyntheticCgroups::exclude_others_flag(&[&groups])],
    );
    let exporter = Exporter::start(
        wrapped_command(&["prlimit", "--nofile=64:64"]),
        &flags,
        &scratch.0,
    );
    let exporter = exporter.restrict_to(groups.path_prefix(), groups.is_own_series());
    let baseline = exporter.wait_until_stable("all groups", |metrics| {
        metrics.value("good", &[]) == Some(1.0) && groups.count_exposed(metrics) == NUMBER
    });

    let address = exporter.program.address;
    let connect = || {
        (0..200)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect::<Vec<_>>()
    };
    let connections = connect();
    let metrics = exporter.assert_fault(
        &baseline,
        &Fault {
            name: "no file descriptors",
            remaining: "everything; the longest idle connection is closed for a new one",
            fds: 16,
            log_lines: 1,
            ..Fault::default()
        },
    );
    assert_eq!(metrics.value("process_max_fds", &[]), Some(64.0));
    drop(connections);
    wait_until("no connections", || {
        thread::sleep(Duration::from_millis(10));
        let metrics = exporter.scrape();
        (metrics.value("strata_http_connections", &[]) == Some(1.0)).then_some(())
    });
    exporter.assert_recovers(&baseline);
}
