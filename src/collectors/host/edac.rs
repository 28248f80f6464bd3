//! Errors that ECC memory corrected or could not, from `devices/system/edac/mc` in
//! sysfs, documented in the kernel's `admin-guide/RAS/main.rst`.
//!
//! A controller counts an error for which it cannot name the row in its `noinfo`
//! files; these are the row `unknown`. Where there is no EDAC driver there is
//! nothing to expose and nothing wrong: like `node_exporter`, that is a success.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::{Desc, Metric},
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Memory errors that this controller corrected, whatever the row.
    CORRECTABLE: Counter = "node_edac_correctable_errors_total" ["controller"];
    /// Memory errors that this controller could not correct, whatever the row.
    UNCORRECTABLE: Counter = "node_edac_uncorrectable_errors_total" ["controller"];
    /// Corrected memory errors of this row of chips; row unknown are those the controller could not place.
    CSROW_CORRECTABLE: Counter = "node_edac_csrow_correctable_errors_total" ["controller", "csrow"];
    /// Memory errors of this row of chips that could not be corrected; row unknown are those the controller could not place.
    CSROW_UNCORRECTABLE: Counter = "node_edac_csrow_uncorrectable_errors_total" ["controller", "csrow"];
    /// Corrected memory errors of this channel of a row, with the name of the module there if the board tells it.
    CHANNEL_CORRECTABLE: Counter = "node_edac_channel_correctable_errors_total" ["controller", "csrow", "channel", "dimm_label"];
    /// Memory errors of this channel of a row that could not be corrected, with the name of the module there if the board tells it.
    CHANNEL_UNCORRECTABLE: Counter = "node_edac_channel_uncorrectable_errors_total" ["controller", "csrow", "channel", "dimm_label"];
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Edac;

impl Collector for Edac {
    const NAME: &'static str = "edac";
    const ABOUT: &'static str = "errors of ECC memory";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, machine: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for dir in machine.sys_dirs("devices/system/edac/mc")? {
            if let Some(number) = numbered(&dir.name(), "mc") {
                controller(&mut out, &dir, number);
            }
        }
        Ok(out)
    }
}

fn controller(out: &mut Families, dir: &Dir, number: &str) {
    count(out, dir, "ce_count", &CORRECTABLE, [number]);
    count(out, dir, "ue_count", &UNCORRECTABLE, [number]);
    let unknown = [number, "unknown"];
    count(out, dir, "ce_noinfo_count", &CSROW_CORRECTABLE, unknown);
    count(out, dir, "ue_noinfo_count", &CSROW_UNCORRECTABLE, unknown);
    let rows = dir.dirs();
    for row in out.keep(rows).unwrap_or_default() {
        if let Some(csrow) = numbered(&row.name(), "csrow") {
            count(out, &row, "ce_count", &CSROW_CORRECTABLE, [number, csrow]);
            count(out, &row, "ue_count", &CSROW_UNCORRECTABLE, [number, csrow]);
            channels(out, &row, number, csrow);
        }
    }
}

fn channels(out: &mut Families, row: &Dir, controller: &str, csrow: &str) {
    let files = row.names();
    for file in out.keep(files).unwrap_or_default() {
        let stem = file
            .to_str()
            .and_then(|name| name.strip_suffix("_ce_count"));
        let Some(channel) = stem.and_then(|stem| numbered(stem, "ch")) else {
            continue;
        };
        let label = row.word(format!("ch{channel}_dimm_label"));
        let label = out.keep(label).unwrap_or_default();
        let labels = [controller, csrow, channel, &label];
        let file = |which| format!("ch{channel}_{which}_count");
        count(out, row, &file("ce"), &CHANNEL_CORRECTABLE, labels);
        count(out, row, &file("ue"), &CHANNEL_UNCORRECTABLE, labels);
    }
}

fn count<const N: usize>(
    out: &mut Families,
    dir: &Dir,
    file: &str,
    metric: &'static Metric<N>,
    labels: [&str; N],
) {
    let errors = dir.number::<u64>(file);
    if let Some(errors) = out.keep(errors) {
        out.add(metric, labels, errors);
    }
}

/// The number in a name such as `mc0`.
fn numbered<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let number = name.strip_prefix(prefix)?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then_some(number)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sources::Roots;

    #[test]
    fn a_machine_without_ecc_memory_is_no_failure() {
        let roots = Roots {
            procfs: "/nowhere".into(),
            sysfs: "/nowhere".into(),
            rootfs: "/nowhere".into(),
            udev_data: "/nowhere".into(),
        };
        let machine = Snapshot::begin(roots.into(), Instant::now());
        assert!(Edac.collect(&machine).unwrap().is_empty());
    }

    #[test]
    fn a_controller_is_told_from_its_neighbours_by_its_number() {
        assert_eq!(numbered("mc12", "mc"), Some("12"));
        for other in ["mc", "power", "mc0x", "mcsrow0"] {
            assert_eq!(numbered(other, "mc"), None, "{other}");
        }
    }
}
