//! A libvirt daemon with domains, in its own directories and network namespace: it does not touch
//! the machine's libvirt, and no packet leaves it.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    find_program, is_installed,
    server_process::{TempDir, run_with_input, wait_until},
    synthetic_cgroups::remove_domain_cgroups,
};

/// Gives the daemon its own files and directories. passwd and group are replaced because libvirt
/// looks up its default user even if another is configured.
const SETUP: &str = "
    cd $0
    mount --bind passwd /etc/passwd
    mount --bind group /etc/group
    for p in etc:/etc run:/run var:/var/lib cache:/var/cache log:/var/log; do
        mkdir -p ${p#*:}/libvirt
        mount --bind ${p%%:*} ${p#*:}/libvirt
    done
    ip link set lo up
    ip link add strata-br type bridge
    ip addr add 10.77.0.1/24 dev strata-br
    ip link set strata-br up
    touch ready
    exec sleep infinity";

/// Bridge for domains, with the address 10.77.0.1.
pub const BRIDGE: &str = "strata-br";

/// Kernel modules that a guest needs for its devices, in load order.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/virtio/virtio_balloon",
    "drivers/block/virtio_blk",
];

/// A libvirt daemon, stopped with all its domains when dropped.
pub struct LibvirtDaemon {
    pub dir: TempDir,
    /// Process that holds its namespaces.
    namespace: Child,
    process: Child,
}

impl LibvirtDaemon {
    /// Starts the daemon, or returns what this machine lacks.
    pub fn start(name: &str) -> Result<Self, &'static str> {
        if !rustix::process::geteuid().is_root() {
            return Err("root");
        }
        let programs = ["libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "ip"];
        if let Some(program) = programs.into_iter().find(|it| !is_installed(it)) {
            return Err(program);
        }
        let scratch = TempDir::new(name);
        let dir = &scratch.0;
        for name in ["etc/qemu/networks", "run", "var", "cache", "log"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let qemu = "user = \"root\"\ngroup = \"root\"\nstdio_handler = \"file\"\n\
                    security_driver = \"none\"\nremember_owner = 0\n";
        fs::write(dir.join("etc/qemu.conf"), qemu).unwrap();
        let daemon = "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n";
        fs::write(dir.join("libvirtd.conf"), daemon).unwrap();
        let mut users = fs::read_to_string("/etc/passwd").unwrap();
        let mut groups = fs::read_to_string("/etc/group").unwrap();
        if !users.contains("libvirt-qemu:") {
            users += "libvirt-qemu:x:64055:64055::/:/bin/false\n";
            groups += "libvirt-qemu:x:64055:\n";
        }
        fs::write(dir.join("passwd"), users).unwrap();
        fs::write(dir.join("group"), groups).unwrap();

        let mut namespace = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private"])
            .args(["sh", "-ec", SETUP])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("log/setup")).unwrap())
            .spawn()
            .unwrap();
        wait_until("the namespaces of libvirtd", || {
            let ended = namespace.try_wait().unwrap();
            let stderr = fs::read_to_string(dir.join("log/setup")).unwrap();
            assert!(ended.is_none(), "{stderr}");
            dir.join("ready").exists().then_some(())
        });
        let process = spawn_libvirtd(dir, &namespace);
        let daemon = Self {
            dir: scratch,
            namespace,
            process,
        };
        daemon.wait_ready();
        Ok(daemon)
    }

    /// Waits until the daemon responds.
    fn wait_ready(&self) {
        wait_until("libvirtd responds", || self.virsh(&["version"]).ok());
    }

    /// Stops the daemon; its domains keep running.
    pub fn stop(&mut self) {
        self.stop_with(Signal::TERM);
    }

    /// Stops the daemon with this signal.
    pub fn stop_with(&mut self, signal: Signal) {
        self.signal(signal);
        self.process.wait().unwrap();
    }

    /// Starts the daemon again.
    pub fn restart(&mut self) {
        self.process = spawn_libvirtd(&self.dir.0, &self.namespace);
        self.wait_ready();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).unwrap();
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir.0.join("run").join(name)
    }

    pub fn virsh(&self, line: &[&str]) -> Result<String, String> {
        let socket = self.socket("libvirt-sock");
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        let mut virsh = Command::new("virsh");
        let ended = virsh.args(["-q", "-c", &uri]).args(line).output().unwrap();
        let stdout = String::from_utf8(ended.stdout).unwrap();
        if !ended.status.success() {
            return Err(String::from_utf8(ended.stderr).unwrap());
        }
        Ok(stdout)
    }

    /// Defines a domain.
    pub fn define_domain(&self, name: &str, xml: &str) {
        let file = self.dir.0.join(format!("{name}.xml"));
        fs::write(&file, xml).unwrap();
        self.virsh(&["define", &file.display().to_string()])
            .unwrap();
    }

    /// Names of all domains that were defined.
    fn defined_domains(&self) -> Vec<String> {
        let files = fs::read_dir(&self.dir.0).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let domains = names.filter_map(|name| name.strip_suffix(".xml").map(str::to_owned));
        domains.collect()
    }

    /// Defines a domain with only 32 MiB of memory and one CPU.
    pub fn define_minimal_domain(&self, name: &str) {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>\
             <vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
        );
        self.define_domain(name, &xml);
    }

    /// Creates a disk image of this size in MB and returns its path.
    pub fn create_disk_image(&self, name: &str, format: &str, megabytes: u32) -> String {
        let path = self.dir.0.join(format!("{name}.{format}"));
        let path = path.display().to_string();
        let mut create = Command::new("qemu-img");
        create.args([
            "create",
            "-q",
            "-f",
            format,
            &path,
            &format!("{megabytes}M"),
        ]);
        assert!(create.status().unwrap().success());
        path
    }

    /// PID of a running domain.
    pub fn domain_pid(&self, domain: &str) -> Option<Pid> {
        let pid = fs::read_to_string(self.socket("qemu").join(format!("{domain}.pid"))).ok()?;
        Pid::from_raw(pid.trim().parse().ok()?)
    }

    /// Counters of its network devices, as in `/proc/net/dev`.
    pub fn network_devices(&self) -> BTreeMap<String, Vec<f64>> {
        let file = format!("/proc/{}/net/dev", self.namespace.id());
        let text = fs::read_to_string(file).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let numbers = |columns: &str| {
            let columns = columns.split_whitespace();
            columns.map(|it| it.parse().unwrap()).collect()
        };
        lines
            .map(|(name, columns)| (name.trim().to_owned(), numbers(columns)))
            .collect()
    }
}

/// Starts the daemon in its namespaces.
fn spawn_libvirtd(dir: &Path, namespace: &Child) -> Child {
    Command::new("nsenter")
        .args(["--target", &namespace.id().to_string(), "--mount", "--net"])
        .args(["libvirtd", "--timeout", "0", "-f"])
        .arg(dir.join("libvirtd.conf"))
        .arg("-p")
        .arg(dir.join("libvirtd.pid"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("log/stderr")).unwrap())
        .spawn()
        .unwrap()
}

impl Drop for LibvirtDaemon {
    fn drop(&mut self) {
        // Fails if the daemon has exited.
        let _over = kill_process(Pid::from_child(&self.process), Signal::CONT);
        let domains = self.virsh(&["list", "--name"]).unwrap_or_default();
        for domain in domains.lines().filter(|line| !line.is_empty()) {
            // Fails if the domain has stopped meanwhile.
            let _stopped = self.virsh(&["destroy", domain]);
        }
        let _gone = self.process.kill();
        let _gone = self.process.wait();
        // Kills what remains if the daemon was unreachable or was killed.
        for domain in self.defined_domains() {
            if let Some(pid) = self.domain_pid(&domain) {
                let _gone = kill_process(pid, Signal::KILL);
            }
            remove_domain_cgroups(&domain);
        }
        let _gone = self.namespace.kill();
        let _gone = self.namespace.wait();
    }
}

/// Kernel and initrd of a guest.
pub struct DomainKernel {
    pub image: PathBuf,
    /// An archive with a busybox, drivers and a script.
    pub initrd: PathBuf,
}

impl DomainKernel {
    /// Takes the kernel of `tests/machine` and adds a script that runs once the devices exist.
    /// Fails with the name of what this machine lacks.
    pub fn new(dir: &Path, script: &str) -> Result<Self, &'static str> {
        let machine = env::var_os("STRATA_MACHINE_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/machine"),
            PathBuf::from,
        );
        if !machine.join("stamp").exists() {
            return Err("the machine that tests/machine/build.sh builds");
        }
        for program in ["debugfs", "busybox"] {
            if !is_installed(program) {
                return Err(program);
            }
        }
        let root = machine.join("root.img");
        let modules = debugfs(&root, "ls -p /usr/lib/modules\n");
        // `/inode/mode/user/group/name/size/`
        let mut names = modules.lines().filter_map(|line| line.split('/').nth(5));
        let release = names.find(|name| !name.starts_with('.')).unwrap();
        let mut dumps = String::new();
        for module in MODULES {
            let (from, to) = (format!("kernel/{module}.ko"), dir.join(module_file(module)));
            let to = to.display();
            writeln!(dumps, "dump /usr/lib/modules/{release}/{from} {to}").unwrap();
        }
        debugfs(&root, &dumps);

        let mut archive = CpioArchive::default();
        for name in ["bin", "dev", "proc", "sys"] {
            archive.add(name, 0o040_755, b"");
        }
        let busybox = fs::read(find_program("busybox").unwrap()).unwrap();
        archive.add("bin/busybox", 0o100_755, &busybox);
        let mut init = INIT.to_owned();
        for module in MODULES {
            let file = module_file(module);
            archive.add(&file, 0o100_644, &fs::read(dir.join(&file)).unwrap());
            writeln!(init, "insmod /{file}").unwrap();
        }
        init += "sleep 1\n";
        init += script;
        archive.add("init", 0o100_755, init.as_bytes());
        archive.add("TRAILER!!!", 0, b"");
        let initrd = dir.join("initrd");
        fs::write(&initrd, archive.0).unwrap();
        Ok(Self {
            image: machine.join("vmlinuz"),
            initrd,
        })
    }
}

const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
";

fn module_file(module: &str) -> String {
    format!("{}.ko", module.rsplit('/').next().unwrap())
}

/// Output of debugfs commands on a file system image.
fn debugfs(image: &Path, commands: &str) -> String {
    let mut debugfs = Command::new("debugfs");
    let (code, output) = run_with_input(debugfs.args(["-f", "-"]).arg(image), commands);
    assert_eq!(code, Some(0), "{output}");
    output
}

/// A `newc` archive, documented in the kernel's
/// `Documentation/driver-api/early-userspace/buffer-format.rst`.
#[derive(Default)]
struct CpioArchive(Vec<u8>);

impl CpioArchive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        let size = content.len();
        write!(
            self.0,
            "070701{:08x}{mode:08x}{:016x}{:08x}{:08x}",
            self.0.len(),
            0,
            1,
            0
        )
        .unwrap();
        write!(
            self.0,
            "{size:08x}{:032x}{:08x}{:08x}{name}\0",
            0,
            name.len() + 1,
            0
        )
        .unwrap();
        self.pad();
        self.0.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}
