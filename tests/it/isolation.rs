//! A failing, panicking or hanging collector affects neither other collectors nor later scrapes.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use strata_exporter::{
    collector::{CollectFn, Layer},
    error::Error,
    exposition::{Exposition, Format},
    family::Families,
    metrics,
    scrape::{ScrapeResult, Scraper, Workers},
    sources::{Roots, Snapshot},
};
use tokio::time;
use tracing_subscriber::layer::SubscriberExt;

metrics! {
    /// Number of starts of a collector.
    STARTS: Gauge = "test_starts" ["collector"];
}

/// Time limit of a scrape that must not receive everything it waits for.
const SHORT: Duration = Duration::from_secs(2);
/// Longer than any scrape needs: reaching it means that a scrape waited for something hanging.
const LONG: Duration = Duration::from_secs(600);
/// Timeout of a test's wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Blocks collectors until it is opened, at the latest at the end of the test.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// Opens the gate when dropped, also when the test panics.
struct Opener(Gate);

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Fake collectors, and the threads that run them.
#[derive(Default)]
struct Machine {
    collectors: Vec<(&'static str, Layer, CollectFn)>,
    workers: Workers,
}

impl Machine {
    /// Adds a collector that runs this function; returns the counter of its starts.
    fn with(
        &mut self,
        name: &'static str,
        collect: impl Fn(usize) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Arc<AtomicUsize> {
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&starts);
        let collect: CollectFn = Box::new(move |_: &Snapshot| {
            let start = counted.fetch_add(1, Ordering::SeqCst) + 1;
            collect(start)?;
            let mut families = Families::default();
            families.add(&STARTS, [name], start);
            Ok(families)
        });
        self.collectors.push((name, Layer::Host, collect));
        starts
    }

    /// Adds a collector that blocks at the gate.
    fn with_hanging(&mut self, name: &'static str, gate: &Gate) -> Arc<AtomicUsize> {
        let gate = gate.clone();
        self.with(name, move |_| {
            gate.pass();
            Ok(())
        })
    }

    fn scraper(self) -> Scraper {
        // These collectors read no files.
        let roots = Roots {
            procfs: "/nonexistent/proc".into(),
            sysfs: "/nonexistent/sys".into(),
            rootfs: "/nonexistent/root".into(),
            udev_data: "/nonexistent/udev".into(),
        };
        Scraper::new(roots, self.collectors, self.workers)
    }
}

fn page(scraped: ScrapeResult) -> String {
    let page = Arc::new(Exposition::new(scraped.into_families(), |_| true));
    page.encode(Format::Text).unwrap()
}

/// Scrapes these collectors.
async fn scrape_some(scraper: &Scraper, names: &[&str], limit: Duration) -> String {
    let wanted: BTreeSet<&str> = names.iter().copied().collect();
    let answer = time::timeout(PATIENCE, scraper.scrape(&wanted, limit)).await;
    page(answer.expect("a scrape waits for what hangs"))
}

async fn scrape(scraper: &Scraper, limit: Duration) -> String {
    let names: Vec<&str> = scraper.collectors().map(|(name, _)| name).collect();
    scrape_some(scraper, &names, limit).await
}

fn outcome<'a>(page: &'a str, collector: &str) -> &'a str {
    let start = format!("strata_collector_outcome{{collector=\"{collector}\",outcome=\"");
    let found: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix(&start)?.strip_suffix("\"} 1"))
        .collect();
    assert_eq!(found.len(), 1, "outcomes of {collector} in {page}");
    found[0]
}

#[track_caller]
fn assert_has(page: &str, line: &str) {
    assert!(page.lines().any(|l| l == line), "{line} is not in {page}");
}

/// Scrapes until the page meets the condition.
async fn until(scraper: &Scraper, shows: impl Fn(&str) -> bool) -> String {
    for _ in 0..600 {
        let page = scrape(scraper, SHORT).await;
        if shows(&page) {
            return page;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came: {}", scrape(scraper, SHORT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_outcome_is_isolated_to_its_collector() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut machine = Machine::default();
    machine.with("absent", |_| Err(Error::NotFound("/proc/x".into())));
    machine.with("failing", |_| {
        Err(Error::Api {
            api: "a daemon",
            reason: "no".to_owned(),
        })
    });
    machine.with("first", |_| Ok(()));
    machine.with_hanging("hanging", &gate);
    machine.with("panicking", |start| panic!("start {start} is one too many"));
    machine.with("to_come", |_| Err(Error::Unsupported));
    machine.with("unanswered", |_| Err(Error::TimedOut("x".to_owned())));
    machine.with("last", |_| Ok(()));
    let scraper = machine.scraper();
    let page = scrape(&scraper, SHORT).await;
    for (collector, became) in [
        ("absent", "no_data"),
        ("failing", "failed"),
        ("first", "collected"),
        ("hanging", "timed_out"),
        ("panicking", "panicked"),
        ("to_come", "unsupported"),
        ("unanswered", "failed"),
        ("last", "collected"),
    ] {
        assert_eq!(outcome(&page, collector), became, "{collector}");
        let collected = became == "collected";
        let success = format!(
            "node_scrape_collector_success{{collector=\"{collector}\"}} {}",
            u8::from(collected)
        );
        assert_has(&page, &success);
        for series in ["test_starts", "strata_collector_partial_errors"] {
            let series = format!("\n{series}{{collector=\"{collector}\"}} ");
            assert_eq!(page.contains(&series), collected, "{series} in {page}");
        }
        let took = format!("\nnode_scrape_collector_duration_seconds{{collector=\"{collector}\"}}");
        assert_eq!(page.matches(&took).count(), 1, "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn panicked_collector_is_started_again() {
    let mut machine = Machine::default();
    machine.with("odd", |start| {
        assert!(start % 2 == 0, "odd");
        Ok(())
    });
    let scraper = machine.scraper();
    for start in 1..=6 {
        let page = scrape(&scraper, LONG).await;
        let expected = ["collected", "panicked"][start % 2];
        assert_eq!(outcome(&page, "odd"), expected, "{start}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_collector_is_not_started_twice() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut machine = Machine::default();
    let hanging = machine.with_hanging("hanging", &gate);
    let steady = machine.with("steady", |_| Ok(()));
    let scraper = machine.scraper();

    let page = scrape(&scraper, SHORT).await;
    assert_eq!(outcome(&page, "hanging"), "timed_out");
    for n in 2..8 {
        // Later scrapes do not wait for it.
        let page = scrape(&scraper, LONG).await;
        assert_eq!(outcome(&page, "hanging"), "still_running");
        assert_has(
            &page,
            "node_scrape_collector_success{collector=\"hanging\"} 0",
        );
        assert_has(&page, &format!("test_starts{{collector=\"steady\"}} {n}"));
    }
    assert_eq!(hanging.load(Ordering::SeqCst), 1);
    assert_eq!(steady.load(Ordering::SeqCst), 7);

    gate.open();
    let page = until(&scraper, |page| outcome(page, "hanging") == "collected").await;
    // The old result is discarded: the collector ran a second time.
    assert_has(&page, "test_starts{collector=\"hanging\"} 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_scrapes_change_nothing() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut machine = Machine::default();
    let early = machine.with_hanging("early", &gate);
    let overdue = machine.with_hanging("overdue", &gate);
    let scraper = machine.scraper();
    for (name, limit, starts) in [
        ("early", LONG, &early),
        ("overdue", Duration::from_millis(1), &overdue),
    ] {
        let wanted = BTreeSet::from([name]);
        let mut times = 0;
        while times < 4 || starts.load(Ordering::SeqCst) == 0 {
            let waiting = scraper.scrape(&wanted, limit);
            drop(time::timeout(Duration::from_millis(20), waiting).await);
            times += 1;
        }
    }
    let page = scrape(&scraper, SHORT).await;
    // The first run has time left and can be shared; the second is past its limit.
    assert_eq!(outcome(&page, "early"), "timed_out");
    assert_eq!(outcome(&page, "overdue"), "still_running");
    assert_eq!(early.load(Ordering::SeqCst), 1);
    assert_eq!(overdue.load(Ordering::SeqCst), 1);
    gate.open();
    until(&scraper, |page| {
        ["early", "overdue"]
            .iter()
            .all(|name| outcome(page, name) == "collected")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_scrapes_share_a_run() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut machine = Machine::default();
    let one = machine.with_hanging("one", &gate);
    let two = machine.with_hanging("two", &gate);
    let scraper = machine.scraper();
    // Each is polled once, in this order, before the gate opens.
    let (a, b, c, d, ()) = tokio::join!(
        scrape_some(&scraper, &["one"], LONG),
        scrape_some(&scraper, &["one", "two"], LONG),
        scrape_some(&scraper, &["one"], LONG),
        scrape_some(&scraper, &["two"], LONG),
        async { gate.open() },
    );
    let (says_one, says_two) = (
        "test_starts{collector=\"one\"} 1",
        "test_starts{collector=\"two\"} 1",
    );
    for page in [&a, &b, &c] {
        assert_has(page, says_one);
    }
    for page in [&b, &d] {
        assert_has(page, says_two);
    }
    assert!(!a.contains("\"two\"") && !d.contains("\"one\""), "{a}{d}");
    for starts in [&one, &two] {
        assert_eq!(starts.load(Ordering::SeqCst), 1);
    }
    // A later scrape starts a new run.
    let page = scrape(&scraper, LONG).await;
    assert_has(&page, "test_starts{collector=\"one\"} 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_collectors_cost_one_thread_each() {
    const HANGING: usize = 40;
    /// Threads that ordinary scrapes need.
    const STAYING: usize = 2;
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut machine = Machine::default();
    let starts: Vec<_> = (0..HANGING)
        .map(|n| {
            let name: &'static str = Box::leak(format!("hanging_{n}").into_boxed_str());
            machine.with_hanging(name, &gate)
        })
        .collect();
    // Started last.
    machine.with("steady", |_| Ok(()));
    let workers = machine.workers.clone();
    let scraper = machine.scraper();
    let started = || {
        starts
            .iter()
            .map(|n| n.load(Ordering::SeqCst))
            .sum::<usize>()
    };
    until(&scraper, |_| started() == HANGING).await;
    for _ in 0..5 {
        let page = scrape(&scraper, LONG).await;
        assert_eq!(outcome(&page, "steady"), "collected");
        for n in 0..HANGING {
            assert_eq!(outcome(&page, &format!("hanging_{n}")), "still_running");
        }
    }
    assert_eq!(started(), HANGING);
    let threads = workers.threads();
    assert!(threads <= HANGING + STAYING, "{threads} threads");

    gate.open();
    until(&scraper, |page| !page.contains("\"still_running\"")).await;
    let page = scrape(&scraper, LONG).await;
    assert_eq!(page.matches("outcome=\"collected\"").count(), HANGING + 1);
    for _ in 0..600 {
        if workers.threads() == STAYING {
            return;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} threads stay", workers.threads());
}

/// Log output.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Single-threaded, because the subscriber captures only this thread's log.
#[tokio::test]
async fn failure_is_logged_when_it_starts_and_ends() {
    let log = Log::default();
    let lines = log.clone();
    let layer = tracing_subscriber::fmt::layer().with_writer(move || log.clone());
    let _logging = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    let mut machine = Machine::default();
    machine.with("fickle", |start| match start {
        4..=6 | 9.. => Ok(()),
        _ => Err(Error::TimedOut("it".to_owned())),
    });
    machine.with("panicking", |_| panic!("always"));
    let scraper = machine.scraper();
    for _ in 0..10 {
        scrape(&scraper, LONG).await;
    }
    let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for (what, times) in [
        ("collector failed", 2),
        ("it did not answer in time", 2),
        ("collector recovered", 2),
        ("collector panicked", 1),
    ] {
        assert_eq!(said.matches(what).count(), times, "{what} in {said}");
    }
}
