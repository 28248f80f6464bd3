//! Misbehaving container engines, and the state that the exporter keeps of them: a fake engine on a
//! real socket.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::support::{
    fake_engine::{FakeContainer, FakeEngine, RESPONSE_HEAD, Reply},
    server_process::{ServerProcess, wait_until},
};
use strata_exporter::sources::engine::{
    Container, ContainerState, Engine, EngineFlags, EngineIntervals, EngineKind, Engines, Health,
    StorageKind,
};
use tokio::runtime::{Builder, Runtime};

use serde_json::json;

/// Never elapses during a test.
const LONG: Duration = Duration::from_secs(3600);
/// Elapses soon enough for a test to wait for it.
const SHORT: Duration = Duration::from_millis(100);
/// Time in which a working engine nearly always replies.
const SHORT_TIMEOUT: Duration = Duration::from_millis(300);

/// Waits long for replies and before it reconnects.
const PATIENT: EngineIntervals = EngineIntervals {
    discover_every: SHORT,
    backoff: Duration::from_millis(10),
    max_backoff: SHORT,
    request_timeout: LONG,
    first_list_timeout: LONG,
    ping_after: LONG,
    resync_every: LONG,
    min_inspect_gap: Duration::from_millis(1),
    min_health_inspect_gap: Duration::from_millis(10),
    debounce: Duration::from_millis(1),
    min_unknown_inspect_gap: Duration::from_millis(1),
    unknown_retry_after: LONG,
    first_disk_usage_after: LONG,
    disk_usage_timeout: LONG,
};

/// Short timeouts for replies.
const IMPATIENT: EngineIntervals = EngineIntervals {
    request_timeout: SHORT_TIMEOUT,
    first_list_timeout: SHORT_TIMEOUT,
    ..PATIENT
};

/// Engines that are followed until the end of the test.
struct Followed {
    engines: Arc<Engines>,
    runtime: Option<Runtime>,
}

impl Followed {
    fn at(sockets: &[&Path], timing: EngineIntervals) -> Self {
        let flags = EngineFlags {
            engine_socket: sockets.iter().map(PathBuf::from).collect(),
            ..EngineFlags::default()
        };
        Self::with(flags, timing)
    }

    fn with(flags: EngineFlags, timing: EngineIntervals) -> Self {
        let engines = Arc::new(Engines::with_intervals(flags, timing));
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { engines.watch() });
        Self {
            engines,
            runtime: Some(runtime),
        }
    }

    fn one(fake: &FakeEngine, timing: EngineIntervals) -> Self {
        Self::at(&[&fake.socket_path()], timing)
    }

    /// The only engine, if it is known yet.
    fn engine(&self) -> Option<Arc<Engine>> {
        let engines = self.engines.engines();
        assert!(engines.len() < 2, "{engines:#?}");
        engines.first().cloned()
    }

    fn until(&self, what: &str, is: impl Fn(&Engine) -> bool) -> Arc<Engine> {
        wait_until(what, || self.engine().filter(|engine| is(engine)))
    }

    fn until_up(&self) -> Arc<Engine> {
        self.until("a connected engine", |engine| engine.up)
    }

    /// Waits until the engine is down for this reason.
    fn until_down(&self, reason: &str) -> Arc<Engine> {
        self.until(reason, |engine| {
            let error = engine.error.as_deref();
            !engine.up && error.is_some_and(|error| error.contains(reason))
        })
    }

    fn until_container(
        &self,
        what: &str,
        container: &FakeContainer,
        is: impl Fn(&Container) -> bool,
    ) -> Arc<Container> {
        wait_until(what, || {
            let engine = self.engine()?;
            engine
                .containers
                .get(&container.id)
                .filter(|it| is(it))
                .cloned()
        })
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn names(engine: &Engine) -> Vec<&str> {
    let all = engine.containers.values();
    all.map(|container| container.name.as_str()).collect()
}

/// Endpoints that must respond before an engine counts as up.
const FIRST: [&str; 4] = ["/version", "/events", "/containers/json", "/info"];

// Invalid responses.

#[test]
fn engine_with_status_500_is_down_until_it_recovers() {
    for path in ["/version", "/events", "/containers/json"] {
        let fake = FakeEngine::docker("500");
        fake.set_containers(&[FakeContainer::running('a', "web")]);
        let failing = Reply::Status(500, json!({"message": "the disk\nis full"}).to_string());
        let version = json!({"Version": "1", "ApiVersion": "1.41"});
        fake.set_reply(path, failing);
        let followed = Followed::one(&fake, PATIENT);
        followed.until_down("500: the disk is full");

        fake.set_reply("/version", Reply::json(&version));
        fake.set_reply("/events", Reply::Events);
        fake.set_containers(&[FakeContainer::running('a', "web")]);
        assert_eq!(names(&followed.until_up()), ["web"], "{path}");
    }
}

#[test]
fn engine_with_garbage_replies_is_down() {
    let garbage: [&[u8]; 4] = [
        b"\x00\xff\x00\xfe garbage \r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"\xff\xff\":[",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    ];
    for path in ["/version", "/containers/json"] {
        for (at, garbage) in garbage.iter().enumerate() {
            let fake = FakeEngine::docker(&format!("garbage-{at}"));
            fake.set_reply(path, Reply::raw(*garbage));
            let followed = Followed::one(&fake, PATIENT);
            followed.until_down("");
            wait_until("another try", || {
                (fake.request_count(path) > 2).then_some(())
            });
        }
    }
}

#[test]
fn engine_with_truncated_response_is_down() {
    for half in [
        "HTTP/1.1 20".to_owned(),
        RESPONSE_HEAD.to_owned(),
        format!("{RESPONSE_HEAD}[{{\"Id\":\"aaa"),
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]".to_owned(),
    ] {
        let fake = FakeEngine::docker("half");
        fake.set_reply("/containers/json", Reply::raw(half));
        let followed = Followed::one(&fake, PATIENT);
        followed.until_down("list containers");
    }
}

#[test]
fn engine_that_never_replies_is_down() {
    for path in ["/version", "/events", "/containers/json"] {
        let fake = FakeEngine::docker("never");
        fake.set_reply(path, Reply::Hang);
        let followed = Followed::one(&fake, IMPATIENT);
        followed.until_down("timed out");
        wait_until("other tries", || {
            (fake.request_count(path) > 5).then_some(())
        });
        // Abandoned connections are closed.
        wait_until("few connections", || {
            (fake.open_connections() < 4).then_some(())
        });
    }
}

#[test]
fn optional_endpoints_may_fail() {
    for path in ["/info", "/images/json"] {
        for reply in [Reply::Hang, Reply::raw(""), Reply::Status(500, "no".into())] {
            let fake = FakeEngine::docker("partly");
            fake.set_containers(&[FakeContainer::running('a', "web")]);
            fake.set_reply(path, reply);
            let followed = Followed::one(&fake, IMPATIENT);
            let engine = followed.until_up();
            assert_eq!(names(&engine), ["web"], "{path}");
            if path == "/images/json" {
                // Unknown, not zero.
                assert_eq!(engine.images, None);
            }
        }
    }
}

#[test]
fn engine_that_never_accepts_is_down() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let dir = crate::support::server_process::TempDir::new("fake-backlog");
    let path = dir.0.join("sock");
    let address = SocketAddrUnix::new(&path).unwrap();
    let socket = || {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    };
    let listener = socket();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();

    // The backlog holds the first connection, which is never accepted, and no other.
    let followed = Followed::at(&[&path], IMPATIENT);
    followed.until_down("temporarily unavailable");

    let path = dir.0.join("roomy");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let followed = Followed::at(&[&path], IMPATIENT);
    followed.until_down("timed out");
}

#[test]
fn response_of_100_mb_is_not_read_to_the_end() {
    const MUCH: u64 = 100 << 20;
    let list = [
        ("/version", "{\"Version\":\"", 2 << 20),
        ("/version", "{", 2 << 20),
        ("/version", "a: b\r\n", 2 << 20),
        ("/events", " ", 2 << 20),
        ("/containers/json", "[{},", 20 << 20),
        ("/containers/json", "x", 70 << 20),
        ("/images/json", "[", 70 << 20),
    ];
    for (path, text, most) in list {
        let fake = FakeEngine::docker("flood");
        fake.set_reply(path, Reply::Flood(text, MUCH));
        let timing = EngineIntervals {
            backoff: LONG,
            ..PATIENT
        };
        let followed = Followed::one(&fake, timing);
        let sent_bytes = wait_until("a closed connection", || {
            let (sent_bytes, disconnects) = fake.flooded();
            assert!(sent_bytes < MUCH, "{path} {text}");
            (disconnects > 0).then_some(sent_bytes)
        });
        assert!(
            sent_bytes < most,
            "{path} {text}: {sent_bytes} bytes were read"
        );
        followed.until(&format!("a reason for {path} {text}"), |engine| {
            let error = engine.error.as_deref().unwrap_or_default();
            error.contains("too large")
        });
    }
}

// Events.

#[test]
fn ended_event_stream_reconnects_and_resyncs() {
    let (web, db) = (
        FakeContainer::running('a', "web"),
        FakeContainer::running('b', "db"),
    );
    let ways: [fn(&FakeEngine); 5] = [
        FakeEngine::end_events,
        FakeEngine::drop_connections,
        |fake| fake.send_event_bytes(b"garbage\n"),
        |fake| fake.send_event_bytes(b"\xff\xfe\n"),
        |fake| {
            fake.send_event_bytes(b"{\"Type\":\"container\",\"Acti");
            fake.drop_connections();
        },
    ];
    for (at, end) in ways.into_iter().enumerate() {
        let fake = FakeEngine::docker(&format!("end-{at}"));
        fake.set_containers(std::slice::from_ref(&web));
        let followed = Followed::one(&fake, PATIENT);
        assert_eq!(followed.until_up().connections, 1);
        fake.set_containers(std::slice::from_ref(&db));
        end(&fake);
        let engine = followed.until("another connection", |engine| {
            engine.up && engine.connections == 2
        });
        assert_eq!(names(&engine), ["db"], "way {at}");
        // The old connection is closed.
        wait_until("one listener", || {
            (fake.event_listener_count() == 1).then_some(())
        });
    }
}

#[test]
fn split_event_is_reassembled() {
    let fake = FakeEngine::docker("pieces");
    let web = FakeContainer::running('a', "web");
    fake.set_containers(std::slice::from_ref(&web));
    let followed = Followed::one(&fake, PATIENT);
    followed.until_up();
    let event = format!("{}\n", web.event_json("pause", &[]));
    let (first, second) = event.split_at(40);
    fake.send_event_bytes(first.as_bytes());
    fake.send_event_bytes(second.as_bytes());
    followed.until_container("a pause", &web, |it| it.state == ContainerState::Paused);
    assert_eq!(followed.engine().unwrap().connections, 1);
}

#[test]
fn unterminated_event_closes_the_connection() {
    let fake = FakeEngine::docker("endless-event");
    let followed = Followed::one(&fake, PATIENT);
    followed.until_up();
    for _ in 0..100 {
        fake.send_event_bytes(&[b' '; 16 << 10]);
    }
    followed.until("another connection", |engine| engine.connections > 1);
}

#[test]
fn hanging_engine_is_detected_and_recovers() {
    let fake = FakeEngine::docker("hangs");
    fake.set_containers(&[FakeContainer::running('a', "web")]);
    let timing = EngineIntervals {
        ping_after: SHORT,
        ..IMPATIENT
    };
    let followed = Followed::one(&fake, timing);
    followed.until_up();
    for path in FIRST.into_iter().chain(["/_ping"]) {
        fake.set_reply(path, Reply::Hang);
    }
    let engine = followed.until_down("timed out");
    assert_eq!(names(&engine), ["web"]);
    // The abandoned event stream is closed.
    wait_until("no listener", || {
        (fake.event_listener_count() == 0).then_some(())
    });
    fake.set_version(&json!({"Version": "1", "ApiVersion": "1.41"}));
    fake.set_reply("/info", Reply::json(&json!({})));
    fake.set_reply("/events", Reply::Events);
    fake.set_containers(&[FakeContainer::running('b', "db")]);
    assert_eq!(names(&followed.until_up()), ["db"]);
}

// Starting and stopping engines.

#[test]
fn engine_started_later_is_discovered() {
    let mut fake = FakeEngine::not_listening("later");
    fake.set_containers(&[FakeContainer::running('a', "web")]);
    let followed = Followed::one(&fake, PATIENT);
    let engine = followed.until_down("socket not found");
    assert_eq!((engine.confirmed, engine.connections), (None, 0));
    fake.listen();
    assert_eq!(names(&followed.until_up()), ["web"]);
}

#[test]
fn state_survives_an_outage_and_is_resynced() {
    let mut fake = FakeEngine::docker("away");
    let (gone, old) = (
        FakeContainer::running('a', "gone"),
        FakeContainer::running('b', "old"),
    );
    let stays = FakeContainer::running('c', "stays");
    fake.set_containers(&[gone, old.clone(), stays.clone()]);
    let followed = Followed::one(&fake, PATIENT);
    let before = followed.until_up();
    assert_eq!(names(&before), ["gone", "old", "stays"]);

    fake.stop();
    let away = followed.until("a failure", |engine| !engine.up);
    assert_eq!(names(&away), ["gone", "old", "stays"]);
    assert!(away.error.is_some() && away.confirmed.is_some());

    let renamed = FakeContainer {
        name: "new".to_owned(),
        ..old
    };
    let restarted = FakeContainer {
        pid: 4002,
        restarts: 3,
        ..stays
    };
    fake.set_containers(&[
        renamed,
        restarted.clone(),
        FakeContainer::running('d', "young"),
    ]);
    fake.listen();
    let back = followed.until_up();
    assert_eq!(names(&back), ["new", "stays", "young"]);
    assert_eq!(back.error, None);
    assert_eq!(back.connections, 2);
    // Name and state are unchanged, but the container was inspected again.
    let stays = &back.containers[&restarted.id];
    assert_eq!((stays.pid, stays.restart_count), (Some(4002), Some(3)));
}

#[test]
fn symlinked_socket_is_the_same_engine() {
    let fake = FakeEngine::docker("link");
    let link = fake.dir().join("link");
    std::os::unix::fs::symlink(fake.socket_path(), &link).unwrap();
    let dangling = fake.dir().join("dangling");
    std::os::unix::fs::symlink(fake.dir().join("no"), &dangling).unwrap();
    let followed = Followed::at(&[&link, &fake.socket_path(), &link], PATIENT);
    assert_eq!(followed.until_up().socket, link);
    assert_eq!(fake.request_count("/version"), 1);

    // Two engines until the dangling symbolic link resolves to the other's socket.
    let followed = Followed::at(&[&fake.socket_path(), &dangling], PATIENT);
    wait_until("two engines", || {
        let engines = followed.engines.engines();
        (engines.len() == 2 && engines.iter().any(|it| it.up)).then_some(())
    });
    std::fs::remove_file(&dangling).unwrap();
    std::os::unix::fs::symlink(fake.socket_path(), &dangling).unwrap();
    wait_until("one engine", || {
        let engines = followed.engines.engines();
        (engines.len() == 1 && engines[0].socket == fake.socket_path()).then_some(())
    });
}

#[test]
fn failing_engine_does_not_affect_another() {
    let (healthy, failing) = (FakeEngine::docker("healthy"), FakeEngine::docker("failing"));
    let web = FakeContainer::running('a', "web");
    healthy.set_containers(std::slice::from_ref(&web));
    failing.set_containers(std::slice::from_ref(&web));
    for path in FIRST {
        failing.set_reply(path, Reply::Hang);
    }
    let followed = Followed::at(&[&failing.socket_path(), &healthy.socket_path()], IMPATIENT);
    wait_until("the healthy engine", || {
        let engines = followed.engines.engines();
        let find_engine =
            |fake: &FakeEngine| engines.iter().find(|it| it.socket == fake.socket_path());
        let (healthy, failing) = (find_engine(&healthy)?, find_engine(&failing)?);
        (healthy.up && !failing.up && failing.error.is_some())
            .then(|| assert_eq!(names(healthy), ["web"]))
    });
}

#[test]
fn two_engines_may_have_the_same_container() {
    let (one, other) = (FakeEngine::docker("one"), FakeEngine::docker("other"));
    let web = FakeContainer::running('a', "web");
    one.set_containers(std::slice::from_ref(&web));
    other.set_containers(std::slice::from_ref(&web));
    let followed = Followed::at(&[&one.socket_path(), &other.socket_path()], PATIENT);
    wait_until("both", || {
        let engines = followed.engines.engines();
        let all_up = engines.len() == 2 && engines.iter().all(|it| it.up);
        all_up.then(|| assert!(engines.iter().all(|it| names(it) == ["web"])))
    });
    // Events of one engine do not affect the other's container.
    one.send_event(&web.event_json("pause", &[]));
    wait_until("a pause", || {
        let engines = followed.engines.engines();
        let states: Vec<_> = engines
            .iter()
            .map(|it| it.containers[&web.id].state)
            .collect();
        (states == [ContainerState::Paused, ContainerState::Running]).then_some(())
    });
}

// Container events.

#[test]
fn container_state_follows_events() {
    let fake = FakeEngine::docker("lifecycle");
    let mut web = FakeContainer::running('a', "web");
    fake.set_containers(std::slice::from_ref(&web));
    let followed = Followed::one(&fake, PATIENT);
    let engine = followed.until_up();
    let requests_before = fake.request_count(&format!("/containers/{}/json", web.id));
    assert_eq!(requests_before, 1);
    let container = &engine.containers[&web.id];
    assert_eq!(container.pid, Some(4001));
    assert_eq!(container.image, "nginx:1.27");
    assert_eq!(container.finished, None);

    fake.send_event(&web.event_json("rename", &[("oldName", "/web"), ("name", "shop")]));
    followed.until_container("a name", &web, |it| it.name == "shop");
    fake.send_event(&web.event_json("pause", &[]));
    followed.until_container("a pause", &web, |it| it.state == ContainerState::Paused);
    fake.send_event(&web.event_json("unpause", &[]));
    followed.until_container("a running state", &web, |it| {
        it.state == ContainerState::Running
    });
    fake.send_event(&web.event_json("health_status: healthy", &[]));
    followed.until_container("health", &web, |it| it.health == Some(Health::Healthy));
    fake.send_event(&web.event_json("oom", &[]));
    followed.until_container("an OOM event", &web, |it| it.oom_events == 1);
    fake.send_event(&web.event_json("die", &[("exitCode", "137")]));
    let dead = followed.until_container("an end", &web, |it| it.state == ContainerState::Exited);
    assert_eq!(
        (dead.exit_code, dead.pid, dead.health),
        (Some(137), None, None)
    );
    assert_eq!(dead.finished.map(|at| at.as_secs()), Some(1_795_244_300));
    // Everything came from events; no request was sent.
    assert_eq!(
        fake.request_count(&format!("/containers/{}/json", web.id)),
        1
    );

    web.name = "shop".to_owned();
    web.pid = 4002;
    fake.set_containers(std::slice::from_ref(&web));
    fake.send_event(&web.event_json("start", &[]));
    let again = followed.until_container("a start", &web, |it| it.pid == Some(4002));
    assert_eq!(
        (again.state, again.exit_code),
        (ContainerState::Running, None)
    );
    assert_eq!(again.oom_events, 1, "is counted over restarts");

    fake.set_containers(&[]);
    fake.send_event(&web.event_json("destroy", &[]));
    followed.until("nothing", |engine| engine.containers.is_empty());
    assert_eq!(fake.request_count("/containers/json"), 1);
}

#[test]
fn created_container_is_inspected() {
    let fake = FakeEngine::docker("created");
    let followed = Followed::one(&fake, PATIENT);
    followed.until_up();
    let mut web = FakeContainer::running('a', "web");
    web.state = "created";
    web.pid = 0;
    fake.set_containers(std::slice::from_ref(&web));
    fake.send_event(&web.event_json("create", &[]));
    let created = followed.until_container("a container", &web, |_| true);
    assert_eq!(
        (created.state, created.pid),
        (ContainerState::Created, None)
    );
}

#[test]
fn container_restarted_by_engine_is_inspected_each_time() {
    let fake = FakeEngine::docker("policy");
    let mut web = FakeContainer::running('a', "web");
    web.restart_policy = "always";
    fake.set_containers(std::slice::from_ref(&web));
    let followed = Followed::one(&fake, PATIENT);
    followed.until_up();
    (web.state, web.pid, web.restarts, web.exit_code) = ("restarting", 0, 5, 3);
    fake.set_containers(std::slice::from_ref(&web));
    fake.send_event(&web.event_json("die", &[("exitCode", "3")]));
    let it = followed.until_container("its state", &web, |it| {
        it.state == ContainerState::Restarting
    });
    assert_eq!((it.restart_count, it.exit_code), (Some(5), Some(3)));
}

#[test]
fn container_removed_before_inspect_is_dropped() {
    let fake = FakeEngine::docker("vanishes");
    let (web, gone) = (
        FakeContainer::running('a', "web"),
        FakeContainer::running('b', "gone"),
    );
    fake.set_containers(&[web, gone.clone()]);
    let path = format!("/containers/{}/json", gone.id);
    fake.set_reply(
        &path,
        Reply::Status(404, json!({"message": "No such container"}).to_string()),
    );
    let followed = Followed::one(&fake, PATIENT);
    let engine = followed.until_up();
    assert_eq!(names(&engine), ["web"]);
    assert_eq!(engine.error, None);
    assert_eq!(fake.request_count(&path), 1);
}

#[test]
fn failed_inspect_affects_only_its_container() {
    let fake = FakeEngine::docker("undescribed");
    let (web, odd) = (
        FakeContainer::running('a', "web"),
        FakeContainer::running('b', "odd"),
    );
    fake.set_containers(&[web.clone(), odd.clone()]);
    let path = format!("/containers/{}/json", odd.id);
    // A response about a different container is invalid, too.
    for reply in [
        Reply::Status(500, "broken".to_owned()),
        Reply::raw("garbage"),
        Reply::raw(format!("{RESPONSE_HEAD}{{}}")),
        Reply::Hang,
        Reply::json(&json!({"Id": web.id, "State": {"Status": "running", "Pid": 7}})),
    ] {
        fake.set_reply(&path, reply);
        let followed = Followed::one(&fake, IMPATIENT);
        let engine = followed.until("an inspected container", |engine| {
            let web = engine.containers.get(&web.id);
            let error = engine.error.as_deref().unwrap_or_default();
            let is_odd = error.ends_with("(bbbbbbbbbbbb)");
            engine.up && is_odd && web.is_some_and(|web| web.pid == Some(4001))
        });
        assert_eq!(names(&engine), ["web", "odd"]);
        assert_eq!(engine.containers[&odd.id].pid, None);
    }
}

#[test]
fn events_during_the_listing_are_applied() {
    let fake = FakeEngine::docker("meanwhile");
    let (web, gone) = (
        FakeContainer::running('a', "web"),
        FakeContainer::running('b', "gone"),
    );
    let new_container = FakeContainer::running('c', "young");
    fake.set_containers(&[web.clone(), gone.clone()]);
    fake.hold_replies("/containers/json");
    let followed = Followed::one(&fake, PATIENT);
    wait_until("a list", || {
        (fake.request_count("/containers/json") == 1 && fake.event_listener_count() == 1)
            .then_some(())
    });
    let list = |all: &[&FakeContainer]| {
        fake.set_containers(&all.iter().map(|it| (*it).clone()).collect::<Vec<_>>());
    };
    list(&[&web, &new_container]);
    fake.send_event(&gone.event_json("destroy", &[]));
    fake.send_event(&new_container.event_json("create", &[]));
    fake.release_replies("/containers/json");
    followed.until("the current containers", |engine| {
        names(engine) == ["web", "young"]
    });
}

#[test]
fn periodic_resync_corrects_missed_events() {
    let fake = FakeEngine::docker("refresh");
    let mut web = FakeContainer::running('a', "web");
    fake.set_containers(&[web.clone(), FakeContainer::running('b', "gone")]);
    let timing = EngineIntervals {
        resync_every: SHORT,
        ..PATIENT
    };
    let followed = Followed::one(&fake, timing);
    followed.until_up();
    web.name = "shop".to_owned();
    (web.state, web.pid, web.exit_code) = ("exited", 0, 7);
    fake.set_containers(std::slice::from_ref(&web));
    let engine = followed.until("the current containers", |engine| names(engine) == ["shop"]);
    assert_eq!(engine.connections, 1);
    followed.until_container("its end", &web, |it| it.exit_code == Some(7));
}

#[test]
fn unknown_container_is_inspected_once() {
    let fake = FakeEngine::docker("seen");
    let followed = Followed::one(&fake, PATIENT);
    followed.until_up();
    let (listed, not) = (
        FakeContainer::running('a', "web"),
        FakeContainer::running('b', "other's"),
    );
    fake.set_containers(std::slice::from_ref(&listed));
    for _ in 0..20 {
        followed.engines.request_inspect(&listed.id);
        followed.engines.request_inspect(&not.id);
        followed.engines.request_inspect("../../images/json");
        followed.engines.request_inspect("");
    }
    let found = followed.until_container("a container", &listed, |_| true);
    assert_eq!(found.name, "web");
    let paths = [&listed, &not].map(|it| format!("/containers/{}/json", it.id));
    wait_until("both inspect requests", || {
        let requests_before = paths.each_ref().map(|path| fake.request_count(path));
        assert!(
            requests_before.iter().all(|n| *n <= 1),
            "{requests_before:?}"
        );
        (requests_before == [1, 1]).then_some(())
    });
    followed.engines.request_inspect(&not.id);
    fake.send_event(&listed.event_json("pause", &[]));
    followed.until_container("a pause", &listed, |it| it.state == ContainerState::Paused);
    let all = fake.requests();
    assert_eq!(all.len(), FIRST.len() + 1 + 2, "{all:#?}");
}

#[test]
fn slow_engine_gets_few_requests_despite_many_events() {
    let fake = FakeEngine::docker("slow");
    let web = FakeContainer::running('a', "web");
    fake.set_containers(std::slice::from_ref(&web));
    let followed = Followed::one(&fake, PATIENT);
    followed.until_up();
    let requests_before = fake.requests().len();
    fake.hold_replies("/images/json");
    for at in 0..100 {
        let mut new_container = FakeContainer::running('b', "young");
        new_container.id = format!("{at:064x}");
        fake.hold_replies(&format!("/containers/{}/json", new_container.id));
        fake.send_event(&new_container.event_json("create", &[]));
        fake.send_event(&json!({"Type": "image", "Action": "tag"}));
        // The removed container is not waited for, but its request is still pending.
        fake.send_event(&new_container.event_json("destroy", &[]));
        let pause = if at % 2 == 0 { "pause" } else { "unpause" };
        fake.send_event(&web.event_json(pause, &[]));
    }
    // Events are applied in order; each batch of requests had its time.
    followed.until("all events", |engine| engine.events == 400);
    wait_until("questions", || {
        (fake.requests().len() > requests_before).then_some(())
    });
    let containers = fake.requests().split_off(requests_before);
    let images = containers.iter().filter(|it| it.contains("/images/"));
    let images = images.count();
    assert!(
        images <= 1 && containers.len() - images <= 4,
        "{containers:#?}"
    );
    // The image events received meanwhile still cause a new listing.
    fake.set_reply("/images/json", Reply::json(&json!([])));
    let listed = fake.request_count("/images/json");
    fake.release_replies("/images/json");
    wait_until("another list", || {
        (fake.request_count("/images/json") > listed).then_some(())
    });
}

// Labels.

#[test]
fn labels_are_kept_if_selected_and_not_too_long() {
    let fake = FakeEngine::docker("labels");
    let mut web = FakeContainer::running('a', "web");
    let odd = "say \"hi\"\nand \\ go\u{0}";
    web.labels = [
        ("wanted", odd),
        ("unwanted", "secret"),
        ("long", &"x".repeat(10_000)),
        ("com.docker.compose.project", "shop"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    fake.set_containers(std::slice::from_ref(&web));
    let flags = EngineFlags {
        engine_socket: vec![fake.socket_path()],
        engine_label_include: ["wanted", "long", "absent"].map(str::to_owned).into(),
        ..EngineFlags::default()
    };
    let followed = Followed::with(flags, PATIENT);
    let engine = followed.until_up();
    let labels = &engine.containers[&web.id].labels;
    assert_eq!(*labels, [("wanted".to_owned(), odd.to_owned())]);

    let followed = Followed::one(&fake, PATIENT);
    let engine = followed.until_up();
    let labels = &engine.containers[&web.id].labels;
    let project = ("com.docker.compose.project".to_owned(), "shop".to_owned());
    assert_eq!(*labels, [project]);
}

// Docker and Podman, old and new versions.

#[test]
fn api_version_is_negotiated() {
    for (most, least, negotiated) in [
        ("1.41", "1.12", "1.41"),
        ("1.52", "1.44", "1.52"),
        // Newer than this client, but still supports the client's version,
        ("1.99", "1.40", "1.53"),
        // or no longer does.
        ("1.99", "1.60", "1.60"),
        ("1.24", "1.12", "1.24"),
    ] {
        let fake = FakeEngine::docker(&format!("api-{most}-{least}"));
        fake.set_version(&json!({
            "Version": "9", "ApiVersion": most, "MinAPIVersion": least,
            "Components": [{"Name": "Engine", "Version": "9"}],
        }));
        let followed = Followed::one(&fake, PATIENT);
        let engine = followed.until_up();
        assert_eq!(engine.api_version.as_deref(), Some(negotiated));
        assert_eq!(engine.kind, Some(EngineKind::Docker));
        for request in fake.requests() {
            let is_versioned = request.starts_with(&format!("/v{negotiated}/"));
            assert!(is_versioned || request == "/version", "{request}");
        }
    }
}

#[test]
fn engine_without_api_version_gets_unversioned_paths() {
    let fake = FakeEngine::docker("api-none");
    fake.set_version(&json!({}));
    let followed = Followed::one(&fake, PATIENT);
    let engine = followed.until_up();
    assert_eq!((&engine.api_version, &engine.version), (&None, &None));
    let all = fake.requests();
    assert!(all.iter().all(|it| !it.starts_with("/v1.")), "{all:#?}");
}

/// Podman's response to `/version`.
fn podman(version: &str) -> serde_json::Value {
    json!({
        "Platform": {"Name": "linux/amd64/debian-12"},
        "Components": [
            {"Name": "Podman Engine", "Version": version, "Details": {"MinAPIVersion": "4.0.0"}},
            {"Name": "Conmon", "Version": "conmon version 2.1.6, commit: unknown"},
        ],
        "Version": version, "ApiVersion": "1.41", "MinAPIVersion": "1.24",
    })
}

#[test]
fn podman_dialect_is_understood() {
    for version in ["4.3.1", "5.4.0"] {
        let fake = FakeEngine::docker(&format!("podman-{version}"));
        fake.set_version(&podman(version));
        let mut web = FakeContainer::running('a', "web");
        web.image = "localhost/nginx:1.27".to_owned();
        web.health = Some(json!({"Status": "", "FailingStreak": 0, "Log": null}));
        let odd = FakeContainer {
            // Ended, but not yet cleaned up.
            state: "stopped",
            pid: 0,
            ..FakeContainer::running('b', "odd")
        };
        fake.set_containers(&[web.clone(), odd.clone()]);
        let followed = Followed::one(&fake, PATIENT);
        let engine = followed.until_up();
        assert_eq!(engine.kind, Some(EngineKind::Podman));
        assert_eq!(engine.containers[&web.id].health, None);
        assert_eq!(engine.containers[&odd.id].state, ContainerState::Exited);

        // A health event without the status causes an inspect.
        web.health = Some(json!({"Status": "unhealthy", "FailingStreak": 3, "Log": null}));
        fake.set_containers(&[web.clone(), odd.clone()]);
        fake.send_event(&web.event_json("health_status", &[("containerExitCode", "0")]));
        followed.until_container("health", &web, |it| it.health == Some(Health::Unhealthy));
        // Here the event contains it.
        fake.send_event(&web.event_json("health_status", &[("health_status", "healthy")]));
        followed.until_container("health", &web, |it| it.health == Some(Health::Healthy));

        // The event has the new name, but not the old one.
        fake.send_event(&web.event_json("rename", &[("name", "shop")]));
        followed.until_container("a name", &web, |it| it.name == "shop");
        fake.send_event(&web.event_json("exec_died", &[("containerExitCode", "0")]));
        let died = ("exitCode", "137");
        fake.send_event(&web.event_json("died", &[died, ("containerExitCode", "0")]));
        let dead =
            followed.until_container("an end", &web, |it| it.state == ContainerState::Exited);
        assert_eq!(dead.exit_code, Some(137));
        fake.set_containers(std::slice::from_ref(&odd));
        fake.send_event(&web.event_json("remove", &[]));
        followed.until("a removed container", |engine| names(engine) == ["odd"]);
        assert_eq!(followed.engine().unwrap().connections, 1);
    }
}

#[test]
fn unknown_words_affect_only_their_field() {
    let fake = FakeEngine::docker("words");
    fake.set_version(&json!({
        "Version": "35.0", "ApiVersion": "1.70", "MinAPIVersion": "1.50",
        "Components": [{"Name": "Engine", "Version": "35.0"}],
    }));
    fake.set_reply(
        "/info",
        Reply::json(&json!({"CgroupDriver": "systemd", "Swarm": {"LocalNodeState": "odd"}})),
    );
    let mut web = FakeContainer::running('a', "web");
    web.health = Some(json!({"Status": "stopped"}));
    web.restart_policy = "sometimes";
    let odd = FakeContainer {
        state: "hibernating",
        ..FakeContainer::running('b', "odd")
    };
    fake.set_containers(&[web.clone(), odd.clone()]);
    let followed = Followed::one(&fake, PATIENT);
    let engine = followed.until_up();
    assert_eq!(engine.containers[&web.id].pid, Some(4001));
    assert_eq!(engine.containers[&web.id].health, None);
    assert_eq!(engine.containers.get(&odd.id), None);
    assert_eq!(engine.cgroup_driver.as_deref(), Some("systemd"));
    fake.send_event(&web.event_json("contemplate", &[]));
    fake.send_event(&web.event_json("pause", &[]));
    followed.until_container("a pause", &web, |it| it.state == ContainerState::Paused);
    assert_eq!(followed.engine().unwrap().connections, 1);
}

// Disk usage.

/// An engine's response with this size of its volumes.
fn disk(bytes: u64) -> Reply {
    Reply::json(&json!({
        "LayersSize": 5, "Images": [], "Containers": [],
        "Volumes": [{"Name": "v", "UsageData": {"RefCount": 1, "Size": bytes}}],
    }))
}

/// Last known size of an engine's volumes.
fn volumes(engine: &Engine) -> Option<u64> {
    let kinds = engine.disk_usage.as_ref()?.by_kind;
    kinds
        .iter()
        .find(|(it, _)| *it == StorageKind::Volumes)?
        .1
        .used
}

fn followed_for_sizes(fake: &FakeEngine, every: Duration, within: Duration) -> Followed {
    let flags = EngineFlags {
        engine_socket: vec![fake.socket_path()],
        disk_usage_interval: Some(every),
        ..EngineFlags::default()
    };
    let timing = EngineIntervals {
        first_disk_usage_after: Duration::from_millis(1),
        disk_usage_timeout: within,
        ..PATIENT
    };
    Followed::with(flags, timing)
}

#[test]
fn disk_usage_is_refreshed_and_survives_failures() {
    let fake = FakeEngine::docker("sizes");
    fake.set_reply("/system/df", disk(7));
    let followed = followed_for_sizes(&fake, SHORT, LONG);
    followed.until("sizes", |engine| volumes(engine) == Some(7));
    fake.set_reply("/system/df", disk(8));
    followed.until("other sizes", |engine| volumes(engine) == Some(8));
    for reply in [Reply::Status(500, "busy".to_owned()), Reply::raw("garbage")] {
        let failures = followed.engine().unwrap().disk_usage_failures;
        fake.set_reply("/system/df", reply);
        let engine = followed.until("failures", |engine| {
            engine.disk_usage_failures > failures + 1
        });
        assert!(engine.up && engine.error.is_none());
        assert_eq!(volumes(&engine), Some(8));
    }
    fake.set_reply("/system/df", disk(9));
    followed.until("sizes again", |engine| volumes(engine) == Some(9));
    assert_eq!(fake.request_count("/version"), 1);
}

#[test]
fn disk_usage_request_has_a_timeout_and_runs_once() {
    let fake = FakeEngine::docker("sizes-late");
    let web = FakeContainer::running('a', "web");
    fake.set_containers(std::slice::from_ref(&web));
    fake.set_reply("/system/df", disk(7));
    fake.hold_replies("/system/df");
    let followed = followed_for_sizes(&fake, Duration::from_millis(1), LONG);
    wait_until("a request", || {
        (fake.request_count("/system/df") == 1).then_some(())
    });
    // Meanwhile events are processed and no second request is sent.
    for at in 0..50 {
        let (action, state) = match at % 2 {
            0 => ("pause", ContainerState::Paused),
            _ => ("unpause", ContainerState::Running),
        };
        fake.send_event(&web.event_json(action, &[]));
        let started = std::time::Instant::now();
        while followed.engine().unwrap().containers[&web.id].state != state {
            assert!(started.elapsed() < crate::support::server_process::WAIT_TIMEOUT);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(fake.request_count("/system/df"), 1);
    fake.release_replies("/system/df");
    followed.until("sizes", |engine| volumes(engine) == Some(7));

    let fake = FakeEngine::docker("sizes-never");
    fake.set_reply("/system/df", Reply::Hang);
    let followed = followed_for_sizes(&fake, SHORT, SHORT);
    let engine = followed.until("failures", |engine| engine.disk_usage_failures > 1);
    assert!(engine.up && engine.disk_usage.is_none());
    assert_eq!(fake.request_count("/version"), 1);
}

#[test]
fn disk_usage_is_not_retried_at_once_after_reconnect() {
    let fake = FakeEngine::docker("sizes-lost");
    fake.set_reply("/system/df", Reply::Hang);
    let followed = followed_for_sizes(&fake, LONG, LONG);
    wait_until("a request", || {
        (fake.request_count("/system/df") == 1).then_some(())
    });
    for connections in 2..5 {
        fake.drop_connections();
        followed.until("another connection", |engine| {
            engine.up && engine.connections == connections
        });
    }
    let engine = followed.engine().unwrap();
    assert_eq!(
        (engine.disk_usage_failures, fake.request_count("/system/df")),
        (1, 1)
    );
}

#[test]
fn disk_usage_is_not_requested_unless_enabled() {
    let fake = FakeEngine::docker("sizes-unwanted");
    fake.set_reply("/system/df", disk(7));
    let timing = EngineIntervals {
        first_disk_usage_after: Duration::ZERO,
        resync_every: Duration::from_millis(10),
        ..PATIENT
    };
    let followed = Followed::one(&fake, timing);
    wait_until("some lists", || {
        (fake.request_count("/containers/json") > 5).then_some(())
    });
    assert_eq!(fake.request_count("/system/df"), 0);
    assert!(followed.engine().unwrap().disk_usage.is_none());
}

// The exporter's binary.

/// The exporter on a fixture machine, with this engine.
fn exporter(fake: &FakeEngine) -> ServerProcess {
    let line = crate::support::fixture_args(&crate::support::fixture("vm-v2"));
    let mut flags: Vec<String> = line.into_iter().skip(1).collect();
    flags.extend(
        [
            "census",
            "census_images",
            "container_engine",
            "container_lifecycle",
        ]
        .map(|collector| format!("--collector.{collector}")),
    );
    flags.push(format!(
        "--engine.socket=unix://{}",
        fake.socket_path().display()
    ));
    ServerProcess::start_exporter(&flags, fake.dir())
}

fn value(metrics: &str, series: &str) -> Option<String> {
    let mut lines = metrics.lines();
    lines.find_map(|line| Some(line.strip_prefix(series)?.rsplit(' ').next()?.to_owned()))
}

#[test]
fn scrape_makes_no_engine_request() {
    let fake = FakeEngine::docker("scrape");
    // Both have cgroups on this machine; the engine lists one.
    let mut web = FakeContainer::running('a', "web");
    web.id = "3f4e5d6c7b8a99887766554433221100ffeeddccbbaa00112233445566778899".to_owned();
    let other = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";
    fake.set_containers(std::slice::from_ref(&web));
    let exporter = exporter(&fake);
    wait_until("engine data", || {
        let metrics = exporter.metrics_text();
        let up = value(&metrics, "strata_engine_up{")?;
        let has_images = value(&metrics, "census_images ").is_some();
        (up == "1" && has_images && metrics.contains("name=\"web\"")).then_some(())
    });
    // The first scrape found the cgroup of a container that the engine had not listed.
    let path = format!("/containers/{other}/json");
    wait_until("an inspect request", || {
        exporter.metrics_text();
        (fake.request_count(&path) == 1).then_some(())
    });
    let requests_before = fake.requests();
    for _ in 0..20 {
        let metrics = exporter.metrics_text();
        assert!(metrics.contains("container_cpu_usage_seconds_total{"));
        assert!(metrics.contains("name=\"web\""));
        assert!(value(&metrics, "census_images ").is_some());
    }
    assert_eq!(fake.requests(), requests_before);
}

#[test]
fn failing_engine_costs_only_names() {
    let golden = crate::support::golden("vm-v2.prom");
    let golden = std::fs::read_to_string(golden).unwrap();
    for (at, reply) in [
        Reply::raw("garbage"),
        Reply::Status(500, "no".to_owned()),
        Reply::Hang,
    ]
    .into_iter()
    .enumerate()
    {
        let fake = FakeEngine::docker(&format!("costs-{at}"));
        for path in FIRST {
            fake.set_reply(path, reply.clone());
        }
        let exporter = exporter(&fake);
        wait_until("a request", || {
            (fake.request_count("/version") > 0).then_some(())
        });
        let metrics = exporter.metrics_text();
        assert_eq!(value(&metrics, "strata_engine_up{").as_deref(), Some("0"));
        assert!(value(&metrics, "node_load1 ").is_some());
        assert!(value(&metrics, "node_memory_MemTotal_bytes ").is_some());
        assert!(metrics.contains("container_cpu_usage_seconds_total{"));
        let is_failure = |line: &&str| {
            line.starts_with("node_scrape_collector_success{") && line.ends_with(" 0")
        };
        let expected_failures: Vec<&str> = golden.lines().filter(is_failure).collect();
        let failed = metrics.lines().filter(is_failure);
        let failed: Vec<_> = failed
            .filter(|line| !expected_failures.contains(line))
            .collect();
        let without = ["census", "census_images"]
            .map(|it| format!("node_scrape_collector_success{{collector=\"{it}\"}} 0"));
        assert_eq!(failed, without);
    }
}

#[test]
fn container_labels_are_exposed_unchanged() {
    let fake = FakeEngine::docker("page");
    let mut web = FakeContainer::running('a', "web");
    web.id = "3f4e5d6c7b8a99887766554433221100ffeeddccbbaa00112233445566778899".to_owned();
    web.labels = [
        ("com.docker.compose.project", "say \"hi\"\nand \\ go"),
        ("com.docker.compose.service", &"x".repeat(10_000)),
        ("secret", "hush"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    fake.set_containers(std::slice::from_ref(&web));
    let exporter = exporter(&fake);
    let metrics = wait_until("a name", || {
        let metrics = exporter.metrics_text();
        metrics.contains("name=\"web\"").then_some(metrics)
    });
    let label = r#"container_label_com_docker_compose_project="say \"hi\"\nand \\ go""#;
    assert!(metrics.contains(label), "{metrics}");
    assert!(!metrics.contains("xxxxx"));
    assert!(!metrics.contains("hush"));
}
