//! ECC memory errors, corrected and uncorrected, from `devices/system/edac/mc` in sysfs,
//! documented in the kernel's `admin-guide/RAS/main.rst`.
//!
//! A controller counts errors that it cannot attribute to a row in its `noinfo` files; these are
//! exposed as row `unknown`. Without an EDAC driver there is nothing to expose; like in
//! `node_exporter`, that is a success.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::{Desc, Metric},
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Total correctable memory errors of this controller.
    CORRECTABLE: Counter = "node_edac_correctable_errors_total" ["controller"];
    /// Total uncorrectable memory errors of this controller.
    UNCORRECTABLE: Counter = "node_edac_uncorrectable_errors_total" ["controller"];
    /// Total correctable memory errors of this csrow; unknown if the controller could not attribute
    /// them.
    CSROW_CORRECTABLE: Counter = "node_edac_csrow_correctable_errors_total" ["controller", "csrow"];
    /// Total uncorrectable memory errors of this csrow; unknown if the controller could not
    /// attribute them.
    CSROW_UNCORRECTABLE: Counter = "node_edac_csrow_uncorrectable_errors_total" ["controller", "csrow"];
    /// Total correctable memory errors of this channel; dimm_label is the module's name, if known.
    CHANNEL_CORRECTABLE: Counter = "node_edac_channel_correctable_errors_total" ["controller", "csrow", "channel", "dimm_label"];
    /// Total uncorrectable memory errors of this channel; dimm_label is the module's name, if
    /// known.
    CHANNEL_UNCORRECTABLE: Counter = "node_edac_channel_uncorrectable_errors_total" ["controller", "csrow", "channel", "dimm_label"];
}

#[derive(Debug)]
pub(super) struct Edac;

impl Collector for Edac {
    const NAME: &'static str = "edac";
    const ABOUT: &'static str = "ECC memory errors";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for dir in snapshot.sys_dirs("devices/system/edac/mc")? {
            if let Some(number) = number_after(&dir.name(), "mc") {
                add_controller(&mut out, &dir, number);
            }
        }
        Ok(out)
    }
}

fn add_controller(out: &mut Families, dir: &Dir, number: &str) {
    add_count(out, dir, "ce_count", &CORRECTABLE, [number]);
    add_count(out, dir, "ue_count", &UNCORRECTABLE, [number]);
    let unknown = [number, "unknown"];
    add_count(out, dir, "ce_noinfo_count", &CSROW_CORRECTABLE, unknown);
    add_count(out, dir, "ue_noinfo_count", &CSROW_UNCORRECTABLE, unknown);
    let rows = dir.dirs();
    for row in out.ok_or_skip(rows).unwrap_or_default() {
        if let Some(csrow) = number_after(&row.name(), "csrow") {
            add_count(out, &row, "ce_count", &CSROW_CORRECTABLE, [number, csrow]);
            add_count(out, &row, "ue_count", &CSROW_UNCORRECTABLE, [number, csrow]);
            add_channels(out, &row, number, csrow);
        }
    }
}

fn add_channels(out: &mut Families, row: &Dir, controller: &str, csrow: &str) {
    let files = row.names();
    for file in out.ok_or_skip(files).unwrap_or_default() {
        let stem = file
            .to_str()
            .and_then(|name| name.strip_suffix("_ce_count"));
        let Some(channel) = stem.and_then(|stem| number_after(stem, "ch")) else {
            continue;
        };
        let label = row.read_trimmed(format!("ch{channel}_dimm_label"));
        let label = out.ok_or_skip(label).unwrap_or_default();
        let labels = [controller, csrow, channel, &label];
        let file = |which| format!("ch{channel}_{which}_count");
        add_count(out, row, &file("ce"), &CHANNEL_CORRECTABLE, labels);
        add_count(out, row, &file("ue"), &CHANNEL_UNCORRECTABLE, labels);
    }
}

fn add_count<const N: usize>(
    out: &mut Families,
    dir: &Dir,
    file: &str,
    metric: &'static Metric<N>,
    labels: [&str; N],
) {
    let errors = dir.read_number::<u64>(file);
    if let Some(errors) = out.ok_or_skip(errors) {
        out.add(metric, labels, errors);
    }
}

/// The number in a name such as `mc0`.
fn number_after<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
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
    fn succeeds_without_ecc_memory() {
        let roots = Roots {
            procfs: "/nowhere".into(),
            sysfs: "/nowhere".into(),
            rootfs: "/nowhere".into(),
            udev_data: "/nowhere".into(),
        };
        let machine = Snapshot::new(roots.into(), Instant::now());
        assert!(Edac.collect(&machine).unwrap().is_empty());
    }

    #[test]
    fn matches_only_numbered_controllers() {
        assert_eq!(number_after("mc12", "mc"), Some("12"));
        for other in ["mc", "power", "mc0x", "mcsrow0"] {
            assert_eq!(number_after(other, "mc"), None, "{other}");
        }
    }
}
