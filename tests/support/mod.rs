//! Fixture machines, and helpers that all tests share.

#![allow(dead_code, reason = "each test uses only a part of this module")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests read and write files directly"
)]

pub mod browser;
pub mod certificates;
pub mod cgroups;
pub mod deb_package;
pub mod engines;
pub mod fake_engine;
pub mod faults;
pub mod libvirt_daemon;
pub mod prometheus_tools;
pub mod promql;
pub mod rules;
pub mod server_process;
pub mod synthetic_cgroups;
pub mod text_format;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use strata_exporter::{
    cli::{self, Settings},
    collectors,
    exposition::{Exposition, Format},
    family::Families,
    scrape::{Scraper, Workers},
};

/// The machines in `tests/fixtures`.
pub const MACHINES: &[&str] = &["hardware", "vm-v1", "vm-v2"];

/// Collectors that fixture files cannot serve, because they query the kernel or a daemon by other
/// means.
pub const NOT_IN_FIXTURES: &[&str] = &[
    "census",
    "census_domains",
    "census_images",
    "census_timezone",
    "container_engine",
    "container_filesystem",
    "container_lifecycle",
    "container_size",
    "ethtool",
    "filesystem",
    "libvirt",
    "libvirt_network",
    "libvirt_pool",
    "logind",
    "network_route",
    "qdisc",
    "systemd",
    "tcpstat",
    "time",
    "timex",
    "uname",
];

/// Reports that a test cannot run here, and what it needs. With `STRATA_TEST_REQUIRE` set, this is
/// a failure.
pub fn skip(what: &str) {
    assert!(
        std::env::var_os("STRATA_TEST_REQUIRE").is_none(),
        "needs {what}"
    );
    // Not printed: the harness hides the output of tests that pass.
    let test = std::thread::current();
    let test = test.name().unwrap_or_default();
    let line = format!("{test} is skipped: needs {what}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// `unshare(1)` with a new mount namespace.
pub fn unshare_mounts() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private"]);
    unshare
}

/// Whether a test can mount a private FUSE file system. Skips the test if not.
pub fn can_mount_fuse() -> bool {
    if !can_mount() {
        return false;
    }
    let is_available = fs::File::open("/dev/fuse").is_ok();
    if !is_available {
        skip("/dev/fuse");
    }
    is_available
}

/// Whether a test can mount file systems in a private namespace. Skips the test if not.
pub fn can_mount() -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("root to mount");
        return false;
    }
    let allowed = unshare_mounts().arg("true").status();
    if !allowed.is_ok_and(|status| status.success()) {
        skip("unshare(1) and permission to create a mount namespace");
        return false;
    }
    true
}

/// Starts a command that mounts something, prints a line and stays; returns after that line.
pub fn spawn_mount_server(command: &mut Command) -> Child {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = piped.spawn().unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(server.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "mounted\n");
    server
}

/// Whether a program of this name is installed.
pub fn is_installed(program: &str) -> bool {
    find_program(program).is_some()
}

/// Path of a program in `PATH`.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|dir| dir.join(program));
    files.find(|file| file.is_file())
}

/// The unpacked files of a machine in `tests/fixtures`. All tests share them: a test that writes
/// needs a copy.
pub fn fixture(machine: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures");
    let archives = ttar::archive_files(&fixtures.join(machine)).unwrap_or_else(|e| panic!("{e}"));
    ttar::unpacked(machine, &archives, &parent).unwrap_or_else(|e| panic!("{e}"))
}

/// A file in `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The command line for a fixture machine: every collector that can read one, and the flags in its
/// `flags` file.
pub fn fixture_args(root: &Path) -> Vec<String> {
    let path = |flag: &str, dir: &str| format!("--path.{flag}={}", root.join(dir).display());
    let mut line = vec![
        "strata_exporter".to_owned(),
        path("procfs", "proc"),
        path("sysfs", "sys"),
        path("rootfs", "root"),
        path("udev.data", "udev"),
        // Netlink would return data of the machine that the test runs on.
        "--no-collector.arp.netlink".to_owned(),
        "--no-collector.netdev.netlink".to_owned(),
    ];
    for entry in collectors::ALL {
        let no = if NOT_IN_FIXTURES.contains(&entry.name) || entry.is_planned() {
            "no-"
        } else {
            ""
        };
        line.push(format!("--{no}collector.{}", entry.name));
    }
    let flags = fs::read_to_string(root.join("flags")).unwrap_or_default();
    let root = root.display().to_string();
    line.extend(flags.lines().map(|flag| flag.replace("ROOT", &root)));
    line
}

pub fn fixture_settings(root: &Path) -> Settings {
    cli::parse_server(collectors::ALL, fixture_args(root)).unwrap_or_else(|e| panic!("{e}"))
}

pub fn fixture_scraper(root: &Path) -> Scraper {
    let settings = fixture_settings(root);
    Scraper::new(
        settings.flags.roots,
        settings.collectors,
        Workers::default(),
    )
}

pub async fn scrape_all(scraper: &Scraper) -> Vec<Arc<Families>> {
    let all: BTreeSet<&str> = scraper.collectors().map(|(name, _)| name).collect();
    scraper
        .scrape(&all, Duration::from_secs(30))
        .await
        .into_families()
}

/// Metrics that differ between scrapes of a fixture machine or between copies of it.
const NONDETERMINISTIC: &[&str] = &[
    "node_scrape_collector_duration_seconds",
    "node_textfile_mtime_seconds",
];

/// Exposition of a fixture machine, without nondeterministic metrics.
pub async fn fixture_exposition(machine: &str, format: Format) -> String {
    let families = scrape_all(&fixture_scraper(&fixture(machine))).await;
    let exposition = Exposition::new(families, |name| !NONDETERMINISTIC.contains(&name));
    let body = Arc::new(exposition).encode(format).unwrap();
    // Some labels contain the path of the unpacked files.
    body.replace(&fixture(machine).display().to_string(), "ROOT")
}

/// Compares with a file in the repository; `UPDATE=1` rewrites it.
pub fn assert_matches_file(path: &Path, actual: &str) {
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected == actual {
        return;
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, actual).unwrap();
        return;
    }
    let mut differing = expected.lines().zip(actual.lines()).enumerate();
    let first = differing.find(|(_, (e, a))| e != a);
    panic!(
        "{} is out of date; run `UPDATE=1 cargo test` and review the changes. First difference: {}",
        path.display(),
        first.map_or("one file is longer".to_owned(), |(line, (e, a))| {
            format!("line {}\n  file   {e}\n  actual {a}", line + 1)
        })
    );
}
