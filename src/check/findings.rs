//! Common misconfigurations and their fixes.

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

/// Maximum number of examples in a finding.
const MAX_EXAMPLES: usize = 3;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// Works.
    Ok,
    /// No action needed.
    Info,
    /// Optional data is missing.
    Warning,
    /// An enabled feature does not work.
    Error,
}

impl Severity {
    /// Name in JSON.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "nothing",
            Self::Warning => "note",
            Self::Error => "wrong",
        }
    }

    /// Whether the operator should read it.
    pub(super) fn needs_attention(self) -> bool {
        matches!(self, Self::Warning | Self::Error)
    }
}

/// One result of the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub severity: Severity,
    /// The collector concerned, if any.
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

/// Name and UID of the user that runs the check.
pub(super) fn describe_user(snapshot: &Snapshot) -> String {
    let user = snapshot.user();
    let uid = user.uid;
    user.name.map_or_else(
        || format!("user {uid}"),
        |name| format!("{name} (uid {uid})"),
    )
}

/// Runs all checks; returns the findings by area.
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
        if let Ok(inventory) = snapshot.workloads() {
            let mut named = container_findings(inventory);
            named.extend(excluded_cgroups(snapshot.hidden_containers()));
            found.push(("NAMES OF CONTAINERS", named));
        }
    }
    let libvirt_collectors = [
        "libvirt",
        "libvirt_network",
        "libvirt_pool",
        "census_domains",
    ];
    if libvirt_collectors.into_iter().any(is_on) {
        found.push(("LIBVIRT", libvirt::findings(snapshot, &user)));
    }
    found
}

/// Removes sockets that are links to an earlier one.
fn dedup_sockets(sockets: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut each: Vec<PathBuf> = Vec::new();
    for socket in sockets {
        if !each
            .iter()
            .any(|other| engine::is_same_socket(other, &socket))
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
            let text = format!("cannot read cgroups: {why}");
            let fix = format!(
                "mount the cgroup file system at {}; in a container, bind-mount the host's sysfs \
                 and procfs and set --path.sysfs and --path.procfs",
                cgroup_root.display()
            );
            // Cgroups are optional.
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
                CgroupVersion::Hybrid => "version 1 and version 2 (hybrid)",
                CgroupVersion::V2 => "version 2",
            };
            let names = controllers.join(", ");
            found.push(Finding::ok(format!("{name}; controllers: {names}")));
            found.extend(missing_controllers(version, &controllers, is_on));
        }
        Err(why) => found.push(Finding::error(format!(
            "cannot read cgroup controllers: {why}"
        ))),
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

/// Returns an error for each missing controller that an enabled collector needs.
fn missing_controllers(
    version: CgroupVersion,
    available: &[String],
    is_on: &dyn Fn(&str) -> bool,
) -> Vec<Finding> {
    let (usage, disks) = match version {
        CgroupVersion::V1 | CgroupVersion::Hybrid => ("cpuacct", "blkio"),
        CgroupVersion::V2 => ("cpu", "io"),
    };
    let mut required = vec![
        ("memory", "container_memory", "container memory"),
        (usage, "container_cpu", "container CPU usage"),
        ("cpu", "container_cpu", "CPU throttling and limits"),
        (disks, "container_disk", "container disk I/O"),
        ("pids", "container_pids", "container process counts"),
    ];
    required.dedup_by_key(|(controller, ..)| *controller);
    let missing = required.into_iter().filter(|(controller, collector, _)| {
        is_on(collector) && !available.iter().any(|it| it == controller)
    });
    missing
        .map(|(controller, _, what)| {
            let text = format!("cgroup controller {controller} is disabled: no metrics for {what}");
            let fix = if controller == "memory" {
                "add cgroup_enable=memory cgroup_memory=1 to the kernel command line (on a \
                 Raspberry Pi: to the single line of cmdline.txt on the boot partition) and reboot"
                    .to_owned()
            } else {
                format!(
                    "remove cgroup_disable={controller} from the kernel command line, and check \
                     that the kernel was built with this controller"
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
            Finding::warning(
                "pressure stall information (PSI) is available for the host but not for containers",
            )
            .fix(
                "mount the cgroup version 2 hierarchy, alongside version 1 as in systemd's hybrid \
                 mode",
            ),
        ),
        Ok(()) => None,
        Err(why) => Some(
            Finding::warning(format!(
                "pressure stall information (PSI) is disabled: {why}"
            ))
            .fix("add psi=1 to the kernel command line and reboot"),
        ),
    }
}

fn block_io_not_accounted(cgroup_root: &Path) -> Finding {
    let text = "the kernel does not account block I/O per cgroup: with cgroup version 1, recent \
                kernels start accounting a disk only after an I/O limit was set for it";
    let fix = format!(
        "after each boot, set an unreachable limit for each disk (MAJOR:MINOR from lsblk) in any \
         cgroup, which enables accounting for all cgroups: echo \"MAJOR:MINOR 109951162777600\" > \
         {}/GROUP/blkio.throttle.write_bps_device. Not needed with the I/O scheduler bfq or with \
         cgroup version 2",
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
                Finding::error(format!("{path}: no such file or directory"))
                    .fix("start the engine, or set its socket with --engine.socket"),
            ),
            (SocketAccess::Missing, _) => None,
            (SocketAccess::NotASocket, _) => {
                let text = format!("{path}: not a socket");
                Some(Finding::error(text).fix("set the socket of the engine with --engine.socket"))
            }
            (SocketAccess::Denied { group }, _) => {
                let text = format!("{path}: permission denied for {user}");
                let fix = match group {
                    Some(group) => format!(
                        "join group {group} (usermod -aG {group} USER, or \
                         SupplementaryGroups={group} in the unit) and restart the exporter, or \
                         run as root"
                    ),
                    None => "run as root or as the owner of the engine".to_owned(),
                };
                Some(Finding::error(text).fix(fix))
            }
            (SocketAccess::Allowed, engine) => {
                let why = engine.and_then(|engine| engine.error.as_deref());
                let why = why.unwrap_or("timed out");
                let text = format!("{path}: {why}");
                Some(Finding::error(text).fix(
                    "check that the engine is running; the exporter retries automatically and \
                     exposes containers without names meanwhile",
                ))
            }
        });
    }
    if found.is_empty() {
        let paths: Vec<_> = sockets
            .iter()
            .map(|(it, _)| it.display().to_string())
            .collect();
        let text = match paths.as_slice() {
            [] => "engines are disabled (empty --engine.socket): containers have no \
                   names"
                .to_owned(),
            paths => format!(
                "no engine socket at {}: containers, if any, have no names",
                paths.join(", ")
            ),
        };
        let fix = "if an engine runs, set its socket: --engine.socket=unix:///PATH";
        let note = Finding::info(text);
        found.push(if paths.is_empty() {
            note
        } else {
            note.fix(fix)
        });
    }
    found
}

fn engine_is_up(engine: &Engine) -> Finding {
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
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
        "{}: {} {}, API {}, cgroup driver {}; containers: {all}, running: {running}; images: {}",
        engine.socket.display(),
        engine.kind.map_or("engine", EngineKind::name),
        or_unknown(&engine.version),
        or_unknown(&engine.api_version),
        or_unknown(&engine.cgroup_driver),
        or_unknown(&images),
    ))
}

/// Counts named containers and explains the unnamed ones.
fn container_findings(inventory: &Inventory) -> Vec<Finding> {
    let mut found = Vec::new();
    let is_named = inventory
        .containers()
        .filter(|(it, ..)| it.cgroup.is_some());
    let named = is_named.count();
    let groups = inventory.present().count();
    found.push(Finding::ok(format!(
        "cgroups exposed: {groups}, with container name: {named}"
    )));

    let mut missing = inventory
        .containers()
        .filter(|(it, _, container)| it.cgroup.is_none() && container.state.is_alive())
        .map(|(it, ..)| it.path.as_str())
        .peekable();
    if missing.peek().is_some() {
        let text = format!(
            "running containers without a visible cgroup: {}",
            first_few(missing)
        );
        found.push(Finding::error(text).fix(
            "in a container, bind-mount the host's procfs and sysfs (use --cgroupns=host or mount \
             all of sysfs) and set --path.procfs and --path.sysfs",
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
        let text = format!("{count} unnamed: {why}: {}", first_few(paths.into_iter()));
        let note = Finding::warning(text);
        found.push(if fix.is_empty() { note } else { note.fix(fix) });
    }
    found
}

/// Container cgroups excluded by a flag.
fn excluded_cgroups(paths: Result<Vec<String>>) -> Option<Finding> {
    match paths {
        Ok(paths) if paths.is_empty() => None,
        Ok(paths) => {
            let count = paths.len();
            let few = first_few(paths.iter().map(String::as_str));
            let text = format!("{count} excluded by --cgroup.exclude: {few}");
            Some(Finding::info(text))
        }
        Err(why) => Some(Finding::error(format!("cannot list cgroups: {why}"))),
    }
}

/// Why a container has no name, and the fix, which may be empty.
fn explain_unnamed(why: &UnnamedCause) -> (&'static str, &'static str) {
    match why {
        UnnamedCause::UnknownToEngine(EngineKind::Docker) => (
            "created by a Docker daemon that is not configured, such as a rootless one or one in \
             a container",
            "add its socket: --engine.socket=unix:///PATH (repeatable)",
        ),
        UnnamedCause::EngineDown(EngineKind::Docker, _)
        | UnnamedCause::EngineNotConfigured(EngineKind::Docker) => (
            "created by Docker, which is not configured or does not respond",
            "see the findings for engines",
        ),
        UnnamedCause::UnknownToEngine(EngineKind::Podman) => (
            "created by a Podman service that is not configured, such as a rootless one",
            "add its socket: --engine.socket=unix:///PATH (repeatable); for rootless Podman, \
             start it with systemctl --user enable --now podman.socket",
        ),
        UnnamedCause::EngineDown(EngineKind::Podman, _)
        | UnnamedCause::EngineNotConfigured(EngineKind::Podman) => (
            "created by Podman, which is not configured or does not respond",
            "start its socket (systemctl enable --now podman.socket; with --user for rootless \
             Podman), and set --engine.socket=unix:///PATH if it is not at a default path",
        ),
        UnnamedCause::UnsupportedRuntime(Runtime::CriO) => {
            ("created by CRI-O, whose API is not supported", "")
        }
        UnnamedCause::UnsupportedRuntime(_) => {
            ("created by containerd, whose API is not supported", "")
        }
        UnnamedCause::UnknownRuntime => ("container runtime unknown from cgroup path", ""),
    }
}

/// Joins the first items and appends the number of the others.
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
        let missing =
            |version, available: &[String]| missing_controllers(version, available, &all_on);
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
        let available = controllers("cpu cpuacct memory pids");
        assert_eq!(
            missing_controllers(CgroupVersion::V1, &available, &but_disks),
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
        let findings_for = |access: SocketAccess, named, engines: &[&Engine]| {
            engine_findings(
                &[(socket.clone(), access)],
                named,
                engines,
                "nobody (uid 65534)",
            )
        };
        let group = Some("docker".to_owned());
        let denied = findings_for(SocketAccess::Denied { group }, false, &[]);
        assert_eq!(denied[0].severity, Severity::Error);
        assert!(
            denied[0]
                .text
                .contains("permission denied for nobody (uid 65534)")
        );
        assert!(
            denied[0]
                .fix
                .as_ref()
                .unwrap()
                .contains("usermod -aG docker USER")
        );

        assert_eq!(
            findings_for(SocketAccess::Missing, true, &[])[0].severity,
            Severity::Error
        );
        let none = findings_for(SocketAccess::Missing, false, &[]);
        assert!(
            none[0]
                .text
                .starts_with("no engine socket at /run/docker.sock")
        );
        assert!(errors(&none).is_empty());

        let mut silent = engine([]);
        silent.up = false;
        let found = findings_for(SocketAccess::Allowed, false, &[&silent]);
        assert!(errors(&found)[0].text.ends_with("timed out"));
        silent.error = Some("status 500".to_owned());
        let found = findings_for(SocketAccess::Allowed, false, &[&silent]);
        assert!(errors(&found)[0].text.ends_with("status 500"));

        let mut healthy = engine([container("a", "web")]);
        healthy.version = Some("20.10.24".into());
        let found = findings_for(SocketAccess::Allowed, false, &[&healthy]);
        assert_eq!(found[0].severity, Severity::Ok);
        assert!(found[0].text.contains("docker 20.10.24, API unknown"));
        assert!(found[0].text.contains("containers: 1, running: 1"));
        assert_eq!(engine_findings(&[], true, &[], "root")[0].fix, None);
    }

    #[test]
    fn unnamed_containers_are_explained() {
        let id = "ab".repeat(32);
        let why = |path: String, engines: Vec<Engine>| {
            let inventory = Inventory {
                engines: engines
                    .into_iter()
                    .map(std::sync::Arc::new)
                    .collect::<Vec<_>>()
                    .into(),
                ..Inventory::default()
            };
            let why = inventory.unnamed_cause(&Workload::from_parts(&path, None, None));
            why.map_or("", |why| explain_unnamed(&why).0)
        };
        let docker = format!("/docker/{id}");
        assert!(why(docker.clone(), vec![]).contains("does not respond"));
        assert!(why(docker, vec![engine([])]).contains("a Docker daemon that is not configured"));
        let podman = format!("/machine.slice/libpod-{id}.scope");
        assert!(why(podman, vec![engine([])]).contains("Podman, which is not configured"));
        let cri = format!("/kubepods.slice/cri-containerd-{id}.scope");
        assert!(why(cri, vec![]).contains("containerd"));
        assert_eq!(why("/lxc/web".to_owned(), vec![]), "");
    }

    #[test]
    fn running_container_without_cgroup_is_an_error() {
        let inventory = Inventory {
            all: vec![Workload::from_parts(
                "/docker/a",
                None,
                Some(container("a", "web")),
            )],
            ..Inventory::default()
        };
        let found = container_findings(&inventory);
        assert!(
            errors(&found)[0]
                .text
                .ends_with("without a visible cgroup: /docker/a")
        );
        assert_eq!(
            first_few(["a", "b", "c", "d", "e"].into_iter()),
            "a, b, c and 2 more"
        );
    }
}
