//! Docker and Podman daemons, each with its own directory, network namespace and mount namespace:
//! they neither interfere with each other nor leave anything behind.
//!
//! Their containers use the cgroups of this machine as usual.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    find_program, is_installed,
    server_process::{TempDir, wait_until},
    skip,
};

/// Podman's default limits exceed what some machines allow.
const CONTAINERS_CONF: &str =
    "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";

/// A private /run hides other engines from this one and keeps nothing of it.
const UNSHARE_SCRIPT: &str = "
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
exec \"$@\"
";

/// Image of all containers.
pub const IMAGE: &str = "strata-box:1";

/// Number of running engines.
static RUNNING_ENGINES: AtomicUsize = AtomicUsize::new(0);

/// A running engine.
pub struct Engine {
    process: Child,
    /// Starts the daemon again inside its existing namespaces.
    command: Command,
    /// Mount and network namespaces.
    namespaces: [File; 2],
    dir: TempDir,
    name: &'static str,
}

impl Engine {
    /// Starts a Docker daemon. Skips the test and returns `None` where that is impossible.
    pub fn docker(test: &str) -> Option<Self> {
        Self::docker_dir(test).map(Self::start_docker_in)
    }

    /// Directory for a Docker daemon that is started later.
    pub fn docker_dir(test: &str) -> Option<TempDir> {
        let needed = ["docker", "dockerd", "containerd", "runc", "iptables"];
        Self::prepare_dir("docker", test, &needed)
    }

    /// Starts a Docker daemon in this directory.
    pub fn start_docker_in(dir: TempDir) -> Self {
        let mut command = Command::new("dockerd");
        command
            .args(["--data-root".into(), dir.0.join("data")])
            .args(["--exec-root".into(), dir.0.join("exec")])
            .args(["--pidfile".into(), dir.0.join("pid")])
            .args(["-H", &socket_url(&dir.0)]);
        Self::start("docker", dir, command)
    }

    /// Starts Podman's Docker-compatible service.
    pub fn podman(test: &str) -> Option<Self> {
        let dir = Self::prepare_dir("podman", test, &["docker", "podman", "runc"])?;
        fs::write(dir.0.join("containers.conf"), CONTAINERS_CONF).unwrap();
        let mut command = Command::new("podman");
        command
            .args(["--root".into(), dir.0.join("root")])
            .args(["--runroot".into(), dir.0.join("run")])
            .args(["--tmpdir".into(), dir.0.join("tmp")])
            // Debian's crun rejects cgroup v1 with controllers in v2.
            .args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "file"])
            .args(["system", "service", "-t", "0", &socket_url(&dir.0)])
            .env("CONTAINERS_CONF", dir.0.join("containers.conf"));
        Some(Self::start("podman", dir, command))
    }

    fn prepare_dir(name: &str, test: &str, needed: &[&str]) -> Option<TempDir> {
        if !rustix::process::geteuid().is_root() {
            skip("root");
            return None;
        }
        let needed = needed.iter().chain(&["busybox", "unshare", "ip"]);
        for program in needed {
            if !is_installed(program) {
                skip(program);
                return None;
            }
        }
        let unshared = Command::new("unshare")
            .args(["--mount", "--net", "sh", "-c"])
            .arg("mount -t tmpfs tmpfs /run && ip link add strata0 type bridge")
            .output()
            .unwrap();
        if !unshared.status.success() {
            skip("permission to mount and to create bridges");
            return None;
        }
        // The path of a socket must be short.
        Some(TempDir::new(&format!("{name}-{test}")))
    }

    fn start(name: &'static str, dir: TempDir, command: Command) -> Self {
        let mut first = Command::new("unshare");
        first
            .args(["--mount", "--net", "--propagation", "private"])
            .args(["sh", "-ec", UNSHARE_SCRIPT, "sh"]);
        let process = spawn_wrapped(first, &command, &dir.0);
        RUNNING_ENGINES.fetch_add(1, Ordering::Relaxed);
        let namespaces = wait_until("the namespaces of an engine", || {
            let open = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", process.id()));
            let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            let entered = |kind: &str| {
                let link = fs::read_link(format!("/proc/{}/ns/{kind}", process.id()));
                link.is_ok_and(|link| link != own(kind))
            };
            let namespaces = [open("mnt").ok()?, open("net").ok()?];
            (entered("mnt") && entered("net")).then_some(namespaces)
        });
        let mut engine = Self {
            process,
            command,
            namespaces,
            dir,
            name,
        };
        engine.wait_ready();
        engine.import_image();
        engine
    }

    /// Waits until the API responds.
    fn wait_ready(&mut self) {
        wait_until("the engine API responds", || {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "{}: {}", self.name, self.log());
            self.try_run(&["version"]).ok()
        });
    }

    /// Ends the daemon with a signal; its containers are left to it.
    pub fn stop_with(&mut self, signal: Signal) {
        self.signal(signal);
        self.process.wait().unwrap();
    }

    /// Starts it again with its old data.
    pub fn restart(&mut self) {
        let [mounts, net] = &self.namespaces;
        let namespace = |file: &File| {
            let pid = std::process::id();
            format!("/proc/{pid}/fd/{}", file.as_raw_fd())
        };
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--mount={}", namespace(mounts)));
        enter.arg(format!("--net={}", namespace(net)));
        self.process = spawn_wrapped(enter, &self.command, &self.dir.0);
        self.wait_ready();
    }

    /// Imports the image: a static busybox with links for all its applets.
    fn import_image(&self) {
        let image = self.dir.0.join("image");
        fs::create_dir_all(image.join("bin")).unwrap();
        let busybox = find_program("busybox").unwrap();
        fs::copy(busybox, image.join("bin/busybox")).unwrap();
        let applets = Command::new("busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(applets.stdout).unwrap().lines() {
            let link = image.join("bin").join(applet);
            if applet != "busybox" {
                std::os::unix::fs::symlink("busybox", link).unwrap();
            }
        }
        let tar = self.dir.0.join("image.tar");
        let packed = Command::new("tar")
            .args(["c".as_ref(), "-C".as_ref(), image.as_os_str()])
            .arg(".")
            .stdout(File::create(&tar).unwrap())
            .status()
            .unwrap();
        assert!(packed.success());
        self.run(&["import", tar.to_str().unwrap(), IMAGE]);
    }

    /// Socket URL for the exporter's flag.
    pub fn socket_url(&self) -> String {
        socket_url(&self.dir.0)
    }

    /// Log output so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.0.join("log")).unwrap_or_default()
    }

    /// Output of a Docker command, which must succeed.
    pub fn run(&self, words: &[&str]) -> String {
        self.try_run(words)
            .unwrap_or_else(|error| panic!("{} {words:?}: {error}\n{}", self.name, self.log()))
    }

    /// Output of a Docker command, or its error.
    pub fn try_run(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new("docker")
            .args(["--host", &self.socket_url()])
            // Ignores the user's own configuration.
            .env("DOCKER_CONFIG", &self.dir.0)
            .env_remove("DOCKER_CONTEXT")
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// Starts a container in the background and returns its ID.
    pub fn start_container(&self, name: &str, flags: &[&str], command: &[&str]) -> String {
        let words = [
            &["run", "--detach", "--name", name],
            flags,
            &[IMAGE],
            command,
        ];
        self.run(&words.concat())
    }

    /// A container's state, by a Go template.
    pub fn inspect(&self, container: &str, template: &str) -> String {
        self.run(&["inspect", "--format", template, container])
    }

    /// PID of a container's first process.
    pub fn pid(&self, container: &str) -> u32 {
        let pid = self.inspect(container, "{{.State.Pid}}").parse().unwrap();
        assert_ne!(pid, 0, "{container} does not run");
        pid
    }

    /// Stops or continues the daemon itself, without its containers.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Processes that name its directory and run in its mounts: the daemon's helpers, but not
    /// exporters that only have its socket in a flag.
    fn helper_pids(&self) -> Vec<Pid> {
        let dir = self.dir.0.to_str().unwrap();
        let own = fs::read_link("/proc/self/ns/mnt").unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|it| it.parse().ok());
            if fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|link| link == own) {
                continue;
            }
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(dir) {
                found.extend(pid.and_then(Pid::from_raw));
            }
        }
        found
    }

    /// Removes the containers and ends the daemon, gracefully if possible.
    fn shut_down(&mut self) {
        let _anyhow = kill_process(Pid::from_child(&self.process), Signal::CONT);
        if let Ok(all) = self.try_run(&["ps", "--all", "--quiet"]) {
            let all: Vec<&str> = all.split_whitespace().collect();
            if !all.is_empty() {
                let _anyhow = self.try_run(&[&["rm", "--force"], &all[..]].concat());
            }
        }
        let _anyhow = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(15) {
            if let Ok(Some(_)) = self.process.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _anyhow = self.process.kill();
        let _anyhow = self.process.wait();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shut_down();
        for helper in self.helper_pids() {
            let _gone = kill_process(helper, Signal::KILL);
        }
        // Another test's engine may be creating a container.
        if RUNNING_ENGINES.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        // Removes the common parent cgroups, if no other container is in them.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten() {
            let Ok(hierarchy) = hierarchy else { continue };
            for parent in ["docker", "libpod_parent/conmon", "libpod_parent"] {
                let _in_use = fs::remove_dir(hierarchy.path().join(parent));
            }
        }
    }
}

/// Starts a command through a wrapper; its output is appended to the log.
fn spawn_wrapped(mut by: Command, command: &Command, dir: &Path) -> Child {
    let mut options = File::options();
    let log = options.create(true).append(true);
    let log = log.open(dir.join("log")).unwrap();
    by.arg(command.get_program())
        .args(command.get_args())
        .envs(
            command
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn socket_url(dir: &Path) -> String {
    let socket: PathBuf = dir.join("sock");
    format!("unix://{}", socket.display())
}

/// Seconds since the Unix epoch of an engine's timestamp.
pub fn parse_unix_seconds(time: &str) -> f64 {
    // Podman prints Go's default format: with the zone's name after the offset.
    let time = time.trim_end_matches(" UTC");
    let date = Command::new("date")
        .args(["-d", time, "+%s.%N"])
        .output()
        .unwrap();
    let text = String::from_utf8(date.stdout).unwrap();
    text.trim().parse().unwrap_or_else(|_| panic!("{time}"))
}
