//! Tests with libvirt's built-in test driver, which needs no daemon and has no statistics but the
//! state.

#![allow(clippy::disallowed_methods, reason = "tests write plain files")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use super::*;
use crate::sources::libvirt::{
    CpuTimes, DomainStats, HostStatsByUuid, InterfaceTraffic, Libvirt, LibvirtFlags,
};

const ALL: [StatsGroup; 6] = [
    StatsGroup::State,
    StatsGroup::Cpu,
    StatsGroup::Balloon,
    StatsGroup::Vcpu,
    StatsGroup::Interface,
    StatsGroup::Block,
];

/// A host of libvirt's test driver.
const NODE_XML: &str = r#"<node>
  <domain type='test'>
    <name>a &quot;b&quot;</name>
    <uuid>65264178-ac37-5d9a-9d66-bc590fddde8d</uuid>
    <title>the first</title>
    <metadata>
      <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
        <nova:flavor name="m1.tiny"/>
      </nova:instance>
    </metadata>
    <memory>2048</memory><currentMemory>1024</currentMemory><vcpu current='1'>3</vcpu>
    <os><type>hvm</type></os>
    <devices>
      <disk type='file'><source file='/nowhere/a'/><target dev='vda' bus='virtio'/></disk>
      <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>
      <interface type='ethernet'><target dev='tap7'/></interface>
      <interface type='user'/>
    </devices>
  </domain>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <test:runstate>5</test:runstate>
    <name>off</name><uuid>9f34cc98-e9cf-5e3d-949a-80c6c17c9c8e</uuid>
    <memory>4096</memory><os><type>hvm</type></os>
    <devices>
      <disk type='file'><source file='/nowhere/b'/><target dev='vda' bus='virtio'/></disk>
    </devices>
  </domain>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <test:runstate>3</test:runstate>
    <name>asleep</name><uuid>08703303-8a0e-578b-bf0e-f39e6e97a185</uuid>
    <memory>4096</memory><os><type>hvm</type></os>
  </domain>
  <network>
    <name>private</name><uuid>004b96e1-2d78-c30f-5aa5-f03c87d21e69</uuid>
    <bridge name='virbr7'/><ip address='192.168.7.1' netmask='255.255.255.0'/>
  </network>
  <pool type='dir'>
    <name>disks</name><uuid>35bb2ad9-388a-cdfe-461a-b8907f6e53fe</uuid>
    <target><path>/nowhere</path></target>
  </pool>
</node>"#;

struct TestNode(PathBuf);

impl TestNode {
    fn new(name: &str, xml: &str) -> Self {
        let path = env::temp_dir().join(format!("strata-virt-{name}-{}.xml", process::id()));
        fs::write(&path, xml).unwrap();
        Self(path)
    }

    fn virt(&self) -> Virt {
        virt(&format!("test://{}", self.0.display()))
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

fn virt(uri: &str) -> Virt {
    Virt::new(uri, &ALL, true).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn domain(name: &str) -> Domain {
    Domain {
        name: name.to_owned(),
        ..Domain::default()
    }
}

#[test]
fn driver_without_bulk_stats_is_queried_per_device() {
    let virt = virt("test:///default");
    let fetched = virt.fetch(soon());
    let connection = &fetched.connection;
    assert_eq!(
        (connection.is_up, connection.error.as_deref()),
        (true, None)
    );
    assert_eq!(
        (connection.connections, connection.abandoned_requests),
        (1, 0)
    );
    let versions = connection.versions.as_ref().unwrap();
    assert_eq!(versions.driver, "TEST");
    assert_eq!(versions.daemon.split('.').count(), 3, "{versions:?}");
    let [domain] = &fetched.domains[..] else {
        panic!("{:?}", fetched.domains);
    };
    assert_eq!((&*domain.name, domain.id), ("test", Some(1)));
    assert_eq!(domain.uuid, "6695eb01-f6a4-8304-79aa-97f2502e193f");
    assert_eq!(
        (domain.state, domain.reason),
        (Some(DomainState::Running), Some(0))
    );
    assert_eq!((domain.is_partial, domain.is_stuck), (false, false));
    assert!(domain.response_time.is_some());
    let DomainStats { cpu, balloon, .. } = &domain.stats;
    assert!(
        cpu.time > cpu.user && cpu.user > Some(Duration::ZERO),
        "{cpu:?}"
    );
    assert!(cpu.system > Some(Duration::ZERO), "{cpu:?}");
    assert_eq!(balloon.current, Some(2 << 30));
    assert_eq!(balloon.maximum, Some(8 << 30));
    assert_eq!(balloon.rss, Some(1 << 30));
    assert_eq!(balloon.disk_caches, Some(1 << 28));
    assert!(balloon.last_update > Some(Duration::from_secs(1)));
    assert_eq!(
        (domain.stats.vcpu_current, domain.stats.vcpu_maximum),
        (Some(2), Some(2))
    );
    let [disk] = &domain.stats.disks[..] else {
        panic!("{:?}", domain.stats.disks);
    };
    assert_eq!(
        (&*disk.name, disk.path.as_deref()),
        ("vda", Some("/guest/diskimage1"))
    );
    assert!(disk.read.requests > disk.written.requests, "{disk:?}");
    assert!(
        disk.read.bytes > disk.written.bytes && disk.errors > Some(0),
        "{disk:?}"
    );
    let [interface] = &domain.stats.interfaces[..] else {
        panic!("{:?}", domain.stats.interfaces);
    };
    assert_eq!(interface.name, "testnet0");
    let (received, sent) = (interface.received, interface.sent);
    assert!(
        received.bytes > sent.bytes && sent.bytes > Some(0),
        "{interface:?}"
    );
    assert!(
        received.packets > sent.packets && sent.packets > Some(0),
        "{interface:?}"
    );
    assert!(
        received.errors > received.drops && received.drops > sent.drops,
        "{interface:?}"
    );
    assert!(
        sent.errors > sent.drops && sent.drops > Some(0),
        "{interface:?}"
    );
    assert_eq!(domain.job, None, "the driver has none");
}

#[test]
fn domains_have_their_own_state_and_stats() {
    let node = TestNode::new("three", NODE_XML);
    let fetched = node.virt().fetch(soon());
    assert_eq!(fetched.connection.error, None);
    let [first, asleep, off] = &fetched.domains[..] else {
        panic!("{:?}", fetched.domains);
    };
    assert_eq!(
        (&*first.name, &*asleep.name, &*off.name),
        ("a \"b\"", "asleep", "off")
    );
    let states = [first, asleep, off].map(|domain| domain.state);
    let expected = [
        DomainState::Running,
        DomainState::Paused,
        DomainState::Shutoff,
    ];
    assert_eq!(states, expected.map(Some));
    assert_eq!(off.id, None);

    let definition = first.definition.as_ref().unwrap();
    assert_eq!(definition.title.as_deref(), Some("the first"));
    let flavor = definition
        .nova
        .as_ref()
        .and_then(|nova| nova.flavor.as_deref());
    assert_eq!(flavor, Some("m1.tiny"));
    let first_stats = &first.stats;
    assert_eq!(first_stats.balloon.current, Some(1 << 20));
    assert_eq!(first_stats.balloon.maximum, Some(2 << 20));
    assert_eq!(first_stats.balloon.rss, None);
    assert_eq!(
        (first_stats.vcpu_current, first_stats.vcpu_maximum),
        (Some(1), Some(3))
    );
    let disks: Vec<_> = first_stats.disks.iter().map(|disk| &*disk.name).collect();
    assert_eq!(disks, ["vda", "hdc"]);
    let sizes = [0, 1].map(|disk: usize| first_stats.disks[disk].capacity.is_some());
    assert_eq!(sizes, [true, false], "the second has no medium");
    let names: Vec<_> = first_stats
        .interfaces
        .iter()
        .map(|interface| &*interface.name)
        .collect();
    let targets: Vec<_> = definition
        .interfaces
        .iter()
        .filter_map(|interface| interface.target.as_deref())
        .collect();
    assert_eq!(names, targets);
    assert_ne!(
        first_stats.interfaces[0].received,
        InterfaceTraffic::default()
    );

    assert_eq!(off.stats.cpu, CpuTimes::default());
    assert_eq!(off.stats.balloon.current, None);
    assert_eq!(off.stats.balloon.maximum, Some(4 << 20));
    assert_eq!(off.stats.disks[0].read.requests, None);
}

#[test]
fn remote_domains_are_not_reported_as_running_here() {
    let flags = LibvirtFlags {
        libvirt_uri: Some("test:///default".to_owned()),
        ..LibvirtFlags::default()
    };
    let libvirt = Libvirt::new(flags, Path::new("/"));
    let fetched = libvirt.fetch(soon(), HostStatsByUuid::new()).unwrap();
    assert!(fetched.domains[0].id.is_some());
    assert!(libvirt.running().is_empty());
}

#[test]
fn groups_that_are_not_selected_are_unknown() {
    let virt = Virt::new("test:///default", &[StatsGroup::Cpu], false).unwrap();
    let domain = virt.fetch(soon()).domains.remove(0);
    assert_eq!(domain.state, Some(DomainState::Running));
    assert!(domain.stats.cpu.time.is_some());
    let others = DomainStats {
        cpu: domain.stats.cpu,
        ..DomainStats::default()
    };
    assert_eq!(domain.stats, others);
}

#[test]
fn lists_pools_and_networks() {
    let node = TestNode::new("storage", NODE_XML);
    let virt = node.virt();
    let [pool] = &virt.pools(soon()).unwrap()[..] else {
        panic!("expected one pool");
    };
    assert_eq!(
        (&*pool.name, pool.state, pool.timed_out),
        ("disks", Some(2), false)
    );
    let (capacity, allocation) = (pool.capacity.unwrap(), pool.allocation.unwrap());
    assert_eq!(pool.available, Some(capacity - allocation));
    let network = VirtualNetwork {
        name: "private".to_owned(),
        uuid: "004b96e1-2d78-c30f-5aa5-f03c87d21e69".to_owned(),
        is_active: Some(true),
        bridge: Some("virbr7".to_owned()),
    };
    assert_eq!(virt.networks(soon()).unwrap(), [network]);
}

#[test]
fn failed_connect_is_reported_and_not_retried_at_once() {
    let virt = virt("test:///nowhere/at/all.xml");
    let first = virt.fetch(soon()).connection;
    assert!(!first.is_up);
    let reason = first.error.unwrap();
    assert!(reason.contains("/nowhere/at/all.xml"), "{reason}");
    let again = virt.fetch(soon()).connection;
    assert_eq!((again.is_up, again.error), (false, Some(reason.clone())));
    assert_eq!(again.connections, 0);
    let error = virt.pools(soon()).unwrap_err().to_string();
    assert_eq!(error, format!("libvirt: {reason}"));
}

#[test]
fn connects_once_libvirt_becomes_available() {
    let node = TestNode::new("later", NODE_XML);
    fs::remove_file(&node.0).unwrap();
    let virt = node.virt();
    assert!(!virt.fetch(soon()).connection.is_up);
    fs::write(&node.0, NODE_XML).unwrap();
    let mut attempts = 0..100;
    while !virt.fetch(soon()).connection.is_up {
        attempts.next().expect("libvirt found");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Starts a task that hangs until the returned sender is dropped.
fn start_hanging_task(virt: &Virt, uuid: Option<&'static str>) -> mpsc::Sender<()> {
    let turn = virt.domains.turn(soon()).unwrap();
    let (worker, _) = turn.engage(|| virt.new_connection()).unwrap();
    let ((release, released), (started_tx, started_rx)) = (mpsc::channel::<()>(), mpsc::channel());
    let task = move |_: &mut LibraryConnection, doing: &Doing| {
        if let Some(uuid) = uuid {
            doing.asks_about(uuid);
        }
        started_tx.send(()).unwrap();
        released.recv().unwrap_err();
    };
    worker.begin(task, drop);
    started_rx.recv().unwrap();
    release
}

#[test]
fn hung_domain_does_not_affect_others() {
    let node = TestNode::new("hangs", NODE_XML);
    let virt = node.virt();
    let release = start_hanging_task(&virt, Some("08703303-8a0e-578b-bf0e-f39e6e97a185"));
    let fetched = virt.fetch(soon());
    assert!(fetched.connection.is_up);
    assert_eq!(fetched.connection.abandoned_requests, 1);
    let [first, asleep, off] = &fetched.domains[..] else {
        panic!("{:?}", fetched.domains);
    };
    assert_eq!(
        (asleep.is_stuck, asleep.is_partial, asleep.state),
        (true, true, Some(DomainState::Paused))
    );
    assert_eq!(
        (first.is_stuck, first.is_partial, first.state),
        (false, false, Some(DomainState::Running))
    );
    assert_eq!(off.state, Some(DomainState::Shutoff));
    // With two hung threads the domain is not queried a third time.
    let again = start_hanging_task(&virt, Some("08703303-8a0e-578b-bf0e-f39e6e97a185"));
    let asleep = virt.fetch(soon()).domains.remove(1);
    assert_eq!((asleep.is_stuck, asleep.state), (true, None));
    drop((release, again));
    let mut attempts = 0..100;
    while virt.domains.stuck() > 0 {
        attempts.next().expect("no stuck calls");
        std::thread::sleep(Duration::from_millis(100));
    }
    let fetched = virt.fetch(soon());
    assert!(
        fetched
            .domains
            .iter()
            .all(|domain| !domain.is_stuck && !domain.is_partial)
    );
    assert_eq!(fetched.connection.abandoned_requests, 0);
}

#[test]
fn hung_daemon_is_not_waited_for_twice() {
    let virt = virt("test:///default");
    let release = start_hanging_task(&virt, None);
    // The deadline is an hour away: either the error is returned at once or the test hangs.
    let fetched = virt.fetch(Instant::now() + Duration::from_secs(3600));
    assert!(!fetched.connection.is_up && fetched.domains.is_empty());
    let error = fetched.connection.error.unwrap();
    assert!(error.starts_with("no answer for "), "{error}");
    assert!(virt.pools(soon()).is_ok(), "pools have their own threads");
    drop(release);
}

#[test]
fn number_of_hung_threads_is_limited() {
    let virt = virt("test:///default");
    let hung = ["a", "b", "c", "d"].map(|uuid| start_hanging_task(&virt, Some(uuid)));
    let fetched = virt.fetch(soon());
    assert!(!fetched.connection.is_up);
    assert_eq!(
        fetched.connection.error.as_deref(),
        Some("no answer about 4 domains")
    );
    assert_eq!(fetched.connection.abandoned_requests, 4);
    drop(hung);
}

#[test]
fn panicked_thread_is_replaced() {
    let virt = virt("test:///default");
    let turn = virt.domains.turn(soon()).unwrap();
    let (worker, _) = turn.engage(|| virt.new_connection()).unwrap();
    let failed = run_task::<Domain>(&worker, soon(), |_, _, _| panic!("test panic"));
    assert_eq!(failed.err().as_deref(), Some("timed out"));
    drop(turn);
    let mut attempts = 0..100;
    while !virt.fetch(soon()).connection.is_up {
        attempts.next().expect("thread replaced");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn concurrent_scrapes_take_turns() {
    let virt = virt("test:///default");
    let turn = virt.domains.turn(soon()).unwrap();
    let late = virt.fetch(Instant::now());
    assert_eq!(
        late.connection.error.as_deref(),
        Some("another scrape is still in progress")
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| virt.fetch(soon()));
        drop(turn);
        assert!(waiting.join().unwrap().connection.is_up);
    });
}

#[test]
fn results_before_the_deadline_are_kept() {
    let (sender, receiver) = mpsc::channel();
    let send = |message| sender.send(message).unwrap();
    send(WorkerMessage::Listed(
        vec![domain("a"), domain("b"), domain("c")],
        None,
    ));
    send(WorkerMessage::Details(2, None));
    let details = Domain {
        state: Some(DomainState::Running),
        ..domain("a")
    };
    send(WorkerMessage::Details(0, Some(Box::new(details))));
    let results = collect_results(&receiver, Instant::now())
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(results.has_details, [true, false, true]);
    assert_eq!(results.listed[0].state, Some(DomainState::Running));
    assert_eq!(results.gone, HashSet::from([2]));
    assert!(
        collect_results(&receiver, Instant::now()).is_none(),
        "no list"
    );
}

#[test]
fn changed_id_counts_as_restart() {
    let observed = |id, state, reason| Domain {
        id,
        state: Some(state),
        reason: Some(reason),
        ..domain("a")
    };
    let observations = [
        (observed(Some(1), DomainState::Running, 1), [0, 0, 0]),
        (observed(Some(1), DomainState::Paused, 1), [0, 0, 0]),
        (observed(Some(4), DomainState::Running, 1), [1, 1, 0]),
        (observed(None, DomainState::Shutoff, 3), [1, 2, 1]),
        (observed(None, DomainState::Shutoff, 3), [1, 2, 1]),
        (observed(Some(5), DomainState::Running, 1), [2, 2, 1]),
        (observed(Some(5), DomainState::Crashed, 0), [2, 2, 2]),
        (
            Domain {
                id: Some(5),
                ..domain("a")
            },
            [2, 2, 2],
        ),
        (observed(Some(5), DomainState::Crashed, 0), [2, 2, 2]),
    ];
    let mut last_seen = None;
    for (domain, expected) in observations {
        let now = update_lifecycle(last_seen, &domain);
        let LifecycleCounts {
            starts,
            stops,
            crashes,
            ..
        } = now.lifecycle;
        assert_eq!([starts, stops, crashes], expected, "{domain:?}");
        last_seen = Some(now);
    }
}
