//! What usually goes wrong, and how to fix it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::libvirt;
use crate::{
    error::Result,
    sources::{
        Snapshot, SocketAccess,
        cgroup::CgroupVersion,
        engine::{self, ContainerState, Engine, EngineKind},
        workloads::{Inventory, Runtime, UnnamedCause},
    },
};

/// Of what many have in common, as many are named.
const MAX_EXAMPLES: usize = 3;

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// It works.
    Ok,
    /// There is nothing to do.
    Info,
    /// Something is missing that need not be there.
    Warning,
    /// Something that is on does not work.
    Error,
}

impl Severity {
    /// Its name in JSON.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "nothing",
            Self::Warning => "note",
            Self::Error => "wrong",
        }
    }

    /// Whether somebody should read it.
    pub(super) fn needs_attention(self) -> bool {
        matches!(self, Self::Warning | Self::Error)
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub severity: Severity,
    /// The collector it is about, if it is about one.
    pub collector: Option<&'static str>,
    pub text: String,
    pub fix: Option<String>,
}

impl Finding {
    fn new(severity: Severity, text: impl Into<String>) -> Self {
        Self {
            severity,
            collector: None,
            text: text.into(),
            fix: None,
        }
    }

    pub(super) fn ok(text: impl Into<String>) -> Self {
        Self::new(Severity::Ok, text)
    }

    pub(super) fn info(text: impl Into<String>) -> Self {
        Self::new(Severity::Info, text)
    }

    pub(super) fn warning(text: impl Into<String>) -> Self {
        Self::new(Severity::Warning, text)
    }

    pub(super) fn error(text: impl Into<String>) -> Self {
        Self::new(Severity::Error, text)
    }

    pub(super) fn of_collector(mut self, collector: &'static str) -> Self {
        self.collector = Some(collector);
        self
    }

    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Who looks.
pub(super) fn describe_user(snapshot: &Snapshot) -> String {
    let user = snapshot.user();
    let uid = user.uid;
    user.name.map_or_else(
        || format!("user {uid}"),
        |name| format!("{name} (uid {uid})"),
    )
}

/// Everything, under titles.
pub(super) fn run_checks(
    snapshot: &Snapshot,
    is_on: &dyn Fn(&str) -> bool,
    containers: bool,
) -> Vec<(&'static str, Vec<Finding>)> {
    let mut found = Vec::new();
    let user = describe_user(snapshot);
    if containers {
        found.push(("CONTROL GROUPS", cgroup_findings(snapshot, is_on)));
        let (sockets, are_named) = snapshot.engine_sockets();
        let sockets = dedup_sockets(sockets).into_iter().map(|socket| {
            let access = snapshot.socket_access(&socket);
            (socket, access)
        });
        let engines = snapshot.engines();
        let engines: Vec<&Engine> = engines.iter().map(|engine| &**engine).collect();
        let sockets: Vec<_> = sockets.collect();
        found.push((
            "ENGINES",
            engine_findings(&sockets, are_named, &engines, &user),
        ));
        if let Ok(seen) = snapshot.workloads() {
            let mut named = container_findings(seen);
            named.extend(excluded_cgroups(snapshot.hidden_containers()));
            found.push(("NAMES OF CONTAINERS", named));
        }
    }
    let of_libvirt = [
        "libvirt",
        "libvirt_network",
        "libvirt_pool",
        "census_domains",
    ];
    if of_libvirt.into_iter().any(is_on) {
        found.push(("LIBVIRT", libvirt::findings(snapshot, &user)));
    }
    found
}

/// Each socket once, by whatever links it goes.
fn dedup_sockets(sockets: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut each: Vec<PathBuf> = Vec::new();
    for socket in sockets {
        if !each
            .iter()
            .any(|known| engine::is_same_socket(known, &socket))
        {
            each.push(socket);
        }
    }
    each
}

fn cgroup_findings(snapshot: &Snapshot, is_on: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let cgroups = snapshot.cgroups();
    let cgroup_root = snapshot.roots().sysfs.join("fs/cgroup");
    let version = match cgroups.version() {
        Ok(version) => version,
        Err(why) => {
            let text = format!("control groups cannot be read: {why}");
            let fix = format!(
                "mount them at {}; in a container, mount the host's files and say where with \
                 --path.sysfs and --path.procfs",
                cgroup_root.display()
            );
            // A machine may well be without.
            let severity = if why.is_gone() {
                Severity::Warning
            } else {
                Severity::Error
            };
            return vec![Finding::new(severity, text).fix(fix)];
        }
    };
    let mut found = Vec::new();
    match cgroups.controllers() {
        Ok(controllers) => {
            let name = match version {
                CgroupVersion::V1 => "version 1",
                CgroupVersion::Hybrid => "version 1, with version 2 beside it (hybrid)",
                CgroupVersion::V2 => "version 2",
            };
            let names = controllers.join(", ");
            found.push(Finding::ok(format!("{name}; controllers: {names}")));
            found.extend(missing_controllers(version, &controllers, is_on));
        }
        Err(why) => found.push(Finding::error(format!("controllers cannot be read: {why}"))),
    }
    if is_on("container_pressure") || is_on("pressure") {
        found.extend(pressure_finding(
            version,
            snapshot.read_proc("pressure/cpu").map(drop),
        ));
    }
    if version != CgroupVersion::V2
        && let Ok(inventory) = snapshot.workloads()
    {
        let mut accounted = inventory
            .present()
            .filter_map(|(_, group)| group.block_io().ok()?.is_accounted);
        if accounted.next().is_some_and(|first| !first) && !accounted.any(|it| it) {
            found.push(block_io_not_accounted(&cgroup_root));
        }
    }
    found
}

/// The controllers that metrics which are on come from and that there are not.
fn missing_controllers(
    version: CgroupVersion,
    there: &[String],
    is_on: &dyn Fn(&str) -> bool,
) -> Vec<Finding> {
    let (usage, disks) = match version {
        CgroupVersion::V1 | CgroupVersion::Hybrid => ("cpuacct", "blkio"),
        CgroupVersion::V2 => ("cpu", "io"),
    };
    let mut wanted = vec![
        ("memory", "container_memory", "the memory of containers"),
        (usage, "container_cpu", "what containers use of the CPUs"),
        ("cpu", "container_cpu", "throttling and limits of CPU time"),
        (disks, "container_disk", "what containers read and write"),
        ("pids", "container_pids", "the number of their processes"),
    ];
    wanted.dedup_by_key(|(controller, ..)| *controller);
    let missing = wanted.into_iter().filter(|(controller, collector, _)| {
        is_on(collector) && !there.iter().any(|it| it == controller)
    });
    missing
        .map(|(controller, _, what)| {
            let text = format!("the {controller} controller is off, so nothing says {what}");
            let fix = if controller == "memory" {
                "add cgroup_enable=memory cgroup_memory=1 to the kernel's command line (on a \
                 Raspberry Pi in cmdline.txt on the boot partition, on its one line) and restart \
                 the machine"
                    .to_owned()
            } else {
                format!(
                    "see that the kernel's command line has no cgroup_disable={controller}, and \
                     that the kernel was built with it"
                )
            };
            Finding::error(text).fix(fix)
        })
        .collect()
}

/// Pressure stall information.
fn pressure_finding(version: CgroupVersion, pressure: Result<()>) -> Option<Finding> {
    match pressure {
        Ok(()) if version == CgroupVersion::V1 => Some(
            Finding::warning("pressure (PSI) is known of the machine, but not of containers").fix(
                "mount the version 2 hierarchy, beside version 1 as systemd's hybrid mode does",
            ),
        ),
        Ok(()) => None,
        Err(why) => Some(
            Finding::warning(format!("the kernel does not measure pressure (PSI): {why}"))
                .fix("add psi=1 to the kernel's command line and restart the machine"),
        ),
    }
}

fn block_io_not_accounted(cgroup_root: &Path) -> Finding {
    let text = "the kernel does not count what containers read and write: with version 1, newer \
                kernels begin to only when a limit is first set for a disk";
    let fix = format!(
        "set one that nothing reaches, once for each disk (lsblk tells its numbers) and start of \
         the machine, in any group; from then on they are counted for all: echo \"MAJOR:MINOR \
         109951162777600\" > {}/GROUP/blkio.throttle.write_bps_device. With the disk scheduler \
         bfq, or with version 2, they are counted anyway",
        cgroup_root.join("blkio").display()
    );
    Finding::warning(text).fix(fix)
}

fn engine_findings(
    sockets: &[(PathBuf, SocketAccess)],
    are_named: bool,
    engines: &[&Engine],
    user: &str,
) -> Vec<Finding> {
    let mut found = Vec::new();
    for (socket, access) in sockets {
        let path = socket.display();
        let mut engines = engines.iter();
        let engine = engines.find(|engine| engine::is_same_socket(&engine.socket, socket));
        found.extend(match (access, engine) {
            (_, Some(engine)) if engine.up => Some(engine_is_up(engine)),
            (SocketAccess::Missing, _) if are_named => Some(
                Finding::error(format!("{path} does not exist"))
                    .fix("start the engine, or name its socket with --engine.socket"),
            ),
            (SocketAccess::Missing, _) => None,
            (SocketAccess::NotASocket, _) => {
                let text = format!("{path} is not a socket");
                Some(Finding::error(text).fix("name the engine's socket with --engine.socket"))
            }
            (SocketAccess::Denied { group }, _) => {
                let text = format!("{path}: {user} may not connect");
                let fix = match group {
                    Some(group) => format!(
                        "let the user join the group {group} (usermod -aG {group} USER, or \
                         SupplementaryGroups={group} in the unit) and restart the exporter, or run as root"
                    ),
                    None => "run as root, or as the user whose engine it is".to_owned(),
                };
                Some(Finding::error(text).fix(fix))
            }
            (SocketAccess::Allowed, engine) => {
                let why = engine.and_then(|engine| engine.error.as_deref());
                let why = why.unwrap_or("did not answer in time");
                let text = format!("{path}: {why}");
                Some(Finding::error(text).fix(
                    "see whether the engine runs; the exporter tries again by itself, and goes \
                     on without names meanwhile",
                ))
            }
        });
    }
    if found.is_empty() {
        let looked: Vec<_> = sockets
            .iter()
            .map(|(it, _)| it.display().to_string())
            .collect();
        let text = match looked.as_slice() {
            [] => "none is asked, as the flags say: containers are shown without names".to_owned(),
            looked => format!(
                "none found at {}: containers, if any, are shown without names",
                looked.join(", ")
            ),
        };
        let fix = "if there is an engine, name its socket: --engine.socket=unix:///PATH";
        let note = Finding::info(text);
        found.push(if looked.is_empty() {
            note
        } else {
            note.fix(fix)
        });
    }
    found
}

fn engine_is_up(engine: &Engine) -> Finding {
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let all = engine.containers.len();
    let containers = engine.containers.values();
    let running = containers
        .filter(|it| it.state == ContainerState::Running)
        .count();
    let images = engine
        .images
        .as_ref()
        .map(|images| images.len().to_string());
    Finding::ok(format!(
        "{}: {} {}, API {}, cgroup driver {}; containers: {all}, {running} of them running; \
         images: {}",
        engine.socket.display(),
        engine.kind.map_or("engine", EngineKind::name),
        or(&engine.version),
        or(&engine.api_version),
        or(&engine.cgroup_driver),
        or(&images),
    ))
}

/// Which containers have names, and why others do not.
fn container_findings(inventory: &Inventory) -> Vec<Finding> {
    let mut found = Vec::new();
    let is_named = inventory
        .containers()
        .filter(|(it, ..)| it.cgroup.is_some());
    let named = is_named.count();
    let groups = inventory.present().count();
    found.push(Finding::ok(format!(
        "control groups shown: {groups}, {named} of them with the name of a container"
    )));

    let mut unseen = inventory
        .containers()
        .filter(|(it, _, container)| it.cgroup.is_none() && container.state.is_alive())
        .map(|(it, ..)| it.path.as_str())
        .peekable();
    if unseen.peek().is_some() {
        let text = format!(
            "containers run whose control groups are not here: {}",
            first_few(unseen)
        );
        found.push(Finding::error(text).fix(
            "in a container, mount the host's procfs and sysfs, with --cgroupns=host or all of \
             sysfs, and say where with --path.procfs and --path.sysfs",
        ));
    }

    let mut nameless: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (workload, _) in inventory.present() {
        if let Some(why) = inventory.unnamed_cause(workload) {
            let why = explain_unnamed(&why);
            nameless.entry(why).or_default().push(&workload.path);
        }
    }
    for ((why, fix), paths) in nameless {
        let count = paths.len();
        let text = format!(
            "{count} without a name: {why}: {}",
            first_few(paths.into_iter())
        );
        let note = Finding::warning(text);
        found.push(if fix.is_empty() { note } else { note.fix(fix) });
    }
    found
}

/// Groups of containers that a flag hides.
fn excluded_cgroups(paths: Result<Vec<String>>) -> Option<Finding> {
    match paths {
        Ok(paths) if paths.is_empty() => None,
        Ok(paths) => {
            let count = paths.len();
            let few = first_few(paths.iter().map(String::as_str));
            let text = format!("{count} hidden by --cgroup.exclude: {few}");
            Some(Finding::info(text))
        }
        Err(why) => Some(Finding::error(format!(
            "control groups cannot be listed: {why}"
        ))),
    }
}

/// Why a container goes by its id only, and what to do about it, if anything.
fn explain_unnamed(why: &UnnamedCause) -> (&'static str, &'static str) {
    match why {
        UnnamedCause::UnknownToEngine(EngineKind::Docker) => (
            "made by a Docker that is not asked, such as a user's or one in a container",
            "name its socket, too: --engine.socket=unix:///PATH, once for each",
        ),
        UnnamedCause::EngineDown(EngineKind::Docker, _)
        | UnnamedCause::EngineNotConfigured(EngineKind::Docker) => (
            "made by Docker, which is not asked or does not answer",
            "see the findings about engines",
        ),
        UnnamedCause::UnknownToEngine(EngineKind::Podman) => (
            "made by a Podman that is not asked, such as a user's",
            "name its socket, too: --engine.socket=unix:///PATH, once for each; a user's listens \
             after systemctl --user enable --now podman.socket",
        ),
        UnnamedCause::EngineDown(EngineKind::Podman, _)
        | UnnamedCause::EngineNotConfigured(EngineKind::Podman) => (
            "made by Podman, which is not asked or does not answer",
            "have it listen (systemctl enable --now podman.socket, for a user's with --user), and \
             name the socket if it is not found: --engine.socket=unix:///PATH",
        ),
        UnnamedCause::UnsupportedRuntime(Runtime::CriO) => {
            ("made by CRI-O, which is not asked for names", "")
        }
        UnnamedCause::UnsupportedRuntime(_) => {
            ("made by containerd, which is not asked for names", "")
        }
        UnnamedCause::UnknownRuntime => ("their paths do not tell what made them", ""),
    }
}

/// The first few, and how many more there are.
pub(super) fn first_few<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    let paths: Vec<_> = paths.collect();
    let named: Vec<_> = paths.iter().take(MAX_EXAMPLES).copied().collect();
    match paths.len().saturating_sub(MAX_EXAMPLES) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Error,
        sources::workloads::{Workload, container, engine},
    };

    fn errors(found: &[Finding]) -> Vec<&Finding> {
        let wrong = found.iter().filter(|it| it.severity == Severity::Error);
        wrong.collect()
    }

    fn controllers(names: &str) -> Vec<String> {
        names.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn missing_memory_controller_remedy_is_kernel_cmdline() {
        let all = controllers("blkio cpu cpuacct memory pids");
        let all_on = |_: &str| true;
        let missing = |version, there: &[String]| missing_controllers(version, there, &all_on);
        assert_eq!(missing(CgroupVersion::V1, &all), []);
        let two = controllers("cpu io memory pids");
        assert_eq!(missing(CgroupVersion::V2, &two), []);
        let found = missing(CgroupVersion::V2, &controllers("cpu io pids"));
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.severity, Severity::Error);
        let fix = one.fix.as_deref().unwrap();
        assert!(fix.contains("cgroup_enable=memory cgroup_memory=1"));
        let found = missing(CgroupVersion::Hybrid, &controllers("cpu memory pids"));
        assert_eq!(found.len(), 2, "{found:?}");
        let but_disks = |collector: &str| collector != "container_disk";
        let there = controllers("cpu cpuacct memory pids");
        assert_eq!(
            missing_controllers(CgroupVersion::V1, &there, &but_disks),
            []
        );
    }

    #[test]
    fn disabled_pressure_is_only_a_warning() {
        assert_eq!(pressure_finding(CgroupVersion::V2, Ok(())), None);
        let off = pressure_finding(
            CgroupVersion::V2,
            Err(Error::NotFound("pressure/cpu".into())),
        )
        .unwrap();
        assert_eq!(off.severity, Severity::Warning);
        assert!(off.fix.unwrap().contains("psi=1"));
        assert!(pressure_finding(CgroupVersion::V1, Ok(())).is_some());
    }

    #[test]
    fn each_engine_failure_has_its_own_message() {
        let socket = PathBuf::from("/run/docker.sock");
        let of = |access: SocketAccess, named, engines: &[&Engine]| {
            engine_findings(
                &[(socket.clone(), access)],
                named,
                engines,
                "nobody (uid 65534)",
            )
        };
        let group = Some("docker".to_owned());
        let refused = of(SocketAccess::Denied { group }, false, &[]);
        assert_eq!(refused[0].severity, Severity::Error);
        assert!(
            refused[0]
                .text
                .contains("nobody (uid 65534) may not connect")
        );
        assert!(
            refused[0]
                .fix
                .as_ref()
                .unwrap()
                .contains("usermod -aG docker USER")
        );

        assert_eq!(
            of(SocketAccess::Missing, true, &[])[0].severity,
            Severity::Error
        );
        let none = of(SocketAccess::Missing, false, &[]);
        assert!(none[0].text.starts_with("none found at /run/docker.sock"));
        assert!(errors(&none).is_empty());

        let mut silent = engine([]);
        silent.up = false;
        let found = of(SocketAccess::Allowed, false, &[&silent]);
        assert!(errors(&found)[0].text.ends_with("did not answer in time"));
        silent.error = Some("answered 500".to_owned());
        let found = of(SocketAccess::Allowed, false, &[&silent]);
        assert!(errors(&found)[0].text.ends_with("answered 500"));

        let mut well = engine([container("a", "web")]);
        well.version = Some("20.10.24".into());
        let found = of(SocketAccess::Allowed, false, &[&well]);
        assert_eq!(found[0].severity, Severity::Ok);
        assert!(found[0].text.contains("docker 20.10.24, API unknown"));
        assert!(found[0].text.contains("containers: 1, 1 of them running"));
        assert_eq!(engine_findings(&[], true, &[], "root")[0].fix, None);
    }

    #[test]
    fn unnamed_containers_are_explained() {
        let id = "ab".repeat(32);
        let why = |path: String, engines: Vec<Engine>| {
            let seen = Inventory {
                engines: engines
                    .into_iter()
                    .map(std::sync::Arc::new)
                    .collect::<Vec<_>>()
                    .into(),
                ..Inventory::default()
            };
            let why = seen.unnamed_cause(&Workload::from_parts(&path, None, None));
            why.map_or("", |why| explain_unnamed(&why).0)
        };
        let docker = format!("/docker/{id}");
        assert!(why(docker.clone(), vec![]).contains("does not answer"));
        assert!(why(docker, vec![engine([])]).contains("a Docker that is not asked"));
        let podman = format!("/machine.slice/libpod-{id}.scope");
        assert!(why(podman, vec![engine([])]).contains("Podman, which is not asked"));
        let cri = format!("/kubepods.slice/cri-containerd-{id}.scope");
        assert!(why(cri, vec![]).contains("containerd"));
        assert_eq!(why("/lxc/web".to_owned(), vec![]), "");
    }

    #[test]
    fn running_container_without_cgroup_is_an_error() {
        let seen = Inventory {
            all: vec![Workload::from_parts(
                "/docker/a",
                None,
                Some(container("a", "web")),
            )],
            ..Inventory::default()
        };
        let found = container_findings(&seen);
        assert!(errors(&found)[0].text.ends_with("are not here: /docker/a"));
        assert_eq!(
            first_few(["a", "b", "c", "d", "e"].into_iter()),
            "a, b, c and 2 more"
        );
    }
}
