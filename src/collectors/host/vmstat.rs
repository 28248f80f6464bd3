//! Virtual memory statistics, from `/proc/vmstat`, documented in `proc_vmstat(5)`.
//!
//! The fields depend on the kernel. They are counters and gauges, which the file does not
//! distinguish.

use crate::{
    collector::Collector,
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    pattern::Pattern,
    sources::{Snapshot, Text},
};

use super::positional_cache::PositionalCache;

metrics! {
    /// /proc/vmstat information field *.
    FIELD: Unknown = "node_vmstat_*" [];
}

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct VmStatFlags {
    /// Regexp of fields to return for vmstat collector.
    #[arg(
        long = "collector.vmstat.fields",
        value_name = "REGEX",
        default_value = "^(oom_kill|pgpg|pswp|pg.*fault).*"
    )]
    vmstat_fields: Pattern,
}

#[derive(Debug)]
pub(super) struct VmStat {
    fields: Pattern,
    selection: PositionalCache<bool>,
}

impl Collector for VmStat {
    const NAME: &'static str = "vmstat";
    const ABOUT: &'static str = "virtual memory statistics";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = VmStatFlags;

    fn new(flags: VmStatFlags) -> Result<Self, String> {
        Ok(Self {
            fields: flags.vmstat_fields,
            selection: PositionalCache::default(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(self.families(&snapshot.read_proc("vmstat")?))
    }
}

impl VmStat {
    fn families(&self, vmstat: &Text) -> Families {
        let mut out = Families::default();
        let mut selection = self.selection.cursor();
        for mut fields in vmstat.lines() {
            let Some(name) = fields.next_word() else {
                continue;
            };
            if !selection.next_or_insert_with(name, |name| self.fields.matches(name)) {
                continue;
            }
            if let Some(value) = out.ok_or_skip(fields.parse::<Value>("value")) {
                out.add_named(&FIELD, name, [], value);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposes_selected_fields_and_skips_malformed_ones() {
        let vmstat = VmStat {
            fields: "^(pg|swap)".parse().unwrap(),
            selection: PositionalCache::default(),
        };
        let text =
            Text::from("nr_free_pages 7\npgpgin 18446744073709551615\npgpgout x\n\npgin -3\n");
        for _ in 0..2 {
            let out = vmstat.families(&text);
            assert_eq!(
                out.lines(),
                [
                    "node_vmstat_pgpgin 18446744073709551615",
                    "node_vmstat_pgin -3"
                ]
            );
            let (skipped, reason) = out.errors();
            assert_eq!(skipped, 1);
            let reason = reason.unwrap().to_string();
            assert_eq!(reason, r#"test:3: value is not a number: "x""#);
        }
    }
}
