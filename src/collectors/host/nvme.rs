//! `NVMe` controllers and their namespaces, from `/sys/class/nvme`, documented in the kernel's
//! `Documentation/ABI/testing/sysfs-nvme` and `sysfs-block`.
//!
//! A controller's directory contains its namespaces as `nvme0n1`, or as `nvme0c0n1` if several
//! controllers can lead to a namespace (multipath). `size` is in sectors of 512 bytes as for any
//! block device, `nuse` in logical blocks of the namespace.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Non-numeric data of an NVMe controller and its state, value is always 1.
    CONTROLLER: Info = "node_nvme_info" ["device", "firmware_revision", "model", "serial", "state", "cntlid"];
    /// NVMe namespaces of a controller; ana_state is the state of this path, or unknown without
    /// multipath.
    NAMESPACE: Info = "node_nvme_namespace_info" ["device", "nsid", "ana_state"];
    /// Capacity of the NVMe namespace in bytes, taken from its size, which is larger if thinly
    /// provisioned.
    CAPACITY_BYTES: Gauge = "node_nvme_namespace_capacity_bytes" ["device", "nsid"];
    /// Size of the NVMe namespace in bytes.
    SIZE_BYTES: Gauge = "node_nvme_namespace_size_bytes" ["device", "nsid"];
    /// Allocated bytes of the NVMe namespace; many devices report its size. Requires Linux 6.8.
    USED_BYTES: Gauge = "node_nvme_namespace_used_bytes" ["device", "nsid"];
    /// Logical block size of the NVMe namespace in bytes.
    LOGICAL_BLOCK_SIZE_BYTES: Gauge = "node_nvme_namespace_logical_block_size_bytes" ["device", "nsid"];
}

const SECTOR: u64 = 512;

#[derive(Debug)]
pub(super) struct Nvme;

impl Collector for Nvme {
    const NAME: &'static str = "nvme";
    const ABOUT: &'static str = "NVMe controllers and namespaces";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let class = snapshot.sys_dir("class/nvme")?;
        let mut out = Families::default();
        for controller in class.dirs()? {
            add_controller(&mut out, &controller);
            let names = controller.names();
            for name in out.ok_or_skip(names).unwrap_or_default() {
                let name = name.to_string_lossy();
                if let Some(number) = namespace_number(&name) {
                    let namespace = controller.dir(&*name);
                    if let Some(namespace) = out.ok_or_skip(namespace) {
                        add_namespace(&mut out, &controller.name(), number, &namespace);
                    }
                }
            }
        }
        Ok(out)
    }
}

fn add_controller(out: &mut Families, controller: &Dir) {
    let mut word = |name| {
        out.ok_or_skip(controller.read_trimmed(name))
            .unwrap_or_default()
    };
    let labels = [
        controller.name(),
        word("firmware_rev"),
        word("model"),
        word("serial"),
        word("state"),
        word("cntlid"),
    ];
    out.add(&CONTROLLER, labels.each_ref().map(String::as_str), true);
}

fn add_namespace(out: &mut Families, device: &str, number: &str, namespace: &Dir) {
    // The number in the name is assigned by the kernel and nearly always equals `nsid`.
    let nsid = out.ok_or_skip(namespace.read_trimmed("nsid"));
    let nsid = nsid.as_deref().unwrap_or(number);
    let ana_state = out.ok_or_skip(namespace.read_trimmed("ana_state"));
    let ana_state = ana_state.as_deref().unwrap_or("unknown");
    out.add(&NAMESPACE, [device, nsid, ana_state], true);

    let labels = [device, nsid];
    if let Some(sectors) = out.ok_or_skip(namespace.read_number::<u64>("size")) {
        let size = Value::product(sectors, SECTOR);
        out.add(&CAPACITY_BYTES, labels, size);
        out.add(&SIZE_BYTES, labels, size);
    }
    if let Some(block) = out.ok_or_skip(namespace.read_number::<u64>("queue/logical_block_size")) {
        out.add(&LOGICAL_BLOCK_SIZE_BYTES, labels, block);
        if let Some(used) = out.ok_or_skip(namespace.read_number::<u64>("nuse")) {
            out.add(&USED_BYTES, labels, Value::product(used, block));
        }
    }
}

/// Returns the number at the end of a namespace's name.
fn namespace_number(name: &str) -> Option<&str> {
    let (controller, number) = name.strip_prefix("nvme")?.rsplit_once('n')?;
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let mut parts = controller.splitn(2, 'c');
    (parts.all(is_number) && is_number(number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_only_namespace_directories() {
        assert_eq!(namespace_number("nvme0n1"), Some("1"));
        assert_eq!(namespace_number("nvme10c3n25"), Some("25"));
        for other in [
            "nvme0",
            "nvme0n1p1",
            "ng0n1",
            "hwmon3",
            "nvmen1",
            "nvme0c1",
            "nvme0cn1",
        ] {
            assert_eq!(namespace_number(other), None, "{other}");
        }
    }
}
