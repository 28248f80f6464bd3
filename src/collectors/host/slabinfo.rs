//! Kernel slab caches, from `/proc/slabinfo`, documented in `slabinfo(5)`. Readable only by
//! root.

use crate::{
    collector::Collector,
    error::Result,
    family::Families,
    metric::{Desc, Metric},
    metrics,
    pattern::Pattern,
    sources::{Fields, Snapshot, Text},
};

use super::positional_cache::PositionalCache;

metrics! {
    /// The number of objects that are currently active (i.e., in use).
    ACTIVE_OBJECTS: Gauge = "node_slabinfo_active_objects" ["slab"];
    /// The total number of allocated objects (i.e., objects that are both in use and not in use).
    OBJECTS: Gauge = "node_slabinfo_objects" ["slab"];
    /// The size of objects in this slab, in bytes.
    OBJECT_SIZE: Gauge = "node_slabinfo_object_size_bytes" ["slab"];
    /// The number of objects stored in each slab.
    OBJECTS_PER_SLAB: Gauge = "node_slabinfo_objects_per_slab" ["slab"];
    /// The number of pages allocated for each slab.
    PAGES_PER_SLAB: Gauge = "node_slabinfo_pages_per_slab" ["slab"];
}

/// The columns after the name.
static COLUMNS: [(&Metric<1>, &str); 5] = [
    (&ACTIVE_OBJECTS, "active_objs"),
    (&OBJECTS, "num_objs"),
    (&OBJECT_SIZE, "objsize"),
    (&OBJECTS_PER_SLAB, "objperslab"),
    (&PAGES_PER_SLAB, "pagesperslab"),
];

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct SlabInfoFlags {
    /// Regexp of slabs to include.
    #[arg(
        long = "collector.slabinfo.slabs-include",
        value_name = "REGEX",
        default_value = ".*"
    )]
    slabinfo_slabs_include: Pattern,
    /// Regexp of slabs to exclude, applied after slabs-include.
    #[arg(
        long = "collector.slabinfo.slabs-exclude",
        value_name = "REGEX",
        default_value = ""
    )]
    slabinfo_slabs_exclude: Pattern,
}

#[derive(Debug)]
pub(super) struct SlabInfo {
    include: Pattern,
    exclude: Pattern,
    selection: PositionalCache<bool>,
}

impl Collector for SlabInfo {
    const NAME: &'static str = "slabinfo";
    const ABOUT: &'static str = "slab allocator statistics";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = SlabInfoFlags;

    fn new(flags: SlabInfoFlags) -> Result<Self, String> {
        Ok(Self {
            include: flags.slabinfo_slabs_include,
            exclude: flags.slabinfo_slabs_exclude,
            selection: PositionalCache::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(self.families(&snapshot.read_proc("slabinfo")?))
    }
}

impl SlabInfo {
    fn is_selected(&self, slab: &str) -> bool {
        // An empty include pattern selects everything.
        (self.include.is_empty() || self.include.matches(slab)) && !self.exclude.matches(slab)
    }

    fn families(&self, slabinfo: &Text) -> Families {
        let mut out = Families::default();
        let mut selection = self.selection.cursor();
        // The first line is the version, the second the header.
        for mut fields in slabinfo.lines().skip(2) {
            let Some(slab) = fields.next_word() else {
                continue;
            };
            if !selection.next_or_insert_with(slab, |slab| self.is_selected(slab)) {
                continue;
            }
            if let Some(values) = out.ok_or_skip(parse_values(fields)) {
                for ((metric, _), value) in COLUMNS.iter().zip(values) {
                    out.add(metric, [slab], value);
                }
            }
        }
        out
    }
}

fn parse_values(mut fields: Fields<'_>) -> Result<[u64; COLUMNS.len()]> {
    let mut values = [0; COLUMNS.len()];
    for ((_, column), value) in COLUMNS.iter().zip(&mut values) {
        *value = fields.parse(column)?;
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLABINFO: &str = "\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables
TCP 26 39 2496 13 8 : tunables 0 0 0 : slabdata 3 3 0
kmalloc-8 1 2 8 x 1 : tunables 0 0 0 : slabdata 0 0 0
kmalloc-16 510 512 16 256 1 : tunables 0 0 0 : slabdata 2 2 0
";

    fn slabinfo(include: &str, exclude: &str) -> SlabInfo {
        SlabInfo {
            include: include.parse().unwrap(),
            exclude: exclude.parse().unwrap(),
            selection: PositionalCache::default(),
        }
    }

    #[test]
    fn malformed_line_is_skipped() {
        let out = slabinfo("", "^TCP$").families(&Text::from(SLABINFO));
        assert_eq!(
            out.lines(),
            [
                r#"node_slabinfo_active_objects{slab="kmalloc-16"} 510"#,
                r#"node_slabinfo_objects{slab="kmalloc-16"} 512"#,
                r#"node_slabinfo_object_size_bytes{slab="kmalloc-16"} 16"#,
                r#"node_slabinfo_objects_per_slab{slab="kmalloc-16"} 256"#,
                r#"node_slabinfo_pages_per_slab{slab="kmalloc-16"} 1"#,
            ]
        );
        assert_eq!(out.errors().0, 1);
    }

    #[test]
    fn include_and_exclude_filters_apply() {
        let slabs = |include, exclude| {
            let out = slabinfo(include, exclude).families(&Text::from(SLABINFO));
            out.get(0).map_or(0, crate::family::Family::len)
        };
        assert_eq!(slabs(".*", ""), 2);
        assert_eq!(slabs("TCP", ""), 1);
        assert_eq!(slabs(".*", "TCP|kmalloc"), 0);
    }
}
