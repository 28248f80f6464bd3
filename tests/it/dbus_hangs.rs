//! A system bus that takes connections and never answers costs its own collectors
//! one deadline a scrape, and nothing else.

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
const DEADLINE: Duration = Duration::from_millis(300);
/// The test that the child process runs.
const NAME: &str =
    "dbus_hangs::a_bus_that_never_answers_costs_a_deadline_and_leaves_nothing_behind";

/// Where the bus is comes from the environment, which only a new process can be
/// given; and its threads and descriptors are counted, which only it may have.
#[test]
fn a_bus_that_never_answers_costs_a_deadline_and_leaves_nothing_behind() {
    if std::env::var_os(ADDRESS).is_some() {
        scrape_six_times();
        return;
    }
    let socket = std::env::temp_dir().join(format!("strata-hung-bus-{}", std::process::id()));
    let listener = UnixListener::bind(&socket).unwrap();
    let (held, connections) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            held.send(connection).unwrap();
        }
    });
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(ADDRESS, format!("unix:path={}", socket.display()))
        .output()
        .unwrap();
    fs::remove_file(socket).unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}");
    // Six scrapes by two collectors, none of which gave up for good.
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
            .any(|of| of.iter().any(|family| family.name == "node_load1"));
        assert!(load, "the bus took the others with it");
        // The collectors are not done the moment the scrape stops waiting.
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
        // The listing's own descriptor is gone by now.
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
