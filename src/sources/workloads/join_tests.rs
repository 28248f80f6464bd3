//! Tests that join engines, processes and cgroups of whole hosts.

use std::{cell::RefCell, collections::BTreeMap, ffi::OsStr, fs, os::unix::ffi::OsStrExt};

use super::*;
use crate::sources::{cgroup::testing::TempTree, engine::ContainerState};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// A host with cgroup v2.
struct JoinFixture {
    tree: TempTree,
    cgroups: CgroupReader,
    workloads: Workloads,
    engines: Vec<Engine>,
    /// IDs that no engine reported, once per report.
    unknown: RefCell<Vec<String>>,
}

impl JoinFixture {
    fn new(name: &str, groups: &[&str]) -> Self {
        let tree = TempTree::new(&format!("join-{name}"));
        tree.write("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
        for group in groups {
            fs::create_dir_all(tree.path(&format!("sys/fs/cgroup{group}"))).unwrap();
        }
        Self {
            cgroups: CgroupReader::new(&tree.roots()),
            tree,
            workloads: Workloads::new(WorkloadFlags::default()),
            engines: Vec::new(),
            unknown: RefCell::default(),
        }
    }

    fn exclude(mut self, include: &str, exclude: &str) -> Self {
        self.workloads = Workloads::new(WorkloadFlags {
            cgroup_include: include.parse().unwrap(),
            cgroup_exclude: exclude.parse().unwrap(),
            ..WorkloadFlags::default()
        });
        self
    }

    /// Creates a running container and its first process.
    fn running(&self, id: &str, name: &str, pid: u32, group: &str) -> Container {
        let line = format!("0::{group}\n");
        self.tree.write(&format!("proc/{pid}/cgroup"), &line);
        let mut container = container(id, name);
        container.pid = Some(pid);
        container
    }

    fn remove(&self, group: &str) {
        fs::remove_dir_all(self.tree.path(&format!("sys/fs/cgroup{group}"))).unwrap();
    }

    fn discover(&self) -> Inventory {
        let roots = self.tree.roots();
        let engines = self.engines.iter().cloned().map(Arc::new).collect();
        let unknown = |id: &str| self.unknown.borrow_mut().push(id.to_owned());
        let joined = self.workloads.join(
            &Arc::new(engines),
            &[],
            |pid, id| read_cgroup_path(&roots, pid, id),
            |filter| self.cgroups.walk(filter),
            unknown,
        );
        joined.unwrap()
    }
}

/// Returns the names by path; in brackets for workloads without a cgroup.
fn names(inventory: &Inventory) -> BTreeMap<String, String> {
    let entries = inventory.all.iter().map(|workload| {
        let name = workload
            .container
            .as_ref()
            .map(|(_, container)| container.name.as_str());
        let name = name.unwrap_or("-");
        let name = match workload.cgroup {
            Some(_) => name.to_owned(),
            None => format!("({name})"),
        };
        (workload.path.clone(), name)
    });
    let names: BTreeMap<_, _> = entries.collect();
    assert_eq!(names.len(), inventory.all.len(), "duplicate path");
    names
}

fn expected<const N: usize>(names: [(&str, &str); N]) -> BTreeMap<String, String> {
    let names = names.map(|(path, name)| (path.to_owned(), name.to_owned()));
    names.into_iter().collect()
}

#[test]
fn container_with_process_in_child_cgroup_has_its_own() {
    let scope = &format!("/system.slice/docker-{A}.scope");
    let inner = &format!("{scope}/init.scope");
    let custom = &format!("/jobs/night/{B}");
    let mut fixture = JoinFixture::new("nested", &[inner, custom]);
    fixture.engines = vec![engine([
        fixture.running(A, "web", 10, inner),
        fixture.running(B, "job", 11, custom),
    ])];
    let inventory = fixture.discover();
    let all = [
        ("/", "-"),
        ("/system.slice", "-"),
        (scope.as_str(), "web"),
        (custom.as_str(), "job"),
    ];
    assert_eq!(names(&inventory), expected(all));
}

#[test]
fn rootless_podman_and_pods_are_found_at_any_path() {
    let user = "/user.slice/user-1000.slice/user@1000.service/user.slice";
    let pod = "cc".repeat(32);
    let rootless = &format!("{user}/user-libpod_pod_{pod}.slice/libpod-{A}.scope");
    let in_pod = &format!("/libpod_parent/{pod}/libpod-{B}");
    let monitor = &format!("/machine.slice/libpod-conmon-{A}.scope");
    let machine_slice = &format!("/machine.slice/machine-libpod_pod_{pod}.slice");
    let groups = [
        &format!("{rootless}/container"),
        in_pod,
        monitor,
        machine_slice,
    ];
    let mut fixture = JoinFixture::new("podman", &groups.map(String::as_str));
    let mut podman = engine([
        fixture.running(A, "web", 10, &format!("{rootless}/container")),
        fixture.running(B, "db", 11, in_pod),
    ]);
    podman.kind = Some(EngineKind::Podman);
    fixture.engines = vec![podman];
    let inventory = fixture.discover();
    let all = [
        ("/", "-"),
        ("/machine.slice", "-"),
        ("/user.slice", "-"),
        ("/user.slice/user-1000.slice/user@1000.service", "-"),
        (rootless.as_str(), "web"),
        (in_pod.as_str(), "db"),
    ];
    assert_eq!(names(&inventory), expected(all));
    assert!(
        inventory
            .containers()
            .all(|(_, kind, _)| kind == EngineKind::Podman)
    );
    assert_eq!(*fixture.unknown.borrow(), [""; 0]);
}

#[test]
fn containers_of_other_engines_appear_by_id() {
    let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice";
    let crio = "cc".repeat(32);
    let misplaced = "dd".repeat(32);
    let groups = [
        format!("{pod}/cri-containerd-{A}.scope"),
        format!("/kubepods/besteffort/pod2/{B}"),
        format!("{pod}/crio-{crio}.scope/container"),
        format!("{pod}/crio-conmon-{crio}.scope"),
        format!("/system.slice/containerd.service/kubepods-pod3.slice:cri-containerd:{misplaced}"),
        "/lxc.payload.web/system.slice/ssh.service".to_owned(),
    ];
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let inventory = JoinFixture::new("kubernetes", &groups).discover();
    let runtime_ids: BTreeMap<&str, Runtime> = inventory
        .present()
        .filter_map(|(workload, _)| workload.runtime_id.as_ref())
        .map(|runtime_id| (runtime_id.id.as_str(), runtime_id.runtime))
        .collect();
    let expected = [
        (A, Runtime::Containerd),
        (B, Runtime::Unknown),
        (crio.as_str(), Runtime::CriO),
        (misplaced.as_str(), Runtime::Containerd),
        ("web", Runtime::Lxc),
    ];
    assert_eq!(runtime_ids, expected.into());
}

#[test]
fn nested_container_keeps_its_own_name() {
    let outer = &format!("/docker/{A}");
    let inner = &format!("{outer}/docker/{B}");
    let mut fixture = JoinFixture::new("nested-docker", &[inner]);
    let docker = engine([fixture.running(A, "dind", 10, &format!("{outer}/init"))]);
    fixture.engines = vec![docker];
    let all = [("/", "-"), (outer.as_str(), "dind"), (inner.as_str(), "-")];
    assert_eq!(names(&fixture.discover()), expected(all));
    assert_eq!(*fixture.unknown.borrow(), [B]);

    // The nested engine reports as well. Its PID numbers are of another namespace: on the host,
    // this PID is a different process.
    let inside = engine([fixture.running(B, "build", 1, "/init.scope")]);
    fixture.engines.push(inside);
    let all = [
        ("/", "-"),
        (outer.as_str(), "dind"),
        (inner.as_str(), "build"),
    ];
    assert_eq!(names(&fixture.discover()), expected(all));
}

#[test]
fn engine_that_is_up_takes_precedence_for_shared_container() {
    let path = &format!("/docker/{A}");
    let mut fixture = JoinFixture::new("two-engines", &[path]);
    let mut down = engine([fixture.running(A, "old", 10, path)]);
    let up = engine([fixture.running(A, "new", 10, path)]);
    fixture.engines = vec![down.clone(), up.clone()];
    let all = |name| expected([("/", "-"), (path.as_str(), name)]);
    assert_eq!(names(&fixture.discover()), all("old"));
    down.up = false;
    fixture.engines = vec![down, up];
    assert_eq!(names(&fixture.discover()), all("new"));
}

#[test]
fn only_non_utf8_cgroup_is_skipped() {
    let path = &format!("/docker/{A}");
    let mut fixture = JoinFixture::new("no-text", &[path]);
    let non_utf8 = fixture.tree.path("sys/fs/cgroup");
    fs::create_dir_all(non_utf8.join(OsStr::from_bytes(b"odd\xff")).join(B)).unwrap();
    let non_utf8 = container(B, "odd");
    let line = [b"0::/odd\xff/", B.as_bytes(), b"\n"].concat();
    fs::create_dir_all(fixture.tree.path("proc/11")).unwrap();
    fs::write(fixture.tree.path("proc/11/cgroup"), line).unwrap();
    let non_utf8 = Container {
        pid: Some(11),
        ..non_utf8
    };
    fixture.engines = vec![engine([fixture.running(A, "web", 10, path), non_utf8])];
    let odd_path = &format!("/odd\u{fffd}/{B}");
    let all = [
        ("/", "-"),
        (path.as_str(), "web"),
        (odd_path.as_str(), "(odd)"),
    ];
    assert_eq!(names(&fixture.discover()), expected(all));
}

#[test]
fn flags_select_included_and_excluded_cgroups() {
    let web = &format!("/docker/{A}");
    let secret = &format!("/hidden/{B}");
    let groups = [
        web,
        secret,
        "/app/worker",
        "/app/hidden",
        "/system.slice/x.service",
    ];
    let mut fixture = JoinFixture::new("flags", &groups).exclude("^/app/", "hidden");
    fixture.engines = vec![engine([
        fixture.running(A, "web", 10, web),
        fixture.running(B, "secret", 11, secret),
    ])];
    let all = [("/app/worker", "-"), (web.as_str(), "web")];
    assert_eq!(names(&fixture.discover()), expected(all));
    let roots = fixture.tree.roots();
    assert_eq!(
        fixture.workloads.hidden_cgroups(&roots).unwrap(),
        [secret.as_str()]
    );
}

#[test]
fn stopped_container_keeps_path_and_current_name() {
    let path = &format!("/jobs/{A}");
    let mut fixture = JoinFixture::new("stop", &[path, "/system.slice/x.service"]);
    let running = fixture.running(A, "web", 10, path);
    fixture.engines = vec![engine([running.clone()])];
    assert!(fixture.discover().gone.is_empty());
    fixture.remove(path);
    fixture.remove("/system.slice/x.service");
    let mut stopped = running;
    (stopped.pid, stopped.state) = (None, ContainerState::Exited);
    stopped.name = "web-old".to_owned();
    fixture.engines = vec![engine([stopped])];
    let inventory = fixture.discover();
    let all = [
        ("/", "-"),
        ("/system.slice", "-"),
        (path.as_str(), "(web-old)"),
    ];
    assert_eq!(names(&inventory), expected(all));
    let gone: Vec<_> = inventory
        .gone
        .iter()
        .map(|(workload, _)| workload)
        .collect();
    assert_eq!(gone.len(), 2);
    // They would keep its files open.
    assert!(gone.iter().all(|workload| workload.cgroup.is_none()));
    let (_, container) = gone[0].container.as_ref().unwrap();
    assert_eq!(
        (gone[0].path.as_str(), container.name.as_str()),
        (path.as_str(), "web-old")
    );
    assert_eq!(gone[1].path, "/system.slice/x.service");

    // After removal, it is reported under its last name.
    fixture.engines = vec![engine([])];
    let inventory = fixture.discover();
    assert_eq!(
        names(&inventory),
        expected([("/", "-"), ("/system.slice", "-")])
    );
    let (_, container) = inventory.gone[0].0.container.as_ref().unwrap();
    assert_eq!(container.name, "web-old");
}

#[test]
fn cgroup_left_by_earlier_run_is_not_the_container() {
    let (old, new) = (&format!("/docker/{A}"), &format!("/jobs/{A}"));
    let mut fixture = JoinFixture::new("left-over", &[old, new]);
    fixture.engines = vec![engine([fixture.running(A, "web", 10, new)])];
    let all = |old_name, new_name| {
        expected([
            ("/", "-"),
            (old.as_str(), old_name),
            (new.as_str(), new_name),
        ])
    };
    assert_eq!(names(&fixture.discover()), all("-", "web"));
    // No process is reported; the container still has exactly one cgroup.
    fixture.workloads = Workloads::new(WorkloadFlags::default());
    fixture.engines = vec![engine([container(A, "web")])];
    assert_eq!(names(&fixture.discover()), all("web", "-"));
}
