//! Machine identity as reported by the firmware, from `/sys/class/dmi/id`, documented in the
//! DMTF's SMBIOS specification (DSP0134).
//!
//! Serial numbers are readable only by root. The values do not change while the machine runs, so
//! they are read once.

use std::sync::OnceLock;

use crate::{
    collector::{Collector, NoFlags},
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Machine identity from DMI, with one label per readable field: bios_date, bios_release,
    /// bios_vendor, bios_version, board_asset_tag, board_name, board_serial, board_vendor,
    /// board_version, chassis_asset_tag, chassis_serial, chassis_vendor, chassis_version,
    /// product_family, product_name, product_serial, product_sku, product_uuid, product_version and
    /// system_vendor; serial numbers need root.
    DMI: Info = "node_dmi_info" [];
}

/// Labels and the files they are read from.
const LABELS: [(&str, &str); 20] = [
    ("bios_date", "bios_date"),
    ("bios_release", "bios_release"),
    ("bios_vendor", "bios_vendor"),
    ("bios_version", "bios_version"),
    ("board_asset_tag", "board_asset_tag"),
    ("board_name", "board_name"),
    ("board_serial", "board_serial"),
    ("board_vendor", "board_vendor"),
    ("board_version", "board_version"),
    ("chassis_asset_tag", "chassis_asset_tag"),
    ("chassis_serial", "chassis_serial"),
    ("chassis_vendor", "chassis_vendor"),
    ("chassis_version", "chassis_version"),
    ("product_family", "product_family"),
    ("product_name", "product_name"),
    ("product_serial", "product_serial"),
    ("product_sku", "product_sku"),
    ("product_uuid", "product_uuid"),
    ("product_version", "product_version"),
    ("system_vendor", "sys_vendor"),
];

#[derive(Debug)]
pub(super) struct Dmi {
    identity: OnceLock<Vec<(&'static str, String)>>,
}

impl Collector for Dmi {
    const NAME: &'static str = "dmi";
    const ABOUT: &'static str = "DMI information: vendor, product, firmware";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self {
            identity: OnceLock::new(),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let identity = if let Some(identity) = self.identity.get() {
            identity
        } else {
            let identity = read_identity(&snapshot.sys_dir("class/dmi/id")?)?;
            self.identity.get_or_init(|| identity)
        };
        let labels: Vec<_> = identity
            .iter()
            .map(|(label, value)| (*label, value.as_str()))
            .collect();
        let mut out = Families::default();
        out.add_dynamic(&DMI, [], &labels, true);
        Ok(out)
    }
}

fn read_identity(id: &Dir) -> Result<Vec<(&'static str, String)>> {
    let identity: Vec<_> = LABELS
        .iter()
        .filter_map(|(label, file)| Some((*label, trim_padding(id.read(file).ok()?.body()))))
        .collect();
    if identity.is_empty() {
        return Err(Error::NotFound(id.path().to_owned()));
    }
    Ok(identity)
}

/// Trims the white space and control characters with which firmware pads values.
fn trim_padding(word: &str) -> String {
    word.trim_matches(|c: char| c.is_whitespace() || c.is_control())
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::MachineFixture;

    fn collect(dmi: &Dmi, machine: &MachineFixture) -> Result<Vec<String>, String> {
        let out = dmi.collect(&machine.snapshot());
        out.map(|out| out.lines()).map_err(|e| e.to_string())
    }

    #[test]
    fn unreadable_fields_have_no_label() {
        let machine = MachineFixture::new("dmi");
        machine.write(
            "sys/class/dmi/id/sys_vendor",
            "  ACME \"Iron\" Works\x7f\x03\n",
        );
        machine.write("sys/class/dmi/id/product_sku", "\n");
        let dmi = Dmi::new(NoFlags {}).unwrap();
        let expected = r#"node_dmi_info{product_sku="",system_vendor="ACME \"Iron\" Works"} 1"#;
        assert_eq!(collect(&dmi, &machine).unwrap(), [expected]);
        // The value is cached, so the change is not visible.
        machine.write("sys/class/dmi/id/sys_vendor", "other\n");
        assert_eq!(collect(&dmi, &machine).unwrap(), [expected]);
    }

    #[test]
    fn not_found_without_dmi_fields() {
        let machine = MachineFixture::new("no-dmi");
        let dmi = Dmi::new(NoFlags {}).unwrap();
        assert!(
            collect(&dmi, &machine)
                .unwrap_err()
                .ends_with("class/dmi/id does not exist")
        );
        machine.write("sys/class/dmi/id/uevent", "\n");
        assert!(
            collect(&dmi, &machine)
                .unwrap_err()
                .ends_with("class/dmi/id does not exist")
        );
        machine.write("sys/class/dmi/id/bios_date", "04/01/2014\n");
        assert_eq!(
            collect(&dmi, &machine).unwrap(),
            [r#"node_dmi_info{bios_date="04/01/2014"} 1"#]
        );
    }
}
