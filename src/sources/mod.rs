//! Data sources of the host. This module does not depend on metrics.

mod addresses;
mod block_devices;
pub mod cgroup;
mod clock;
mod dbus;
mod dir;
mod diskstats;
mod domain_usage;
pub mod engine;
mod ethtool;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod host_usage;
mod installation;
pub mod libvirt;
mod link_modes;
mod links;
mod mounts;
mod neighbours;
mod net_dev;
mod netlink;
mod netns;
mod os_release;
mod privileges;
mod processes;
mod qdiscs;
mod resource_budget;
mod routes;
mod self_process;
mod statfs;
mod syscall;
mod tcp_sockets;
mod text;
pub mod workloads;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rustix::system::Uname;

pub use addresses::InterfaceAddress;
pub use block_devices::{BlockDevice, BlockDevices};
pub use clock::{Adjtimex, TimeZone};
#[cfg(test)]
pub(crate) use dbus::fake_bus;
pub use dbus::{Daemon, DbusSession, MethodCall, Reply};
pub use dir::{Dir, UserFile};
pub use diskstats::{DiskCounters, IGNORED_DEVICES};
pub use ethtool::{DriverInfo, EthtoolSocket, LinkModeSet, LinkSettings, Statistics};
pub use host_usage::HostUsage;
pub use installation::{InstallationId, installation_id};
pub use link_modes::LinkMode;
pub use links::{Link, LinkStats};
pub use mounts::{Mount, MountInfo};
pub use neighbours::Neighbour;
pub use net_dev::interface_rows;
pub use netns::{NetnsMember, NetnsOwners};
pub use os_release::unquote;
pub use privileges::{SocketAccess, User};
pub use processes::{LinkTraffic, NetworkNamespace, Process, ThreadSchedStat, TotalTraffic};
pub use qdiscs::Qdisc;
pub use resource_budget::{ResourceBudget, release_memory, tune_malloc};
pub use routes::Route;
pub use self_process::{ProcessUsage, raise_open_files_limit, thread_count};
pub use statfs::{MountPath, Space, Statfs, StatfsResult};
pub use tcp_sockets::TcpSockets;
pub use text::{Fields, Text, unescape_octal};

use crate::{
    error::Result,
    history::{self, History},
};
use cgroup::{CgroupReader, MemoryLimits};
use domain_usage::DomainUsage;
use engine::{Engine, Engines};
use libvirt::{FetchResult, Libvirt, StoragePool, VirtualNetwork};
use workloads::{Inventory, Workloads};

/// Mount points of the host's file systems. Tests use a fixture tree.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Roots {
    /// Where procfs is mounted.
    #[arg(long = "path.procfs", value_name = "DIR", default_value = "/proc")]
    pub procfs: PathBuf,
    /// Where sysfs is mounted.
    #[arg(long = "path.sysfs", value_name = "DIR", default_value = "/sys")]
    pub sysfs: PathBuf,
    /// Where the host's root file system is mounted.
    #[arg(long = "path.rootfs", value_name = "DIR", default_value = "/")]
    pub rootfs: PathBuf,
    /// Directory of udev's device database.
    #[arg(
        long = "path.udev.data",
        value_name = "DIR",
        default_value = "/run/udev/data"
    )]
    pub udev_data: PathBuf,
}

#[cfg(test)]
impl Roots {
    /// Returns the mount points of the host that runs the test.
    fn for_test_host() -> Self {
        Self {
            procfs: "/proc".into(),
            sysfs: "/sys".into(),
            rootfs: "/".into(),
            udev_data: "/run/udev/data".into(),
        }
    }
}

/// A host, with the state kept between scrapes.
#[derive(Debug)]
pub struct HostState {
    roots: Roots,
    cgroups: CgroupReader,
    engines: Arc<Engines>,
    libvirt: Arc<Libvirt>,
    workloads: Workloads,
    domain_usage: DomainUsage,
    history: Arc<History>,
}

impl HostState {
    /// Creates the state of a host. Nothing is read before the first request.
    #[must_use]
    pub fn new(
        roots: Roots,
        engines: engine::EngineFlags,
        libvirt: libvirt::LibvirtFlags,
        workloads: workloads::WorkloadFlags,
        history: history::HistoryFlags,
    ) -> Self {
        Self {
            cgroups: CgroupReader::new(&roots),
            engines: Arc::new(Engines::new(engines)),
            libvirt: Arc::new(Libvirt::new(libvirt, &roots.rootfs)),
            workloads: Workloads::new(workloads),
            domain_usage: DomainUsage::default(),
            history: Arc::new(History::new(history)),
            roots,
        }
    }

    /// Returns its container engines.
    #[must_use]
    pub fn engines(&self) -> &Arc<Engines> {
        &self.engines
    }

    /// Waits, at most for `limit`, until every engine with an existing socket responded or failed:
    /// for callers that have just started to [watch](Engines::watch) them.
    pub async fn wait_for_engines(self: &Arc<Self>, limit: Duration) {
        let deadline = Instant::now() + limit;
        let snapshot = Snapshot::new(Arc::clone(self), deadline);
        let (sockets, _) = self.engines.sockets();
        let is_accessible = |socket: &_| snapshot.socket_access(socket) == SocketAccess::Allowed;
        let accessible: Vec<_> = sockets
            .into_iter()
            .filter(|path| is_accessible(path))
            .collect();
        while Instant::now() < deadline {
            let engines = self.engines.engines();
            let has_status = |engine: &Engine| engine.up || engine.error.is_some();
            let is_settled = |socket: &PathBuf| {
                let mut engines = engines.iter();
                engines.any(|engine| {
                    engine::is_same_socket(&engine.socket, socket) && has_status(engine)
                })
            };
            if accessible.iter().all(is_settled) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the samples of the host and its containers.
    #[must_use]
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Returns how long removed workloads are remembered.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.workloads.grace()
    }

    /// Returns the libvirt client.
    #[must_use]
    pub fn libvirt(&self) -> &Arc<Libvirt> {
        &self.libvirt
    }
}

/// A host whose engines and libvirt are not watched.
impl From<Roots> for Arc<HostState> {
    fn from(roots: Roots) -> Self {
        let (engines, libvirt, workloads, history) = Default::default();
        Self::new(HostState::new(roots, engines, libvirt, workloads, history))
    }
}

/// A host during one scrape.
///
/// Files are read on request. Data needed by several collectors is read once, by the first of
/// them, and shared, including a failure.
#[derive(Debug)]
pub struct Snapshot {
    host: Arc<HostState>,
    deadline: Instant,
    links: OnceResult<Vec<Link>>,
    proc_stat: OnceResult<Text>,
    diskstats: OnceResult<Text>,
    mounts: OnceResult<MountInfo>,
    workloads: OnceResult<Inventory>,
    memory_limits: OnceResult<Vec<Result<MemoryLimits>>>,
    domains: OnceResult<FetchResult>,
}

impl Snapshot {
    /// Creates a snapshot that must be complete by `deadline`.
    #[must_use]
    pub fn new(host: Arc<HostState>, deadline: Instant) -> Self {
        Self {
            host,
            deadline,
            links: OnceResult::default(),
            proc_stat: OnceResult::default(),
            diskstats: OnceResult::default(),
            mounts: OnceResult::default(),
            workloads: OnceResult::default(),
            memory_limits: OnceResult::default(),
            domains: OnceResult::default(),
        }
    }

    /// Returns this snapshot if it has at least this much time left, else a new one with as much.
    #[must_use]
    pub fn with_min_time(self: &Arc<Self>, min: Duration) -> Arc<Self> {
        let deadline = Instant::now() + min;
        if self.deadline >= deadline {
            Arc::clone(self)
        } else {
            Arc::new(Self::new(Arc::clone(&self.host), deadline))
        }
    }

    /// Creates a snapshot of the host that runs the test.
    #[cfg(test)]
    pub(crate) fn for_test_host() -> Self {
        let deadline = Instant::now() + Duration::from_secs(10);
        Self::new(Roots::for_test_host().into(), deadline)
    }

    /// Deadline of the scrape.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Mount points of the host's file systems.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.host.roots
    }

    /// Reads a file below the procfs mount.
    pub fn read_proc(&self, path: impl AsRef<Path>) -> Result<Text> {
        dir::read(&self.roots().procfs.join(path))
    }

    /// Opens a directory below the procfs mount.
    pub fn proc_dir(&self, path: impl AsRef<Path>) -> Result<Dir> {
        Dir::open(&self.roots().procfs.join(path))
    }

    /// Reads a file below the sysfs mount.
    pub fn read_sys(&self, path: impl AsRef<Path>) -> Result<Text> {
        dir::read(&self.roots().sysfs.join(path))
    }

    /// Opens a directory below the sysfs mount.
    pub fn sys_dir(&self, path: impl AsRef<Path>) -> Result<Dir> {
        Dir::open(&self.roots().sysfs.join(path))
    }

    /// Opens the subdirectories of a directory below the sysfs mount; none if it is missing, for
    /// collectors that then succeed without data, as `node_exporter`'s do.
    pub fn sys_dirs(&self, path: impl AsRef<Path>) -> Result<Vec<Dir>> {
        match self.sys_dir(path) {
            Ok(dir) => dir.dirs(),
            Err(error) if error.is_gone() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Reads a file of the host's root file system, by its path there.
    pub fn read_rootfs(&self, path: impl AsRef<Path>) -> Result<Text> {
        dir::read(&join_root(&self.roots().rootfs, path.as_ref()))
    }

    /// Returns the path of a file of the host's root file system, by its path there.
    #[must_use]
    pub fn root_path(&self, path: impl AsRef<Path>) -> PathBuf {
        join_root(&self.roots().rootfs, path.as_ref())
    }

    /// Opens the directory of udev's device database.
    pub fn udev_data(&self) -> Result<Dir> {
        Dir::open(&self.roots().udev_data)
    }

    /// Opens any directory, such as one from a flag.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<Dir> {
        Dir::open(path.as_ref())
    }

    /// Returns the system time since the Unix epoch; `None` if it is earlier.
    #[must_use]
    pub fn unix_time(&self) -> Option<Duration> {
        clock::unix_time()
    }

    /// Returns the local time zone from `TZ` in the environment, else from `/etc/localtime`.
    #[must_use]
    pub fn time_zone(&self) -> Option<TimeZone> {
        clock::time_zone()
    }

    /// Returns the name of the local time zone, such as `Europe/Berlin`: from `TZ` in the
    /// environment, else from `/etc/timezone`, else from the target of `/etc/localtime`. `None` if
    /// that is a regular file, which does not contain the name.
    pub fn time_zone_name(&self) -> Result<Option<String>> {
        clock::time_zone_name(&self.roots().rootfs)
    }

    /// Reads the state of the kernel's clock synchronisation.
    pub fn adjtimex(&self) -> Result<Adjtimex> {
        Adjtimex::read()
    }

    /// Returns the kernel's name and version, and the host's own names.
    #[must_use]
    pub fn uname(&self) -> Uname {
        rustix::system::uname()
    }

    /// Opens a client for the drivers of network interfaces.
    pub fn ethtool(&self) -> Result<EthtoolSocket> {
        EthtoolSocket::open()
    }

    /// Returns the paths that match a pattern with `*`, `?` or `[`, sorted; a path without any of
    /// these matches itself.
    #[must_use]
    pub fn glob(&self, pattern: &Path) -> Vec<PathBuf> {
        let text = pattern
            .to_str()
            .filter(|text| text.contains(['*', '?', '[']));
        let paths = text.and_then(|text| glob::glob(text).ok());
        let paths: Vec<_> = paths.into_iter().flatten().flatten().collect();
        if paths.is_empty() {
            return vec![pattern.to_owned()];
        }
        paths
    }

    /// Returns `/proc/stat`, which several collectors need and which is expensive: the kernel sums
    /// every interrupt of every CPU for it.
    pub fn proc_stat(&self) -> Result<&Text> {
        self.proc_stat.get_or_read(|| self.read_proc("stat"))
    }

    /// Returns the cgroup reader, independent of workloads.
    #[must_use]
    pub fn cgroups(&self) -> &CgroupReader {
        &self.host.cgroups
    }

    /// Returns the samples of the host and its containers.
    #[must_use]
    pub fn history(&self) -> &Arc<History> {
        &self.host.history
    }

    /// Returns the last known state of all engines, including unavailable ones.
    #[must_use]
    pub fn engines(&self) -> Arc<Vec<Arc<Engine>>> {
        self.host.engines.engines()
    }

    /// Returns the sockets of engines, and whether flags name them.
    #[must_use]
    pub fn engine_sockets(&self) -> (Vec<PathBuf>, bool) {
        self.host.engines.sockets()
    }

    /// Returns containers, services and other cgroups, with the engines' data about them.
    pub fn workloads(&self) -> Result<&Inventory> {
        self.workloads.get_or_read(|| {
            let HostState {
                roots,
                cgroups,
                engines,
                libvirt,
                workloads,
                ..
            } = &*self.host;
            workloads.discover(roots, cgroups, engines, &libvirt.running())
        })
    }

    /// Returns the containers that engines report, without cgroups, for hosts whose cgroups cannot
    /// be listed. Does not read or wait.
    #[must_use]
    pub fn engine_containers(&self) -> Inventory {
        self.host.workloads.inventory_from_engines(self.engines())
    }

    /// Returns the domains, and the state of the connection to libvirt.
    pub fn domains(&self) -> Result<&FetchResult> {
        self.domains.get_or_read(|| {
            let HostState {
                libvirt,
                domain_usage,
                ..
            } = &*self.host;
            // Without access to cgroups, libvirt is still queried.
            let inventory = (!libvirt.running().is_empty()).then(|| self.workloads().ok());
            let host_stats = inventory
                .flatten()
                .map(|inventory| domain_usage.collect(self, inventory));
            libvirt.fetch(self.deadline, host_stats.unwrap_or_default())
        })
    }

    /// Returns the sockets of libvirt, and whether a flag names one. Empty if the connection needs
    /// more than a socket.
    pub fn libvirt_sockets(&self) -> (Vec<PathBuf>, bool) {
        self.host.libvirt.sockets()
    }

    /// Returns the URI of the connection through libvirt's own library, if that is used.
    #[must_use]
    pub fn libvirt_library(&self) -> Option<&str> {
        self.host.libvirt.library_uri()
    }

    /// Returns libvirt's storage pools.
    pub fn storage_pools(&self) -> Result<Vec<StoragePool>> {
        self.host.libvirt.pools(self.deadline)
    }

    /// Returns libvirt's networks.
    pub fn virtual_networks(&self) -> Result<Vec<VirtualNetwork>> {
        self.host.libvirt.networks(self.deadline)
    }

    /// Returns the cgroup paths of containers that a flag hides.
    pub fn hidden_containers(&self) -> Result<Vec<String>> {
        self.host.workloads.hidden_cgroups(self.roots())
    }

    /// Returns the memory limits of each existing workload, in their order. Shared, because
    /// several collectors need them and they take several files.
    pub fn memory_limits(&self) -> Result<&Vec<Result<MemoryLimits>>> {
        self.memory_limits.get_or_read(|| {
            let present = self.workloads()?.present();
            Ok(present.map(|(_, group)| group.memory_limits()).collect())
        })
    }
}

/// Returns a path below a root, even if the path is absolute.
fn join_root(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Data that is read at most once.
#[derive(Debug)]
struct OnceResult<T>(OnceLock<Result<T>>);

impl<T> Default for OnceResult<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> OnceResult<T> {
    fn get_or_read(&self, read: impl FnOnce() -> Result<T>) -> Result<&T> {
        self.0.get_or_init(read).as_ref().map_err(Clone::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_have_index_name_and_counters() {
        let snapshot = Snapshot::for_test_host();
        let lo = Link::find(snapshot.links().unwrap(), 1).unwrap();
        assert_eq!((lo.name.as_str(), lo.kind), ("lo", libc::ARPHRD_LOOPBACK));
        assert!(lo.stats.is_some() && lo.mtu.is_some() && lo.operstate().is_some());
        let names: std::collections::BTreeSet<_> = snapshot
            .links()
            .unwrap()
            .iter()
            .map(|link| link.name.clone())
            .collect();
        let table = snapshot.read_proc("net/dev").unwrap();
        let rows = table.body().lines().filter_map(|line| line.split_once(':'));
        assert_eq!(
            names,
            rows.map(|(name, _)| name.trim().to_owned()).collect()
        );
    }

    #[test]
    fn kernel_supports_all_netlink_requests() {
        let snapshot = Snapshot::for_test_host();
        let links = snapshot.links().unwrap();
        let is_link = |ifindex| Link::find(links, ifindex).is_some();
        assert!(
            snapshot
                .addresses()
                .unwrap()
                .iter()
                .all(|a| is_link(a.ifindex))
        );
        assert!(
            snapshot
                .neighbours()
                .unwrap()
                .iter()
                .all(|n| is_link(n.ifindex))
        );
        assert!(
            snapshot
                .routes()
                .unwrap()
                .iter()
                .all(|r| is_link(r.ifindex))
        );
        assert!(
            snapshot
                .qdiscs()
                .unwrap()
                .iter()
                .all(|q| is_link(q.ifindex))
        );
        if let Ok(modes) = snapshot.link_modes() {
            assert!(modes.iter().all(|mode| is_link(mode.ifindex)));
        }
    }

    #[test]
    fn listening_socket_is_counted() {
        let _listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = Snapshot::for_test_host().tcp_sockets().unwrap();
        let listening = sockets.states().find(|(state, _)| *state == "listen");
        assert!(listening.unwrap().1 > 0);
    }

    #[test]
    fn absolute_path_stays_below_root() {
        let path = join_root(Path::new("/host"), Path::new("/etc/os-release"));
        assert_eq!(path, Path::new("/host/etc/os-release"));
    }

    #[test]
    fn error_is_cached_like_a_result() {
        let shared = OnceResult::<u32>::default();
        let not_found = || Err(crate::error::Error::NotFound("/x".into()));
        assert!(shared.get_or_read(not_found).is_err());
        assert!(shared.get_or_read(|| Ok(1)).is_err());
    }
}
