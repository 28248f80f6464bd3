//! Huge pages of containers: the files `hugetlb.*`, documented in
//! `Documentation/admin-guide/cgroup-v1/hugetlb.rst` and `cgroup-v2.rst`.
//!
//! Off by default, as in cAdvisor: users of huge pages can enable it. Version 2 has no maximum;
//! cAdvisor exposes 0 for it, here it is absent.

use super::labels::{CGROUP, base_labels};
use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{BaseLabels, Families},
    metric::Desc,
    metrics,
    sources::{Snapshot, cgroup::HugePages},
};

metrics! {
    /// Huge page allocations that failed because of the limit.
    FAILCNT: Counter = "container_hugetlb_failcnt" base CGROUP ["pagesize"];
    /// Bytes of huge pages in use.
    USAGE: Gauge = "container_hugetlb_usage_bytes" base CGROUP ["pagesize"];
    /// Maximum bytes of huge pages in use since the cgroup was created; cgroup version 1 only.
    MAX_USAGE: Gauge = "container_hugetlb_max_usage_bytes" base CGROUP ["pagesize"];
}

#[derive(Debug)]
pub(super) struct ContainerHugeTlb;

impl Collector for ContainerHugeTlb {
    const NAME: &'static str = "container_hugetlb";
    const ABOUT: &'static str = "huge page usage of containers and services";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for (workload, group) in snapshot.workloads()?.present() {
            for pages in out.ok_or_skip(group.huge_pages()).into_iter().flatten() {
                add_huge_pages(&mut out, base_labels(workload), &pages);
            }
        }
        Ok(out)
    }
}

fn add_huge_pages(out: &mut Families, base: &BaseLabels, pages: &HugePages) {
    for (metric, value) in [
        (&FAILCNT, pages.failcnt),
        (&USAGE, pages.usage),
        (&MAX_USAGE, pages.max_usage),
    ] {
        if let Some(value) = value {
            out.add_with(metric, base, [pages.size.as_str()], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    #[test]
    fn v2_has_no_max_usage() {
        let mut out = Families::default();
        let pages = HugePages {
            size: "2MB".to_owned(),
            usage: Some(4_194_304),
            max_usage: None,
            failcnt: Some(3),
        };
        let base = family::render_labels([("id", "/a")]);
        add_huge_pages(&mut out, &base, &pages);
        let max_usage = Some(6_291_456);
        add_huge_pages(&mut out, &base, &HugePages { max_usage, ..pages });
        assert_eq!(
            out.lines(),
            [
                r#"container_hugetlb_failcnt{id="/a",pagesize="2MB"} 3"#,
                r#"container_hugetlb_failcnt{id="/a",pagesize="2MB"} 3"#,
                r#"container_hugetlb_usage_bytes{id="/a",pagesize="2MB"} 4194304"#,
                r#"container_hugetlb_usage_bytes{id="/a",pagesize="2MB"} 4194304"#,
                r#"container_hugetlb_max_usage_bytes{id="/a",pagesize="2MB"} 6291456"#,
            ]
        );
    }
}
