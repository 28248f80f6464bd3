//! Bonded network interfaces, from `/sys/class/net/bonding_masters` and below,
//! documented in the kernel's `Documentation/networking/bonding.rst`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Number of interfaces enslaved to the bond.
    SLAVES: Gauge = "node_bonding_slaves" ["master"];
    /// Number of interfaces of the bond whose link is up.
    ACTIVE: Gauge = "node_bonding_active" ["master"];
}

#[derive(Debug)]
pub(super) struct Bonding;

impl Collector for Bonding {
    const NAME: &'static str = "bonding";
    const ABOUT: &'static str = "bonded network interfaces";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let class = snapshot.sys_dir("class/net")?;
        let masters = class.read("bonding_masters")?;

        let mut out = Families::default();
        for master in masters.body().split_ascii_whitespace() {
            if let Some((slaves, active)) = out.ok_or_skip(count_slaves(&class, master)) {
                out.add(&SLAVES, [master], slaves);
                out.add(&ACTIVE, [master], active);
            }
        }
        Ok(out)
    }
}

/// Returns the number of interfaces in a bond and the number of those whose link is up.
fn count_slaves(class: &Dir, master: &str) -> Result<(u64, u64)> {
    let master = class.dir(master)?;
    let (mut slaves, mut active) = (0, 0);
    for slave in master
        .read("bonding/slaves")?
        .body()
        .split_ascii_whitespace()
    {
        let status = master.read(format!("lower_{slave}/bonding_slave/mii_status"));
        // Before Linux 3.18 the link had another name.
        let status =
            status.or_else(|_| master.read(format!("slave_{slave}/bonding_slave/mii_status")));
        match status {
            Ok(status) if status.trimmed() == "up" => active += 1,
            Ok(_) => {}
            // The interface left the bond after the listing.
            Err(error) if error.is_gone() => continue,
            Err(error) => return Err(error),
        }
        slaves += 1;
    }
    Ok((slaves, active))
}
