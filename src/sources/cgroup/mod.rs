//! Control groups: what the kernel counts and limits per container, service and slice.
//! Documented in `Documentation/admin-guide/cgroup-v1` and `cgroup-v2.rst`.
//!
//! One vocabulary for both versions. What a version, a kernel or a controller does not
//! say is `None`, never 0. Files are read below kept directory descriptors, the hot
//! ones by kept descriptors of their own, up to a bound.

mod usage;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use usage::{
    BlockIo, Cpu, CpuLimits, DeviceIo, HugePages, Memory, MemoryLimits, Operation, Pids, Pressure,
    Stalls, Throttling,
};

use crate::error::{Error, Result};

/// Which versions of control groups a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Hierarchies of controllers only.
    V1,
    /// Hierarchies of controllers, and the unified one beside them, without controllers.
    Hybrid,
    /// The unified hierarchy only.
    V2,
}

/// The control groups of a machine, with the descriptors that are kept from scrape to
/// scrape.
#[derive(Debug)]
pub struct Cgroups {
    sysfs: PathBuf,
}

impl Cgroups {
    /// Those below this sysfs mount. Nothing is read before it is asked for.
    #[must_use]
    pub fn at(sysfs: &Path) -> Self {
        Self {
            sysfs: sysfs.to_owned(),
        }
    }

    /// Which versions are mounted.
    pub fn version(&self) -> Result<Version> {
        Err(Error::Absent(self.sysfs.join("fs/cgroup")))
    }

    /// The names of the controllers that there are, as the kernel calls them.
    pub fn controllers(&self) -> Result<Vec<String>> {
        Err(Error::Absent(self.sysfs.join("fs/cgroup")))
    }

    /// All groups whose path is `wanted`, sorted by path. A path begins with `/`, which
    /// is the root's, and is the group's place in its hierarchy; one that is not UTF-8 is
    /// left out.
    ///
    /// Groups that are gone since are forgotten, with their descriptors; one that is
    /// still there is the same `Arc` as before.
    pub fn walk(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Arc<Group>>> {
        let _ = wanted("/");
        Err(Error::Absent(self.sysfs.join("fs/cgroup")))
    }
}

/// One control group.
#[derive(Debug)]
pub struct Group {
    path: String,
}

impl Group {
    /// Its place in the hierarchy, which is cAdvisor's `id`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What it used of the CPUs.
    pub fn cpu(&self) -> Result<Cpu> {
        self.absent()
    }

    /// Time it used of each CPU, by its number; version 1 only.
    pub fn cpu_by_number(&self) -> Result<Vec<(u32, Duration)>> {
        self.absent()
    }

    /// What it may use of the CPUs.
    pub fn cpu_limits(&self) -> Result<CpuLimits> {
        self.absent()
    }

    /// What it has in memory. The root has what the kernel says of it.
    pub fn memory(&self) -> Result<Memory> {
        self.absent()
    }

    /// What it may have in memory; the root has no limits.
    pub fn memory_limits(&self) -> Result<MemoryLimits> {
        self.absent()
    }

    /// Its tasks and how many there may be.
    pub fn pids(&self) -> Result<Pids> {
        self.absent()
    }

    /// The numbers of the processes in it, not in those below it.
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.absent()
    }

    /// How long its tasks waited; on hybrid machines as the unified hierarchy says.
    pub fn pressure(&self) -> Result<Pressure> {
        self.absent()
    }

    /// What it did to block devices.
    pub fn block_io(&self) -> Result<BlockIo> {
        self.absent()
    }

    /// Its huge pages, by size.
    pub fn huge_pages(&self) -> Result<Vec<HugePages>> {
        self.absent()
    }

    /// When it was made, from 1970 on.
    pub fn made(&self) -> Result<Duration> {
        self.absent()
    }

    fn absent<T>(&self) -> Result<T> {
        Err(Error::Absent(self.path.clone().into()))
    }
}
