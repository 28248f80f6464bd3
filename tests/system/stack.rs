//! The whole stack: Prometheus finds the exporter by a file that `targets` wrote, loads all rules,
//! answers all dashboard queries, and fires alerts for faults of real containers, a real domain and
//! a real file system.
//!
//! This test needs root, Docker, libvirt, Prometheus and the machine of `tests/machine`, whose
//! kernel the guest boots.

use std::{
    fmt::Write,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use regex::{Captures, Regex};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{
    engines::Engine,
    is_installed,
    libvirt_daemon::{BRIDGE, DomainKernel, LibvirtDaemon},
    prometheus_tools,
    rules::{self, repo_root},
    server_process::{ServerProcess, TempDir, run_with_input, wait_until},
    skip,
};

/// The guest's endless load.
const WORK: &str = "
ip link set eth0 up
while :; do
    dd if=/dev/vda of=/dev/null bs=64k count=10
    dd if=/dev/zero of=/dev/vda bs=4k count=10 conv=fsync
    sleep 1
done
";

/// A container's endless load: some CPU, some sleep, some I/O.
const WEB: &str = "dd if=/dev/zero of=/file bs=64k count=16 conv=fsync
while :; do dd if=/dev/zero of=/dev/null bs=64k count=200; sleep 0.2; done";

/// Reads and writes on the disk of the target directory until its shell is killed. The page cache
/// would answer plain reads, so that panels about them had no data on a machine with enough memory.
const DISK_LOAD: &str = r#"
trap 'rm -f "$1"' EXIT
while :; do
    dd if=/dev/zero of="$1" bs=64k count=16 conv=fsync
    dd of="$1" oflag=nocache conv=notrunc,fdatasync count=0
    dd if="$1" of=/dev/null bs=64k
    sleep 0.5
done"#;

/// Timeout for rules that need minutes and for rates over minutes.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Prometheus and everything that it scrapes.
struct Stack {
    prometheus: ServerProcess,
    exporter: ServerProcess,
    docker: Engine,
    domains: LibvirtDomains,
    disk: Disk,
    dir: TempDir,
    _disk_load: DiskLoad,
}

/// A shell that runs [`DISK_LOAD`] until dropped.
struct DiskLoad(Child);

/// A small file system, mounted in the machine's namespace until dropped, because the exporter
/// reads the mounts of process 1, not its own.
struct Disk(PathBuf);

/// A daemon with a domain.
struct LibvirtDomains {
    daemon: LibvirtDaemon,
    _boot: TempDir,
    name: String,
}

#[test]
fn boards_have_data_and_faults_fire_alerts() {
    let Some(stack) = Stack::new() else { return };
    stack.assert_rules();
    // The faults take a while to show; meanwhile the dashboards are queried.
    stack.break_things();
    stack.assert_boards();
    // Suspended only now, because a suspended guest has less data for dashboards.
    stack.domains.virsh(&["suspend", &stack.domains.name]);
    for (alert, labels) in [
        ("ContainerOomKilled", r#"name="stack-greedy""#.to_owned()),
        ("ContainerCrashLoop", r#"name="stack-loop""#.to_owned()),
        (
            "ContainerUnhealthy",
            r#"name="stack-ill",image="strata-box:1""#.to_owned(),
        ),
        ("HostFilesystemFull", r#"fstype="ext4""#.to_owned()),
        (
            "DomainPausedLong",
            format!(r#"domain="{}""#, stack.domains.name),
        ),
    ] {
        let firing = format!(r#"ALERTS{{alertstate="firing",alertname="{alert}",{labels}}}"#);
        stack.await_value(&firing, 1.0);
    }
    // Healthy containers cause no alert.
    let healthy_alerts = r#"ALERTS{alertname=~"Container.*",name="stack-web"}"#;
    assert_eq!(
        prometheus_tools::query_values(&stack.prometheus, healthy_alerts),
        [0.0; 0]
    );
    // The exporter causes no alert either.
    let own = r#"ALERTS{alertname=~"Exporter(Down|CollectorFailed|EngineDown|LibvirtDown)"}"#;
    assert_eq!(
        prometheus_tools::query_values(&stack.prometheus, own),
        [0.0; 0]
    );

    stack.targets("remove", &[]);
    wait_until("an idle exporter", || {
        prometheus_tools::query_values(&stack.prometheus, "up")
            .is_empty()
            .then_some(())
    });
}

impl Stack {
    /// Starts all of it. Skips the test and returns `None` where that is impossible.
    fn new() -> Option<Self> {
        let docker = Engine::docker("stack")?;
        for program in ["prometheus", "python3", "mke2fs", "losetup"] {
            if !is_installed(program) {
                return none(program);
            }
        }
        let libvirt_domains = match LibvirtDomains::new() {
            Ok(libvirt_domains) => libvirt_domains,
            Err(what) => return none(what),
        };
        let dir = TempDir::new("stack");
        let disk = match Disk::mount(&dir.0) {
            Ok(disk) => disk,
            Err(what) => return none(what),
        };
        let exporter = exporter(&dir, &docker, &libvirt_domains);
        let prometheus = prometheus(&dir);
        let stack = Self {
            prometheus,
            exporter,
            docker,
            domains: libvirt_domains,
            disk,
            dir,
            _disk_load: DiskLoad::start(),
        };
        stack.targets("add", &["--label", "service_id=stack"]);
        let web = [
            "--memory=64m",
            "--cpus=0.9",
            "--pids-limit=50",
            "--health-cmd=true",
            "--health-interval=1s",
            "--label=com.docker.compose.project=stack",
        ];
        stack
            .docker
            .start_container("stack-web", &web, &["sh", "-c", WEB]);
        stack.await_value(r#"count(container_last_seen{name="stack-web"})"#, 1.0);
        stack.await_value("count(libvirt_domain_info_vstate)", 1.0);
        Some(stack)
    }

    /// Runs `strata_exporter targets` on Prometheus' target file.
    fn targets(&self, task: &str, flags: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata_exporter"));
        command
            .args(["targets", task, "--file"])
            .arg(self.dir.0.join("targets.json"));
        command.args(flags).arg(self.exporter.address.to_string());
        let (code, output) = run_with_input(&mut command, "");
        assert_eq!(code, Some(0), "{output}");
    }

    fn await_value(&self, promql: &str, value: f64) {
        let started = Instant::now();
        let mut values = Vec::new();
        while started.elapsed() < TIMEOUT {
            values = prometheus_tools::query_values(&self.prometheus, promql);
            if values.iter().any(|it| (it - value).abs() < f64::EPSILON) {
                return;
            }
            thread::sleep(Duration::from_millis(500));
        }
        let alerts = self.prometheus.get("/api/v1/alerts", "").unwrap();
        panic!("never: {promql}: {value}, but {values:?}; alerts: {alerts}");
    }

    /// All rules are loaded, and their evaluation does not fail.
    fn assert_rules(&self) {
        let mut written = 0;
        for file in rules::rule_files() {
            let text = fs::read_to_string(file).unwrap();
            let lines = text.lines().map(str::trim_start);
            written += lines
                .filter(|line| line.starts_with("- alert:") || line.starts_with("- record:"))
                .count();
        }
        assert!(written > 100, "{written}");
        wait_until("all rules evaluated", || {
            let output = self.prometheus.get("/api/v1/rules", "").unwrap();
            let output: Value = serde_json::from_str(&output).unwrap();
            let groups = output["data"]["groups"].as_array().unwrap().iter();
            let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
            let rules: Vec<_> = rules.collect();
            assert_eq!(rules.len(), written);
            for rule in &rules {
                assert_ne!(rule["health"], "err", "{rule:#}");
            }
            rules
                .iter()
                .all(|rule| rule["health"] == "ok")
                .then_some(())
        });
    }

    /// Causes everything that the alerts should report.
    fn break_things(&self) {
        // A child exceeds the memory limit; the container keeps running.
        let oom_command = ["sh", "-c", "sleep 5; tail /dev/zero; sleep 9999"];
        self.docker
            .start_container("stack-greedy", &["--memory=32m"], &oom_command);
        let loops = ["sh", "-c", "sleep 0.2; exit 3"];
        self.docker
            .start_container("stack-loop", &["--restart=always"], &loops);
        let unhealthy_flags = [
            "--health-cmd=false",
            "--health-interval=1s",
            "--health-retries=1",
        ];
        self.docker
            .start_container("stack-ill", &unhealthy_flags, &["sleep", "9999"]);
        self.disk.fill();
    }

    /// Every dashboard query returns data, except those listed with a reason.
    fn assert_boards(&self) {
        let dashboards = repo_root().join("dashboards");
        let mut output = String::new();
        let started = Instant::now();
        // Rates need two scrapes, recording rules more time.
        while started.elapsed() < TIMEOUT {
            let mut query = Command::new("python3");
            query.arg(dashboards.join("query.py")).arg("--prometheus");
            query.arg(format!("http://{}", self.prometheus.address));
            query.arg("--no-data").arg(dashboards.join("no-data.txt"));
            let code;
            (code, output) = run_with_input(&mut query, "");
            match code {
                Some(0) => return println!("{output}"),
                Some(1) => thread::sleep(Duration::from_secs(5)),
                _ => break,
            }
        }
        panic!("{output}");
    }
}

impl LibvirtDomains {
    /// Fails with the name of what this machine lacks.
    fn new() -> Result<Self, &'static str> {
        let boot = TempDir::new("stack-boot");
        let kernel = DomainKernel::new(&boot.0, WORK)?;
        let daemon = LibvirtDaemon::start("stack-libvirt")?;
        let name = format!("stack-{}", std::process::id());
        let image = daemon.create_disk_image(&name, "qcow2", 32);
        let [kernel, initrd] = [&kernel.image, &kernel.initrd].map(|path| path.display());
        let xml = format!(
            "<domain type='qemu'><name>{name}</name>\
             <memory unit='MiB'>96</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type>\
             <kernel>{kernel}</kernel><initrd>{initrd}</initrd>\
             <cmdline>quiet panic=-1</cmdline></os>\
             <features><acpi/></features><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
             <source file='{image}'/><target dev='vda' bus='virtio'/></disk>\
             <interface type='bridge'><source bridge='{BRIDGE}'/>\
             <target dev='stack0'/><model type='virtio'/></interface>\
             <memballoon model='virtio'><stats period='1'/></memballoon>\
             </devices></domain>"
        );
        daemon.define_domain(&name, &xml);
        let domains = Self {
            daemon,
            _boot: boot,
            name,
        };
        domains.virsh(&["start", &domains.name]);
        Ok(domains)
    }

    fn virsh(&self, line: &[&str]) {
        let output = self.daemon.virsh(line);
        output.unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }
}

impl Disk {
    /// Fails with the name of what this machine lacks.
    fn mount(dir: &Path) -> Result<Self, &'static str> {
        let (image, path) = (dir.join("disk.img"), dir.join("disk"));
        fs::create_dir(&path).unwrap();
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let mut format = Command::new("mke2fs");
        let (code, output) = run_with_input(format.args(["-q", "-t", "ext4"]).arg(&image), "");
        assert_eq!(code, Some(0), "{output}");
        let mut mount = Command::new("mount");
        let (code, _) = run_with_input(mount.args(["-o", "loop"]).args([&image, &path]), "");
        match code {
            Some(0) => Ok(Self(path)),
            _ => Err("loop devices"),
        }
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("fill")).unwrap();
        let full = io::copy(&mut io::repeat(0), &mut file).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
    }
}

impl DiskLoad {
    fn start() -> Self {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("disk-load");
        let mut shell = Command::new("sh");
        shell.args(["-c", DISK_LOAD, "sh"]).arg(file);
        let silent = shell.stdout(Stdio::null()).stderr(Stdio::null());
        Self(silent.spawn().unwrap())
    }
}

impl Drop for DiskLoad {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.0);
        let _exited = kill_process(pid, Signal::TERM);
        let _exited = self.0.wait();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, because the exporter may still have it open.
        let _result = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn exporter(dir: &TempDir, docker: &Engine, domains: &LibvirtDomains) -> ServerProcess {
    let libvirt = domains.daemon.socket("libvirt-sock-ro");
    let flags = [
        format!("--engine.socket={}", docker.socket_url()),
        format!("--libvirt.uri={}", libvirt.display()),
    ];
    ServerProcess::start_exporter(&flags, &dir.0)
}

/// Prometheus with all rules, whose `for` durations are shortened.
fn prometheus(dir: &TempDir) -> ServerProcess {
    let rules = dir.0.join("rules");
    fs::create_dir(&rules).unwrap();
    let waits = Regex::new(r"(?m)^(\s+for: )\S+$").unwrap();
    for file in rules::rule_files() {
        let text = fs::read_to_string(&file).unwrap();
        let text = waits.replace_all(&text, |line: &Captures<'_>| format!("{}2s", &line[1]));
        fs::write(rules.join(file.file_name().unwrap()), &*text).unwrap();
    }
    let mut config = String::new();
    writeln!(
        config,
        "global: {{scrape_interval: 2s, evaluation_interval: 2s}}"
    )
    .unwrap();
    writeln!(config, "rule_files: ['{}/*.yml']", rules.display()).unwrap();
    writeln!(config, "scrape_configs:").unwrap();
    writeln!(config, "  - job_name: strata").unwrap();
    let targets = dir.0.join("targets.json");
    writeln!(
        config,
        "    file_sd_configs: [{{files: ['{}']}}]",
        targets.display()
    )
    .unwrap();
    prometheus_tools::start_prometheus(dir, &config)
}

fn none<T>(what: &str) -> Option<T> {
    skip(what);
    None
}
