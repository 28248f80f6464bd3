//! Privileges that the exporter uses and needs: on a machine with Docker, a container, libvirt and
//! a domain, with all collectors, as root, in the sandbox and as an unprivileged user.
//!
//! These tests need root, Docker, libvirt and strace, and start everything else themselves.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::support::{
    engines::Engine,
    is_installed,
    libvirt_daemon::LibvirtDaemon,
    server_process::{ServerProcess, TempDir, wait_until},
    skip,
    text_format::{Labels, Scrape},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use strata_exporter::{collectors, sandbox::MAX_LANDLOCK_ABI};

const BINARY: &str = env!("CARGO_BIN_EXE_strata_exporter");
const NOBODY_UID: u32 = 65_534;
const CONTAINER: &str = "visible";

/// Flags that are off by default and make collectors read more.
const SWITCHES: &[&str] = &[
    "--collector.container_network.advanced-tcp",
    "--collector.container_network.tcp",
    "--collector.container_network.udp",
    "--collector.container_processes",
    "--collector.container_processes.schedstat",
    "--collector.container_processes.tasks-state",
    "--collector.machine.topology",
    "--collector.systemd.private",
    "--libvirt.jobs",
];
/// Flags that make collectors look into other processes.
const TRACING: &[&str] = &[
    "--collector.container_processes.referenced",
    "--collector.container_processes.sockets",
];

/// Containers of a concurrent test could be seen by one exporter and not by another that was
/// started later.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// An engine with a container and a daemon with a domain.
struct Daemons {
    engine: Engine,
    daemon: LibvirtDaemon,
    domain: String,
    dir: TempDir,
    _guard: MutexGuard<'static, ()>,
}

impl Daemons {
    /// Starts all of them. Skips the test and returns `None` where that is impossible.
    fn new(name: &str) -> Option<Self> {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = Engine::docker(name)?;
        let flags = ["--memory=32m"];
        engine.start_container(CONTAINER, &flags, &["sleep", "3600"]);
        let daemon = match LibvirtDaemon::start(name) {
            Ok(daemon) => daemon,
            Err(what) => {
                skip(what);
                return None;
            }
        };
        let domain = format!("domain-{}-{name}", std::process::id());
        daemon.define_minimal_domain(&domain);
        daemon.virsh(&["start", "--paused", &domain]).unwrap();
        let dir = TempDir::new(&format!("rights-{name}"));
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&dir.0, open).unwrap();
        // An unprivileged user may have no access to the directory of the binary.
        fs::copy(BINARY, dir.0.join("strata_exporter")).unwrap();
        Some(Self {
            engine,
            daemon,
            domain,
            dir,
            _guard: guard,
        })
    }

    /// Enables everything.
    fn flags(&self, extra: &[&str]) -> Vec<String> {
        let built = collectors::ALL.iter().filter(|it| !it.is_planned());
        let mut flags: Vec<_> = built
            .map(|entry| format!("--collector.{}", entry.name))
            .collect();
        flags.extend(SWITCHES.iter().chain(extra).map(|it| (*it).to_owned()));
        flags.push(format!("--engine.socket={}", self.engine.socket_url()));
        flags.push(format!("--libvirt.uri={}", self.libvirt().display()));
        flags
    }

    fn libvirt(&self) -> PathBuf {
        self.daemon.socket("libvirt-sock-ro")
    }

    fn program(&self) -> Command {
        Command::new(self.dir.0.join("strata_exporter"))
    }

    fn start(&self, command: &mut Command, flags: &[&str]) -> ServerProcess {
        let command = command.args(self.flags(flags));
        ServerProcess::start_and_wait_for_path(command, &self.dir.0, "/-/healthy")
    }

    /// Waits until the exporter exposes the container and the domain.
    fn wait_for_all(&self, exporter: &ServerProcess) {
        wait_until("a container and a domain", || {
            let metrics = Scrape::parse(&exporter.metrics_text());
            let name = [("name", CONTAINER)];
            metrics.value("container_cpu_usage_percent_max", &name)?;
            metrics.value("census_container_cpu_percent_avg", &[])?;
            metrics.value("libvirt_domain_info_vstate", &[("domain", &self.domain)])
        });
    }
}

type Series = BTreeSet<(String, Labels)>;

fn series(exporter: &ServerProcess) -> Series {
    let metrics = Scrape::parse(&exporter.metrics_text()).series.into_iter();
    let series = metrics
        .flat_map(|(name, by_labels)| by_labels.into_keys().map(move |it| (name.clone(), it)));
    // The first shows the sandbox itself, the others the momentary state of threads.
    let unsteady = [
        "strata_sandbox_info",
        "node_processes_state",
        "node_processes_threads_state",
    ];
    series
        .filter(|(name, _)| !unsteady.contains(&name.as_str()))
        .collect()
}

#[test]
fn sandbox_hides_no_series() {
    let Some(daemons) = Daemons::new("sandbox") else {
        return;
    };
    let free = daemons.start(&mut daemons.program(), &[]);
    let locked = daemons.start(&mut daemons.program(), &["--sandbox=auto"]);
    daemons.wait_for_all(&free);
    daemons.wait_for_all(&locked);
    let metrics = Scrape::parse(&locked.metrics_text());
    let labels = ("seccomp", "on");
    assert!(metrics.value("strata_sandbox_info", &[labels]).is_some());
    let newest = format!("abi {MAX_LANDLOCK_ABI}");
    let landlock = ("landlock", newest.as_str());
    if metrics.value("strata_sandbox_info", &[landlock]).is_none() {
        return skip("a kernel with Landlock of version 6");
    }
    // Series in both scrapes of one exporter must be in a scrape of the other. Containers of others
    // come and go meanwhile, and each exporter needs two scrapes for computed values.
    let mut differing = Vec::new();
    for _ in 0..10 {
        let (before, inside) = (series(&free), series(&locked));
        let (after, again) = (series(&free), series(&locked));
        let without = |one: [&Series; 2], other: [&Series; 2]| {
            let always = one[0].intersection(one[1]);
            let missing = always.filter(|it| !other.iter().any(|set| set.contains(*it)));
            missing.cloned().collect::<Vec<_>>()
        };
        let hidden = without([&before, &after], [&inside, &again]);
        let extra = without([&inside, &again], [&before, &after]);
        assert!(inside.len() > 1000, "{}", inside.len());
        differing = [hidden, extra].concat();
        if differing.is_empty() {
            break;
        }
        thread::sleep(Duration::from_secs(2));
    }
    assert!(differing.is_empty(), "{differing:#?}");

    // Later engine events still arrive in the sandbox.
    daemons.engine.run(&["rename", CONTAINER, "renamed"]);
    wait_until("the renamed container", || {
        let metrics = Scrape::parse(&locked.metrics_text());
        metrics.value("container_memory_usage_bytes", &[("name", "renamed")])
    });
}

#[test]
fn landlock_is_omitted_if_flags_read_other_processes() {
    let dir = TempDir::new("rights-tracing");
    let mut flags = vec!["--sandbox=auto", "--collector.container_processes"];
    flags.extend(TRACING);
    let flags: Vec<_> = flags.into_iter().map(str::to_owned).collect();
    let exporter = ServerProcess::start_exporter(&flags, &dir.0);
    let metrics = Scrape::parse(&exporter.metrics_text());
    let labels = [("landlock", "off"), ("seccomp", "on")];
    assert!(metrics.value("strata_sandbox_info", &labels).is_some());
    let log = exporter.log();
    assert!(log.contains("not restricted by Landlock"), "{log}");

    let strict = Command::new(BINARY)
        .args(&flags)
        .args(["--sandbox=strict", "--web.listen-address=127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(strict.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&strict.stderr);
    assert!(
        stderr.contains("--sandbox=strict: no Landlock: "),
        "{stderr}"
    );
}

/// A file system in a directory that other users cannot enter.
struct InaccessibleMount(PathBuf);

impl InaccessibleMount {
    fn below(dir: &Path) -> Self {
        let closed = dir.join("closed");
        let point = closed.join("mount");
        fs::create_dir_all(&point).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "tmpfs"]).arg(&point).status();
        assert!(mounted.unwrap().success());
        Self(point)
    }
}

impl Drop for InaccessibleMount {
    fn drop(&mut self) {
        let _result = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn missing_rights_cost_exactly_what_check_reports() {
    let Some(daemons) = Daemons::new("unprivileged") else {
        return;
    };
    // The exporter reads the mounts of process 1.
    let closed = InaccessibleMount::below(&daemons.dir.0);
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(daemons.libvirt(), private).unwrap();
    let unprivileged = || {
        let mut command = daemons.program();
        command.uid(NOBODY_UID).gid(NOBODY_UID);
        command
    };
    let root = daemons.start(&mut daemons.program(), TRACING);
    daemons.wait_for_all(&root);
    let restricted = daemons.start(&mut unprivileged(), TRACING);
    series(&restricted);
    wait_until("a history of two samples", || {
        let metrics = Scrape::parse(&restricted.metrics_text());
        metrics
            .series_named("container_cpu_usage_percent_max")
            .next()
            .map(drop)
    });
    let mut check = unprivileged();
    let output = check
        .args(["check", "--json"])
        .args(daemons.flags(TRACING))
        .output();
    let report: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    let rights: Vec<_> = findings
        .filter(|finding| finding["area"] == "rights")
        .map(|finding| finding["text"].as_str().unwrap())
        .collect();
    let rights = rights.join("\n");
    let is_named = |family: &str| {
        let mut names = rights.split([' ', ',', ':', '.', '\n']);
        names.any(|name| match name.split_once('*') {
            Some((start, end)) if start.len() > 5 => {
                family.starts_with(start) && family.ends_with(end)
            }
            _ => name == family,
        })
    };

    let before = series(&root);
    let inside = [series(&restricted), series(&restricted)].concat_sets();
    let after = series(&root);
    // Without the engine, names and images are missing, as `check` reports; all else stays.
    let without_names = |(name, labels): &(String, Labels)| {
        let is_lost_label = |label: &str| {
            label == "name"
                || label == "image"
                || label == "system_uuid"
                || label.starts_with("container_label_")
        };
        let labels = labels.iter().filter(|(label, _)| !is_lost_label(label));
        let labels = labels.map(|(label, value)| (label.clone(), value.clone()));
        (name.clone(), labels.collect::<Labels>())
    };
    for label in ["name", "image", "container_label_*"] {
        assert!(rights.contains(label), "{rights}");
    }
    let inside: Series = inside.iter().map(without_names).collect();
    let always = before.intersection(&after).map(without_names);
    let hidden: Series = always.filter(|it| !inside.contains(it)).collect();
    // The exporter's own metrics.
    let own = ["strata_", "node_scrape_collector_", "process_", "promhttp_"];
    let hidden = hidden
        .iter()
        .filter(|(name, _)| !own.iter().any(|own| name.starts_with(own)));
    let unnamed: BTreeSet<_> = hidden.clone().filter(|(name, _)| !is_named(name)).collect();
    assert!(unnamed.is_empty(), "{unnamed:#?}\n{rights}");
    let hidden: BTreeSet<&str> = hidden.map(|(name, _)| name.as_str()).collect();
    // Each missing right did hide something.
    let files = ["slabinfo"].map(|file| Path::new("/proc").join(file).exists());
    for (is_there, family) in [
        (files[0], "node_slabinfo_objects"),
        (true, "node_filesystem_size_bytes"),
        (true, "container_sockets"),
        (true, "container_state"),
        (true, "libvirt_domain_info_vstate"),
    ] {
        assert!(
            !is_there || hidden.contains(family),
            "{family}: {hidden:#?}"
        );
    }
    assert!(rights.contains(closed.0.to_str().unwrap()), "{rights}");
}

/// The union of sets.
trait ConcatSets {
    fn concat_sets(self) -> Series;
}

impl<const N: usize> ConcatSets for [Series; N] {
    fn concat_sets(self) -> Series {
        self.into_iter().flatten().collect()
    }
}

/// Traced system calls: those that start, change or connect to something.
const CALLS: &str = "execve,execveat,fork,vfork,clone,clone3,ptrace,kill,\
    process_vm_readv,process_vm_writev,mount,umount2,\
    open,openat,openat2,creat,truncate,ftruncate,unlink,unlinkat,rename,renameat,renameat2,\
    mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,mknod,mknodat,chmod,fchmod,fchmodat,\
    chown,fchown,lchown,fchownat,utimensat,setxattr,fsetxattr,removexattr,memfd_create,\
    socket,connect,bind,sendto,sendmsg,sendmmsg";

/// A program that is traced from start to end.
fn trace(daemons: &Daemons, log: &str) -> (PathBuf, Command) {
    let log = daemons.dir.0.join(log);
    let mut command = Command::new("strace");
    // strace runs as a grandchild, so that the child's PID is the traced program's.
    command
        .args(["-D", "-f", "-q", "-s", "256", "-e", "signal=none", "-o"])
        .arg(&log)
        .arg(format!("--trace={CALLS}"))
        .arg(BINARY);
    (log, command)
}

/// System calls in order, without thread IDs.
fn calls(log: &Path) -> Vec<String> {
    let text = wait_until("the end of a trace", || {
        let text = fs::read_to_string(log).ok()?;
        text.lines()
            .last()?
            .ends_with("+++ exited with 0 +++")
            .then_some(text)
    });
    let lines = text.lines().map(|line| {
        let (_, call) = line.split_once(' ').unwrap();
        call.trim().to_owned()
    });
    lines
        .filter(|call| !call.starts_with("<...") && !call.starts_with("+++"))
        .collect()
}

#[test]
fn starts_writes_and_connects_only_to_configured_paths() {
    if !is_installed("strace") {
        return skip("strace");
    }
    let Some(daemons) = Daemons::new("strace") else {
        return;
    };
    let state = daemons.dir.0.join("state");
    fs::create_dir(&state).unwrap();
    let own = daemons.dir.0.join("own");
    let state_flag = format!("--census.state-directory={}", state.display());
    let own_flag = format!("--web.listen-address=unix:{}", own.display());
    let textfile = format!("--collector.textfile.directory={}", daemons.dir.0.display());
    let mut flags = vec![state_flag.as_str(), &own_flag, &textfile];
    flags.extend(TRACING);

    let (log, mut command) = trace(&daemons, "serve.strace");
    let exporter = daemons.start(&mut command, &flags);
    daemons.wait_for_all(&exporter);
    for _ in 0..5 {
        exporter.metrics_text();
        exporter.openmetrics_text();
    }
    for path in [
        "/",
        "/containers",
        "/api/v1/census",
        "/api/v1/collectors",
        "/api/v1/containers",
        "/api/v1/domains",
        "/api/v1/host",
        "/api/v1/host/history",
        "/api/v1/openapi.json",
    ] {
        // Error responses count, too.
        let _answer = exporter.get(path, "*/*");
    }
    let pid = i32::try_from(exporter.pid()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    let served = calls(&log);
    drop(exporter);
    let opened = served
        .iter()
        .filter(|call| call.starts_with("open"))
        .count();
    assert!(opened > 1000, "{opened} files were opened");
    let allowed = Allowed {
        state: state.display().to_string(),
        own: own.display().to_string(),
        sockets: vec![
            daemons.engine.socket_url().replace("unix://", ""),
            daemons.libvirt().display().to_string(),
        ],
    };
    allowed.assert_holds_for(&served);
    assert!(state.join("installation-id").exists());
    assert!(!own.exists());

    for task in ["check", "census"] {
        let (log, mut command) = trace(&daemons, &format!("{task}.strace"));
        let mut flags = daemons.flags(&[&state_flag]);
        flags.push(task.to_owned());
        let ended = command
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        // `check` of this machine may report problems.
        assert!(matches!(ended.unwrap().code(), Some(0 | 1)), "{task}");
        allowed.assert_holds_for(&calls_of(&log));
    }
}

/// System calls of a program that may have exited with 1.
fn calls_of(log: &Path) -> Vec<String> {
    let text = wait_until("the end of a trace", || {
        let text = fs::read_to_string(log).ok()?;
        text.lines().last()?.ends_with(" +++").then_some(text)
    });
    fs::write(log, text.replace("exited with 1", "exited with 0")).unwrap();
    calls(log)
}

/// Configured paths, which may be written or connected to.
struct Allowed {
    /// `--census.state-directory`: the ID is written to a temporary file once and gets its name by
    /// link(2), so it is complete or missing.
    state: String,
    /// `--web.listen-address=unix:`: created by bind(2) and removed at exit.
    own: String,
    /// `--engine.socket` and `--libvirt.uri`.
    sockets: Vec<String>,
}

/// Sockets that are used without a flag that names them.
const REACHED: &[&str] = &[
    // The system bus, for the collectors systemd and logind.
    "/run/dbus/system_bus_socket",
    "/var/run/dbus/system_bus_socket",
    // systemd's private socket, for `--collector.systemd.private`.
    "/run/systemd/private",
];

impl Allowed {
    fn assert_holds_for(&self, calls: &[String]) {
        let (first, rest) = calls.split_first().unwrap();
        assert!(first.starts_with("execve(\""), "{first}");
        for call in rest {
            let (name, arguments) = call.split_once('(').unwrap();
            assert!(self.allows(name, arguments), "{call}");
        }
    }

    fn allows(&self, name: &str, arguments: &str) -> bool {
        match name {
            // Only for reading: other access modes have their own flags.
            "open" | "openat" => {
                let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"];
                let is_written = writes.iter().any(|flag| arguments.contains(flag));
                !is_written || arguments.contains(&format!("{}/.installation-id-", self.state))
            }
            // A thread, not a process.
            "clone" | "clone3" => arguments.contains("CLONE_THREAD"),
            "link" | "linkat" => {
                arguments.contains(&format!("{}/.installation-id-", self.state))
                    && arguments.contains(&format!("{}/installation-id\"", self.state))
            }
            "unlink" | "unlinkat" => {
                arguments.contains(&format!("{}/.installation-id-", self.state))
                    || arguments.contains(&format!("\"{}\"", self.own))
            }
            "socket" => {
                let kinds = ["AF_UNIX, ", "AF_NETLINK, "];
                // Listening sockets.
                let listens = ["AF_INET, SOCK_STREAM", "AF_INET6, SOCK_STREAM"];
                let mut all = kinds.iter().chain(&listens);
                all.any(|kind| arguments.starts_with(kind))
            }
            "bind" => {
                arguments.contains(&format!("sun_path=\"{}\"", self.own))
                    || arguments.contains("sa_family=AF_INET")
            }
            "connect" => {
                let path = |path: &str| arguments.contains(&format!("sun_path=\"{path}\""));
                arguments.contains("sa_family=AF_NETLINK")
                    || REACHED.iter().any(|it| path(it))
                    || self.sockets.iter().any(|it| path(it))
            }
            // Only to the connected peer, never to an address.
            "sendto" => arguments.contains(", NULL, 0") || arguments.contains("AF_NETLINK"),
            "sendmsg" => arguments.contains("msg_name=NULL") || arguments.contains("AF_NETLINK"),
            // All other traced calls.
            _ => false,
        }
    }
}

#[test]
fn forbidden_calls_are_detected() {
    let allowed = Allowed {
        state: "/state".to_owned(),
        own: "/own".to_owned(),
        sockets: vec!["/engine".to_owned()],
    };
    for (name, arguments) in [
        (
            "openat",
            r#"AT_FDCWD, "/proc/stat", O_RDONLY|O_CLOEXEC) = 3"#,
        ),
        (
            "openat",
            r#"AT_FDCWD, "/state/.installation-id-7", O_WRONLY|O_CREAT|O_EXCL"#,
        ),
        (
            "connect",
            r#"7, {sa_family=AF_UNIX, sun_path="/engine"}, 10) = 0"#,
        ),
        ("unlink", r#""/own") = 0"#),
        (
            "clone3",
            "{flags=CLONE_VM|CLONE_THREAD, stack=0x7f} <unfinished ...>",
        ),
    ] {
        assert!(allowed.allows(name, arguments), "{name}({arguments}");
    }
    for (name, arguments) in [
        (
            "openat",
            r#"AT_FDCWD, "/state/else", O_RDWR|O_CLOEXEC) = 3"#,
        ),
        ("openat2", r#"AT_FDCWD, "/x", {flags=O_RDONLY}, 24) = 3"#),
        (
            "connect",
            r#"7, {sa_family=AF_UNIX, sun_path="/engine2"}, 10) = 0"#,
        ),
        (
            "connect",
            r#"7, {sa_family=AF_UNIX, sun_path=@"/engine"}, 10) = 0"#,
        ),
        (
            "connect",
            "7, {sa_family=AF_INET, sin_port=htons(53)}, 16) = 0",
        ),
        (
            "socket",
            "AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, IPPROTO_IP) = 5",
        ),
        ("sendto", "5, \"x\", 1, 0, {sa_family=AF_INET}, 16) = 1"),
        ("unlink", r#""/own2") = 0"#),
        ("clone", "child_stack=NULL, flags=SIGCHLD) = 7"),
        ("vfork", ") = 7"),
        ("execve", r#""/bin/true", ["true"], 0x7f) = 0"#),
    ] {
        assert!(!allowed.allows(name, arguments), "{name}({arguments}");
    }
}
