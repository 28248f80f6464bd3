//! Tests of the client against a fake daemon.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::runtime::{self, Runtime};

use super::{
    fake::{FakeLibvirt, ReplyAction},
    wire::{format_uuid, procedure},
    *,
};

/// A client, its fake daemon, and the daemon's socket.
struct TestClient {
    daemon: Option<FakeLibvirt>,
    libvirt: Arc<Libvirt>,
    socket: PathBuf,
    _runtime: Runtime,
}

const TIMING: Timing = Timing {
    backoff: Duration::from_millis(20),
    max_backoff: Duration::from_millis(100),
    min_retry_interval: Duration::ZERO,
    connect_timeout: Duration::from_secs(20),
    list_interval: Duration::from_secs(300),
    definition_ttl: Duration::from_secs(300),
    stats_retry_delays: [Duration::from_millis(5), Duration::from_millis(10)],
};

impl TestClient {
    fn new(domains: &[&str]) -> Self {
        let socket = socket();
        let daemon = FakeLibvirt::start(&socket, domains);
        Self::with_daemon(socket, Some(daemon), true)
    }

    fn with_daemon(socket: PathBuf, daemon: Option<FakeLibvirt>, is_explicit: bool) -> Self {
        Self::with(socket, daemon, is_explicit, LibvirtFlags::with_all_stats())
    }

    fn with(
        socket: PathBuf,
        daemon: Option<FakeLibvirt>,
        is_explicit: bool,
        flags: LibvirtFlags,
    ) -> Self {
        let uris = ["qemu:///system", "qemu:///session"];
        let endpoint = Endpoint {
            socket: socket.clone(),
            uris: uris.map(str::to_owned).to_vec(),
        };
        let endpoints = Endpoints {
            list: vec![endpoint],
            is_explicit,
        };
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let libvirt = Arc::new(Libvirt::with(flags, Some(endpoints), TIMING));
        runtime.block_on(async { libvirt.start() });
        Self {
            daemon,
            libvirt,
            socket,
            _runtime: runtime,
        }
    }

    fn daemon(&self) -> &FakeLibvirt {
        self.daemon.as_ref().unwrap()
    }

    /// Fetches, with enough time.
    fn fetch(&self) -> FetchResult {
        let deadline = soon();
        let fetched = self
            .libvirt
            .fetch(deadline, HostStatsByUuid::new())
            .unwrap();
        assert!(Instant::now() < deadline.checked_sub(MAX_MARGIN).unwrap());
        fetched
    }

    /// Fetches with a deadline that is expected to pass.
    fn fetch_until_timeout(&self) -> FetchResult {
        let deadline = Instant::now() + Duration::from_millis(800);
        self.libvirt
            .fetch(deadline, HostStatsByUuid::new())
            .unwrap()
    }

    fn fetch_until_up(&self) -> FetchResult {
        for _ in 0..500 {
            let fetched = self.fetch();
            if fetched.connection.is_up {
                return fetched;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("libvirt never came up: {:?}", self.fetch());
    }
}

impl LibvirtFlags {
    fn with_all_stats() -> Self {
        Self {
            libvirt_stats: vec![
                StatsGroup::State,
                StatsGroup::Cpu,
                StatsGroup::Balloon,
                StatsGroup::Block,
            ],
            ..Self::default()
        }
    }
}

fn socket() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = format!("strata-libvirt-{}-{number}", std::process::id());
    std::env::temp_dir().join(file)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn names(fetched: &FetchResult) -> Vec<&str> {
    let domains = fetched.domains.iter();
    domains.map(|domain| domain.name.as_str()).collect()
}

fn domain<'a>(fetched: &'a FetchResult, name: &str) -> &'a Domain {
    let mut domains = fetched.domains.iter();
    domains.find(|domain| domain.name == name).unwrap()
}

fn is_complete(domain: &Domain) -> bool {
    let stats = &domain.stats;
    let read = stats.disks.first().and_then(|disk| disk.read.requests);
    !domain.is_partial && read == Some(11) && stats.balloon.rss == Some(512 << 10)
}

#[test]
fn returns_each_domain_with_stats_and_definition() {
    let client = TestClient::new(&["b", "a", "off"]);
    client.daemon().state().domain("off").id = -1;
    let fetched = client.fetch();
    assert_eq!(names(&fetched), ["a", "b", "off"]);
    let connection = &fetched.connection;
    assert!(
        connection.is_up && connection.error.is_none(),
        "{connection:?}"
    );
    assert_eq!(connection.uri, client.socket.display().to_string());
    assert_eq!(
        (connection.connections, connection.abandoned_requests),
        (1, 0)
    );
    let versions = connection.versions.as_ref().unwrap();
    assert_eq!(
        (versions.driver.as_str(), versions.daemon.as_str()),
        ("QEMU", "9.0.0")
    );
    assert_eq!(versions.hypervisor.as_deref(), Some("7.2.22"));

    let a = domain(&fetched, "a");
    assert!(
        is_complete(a) && a.response_time.is_some() && !a.is_stuck,
        "{a:?}"
    );
    assert_eq!(
        (a.id, a.state, a.reason),
        (Some(2), Some(DomainState::Running), Some(1))
    );
    assert_eq!(a.stats.cpu.time, Some(Duration::from_secs(7)));
    assert_eq!(
        a.definition.as_ref().unwrap().title.as_deref(),
        Some("title of a")
    );
    assert_eq!(a.uuid, "61a5a5a5-a5a5-a5a5-a5a5-a5a5a5a5a5a5");

    let off = domain(&fetched, "off");
    assert_eq!((off.id, off.state), (None, Some(DomainState::Shutoff)));
    assert_eq!(off.stats.cpu, CpuTimes::default());
    assert_eq!(off.stats.balloon.maximum, Some(2048 << 10));
    assert!(!off.is_partial && off.definition.is_some());

    let running = client.libvirt.running();
    let running: Vec<_> = running
        .iter()
        .map(|domain| (domain.name.as_str(), domain.id))
        .collect();
    assert_eq!(running, [("a", 2), ("b", 1)]);
}

#[test]
fn host_stats_are_not_queried() {
    let mut flags = LibvirtFlags::with_all_stats();
    flags.libvirt_stats.push(StatsGroup::Vcpu);
    let socket = socket();
    let daemon = FakeLibvirt::start(&socket, &["a", "b", "off"]);
    daemon.state().domain("off").id = -1;
    let client = TestClient::with(socket, Some(daemon), true, flags);
    let vcpus = |number| {
        Some(vec![Vcpu {
            number,
            ..Vcpu::default()
        }])
    };
    let host_stats = |id| HostStats {
        id,
        started: Some(Duration::from_secs(1)),
        cpu: Some(CpuTimes {
            time: Some(Duration::from_secs(70)),
            ..CpuTimes::default()
        }),
        vcpus: vcpus(5),
        links: None,
    };
    let uuid = |name: &str| format_uuid(&fake::uuid(name.as_bytes()));
    // Their IDs are 1 and 2.
    let all_host_stats =
        [("a", 1), ("b", 7), ("off", 3)].map(|(name, id)| (uuid(name), host_stats(id)));
    let fetched = client.libvirt.fetch(soon(), all_host_stats.into()).unwrap();
    let (a, b) = (domain(&fetched, "a"), domain(&fetched, "b"));
    assert_eq!(a.stats.cpu, host_stats(1).cpu.unwrap());
    assert_eq!(
        (&a.stats.vcpus, a.started),
        (&vcpus(5).unwrap(), host_stats(1).started)
    );
    assert_eq!(a.stats.vcpu_current, Some(1));
    assert!(is_complete(a) && is_complete(b));
    // Host statistics of another run are ignored.
    assert_eq!(
        (b.stats.cpu.time, b.started),
        (Some(Duration::from_secs(7)), None)
    );
    let off = domain(&fetched, "off");
    assert_eq!((off.stats.cpu, off.started), (CpuTimes::default(), None));
    let state = client.daemon().state();
    let requested_groups = |name: &str| {
        let calls = state
            .received
            .iter()
            .filter(|call| call.procedure == procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS);
        let uuid = fake::uuid(name.as_bytes());
        let requests = calls.filter(|call| call.body.windows(16).any(|bytes| bytes == uuid));
        requests
            .map(|call| fake::requested_groups(&call.body))
            .collect::<Vec<_>>()
    };
    let (cpu, vcpu) = (StatsGroup::Cpu.bit(), StatsGroup::Vcpu.bit());
    let rest = [StatsGroup::State, StatsGroup::Balloon, StatsGroup::Block].map(StatsGroup::bit);
    let rest: u32 = rest.iter().sum();
    assert_eq!(requested_groups("a"), [rest]);
    assert_eq!(requested_groups("b"), [rest | cpu | vcpu]);
}

#[test]
fn kvm_stats_of_vcpus_are_queried_despite_host_stats() {
    let mut flags = LibvirtFlags::with_all_stats();
    flags
        .libvirt_stats
        .extend([StatsGroup::Vcpu, StatsGroup::Vm]);
    let socket = socket();
    let daemon = FakeLibvirt::start(&socket, &["a"]);
    let client = TestClient::with(socket, Some(daemon), true, flags);
    let host_stats = HostStats {
        id: 1,
        vcpus: Some(vec![Vcpu::default()]),
        ..HostStats::default()
    };
    let all_host_stats = [(format_uuid(&fake::uuid(b"a")), host_stats)].into();
    client.libvirt.fetch(soon(), all_host_stats).unwrap();
    let state = client.daemon().state();
    let mut received = state.received.iter();
    let call = received
        .find(|call| call.procedure == procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS)
        .unwrap();
    assert_ne!(
        fake::requested_groups(&call.body) & StatsGroup::Vcpu.bit(),
        0
    );
}

#[test]
fn definitions_are_cached() {
    let client = TestClient::new(&["a", "b"]);
    client.fetch();
    client.fetch();
    assert_eq!(
        client
            .daemon()
            .state()
            .calls_to(procedure::REMOTE_PROC_DOMAIN_GET_XML_DESC),
        2
    );
    client.daemon().state().domain("a").title = "new title".to_owned();
    let rest = [0_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    client.daemon().send_event(379, "a", &rest);
    let event_count = || client.fetch().connection.events;
    while event_count() < 1 {}
    let fetched = client.fetch();
    let definition = domain(&fetched, "a").definition.as_ref().unwrap();
    assert_eq!(definition.title.as_deref(), Some("new title"));
    assert_eq!(
        client
            .daemon()
            .state()
            .calls_to(procedure::REMOTE_PROC_DOMAIN_GET_XML_DESC),
        3
    );
}

// Only the first scrape waits, and at most two calls about the domain are pending.
#[test]
fn hung_domain_costs_one_deadline() {
    let client = TestClient::new(&["a", "b", "c", "d", "e", "f"]);
    client.daemon().state().domain("b").is_hung = true;
    let first = client.fetch_until_timeout();
    let second = client.fetch();
    let third = client.fetch();
    for fetched in [&first, &second, &third] {
        assert!(fetched.connection.is_up);
        assert_eq!(names(fetched), ["a", "b", "c", "d", "e", "f"]);
        let (stuck, complete): (Vec<_>, Vec<_>) =
            fetched.domains.iter().partition(|domain| domain.is_stuck);
        assert_eq!(
            complete.iter().filter(|domain| is_complete(domain)).count(),
            5
        );
        let [b] = stuck.as_slice() else {
            panic!("{stuck:?}");
        };
        assert!(b.is_partial && b.name == "b" && b.definition.is_some());
        assert_eq!(b.state, Some(DomainState::Running));
        assert_eq!(b.stats.cpu.time, Some(Duration::from_secs(7)));
        assert_eq!(b.stats.balloon.rss, None);
    }
    assert_eq!(third.connection.abandoned_requests, 1);
    client.daemon().resume_domain("b");
    let fetched = client.fetch();
    assert!(
        fetched
            .domains
            .iter()
            .all(|domain| is_complete(domain) && !domain.is_stuck)
    );
    assert_eq!(fetched.connection.abandoned_requests, 0);
}

#[test]
fn hung_query_is_not_repeated() {
    let client = TestClient::new(&["a", "b"]);
    // Even statistics that need no monitor get no reply.
    let hung_uuid = super::fake::uuid(b"b");
    client.daemon().set_handler(move |call| {
        let is_hung = call.body.windows(16).any(|bytes| bytes == hung_uuid);
        match call.procedure {
            procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS if is_hung => ReplyAction::NoReply,
            _ => ReplyAction::Normal,
        }
    });
    client.fetch_until_timeout();
    let request_count = |client: &TestClient| {
        let state = client.daemon().state();
        let call = state
            .received
            .iter()
            .filter(|call| call.procedure == procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS);
        call.filter(|call| call.body.windows(16).any(|bytes| bytes == hung_uuid))
            .count()
    };
    let first = request_count(&client);
    assert!(first <= 2, "{first}");
    for _ in 0..3 {
        let fetched = client.fetch_until_timeout();
        assert!(domain(&fetched, "b").is_stuck && is_complete(domain(&fetched, "a")));
    }
    assert_eq!(request_count(&client), 2);
    let fetched = client.fetch();
    let b = domain(&fetched, "b");
    assert!(
        b.is_partial && b.state.is_none() && b.id == Some(2),
        "{b:?}"
    );
}

#[test]
fn many_hung_domains_leave_slots_for_others() {
    let all: Vec<_> = (10..40).map(|number| format!("g{number}")).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let client = TestClient::new(&all);
    for domain in &mut client.daemon().state().domains {
        domain.is_hung = domain.name < b"g25".to_vec();
    }
    for _ in 0..4 {
        let fetched = client.fetch_until_timeout();
        assert!(fetched.connection.is_up);
        assert_eq!(fetched.domains.len(), 30);
    }
    let fetched = client.fetch();
    let stuck = fetched
        .domains
        .iter()
        .filter(|domain| domain.is_stuck)
        .count();
    assert_eq!((stuck, fetched.connection.abandoned_requests), (12, 12));
    let has_state = |domain: &Domain| domain.state.is_some() && domain.is_partial;
    assert!(fetched.domains.iter().all(has_state));
    assert_eq!(client.daemon().connections(), 4);
    let state = client.daemon().state();
    assert!(
        state.outstanding.values().all(|count| *count <= 3),
        "{:?}",
        state.outstanding
    );
    assert!(
        state.max_outstanding.values().all(|count| *count <= 4),
        "{:?}",
        state.max_outstanding
    );
    drop(state);
    for name in all.iter().take(15) {
        client.daemon().resume_domain(name);
    }
    let fetched = client.fetch();
    assert!(fetched.domains.iter().all(is_complete));
}

#[test]
fn at_most_four_requests_are_in_flight() {
    let all: Vec<_> = (10..40).map(|number| format!("g{number}")).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let client = TestClient::new(&all);
    client.daemon().state().reply_delay = Duration::from_millis(2);
    for _ in 0..3 {
        let fetched = client.fetch();
        assert!(fetched.domains.iter().all(is_complete));
    }
    let state = client.daemon().state();
    assert!(
        state.max_outstanding.values().all(|count| *count <= 4),
        "{:?}",
        state.max_outstanding
    );
    assert!(
        state.max_outstanding.values().any(|count| *count >= 3),
        "{:?}",
        state.max_outstanding
    );
    assert_eq!(client.daemon().connections(), 2);
}

#[test]
fn missing_stats_of_busy_domain_are_queried_again() {
    let client = TestClient::new(&["a", "b"]);
    client.daemon().state().domain("a").busy_replies = 2;
    let fetched = client.fetch();
    assert!(fetched.domains.iter().all(is_complete));
    assert_eq!(
        client
            .daemon()
            .state()
            .calls_to(procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS),
        4
    );

    client.daemon().state().domain("a").busy_replies = 100;
    let fetched = client.fetch();
    let a = domain(&fetched, "a");
    assert!(a.is_partial && !a.is_stuck && a.state == Some(DomainState::Running));
    assert_eq!(a.stats.disks.first().unwrap().read.requests, None);
    assert!(is_complete(domain(&fetched, "b")));
    assert_eq!(
        client
            .daemon()
            .state()
            .calls_to(procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS),
        8
    );
}

#[test]
fn hung_daemon_costs_one_deadline() {
    let client = TestClient::new(&["a"]);
    client.fetch();
    client.daemon().hang(true);
    // The daemon thread may already be blocked in a read; this suppresses the next reply too.
    client.daemon().set_handler(|_| ReplyAction::NoReply);
    let fetched = client.fetch_until_timeout();
    assert!(!fetched.connection.is_up && fetched.domains.is_empty());
    assert_eq!(fetched.connection.error.as_deref(), Some("timed out"));
    for _ in 0..3 {
        let fetched = client.fetch();
        assert!(!fetched.connection.is_up);
        let error = fetched.connection.error.unwrap();
        assert!(error.starts_with("no reply for "), "{error}");
        assert_eq!(client.libvirt.running().len(), 1);
    }
    assert!(
        client
            .libvirt
            .pools(Instant::now() + Duration::from_millis(300))
            .is_err()
    );
}

#[test]
fn slow_daemon_recovers() {
    let client = TestClient::new(&["a"]);
    let serials = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&serials);
    client.fetch();
    let before = client.daemon().state().received.len();
    client.daemon().set_handler(move |_| {
        // The daemon replies in order, so the first call is answered before any later one.
        count.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(1200));
        ReplyAction::Normal
    });
    assert!(!client.fetch_until_timeout().connection.is_up);
    assert_eq!(client.daemon().state().received.len(), before + 1);
    client
        .daemon()
        .wait_until(|state| state.outstanding[&0] == 0);
    client.daemon().state().decide = None;
    let fetched = client.fetch_until_up();
    assert!(is_complete(domain(&fetched, "a")));
    assert_eq!(client.daemon().connections(), 1);
}

#[test]
fn daemon_hung_at_connect_costs_one_deadline() {
    let socket = socket();
    let daemon = FakeLibvirt::start(&socket, &["a"]);
    daemon.hang(true);
    let client = TestClient::with_daemon(socket, Some(daemon), false);
    assert!(!client.fetch_until_timeout().connection.is_up);
    assert!(!client.fetch().connection.is_up);
    client.daemon().hang(false);
    assert_eq!(names(&client.fetch_until_up()), ["a"]);
}

#[test]
fn reconnects_to_restarted_daemon() {
    let mut client = TestClient::new(&["a", "b"]);
    client.fetch();
    drop(client.daemon.take());
    let fetched = client.fetch();
    assert!(!fetched.connection.is_up && fetched.domains.is_empty());
    let error = fetched.connection.error.unwrap();
    // The socket appears once, although the error passes through several layers.
    let socket = client.socket.display().to_string();
    assert!(error.matches(&socket).count() <= 1, "{error}");
    assert!(!fetched.connection.is_permission_denied);
    assert_eq!(client.libvirt.running().len(), 2);
    client.daemon = Some(FakeLibvirt::start(&client.socket, &["b", "c"]));
    let fetched = client.fetch_until_up();
    assert_eq!(names(&fetched), ["b", "c"]);
    assert_eq!(fetched.connection.connections, 2);
    assert!(fetched.domains.iter().all(is_complete));
}

#[test]
fn missing_libvirt_is_absent_until_it_appears() {
    let client = TestClient::with_daemon(socket(), None, false);
    assert!(matches!(
        client.libvirt.fetch(soon(), HostStatsByUuid::new()),
        Err(Error::NotFound(_))
    ));
    assert!(matches!(
        client.libvirt.pools(soon()),
        Err(Error::NotFound(_))
    ));
    assert!(client.libvirt.running().is_empty());
    let daemon = FakeLibvirt::start(&client.socket, &["a"]);
    let fetched = client.fetch();
    assert_eq!(names(&fetched), ["a"]);
    drop(daemon);
    // It existed before, so it is down rather than absent.
    assert!(!client.fetch().connection.is_up);
}

#[test]
fn missing_configured_socket_is_an_error() {
    let client = TestClient::with_daemon(socket(), None, true);
    let connection = client.fetch().connection;
    assert!(!connection.is_up);
    assert_eq!(connection.error.as_deref(), Some("socket not found"));
    assert!(client.libvirt.networks(soon()).is_err());
}

#[test]
fn polkit_authenticates_a_user() {
    let socket = socket();
    let daemon = FakeLibvirt::start(&socket, &["a"]);
    daemon.state().auths = vec![1, 2];
    let client = TestClient::with_daemon(socket, Some(daemon), true);
    assert!(client.fetch().connection.is_up);
    let state = client.daemon().state();
    let calls: Vec<_> = state.received.iter().map(|call| call.procedure).collect();
    let expected = [
        procedure::REMOTE_PROC_AUTH_LIST,
        procedure::REMOTE_PROC_AUTH_POLKIT,
        procedure::REMOTE_PROC_CONNECT_OPEN,
    ];
    assert!(calls.starts_with(&expected), "{calls:?}");
    // The connection is opened read-only.
    assert!(state.received[2].body.ends_with(&[0, 0, 0, 1]));
}

#[test]
fn permission_denied_is_reported() {
    let socket = socket();
    let daemon = FakeLibvirt::start(&socket, &["a"]);
    daemon.state().auths = vec![2];
    daemon.set_handler(|call| match call.procedure {
        procedure::REMOTE_PROC_AUTH_POLKIT => ReplyAction::Error(45),
        _ => ReplyAction::Normal,
    });
    let client = TestClient::with_daemon(socket, Some(daemon), false);
    let connection = client.fetch().connection;
    let error = connection.error.unwrap();
    assert!(
        !connection.is_up && connection.is_permission_denied && error.ends_with("access denied"),
        "{error}"
    );
    client.daemon().state().auths = vec![1];
    let error = || client.fetch().connection.error.unwrap();
    while error().ends_with("access denied") {}
    assert!(error().ends_with("SASL"), "{}", error());
    client.daemon().state().auths = vec![0];
    let connection = client.fetch_until_up().connection;
    assert!(connection.is_up && !connection.is_permission_denied);
}

#[test]
fn session_daemon_lists_the_users_domains() {
    let socket = socket();
    let daemon = FakeLibvirt::start(&socket, &["a"]);
    daemon.set_handler(|call| {
        let is_system = call.body.windows(7).any(|bytes| bytes == b"/system");
        match call.procedure {
            procedure::REMOTE_PROC_CONNECT_OPEN if is_system => ReplyAction::Error(1),
            _ => ReplyAction::Normal,
        }
    });
    let client = TestClient::with_daemon(socket, Some(daemon), true);
    assert_eq!(names(&client.fetch()), ["a"]);
}

#[test]
fn garbage_closes_only_the_connection() {
    let client = TestClient::new(&["a"]);
    let long = [100_000_000_u32.to_be_bytes().as_slice(), &[0; 64]].concat();
    let short = 27_u32.to_be_bytes().to_vec();
    let other = [32_u32, wire::REMOTE_PROGRAM, 2, 3, 1, 1, 0, 0]
        .map(u32::to_be_bytes)
        .concat();
    for garbage in [long, short, other, b"HTTP/1.1 200 OK\r\n\r\n".to_vec()] {
        client.fetch_until_up();
        let mut garbage = Some(garbage);
        client
            .daemon()
            .set_handler(move |call| match call.procedure {
                procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS => {
                    garbage.take().map_or(ReplyAction::Normal, ReplyAction::Raw)
                }
                _ => ReplyAction::Normal,
            });
        let connection = client.fetch().connection;
        assert!(
            !connection.is_up && connection.error.is_some(),
            "{connection:?}"
        );
    }
    assert!(is_complete(domain(&client.fetch_until_up(), "a")));
}

#[test]
fn truncated_reply_affects_only_its_domain() {
    let client = TestClient::new(&["a", "b"]);
    client.daemon().set_handler(|call| match call.procedure {
        procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS
            if call.body.windows(2).any(|bytes| bytes == b"b\0") =>
        {
            ReplyAction::Truncated(100)
        }
        procedure::REMOTE_PROC_DOMAIN_GET_XML_DESC
            if call.body.windows(2).any(|bytes| bytes == b"a\0") =>
        {
            ReplyAction::Truncated(9)
        }
        _ => ReplyAction::Normal,
    });
    let fetched = client.fetch();
    assert!(is_complete(domain(&fetched, "a")) && domain(&fetched, "a").definition.is_none());
    let b = domain(&fetched, "b");
    assert!(
        b.is_partial && b.state.is_none() && b.definition.is_some(),
        "{b:?}"
    );
    let error = fetched.connection.error.unwrap();
    assert!(error.ends_with("truncated reply"), "{error}");
}

#[test]
fn malformed_list_is_an_error() {
    let client = TestClient::new(&["a"]);
    client.fetch();
    client.daemon().set_handler(|call| match call.procedure {
        procedure::REMOTE_PROC_CONNECT_LIST_ALL_DOMAINS => ReplyAction::Reply(vec![0xff; 400]),
        _ => ReplyAction::Normal,
    });
    let fetched = client.fetch();
    assert!(!fetched.connection.is_up && fetched.domains.is_empty());
    assert_eq!(fetched.connection.error.as_deref(), Some("list too long"));
    client.daemon().state().decide = None;
    assert!(client.fetch().connection.is_up);
}

#[test]
fn domain_that_disappears_after_listing_is_dropped() {
    let client = TestClient::new(&["a", "b", "off"]);
    client.daemon().state().domain("off").id = -1;
    client.daemon().set_handler(|call| match call.procedure {
        procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS
            if call.body.windows(2).any(|bytes| bytes == b"b\0") =>
        {
            ReplyAction::Error(42)
        }
        procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS
            if call.body.windows(3).any(|bytes| bytes == b"off") =>
        {
            ReplyAction::Reply(vec![0; 4])
        }
        procedure::REMOTE_PROC_DOMAIN_GET_XML_DESC
            if call.body.windows(2).any(|bytes| bytes == b"b\0") =>
        {
            ReplyAction::Error(42)
        }
        _ => ReplyAction::Normal,
    });
    let fetched = client.fetch();
    assert_eq!(names(&fetched), ["a"]);
    assert_eq!(fetched.connection.error, None);
}

#[test]
fn domain_names_may_be_arbitrary_bytes() {
    let client = TestClient::new(&["it's \"a\"\nb\\", "x"]);
    client.daemon().state().domain("x").name = b"\xff\xfe".to_vec();
    let fetched = client.fetch();
    assert_eq!(names(&fetched), ["it's \"a\"\nb\\", "\u{fffd}\u{fffd}"]);
    assert!(
        fetched
            .domains
            .iter()
            .all(|domain| is_complete(domain) && domain.definition.is_some())
    );
}

#[test]
fn keepalive_ping_is_answered() {
    let client = TestClient::new(&["a"]);
    client.fetch();
    client
        .daemon()
        .send_message(wire::KEEPALIVE_PROGRAM, wire::KEEPALIVE_PROC_PING, &[]);
    client
        .daemon()
        .send_message(wire::KEEPALIVE_PROGRAM, wire::KEEPALIVE_PROC_PING, &[]);
    client.daemon().wait_until(|state| state.pongs == 2);
    assert!(client.fetch().connection.is_up);
}

#[test]
fn lifecycle_events_are_counted() {
    let client = TestClient::new(&["a", "b"]);
    client.fetch();
    let numbers = |a: u32, b: u32| [a.to_be_bytes(), b.to_be_bytes()].concat();
    let daemon = client.daemon();
    daemon.state().domain("a").id = -1;
    daemon.send_event(318, "a", &numbers(8, 0));
    daemon.send_event(318, "a", &numbers(5, 2));
    let mut error = wire::XdrEncoder::default()
        .put_string(b"/x")
        .put_string(b"virtio-disk3")
        .into_bytes();
    error.extend(numbers(1, 0));
    daemon.send_event(322, "b", &error);
    // Unknown and malformed events are ignored.
    daemon.send_message(wire::REMOTE_PROGRAM, 999, &[1, 2, 3]);
    daemon.send_message(wire::REMOTE_PROGRAM, 318, &[1, 2, 3]);
    while client.fetch().connection.events < 5 {}
    assert_eq!(
        client
            .libvirt
            .running()
            .iter()
            .map(|domain| domain.id)
            .collect::<Vec<_>>(),
        [2]
    );
    daemon.state().domain("a").id = 9;
    daemon.send_event(318, "a", &numbers(2, 0));
    while client.fetch().connection.events < 6 {}
    let fetched = client.fetch();
    let a = domain(&fetched, "a").lifecycle.as_ref().unwrap();
    assert_eq!((a.starts, a.stops, a.crashes), (1, 1, 1));
    let b = domain(&fetched, "b").lifecycle.as_ref().unwrap();
    let errors = [("virtio-disk3".to_owned(), 1)];
    assert_eq!(b.io_errors, Some(errors.into()));
    assert_eq!(domain(&fetched, "a").id, Some(9));
}

#[test]
fn undelivered_events_are_unknown() {
    for (event, has_lifecycle, has_io_errors) in [(0, false, false), (4, true, false)] {
        let socket = socket();
        let daemon = FakeLibvirt::start(&socket, &["a"]);
        let event_bytes = u32::to_be_bytes(event);
        daemon.set_handler(move |call| match call.procedure {
            procedure::REMOTE_PROC_CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY
                if call.body.starts_with(&event_bytes) =>
            {
                ReplyAction::Error(3)
            }
            _ => ReplyAction::Normal,
        });
        let client = TestClient::with_daemon(socket, Some(daemon), true);
        let fetched = client.fetch();
        let lifecycle = &domain(&fetched, "a").lifecycle;
        assert_eq!(lifecycle.is_some(), has_lifecycle);
        let errors = lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.io_errors.as_ref());
        assert_eq!(errors.is_some(), has_io_errors);
        let error = fetched.connection.error.unwrap();
        assert!(error.starts_with(&format!("event {event}: ")), "{error}");
    }
}

#[test]
fn daemon_without_bulk_stats_still_reports_basics() {
    let client = TestClient::new(&["a", "off"]);
    client.daemon().state().domain("off").id = -1;
    client.daemon().set_handler(|call| match call.procedure {
        procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS => ReplyAction::Error(3),
        _ => ReplyAction::Normal,
    });
    for _ in 0..2 {
        let fetched = client.fetch();
        assert_eq!(fetched.connection.error, None);
        let a = domain(&fetched, "a");
        assert_eq!((a.state, a.reason), (Some(DomainState::Running), Some(9)));
        assert_eq!(a.stats.balloon.current, Some(1024 << 10));
        assert_eq!(a.stats.balloon.maximum, Some(2048 << 10));
        assert_eq!(a.stats.vcpu_current, Some(3));
        assert_eq!(a.stats.cpu.time, Some(Duration::from_secs(5)));
        let off = domain(&fetched, "off");
        assert_eq!(
            (off.state, off.stats.cpu.time),
            (Some(DomainState::Shutoff), None)
        );
        let balloon = &off.stats.balloon;
        assert_eq!((balloon.current, balloon.maximum), (None, Some(2048 << 10)));
    }
    let requests = client
        .daemon()
        .state()
        .calls_to(procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS);
    assert!(requests <= 2, "{requests}");
}

#[test]
fn jobs_are_queried_only_if_enabled() {
    let client = TestClient::new(&["a"]);
    assert_eq!(domain(&client.fetch(), "a").job, None);
    let socket = socket();
    let daemon = FakeLibvirt::start(&socket, &["a"]);
    let flags = LibvirtFlags {
        libvirt_jobs: true,
        ..LibvirtFlags::with_all_stats()
    };
    let client = TestClient::with(socket, Some(daemon), true, flags);
    let job = domain(&client.fetch(), "a").job.clone().unwrap();
    assert_eq!(
        (job.kind, job.elapsed),
        (Some(2), Some(Duration::from_secs(1)))
    );
    assert_eq!(job.remaining, None);
    assert_eq!(job.data, [3000, 4000, 5000].map(Some));
    assert_eq!(job.memory, [6000, 7000, 8000].map(Some));
    assert_eq!(job.file, [9000, 10000, 11000].map(Some));
}

#[test]
fn lists_active_and_inactive_pools_and_networks() {
    let client = TestClient::new(&[]);
    client.daemon().state().pools = vec![b"b".to_vec(), b"a-off".to_vec()];
    client.daemon().state().networks = vec![b"n".to_vec(), b"n-off".to_vec()];
    let pools = client.libvirt.pools(soon()).unwrap();
    let [off, on] = pools.as_slice() else {
        panic!("{pools:?}");
    };
    assert_eq!(
        (off.name.as_str(), off.state, off.capacity),
        ("a-off", Some(0), None)
    );
    assert_eq!((on.name.as_str(), on.state), ("b", Some(2)));
    assert_eq!(
        (on.capacity, on.allocation, on.available),
        (Some(30), Some(10), Some(20))
    );
    let networks = client.libvirt.networks(soon()).unwrap();
    let [on, off] = networks.as_slice() else {
        panic!("{networks:?}");
    };
    assert_eq!(
        (on.is_active, on.bridge.as_deref()),
        (Some(true), Some("virbr0"))
    );
    assert_eq!((off.is_active, off.bridge.as_deref()), (Some(false), None));

    client.daemon().set_handler(|_| ReplyAction::Error(3));
    assert!(client.libvirt.pools(soon()).unwrap().is_empty());
    assert!(client.libvirt.networks(soon()).unwrap().is_empty());
}

#[test]
fn malformed_pool_does_not_affect_others() {
    let client = TestClient::new(&[]);
    client.daemon().state().pools = vec![b"a".to_vec(), b"b".to_vec()];
    let malformed_uuid = super::fake::uuid(b"a");
    client
        .daemon()
        .set_handler(move |call| match call.procedure {
            procedure::REMOTE_PROC_STORAGE_POOL_GET_INFO
                if call.body.ends_with(&malformed_uuid) =>
            {
                ReplyAction::Truncated(9)
            }
            _ => ReplyAction::Normal,
        });
    let pools = client.libvirt.pools(soon()).unwrap();
    let infos: Vec<_> = pools
        .iter()
        .map(|pool| (pool.state, pool.capacity))
        .collect();
    assert_eq!(infos, [(None, None), (Some(2), Some(30))]);
}

#[test]
fn hung_pool_is_queried_once_and_delays_no_other() {
    let client = TestClient::new(&["g"]);
    client.daemon().state().pools = vec![b"a".to_vec(), b"b".to_vec()];
    let hung_uuid = super::fake::uuid(b"a");
    client
        .daemon()
        .set_handler(move |call| match call.procedure {
            procedure::REMOTE_PROC_STORAGE_POOL_GET_INFO if call.body.ends_with(&hung_uuid) => {
                ReplyAction::NoReply
            }
            _ => ReplyAction::Normal,
        });
    for _ in 0..4 {
        let pools = client
            .libvirt
            .pools(Instant::now() + Duration::from_millis(800));
        let pools = pools.unwrap();
        let infos: Vec<_> = pools
            .iter()
            .map(|pool| (pool.timed_out, pool.capacity))
            .collect();
        assert_eq!(infos, [(true, None), (false, Some(30))]);
    }
    assert_eq!(
        client
            .daemon()
            .state()
            .calls_to(procedure::REMOTE_PROC_STORAGE_POOL_GET_INFO),
        5
    );
    assert!(is_complete(domain(&client.fetch(), "g")));
}

#[test]
fn fetch_before_start_is_not_found() {
    let libvirt = Libvirt::new(LibvirtFlags::with_all_stats(), Path::new("/"));
    assert!(matches!(
        libvirt.fetch(soon(), HostStatsByUuid::new()),
        Err(Error::NotFound(_))
    ));
}

#[cfg(not(feature = "virt"))]
#[test]
fn remote_uri_requires_feature_virt() {
    let flags = LibvirtFlags {
        libvirt_uri: Some("qemu+ssh://host/system".to_owned()),
        ..LibvirtFlags::with_all_stats()
    };
    let error = Libvirt::new(flags, Path::new("/"))
        .fetch(soon(), HostStatsByUuid::new())
        .unwrap_err();
    assert!(error.to_string().contains("--features virt"), "{error}");
}
