//! Kernel random number generator, from `/proc/sys/kernel/random`, documented in `random(4)`.
//!
//! Since Linux 5.18 both values are 256 from early boot on and never change.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::Snapshot,
};

metrics! {
    /// Bits of available entropy; always 256 once seeded, since Linux 5.18.
    AVAILABLE: Gauge = "node_entropy_available_bits" [];
    /// Bits of entropy pool.
    POOL_SIZE: Gauge = "node_entropy_pool_size_bits" [];
}

#[derive(Debug)]
pub(super) struct Entropy;

impl Collector for Entropy {
    const NAME: &'static str = "entropy";
    const ABOUT: &'static str = "available entropy";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let random = snapshot.proc_dir("sys/kernel/random")?;
        let mut out = Families::default();
        for (metric, file) in [(&AVAILABLE, "entropy_avail"), (&POOL_SIZE, "poolsize")] {
            if let Some(bits) = out.ok_or_skip(random.read_number::<u64>(file)) {
                out.add(metric, [], bits);
            }
        }
        Ok(out)
    }
}
