//! promtool accepts the configurations in `prometheus/` and of `examples/compose.yaml`, and Caddy
//! accepts `examples/Caddyfile`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::server_process::{self, TempDir};

/// Directories of files with secrets that only the target machine has, but that must exist for the
/// check to pass.
const INSTALL_DIRS: [&str; 2] = ["/etc/prometheus/", "/etc/caddy/"];

/// Pod labels in Prometheus' documentation; Debian builds Prometheus without Kubernetes support.
const POD_LABELS: &[&str] = &[
    "__meta_kubernetes_namespace",
    "__meta_kubernetes_pod_container_port_name",
    "__meta_kubernetes_pod_container_port_number",
    "__meta_kubernetes_pod_name",
    "__meta_kubernetes_pod_node_name",
    "__meta_kubernetes_pod_phase",
];

#[test]
fn promtool_accepts_every_configuration() {
    if !crate::support::is_installed("promtool") {
        return crate::support::skip("promtool");
    }
    let configurations = configurations();
    assert!(configurations.len() > 8, "{configurations:?}");
    for path in configurations {
        let copy = ConfigCopy::new(&path);
        let (code, output) = check(&copy.path);
        let without_kubernetes = output.contains("field kubernetes_sd_configs not found");
        let (code, output) = if without_kubernetes {
            // Everything except Kubernetes service discovery.
            fs::write(&copy.path, without_pods(&copy.text)).unwrap();
            check(&copy.path)
        } else {
            (code, output)
        };
        assert_eq!(code, Some(0), "{}: {output}", path.display());
    }
}

#[test]
fn promtool_rejects_broken_configurations() {
    if !crate::support::is_installed("promtool") {
        return crate::support::skip("promtool");
    }
    for (name, valid, invalid) in [
        ("static.yml", "scrape_interval: 15s", "scrape_interval: 15"),
        ("tls.yml", "prometheus.key", "missing.key"),
        (
            "agent_mimir.yml",
            "scrape_configs:",
            "rule_files: [rules.yml]\nscrape_configs:",
        ),
        ("openstack.yml", "role: hypervisor", "role: machine"),
    ] {
        let copy = ConfigCopy::new(&prometheus().join(name));
        assert!(copy.text.contains(valid), "{name}: {valid}");
        fs::write(&copy.path, copy.text.replace(valid, invalid)).unwrap();
        let (code, output) = check(&copy.path);
        assert_ne!(code, Some(0), "{name}: {output}");
    }
}

#[test]
fn pod_labels_exist_in_prometheus() {
    let text = fs::read_to_string(prometheus().join("kubernetes.yml")).unwrap();
    let (_, part) = text.split_once("kubernetes_sd_configs:\n").unwrap();
    assert!(part.trim_start().starts_with("- role: pod\n"), "{part}");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c));
    let meta: Vec<_> = words.filter(|word| word.starts_with("__meta_")).collect();
    assert!(meta.len() > 2, "{meta:?}");
    for label in meta {
        assert!(POD_LABELS.contains(&label), "{label}");
    }
}

#[test]
fn every_scraped_path_exists() {
    let dir = TempDir::new("configs");
    let exporter = server_process::ServerProcess::start_exporter(&[], &dir.0);
    let mut found = Vec::new();
    for path in configurations() {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(str::trim);
        let paths = lines.filter_map(|line| line.strip_prefix("metrics_path: "));
        found.extend(paths.map(str::to_owned));
    }
    assert!(found.len() >= 4, "{found:?}");
    found.push("/metrics?collect[]=pressure&collect[]=container_pressure".to_owned());
    for path in found {
        let response = exporter.get(&path, "text/plain;version=0.0.4").unwrap();
        assert!(
            response.contains("strata_build_info{"),
            "{path}: {response}"
        );
    }
}

#[test]
fn caddy_accepts_the_proxy_configurations() {
    if !crate::support::is_installed("caddy") || !crate::support::is_installed("openssl") {
        return crate::support::skip("caddy and openssl");
    }
    let copy = ConfigCopy::new(&root().join("examples/Caddyfile"));
    let dir = &copy.dir.0;
    let openssl = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test"])
        .arg("-keyout")
        .arg(dir.join("key"))
        .arg("-out")
        .arg(dir.join("prometheus-ca.crt"))
        .output()
        .unwrap();
    assert!(openssl.status.success(), "{openssl:?}");
    let validate = || {
        let (code, output) = server_process::run_with_input(
            Command::new("caddy")
                .args(["validate", "--adapter", "caddyfile", "--config"])
                .arg(&copy.path)
                .env("HOME", dir)
                .env_remove("XDG_DATA_HOME")
                .env_remove("XDG_CONFIG_HOME"),
            "",
        );
        (code == Some(0), output)
    };
    let (is_valid, output) = validate();
    assert!(is_valid, "{output}");
    fs::write(&copy.path, copy.text.replace("basicauth", "basicauht")).unwrap();
    let (is_valid, output) = validate();
    assert!(!is_valid, "{output}");
}

/// A configuration in its own directory, with the files it refers to.
struct ConfigCopy {
    dir: TempDir,
    path: PathBuf,
    text: String,
}

impl ConfigCopy {
    fn new(path: &Path) -> Self {
        let name = path.file_name().unwrap().to_str().unwrap();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        let dir = TempDir::new(&format!("config-{name}-{thread}"));
        let mut text = fs::read_to_string(path).unwrap();
        for install_dir in INSTALL_DIRS {
            let copy_dir = dir.0.display().to_string() + "/";
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
            for (at, _) in text.clone().match_indices(install_dir) {
                let (_, rest) = text.split_at(at);
                let rest = rest.strip_prefix(install_dir).unwrap_or_default();
                let file: String = rest.chars().take_while(|c| is_name(*c)).collect();
                fs::write(dir.0.join(file), "secret\n").unwrap();
            }
            text = text.replace(install_dir, &copy_dir);
        }
        let path = dir.0.join(name);
        fs::write(&path, &text).unwrap();
        Self { dir, path, text }
    }
}

fn check(path: &Path) -> (Option<i32>, String) {
    let mut command = Command::new("promtool");
    command.args(["check", "config"]).arg(path);
    let name = path.file_name().unwrap().to_str().unwrap();
    if name.starts_with("agent") {
        command.arg("--agent");
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.code(), text)
}

/// The text with Kubernetes service discovery replaced by a static target.
fn without_pods(text: &str) -> String {
    let mut out = String::new();
    let mut is_pods = false;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if line.trim() == "kubernetes_sd_configs:" {
            is_pods = true;
            out += "    static_configs: [{targets: [\"localhost:9100\"]}]\n";
        } else if is_pods && indent <= 4 {
            is_pods = false;
        }
        if !is_pods {
            out += line;
            out += "\n";
        }
    }
    out
}

fn configurations() -> Vec<PathBuf> {
    let files = fs::read_dir(prometheus()).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|it| it == "yml");
    let mut found: Vec<_> = files.filter(is_yaml).collect();
    found.push(root().join("examples/compose/prometheus.yml"));
    found.sort();
    found
}

fn prometheus() -> PathBuf {
    root().join("prometheus")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
