//! Throttling counters of cores and packages, from each CPU's `thermal_throttle`.
//!
//! Only Intel CPUs have them. All threads of a core report the same values, so one file per core
//! and one per package is read instead of all of them, which can be several hundred.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use super::{CORE_THROTTLES, PACKAGE_THROTTLES};
use crate::{error::Result, family::Families, sources::Dir};

/// Core and package of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct CoreLocation {
    package: u32,
    core: u32,
}

/// Locations of the CPUs seen in the last scrape; a location cannot change while the CPU is
/// online.
#[derive(Debug, Default)]
pub(super) struct Topology(Mutex<BTreeMap<u32, CoreLocation>>);

impl Topology {
    /// Adds the throttling counters of the cores and packages of these CPUs.
    pub(super) fn add_throttles(&self, out: &mut Families, cpus: &Dir, online: &[u32]) {
        let Some(first) = online.first() else {
            return;
        };
        if !cpus.has(format!("cpu{first}/thermal_throttle")) {
            return;
        }
        let mut cores = BTreeSet::new();
        let mut packages = BTreeSet::new();
        for (cpu, location) in self.locations(out, cpus, online) {
            let (package, core) = (location.package.to_string(), location.core.to_string());
            let throttles = |file| cpus.read_number(format!("cpu{cpu}/thermal_throttle/{file}"));
            // If a CPU's counter cannot be read, the next CPU of the core or package is tried.
            if !cores.contains(&location) {
                let count: Result<u64> = throttles("core_throttle_count");
                if let Some(count) = out.ok_or_skip(count) {
                    cores.insert(location);
                    out.add(&CORE_THROTTLES, [&core, &package], count);
                }
            }
            if !packages.contains(&location.package) {
                let count: Result<u64> = throttles("package_throttle_count");
                if let Some(count) = out.ok_or_skip(count) {
                    packages.insert(location.package);
                    out.add(&PACKAGE_THROTTLES, [&package], count);
                }
            }
        }
    }

    fn locations(
        &self,
        out: &mut Families,
        cpus: &Dir,
        online: &[u32],
    ) -> BTreeMap<u32, CoreLocation> {
        let cached = self.lock().clone();
        let mut locations = BTreeMap::new();
        for cpu in online {
            let location = cached
                .get(cpu)
                .copied()
                .map_or_else(|| read_location(cpus, *cpu), Ok);
            if let Some(location) = out.ok_or_skip(location) {
                locations.insert(*cpu, location);
            }
        }
        if locations != cached {
            self.lock().clone_from(&locations);
        }
        locations
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, CoreLocation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_location(cpus: &Dir, cpu: u32) -> Result<CoreLocation> {
    Ok(CoreLocation {
        package: cpus.read_number(format!("cpu{cpu}/topology/physical_package_id"))?,
        core: cpus.read_number(format!("cpu{cpu}/topology/core_id"))?,
    })
}
