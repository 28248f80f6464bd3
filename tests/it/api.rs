//! JSON API tests through the command line: the exporter runs on a fixture machine with a fake
//! engine. Every response is validated against the `OpenAPI` description that the exporter serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use crate::support::{
    fake_engine::{FakeContainer, FakeEngine, Reply},
    fixture,
    server_process::{ServerProcess, TempDir, WAIT_TIMEOUT, wait_until},
};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_strata_exporter");
/// Container of the fixture machine.
const WEB: &str = "3f4e5d6c7b8a99887766554433221100ffeeddccbbaa00112233445566778899";
/// Container of the fixture machine that the engine does not list.
const UNNAMED: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";

/// Header that limits a request to 1 s, for tests in which something hangs.
const TIMEOUT_HEADER: &str = "X-Prometheus-Scrape-Timeout-Seconds: 1\r\n";

/// Described fields that no response in this file has: libvirt's, which are tested beside the code,
/// and those that need more than the fake engine.
const NOT_IN_RESPONSES: &[&str] = &[
    "ContainerDetail.cgroup_parent",
    "ContainerDetail.domain",
    "ContainerDetail.exit_code",
    "ContainerDetail.finished",
    "ContainerDetail.memory_limit_bytes",
    "ContainerDetail.unnamed",
    "ContainerSummary.domain",
    "ContainerSummary.finished",
    "ContainerSummary.memory_limit_bytes",
    "Domains.domains",
];

struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn has(&self, header: &str) -> bool {
        self.head.to_lowercase().contains(header)
    }
}

/// An exporter on the fixture machine, and its engine.
struct ApiFixture {
    engine: FakeEngine,
    exporter: ServerProcess,
    _dir: TempDir,
}

impl ApiFixture {
    fn new(name: &str, flags: &[&str]) -> Self {
        Self::started_by(Command::new(BINARY), name, flags)
    }

    fn started_by(mut command: Command, name: &str, flags: &[&str]) -> Self {
        let engine = engine(name);
        let dir = TempDir::new(&format!("api-{name}"));
        command.args(fixture_flags(&engine)).args(flags);
        let api = Self {
            // The status page would query what a test makes hang.
            exporter: ServerProcess::start_and_wait_for_path(&mut command, &dir.0, "/-/healthy"),
            engine,
            _dir: dir,
        };
        wait_until("a connected engine", || {
            let list = api
                .request("GET", "/api/v1/containers", TIMEOUT_HEADER)
                .json();
            (list["engines"][0]["is_up"] == json!(true)).then_some(())
        });
        api
    }

    fn get(&self, path: &str) -> Response {
        self.request("GET", path, "")
    }

    fn request(&self, method: &str, path: &str, headers: &str) -> Response {
        let mut stream = TcpStream::connect(self.exporter.address).unwrap();
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        // In HTTP/1.0 the end of the connection ends the body.
        let request = format!("{method} {path} HTTP/1.0\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let end = all.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
        let body = all.split_off(end + 4);
        let head = String::from_utf8(all).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Response { status, head, body }
    }

    /// Waits until at least `count` samples of the host or of a container exist.
    fn wait_for_samples(&self, subject: &str, count: u64) -> Value {
        wait_until("samples", || {
            let history = self.get(&format!("/api/v1/{subject}/history")).json();
            (history["samples"].as_u64()? >= count).then_some(history)
        })
    }

    fn error(&self, path: &str) -> (u16, String) {
        let response = self.get(path);
        let body = response.json()["error"].as_str().unwrap().to_owned();
        (response.status, body)
    }
}

/// Flags for the fixture machine and this engine.
fn fixture_flags(engine: &FakeEngine) -> Vec<String> {
    let root = fixture("vm-v2");
    let path = |flag: &str, dir: &str| format!("--path.{flag}={}", root.join(dir).display());
    vec![
        path("procfs", "proc"),
        path("sysfs", "sys"),
        path("rootfs", "root"),
        path("udev.data", "udev"),
        format!("--engine.socket={}", engine.socket_path().display()),
        "--libvirt.uri=qemu+unix:///system?socket=/nowhere".to_owned(),
    ]
}

/// Docker with the fixture machine's container, a container whose ID begins with the same digits,
/// and two whose names differ only in case.
fn engine(name: &str) -> FakeEngine {
    let engine = FakeEngine::docker(&format!("api-{name}"));
    let mut web = FakeContainer::running('3', "web");
    WEB.clone_into(&mut web.id);
    web.restarts = 3;
    web.health = Some(json!({"Status": "healthy", "FailingStreak": 0, "Log": []}));
    web.labels = vec![
        ("com.docker.compose.project".to_owned(), "shop".to_owned()),
        ("secret".to_owned(), "secret-value".to_owned()),
    ];
    let mut old = FakeContainer::running('3', "old");
    old.id = WEB.replace('9', "0");
    (old.state, old.pid) = ("exited", 0);
    let mut db = FakeContainer::running('7', "db");
    (db.state, db.pid) = ("paused", 0);
    engine.set_containers(&[web, old, db]);
    let images = json!([{
        "Id": "sha256:11", "ParentId": "", "RepoTags": ["nginx:1.27"], "RepoDigests": [],
        "Created": 1_795_244_000, "Size": 4711, "SharedSize": -1, "Labels": {}, "Containers": -1,
    }]);
    engine.set_reply("/images/json", Reply::json(&images));
    engine
}

/// The `OpenAPI` description, and which of its fields have not been seen in a response.
struct Described {
    description: Value,
    unseen_fields: BTreeSet<String>,
}

impl Described {
    fn new(description: Value) -> Self {
        let mut unseen_fields = BTreeSet::new();
        let schemas = description["components"]["schemas"].as_object().unwrap();
        for (schema, definition) in schemas {
            let properties = definition["properties"].as_object().unwrap().keys();
            unseen_fields.extend(properties.map(|property| format!("{schema}.{property}")));
        }
        let mut description = description;
        close(&mut description["components"]);
        Self {
            description,
            unseen_fields,
        }
    }

    /// Validates a response against the description of its path and status.
    fn assert(&mut self, path: &str, response: &Response) {
        let body = response.json();
        let described = &self.description["paths"][path]["get"]["responses"];
        let described = &described[response.status.to_string()]["content"]["application/json"];
        let mut schema = described["schema"].clone();
        assert!(schema.is_object(), "{path}: {} {body:#}", response.status);
        self.mark_seen(&schema.clone(), &body);
        schema["components"] = self.description["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<_> = validator.iter_errors(&body).collect();
        assert!(errors.is_empty(), "{path}: {errors:#?}");
    }

    /// Marks the fields in a response as seen.
    fn mark_seen(&mut self, schema: &Value, value_json: &Value) {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().unwrap().to_owned();
            let schema_def = self.description["components"]["schemas"][&name].clone();
            for (field, value) in value_json.as_object().unwrap() {
                self.unseen_fields.remove(&format!("{name}.{field}"));
                self.mark_seen(&schema_def["properties"][field], value);
            }
        } else if let Some(items) = value_json.as_array() {
            for item in items {
                self.mark_seen(&schema["items"], item);
            }
        }
    }
}

/// Forbids properties that are not described.
fn close(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut() {
        if object.contains_key("properties") {
            let closed = object.entry("additionalProperties");
            closed.or_insert(false.into());
        }
        object.values_mut().for_each(close);
    }
}

#[test]
fn responses_match_openapi_and_every_field_is_covered() {
    let mut api = ApiFixture::new("described", &["--history.interval=100ms"]);
    // Runs the collectors once.
    api.exporter.metrics_text();
    for subject in ["host", "containers/web"] {
        api.wait_for_samples(subject, 2);
    }
    let mut described = Described::new(api.get("/api/v1/openapi.json").json());
    let paths: Vec<String> = {
        let paths = described.description["paths"].as_object().unwrap();
        paths.keys().cloned().collect()
    };
    for path in &paths {
        let response = api.get(&path.replace("{container}", "web"));
        assert_eq!(response.status, 200, "{path}: {}", response.json());
        for header in ["content-type: application/json", "cache-control: no-store"] {
            assert!(response.has(header), "{path}: {}", response.head);
        }
        described.assert(path, &response);
        let invalid = api.get(&path.replace("{container}", "web").replace("v1", "v1/x"));
        assert_eq!(invalid.status, 404, "{path}");
        let invalid = api.get(&format!("{}?x=1", path.replace("{container}", "web")));
        assert_eq!(invalid.status, 400, "{path}");
        described.assert(path, &invalid);
    }
    for path in [
        "/api/v1/containers?all=true",
        "/api/v1/containers?all=false",
    ] {
        described.assert("/api/v1/containers", &api.get(path));
    }
    for named in ["none", "3f"] {
        for below in ["", "/history?window=1m", "/points?last=1"] {
            let response = api.get(&format!("/api/v1/containers/{named}{below}"));
            let (below, _) = below.split_once('?').unwrap_or((below, ""));
            let path = format!("/api/v1/containers/{{container}}{below}");
            described.assert(&path, &response);
        }
    }
    api.engine.stop();
    let down = wait_until("a disconnected engine", || {
        let list = api.get("/api/v1/containers");
        (list.json()["engines"][0]["is_up"] == json!(false)).then_some(list)
    });
    described.assert("/api/v1/containers", &down);
    // The last known state stays, marked as not current.
    let web = api.get("/api/v1/containers/web").json();
    assert_eq!(web["container"]["is_current"], false);

    let unseen_fields = described.unseen_fields.iter().map(String::as_str);
    // Domains have their own test, and samples take a while.
    let is_excepted = |it: &&str| it.starts_with("Domain.") || it.starts_with("Latest.");
    let unseen_fields: Vec<_> = unseen_fields.filter(|it| !is_excepted(it)).collect();
    assert_eq!(unseen_fields, NOT_IN_RESPONSES);
}

#[test]
fn container_is_found_by_name_id_prefix_or_cgroup() {
    let api = ApiFixture::new("found", &[]);
    let id = |named: &str| {
        let response = api.get(&format!("/api/v1/containers/{named}"));
        let body = response.json();
        assert_eq!(response.status, 200, "{named}: {body}");
        body["container"]["id"].as_str().map(str::to_owned)
    };
    let web = Some(WEB.to_owned());
    assert_eq!(id("web"), web);
    assert_eq!(id(WEB), web);
    assert_eq!(id(WEB.split_at(20).0), web);
    assert_eq!(id(&format!("%2Fsystem.slice%2Fdocker-{WEB}.scope")), web);
    assert_eq!(id("a1b2"), Some(UNNAMED.to_owned()));
    assert_eq!(id("%2Fsystem.slice%2Fssh.service"), None);

    let (status, body) = api.error("/api/v1/containers/we");
    assert_eq!((status, body.as_str()), (404, "no such container: \"we\""));
    let response = api.get("/api/v1/containers/3f4e");
    assert_eq!(response.status, 409);
    let body = response.json();
    assert_eq!(body["error"], "ambiguous container \"3f4e\": 2 matches");
    let candidates = body["candidates"].as_array().unwrap();
    let names = candidates.iter().map(|it| it["name"].as_str().unwrap());
    assert_eq!(
        names.collect::<BTreeSet<_>>(),
        BTreeSet::from(["old", "web"])
    );
}

#[test]
fn history_matches_in_summary_and_points() {
    let api = ApiFixture::new("sampled", &["--history.interval=100ms"]);
    let host = api.wait_for_samples("host", 3);
    assert!(host.get("container").is_none() && host.get("is_gone").is_none());
    let web = api.wait_for_samples("containers/web", 3);
    assert_eq!(web["interval_seconds"], 0.1);
    assert_eq!(web["window_seconds"], 300.0);
    assert_eq!(web["container"]["id"], WEB);
    assert_eq!(web["container"]["name"], "web");
    assert_eq!(web["is_gone"], false);
    // Fixture files do not change.
    assert_eq!(web["cpu_percent"]["peak"], 0.0);
    assert_eq!(web["restarts"], 0);
    let root = fixture("vm-v2");
    let group = format!("sys/fs/cgroup/system.slice/docker-{WEB}.scope");
    let memory = fs::read_to_string(root.join(group).join("memory.current")).unwrap();
    let memory: Value = memory.trim().parse().unwrap();
    assert_eq!(web["memory_bytes"]["minimum"], memory);
    let (start, end) = (web["start"].as_f64(), web["end"].as_f64());
    assert!(start < end && end <= web["time"].as_f64(), "{web}");

    let points = api.get("/api/v1/containers/web/points?last=2").json();
    let points = points["points"].as_array().unwrap().clone();
    assert_eq!(points.len(), 2);
    assert!(points[0]["time"].as_f64() < points[1]["time"].as_f64());
    assert_eq!(points[1]["memory_bytes"], memory);
    // By ID prefix, cgroup path and full ID; the last is found in the cache.
    let path = format!("%2Fsystem.slice%2Fdocker-{WEB}.scope");
    for named in [WEB.split_at(20).0, path.as_str(), WEB] {
        let history = api.get(&format!("/api/v1/containers/{named}/history?window=1h"));
        let history = history.json();
        assert_eq!(history["container"], web["container"], "{named}");
        assert_eq!(history["window_seconds"], 3600.0);
    }
    // A container that is not running has no samples, so these fields are absent.
    let db = api.get("/api/v1/containers/db/history").json();
    let fields: BTreeSet<_> = db.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "container",
        "interval_seconds",
        "samples",
        "time",
        "window_seconds",
    ];
    assert_eq!(fields, BTreeSet::from(expected));
    assert_eq!(db["samples"], 0);
    let (status, history) = api.error("/api/v1/containers/%2Fsystem.slice%2Fssh.service/points");
    assert_eq!(status, 404);
    assert!(
        history.ends_with("is not a container: only containers have a history"),
        "{history}"
    );
}

#[test]
fn history_is_unavailable_without_the_sampler() {
    let api = ApiFixture::new("unsampled", &["--no-collector.history"]);
    let paths = ["host", "containers/web", "containers/none"];
    for path in paths.map(|subject| format!("/api/v1/{subject}")) {
        for below in ["history", "points"] {
            let (status, error) = api.error(&format!("{path}/{below}"));
            assert_eq!(status, 404, "{path}");
            assert!(error.contains("--no-collector.history"), "{error}");
            let (status, _) = api.error(&format!("{path}/{below}?x=1"));
            assert_eq!(status, 400, "{path}");
        }
    }
}

/// Copies a directory recursively, without symbolic links.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn removed_container_keeps_history_under_all_names() {
    let sysfs = TempDir::new("api-gone-sys");
    copy(
        &fixture("vm-v2").join("sys/fs/cgroup"),
        &sysfs.0.join("fs/cgroup"),
    );
    let flag = format!("--path.sysfs={}", sysfs.0.display());
    let api = ApiFixture::new("gone", &["--history.interval=100ms", &flag]);
    api.wait_for_samples("containers/web", 2);
    let group = format!("system.slice/docker-{WEB}.scope");
    fs::remove_dir_all(sysfs.0.join("fs/cgroup").join(&group)).unwrap();
    api.engine.set_containers(&[]);
    let mut web = FakeContainer::running('3', "web");
    WEB.clone_into(&mut web.id);
    api.engine.send_event(&web.event_json("die", &[]));
    api.engine.send_event(&web.event_json("destroy", &[]));
    wait_until("a removed container", || {
        (api.get("/api/v1/containers/web").status == 404).then_some(())
    });
    let path = format!("%2F{}", group.replace('/', "%2F"));
    for named in ["web", WEB, WEB.split_at(20).0, &path] {
        let gone = wait_until("history of the removed container", || {
            let history = api.get(&format!("/api/v1/containers/{named}/history"));
            assert_eq!(history.status, 200, "{named}: {}", history.json());
            (history.json()["is_gone"] == json!(true)).then(|| history.json())
        });
        assert!(gone["samples"].as_u64().unwrap() >= 2, "{named}: {gone}");
        assert_eq!(gone["container"]["id"], WEB);
        assert_eq!(gone["container"]["cgroup"], format!("/{group}"));
    }
    let points = api.get("/api/v1/containers/web/points").json();
    assert!(points["points"].as_array().unwrap().len() >= 2, "{points}");
}

#[test]
fn invalid_requests_get_json_errors() {
    let api = ApiFixture::new("wrong", &[]);
    for (path, status, error) in [
        ("/api", 404, "no such path"),
        ("/api/v2/host", 404, "no such path"),
        ("/api/v1/host/", 404, "no such path"),
        (
            "/api/v1/host?x",
            400,
            "unknown parameter \"x\": no parameters are supported",
        ),
        (
            "/api/v1/containers?al=true",
            400,
            "unknown parameter \"al\": expected all",
        ),
        (
            "/api/v1/containers?all=yes",
            400,
            "invalid all \"yes\": expected true or false",
        ),
        (
            "/api/v1/containers?all=true&all=true",
            400,
            "duplicate parameter \"all\"",
        ),
        ("/api/v1/containers/%ff", 400, "path is not UTF-8"),
        (
            "/api/v1/containers/web/history?window=5",
            400,
            "window: invalid duration \"5\": expected numbers with a unit (ns, us, ms, s, m or h), such as 5s, 1m30s or 500ms",
        ),
        (
            "/api/v1/host/history?window=745h",
            400,
            "window must be between 1s and 744h: \"745h\"",
        ),
        (
            "/api/v1/host/points?last=0",
            400,
            "invalid last \"0\": expected a number from 1 to 10000",
        ),
        (
            "/api/v1/host/points?window=1m",
            400,
            "unknown parameter \"window\": expected last",
        ),
    ] {
        assert_eq!(api.error(path), (status, error.to_owned()), "{path}");
    }
    assert_eq!(api.request("POST", "/api/v1/host", "").status, 405);
    let head = api.request("HEAD", "/api/v1/host", "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    let compressed = api.request("GET", "/api/v1/collectors", "Accept-Encoding: gzip\r\n");
    assert!(
        compressed.has("content-encoding: gzip"),
        "{}",
        compressed.head
    );
    assert!(compressed.body.starts_with(&[0x1f, 0x8b]));
}

#[test]
fn containers_list_why_names_are_missing() {
    let api = ApiFixture::new("details", &[]);
    let list = api.get("/api/v1/containers").json();
    let by_id: BTreeMap<&str, &Value> = list["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["id"].as_str().unwrap(), it))
        .collect();
    let web = by_id[WEB];
    assert_eq!(web["name"], "web");
    assert_eq!(web["state"], "running");
    assert_eq!(web["health"], "healthy");
    assert_eq!(web["restarts"], 3);
    assert_eq!(web["engine"], "docker");
    assert_eq!(web["image"], "nginx:1.27");
    assert_eq!(web["has_cgroup"], true);
    assert_eq!(web["is_current"], true);
    assert_eq!(web["started"], json!(1_795_244_229.299_047_2));
    assert!(web.get("finished").is_none() && web.get("unnamed").is_none());
    assert_eq!(by_id["7".repeat(64).as_str()]["has_cgroup"], false);
    let nameless = by_id[UNNAMED];
    assert_eq!(nameless["unnamed"]["reason"], "not_asked");
    assert!(nameless.get("name").is_none() && nameless.get("state").is_none());
    assert_eq!(by_id.len(), 4);
    assert_eq!(list["missing"], json!([]));
    // Labels are returned as filtered for metrics, and only for a single container.
    let text = list.to_string();
    assert!(!text.contains("labels"), "{text}");
    let one = api.get("/api/v1/containers/web").json();
    let labels = json!({"com.docker.compose.project": "shop"});
    assert_eq!(one["container"]["labels"], labels);
    let all = api.get("/api/v1/containers?all=true").json();
    let paths = all["containers"].as_array().unwrap().iter();
    let paths: BTreeSet<_> = paths.map(|it| it["cgroup"].as_str().unwrap()).collect();
    assert!(paths.contains("/system.slice/ssh.service"), "{paths:?}");
}

#[test]
fn without_cgroups_engine_state_is_returned() {
    let empty = TempDir::new("api-no-groups");
    let sysfs = format!("--path.sysfs={}", empty.0.display());
    let api = ApiFixture::new("no-groups", &[&sysfs]);
    let list = api.get("/api/v1/containers").json();
    let containers = list["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 3, "{list:#}");
    assert!(containers.iter().all(|it| it.get("has_cgroup").is_none()));
    assert_eq!(list["missing"][0]["part"], "control groups");
    assert_eq!(api.get("/api/v1/containers/web").status, 200);
    // The container may exist, so this is not a 404.
    let (status, body) = api.error("/api/v1/containers/a1b2");
    assert_eq!(status, 503, "{body}");
    assert!(
        body.contains("the listing is incomplete: control groups: "),
        "{body}"
    );
}

/// Mounts a FUSE file system whose server (the shell, later the exporter) never replies.
const MOUNT: &str = r#"exec 7<>/dev/fuse
mount -i -t fuse -o fd=7,rootmode=40000,user_id=0,group_id=0 nobody "$0"
exec "$@""#;

#[test]
fn hanging_cgroups_are_read_once_and_isolated() {
    if !crate::support::can_mount_fuse() {
        return;
    }
    let sysfs = TempDir::new("api-hung-groups-sys");
    let hung = sysfs.0.join("fs/cgroup");
    fs::create_dir_all(&hung).unwrap();
    let mut command = crate::support::unshare_mounts();
    command.args(["sh", "-ec", MOUNT]).arg(&hung).arg(BINARY);
    let sysfs = format!("--path.sysfs={}", sysfs.0.display());
    let api = ApiFixture::started_by(command, "hung-groups", &[&sysfs]);
    for _ in 0..20 {
        let list = api
            .request("GET", "/api/v1/containers", TIMEOUT_HEADER)
            .json();
        assert_eq!(list["containers"].as_array().unwrap().len(), 3, "{list:#}");
        assert_eq!(list["missing"][0]["part"], "control groups");
        let reason = list["missing"][0]["reason"].as_str().unwrap();
        assert!(reason.ends_with("has not responded since an earlier request"));
        assert_eq!(api.get("/api/v1/containers/web").status, 200);
        assert_eq!(api.get("/api/v1/host").json()["missing"], json!([]));
    }
    let metrics = api.get("/metrics?collect[]=loadavg").body;
    let metrics = String::from_utf8(metrics).unwrap();
    let threads = metrics
        .lines()
        .find_map(|line| line.strip_prefix("strata_worker_threads "));
    let threads: u32 = threads.unwrap().parse().unwrap();
    assert!(threads <= 3, "{threads} threads");
}

#[test]
fn host_is_read_from_files_and_missing_parts_are_isolated() {
    let api = ApiFixture::new("host", &[]);
    let host = api.get("/api/v1/host").json();
    let loadavg = fs::read_to_string(fixture("vm-v2").join("proc/loadavg")).unwrap();
    let first: f64 = loadavg.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(host["load"]["1m"], json!(first));
    assert!(host["memory"]["total_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(host["boot_time"].as_u64().unwrap() > 1_000_000_000);
    assert!(host["os"].as_str().unwrap().starts_with("Debian"));
    assert_eq!(host["missing"], json!([]));

    let empty = TempDir::new("api-no-os");
    let rootfs = format!("--path.rootfs={}", empty.0.display());
    let api = ApiFixture::new("no-os", &[&rootfs]);
    let without = api.get("/api/v1/host").json();
    assert!(without.get("os").is_none());
    assert_eq!(without["missing"][0]["part"], "os");
    assert_eq!(without["memory"], host["memory"]);
}

#[test]
fn hanging_libvirt_affects_only_domains() {
    let dir = TempDir::new("api-hung");
    let socket = dir.0.join("libvirt-sock");
    // Connections stay in the backlog and are never accepted.
    let _listener = UnixListener::bind(&socket).unwrap();
    let uri = format!(
        "--libvirt.uri=qemu+unix:///system?socket={}",
        socket.display()
    );
    let api = ApiFixture::new("hung", &[&uri]);
    for _ in 0..2 {
        let domains = api.request("GET", "/api/v1/domains", TIMEOUT_HEADER);
        let body = domains.json();
        assert_eq!(domains.status, 200, "{body}");
        assert!(body.get("domains").is_none(), "{body}");
        assert_eq!(body["missing"][0]["part"], "libvirt", "{body}");
        assert_eq!(api.get("/api/v1/host").status, 200);
        let list = api.get("/api/v1/containers").json();
        assert_eq!(list["containers"].as_array().unwrap().len(), 4);
    }
}

#[test]
fn json_requests_have_their_own_limit() {
    let dir = TempDir::new("api-limit");
    let socket = dir.0.join("libvirt-sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let uri = format!(
        "--libvirt.uri=qemu+unix:///system?socket={}",
        socket.display()
    );
    let api = ApiFixture::new("limit", &[&uri, "--web.max-requests=1"]);
    thread::scope(|scope| {
        let soon = "X-Prometheus-Scrape-Timeout-Seconds: 3\r\n";
        // This request may itself be rejected while the request below is being served.
        let hung = scope.spawn(|| {
            wait_until("a response", || {
                let domains = api.request("GET", "/api/v1/domains", soon);
                (domains.status != 503).then_some(domains)
            })
        });
        let rejected = wait_until("a rejected request", || {
            let host = api.get("/api/v1/host");
            (host.status == 503).then_some(host)
        });
        let error = "Limit of concurrent requests reached (1), try again later.";
        assert_eq!(rejected.json(), json!({"error": error}));
        assert_eq!(api.get("/metrics?collect[]=loadavg").status, 200);
        assert_eq!(hung.join().unwrap().status, 200);
    });
    // The slot is free again.
    assert_eq!(api.get("/api/v1/host").status, 200);
}

#[test]
fn collectors_report_their_last_outcome() {
    let api = ApiFixture::new("collectors", &["--no-collector.loadavg"]);
    let collector = |name: &str| {
        let all = api.get("/api/v1/collectors").json();
        let all = all["collectors"].as_array().unwrap().clone();
        all.into_iter().find(|it| it["name"] == name).unwrap()
    };
    assert!(collector("meminfo").get("last").is_none());
    api.exporter.metrics_text();
    let meminfo = collector("meminfo");
    assert_eq!(
        (&meminfo["enabled"], &meminfo["layer"]),
        (&json!(true), &json!("host"))
    );
    assert_eq!(meminfo["last"]["outcome"], "collected");
    assert!(meminfo["last"].get("error").is_none());
    let loadavg = collector("loadavg");
    assert_eq!(loadavg["enabled"], false);
    assert!(loadavg.get("last").is_none());
    let mdadm = collector("mdadm");
    assert_eq!(mdadm["last"]["outcome"], "no_data");
    let body = mdadm["last"]["error"].as_str().unwrap();
    assert!(body.ends_with("proc/mdstat does not exist"), "{body}");
}

/// Output of the `census` subcommand.
fn census(engine: &FakeEngine, flags: &[&str]) -> String {
    let output = Command::new(BINARY)
        .arg("census")
        .args(fixture_flags(engine))
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn census_is_anonymous_and_its_id_is_stable() {
    let engine = engine("census");
    let dir = TempDir::new("api-census");
    let state = format!("--census.state-directory={}", dir.0.display());
    let text = census(
        &engine,
        &["--json", &state, "--collector.census.high-restarts=2"],
    );
    let mut report: Value = serde_json::from_str(&text).unwrap();
    for secret in [WEB, "web", "secret", "shop", "docker"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    assert!(report["timestamp"].as_f64().unwrap() > 1e9);
    assert!(report["timezone"].is_string());
    assert!(report["avg_memory_bytes"].as_f64().unwrap() > 0.0);
    for unsteady in ["timestamp", "timezone", "avg_memory_bytes"] {
        report[unsteady] = Value::Null;
    }
    let id = fs::read_to_string(dir.0.join("installation-id")).unwrap();
    assert_eq!(
        report,
        json!({
            "installation_id": id.trim(),
            "version": env!("CARGO_PKG_VERSION"),
            "timestamp": null,
            "host_count": 1,
            "total_containers": 3,
            "containers_running": 1,
            "containers_stopped": 1,
            "containers_paused": 1,
            "containers_other": 0,
            "avg_cpu_percent": 0.0,
            "avg_memory_bytes": null,
            "total_memory_limit": 0,
            "avg_restarts": 1.0,
            "high_restart_containers": 1,
            "total_image_size": 4711,
            "unique_images": 1,
            "timezone": null,
            "image_stats": [{"image": "nginx:1.27", "count": 3, "size_bytes": 4711}],
        })
    );
    let text = census(
        &engine,
        &["--json", &state, "--engine.image-include=^(busybox|bb):"],
    );
    assert!(!text.contains("nginx"), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let others = json!([{"image": "<other>", "count": 3, "size_bytes": 4711}]);
    assert_eq!(report["image_stats"], others);
    let table = census(&engine, &[&state, "--census.hash-images"]);
    assert!(table.contains(id.trim()), "{table}");
    assert!(table.contains("\n  running               1\n"), "{table}");
    assert!(
        table.contains("         3          4711  sha256:"),
        "{table}"
    );
    assert!(!table.contains("nginx"), "{table}");
}

/// Exit code and output of `top` without a terminal.
fn top(args: &[&str]) -> (Option<i32>, String) {
    crate::support::server_process::run_with_input(Command::new(BINARY).arg("top").args(args), "")
}

#[test]
fn top_without_a_terminal_prints_one_table() {
    let dir = TempDir::new("api-top");
    let socket = dir.0.join("socket");
    let listen = format!("--web.listen-address=unix:{}", socket.display());
    let api = ApiFixture::new("top", &[&listen]);
    for url in [
        format!("http://{}", api.exporter.address),
        format!("unix://{}", socket.display()),
    ] {
        let (status, table) = top(&[&url]);
        assert_eq!(status, Some(0), "{table}");
        let lines: Vec<Vec<_>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let name = api.get("/api/v1/host").json()["name"].clone();
        assert_eq!(json!(lines[0][0]), name, "{table}");
        assert_eq!(
            lines[1].join(" "),
            "NAME KIND STATE CPU MEMORY NETWORK DISK PIDS"
        );
        let line = |name: &str| {
            let found = lines.iter().find(|line| line[0] == name);
            found.unwrap_or_else(|| panic!("{name}: {table}"))
        };
        assert_eq!(line("web")[1..3], ["docker", "running"]);
        assert_eq!(
            line("db")[1..],
            ["docker", "paused", "–", "–", "–", "–", "–"]
        );
        // The short ID, as engines print it.
        let short = UNNAMED.split_at(12).0;
        assert_eq!(line(short)[1], "podman");
    }
}

#[test]
fn top_reports_why_it_has_no_data() {
    let dir = TempDir::new("api-top-away");
    let missing_socket = format!("unix://{}/missing", dir.0.display());
    let (status, output) = top(&[&missing_socket]);
    assert_eq!(status, Some(1), "{output}");
    let expected =
        format!("strata_exporter: {missing_socket}/api/v1/host: No such file or directory");
    assert!(output.starts_with(&expected), "{output}");
    for (args, expected) in [
        (
            &["ftp://x"][..],
            "expected http://, https:// or unix:///PATH",
        ),
        (&["--top.interval=1ms"], "expected 500ms to 1h"),
    ] {
        let (status, output) = top(args);
        assert_eq!(
            (status, output.contains(expected)),
            (Some(2), true),
            "{output}"
        );
    }
}

#[test]
fn unstorable_id_is_logged_at_startup() {
    let error_of = |task: &str, flags: &[&str]| {
        let output = Command::new(BINARY).arg(task).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!Path::new("/nowhere").exists());
    for task in ["census", "serve"] {
        let stderr = error_of(task, &["--census.state-directory=/nowhere"]);
        let expected = "strata_exporter: --census.state-directory: /nowhere/installation-id: ";
        assert!(stderr.contains(expected), "{stderr}");
    }
    let stderr = error_of("serve", &["--json"]);
    assert!(
        stderr.contains("unexpected argument '--json' found"),
        "{stderr}"
    );
}
