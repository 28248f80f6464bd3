//! `strata_exporter check` as an operator runs it.

use std::{
    io::{Read, Write},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixListener,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    fixture, fixture_args, libvirt_daemon::LibvirtDaemon, server_process::TempDir, skip,
};

const BINARY: &str = env!("CARGO_BIN_EXE_strata_exporter");
/// A user without rights.
const NOBODY_UID: u32 = 65_534;

fn check(flags: &[String]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("check").args(flags).stdin(Stdio::null());
    command
}

/// Flags for a fixture machine, without engines.
fn fixture_flags(name: &str) -> Vec<String> {
    let mut flags = fixture_args(&fixture(name)).split_off(1);
    flags.push("--engine.socket=".to_owned());
    flags
}

/// Standard output and exit code; standard error must be empty.
fn text_and_code(output: &Output) -> (String, Option<i32>) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors, "");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    // Some words, such as paths, are longer.
    let is_too_wide = |line: &&str| line.len() > 100 && line.trim().contains(' ');
    assert_eq!(text.lines().find(is_too_wide), None);
    (text, output.status.code())
}

/// The lines below a title.
fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let (_, rest) = text
        .split_once(&format!("\n{title}\n"))
        .unwrap_or_else(|| panic!("no {title} in {text}"));
    rest.split_once("\n\n").map_or(rest, |(lines, _)| lines)
}

/// Findings of this severity at the top of the text, with single blanks: each with its area.
fn findings(text: &str, mark: &str) -> String {
    let start = format!("  {mark:<6}");
    let blocks = text.split("\n\n").find(|block| block.starts_with(&start));
    let words: Vec<_> = blocks.unwrap_or_default().split_whitespace().collect();
    words.join(" ")
}

/// Text without line breaks, because their positions depend on the length of paths.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A collector's line, with single blanks.
fn line_of(lines: &str, collector: &str) -> String {
    let words = lines.lines().map(|line| line.split_whitespace().collect());
    let mut matching = words.filter(|words: &Vec<&str>| words.get(1) == Some(&collector));
    matching.next().unwrap_or_default().join(" ")
}

#[test]
fn every_collector_has_a_result_or_a_reason() {
    let (text, code) = text_and_code(&check(&fixture_flags("vm-v1")).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    let host = section(&text, "HOST");
    assert_eq!(line_of(host, "loadavg"), "ok loadavg 3 series");
    assert_eq!(line_of(host, "btrfs"), "- btrfs no series");
    let mdadm = format!("- mdadm no data: {}", fixture("vm-v1").display());
    assert!(unwrapped(host).contains(&mdadm), "{host}");
    assert!(section(&text, "OFF").contains("uname"));
    assert!(section(&text, "NOT IMPLEMENTED YET").contains("zfs"));
    let containers = section(&text, "CONTAINERS");
    assert!(line_of(containers, "container_cpu").starts_with("ok container_cpu"));
    let summary = text.lines().next().unwrap();
    assert!(
        summary.contains(": all enabled collectors work, "),
        "{text}"
    );
    assert!(summary.ends_with(" ok."), "{text}");
}

#[test]
fn partial_errors_name_their_file() {
    let (text, code) = text_and_code(&check(&fixture_flags("hardware")).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    let notes = findings(&text, "note");
    assert!(notes.contains("note host: textfile: "), "{notes}");
    assert!(notes.contains("1 part skipped:"), "{notes}");
    assert!(notes.contains("textfile/broken.prom:1: last line has no newline"));
    assert!(
        notes.contains("note control groups: cannot read cgroups:"),
        "{notes}"
    );
    assert!(
        notes.contains("Fix: mount the cgroup file system at "),
        "{notes}"
    );
}

#[test]
fn cgroups_and_unnamed_containers_are_listed() {
    let (text, code) = text_and_code(&check(&fixture_flags("vm-v2")).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    let groups = section(&text, "CONTROL GROUPS");
    assert!(
        groups.contains("ok    version 2; controllers: cpu, cpuset,"),
        "{groups}"
    );
    let notes = findings(&text, "note");
    assert!(
        notes.contains("pressure stall information (PSI) is disabled"),
        "{notes}"
    );
    assert!(notes.contains("Fix: add psi=1 to"), "{notes}");
    assert!(section(&text, "ENGINES").contains("engines are disabled (empty --engine.socket)"));
    let note = "note names of containers: 1 unnamed: created by Docker";
    assert!(notes.contains(note), "{notes}");
    assert!(
        notes.contains("systemctl enable --now podman.socket"),
        "{notes}"
    );

    let mut flags = fixture_flags("vm-v2");
    flags.push("--cgroup.exclude=libpod".to_owned());
    let (text, _) = text_and_code(&check(&flags).output().unwrap());
    let names = section(&text, "NAMES OF CONTAINERS");
    assert!(
        names.contains("-     1 excluded by --cgroup.exclude:"),
        "{names}"
    );
    assert!(!names.contains("created by Podman"), "{names}");
}

#[test]
fn failing_collector_is_an_error() {
    let dir = TempDir::new("check-fails");
    std::fs::write(dir.0.join("loadavg"), "odd\n").unwrap();
    let flags = [
        format!("--path.procfs={}", dir.0.display()),
        "--collector.disable-defaults".to_owned(),
        "--collector.loadavg".to_owned(),
    ];
    let (text, code) = text_and_code(&check(&flags).output().unwrap());
    assert_eq!(code, Some(1), "{text}");
    let errors = findings(&text, "WRONG");
    assert!(
        errors.starts_with("WRONG host: loadavg: failed: "),
        "{errors}"
    );
    assert!(errors.contains("/loadavg:1: "), "{errors}");
    let summary = text.lines().next().unwrap();
    assert!(summary.contains(": 1 error, "), "{text}");
    // First the summary, then the errors, then the rest.
    let third = text.lines().nth(3).unwrap();
    assert!(third.starts_with("  WRONG host: loadavg: "), "{text}");
    // Disabled containers are not mentioned.
    assert!(!text.contains("ENGINES"), "{text}");
}

/// Unreachable sockets and the expected error.
fn dead_sockets(dir: &TempDir) -> [(PathBuf, &'static str); 3] {
    let dead = dir.0.join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    [
        (dead, "Connection refused"),
        (dir.0.join("none.sock"), "no such file or directory"),
        (dir.0.clone(), "not a socket"),
    ]
}

#[test]
fn unreachable_engine_is_an_error() {
    let dir = TempDir::new("check-engine");
    for (socket, words) in dead_sockets(&dir) {
        let mut flags = fixture_flags("vm-v2");
        flags.pop();
        flags.push(format!("--engine.socket=unix://{}", socket.display()));
        let (text, code) = text_and_code(&check(&flags).output().unwrap());
        assert_eq!(code, Some(1), "{text}");
        let errors = findings(&text, "WRONG");
        let start = format!("WRONG engines: {}", socket.display());
        assert!(errors.starts_with(&start), "{errors}");
        assert!(errors.contains(words), "{errors}");
        assert!(errors.contains("Fix: "), "{errors}");
    }
}

#[test]
fn only_required_daemons_are_queried() {
    let dir = TempDir::new("check-libvirt");
    let socket = dir.0.join("sock");
    let listener = UnixListener::bind(&socket).unwrap();
    // A daemon that closes every connection.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let flags = [
        "--collector.disable-defaults".to_owned(),
        "--collector.libvirt".to_owned(),
        format!("--libvirt.uri={}", socket.display()),
    ];
    let (text, _) = text_and_code(&check(&flags).output().unwrap());
    let notes = findings(&text, "note");
    assert!(notes.contains("note domains: libvirt: "), "{text}");
    assert!(notes.contains("1 part skipped: "), "{text}");
    assert!(!text.contains("ENGINES"), "{text}");
}

#[test]
fn engine_permission_error_has_a_fix() {
    if !rustix::process::geteuid().is_root() {
        return skip("root");
    }
    let dir = TempDir::new("check-rights");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&dir.0, open).unwrap();
    // The user may have no access to the directory of the original binary.
    let binary = dir.0.join("strata_exporter");
    std::fs::copy(BINARY, &binary).unwrap();
    let socket = dir.0.join("sock");
    let _listening = UnixListener::bind(&socket).unwrap();
    let closed = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(&socket, closed).unwrap();
    for (group, fix) in [(0, "run as root"), (65_533, "join group 65533")] {
        chown(&socket, None, Some(group)).unwrap();
        let mut command = Command::new(&binary);
        command
            .args(["check", "--collector.disable-defaults"])
            .arg("--collector.container_engine")
            .arg(format!("--engine.socket=unix://{}", socket.display()))
            .uid(NOBODY_UID)
            .gid(NOBODY_UID)
            .stdin(Stdio::null());
        let (text, code) = text_and_code(&command.output().unwrap());
        assert_eq!(code, Some(1), "{text}");
        let errors = findings(&text, "WRONG");
        assert!(errors.contains("(uid 65534)"), "{errors}");
        assert!(errors.contains(fix), "{errors}");
    }
}

/// Flags for a fixture machine with this libvirt socket, or without libvirt.
fn libvirt_flags(socket: Option<&Path>) -> Vec<String> {
    let mut flags = fixture_flags("vm-v2");
    flags.push("--collector.disable-defaults".to_owned());
    flags.push("--collector.libvirt".to_owned());
    flags.extend(socket.map(|socket| format!("--libvirt.uri=unix://{}", socket.display())));
    flags
}

#[test]
fn missing_libvirt_is_not_an_error() {
    let (text, code) = text_and_code(&check(&libvirt_flags(None)).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    let domains = section(&text, "DOMAINS");
    let line = line_of(domains, "libvirt");
    assert!(line.starts_with("- libvirt no data:"), "{domains}");
    let libvirt = section(&text, "LIBVIRT");
    let libvirt = unwrapped(libvirt);
    assert!(libvirt.starts_with("- no libvirt socket at "), "{libvirt}");
    assert!(
        libvirt.contains("/run/libvirt/virtqemud-sock-ro,"),
        "{libvirt}"
    );
    assert!(
        libvirt.contains("/run/libvirt/libvirt-sock-ro"),
        "{libvirt}"
    );
}

#[test]
fn unreachable_libvirt_is_an_error() {
    let dir = TempDir::new("check-libvirt");
    for (socket, words) in dead_sockets(&dir) {
        let (text, code) = text_and_code(&check(&libvirt_flags(Some(&socket))).output().unwrap());
        assert_eq!(code, Some(1), "{text}");
        let libvirt = findings(&text, "WRONG");
        let start = format!("WRONG libvirt: {}", socket.display());
        assert!(libvirt.starts_with(&start), "{libvirt}");
        assert!(libvirt.contains(words), "{libvirt}");
        assert!(libvirt.contains("Fix: "), "{libvirt}");
    }
}

/// Replies like a libvirtd whose polkit denies access: to the first call with the list of
/// authentication methods, to every other call with an error.
fn reply_access_denied(listener: &UnixListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        let mut call = [0; 28];
        while stream.read_exact(&mut call).is_ok() {
            // Length, program, version, procedure, kind, serial and status.
            let number_at = |at: usize| {
                let bytes = call[4 * at..].first_chunk().unwrap();
                u32::from_be_bytes(*bytes)
            };
            let (procedure, serial) = (number_at(3), number_at(5));
            let (is_error, body) = if procedure == 66 {
                (0, vec![1, 2])
            } else {
                let message = u32::from_be_bytes(*b"no! ");
                (1, vec![94, 7, 1, 4, message, 2])
            };
            let length = 28 + 4 * u32::try_from(body.len()).unwrap();
            let head = [length, 0x2000_8086, 1, procedure, 1, serial, is_error];
            let words = head.into_iter().chain(body);
            let reply: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
            stream.write_all(&reply).unwrap();
        }
    }
}

#[test]
fn libvirt_permission_error_has_a_fix() {
    let dir = TempDir::new("check-polkit");
    let socket = dir.0.join("sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || reply_access_denied(&listener));
    let (text, code) = text_and_code(&check(&libvirt_flags(Some(&socket))).output().unwrap());
    assert_eq!(code, Some(1), "{text}");
    let libvirt = findings(&text, "WRONG");
    let start = format!("WRONG libvirt: {}: no!", socket.display());
    assert!(libvirt.starts_with(&start), "{libvirt}");
    assert!(libvirt.contains("org.libvirt.unix.monitor"), "{libvirt}");
}

#[test]
fn libvirt_version_and_domain_count_are_listed() {
    let daemon = match LibvirtDaemon::start("check-answers") {
        Ok(daemon) => daemon,
        Err(what) => return skip(what),
    };
    daemon.define_minimal_domain("off");
    let socket = daemon.socket("libvirt-sock-ro");
    let (text, code) = text_and_code(&check(&libvirt_flags(Some(&socket))).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    assert!(line_of(section(&text, "DOMAINS"), "libvirt").starts_with("ok libvirt"));
    let libvirt = section(&text, "LIBVIRT");
    let start = format!("  ok    {}: libvirt ", socket.display());
    assert!(libvirt.starts_with(&start), "{libvirt}");
    assert!(libvirt.contains("QEMU"), "{libvirt}");
    let words: Vec<_> = libvirt.split_whitespace().collect();
    assert!(words.join(" ").ends_with("domains: 1, running: 0"));
}

#[test]
fn check_runs_on_any_host() {
    let flags = ["--engine.socket=".to_owned()];
    let output = check(&flags).output().unwrap();
    let (text, code) = text_and_code(&output);
    assert!(matches!(code, Some(0 | 1)), "{text}");
    for title in ["HOST", "CONTAINERS", "CENSUS", "ENGINES", "SANDBOX"] {
        assert!(!section(&text, title).is_empty(), "{title}");
    }
    assert_eq!(text.contains("  WRONG "), code == Some(1), "{text}");
}

#[test]
fn json_has_the_findings_of_the_text() {
    let mut flags = fixture_flags("vm-v2");
    let dir = TempDir::new("check-json");
    flags.push(format!(
        "--engine.socket=unix://{}/none.sock",
        dir.0.display()
    ));
    let (text, code) = text_and_code(&check(&flags).output().unwrap());
    assert_eq!(code, Some(1), "{text}");
    flags.push("--json".to_owned());
    let output = check(&flags).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["ok"], false);
    let all = json["findings"].as_array().unwrap();
    for (status, mark) in [
        ("wrong", "WRONG"),
        ("note", "note"),
        ("ok", "ok"),
        ("nothing", "-"),
    ] {
        let start = format!("  {mark:<6}");
        let in_text = text.lines().filter(|line| line.starts_with(&start)).count();
        let matching = all.iter().filter(|it| it["status"] == status);
        let matching: Vec<_> = matching.collect();
        assert!(in_text > 0, "{mark}: {text}");
        assert_eq!(matching.len(), in_text, "{mark}: {text}");
        assert_eq!(json["counts"][status], in_text, "{mark}");
        // The first finding.
        let words = format!("{} {}", findings(&text, mark), unwrapped(&text));
        let first = matching[0]["text"].as_str().unwrap();
        assert!(
            words.contains(first.split(", ").next().unwrap()),
            "{first}: {text}"
        );
    }
    let errors = all.iter().find(|it| it["status"] == "wrong").unwrap();
    assert_eq!(errors["area"], "engines");
    assert!(
        errors["fix"]
            .as_str()
            .unwrap()
            .starts_with("start the engine")
    );
    let loadavg = all.iter().find(|it| it["collector"] == "loadavg").unwrap();
    assert_eq!(
        (&loadavg["area"], &loadavg["text"]),
        (&json!("host"), &json!("3 series"))
    );
}

#[test]
fn quiet_prints_only_errors() {
    let mut flags = fixture_flags("vm-v2");
    flags.push("--quiet".to_owned());
    assert_eq!(
        text_and_code(&check(&flags).output().unwrap()),
        (String::new(), Some(0))
    );
    flags.push("--engine.socket=unix:///nowhere/none.sock".to_owned());
    let (text, code) = text_and_code(&check(&flags).output().unwrap());
    assert_eq!(code, Some(1));
    assert!(
        text.starts_with("  WRONG engines: /nowhere/none.sock"),
        "{text}"
    );
    let is_detail = |line: &str| line.starts_with("  WRONG ") || line.starts_with("        ");
    assert!(text.lines().all(is_detail), "{text}");
    flags.push("--json".to_owned());
    let output = check(&flags).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["findings"].as_array().unwrap().len(), 1, "{json}");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let flags = fixture_flags("vm-v2");
    let escapes = |name: &str, value: &str| {
        let mut command = check(&flags);
        command.env_remove("NO_COLOR").env(name, value);
        command.output().unwrap().stdout.contains(&b'\x1b')
    };
    // A pipe is not a terminal.
    assert!(!escapes("TERM", "xterm"));
    assert!(escapes("CLICOLOR_FORCE", "1"));
    assert!(!escapes("NO_COLOR", "1"));
}

#[test]
fn invalid_flag_is_a_usage_error() {
    let output = check(&["--bad".to_owned()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}
