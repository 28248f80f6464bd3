//! A failing, panicking or hanging collector affects neither other collectors nor later scrapes.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
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
const TIMEOUT: Duration = Duration::from_secs(60);

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
struct FakeCollectors {
    collectors: Vec<(&'static str, Layer, CollectFn)>,
    workers: Workers,
}

impl FakeCollectors {
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

fn metrics(scraped: ScrapeResult) -> String {
    let metrics = Arc::new(Exposition::new(scraped.into_families(), |_| true));
    metrics.encode(Format::Text).unwrap()
}

/// Scrapes these collectors.
async fn scrape_some(scraper: &Scraper, names: &[&str], limit: Duration) -> String {
    let selected: BTreeSet<&str> = names.iter().copied().collect();
    let result = time::timeout(TIMEOUT, scraper.scrape(&selected, limit)).await;
    metrics(result.expect("the scrape timed out"))
}

async fn scrape(scraper: &Scraper, limit: Duration) -> String {
    let names: Vec<&str> = scraper.collectors().map(|(name, _)| name).collect();
    scrape_some(scraper, &names, limit).await
}

fn outcome<'a>(metrics: &'a str, collector: &str) -> &'a str {
    let start = format!("strata_collector_outcome{{collector=\"{collector}\",outcome=\"");
    let found: Vec<_> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(&start)?.strip_suffix("\"} 1"))
        .collect();
    assert_eq!(found.len(), 1, "outcomes of {collector} in {metrics}");
    found[0]
}

#[track_caller]
fn assert_has(metrics: &str, line: &str) {
    assert!(
        metrics.lines().any(|l| l == line),
        "{line} is not in {metrics}"
    );
}

/// Scrapes until the metrics meet the condition.
async fn until(scraper: &Scraper, is_met: impl Fn(&str) -> bool) -> String {
    for _ in 0..600 {
        let metrics = scrape(scraper, SHORT).await;
        if is_met(&metrics) {
            return metrics;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    panic!("timed out: {}", scrape(scraper, SHORT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_outcome_is_isolated_to_its_collector() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut fakes = FakeCollectors::default();
    fakes.with("absent", |_| Err(Error::NotFound("/proc/x".into())));
    fakes.with("failing", |_| {
        Err(Error::Api {
            api: "a daemon",
            reason: "no".to_owned(),
        })
    });
    fakes.with("first", |_| Ok(()));
    fakes.with_hanging("hanging", &gate);
    fakes.with("panicking", |start| panic!("start {start} is unexpected"));
    fakes.with("planned", |_| Err(Error::Unsupported));
    fakes.with("unanswered", |_| Err(Error::TimedOut("x".to_owned())));
    fakes.with("last", |_| Ok(()));
    let scraper = fakes.scraper();
    let metrics = scrape(&scraper, SHORT).await;
    for (collector, became) in [
        ("absent", "no_data"),
        ("failing", "failed"),
        ("first", "collected"),
        ("hanging", "timed_out"),
        ("panicking", "panicked"),
        ("planned", "unsupported"),
        ("unanswered", "failed"),
        ("last", "collected"),
    ] {
        assert_eq!(outcome(&metrics, collector), became, "{collector}");
        let collected = became == "collected";
        let success = format!(
            "node_scrape_collector_success{{collector=\"{collector}\"}} {}",
            u8::from(collected)
        );
        assert_has(&metrics, &success);
        for series in ["test_starts", "strata_collector_partial_errors"] {
            let series = format!("\n{series}{{collector=\"{collector}\"}} ");
            assert_eq!(
                metrics.contains(&series),
                collected,
                "{series} in {metrics}"
            );
        }
        let took = format!("\nnode_scrape_collector_duration_seconds{{collector=\"{collector}\"}}");
        assert_eq!(metrics.matches(&took).count(), 1, "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn panicked_collector_is_started_again() {
    let mut fakes = FakeCollectors::default();
    fakes.with("odd", |start| {
        assert!(start % 2 == 0, "odd");
        Ok(())
    });
    let scraper = fakes.scraper();
    for start in 1..=6 {
        let metrics = scrape(&scraper, LONG).await;
        let expected = ["collected", "panicked"][start % 2];
        assert_eq!(outcome(&metrics, "odd"), expected, "{start}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_collector_is_not_started_twice() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut fakes = FakeCollectors::default();
    let hanging = fakes.with_hanging("hanging", &gate);
    let steady = fakes.with("steady", |_| Ok(()));
    let scraper = fakes.scraper();

    let metrics = scrape(&scraper, SHORT).await;
    assert_eq!(outcome(&metrics, "hanging"), "timed_out");
    for n in 2..8 {
        // Later scrapes with the same timeout do not wait for it.
        let metrics = scrape(&scraper, SHORT).await;
        assert_eq!(outcome(&metrics, "hanging"), "still_running");
        assert_has(
            &metrics,
            "node_scrape_collector_success{collector=\"hanging\"} 0",
        );
        assert_has(
            &metrics,
            &format!("test_starts{{collector=\"steady\"}} {n}"),
        );
    }
    assert_eq!(hanging.load(Ordering::SeqCst), 1);
    assert_eq!(steady.load(Ordering::SeqCst), 7);

    gate.open();
    until(&scraper, |metrics| {
        outcome(metrics, "hanging") == "collected"
    })
    .await;
    // A scrape may still get the result of the run that hung; the next one starts a new run.
    let metrics = scrape(&scraper, LONG).await;
    assert_eq!(outcome(&metrics, "hanging"), "collected");
    assert!(hanging.load(Ordering::SeqCst) >= 2);
}

/// Timeout of a client that gives a scrape too little time.
const TINY: Duration = Duration::from_millis(1);

#[tokio::test(flavor = "multi_thread")]
async fn tiny_timeouts_do_not_strand_other_scrapes() {
    let mut fakes = FakeCollectors::default();
    let names: Vec<&'static str> = (0..40)
        .map(|n| &*Box::leak(format!("collector_{n}").into_boxed_str()))
        .collect();
    for name in &names {
        fakes.with(name, |_| Ok(()));
    }
    let scraper = Arc::new(fakes.scraper());
    let is_done = Arc::new(AtomicBool::new(false));
    let impatient = (0..2).map(|_| {
        let (scraper, is_done) = (Arc::clone(&scraper), Arc::clone(&is_done));
        tokio::spawn(async move {
            while !is_done.load(Ordering::SeqCst) {
                scrape(&scraper, TINY).await;
            }
        })
    });
    let impatient: Vec<_> = impatient.collect();
    for _ in 0..200 {
        // Would time out if a scrape waited for a run that another one replaced.
        let metrics = scrape(&scraper, LONG).await;
        for name in &names {
            assert_eq!(outcome(&metrics, name), "collected", "{name}");
        }
    }
    is_done.store(true, Ordering::SeqCst);
    for task in impatient {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_scrape_waits_to_its_own_deadline() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut fakes = FakeCollectors::default();
    let starts = fakes.with_hanging("hanging", &gate);
    let scraper = Arc::new(fakes.scraper());
    let patient = {
        let scraper = Arc::clone(&scraper);
        tokio::spawn(async move { scrape(&scraper, LONG).await })
    };
    while starts.load(Ordering::SeqCst) == 0 {
        time::sleep(Duration::from_millis(1)).await;
    }
    // The run is younger than their timeouts; afterwards it is older.
    let (tiny, short) = tokio::join!(scrape(&scraper, TINY), scrape(&scraper, SHORT));
    assert_eq!(outcome(&short, "hanging"), "timed_out");
    assert!(["timed_out", "still_running"].contains(&outcome(&tiny, "hanging")));
    for limit in [TINY, SHORT, TINY, SHORT] {
        let metrics = scrape(&scraper, limit).await;
        assert_eq!(outcome(&metrics, "hanging"), "still_running");
    }
    gate.open();
    let metrics = patient.await.unwrap();
    assert_has(&metrics, "test_starts{collector=\"hanging\"} 1");
    assert_eq!(starts.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_that_started_for_a_tiny_timeout_has_time_to_read() {
    let mut fakes = FakeCollectors::default();
    let left = Arc::new(Mutex::new(Duration::ZERO));
    let seen = Arc::clone(&left);
    let collect: CollectFn = Box::new(move |snapshot: &Snapshot| {
        *seen.lock().unwrap() = snapshot.deadline() - Instant::now();
        Ok(Families::default())
    });
    fakes.collectors.push(("reader", Layer::Host, collect));
    let scraper = fakes.scraper();
    while left.lock().unwrap().is_zero() {
        scrape(&scraper, TINY).await;
    }
    assert!(*left.lock().unwrap() > 100 * TINY);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_scrapes_change_nothing() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut fakes = FakeCollectors::default();
    let early = fakes.with_hanging("early", &gate);
    let overdue = fakes.with_hanging("overdue", &gate);
    let scraper = fakes.scraper();
    for (name, limit, starts) in [
        ("early", LONG, &early),
        ("overdue", Duration::from_millis(1), &overdue),
    ] {
        let selected = BTreeSet::from([name]);
        let mut times = 0;
        while times < 4 || starts.load(Ordering::SeqCst) == 0 {
            let waiting = scraper.scrape(&selected, limit);
            drop(time::timeout(Duration::from_millis(20), waiting).await);
            times += 1;
        }
    }
    let metrics = scrape(&scraper, SHORT).await;
    // Both runs are younger than this scrape's timeout, whatever the timeouts of the others were.
    for name in ["early", "overdue"] {
        assert_eq!(outcome(&metrics, name), "timed_out");
    }
    let metrics = scrape(&scraper, SHORT).await;
    for name in ["early", "overdue"] {
        assert_eq!(outcome(&metrics, name), "still_running");
    }
    assert_eq!(early.load(Ordering::SeqCst), 1);
    assert_eq!(overdue.load(Ordering::SeqCst), 1);
    gate.open();
    until(&scraper, |metrics| {
        ["early", "overdue"]
            .iter()
            .all(|name| outcome(metrics, name) == "collected")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_scrapes_share_a_run() {
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut fakes = FakeCollectors::default();
    let one = fakes.with_hanging("one", &gate);
    let two = fakes.with_hanging("two", &gate);
    let scraper = fakes.scraper();
    // Each is polled once, in this order, before the gate opens.
    let (a, b, c, d, ()) = tokio::join!(
        scrape_some(&scraper, &["one"], LONG),
        scrape_some(&scraper, &["one", "two"], LONG),
        scrape_some(&scraper, &["one"], LONG),
        scrape_some(&scraper, &["two"], LONG),
        async { gate.open() },
    );
    let (one_start, two_starts) = (
        "test_starts{collector=\"one\"} 1",
        "test_starts{collector=\"two\"} 1",
    );
    for metrics in [&a, &b, &c] {
        assert_has(metrics, one_start);
    }
    for metrics in [&b, &d] {
        assert_has(metrics, two_starts);
    }
    assert!(!a.contains("\"two\"") && !d.contains("\"one\""), "{a}{d}");
    for starts in [&one, &two] {
        assert_eq!(starts.load(Ordering::SeqCst), 1);
    }
    // A later scrape starts a new run.
    let metrics = scrape(&scraper, LONG).await;
    assert_has(&metrics, "test_starts{collector=\"one\"} 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_collectors_cost_one_thread_each() {
    const HANGING: usize = 40;
    /// Threads that ordinary scrapes need.
    const STAYING: usize = 2;
    let gate = Gate::default();
    let _opener = Opener(gate.clone());
    let mut fakes = FakeCollectors::default();
    let starts: Vec<_> = (0..HANGING)
        .map(|n| {
            let name: &'static str = Box::leak(format!("hanging_{n}").into_boxed_str());
            fakes.with_hanging(name, &gate)
        })
        .collect();
    // Started last.
    fakes.with("steady", |_| Ok(()));
    let workers = fakes.workers.clone();
    let scraper = fakes.scraper();
    let started = || {
        starts
            .iter()
            .map(|n| n.load(Ordering::SeqCst))
            .sum::<usize>()
    };
    until(&scraper, |_| started() == HANGING).await;
    // Afterwards all runs are older than the timeout.
    scrape(&scraper, SHORT).await;
    for _ in 0..5 {
        let metrics = scrape(&scraper, SHORT).await;
        assert_eq!(outcome(&metrics, "steady"), "collected");
        for n in 0..HANGING {
            assert_eq!(outcome(&metrics, &format!("hanging_{n}")), "still_running");
        }
    }
    assert_eq!(started(), HANGING);
    let threads = workers.threads();
    assert!(threads <= HANGING + STAYING, "{threads} threads");

    gate.open();
    until(&scraper, |metrics| !metrics.contains("\"still_running\"")).await;
    let metrics = scrape(&scraper, LONG).await;
    assert_eq!(
        metrics.matches("outcome=\"collected\"").count(),
        HANGING + 1
    );
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

    let mut fakes = FakeCollectors::default();
    fakes.with("fickle", |start| match start {
        4..=6 | 9.. => Ok(()),
        _ => Err(Error::TimedOut("it".to_owned())),
    });
    fakes.with("panicking", |_| panic!("always"));
    let scraper = fakes.scraper();
    for _ in 0..10 {
        scrape(&scraper, LONG).await;
    }
    let output = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for (what, times) in [
        ("collector failed", 2),
        ("it timed out", 2),
        ("collector recovered", 2),
        ("collector panicked", 1),
    ] {
        assert_eq!(output.matches(what).count(), times, "{what} in {output}");
    }
}
