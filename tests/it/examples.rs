//! The files in `examples/` are accepted by the programs that they are for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::server_process::{self, TempDir};
use serde_json::Value;

/// Maximum exposure level from `systemd-analyze security`, in tenths; the scale ends at 10.
const EXPOSURE: u32 = 20;

/// Service keys of the Compose specification that are in use here.
const SERVICE_KEYS: &[&str] = &[
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "environment",
    "extra_hosts",
    "group_add",
    "image",
    "network_mode",
    "pid",
    "ports",
    "read_only",
    "restart",
    "security_opt",
    "volumes",
];

#[test]
fn systemd_accepts_the_units() {
    if !crate::support::is_installed("systemd-analyze") {
        return crate::support::skip("systemd-analyze");
    }
    let units = Units::new("units");
    let (code, output) = units.verify();
    assert_eq!((code, output.as_str()), (Some(0), ""));
    for drop_in in ["unprivileged.conf", "own-port.conf"] {
        units.add(drop_in);
        let (code, output) = units.verify();
        assert_eq!((code, output.as_str()), (Some(0), ""), "{drop_in}");
    }
}

#[test]
fn systemd_rejects_a_broken_unit() {
    if !crate::support::is_installed("systemd-analyze") {
        return crate::support::skip("systemd-analyze");
    }
    let units = Units::new("wrong-units");
    units.change("ProtectSystem=strict", "ProtectSystem=stricter");
    let (_, output) = units.verify();
    assert!(output.contains("stricter"), "{output}");
}

#[test]
fn service_exposure_level_is_low() {
    if !crate::support::is_installed("systemd-analyze") {
        return crate::support::skip("systemd-analyze");
    }
    let units = Units::new("exposure");
    let (code, output) = units.exposure();
    assert_eq!(code, Some(0), "{output}");
    units.add("unprivileged.conf");
    let (code, output) = units.exposure();
    assert_eq!(code, Some(0), "{output}");
    units.change("ProtectSystem=strict", "ProtectSystem=no");
    units.change("SystemCallFilter=~", "SystemCallFilter=");
    units.change("PrivateDevices=yes", "PrivateDevices=no");
    let (code, output) = units.exposure();
    assert_ne!(code, Some(0), "{output}");
}

#[test]
fn cloud_init_accepts_the_user_data() {
    if !crate::support::is_installed("cloud-init") {
        return crate::support::skip("cloud-init");
    }
    let schema = |path: &Path| {
        let mut command = Command::new("cloud-init");
        command.args(["schema", "--config-file"]).arg(path);
        server_process::run_with_input(&mut command, "")
    };
    let path = example("cloud-init/user-data.yaml");
    let (code, output) = schema(&path);
    assert_eq!(code, Some(0), "{output}");
    let dir = TempDir::new("user-data");
    let invalid = dir.0.join("user-data.yaml");
    let text = fs::read_to_string(path).unwrap();
    fs::write(&invalid, text.replace("permissions:", "permission:")).unwrap();
    let (code, output) = schema(&invalid);
    assert_ne!(code, Some(0), "{output}");
}

#[test]
fn user_data_scripts_have_valid_syntax() {
    let data = documents(&example("cloud-init/user-data.yaml"));
    let files = data[0]["write_files"].as_array().unwrap();
    let mut scripts = Vec::new();
    for file in files {
        let text = file["content"].as_str().unwrap();
        if text.starts_with("#!/bin/sh\n") {
            let (code, output) = server_process::run_with_input(Command::new("sh").arg("-n"), text);
            assert_eq!(code, Some(0), "{output}");
            scripts.push(file["path"].as_str().unwrap());
        }
    }
    for run in data[0]["runcmd"].as_array().unwrap() {
        let program = run[0].as_str().unwrap();
        assert!(scripts.contains(&program), "{program} is not written");
    }
}

/// The registration request comes over the network and is not trusted.
#[test]
fn registration_accepts_only_the_sender_with_valid_labels() {
    if !crate::support::is_installed("bash") {
        return crate::support::skip("bash");
    }
    let dir = TempDir::new("register");
    let program = dir.0.join("strata_exporter");
    fs::write(&program, "#!/bin/sh\necho \"$@\"\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, mode).unwrap();
    let register = |command_line: &str| {
        server_process::run_with_input(
            Command::new("bash")
                .arg(example("cloud-init/register-target"))
                .env("PATH", format!("{}:/usr/bin:/bin", dir.0.display()))
                .env("SSH_ORIGINAL_COMMAND", command_line)
                .env("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.1 22"),
            "",
        )
    };
    let (code, output) = register("192.0.2.7:9100 i-1 shop p-1");
    let expected = "targets add --file /etc/prometheus/targets/instances.json --replace \
                  192.0.2.7:9100 --label instance_id=i-1 --label service_id=shop \
                  --label project_id=p-1\n";
    assert_eq!((code, output.as_str()), (Some(0), expected));
    for invalid in [
        "",
        "192.0.2.8:9100 i-1 shop p-1",
        "192.0.2.7:22 i-1 shop p-1",
        "192.0.2.7:9100 i-1 shop",
        "192.0.2.7:9100 i-1 shop p-1 more",
        "192.0.2.7:9100 i-1 $(id) p-1",
        "192.0.2.7:9100 i-1 CI_MISSING_JINJA_VAR/meta p-1",
        "192.0.2.7:9100 i-1 shop --file=/etc/passwd",
    ] {
        let (code, output) = register(invalid);
        assert_eq!(code, Some(2), "{invalid}: {output}");
    }
}

#[test]
fn compose_pins_images_and_mounts_existing_files() {
    let path = example("compose.yaml");
    let documents = documents(&path);
    let [compose] = documents.as_slice() else {
        panic!("{documents:?}")
    };
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services {
        for key in service.as_object().unwrap().keys() {
            assert!(SERVICE_KEYS.contains(&key.as_str()), "{name}: {key}");
        }
        let image = service["image"].as_str().unwrap();
        let (_, tag) = image.rsplit_once(':').unwrap();
        let tag = tag.strip_prefix('v').unwrap_or(tag);
        let numbers: Vec<_> = tag.split('.').map(str::parse::<u32>).collect();
        assert!(
            numbers.len() == 3 && numbers.iter().all(Result::is_ok),
            "{name}: {image} is no version"
        );
        for volume in service["volumes"].as_array().unwrap() {
            let source = volume["source"].as_str();
            let source = source.unwrap_or_else(|| {
                let (source, _) = volume.as_str().unwrap().split_once(':').unwrap();
                source
            });
            if source.starts_with(['.', '/']) {
                let path = path.parent().unwrap().join(source);
                assert!(path.exists(), "{name}: {source} does not exist");
            } else {
                assert!(compose["volumes"].get(source).is_some(), "{name}: {source}");
            }
        }
        let others = service.get("depends_on").and_then(Value::as_array);
        for other in others.into_iter().flatten() {
            assert!(services.contains_key(other.as_str().unwrap()), "{other}");
        }
    }
    let home = &services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    let (_, home) = home.as_str().unwrap().split_once("/dashboards/").unwrap();
    let home = repository().join("dashboards").join(home);
    assert!(home.is_file(), "{} does not exist", home.display());
    let exporter = &services["exporter"];
    assert_eq!(exporter["cap_drop"][0], "ALL");
    assert!(exporter.get("privileged").is_none());
    // With Compose itself, if installed.
    let docker = Command::new("docker").args(["compose", "version"]).output();
    if docker.is_ok_and(|it| it.status.success()) {
        let mut command = Command::new("docker");
        command.args(["compose", "--file"]).arg(&path);
        command.args(["config", "--quiet"]).env("DOCKER_GID", "999");
        let (code, output) = server_process::run_with_input(&mut command, "");
        assert_eq!(code, Some(0), "{output}");
    }
}

#[test]
fn grafana_is_provisioned_with_prometheus_and_boards() {
    let sources = documents(&example("compose/grafana/datasources/prometheus.yaml"));
    let boards = documents(&example("compose/grafana/dashboards/strata.yaml"));
    let compose = documents(&example("compose.yaml"));
    let prometheus = documents(&example("compose/prometheus.yml"));
    let source = &sources[0]["datasources"][0];
    assert_eq!(source["type"], "prometheus");
    let url = source["url"].as_str().unwrap();
    let host = url.strip_prefix("http://").unwrap();
    let (host, _) = host.split_once(':').unwrap();
    assert!(compose[0]["services"].get(host).is_some(), "{host}");
    assert_eq!(
        source["jsonData"]["timeInterval"],
        prometheus[0]["global"]["scrape_interval"]
    );
    let path_in_config = boards[0]["providers"][0]["options"]["path"].as_str();
    let mounts = compose[0]["services"]["grafana"]["volumes"].as_array();
    let mounted = format!("../dashboards:{}:ro", path_in_config.unwrap());
    let mounted = Value::from(mounted);
    assert!(mounts.unwrap().contains(&mounted), "{mounts:?}");
}

#[test]
fn daemon_set_has_minimal_privileges() {
    let documents = documents(&example("kubernetes/daemonset.yaml"));
    let document_of_kind = |kind: &str| documents.iter().find(|it| it["kind"] == kind).unwrap();
    let set = document_of_kind("DaemonSet");
    assert_eq!(set["apiVersion"], "apps/v1");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(
        set["metadata"]["namespace"],
        document_of_kind("Namespace")["metadata"]["name"]
    );
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    let [container] = pod["containers"].as_array().unwrap().as_slice() else {
        panic!("{pod}")
    };
    let rights = &container["securityContext"];
    for (key, value) in [
        ("allowPrivilegeEscalation", false),
        ("privileged", false),
        ("readOnlyRootFilesystem", true),
        ("runAsNonRoot", true),
    ] {
        assert_eq!(rights[key], value, "{key}");
    }
    let none = serde_json::json!({"drop": ["ALL"]});
    assert_eq!(rights["capabilities"], none);
    let [mount] = container["volumeMounts"].as_array().unwrap().as_slice() else {
        panic!("{container}")
    };
    assert_eq!(mount["readOnly"], true);
    assert_eq!(mount["name"], pod["volumes"][0]["name"]);
    // The exporter's flags are those of the image plus these arguments.
    let path = mount["mountPath"].as_str().unwrap();
    let image = fs::read_to_string(example("Containerfile")).unwrap();
    assert!(image.contains(&format!("--path.rootfs={path}\"")));
    let flags = container["args"].as_array().unwrap().iter();
    let flags: Vec<_> = flags.map(|it| it.as_str().unwrap()).collect();
    let exporter = env!("CARGO_BIN_EXE_strata_exporter");
    let mut command = Command::new(exporter);
    command.arg("--version").args(&flags);
    assert!(command.output().unwrap().status.success());
    let configuration = repository().join("prometheus/kubernetes.yml");
    let configuration = fs::read_to_string(configuration).unwrap();
    let (name, value) = labels.as_object().unwrap().iter().next().unwrap();
    let selector = format!("label: {name}={}\n", value.as_str().unwrap());
    assert!(configuration.contains(&selector), "{selector}");
    let port = container["ports"][0]["name"].as_str().unwrap();
    assert!(
        configuration.contains(&format!("regex: {port}\n")),
        "{port}"
    );
}

#[test]
fn image_build_has_every_file_of_the_package() {
    let build = fs::read_to_string(example("Containerfile")).unwrap();
    let (build, _) = build.split_once("\nFROM scratch").unwrap();
    let ignored = fs::read_to_string(example("Containerfile.dockerignore")).unwrap();
    let dir = TempDir::new("image-build");
    let lines = build.lines().filter_map(|line| line.strip_prefix("COPY "));
    for words in lines {
        let (names, _) = words.rsplit_once(' ').unwrap();
        for name in names.split(' ') {
            let is_sent = ignored
                .lines()
                .any(|line| line.strip_prefix('!') == Some(name));
            assert!(is_sent, "{name} is not sent to the build");
            let copy = Command::new("cp")
                .arg("-r")
                .arg(repository().join(name))
                .arg(&dir.0)
                .status();
            assert!(copy.unwrap().success(), "{name}");
        }
    }
    // cargo refuses a workspace with a member that is missing, and finds build.rs by its name.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version=1"])
        .current_dir(&dir.0)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut packages = metadata["packages"].as_array().unwrap().iter();
    let package = packages.find(|it| it["name"] == "strata_exporter").unwrap();
    let targets = package["targets"].as_array().unwrap().iter();
    let kinds: Vec<_> = targets
        .map(|target| target["kind"][0].as_str().unwrap())
        .collect();
    for kind in ["lib", "bin", "custom-build"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
}

#[test]
fn example_flags_exist() {
    let help = Command::new(env!("CARGO_BIN_EXE_strata_exporter"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let mut checked = 0;
    for file in [
        "Containerfile",
        "compose.yaml",
        "kubernetes/daemonset.yaml",
        "cloud-init/user-data.yaml",
        "systemd/strata_exporter.default",
        "systemd/strata_exporter.service",
        "systemd/own-port.conf",
    ] {
        let text = fs::read_to_string(example(file)).unwrap();
        for prefix in ["collector.", "path.", "engine.", "libvirt.", "web."] {
            let prefix = format!("--{prefix}");
            for rest in text.split(&prefix).skip(1) {
                let is_flag = |c: &char| c.is_ascii_alphanumeric() || "-._".contains(*c);
                let name: String = rest.chars().take_while(is_flag).collect();
                let flag = format!("{prefix}{}", name.trim_end_matches('.'));
                let is_there =
                    help.contains(&format!("{flag} <")) || help.contains(&format!("{flag}[="));
                assert!(is_there, "{file}: {flag}");
                checked += 1;
            }
        }
    }
    assert!(checked > 10, "only {checked}");
}

/// The units in a directory, with the path of the built program.
struct Units(TempDir);

impl Units {
    fn new(name: &str) -> Self {
        let dir = TempDir::new(name);
        for unit in ["strata_exporter.service", "strata_exporter.socket"] {
            let text = fs::read_to_string(example(&format!("systemd/{unit}"))).unwrap();
            let program = env!("CARGO_BIN_EXE_strata_exporter");
            let text = text.replace("/usr/bin/strata_exporter", program);
            fs::write(dir.0.join(unit), text).unwrap();
        }
        Self(dir)
    }

    fn service(&self) -> PathBuf {
        self.0.0.join("strata_exporter.service")
    }

    fn add(&self, drop_in: &str) {
        let dir = self.0.0.join("strata_exporter.service.d");
        fs::create_dir_all(&dir).unwrap();
        let from = example(&format!("systemd/{drop_in}"));
        fs::copy(from, dir.join(drop_in)).unwrap();
    }

    fn change(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.service()).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(self.service(), text.replace(from, to)).unwrap();
    }

    fn verify(&self) -> (Option<i32>, String) {
        let mut command = Command::new("systemd-analyze");
        command.args(["--man=no", "verify"]).arg(self.service());
        command.arg(self.0.0.join("strata_exporter.socket"));
        server_process::run_with_input(&mut command, "")
    }

    fn exposure(&self) -> (Option<i32>, String) {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager"]);
        command.arg(format!("--threshold={EXPOSURE}"));
        command.arg(self.service());
        server_process::run_with_input(&mut command, "")
    }
}

/// Documents of a YAML file.
fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let documents = serde_saphyr::from_multiple(&text);
    documents.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn example(name: &str) -> PathBuf {
    repository().join("examples").join(name)
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
