//! Kernel name and version, from `uname(2)`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::Snapshot,
};

metrics! {
    /// Labeled system information as provided by the uname system call.
    UNAME: Info = "node_uname_info" [
        "sysname", "release", "version", "machine", "nodename", "domainname",
    ];
}

#[derive(Debug)]
pub(super) struct Uname;

impl Collector for Uname {
    const NAME: &'static str = "uname";
    const ABOUT: &'static str = "kernel name and version";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let uname = snapshot.uname();
        let labels = [
            uname.sysname(),
            uname.release(),
            uname.version(),
            uname.machine(),
            uname.nodename(),
            uname.domainname(),
        ]
        .map(|name| name.to_string_lossy());
        let mut out = Families::default();
        out.add(&UNAME, labels.each_ref().map(|label| &**label), true);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::MachineFixture;

    #[test]
    fn the_running_kernel_has_a_name_and_a_release() {
        let machine = MachineFixture::new("uname").snapshot();
        let lines = Uname.collect(&machine).unwrap().lines();
        let release = std::fs::File::open("/proc/sys/kernel/osrelease").unwrap();
        let release = std::io::read_to_string(release).unwrap();
        let start = format!(
            r#"node_uname_info{{sysname="Linux",release="{}",version=""#,
            release.trim()
        );
        assert!(lines[0].starts_with(&start), "{lines:?}");
    }
}
