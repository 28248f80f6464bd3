//! libvirt's storage pools, as of their last refresh: this collector does not refresh them.

use std::collections::BTreeSet;

use super::libvirt::SharedFlags;
use crate::{
    collector::Collector,
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{Snapshot, libvirt::StoragePool},
};

metrics! {
    /// State of the storage pool: 0 inactive, 1 building, 2 running, 3 degraded, 4 inaccessible.
    STATE: Gauge = "libvirt_storage_pool_state" ["storage_pool"];
    /// Capacity of the storage pool in bytes.
    CAPACITY: Gauge = "libvirt_storage_pool_capacity_bytes" ["storage_pool"];
    /// Allocated bytes of the storage pool.
    ALLOCATION: Gauge = "libvirt_storage_pool_allocation_bytes" ["storage_pool"];
    /// Available bytes of the storage pool.
    AVAILABLE: Gauge = "libvirt_storage_pool_available_bytes" ["storage_pool"];
    /// Whether the request about the pool timed out; its sizes are absent.
    TIMED_OUT: Gauge = "libvirt_storage_pool_timed_out" ["storage_pool"];
    /// Capacity of the storage pool in bytes.
    TINKOFF_CAPACITY: Gauge = "libvirt_pool_info_capacity_bytes" ["pool"];
    /// Allocated bytes of the storage pool.
    TINKOFF_ALLOCATION: Gauge = "libvirt_pool_info_allocation_bytes" ["pool"];
    /// Available bytes of the storage pool.
    TINKOFF_AVAILABLE: Gauge = "libvirt_pool_info_available_bytes" ["pool"];
}

#[derive(Debug)]
pub(super) struct LibvirtPool {
    inovex: bool,
    tinkoff: bool,
}

impl Collector for LibvirtPool {
    const NAME: &'static str = "libvirt_pool";
    const ABOUT: &'static str = "state, capacity and usage of libvirt storage pools";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = SharedFlags;

    fn new(flags: SharedFlags) -> Result<Self, String> {
        let names = flags.compat_names()?;
        Ok(Self {
            inovex: names.inovex,
            tinkoff: names.tinkoff,
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(self.families(&snapshot.storage_pools()?))
    }
}

impl LibvirtPool {
    fn families(&self, pools: &[StoragePool]) -> Families {
        let mut out = Families::default();
        let mut seen = BTreeSet::new();
        for pool in pools {
            let name = pool.name.as_str();
            if !seen.insert(name) {
                let reason = format!("duplicate pool {name:?}");
                out.record_error(Error::api("libvirt", reason));
                continue;
            }
            if let Some(state) = pool.state {
                out.add(&STATE, [name], state);
            }
            for (metric, tinkoff_metric, bytes) in [
                (&CAPACITY, &TINKOFF_CAPACITY, pool.capacity),
                (&ALLOCATION, &TINKOFF_ALLOCATION, pool.allocation),
                (&AVAILABLE, &TINKOFF_AVAILABLE, pool.available),
            ] {
                let Some(bytes) = bytes else {
                    continue;
                };
                if self.inovex {
                    out.add(metric, [name], bytes);
                }
                if self.tinkoff {
                    out.add(tinkoff_metric, [name], bytes);
                }
            }
            out.add(&TIMED_OUT, [name], pool.timed_out);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str) -> StoragePool {
        StoragePool {
            name: name.to_owned(),
            state: Some(2),
            capacity: Some(100),
            allocation: Some(30),
            available: Some(70),
            timed_out: false,
        }
    }

    #[test]
    fn pool_sizes_are_exposed_under_both_names() {
        let both = LibvirtPool {
            inovex: true,
            tinkoff: true,
        };
        assert_eq!(
            both.families(&[pool("images"), pool("images")]).lines(),
            [
                r#"libvirt_storage_pool_state{storage_pool="images"} 2"#,
                r#"libvirt_storage_pool_capacity_bytes{storage_pool="images"} 100"#,
                r#"libvirt_pool_info_capacity_bytes{pool="images"} 100"#,
                r#"libvirt_storage_pool_allocation_bytes{storage_pool="images"} 30"#,
                r#"libvirt_pool_info_allocation_bytes{pool="images"} 30"#,
                r#"libvirt_storage_pool_available_bytes{storage_pool="images"} 70"#,
                r#"libvirt_pool_info_available_bytes{pool="images"} 70"#,
                r#"libvirt_storage_pool_timed_out{storage_pool="images"} 0"#,
            ]
        );
    }

    #[test]
    fn unresponsive_pool_has_no_sizes() {
        let unresponsive = StoragePool {
            state: None,
            capacity: None,
            allocation: None,
            available: None,
            timed_out: true,
            ..pool("nfs")
        };
        let inovex = LibvirtPool {
            inovex: true,
            tinkoff: false,
        };
        let lines = inovex.families(&[unresponsive, pool("images")]).lines();
        assert_eq!(
            lines
                .iter()
                .filter(|line| line.contains("nfs"))
                .collect::<Vec<_>>(),
            [r#"libvirt_storage_pool_timed_out{storage_pool="nfs"} 1"#]
        );
        assert!(!lines.iter().any(|line| line.contains("pool_info")));
    }
}
