//! What one collector does to the others, and to the scrapes after it: nothing.

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
    /// How often a collector was started.
    STARTS: Gauge = "test_starts" ["collector"];
}

/// What a scrape gets that must not get all it waits for.
const SHORT: Duration = Duration::from_secs(2);
/// What no scrape needs. Where one takes this long, it waited for what hangs.
const LONG: Duration = Duration::from_secs(600);
/// When a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something that hangs until it is let go, at the latest when the test is over.
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

/// Opens a gate when the test is over, however it ends.
struct Opener(Gate);

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Collectors that are made up, and the threads they run on.
#[derive(Default)]
struct Machine {
    collectors: Vec<(&'static str, Layer, CollectFn)>,
    workers: Workers,
}

impl Machine {
    /// Adds a collector that does this; says how often it was started.
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

    /// Adds one that hangs at the gate.
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

/// Scrapes until the page shows what is waited for.
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
async fn whatever_becomes_of_one_collector_the_others_are_collected() {
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
async fn a_collector_that_panics_is_asked_again() {
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
async fn a_collector_that_hangs_is_not_started_again_until_it_is_done() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut machine = Machine::default();
    let hanging = machine.with_hanging("hanging", &gate);
    let steady = machine.with("steady", |_| Ok(()));
    let scraper = machine.scraper();

    let page = scrape(&scraper, SHORT).await;
    assert_eq!(outcome(&page, "hanging"), "timed_out");
    for n in 2..8 {
        // Nobody waits for it any more.
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
    // What it saw so long ago is not shown as if it were of now.
    assert_has(&page, "test_starts{collector=\"hanging\"} 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_that_hangs_up_changes_nothing() {
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
    // There is time left for the one, and others may wait with it; not so the other.
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
async fn scrapes_at_the_same_time_share_what_is_collected() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut machine = Machine::default();
    let one = machine.with_hanging("one", &gate);
    let two = machine.with_hanging("two", &gate);
    let scraper = machine.scraper();
    // Each is polled once, in this order, before the gate is opened.
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
    // A scrape after them sees what is then.
    let page = scrape(&scraper, LONG).await;
    assert_has(&page, "test_starts{collector=\"one\"} 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_collectors_that_hang_cost_a_thread_each_and_hold_up_nobody() {
    const HANGING: usize = 40;
    /// The threads that ordinary scrapes need.
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
    // The last to be started.
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

/// What was logged.
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

/// On one thread, because only what it logs is listened to.
#[tokio::test]
async fn a_trouble_is_logged_when_it_comes_and_when_it_is_over() {
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
        ("collector works again", 2),
        ("collector panicked", 1),
    ] {
        assert_eq!(said.matches(what).count(), times, "{what} in {said}");
    }
}
