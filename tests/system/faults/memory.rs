//! Little memory and many containers: the exporter in a cgroup limited to 32 MB, on a machine with
//! 1,000 containers.

use super::exporter::{Exporter, Fault, flags, wrapped_command};
use crate::support::{
    server_process::TempDir,
    synthetic_cgroups::{MemoryLimitedCgroup, SyntheticCgroups},
};

const CONTAINERS: usize = 1000;
const LIMIT: u64 = 32 << 20;

#[test]
fn thousand_containers_fit_in_32_mb() {
    let Some(groups) = SyntheticCgroups::new("memory", CONTAINERS) else {
        return;
    };
    let Some(cell) = MemoryLimitedCgroup::new("memory-limit", LIMIT) else {
        return;
    };
    let scratch = TempDir::new("fault-memory");
    let flags = flags(
        &["container_cpu", "container_memory"],
        &[SyntheticCgroups::exclude_others_flag(&[&groups])],
    );
    let start = |prefix: &[&str]| {
        let exporter = Exporter::start(wrapped_command(prefix), &flags, &scratch.0);
        exporter.restrict_to(groups.path_prefix(), groups.is_own_series())
    };
    let baseline = start(&[]).wait_until_stable("all containers", |metrics| {
        groups.count_exposed(metrics) == CONTAINERS
    });
    let exporter = start(&["sh", "-ec", "echo $$ >$0; exec \"$@\"", &cell.procs_path()]);
    let metrics = exporter.assert_fault(
        &baseline,
        &Fault {
            name: "32 MB of memory, 1,000 containers",
            remaining: "everything",
            from_start: true,
            // Logged once at startup.
            log_lines: 1,
            scrapes: 50,
            ..Fault::default()
        },
    );
    println!("{}", cell.usage_summary());
    assert_eq!(groups.count_exposed(&metrics), CONTAINERS);
    assert_eq!(cell.oom_kills(), 0, "{}", cell.usage_summary());
}
