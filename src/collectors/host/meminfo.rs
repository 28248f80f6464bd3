//! Memory usage, from `/proc/meminfo`, documented in `proc_meminfo(5)`.
//!
//! New kernels add fields, so metric names are derived from the file instead of a list: every
//! line is exposed.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{Fields, Snapshot},
};

metrics! {
    /// Memory information field *_bytes.
    BYTES: Gauge = "node_memory_*_bytes" [];
    /// Memory information field *.
    COUNT: Gauge = "node_memory_*" [];
}

#[derive(Debug)]
pub(super) struct MemInfo;

impl Collector for MemInfo {
    const NAME: &'static str = "meminfo";
    const ABOUT: &'static str = "memory use";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for fields in snapshot.read_proc("meminfo")?.lines() {
            let field = parse_field(fields);
            match out.ok_or_skip(field) {
                Some(MemInfoField {
                    name,
                    value: Ok(bytes),
                }) => out.add_named(&BYTES, &name, [], bytes),
                Some(MemInfoField {
                    name,
                    value: Err(count),
                }) => out.add_named(&COUNT, &name, [], count),
                None => {}
            }
        }
        Ok(out)
    }
}

/// A line: a value in bytes, or a number of pages.
pub(super) struct MemInfoField {
    pub(super) name: String,
    pub(super) value: Result<Value, Value>,
}

pub(super) fn parse_field(mut fields: Fields<'_>) -> Result<MemInfoField> {
    // `Active(anon):` becomes `node_memory_Active_anon_bytes`.
    let name = fields.word("field")?.trim_end_matches(':');
    let name = name.replace('(', "_").replace(')', "");
    let value: u64 = fields.parse("value")?;
    let value = match fields.next_word() {
        Some("kB") => Ok(Value::product(value, 1024)),
        None => Err(value.into()),
        Some(unit) => return Err(fields.error(format_args!("unknown unit {unit:?}"))),
    };
    Ok(MemInfoField { name, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Text;

    #[test]
    fn malformed_line_is_skipped() {
        let text = Text::from("MemTotal: 3 kB\nOdd: x kB\nHugePages_Free: 4\nActive(anon): 5 kB\n");
        let fields: Vec<_> = text
            .lines()
            .map(|line| {
                parse_field(line)
                    .map(|f| (f.name, f.value))
                    .map_err(|e| e.to_string())
            })
            .collect();
        assert_eq!(
            fields,
            [
                Ok(("MemTotal".into(), Ok(Value::Unsigned(3072)))),
                Err(r#"test:2: value is not a number: "x""#.into()),
                Ok(("HugePages_Free".into(), Err(Value::Unsigned(4)))),
                Ok(("Active_anon".into(), Ok(Value::Unsigned(5120)))),
            ]
        );
    }
}
