//! Memory zones, from `/proc/zoneinfo`, documented in `proc_zoneinfo(5)`.
//!
//! Per-node counters are in the paragraph of the node's first zone and therefore have the label
//! of that zone.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Zone watermark pages_high: background reclaim stops above this number of free pages.
    HIGH_PAGES: Gauge = "node_zoneinfo_high_pages" ["node", "zone"];
    /// Zone watermark pages_low: background reclaim starts below this number of free pages.
    LOW_PAGES: Gauge = "node_zoneinfo_low_pages" ["node", "zone"];
    /// Present pages managed by the buddy system.
    MANAGED_PAGES: Gauge = "node_zoneinfo_managed_pages" ["node", "zone"];
    /// Zone watermark pages_min: allocations must reclaim first below this number of free pages.
    MIN_PAGES: Gauge = "node_zoneinfo_min_pages" ["node", "zone"];
    /// Number of active anonymous pages.
    NR_ACTIVE_ANON_PAGES: Gauge = "node_zoneinfo_nr_active_anon_pages" ["node", "zone"];
    /// Number of active file-backed pages.
    NR_ACTIVE_FILE_PAGES: Gauge = "node_zoneinfo_nr_active_file_pages" ["node", "zone"];
    /// Number of anonymous pages currently mapped.
    NR_ANON_PAGES: Gauge = "node_zoneinfo_nr_anon_pages" ["node", "zone"];
    /// Number of anonymous transparent huge pages currently used.
    NR_ANON_TRANSPARENT_HUGEPAGES: Gauge = "node_zoneinfo_nr_anon_transparent_hugepages" ["node", "zone"];
    /// Pages dirtied since boot.
    NR_DIRTIED: Counter = "node_zoneinfo_nr_dirtied_total" ["node", "zone"];
    /// Number of dirty pages.
    NR_DIRTY_PAGES: Gauge = "node_zoneinfo_nr_dirty_pages" ["node", "zone"];
    /// Number of file pages.
    NR_FILE_PAGES: Gauge = "node_zoneinfo_nr_file_pages" ["node", "zone"];
    /// Total number of free pages in the zone.
    NR_FREE_PAGES: Gauge = "node_zoneinfo_nr_free_pages" ["node", "zone"];
    /// Number of inactive anonymous pages.
    NR_INACTIVE_ANON_PAGES: Gauge = "node_zoneinfo_nr_inactive_anon_pages" ["node", "zone"];
    /// Number of inactive file-backed pages.
    NR_INACTIVE_FILE_PAGES: Gauge = "node_zoneinfo_nr_inactive_file_pages" ["node", "zone"];
    /// Anonymous pages temporarily isolated from the LRU lists.
    NR_ISOLATED_ANON_PAGES: Gauge = "node_zoneinfo_nr_isolated_anon_pages" ["node", "zone"];
    /// File-backed pages temporarily isolated from the LRU lists.
    NR_ISOLATED_FILE_PAGES: Gauge = "node_zoneinfo_nr_isolated_file_pages" ["node", "zone"];
    /// Size of kernel stacks in KiB since Linux 4.8, number of kernel stacks before.
    NR_KERNEL_STACKS: Gauge = "node_zoneinfo_nr_kernel_stacks" ["node", "zone"];
    /// Number of file-backed pages mapped by processes.
    NR_MAPPED_PAGES: Gauge = "node_zoneinfo_nr_mapped_pages" ["node", "zone"];
    /// Number of shared memory pages, including tmpfs.
    NR_SHMEM_PAGES: Gauge = "node_zoneinfo_nr_shmem_pages" ["node", "zone"];
    /// Number of reclaimable slab pages.
    NR_SLAB_RECLAIMABLE_PAGES: Gauge = "node_zoneinfo_nr_slab_reclaimable_pages" ["node", "zone"];
    /// Number of unreclaimable slab pages.
    NR_SLAB_UNRECLAIMABLE_PAGES: Gauge = "node_zoneinfo_nr_slab_unreclaimable_pages" ["node", "zone"];
    /// Number of unevictable pages.
    NR_UNEVICTABLE_PAGES: Gauge = "node_zoneinfo_nr_unevictable_pages" ["node", "zone"];
    /// Number of pages under writeback.
    NR_WRITEBACK_PAGES: Gauge = "node_zoneinfo_nr_writeback_pages" ["node", "zone"];
    /// Pages written back since boot.
    NR_WRITTEN: Counter = "node_zoneinfo_nr_written_total" ["node", "zone"];
    /// Pages intended for this node but allocated on another node.
    NUMA_FOREIGN: Counter = "node_zoneinfo_numa_foreign_total" ["node", "zone"];
    /// Pages allocated on this node as intended.
    NUMA_HIT: Counter = "node_zoneinfo_numa_hit_total" ["node", "zone"];
    /// Pages allocated on this node as intended by the interleave policy.
    NUMA_INTERLEAVE: Counter = "node_zoneinfo_numa_interleave_total" ["node", "zone"];
    /// Pages allocated on this node for a process running on it.
    NUMA_LOCAL: Counter = "node_zoneinfo_numa_local_total" ["node", "zone"];
    /// Pages allocated on this node although another node was intended.
    NUMA_MISS: Counter = "node_zoneinfo_numa_miss_total" ["node", "zone"];
    /// Pages allocated on this node for a process running on another node.
    NUMA_OTHER: Counter = "node_zoneinfo_numa_other_total" ["node", "zone"];
    /// Physical pages existing within the zone.
    PRESENT_PAGES: Gauge = "node_zoneinfo_present_pages" ["node", "zone"];
    /// Total pages spanned by the zone, including holes.
    SPANNED_PAGES: Gauge = "node_zoneinfo_spanned_pages" ["node", "zone"];
    /// Pages withheld from allocations that could use zone number *, lowmem_reserve of the zone.
    PROTECTION: Gauge = "node_zoneinfo_protection_*" ["node", "zone"];
}

/// Lines of a name and a number.
const LINES: [(&str, &Metric<2>); 32] = [
    ("high", &HIGH_PAGES),
    ("low", &LOW_PAGES),
    ("managed", &MANAGED_PAGES),
    ("min", &MIN_PAGES),
    ("nr_active_anon", &NR_ACTIVE_ANON_PAGES),
    ("nr_active_file", &NR_ACTIVE_FILE_PAGES),
    ("nr_anon_pages", &NR_ANON_PAGES),
    (
        "nr_anon_transparent_hugepages",
        &NR_ANON_TRANSPARENT_HUGEPAGES,
    ),
    ("nr_dirtied", &NR_DIRTIED),
    ("nr_dirty", &NR_DIRTY_PAGES),
    ("nr_file_pages", &NR_FILE_PAGES),
    ("nr_free_pages", &NR_FREE_PAGES),
    ("nr_inactive_anon", &NR_INACTIVE_ANON_PAGES),
    ("nr_inactive_file", &NR_INACTIVE_FILE_PAGES),
    ("nr_isolated_anon", &NR_ISOLATED_ANON_PAGES),
    ("nr_isolated_file", &NR_ISOLATED_FILE_PAGES),
    ("nr_kernel_stack", &NR_KERNEL_STACKS),
    ("nr_mapped", &NR_MAPPED_PAGES),
    ("nr_shmem", &NR_SHMEM_PAGES),
    ("nr_slab_reclaimable", &NR_SLAB_RECLAIMABLE_PAGES),
    ("nr_slab_unreclaimable", &NR_SLAB_UNRECLAIMABLE_PAGES),
    ("nr_unevictable", &NR_UNEVICTABLE_PAGES),
    ("nr_writeback", &NR_WRITEBACK_PAGES),
    ("nr_written", &NR_WRITTEN),
    ("numa_foreign", &NUMA_FOREIGN),
    ("numa_hit", &NUMA_HIT),
    ("numa_interleave", &NUMA_INTERLEAVE),
    ("numa_local", &NUMA_LOCAL),
    ("numa_miss", &NUMA_MISS),
    ("numa_other", &NUMA_OTHER),
    ("present", &PRESENT_PAGES),
    ("spanned", &SPANNED_PAGES),
];

#[derive(Debug)]
pub(super) struct ZoneInfo;

impl Collector for ZoneInfo {
    const NAME: &'static str = "zoneinfo";
    const ABOUT: &'static str = "memory zone statistics";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.read_proc("zoneinfo")?))
    }
}

fn families(zoneinfo: &Text) -> Families {
    let mut out = Families::default();
    let mut labels = None;
    for mut line in zoneinfo.lines() {
        let key = line.next_word().unwrap_or_default();
        if key == "Node" {
            labels = parse_labels(&mut line);
            continue;
        }
        let Some(labels) = labels else {
            continue;
        };
        if key == "protection:" {
            add_protection(&mut out, &line, labels);
        } else if key.ends_with(':') {
            // Per-CPU page lists: most of the file on hosts with many CPUs.
        } else if let Some((_, metric)) = LINES.iter().find(|(name, _)| *name == key) {
            let value = line.parse::<Value>("value");
            if let Some(value) = out.ok_or_skip(value) {
                out.add(metric, labels, value);
            }
        }
    }
    out
}

/// Parses the labels in `Node 0, zone   Normal`.
fn parse_labels<'a>(line: &mut Fields<'a>) -> Option<[&'a str; 2]> {
    let node = line.next_word()?.trim_end_matches(',');
    let _zone = line.next_word()?;
    Some([node, line.next_word()?])
}

/// Adds `protection: (0, 2963, 15866, 15866, 15866)`.
fn add_protection(out: &mut Families, line: &Fields<'_>, labels: [&str; 2]) {
    let list = line.rest().trim_matches(['(', ')']);
    let pages = list
        .split(", ")
        .map(|pages| line.parse_word(pages, "protection"));
    let pages = pages.collect::<Result<Vec<u64>>>();
    for (i, pages) in out
        .ok_or_skip(pages)
        .unwrap_or_default()
        .into_iter()
        .enumerate()
    {
        out.add_named(&PROTECTION, &i.to_string(), labels, pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_belongs_to_the_zone_above_it() {
        let text = Text::from(
            "Node 0, zone      DMA\n  per-node stats\n      nr_mapped    77\n  pages free     3840\n\
             \x20       high     37\n        protection: (0, 30)\n      nr_free_pages x\n  pagesets\n\
             \x20   cpu: 0\n              high:     99\n              high_min: 15\n\
             Node 1, zone   Normal\n        high     38\n",
        );
        let out = families(&text);
        assert_eq!(
            out.lines(),
            [
                r#"node_zoneinfo_nr_mapped_pages{node="0",zone="DMA"} 77"#,
                r#"node_zoneinfo_high_pages{node="0",zone="DMA"} 37"#,
                r#"node_zoneinfo_high_pages{node="1",zone="Normal"} 38"#,
                r#"node_zoneinfo_protection_0{node="0",zone="DMA"} 0"#,
                r#"node_zoneinfo_protection_1{node="0",zone="DMA"} 30"#,
            ]
        );
        let reason = out.errors().1.unwrap().to_string();
        assert_eq!(reason, r#"test:7: value is not a number: "x""#);
    }
}
