//! Swap areas, from `/proc/swaps`, documented in `proc_swaps(5)`. Their totals are exposed by
//! the meminfo collector.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{Fields, Snapshot, Text, unescape_octal},
};

metrics! {
    /// Swap area size in bytes.
    SIZE: Gauge = "node_swap_size_bytes" ["device", "swap_type"];
    /// Swap area used bytes.
    USED: Gauge = "node_swap_used_bytes" ["device", "swap_type"];
    /// Swap area priority; the area with the highest number is used first.
    PRIORITY: Gauge = "node_swap_priority" ["device", "swap_type"];
}

#[derive(Debug)]
pub(super) struct Swap;

impl Collector for Swap {
    const NAME: &'static str = "swap";
    const ABOUT: &'static str = "size and usage of each swap area";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.read_proc("swaps")?))
    }
}

struct SwapArea<'a> {
    device: &'a str,
    swap_type: &'a str,
    /// In kB, as is `used`.
    size: u64,
    used: u64,
    priority: i64,
}

fn families(swaps: &Text) -> Families {
    let mut out = Families::default();
    // The first line is the header.
    for fields in swaps.lines().skip(1) {
        if let Some(area) = out.ok_or_skip(parse_area(fields)) {
            let device = unescape_octal(area.device);
            let labels = [&*device, area.swap_type];
            out.add(&SIZE, labels, Value::product(area.size, 1024));
            out.add(&USED, labels, Value::product(area.used, 1024));
            out.add(&PRIORITY, labels, area.priority);
        }
    }
    out
}

fn parse_area(mut fields: Fields<'_>) -> Result<SwapArea<'_>> {
    Ok(SwapArea {
        device: fields.word("filename")?,
        swap_type: fields.word("type")?,
        size: fields.parse("size")?,
        used: fields.parse("used")?,
        priority: fields.parse("priority")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    #[test]
    fn malformed_area_is_skipped() {
        let text = format!(
            "{HEADING}/dev/dm-1  partition\t4000\t30\t-2\n/dev/zram0 partition 1 x 5\n/swap\\040file file 200 1 7\n"
        );
        let out = families(&Text::from(text.as_str()));
        assert_eq!(
            out.lines(),
            [
                r#"node_swap_size_bytes{device="/dev/dm-1",swap_type="partition"} 4096000"#,
                r#"node_swap_size_bytes{device="/swap file",swap_type="file"} 204800"#,
                r#"node_swap_used_bytes{device="/dev/dm-1",swap_type="partition"} 30720"#,
                r#"node_swap_used_bytes{device="/swap file",swap_type="file"} 1024"#,
                r#"node_swap_priority{device="/dev/dm-1",swap_type="partition"} -2"#,
                r#"node_swap_priority{device="/swap file",swap_type="file"} 7"#,
            ]
        );
        assert_eq!(out.errors().0, 1);
    }

    #[test]
    fn no_swap_yields_no_series() {
        let out = families(&Text::from(HEADING));
        assert!(out.is_empty());
        assert_eq!(out.errors().0, 0);
    }
}
