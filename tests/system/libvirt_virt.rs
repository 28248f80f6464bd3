//! The `virt` feature, which uses libvirt's library, and a build without it.

use std::fs;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strata_exporter");

#[test]
fn library_is_linked_only_with_the_feature() {
    let program = fs::read(PROGRAM).unwrap();
    let is_linked = program.windows(10).any(|bytes| bytes == b"libvirt.so");
    assert_eq!(is_linked, cfg!(feature = "virt"));
}

#[cfg(not(feature = "virt"))]
#[test]
fn uri_that_needs_the_library_is_a_startup_error() {
    for uri in ["test:///default", "qemu+ssh://host/system"] {
        let mut program = std::process::Command::new(PROGRAM);
        program.arg(format!("--libvirt.uri={uri}"));
        let ended = program.output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        let reason = format!("--libvirt.uri: {uri} needs a build with --features virt");
        assert_eq!(stderr, format!("strata_exporter: {reason}\n"));
        assert_eq!(ended.status.code(), Some(2));
    }
}

#[cfg(feature = "virt")]
mod with {
    use std::{
        path::Path,
        sync::Arc,
        time::{Duration, Instant},
    };

    use strata_exporter::sources::libvirt::{
        CpuTimes, Domain, DomainState, DomainStats, FetchResult, HostStatsByUuid, Libvirt,
        LibvirtFlags, StatsGroup,
    };
    use tokio::runtime::Runtime;

    use crate::support::{
        libvirt_daemon::LibvirtDaemon,
        server_process::{ServerProcess, TempDir, wait_until},
        skip,
    };

    #[test]
    fn driver_in_the_library_is_scraped() {
        let scratch = TempDir::new("virt-scraped");
        let flags = [
            "--collector.disable-defaults",
            "--collector.libvirt",
            "--libvirt.uri=test:///default",
        ];
        let ours = ServerProcess::start_exporter(&flags.map(str::to_owned), &scratch.0);
        let metrics = ours.metrics_text();
        let has = |line: &str| assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
        has("libvirt_up 1");
        has("libvirt_domains 1");
        has(r#"libvirt_domain_info_vstate{domain="test"} 1"#);
    }

    /// Defines a domain that finds nothing to boot on its disks.
    fn define(daemon: &LibvirtDaemon, name: &str, number: u32) {
        let mut disks = String::new();
        for disk in ["vda", "vdb"] {
            let path = daemon.create_disk_image(&format!("{name}-{disk}"), "qcow2", 32);
            disks += &format!(
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
                 <source file='{path}'/><target dev='{disk}' bus='virtio'/></disk>"
            );
        }
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><title>guest {number}</title>\
             <memory unit='MiB'>64</memory><vcpu current='1'>2</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{disks}\
             <disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>\
             <interface type='ethernet'><target dev='guest{number}'/>\
             <model type='virtio'/></interface><interface type='user'/>\
             <controller type='usb' model='none'/>\
             <memballoon model='virtio'><stats period='1'/></memballoon>\
             </devices></domain>"
        );
        daemon.define_domain(name, &xml);
    }

    fn libvirt(uri: &str, runtime: &Runtime) -> Arc<Libvirt> {
        use StatsGroup::{Balloon, Block, Cpu, Dirtyrate, Interface, Iothread, State, Vcpu, Vm};
        let flags = LibvirtFlags {
            libvirt_uri: Some(uri.to_owned()),
            libvirt_stats: vec![
                State, Cpu, Balloon, Vcpu, Interface, Block, Iothread, Vm, Dirtyrate,
            ],
            libvirt_jobs: true,
        };
        let libvirt = Arc::new(Libvirt::new(flags, Path::new("/")));
        libvirt.check().unwrap();
        let _entered = runtime.enter();
        libvirt.start();
        libvirt
    }

    fn fetch(libvirt: &Libvirt) -> FetchResult {
        let fetched = libvirt.fetch(
            Instant::now() + Duration::from_secs(30),
            HostStatsByUuid::new(),
        );
        let fetched = fetched.unwrap();
        assert!(fetched.connection.is_up, "{:?}", fetched.connection);
        assert_eq!(fetched.connection.error, None);
        fetched
    }

    #[test]
    fn both_clients_return_the_same_domains() {
        let daemon = match LibvirtDaemon::start("virt-same") {
            Ok(daemon) => daemon,
            Err(what) => return skip(what),
        };
        for (number, name) in (0..).zip(["a \"b\"", "never-ran", "off"]) {
            define(&daemon, name, number);
        }
        daemon.virsh(&["start", "a \"b\""]).unwrap();
        daemon.virsh(&["start", "--paused", "never-ran"]).unwrap();
        wait_until("reads of the disk", || {
            let counted = daemon.virsh(&["domblkstat", "a \"b\"", "vda", "--human"]);
            let counted = counted.unwrap();
            let reads = counted
                .lines()
                .find(|line| line.contains("read operations"))?;
            (!reads.trim_end().ends_with(" 0")).then_some(())
        });
        // From here on its statistics do not change.
        daemon.virsh(&["suspend", "a \"b\""]).unwrap();

        let runtime = Runtime::new().unwrap();
        let socket = daemon.socket("libvirt-sock-ro").display().to_string();
        let ours = libvirt(&socket, &runtime);
        // Only the library accepts the transport in capitals.
        let theirs = libvirt(&format!("qemu+UNIX:///system?socket={socket}"), &runtime);
        let (first, between, last) = (fetch(&ours), fetch(&theirs), fetch(&ours));
        assert_eq!(first.connection.versions, between.connection.versions);
        let names = |fetched: &FetchResult| -> Vec<_> {
            let domains = fetched.domains.iter();
            domains.map(|domain| domain.name.clone()).collect()
        };
        assert_eq!(names(&between), ["a \"b\"", "never-ran", "off"]);
        let pairs = first.domains.iter().zip(&last.domains);
        for ((first, last), between) in pairs.zip(&between.domains) {
            same(first, between, last);
        }
        let [ran, never_ran, off] = &between.domains[..] else {
            panic!("{:?}", between.domains);
        };
        let states = [ran, never_ran, off].map(|domain| domain.state);
        let expected = [
            DomainState::Paused,
            DomainState::Paused,
            DomainState::Shutoff,
        ];
        assert_eq!(states, expected.map(Some));
        assert!(ran.stats.disks[0].read.requests > Some(0));
        assert_eq!(off.stats.disks[0].read.requests, None);
        assert!(ran.stats.balloon.rss > Some(0) && ran.stats.cpu.user.is_some());

        let soon = || Instant::now() + Duration::from_secs(30);
        assert_eq!(ours.pools(soon()).unwrap(), theirs.pools(soon()).unwrap());
        assert_eq!(
            ours.networks(soon()).unwrap(),
            theirs.networks(soon()).unwrap()
        );
    }

    /// Counters in between must lie between the first and the last; constant values must be equal.
    fn same(first: &Domain, between: &Domain, last: &Domain) {
        let times = |domain: &Domain| {
            let CpuTimes { time, user, system } = domain.stats.cpu;
            let vcpus = domain.stats.vcpus.iter();
            let vcpus = vcpus.flat_map(|vcpu| [vcpu.time, vcpu.wait, vcpu.delay]);
            let rss = domain.stats.balloon.rss.map(Duration::from_nanos);
            vcpus.chain([time, user, system, rss]).collect::<Vec<_>>()
        };
        let (low, middle, high) = (times(first), times(between), times(last));
        assert_eq!(low.len(), middle.len(), "{}", first.name);
        for ((low, middle), high) in low.iter().zip(&middle).zip(&high) {
            assert!(
                low <= middle && middle <= high,
                "{low:?} {middle:?} {high:?}"
            );
            assert_eq!(low.is_some(), high.is_some());
        }
        let still = |domain: &Domain| {
            let mut used = domain.stats.clone();
            used.cpu = CpuTimes::default();
            used.balloon.rss = None;
            for vcpu in &mut used.vcpus {
                (vcpu.time, vcpu.wait, vcpu.delay) = (None, None, None);
            }
            DomainStats { ..used }
        };
        assert_eq!(still(first), still(between), "{}", first.name);
        let identity = |domain: &Domain| (domain.name.clone(), domain.uuid.clone(), domain.id);
        assert_eq!(identity(first), identity(between));
        let what = |domain: &Domain| (domain.state, domain.reason, domain.job.clone());
        assert_eq!(what(first), what(between), "{}", first.name);
        let health = |domain: &Domain| (domain.is_partial, domain.is_stuck);
        assert_eq!(
            (health(first), health(between)),
            ((false, false), (false, false))
        );
        assert_eq!(first.definition, between.definition, "{}", first.name);
        assert!(first.definition.is_some());
    }
}
