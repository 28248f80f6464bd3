//! Free memory fragmentation, from `/proc/buddyinfo`, documented in
//! `Documentation/filesystems/proc.rst`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Free memory blocks by size, as an exponent of two in pages (size 3 is 8 pages).
    BLOCKS: Gauge = "node_buddyinfo_blocks" ["node", "size", "zone"];
}

#[derive(Debug)]
pub(super) struct BuddyInfo;

impl Collector for BuddyInfo {
    const NAME: &'static str = "buddyinfo";
    const ABOUT: &'static str = "memory fragmentation";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.read_proc("buddyinfo")?))
    }
}

fn families(buddyinfo: &Text) -> Families {
    let mut out = Families::default();
    for line in buddyinfo.lines() {
        let zone = parse_zone(line);
        if let Some((node, zone, counts)) = out.ok_or_skip(zone) {
            for (size, count) in counts.into_iter().enumerate() {
                out.add(&BLOCKS, [node, &size.to_string(), zone], count);
            }
        }
    }
    out
}

/// `Node 0, zone   Normal   4381   1093 ...`
fn parse_zone(mut line: Fields<'_>) -> Result<(&str, &str, Vec<u64>)> {
    line.word("Node")?;
    let node = line.word("node")?.trim_end_matches(',');
    line.word("zone")?;
    let zone = line.word("zone name")?;
    let mut counts = Vec::new();
    while let Some(count) = line.parse_opt("count")? {
        counts.push(count);
    }
    Ok((node, zone, counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_line_skips_only_its_zone() {
        let text = Text::from("Node 1, zone   Normal   41   0\nNode 2, zone   DMA   5   x\n");
        let out = families(&text);
        assert_eq!(
            out.lines(),
            [
                r#"node_buddyinfo_blocks{node="1",size="0",zone="Normal"} 41"#,
                r#"node_buddyinfo_blocks{node="1",size="1",zone="Normal"} 0"#,
            ]
        );
        assert_eq!(out.errors().0, 1);
    }
}
