//! Cgroup controllers, from `/proc/cgroups`, documented in `cgroups(7)`. The resource use of
//! cgroups is exposed by the container collectors.
//!
//! The file describes cgroup v1. For a controller that is attached to v2, the number of cgroups
//! is that of the whole hierarchy.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Number of cgroups in the hierarchy of the controller.
    CGROUPS: Gauge = "node_cgroups_cgroups" ["subsys_name"];
    /// Whether the controller is enabled (1) or was disabled at boot (0).
    ENABLED: Gauge = "node_cgroups_enabled" ["subsys_name"];
}

#[derive(Debug)]
pub(super) struct CgroupsCollector;

impl Collector for CgroupsCollector {
    const NAME: &'static str = "cgroups";
    const ABOUT: &'static str = "control groups by controller";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.read_proc("cgroups")?))
    }
}

struct Controller<'a> {
    name: &'a str,
    cgroups: u64,
    enabled: u64,
}

fn families(cgroups: &Text) -> Families {
    let mut out = Families::default();
    for fields in cgroups.lines() {
        if fields.rest().starts_with('#') {
            continue;
        }
        if let Some(controller) = out.ok_or_skip(parse_controller(fields)) {
            out.add(&CGROUPS, [controller.name], controller.cgroups);
            out.add(&ENABLED, [controller.name], controller.enabled);
        }
    }
    out
}

fn parse_controller(mut fields: Fields<'_>) -> Result<Controller<'_>> {
    let name = fields.word("subsys_name")?;
    let _hierarchy = fields.word("hierarchy")?;
    Ok(Controller {
        name,
        cgroups: fields.parse("num_cgroups")?,
        enabled: fields.parse("enabled")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_line_is_skipped() {
        let text = Text::from(
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t14\t1\npids\t2\tx\t1\nhugetlb\t0\t2\t0\n",
        );
        let out = families(&text);
        assert_eq!(
            out.lines(),
            [
                r#"node_cgroups_cgroups{subsys_name="cpu"} 14"#,
                r#"node_cgroups_cgroups{subsys_name="hugetlb"} 2"#,
                r#"node_cgroups_enabled{subsys_name="cpu"} 1"#,
                r#"node_cgroups_enabled{subsys_name="hugetlb"} 0"#,
            ]
        );
        assert_eq!(out.errors().0, 1);
    }
}
