//! Allocated file handles of the whole machine, from `/proc/sys/fs/file-nr`, documented in
//! `proc_sys_fs(5)`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{Snapshot, Text},
};

metrics! {
    /// Number of allocated file handles.
    ALLOCATED: Gauge = "node_filefd_allocated" [];
    /// Maximum number of file handles.
    MAXIMUM: Gauge = "node_filefd_maximum" [];
}

#[derive(Debug)]
pub(super) struct FileFd;

impl Collector for FileFd {
    const NAME: &'static str = "filefd";
    const ABOUT: &'static str = "file handles in use";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        families(&snapshot.read_proc("sys/fs/file-nr")?)
    }
}

fn families(file_nr: &Text) -> Result<Families> {
    let mut fields = file_nr.line()?;
    let mut out = Families::default();
    out.add(&ALLOCATED, [], fields.parse::<Value>("allocated")?);
    // Allocated but unused handles; always 0 since Linux 2.6.
    let _unused = fields.next_word();
    out.add(&MAXIMUM, [], fields.parse::<Value>("maximum")?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_unused_handles_column() {
        let out = families(&Text::from("846\t7\t9223372036854775807\n")).unwrap();
        assert_eq!(
            out.lines(),
            [
                "node_filefd_allocated 846",
                "node_filefd_maximum 9223372036854775807"
            ]
        );
        let error = families(&Text::from("846\t7\n")).unwrap_err().to_string();
        assert_eq!(error, "test:1: maximum is missing");
    }
}
