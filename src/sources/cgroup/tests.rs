//! Tests on whole hosts: version 1 with separate and joint mounts, hybrid, version 2, and the test
//! host.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path};

use super::{testing::TempTree, *};

/// Returns a reader of a tree, with its own descriptor limits or the default ones.
fn open_cgroups(tree: &TempTree, limits: Option<DescriptorLimits>) -> CgroupReader {
    let mut cgroups = CgroupReader::new(&tree.roots());
    cgroups.limits = limits.unwrap_or(cgroups.limits);
    cgroups
}

fn group(cgroups: &CgroupReader, path: &str) -> Arc<Cgroup> {
    let groups = cgroups.walk(|candidate| candidate == path).unwrap();
    assert_eq!(groups.len(), 1, "{path}");
    Arc::clone(&groups[0])
}

fn paths(groups: &[Arc<Cgroup>]) -> Vec<&str> {
    groups.iter().map(|group| group.path()).collect()
}

#[expect(clippy::unnecessary_wraps)]
fn micros(n: u64) -> Option<Duration> {
    Some(Duration::from_micros(n))
}

#[expect(clippy::unnecessary_wraps)]
fn nanos(n: u64) -> Option<Duration> {
    Some(Duration::from_nanos(n))
}

/// Controllers mounted separately, plus a unified hierarchy.
fn hybrid(name: &str) -> TempTree {
    let tree = TempTree::new(name);
    tree.write_files(
        "sys/fs/cgroup",
        "unified/cgroup.controllers: \n\
         unified/docker/a/cpu.pressure: some avg10=0 total=7; full avg10=0 total=8\n\
         unified/docker/a/memory.pressure: some total=9; full total=10\n\
         unified/docker/a/io.pressure: some total=11; full total=12\n\
         cpu/docker/a/cpu.cfs_quota_us: 50000\n\
         cpu/docker/a/cpu.cfs_period_us: 100000\n\
         cpu/docker/a/cpu.shares: 512\n\
         cpu/docker/a/cpu.stat: nr_periods 10; nr_throttled 4; throttled_time 5\n\
         cpu/docker/b/cpu.cfs_quota_us: -1\n\
         cpu/docker/b/cpu.cfs_period_us: 100000\n\
         cpu/docker/b/cpu.shares: 1024\n\
         cpu/docker/b/cpu.stat: nr_periods 0; nr_throttled 0; throttled_time 0\n\
         cpuacct/docker/a/cpuacct.usage: 13\n\
         cpuacct/docker/a/cpuacct.usage_percpu: 6 7 \n\
         cpuacct/docker/b/cpuacct.usage: 14\n\
         memory/docker/a/memory.usage_in_bytes: 100\n\
         memory/docker/a/memory.max_usage_in_bytes: 101\n\
         memory/docker/a/memory.failcnt: 2\n\
         memory/docker/a/memory.kmem.usage_in_bytes: 3\n\
         memory/docker/a/memory.stat: pgfault 4; total_inactive_file 30; total_rss 5\n\
         memory/docker/a/memory.oom_control: under_oom 0; oom_kill 6\n\
         memory/docker/a/memory.limit_in_bytes: 200\n\
         memory/docker/a/memory.soft_limit_in_bytes: 9223372036854771712\n\
         memory/docker/a/cgroup.procs: 41; 42\n\
         memory/docker/b/memory.usage_in_bytes: 102\n\
         memory/docker/b/memory.stat: total_rss 6\n\
         pids/docker/a/pids.current: 3\n\
         pids/docker/a/pids.max: max\n\
         hugetlb/docker/a/hugetlb.2MB.usage_in_bytes: 4096\n\
         hugetlb/docker/a/hugetlb.2MB.max_usage_in_bytes: 8192\n\
         hugetlb/docker/a/hugetlb.2MB.failcnt: 1\n\
         blkio/blkio.throttle.io_service_bytes_recursive: 254:0 Read 99; Total 99\n\
         blkio/blkio.bfq.io_service_bytes_recursive: Total 0\n\
         blkio/docker/a/blkio.throttle.io_service_bytes_recursive: 254:0 Read 9; Total 9\n\
         blkio/docker/a/blkio.throttle.io_serviced_recursive: 254:0 Read 2; Total 2\n",
    );
    tree.write(
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "0\n",
    );
    tree
}

#[test]
fn hybrid_host_reports_all_fields_that_exist() {
    let tree = hybrid("hybrid");
    // With cached directory descriptors, and without any.
    for descriptor_limits in [None, Some(DescriptorLimits { dirs: 0, files: 0 })] {
        let cgroups = open_cgroups(&tree, descriptor_limits);
        assert_eq!(cgroups.version().unwrap(), CgroupVersion::Hybrid);
        let a = group(&cgroups, "/docker/a");
        let cpu = a.cpu().unwrap();
        assert_eq!((cpu.usage, cpu.user), (nanos(13), None));
        let throttling = cpu.throttling.unwrap();
        assert_eq!(
            (throttling.periods, throttling.throttled, throttling.burst),
            (Some(10), nanos(5), None)
        );
        let by_number = a.percpu_usage().unwrap();
        assert_eq!(by_number[1], (1, Duration::from_nanos(7)));
        let limits = a.cpu_limits().unwrap();
        assert_eq!(
            (limits.period, limits.quota, limits.shares),
            (micros(100_000), micros(50_000), Some(512))
        );
        let memory = a.memory().unwrap();
        let expected = CgroupMemory {
            usage: Some(100),
            max_usage: Some(101),
            failcnt: Some(2),
            kernel: Some(3),
            own_pgfault: Some(4),
            inactive_file: Some(30),
            rss: Some(5),
            oom_kills: Some(6),
            ..CgroupMemory::default()
        };
        assert_eq!(memory, expected);
        assert_eq!(memory.working_set(), Some(70));
        let limits = a.memory_limits().unwrap();
        assert_eq!(
            (limits.limit, limits.swap_limit, limits.reservation),
            (Some(Some(200)), None, Some(None))
        );
        let pids = a.pids().unwrap();
        assert_eq!((pids.current, pids.max), (Some(3), Some(None)));
        assert_eq!(a.processes().unwrap(), [41, 42]);
        let pressure = a.pressure().unwrap();
        assert_eq!(pressure.cpu.unwrap().full, micros(8));
        assert_eq!(pressure.memory.unwrap().some, micros(9));
        assert_eq!(pressure.io.unwrap().full, micros(12));
        let io = a.block_io().unwrap();
        assert_eq!(io.is_accounted, Some(true));
        assert_eq!(io.devices.len(), 1);
        assert_eq!(
            (io.devices[0].read_bytes, io.devices[0].reads),
            (Some(9), Some(2))
        );
        let huge = a.huge_pages().unwrap();
        assert_eq!(huge.len(), 1);
        assert_eq!(
            (
                &*huge[0].size,
                huge[0].usage,
                huge[0].max_usage,
                huge[0].failcnt
            ),
            ("2MB", Some(4096), Some(8192), Some(1))
        );
        assert!(a.created().unwrap() > Duration::from_secs(1_700_000_000));
    }
}

#[test]
fn missing_directory_in_one_hierarchy_affects_only_it() {
    let tree = hybrid("lacks");
    let cgroups = open_cgroups(&tree, None);
    let b = group(&cgroups, "/docker/b");
    let cpu = b.cpu().unwrap();
    assert_eq!((cpu.usage, cpu.throttling), (nanos(14), None));
    assert_eq!(b.cpu_limits().unwrap().quota, None);
    let memory = b.memory().unwrap();
    assert_eq!(
        (memory.usage, memory.kernel, memory.oom_kills),
        (Some(102), None, None)
    );
    for error in [
        b.pids().unwrap_err(),
        b.block_io().unwrap_err(),
        b.processes().unwrap_err(),
    ] {
        assert!(error.is_gone(), "{error}");
    }
    assert_eq!(b.pressure().unwrap(), CgroupPressure::default());
    assert_eq!(b.huge_pages().unwrap(), []);
    let root = group(&cgroups, "/");
    assert!(root.created().unwrap_err().is_gone());
    assert!(root.pids().unwrap_err().is_gone());
}

#[test]
fn hybrid_cpu_falls_back_to_unified_hierarchy() {
    let tree = hybrid("unified-cpu");
    tree.write_files(
        "sys/fs/cgroup",
        "unified/machine/g/cpu.stat: usage_usec 30; user_usec 20; system_usec 10\n\
         cpu/machine/g/cpu.cfs_quota_us: 50000\n\
         cpu/machine/g/cpu.stat: nr_periods 10; nr_throttled 4; throttled_time 5\n\
         memory/machine/g/memory.usage_in_bytes: 100\n",
    );
    let cpu = group(&open_cgroups(&tree, None), "/machine/g")
        .cpu()
        .unwrap();
    let times = (cpu.usage, cpu.user, cpu.system);
    assert_eq!(times, (micros(30), micros(20), micros(10)));
    assert_eq!(cpu.throttling.unwrap().throttled_periods, Some(4));
    fs::remove_file(tree.path("sys/fs/cgroup/unified/machine/g/cpu.stat")).unwrap();
    let error = group(&open_cgroups(&tree, None), "/machine/g")
        .cpu()
        .unwrap_err();
    assert!(error.is_gone(), "{error}");
}

#[test]
fn error_names_file_and_line() {
    let tree = hybrid("damaged");
    tree.write(
        "sys/fs/cgroup/memory/docker/b/memory.stat",
        "total_rss 6\ntotal_swap x\n",
    );
    let cgroups = open_cgroups(&tree, None);
    let error = group(&cgroups, "/docker/b").memory().unwrap_err();
    let file = tree.path("sys/fs/cgroup/memory/docker/b/memory.stat");
    let expected = format!("{}:2: total_swap is not a number: \"x\"", file.display());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn unaccounted_block_io_is_not_zero() {
    let tree = hybrid("uncounted");
    let throttle_file = "sys/fs/cgroup/blkio/blkio.throttle.io_service_bytes_recursive";
    tree.write(throttle_file, "Total 0\n");
    let disk = "254 0 vda 1690976 0 1 2 592771 0 1 7 0 1 2\n";
    let others = "7 0 loop0 206 0 1 2 38 0 1 2 0 1 2\n253 0 zram0 5 0 1 2 7 0 1 2 0 1 2\n";
    let cgroups = open_cgroups(&tree, None);
    let is_accounted = || {
        group(&cgroups, "/docker/a")
            .block_io()
            .unwrap()
            .is_accounted
    };
    for (diskstats, expected) in [
        (String::new(), None),
        (others.to_owned(), None),
        ("8 0 sda 0 0 1 2 0 0 1 2 0 1 2\n".to_owned(), None),
        (format!("{others}{disk}"), Some(false)),
    ] {
        tree.write("proc/diskstats", &diskstats);
        assert_eq!(is_accounted(), expected, "{diskstats:?}");
    }
    let io = group(&cgroups, "/docker/a").block_io().unwrap();
    assert_eq!(io.devices, []);
    // A limit is written, and the kernel starts to count.
    tree.write(throttle_file, "254:0 Read 9\nTotal 9\n");
    assert_eq!(is_accounted(), Some(true));
    // BFQ appears later and counts from a different start: it is not used.
    tree.write(
        "sys/fs/cgroup/blkio/blkio.bfq.io_service_bytes_recursive",
        "254:0 Read 1\nTotal 1\n",
    );
    let io = group(&cgroups, "/docker/a").block_io().unwrap();
    assert_eq!(io.devices[0].read_bytes, Some(9));
}

fn v2(name: &str) -> TempTree {
    let tree = TempTree::new(name);
    tree.write_files(
        "sys/fs/cgroup",
        "cgroup.controllers: cpuset cpu io memory hugetlb pids rdma misc\n\
         cpu.stat: usage_usec 99; user_usec 1; system_usec 2; nr_periods 0\n\
         memory.stat: anon 40; file 2\n\
         system.slice/a.scope/cpu.stat: usage_usec 7; nr_periods 9; throttled_usec 3\n\
         system.slice/a.scope/cpu.max: 50000 100000\n\
         system.slice/a.scope/cpu.weight: 100\n\
         system.slice/a.scope/memory.current: 100\n\
         system.slice/a.scope/memory.peak: 102\n\
         system.slice/a.scope/memory.swap.current: 103\n\
         system.slice/a.scope/memory.events: high 1; max 2; oom_kill 3\n\
         system.slice/a.scope/memory.stat: anon 4; inactive_file 101\n\
         system.slice/a.scope/memory.max: 200\n\
         system.slice/a.scope/memory.swap.max: max\n\
         system.slice/a.scope/memory.low: 0\n\
         system.slice/a.scope/pids.current: 5\n\
         system.slice/a.scope/pids.max: 6\n\
         system.slice/a.scope/cgroup.procs: 1\n\
         system.slice/a.scope/cpu.pressure: some total=8; full total=9\n\
         system.slice/a.scope/memory.pressure: some total=10\n\
         system.slice/a.scope/io.stat: 254:0 rbytes=1 wbytes=2 rios=3 wios=4\n\
         system.slice/a.scope/hugetlb.2MB.current: 11\n\
         system.slice/a.scope/hugetlb.2MB.events: max 12\n\
         system.slice/b.scope/cpu.stat: usage_usec 8; nr_periods 0\n\
         system.slice/b.scope/cpu.max: max 100000\n",
    );
    tree.write(
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "0\n",
    );
    tree
}

#[test]
fn v2_fills_the_same_fields() {
    let tree = v2("v2");
    for descriptor_limits in [None, Some(DescriptorLimits { dirs: 0, files: 0 })] {
        let cgroups = open_cgroups(&tree, descriptor_limits);
        assert_eq!(cgroups.version().unwrap(), CgroupVersion::V2);
        assert_eq!(cgroups.controllers().unwrap()[..2], ["cpu", "cpuset"]);
        let a = group(&cgroups, "/system.slice/a.scope");
        let cpu = a.cpu().unwrap();
        assert_eq!(cpu.usage, micros(7));
        assert_eq!(cpu.throttling.unwrap().throttled, micros(3));
        assert!(a.percpu_usage().unwrap_err().is_gone());
        let limits = a.cpu_limits().unwrap();
        assert_eq!((limits.quota, limits.shares), (micros(50_000), Some(1024)));
        let expected = CgroupMemory {
            usage: Some(100),
            max_usage: Some(102),
            swap: Some(103),
            failcnt: Some(2),
            events_high: Some(1),
            events_max: Some(2),
            oom_kills: Some(3),
            rss: Some(4),
            inactive_file: Some(101),
            ..CgroupMemory::default()
        };
        assert_eq!(a.memory().unwrap(), expected);
        assert_eq!(expected.working_set(), Some(0));
        let limits = a.memory_limits().unwrap();
        assert_eq!(
            (limits.limit, limits.swap_limit, limits.reservation),
            (Some(Some(200)), Some(None), Some(Some(0)))
        );
        assert_eq!(a.pids().unwrap().max, Some(Some(6)));
        assert_eq!(a.processes().unwrap(), [1]);
        let pressure = a.pressure().unwrap();
        assert_eq!(pressure.cpu.unwrap().some, micros(8));
        assert_eq!(pressure.memory.unwrap().full, None);
        assert_eq!(pressure.io, None);
        let io = a.block_io().unwrap();
        assert_eq!((io.is_accounted, io.devices.len()), (Some(true), 1));
        let huge = a.huge_pages().unwrap();
        assert_eq!(
            (huge[0].usage, huge[0].max_usage, huge[0].failcnt),
            (Some(11), None, Some(12))
        );

        let b = group(&cgroups, "/system.slice/b.scope");
        assert_eq!(b.cpu().unwrap().throttling, None);
        assert!(b.memory().unwrap_err().is_gone());

        let root = group(&cgroups, "/");
        assert_eq!(root.cpu().unwrap().throttling, None);
        assert_eq!(root.memory().unwrap().usage, Some(42));
        assert!(root.memory_limits().unwrap_err().is_gone());
    }
}

#[test]
fn walk_filters_and_sorts_at_any_depth() {
    let tree = v2("order");
    let root = "sys/fs/cgroup";
    for path in ["b/x", "b-c", "a/z/y/x", "a/a", "file-only"] {
        tree.write(&format!("{root}/{path}/cgroup.procs"), "");
    }
    let non_utf8 = tree.path(root).join(OsStr::from_bytes(b"odd\xff"));
    fs::create_dir_all(non_utf8.join("below")).unwrap();
    fs::create_dir_all(tree.path(root).join(vec!["d"; 40].join("/"))).unwrap();
    let cgroups = open_cgroups(&tree, None);
    let all = cgroups.walk(|path| !path.starts_with("/system")).unwrap();
    let is_deep = |path: &&str| path.starts_with("/d");
    let mut all = paths(&all);
    assert_eq!(all.iter().copied().filter(|path| is_deep(path)).count(), 33);
    all.retain(|path| !is_deep(path));
    let sorted = [
        "/",
        "/a",
        "/a/a",
        "/a/z",
        "/a/z/y",
        "/a/z/y/x",
        "/b",
        "/b-c",
        "/b/x",
        "/file-only",
    ];
    assert_eq!(all, sorted);
    let filtered = cgroups.walk(|path| path.ends_with("/x")).unwrap();
    assert_eq!(paths(&filtered), ["/a/z/y/x", "/b/x"]);
    assert!(cgroups.partial_error().is_none());
}

#[test]
fn processes_are_listed_once_and_cgroups_not_cached() {
    let tree = hybrid("processes");
    tree.write_files(
        "sys/fs/cgroup/memory",
        "cgroup.procs: 1; 2\n\
         docker/a/inside/cgroup.procs: 43\n\
         docker/a/odd/cgroup.procs: x\n\
         other/cgroup.procs: 9\n",
    );
    let cgroups = open_cgroups(&tree, None);
    let mut found = Vec::new();
    let filter = |path: &str| path != "/other" && path != "/docker";
    let record = |path: &str, processes: Result<Vec<u32>>| {
        found.push((path.to_owned(), processes.ok()));
    };
    cgroups.processes(filter, record).unwrap();
    found.sort();
    let expected = [
        ("/", Some(vec![1, 2])),
        ("/docker/a", Some(vec![41, 42])),
        ("/docker/a/inside", Some(vec![43])),
        ("/docker/a/odd", None),
        ("/docker/b", None),
    ];
    assert_eq!(
        found,
        expected.map(|(path, processes)| (path.to_owned(), processes))
    );
    let cached = cgroups
        .with_discovered(|found| Ok((found.groups.len(), found.shared.dir_budget.available())));
    assert_eq!(cached.unwrap(), (0, cgroups.limits.dirs));
}

#[test]
fn cgroup_is_reused_until_removed_or_recreated() {
    let tree = v2("same");
    let slice = tree.path("sys/fs/cgroup/system.slice");
    let cgroups = open_cgroups(&tree, None);
    let a = group(&cgroups, "/system.slice/a.scope");
    assert!(a.pids().is_ok());
    assert!(Arc::ptr_eq(&a, &group(&cgroups, "/system.slice/a.scope")));

    // A cgroup of the same name, created while the first existed: its inode number differs.
    tree.write("sys/fs/cgroup/system.slice/next/pids.current", "77\n");
    fs::remove_dir_all(slice.join("a.scope")).unwrap();
    assert!(a.pids().unwrap_err().is_gone());
    fs::rename(slice.join("next"), slice.join("a.scope")).unwrap();
    assert!(a.pids().unwrap_err().is_gone());
    let recreated = group(&cgroups, "/system.slice/a.scope");
    assert!(!Arc::ptr_eq(&a, &recreated));
    assert_eq!(recreated.pids().unwrap().current, Some(77));

    fs::remove_dir_all(slice.join("a.scope")).unwrap();
    assert_eq!(paths(&cgroups.walk(|_| true).unwrap()).len(), 3);
    assert!(
        !cgroups
            .discovered
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .groups
            .contains_key(recreated.path())
    );
}

#[test]
fn replaced_directory_in_another_hierarchy_is_noticed() {
    let tree = hybrid("replaced");
    let cgroups = open_cgroups(&tree, None);
    let before = group(&cgroups, "/docker/a");
    assert_eq!(before.pids().unwrap().current, Some(3));
    tree.write("sys/fs/cgroup/pids/docker/next/pids.current", "4\n");
    let pids = tree.path("sys/fs/cgroup/pids/docker");
    fs::remove_dir_all(pids.join("a")).unwrap();
    fs::rename(pids.join("next"), pids.join("a")).unwrap();
    assert!(before.pids().unwrap_err().is_gone());
    assert_eq!(
        group(&cgroups, "/docker/a").pids().unwrap().current,
        Some(4)
    );
}

#[test]
fn cached_descriptors_are_limited_and_released() {
    let tree = hybrid("bounded");
    let cgroups = open_cgroups(&tree, Some(DescriptorLimits { dirs: 2, files: 9 }));
    let available = || {
        let discovered = cgroups.discovered.lock().unwrap();
        discovered.as_ref().unwrap().shared.dir_budget.available()
    };
    let a = group(&cgroups, "/docker/a");
    a.memory().unwrap();
    assert_eq!(available(), 1);
    a.pids().unwrap();
    a.cpu().unwrap();
    a.cpu_limits().unwrap();
    assert_eq!(available(), 0);
    drop(a);
    cgroups.walk(|_| false).unwrap();
    assert_eq!(available(), 2);
}

#[test]
fn hierarchies_mounted_later_are_found() {
    let tree = TempTree::new("later");
    let cgroups = open_cgroups(&tree, None);
    assert!(cgroups.walk(|_| true).unwrap_err().is_gone());
    tree.write("sys/fs/cgroup/cgroup.controllers", "memory\n");
    assert_eq!(paths(&cgroups.walk(|_| true).unwrap()), ["/"]);
}

#[test]
fn file_longer_than_buffer_is_read_completely() {
    let tree = v2("long");
    let line = "1\n";
    let body = line.repeat(50_000);
    tree.write("sys/fs/cgroup/system.slice/a.scope/cgroup.procs", &body);
    let lines = (0..2000).map(|minor| format!("254:{minor} rbytes=1 wbytes=2 rios=3 wios=4"));
    let io = lines.collect::<Vec<_>>().join("\n");
    tree.write("sys/fs/cgroup/system.slice/a.scope/io.stat", &io);
    let a = group(&open_cgroups(&tree, None), "/system.slice/a.scope");
    assert_eq!(a.processes().unwrap().len(), 50_000);
    assert_eq!(a.block_io().unwrap().devices.len(), 2000);
}

/// The test host's cgroups, if any are visible.
fn host_cgroups() -> Option<CgroupReader> {
    let cgroups = CgroupReader::new(&Roots::for_test_host());
    cgroups.version().is_ok().then_some(cgroups)
}

/// Reports that a test cannot run here, and what it needs.
fn skip_or_fail(requirement: &str) {
    assert!(
        std::env::var_os("STRATA_TEST_REQUIRE").is_none(),
        "needs {requirement}"
    );
    eprintln!("skipped: needs {requirement}");
}

/// A real cgroup of the test host, in the hierarchies of memory and CPU time.
struct LiveCgroup(Vec<PathBuf>);

impl LiveCgroup {
    fn create(cgroups: &CgroupReader, name: &str) -> Option<Self> {
        let mut live = Self(Vec::new());
        let discovered = cgroups.discovered.lock().unwrap();
        let name = format!("strata-test-{name}-{}", std::process::id());
        for hierarchy in &discovered.as_ref()?.shared.layout.hierarchies {
            let path = hierarchy.path.join(&name);
            if !path.starts_with("/sys/fs/cgroup") || fs::create_dir(&path).is_err() {
                return None;
            }
            live.0.push(path);
        }
        Some(live)
    }

    fn path(&self) -> String {
        format!("/{}", self.0[0].file_name().unwrap().to_str().unwrap())
    }

    fn remove(&mut self) {
        for path in self.0.drain(..) {
            fs::remove_dir(path).ok();
        }
    }
}

impl Drop for LiveCgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

#[test]
fn removed_cgroup_is_detected_even_if_name_is_reused() {
    let Some(cgroups) = host_cgroups() else {
        return skip_or_fail("cgroups");
    };
    let Some(mut live) = LiveCgroup::create(&cgroups, "removed") else {
        return skip_or_fail("permission to create cgroups");
    };
    let path = live.path();
    let first = group(&cgroups, &path);
    let cpu = first.cpu().unwrap();
    assert_eq!(cpu.usage, Some(Duration::ZERO));
    assert_eq!(cpu.throttling, None);
    assert!(first.processes().unwrap().is_empty());
    let created = first.created().unwrap();
    assert!(created > Duration::from_secs(1_700_000_000));
    // Twice: the second time through cached descriptors.
    for _ in 0..2 {
        if let Ok(memory) = first.memory() {
            assert_eq!(memory.oom_kills, Some(0));
            assert!(memory.usage.is_some() && memory.rss.is_some());
        }
        assert!(first.cpu().unwrap().usage.is_some());
    }

    live.remove();
    for error in [
        first.cpu().err(),
        first.memory().err(),
        first.processes().err(),
    ] {
        let error = error.unwrap();
        assert!(error.is_gone(), "{error}");
    }
    let _recreated = LiveCgroup::create(&cgroups, "removed").unwrap();
    assert!(first.cpu().unwrap_err().is_gone());
    let second = group(&cgroups, &path);
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(second.cpu().unwrap().usage, Some(Duration::ZERO));
}

#[test]
fn setting_is_read_again_after_write_or_replacement() {
    let Some(cgroups) = host_cgroups() else {
        return skip_or_fail("cgroups");
    };
    let Some(live) = LiveCgroup::create(&cgroups, "settings") else {
        return skip_or_fail("permission to create cgroups");
    };
    let dir = live.0.iter().find(|dir| dir.join("cpu.shares").exists());
    let Some(dir) = dir else {
        return skip_or_fail("the cpu controller of cgroup v1");
    };
    let shares = |group: &Cgroup| group.cpu_limits().map(|limits| limits.shares.unwrap());
    let walk = || group(&cgroups, &live.path());
    let first = walk();
    assert_eq!(shares(&first).unwrap(), 1024);
    for changed in [512, 2048] {
        let before = shares(&first).unwrap();
        fs::write(dir.join("cpu.shares"), changed.to_string()).unwrap();
        // Only a walk reads the inotify events: until then the cached value is used.
        assert_eq!(shares(&first).unwrap(), before);
        assert!(Arc::ptr_eq(&walk(), &first));
        assert_eq!(shares(&first).unwrap(), changed);
    }

    // This hierarchy is not the primary one.
    fs::remove_dir(dir).unwrap();
    fs::create_dir(dir).unwrap();
    assert!(shares(&walk()).unwrap_err().is_gone());
    let second = walk();
    assert!(!Arc::ptr_eq(&second, &first));
    assert_eq!(shares(&second).unwrap(), 1024);
    // Both cgroups watched the same memory directory; the second watch stays active.
    let limit = |group: &Cgroup| group.memory_limits().unwrap().limit.unwrap();
    assert_eq!((limit(&first), limit(&second)), (None, None));
    drop(first);
    let memory = live
        .0
        .iter()
        .find(|dir| dir.join("memory.limit_in_bytes").exists());
    if let Some(dir) = memory {
        fs::write(dir.join("memory.limit_in_bytes"), "8388608").unwrap();
        assert_eq!(limit(&walk()), Some(8 << 20));
    }
    let discovered = cgroups.discovered.lock().unwrap();
    assert!(discovered.as_ref().unwrap().shared.watcher.watches() > 0);
}

#[test]
fn root_of_test_host_matches_its_files() {
    let Some(cgroups) = host_cgroups() else {
        return skip_or_fail("cgroups");
    };
    let all = cgroups.walk(|_| true).unwrap();
    assert_eq!(all[0].path(), "/");
    let root = &all[0];
    let before = root.cpu().unwrap().usage.unwrap();
    let after = root.cpu().unwrap();
    assert!(after.usage.unwrap() >= before);
    assert!(before > Duration::ZERO);
    let modes = after.user.unwrap() + after.system.unwrap();
    let difference = modes.abs_diff(after.usage.unwrap());
    assert!(difference < Duration::from_secs(2), "{after:?}");
    if root.shared.layout.version != CgroupVersion::V2
        && Path::new("/sys/fs/cgroup/memory").exists()
    {
        let file = Path::new("/sys/fs/cgroup/memory/memory.stat");
        let stat = dir::read(file).unwrap();
        let has_rss = stat
            .body()
            .lines()
            .any(|line| line.starts_with("total_rss "));
        assert_eq!(root.memory().unwrap().rss.is_some(), has_rss);
    }
}

#[test]
fn ancestors_are_all_path_prefixes() {
    let collect = |path| ancestors(path).collect::<Vec<_>>();
    assert_eq!(collect("/"), ["/"]);
    assert_eq!(collect("/a"), ["/", "/a"]);
    assert_eq!(collect("/a/b/c"), ["/", "/a", "/a/b", "/a/b/c"]);
}
