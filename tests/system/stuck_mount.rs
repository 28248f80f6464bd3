//! A mount whose server never replies costs its timeout once and affects nothing else.
//!
//! The servers are FUSE connections that are never served, so statfs(2) waits for the protocol's
//! first message. They are mounted in a mount namespace in which the test is started again, so
//! nothing remains on the machine.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use strata_exporter::{
    cli, collectors,
    exposition::{Exposition, Format},
    scrape::{Scraper, Workers},
};

const NAME: &str = "stuck_mount::hanging_mount_costs_its_timeout_once_and_is_isolated";
/// Set when the test is started again in the namespace.
const INSIDE: &str = "STRATA_TEST_IN_NAMESPACE";
const TIMEOUT: Duration = Duration::from_secs(1);
/// Time limit of a scrape on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(700);

#[test]
fn hanging_mount_costs_its_timeout_once_and_is_isolated() {
    if env::var_os(INSIDE).is_some() {
        return inside();
    }
    if !crate::support::can_mount_fuse() {
        return;
    }
    let status = crate::support::unshare_mounts()
        .arg(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(status.unwrap().success());
}

fn inside() {
    let dir = env::temp_dir().join(format!("strata-stuck-mount-{}", std::process::id()));
    fs::create_dir_all(dir.join("proc/1")).unwrap();
    let before = Mount::tmpfs(&dir.join("before"));
    let mut stuck = [
        Server::start(&dir.join("stuck a")),
        Server::start(&dir.join("stuck b")),
    ];
    let after = Mount::tmpfs(&dir.join("after"));
    // What process 1 would see if it were in this namespace.
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap();
    fs::write(dir.join("proc/1/mountinfo"), mountinfo).unwrap();

    let scraper = scraper(&dir);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .unwrap();
    let scrape = || {
        let started = Instant::now();
        let metrics = runtime.block_on(metrics(&scraper));
        let took = started.elapsed();
        for mount in ["before", "after"] {
            let size = format!(
                r#"mountpoint="{}/{mount}",fstype="tmpfs",device_error="""#,
                dir.display()
            );
            assert!(
                metrics.contains(&format!("_size_bytes{{device=\"ours\",{size}}} 1048576\n")),
                "{metrics}"
            );
        }
        (metrics, took)
    };
    let error_of = |metrics: &str, mount: &str| {
        let mount = format!("mountpoint=\"{}/{mount}\"", dir.display());
        let mut lines = metrics.lines();
        lines
            .find(|l| l.starts_with("node_filesystem_device_error{") && l.contains(&mount))
            .map(|l| l.split('"').nth(7).unwrap().to_owned())
    };

    let (metrics, took) = scrape();
    for mount in ["stuck a", "stuck b"] {
        assert_eq!(
            error_of(&metrics, mount).as_deref(),
            Some("mountpoint timeout")
        );
    }
    assert!(
        !metrics.contains("size_bytes{device=\"nobody\""),
        "{metrics}"
    );
    assert!(TIMEOUT <= took && took < TIMEOUT + AT_ONCE, "{took:?}");
    for _ in 0..5 {
        let (metrics, took) = scrape();
        for mount in ["stuck a", "stuck b"] {
            assert_eq!(
                error_of(&metrics, mount).as_deref(),
                Some("mountpoint timeout")
            );
        }
        assert!(took < AT_ONCE, "{took:?}");
    }
    // One for each hanging mount, and one for the rest.
    assert!(comes_down_to(3), "{} threads", threads());

    // One server exits; the mount replies again, with an error.
    stuck[0].stop();
    let responds = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let (metrics, _) = scrape();
        assert_eq!(
            error_of(&metrics, "stuck b").as_deref(),
            Some("mountpoint timeout")
        );
        error_of(&metrics, "stuck a").as_deref() == Some("transport endpoint is not connected")
    });
    assert!(responds, "{}", scrape().0);
    assert!(comes_down_to(2), "{} threads", threads());

    // The other mount is removed.
    stuck[1].stop();
    drop(Mount(dir.join("stuck b")));
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap();
    fs::write(dir.join("proc/1/mountinfo"), mountinfo).unwrap();
    let (metrics, took) = scrape();
    assert_eq!(error_of(&metrics, "stuck b"), None);
    assert!(took < AT_ONCE, "{took:?}");
    drop(Mount(dir.join("stuck a")));
    drop((before, after));
    fs::remove_dir_all(dir).unwrap();
}

fn scraper(dir: &Path) -> Scraper {
    let line = [
        "strata_exporter".to_owned(),
        format!("--path.procfs={}", dir.join("proc").display()),
        "--collector.disable-defaults".to_owned(),
        "--collector.filesystem".to_owned(),
        // Not selected by type, because a container's root may be an overlay.
        format!(
            "--collector.filesystem.mount-points-include=^{}/",
            dir.display()
        ),
        format!(
            "--collector.filesystem.mount-timeout={}s",
            TIMEOUT.as_secs()
        ),
    ];
    let settings = cli::parse_server(collectors::ALL, line).unwrap_or_else(|e| panic!("{e}"));
    let roots = settings.flags.roots;
    Scraper::new(roots, settings.collectors, Workers::default())
}

async fn metrics(scraper: &Scraper) -> String {
    let selected = BTreeSet::from(["filesystem"]);
    let limit = Duration::from_secs(10);
    let families = scraper.scrape(&selected, limit).await.into_families();
    let metrics = Exposition::new(families, |_| true);
    Arc::new(metrics).encode(Format::Text).unwrap()
}

/// Number of threads of this process that query mounts.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name == "statfs\n").count()
}

/// Whether the number of threads falls to this; surplus threads end after a moment.
fn comes_down_to(selected: usize) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        threads() == selected
    })
}

/// A FUSE mount whose server does nothing.
struct Server(Child);

impl Server {
    fn start(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        // Without a mount helper, which would try to start a server.
        let script = r#"exec 7<>/dev/fuse &&
            mount -i -t fuse -o fd=7,rootmode=40000,user_id=0,group_id=0 nobody "$0" &&
            echo mounted && read never"#;
        let mut server = Command::new("sh");
        server.args(["-c", script]).arg(at);
        Self(crate::support::spawn_mount_server(&mut server))
    }

    fn stop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A failed test leaves no process behind.
        let _result = self.0.kill();
        let _result = self.0.wait();
    }
}

struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let mount = Command::new("mount")
            .args(["-i", "-t", "tmpfs", "-o", "size=1m", "ours"])
            .arg(at)
            .status();
        assert!(mount.unwrap().success());
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _result = Command::new("umount")
            .args(["-i", "-l"])
            .arg(&self.0)
            .status();
    }
}
