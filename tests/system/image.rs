//! The image of `examples/Containerfile` is built, and its exporter exposes the same series as the
//! program outside.
//!
//! The base image cannot be downloaded everywhere, so the program is not compiled in the image: it
//! is the static build of `tests/all.sh`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::support::server_process::{self, ServerProcess, TempDir};

/// Options to run it, as documented in the Containerfile.
const RUN: [&str; 7] = [
    "run",
    "--network=host",
    "--pid=host",
    "--read-only",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--volume=/:/host:ro,rslave",
];

/// Replaces defaults of Podman that some machines cannot provide.
const CONTAINERS_CONF: &str =
    "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";

/// Collectors whose series do not depend on other activity on this machine nor on being root.
const STEADY: &str = "/metrics?collect[]=cpu&collect[]=diskstats&collect[]=loadavg\
                      &collect[]=machine&collect[]=meminfo&collect[]=netstat&collect[]=os\
                      &collect[]=pressure&collect[]=softnet&collect[]=stat&collect[]=timex\
                      &collect[]=uname&collect[]=vmstat";

#[test]
fn image_shows_the_host_not_the_container() {
    let Some(podman) = Podman::new() else {
        return;
    };
    let containerfile = repository().join("examples/Containerfile");
    let text = fs::read_to_string(&containerfile).unwrap();
    for flag in RUN {
        assert!(
            text.contains(flag),
            "{flag} is missing in the Containerfile"
        );
    }
    let context = format!("build={}", podman.dir.0.join("build").display());
    let built = podman
        .command(&["build", "--quiet", "--tag", "strata_exporter:test"])
        .args(["--build-context", &context, "--file"])
        .arg(containerfile)
        .arg(repository())
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");

    let mut run = podman.command(&RUN);
    run.args(["--rm", "--name", "strata-image"]);
    run.args(["strata_exporter:test", "--engine.socket="]);
    let inside = ServerProcess::start_and_wait_for_path(&mut run, &podman.dir.0, "/-/healthy");
    let outside = ServerProcess::start_exporter(&["--engine.socket=".to_owned()], &podman.dir.0);

    let steady = |exporter: &ServerProcess| {
        series(&exporter.get(STEADY, "text/plain;version=0.0.4").unwrap())
    };
    assert_eq!(steady(&inside), steady(&outside));
    let metrics = inside.metrics_text();
    for expected in [
        r#"node_filesystem_size_bytes{device="[^"]*",mountpoint="/","#,
        r#"container_cpu_usage_seconds_total{id="/","#,
        "node_network_receive_bytes_total{device=\"lo\"}",
    ] {
        let expected = regex::Regex::new(&expected.replace('{', r"\{").replace('}', r"\}"));
        assert!(expected.unwrap().is_match(&metrics), "{metrics}");
    }
    // An unprivileged user without capabilities.
    let pid = podman.run(&["inspect", "--format", "{{.State.Pid}}", "strata-image"]);
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    let field = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(field("Uid:"), "65534");
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
}

/// Names and labels, without the exporter's own.
fn series(metrics: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.filter(|line| {
        ["node_", "machine_", "cadvisor_"]
            .iter()
            .any(|prefix| line.starts_with(prefix))
    });
    let series: BTreeSet<_> = lines
        .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
        .collect();
    assert!(series.len() > 100, "{series:?}");
    series
}

/// Podman with its own images and containers, and the program to build an image from.
struct Podman {
    dir: TempDir,
}

impl Podman {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            crate::support::skip("root");
            return None;
        }
        for program in ["podman", "runc"] {
            if !crate::support::is_installed(program) {
                crate::support::skip(program);
                return None;
            }
        }
        let built = Path::new(env!("CARGO_BIN_EXE_strata_exporter"));
        let target = built.parent().unwrap().parent().unwrap();
        let program = target.join("static/strata_exporter");
        if !program.is_file() {
            crate::support::skip("target/static/strata_exporter, which tests/all.sh builds");
            return None;
        }
        let dir = TempDir::new("image");
        let path = dir.0.join("build/src/target/release");
        fs::create_dir_all(&path).unwrap();
        fs::copy(program, path.join("strata_exporter")).unwrap();
        fs::write(dir.0.join("containers.conf"), CONTAINERS_CONF).unwrap();
        Some(Self { dir })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        let path = |name: &str| -> PathBuf { self.dir.0.join(name) };
        command
            .arg("--root")
            .arg(path("root"))
            .arg("--runroot")
            .arg(path("run"))
            .arg("--tmpdir")
            .arg(path("tmp"))
            // Debian's crun rejects cgroup v1 with controllers in v2.
            .args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "none"])
            .args(args)
            .env("CONTAINERS_CONF", path("containers.conf"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let (code, output) = server_process::run_with_input(&mut self.command(args), "");
        assert_eq!(code, Some(0), "{args:?}: {output}");
        output
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _result = self
            .command(&["rm", "--force", "--all", "--time=0"])
            .output();
        // The mount of its image storage.
        let _result = Command::new("umount")
            .args(["-R", "-l"])
            .arg(self.dir.0.join("root/overlay"))
            .output();
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
