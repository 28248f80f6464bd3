//! How often cores and packages were throttled, from each CPU's `thermal_throttle`.
//!
//! Only Intel's CPUs have it, and the threads of a core all report the same, so of
//! several hundred files as few are read as will do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use super::{CORE_THROTTLES, PACKAGE_THROTTLES};
use crate::{error::Result, family::Families, sources::Dir};

/// Where a CPU sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    package: u32,
    core: u32,
}

/// Where the CPUs of the last scrape sit: that cannot change while they are online.
#[derive(Debug, Default)]
pub(super) struct Topology(Mutex<BTreeMap<u32, Place>>);

impl Topology {
    /// Adds how often the cores and packages of these CPUs were throttled.
    pub(super) fn add_throttles(&self, out: &mut Families, cpus: &Dir, online: &[u32]) {
        let Some(first) = online.first() else {
            return;
        };
        if !cpus.has(format!("cpu{first}/thermal_throttle")) {
            return;
        }
        let mut cores = BTreeSet::new();
        let mut packages = BTreeSet::new();
        for (cpu, place) in self.places(out, cpus, online) {
            let (package, core) = (place.package.to_string(), place.core.to_string());
            let throttles = |file| cpus.number(format!("cpu{cpu}/thermal_throttle/{file}"));
            // A CPU that cannot say leaves it to the next one of its core or package.
            if !cores.contains(&place) {
                let count: Result<u64> = throttles("core_throttle_count");
                if let Some(count) = out.keep(count) {
                    cores.insert(place);
                    out.add(&CORE_THROTTLES, [&core, &package], count);
                }
            }
            if !packages.contains(&place.package) {
                let count: Result<u64> = throttles("package_throttle_count");
                if let Some(count) = out.keep(count) {
                    packages.insert(place.package);
                    out.add(&PACKAGE_THROTTLES, [&package], count);
                }
            }
        }
    }

    fn places(&self, out: &mut Families, cpus: &Dir, online: &[u32]) -> BTreeMap<u32, Place> {
        let known = self.lock().clone();
        let mut places = BTreeMap::new();
        for cpu in online {
            let place = known
                .get(cpu)
                .copied()
                .map_or_else(|| place(cpus, *cpu), Ok);
            if let Some(place) = out.keep(place) {
                places.insert(*cpu, place);
            }
        }
        if places != known {
            self.lock().clone_from(&places);
        }
        places
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(cpus: &Dir, cpu: u32) -> Result<Place> {
    Ok(Place {
        package: cpus.number(format!("cpu{cpu}/topology/physical_package_id"))?,
        core: cpus.number(format!("cpu{cpu}/topology/core_id"))?,
    })
}
