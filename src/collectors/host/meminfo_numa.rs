//! Memory usage per NUMA node, from `/sys/devices/system/node/node*`, documented in
//! `Documentation/admin-guide/numastat.rst` and, for the fields shared with `/proc/meminfo`, in
//! `proc_meminfo(5)`.
//!
//! As in `meminfo`, every line is exposed, but the metric names do not distinguish bytes from
//! pages.

use super::meminfo::{MemInfoField, parse_field};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Memory information field *, in bytes; huge pages are a number of pages.
    MEMORY: Gauge = "node_memory_numa_*" ["node"];
    /// NUMA allocation statistics field *, in pages.
    PAGES: Counter = "node_memory_numa_*_total" ["node"];
}

#[derive(Debug)]
pub(super) struct MemInfoNuma;

impl Collector for MemInfoNuma {
    const NAME: &'static str = "meminfo_numa";
    const ABOUT: &'static str = "memory use of each NUMA node";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for dir in snapshot.sys_dir("devices/system/node")?.dirs()? {
            let name = dir.name();
            let Some(node) = name
                .strip_prefix("node")
                .filter(|n| n.parse::<u32>().is_ok())
            else {
                continue;
            };
            let text = dir.read("meminfo");
            if let Some(text) = out.ok_or_skip(text) {
                add_meminfo(&mut out, &text, node);
            }
            let text = dir.read("numastat");
            if let Some(text) = out.ok_or_skip(text) {
                add_numastat(&mut out, &text, node);
            }
        }
        Ok(out)
    }
}

fn add_meminfo(out: &mut Families, text: &Text, node: &str) {
    for mut line in text.lines() {
        // `Node 0 MemTotal: 16420536 kB`
        let (Some("Node"), Some(_)) = (line.next_word(), line.next_word()) else {
            continue;
        };
        let field = parse_field(line);
        if let Some(MemInfoField { name, value }) = out.ok_or_skip(field) {
            let value = value.unwrap_or_else(|pages| pages);
            out.add_named(&MEMORY, &name, [node], value);
        }
    }
}

fn add_numastat(out: &mut Families, text: &Text, node: &str) {
    for line in text.lines() {
        let count = parse_count(line);
        if let Some((name, count)) = out.ok_or_skip(count) {
            out.add_named(&PAGES, name, [node], count);
        }
    }
}

fn parse_count(mut line: Fields<'_>) -> Result<(&str, Value)> {
    Ok((line.word("name")?, line.parse("count")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_lines_and_skips_malformed_ones() {
        let mut out = Families::default();
        let text = "Node 3 MemTotal: 4 kB\nNode 3 Active(anon): 5 kB\nNode 3 New: 6 MB\n\
            Node 3 HugePages_Free: 7\n"
            .into();
        add_meminfo(&mut out, &text, "3");
        add_numastat(&mut out, &"numa_hit 8\nnuma_miss x\n".into(), "3");
        assert_eq!(
            out.lines(),
            [
                r#"node_memory_numa_MemTotal{node="3"} 4096"#,
                r#"node_memory_numa_Active_anon{node="3"} 5120"#,
                r#"node_memory_numa_HugePages_Free{node="3"} 7"#,
                r#"node_memory_numa_numa_hit_total{node="3"} 8"#,
            ]
        );
        assert_eq!(out.errors().0, 2);
    }
}
