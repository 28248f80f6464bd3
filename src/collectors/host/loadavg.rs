//! Load averages, from `/proc/loadavg`, documented in `proc_loadavg(5)`.
//!
//! Parsed here instead of by `procfs::LoadAverage`, whose `f32` values would expose 0.27 as
//! 0.27000001072883606.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::Snapshot,
};

metrics! {
    /// 1m load average.
    LOAD1: Gauge = "node_load1" [];
    /// 5m load average.
    LOAD5: Gauge = "node_load5" [];
    /// 15m load average.
    LOAD15: Gauge = "node_load15" [];
}

#[derive(Debug)]
pub(super) struct LoadAvg;

impl Collector for LoadAvg {
    const NAME: &'static str = "loadavg";
    const ABOUT: &'static str = "load averages";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let loadavg = snapshot.read_proc("loadavg")?;
        let mut fields = loadavg.line()?;

        let mut out = Families::default();
        for metric in [&LOAD1, &LOAD5, &LOAD15] {
            out.add(metric, [], fields.parse::<Value>("load average")?);
        }
        Ok(out)
    }
}
