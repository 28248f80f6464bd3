//! Statistics of network caches and connection tracking for each CPU, from `/proc/net/stat/*`,
//! documented in `lnstat(8)`.
//!
//! All columns are exposed as counters, as in `node_exporter`, although `entries` is a gauge.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Snapshot, Text},
};

metrics! {
    /// Column * of the subsystem's table; entries is not a counter but the current size of the
    /// whole cache.
    COLUMN: Counter = "node_lnstat_*_total" ["cpu", "subsystem"];
}

#[derive(Debug)]
pub(super) struct LnStat;

impl Collector for LnStat {
    const NAME: &'static str = "lnstat";
    const ABOUT: &'static str = "network cache statistics";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let dir = snapshot.proc_dir("net/stat")?;
        for name in dir.names()? {
            if let Some(text) = out.ok_or_skip(dir.read(&name)) {
                add_table(&mut out, &name.to_string_lossy(), &text);
            }
        }
        Ok(out)
    }
}

fn add_table(out: &mut Families, subsystem: &str, text: &Text) {
    let names: Vec<_> = column_names(text).collect();
    for (cpu, row) in parse_rows(text, names.len()).enumerate() {
        let Some(row) = out.ok_or_skip(row) else {
            continue;
        };
        let mut buffer = itoa::Buffer::new();
        let cpu = buffer.format(cpu);
        for (name, count) in names.iter().zip(row) {
            out.add_named(&COLUMN, name, [cpu, subsystem], count);
        }
    }
}

/// Returns the column names.
pub(super) fn column_names(text: &Text) -> impl Iterator<Item = &str> {
    let head = text.body().lines().next().unwrap_or_default();
    head.split_ascii_whitespace()
}

/// Parses the rows, one per CPU, each with as many numbers as there are columns.
pub(super) fn parse_rows(text: &Text, columns: usize) -> impl Iterator<Item = Result<Vec<u64>>> {
    text.lines().skip(1).map(move |mut line| {
        let mut row = Vec::with_capacity(columns);
        while let Some(word) = line.next_word() {
            row.push(line.parse_hex(word, "column")?);
        }
        match row.len() {
            len if len == columns => Ok(row),
            len => Err(line.error(format_args!("expected {columns} columns, found {len}"))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cpu_has_a_line() {
        let mut out = Families::default();
        let text = Text::from("entries  hits\t new\n0000000a 00000002 1\n0000000a ffffffff 3\n");
        add_table(&mut out, "arp_cache", &text);
        assert_eq!(
            out.lines(),
            [
                r#"node_lnstat_entries_total{cpu="0",subsystem="arp_cache"} 10"#,
                r#"node_lnstat_entries_total{cpu="1",subsystem="arp_cache"} 10"#,
                r#"node_lnstat_hits_total{cpu="0",subsystem="arp_cache"} 2"#,
                r#"node_lnstat_hits_total{cpu="1",subsystem="arp_cache"} 4294967295"#,
                r#"node_lnstat_new_total{cpu="0",subsystem="arp_cache"} 1"#,
                r#"node_lnstat_new_total{cpu="1",subsystem="arp_cache"} 3"#,
            ]
        );
    }

    #[test]
    fn line_with_wrong_column_count_is_skipped() {
        let mut out = Families::default();
        add_table(&mut out, "x", &Text::from("a b\n1\n1 2 3\n1 z\n4 5\n"));
        assert_eq!(
            out.lines(),
            [
                r#"node_lnstat_a_total{cpu="3",subsystem="x"} 4"#,
                r#"node_lnstat_b_total{cpu="3",subsystem="x"} 5"#,
            ]
        );
        assert_eq!(out.errors().0, 3);
        let reason = out.errors().1.unwrap().to_string();
        assert_eq!(reason, "test:2: expected 2 columns, found 1");
    }
}
