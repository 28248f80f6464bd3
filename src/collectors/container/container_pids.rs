//! Number of tasks of containers and its limit: `pids.current` and `pids.max`.
//!
//! Without a limit cAdvisor exposes 0. Tasks divided by 0 are infinite, which exceeds every alert
//! threshold, so here the limit is absent.

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{BaseLabels, Families},
    metric::Desc,
    metrics,
    sources::{Snapshot, cgroup::Pids},
};

metrics! {
    /// Tasks (processes and threads).
    THREADS: Gauge = "container_threads" base CGROUP [];
    /// Limit on tasks; absent without a limit.
    THREADS_MAX: Gauge = "container_threads_max" base CGROUP [];
}

#[derive(Debug)]
pub(super) struct ContainerPids;

impl Collector for ContainerPids {
    const NAME: &'static str = "container_pids";
    const ABOUT: &'static str = "number of tasks of containers and services, and their limits";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for (workload, group) in snapshot.workloads()?.present() {
            if let Some(pids) = out.ok_or_skip(group.pids()) {
                add_pids(&mut out, base_labels(workload), &pids);
            }
        }
        Ok(out)
    }
}

fn add_pids(out: &mut Families, base: &BaseLabels, pids: &Pids) {
    if let Some(current) = pids.current {
        out.add_with(&THREADS, base, [], current);
    }
    if let Some(max) = pids.max.flatten() {
        out.add_with(&THREADS_MAX, base, [], max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    #[test]
    fn no_limit_is_not_exposed_as_zero() {
        let mut out = Families::default();
        for (id, max) in [("/none", Some(None)), ("/some", Some(Some(100)))] {
            let pids = Pids {
                current: Some(7),
                max,
            };
            add_pids(&mut out, &family::render_labels([("id", id)]), &pids);
        }
        assert_eq!(
            out.lines(),
            [
                r#"container_threads{id="/none"} 7"#,
                r#"container_threads{id="/some"} 7"#,
                r#"container_threads_max{id="/some"} 100"#,
            ]
        );
    }
}
