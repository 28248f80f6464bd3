//! A system bus that accepts connections but never replies costs its own collectors one deadline
//! per scrape and affects nothing else.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::net::UnixListener,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use strata_exporter::{
    cli, collectors,
    scrape::{Scraper, Workers},
};

const ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";
const DEADLINE: Duration = Duration::from_secs(1);
/// Path of the test that the child process runs.
const NAME: &str = "dbus_hangs::hanging_bus_costs_one_deadline_and_leaks_nothing";

/// Runs in a child process: the bus address comes from the environment, and threads and file
/// descriptors are counted per process.
#[test]
fn hanging_bus_costs_one_deadline_and_leaks_nothing() {
    if std::env::var_os(ADDRESS).is_some() {
        scrape_six_times();
        return;
    }
    let socket = std::env::temp_dir().join(format!("strata-hung-bus-{}", std::process::id()));
    let listener = UnixListener::bind(&socket).unwrap();
    let (sender, connections) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            sender.send(connection).unwrap();
        }
    });
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(ADDRESS, format!("unix:path={}", socket.display()))
        .output()
        .unwrap();
    fs::remove_file(socket).unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{output}");
    // Six scrapes of two collectors, each of which connected in every scrape.
    assert_eq!(connections.try_iter().count(), 12);
}

fn scrape_six_times() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let line = [
        "strata_exporter",
        "--collector.disable-defaults",
        "--collector.systemd",
        "--collector.logind",
        "--collector.loadavg",
    ];
    let settings = cli::parse_server(collectors::ALL, line).unwrap_or_else(|e| panic!("{e}"));
    let scraper = Scraper::new(
        settings.flags.roots,
        settings.collectors,
        Workers::default(),
    );
    let all: BTreeSet<&str> = scraper.collectors().map(|(name, _)| name).collect();
    let scrape = || {
        let started = Instant::now();
        let families = runtime
            .block_on(scraper.scrape(&all, DEADLINE))
            .into_families();
        let took = started.elapsed();
        assert!(took < DEADLINE * 5, "a scrape took {took:?}");
        let load = families
            .iter()
            .any(|metrics| metrics.iter().any(|family| family.name == "node_load1"));
        assert!(load, "the bus failure affected other collectors");
        // The collectors finish shortly after the scrape stops waiting.
        thread::sleep(DEADLINE);
    };
    scrape();
    let (before, threads) = (open_files().unwrap(), threads());
    for _ in 0..5 {
        scrape();
    }
    assert_eq!(open_files().unwrap(), before);
    let after = self::threads();
    assert!(after <= threads, "{after} threads");
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn open_files() -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // The descriptor of the directory listing itself is already closed.
        if let Ok(target) = fs::read_link(entry.path()) {
            let kind = target.to_string_lossy();
            let kind = kind.split_once(':').map_or(&*kind, |(kind, _)| kind);
            if !kind.starts_with("/proc") {
                files.push(kind.to_owned());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}
