//! Little memory and many containers: the exporter in a control group that may have 32 MB,
//! on a machine with 1,000 containers.

use super::exporter::{Exporter, Fault, flags, started_by};
use crate::support::{
    live::Scratch,
    made_groups::{Cell, Groups},
};

const CONTAINERS: usize = 1000;
const LIMIT: u64 = 32 << 20;

#[test]
fn a_thousand_containers_are_told_of_in_32_mb() {
    let Some(groups) = Groups::new("memory", CONTAINERS) else {
        return;
    };
    let Some(cell) = Cell::new("memory-limit", LIMIT) else {
        return;
    };
    let scratch = Scratch::new("fault-memory");
    let flags = flags(
        &["container_cpu", "container_memory"],
        &[Groups::alone(&[&groups])],
    );
    let start = |prefix: &[&str]| {
        let exporter = Exporter::start(started_by(prefix), &flags, &scratch.0);
        exporter.looking_at(groups.word(), groups.is_ours())
    };
    let well = start(&[]).well("all containers", |page| groups.shown(page) == CONTAINERS);
    let exporter = start(&["sh", "-ec", "echo $$ >$0; exec \"$@\"", &cell.door()]);
    let page = exporter.suffers(
        &well,
        &Fault {
            name: "32 MB of memory, 1,000 containers",
            stays: "everything",
            from_start: true,
            // It says so when it starts.
            log_lines: 1,
            scrapes: 50,
            ..Fault::default()
        },
    );
    println!("{}", cell.said());
    assert_eq!(groups.shown(&page), CONTAINERS);
    assert_eq!(cell.kills(), 0, "{}", cell.said());
}
