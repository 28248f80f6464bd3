//! The command line: help, subcommands, suggestions, completion and signals.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    is_installed,
    server_process::{ServerProcess, TempDir, exporter_command, wait_until},
    skip,
};

fn run(args: &[&str]) -> Output {
    exporter_command()
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What it prints when it succeeds.
fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line that it prints about a wrong command line.
fn usage_error(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

/// The flags that a help text lists.
fn flags_of(help: &str) -> Vec<&str> {
    let lines = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let line = line.strip_prefix("-h, ").unwrap_or(line);
        let name = line.strip_prefix("--")?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        name.split(|c| !is_name(c)).next()
    });
    lines
        .filter(|name| *name != "help" && *name != "version")
        .collect()
}

#[test]
fn short_help_fits_a_screen() {
    let help = stdout(&["-h"]);
    assert!(help.lines().count() <= 50, "{help}");
    assert!(
        help.contains("Usage: strata_exporter [OPTIONS] [SUBCOMMAND]\n"),
        "{help}"
    );
    for subcommand in [
        "serve",
        "check",
        "census",
        "top",
        "targets",
        "web-config",
        "completion",
        "man",
    ] {
        assert!(
            help.contains(&format!("\n  {subcommand} ")),
            "{subcommand}: {help}"
        );
    }
    assert!(help.contains("strata_exporter --help"), "{help}");
    let flags = flags_of(&help);
    assert!((8..=12).contains(&flags.len()), "{flags:?}");
    assert!(flags.contains(&"web.listen-address"), "{flags:?}");
}

#[test]
fn long_help_lists_all_flags_in_groups() {
    let help = stdout(&["--help"]);
    for heading in [
        "Subcommands:",
        "Web:",
        "Container engines:",
        "Libvirt:",
        "History:",
        "Security:",
        "Logging:",
        "Host collectors:",
        "Container collectors:",
        "Domain collectors:",
        "Census collectors:",
    ] {
        assert!(help.contains(&format!("\n{heading}\n")), "{heading}");
    }
    let flags = flags_of(&help);
    for flag in [
        "web.max-requests",
        "collector.loadavg",
        "collector.census_images.max",
    ] {
        assert!(flags.contains(&flag), "{flag}");
    }
    for foreign in ["json", "quiet", "top.interval", "http.config.file"] {
        assert!(!flags.contains(&foreign), "{foreign}");
    }
    // Whatever the program's file is called.
    let dir = TempDir::new("cli-name");
    let link = dir.0.join("se");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_strata_exporter"), &link).unwrap();
    let output = Command::new(link).args(["check", "-h"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("Usage: strata_exporter check "), "{help}");
}

#[test]
fn help_of_a_subcommand_lists_its_own_flags() {
    for (args, flags) in [
        (&["check"][..], &["json", "quiet"][..]),
        (&["census"], &["json"]),
        (&["top"], &["top.interval", "http.config.file"]),
        (&["targets", "list"], &["file", "label", "json"]),
        (&["web-config"], &[]),
        (&["completion"], &[]),
        (&["man"], &[]),
    ] {
        for help in ["-h", "--help"] {
            let text = stdout(&[args, &[help]].concat());
            assert_eq!(flags_of(&text), flags, "{args:?}");
        }
    }
    assert!(stdout(&["check", "--help"]).contains("The exit code is 0 if"));
}

#[test]
fn server_flags_are_accepted_on_both_sides_of_check_and_census() {
    let flags = ["--collector.disable-defaults", "--collector.loadavg"];
    let before = stdout(&[&flags[..], &["check"]].concat());
    let after = stdout(&[&["check"], &flags[..]].concat());
    let apart = stdout(&[flags[0], "check", flags[1]]);
    for text in [&before, &after, &apart] {
        let on = text.lines().filter(|line| line.contains("  3 series"));
        assert_eq!(on.count(), 1, "{text}");
        assert!(
            text.contains("\nOFF\n") && !text.contains("meminfo  "),
            "{text}"
        );
    }
    let report = stdout(&[
        "--engine.socket=",
        "census",
        "--libvirt.uri=qemu:///system",
        "--json",
    ]);
    assert!(report.starts_with('{'), "{report}");
    // The last one wins, wherever it is.
    let last = stdout(&[flags[0], flags[1], "check", "--no-collector.loadavg"]);
    assert!(!last.contains("3 series"), "{last}");
}

#[test]
fn other_subcommands_reject_server_flags() {
    let line = usage_error(&["--collector.loadavg", "top"]);
    let expected = "--collector.loadavg is only valid for serve, check and census, not for top";
    assert!(line.contains(expected), "{line}");
    for subcommand in ["top", "targets", "web-config", "man"] {
        let line = usage_error(&[subcommand, "--log.level=warn"]);
        assert!(
            line.contains("unexpected argument '--log.level' found"),
            "{line}"
        );
    }
    // Nor does a wrong variable of the server's concern them.
    let output = exporter_command()
        .arg("man")
        .env("STRATA_LOG_LEVEL", "loud")
        .output();
    assert!(output.unwrap().status.success());
    let output = exporter_command()
        .arg("check")
        .env("STRATA_LOG_LEVEL", "loud")
        .output();
    assert_eq!(output.unwrap().status.code(), Some(2));
}

#[test]
fn near_names_are_suggested() {
    for (args, suggestion) in [
        (&["--log.levl=warn"][..], "'--log.level'"),
        (&["--no-collector.sytemd"], "'--no-collector.systemd'"),
        (&["check", "--collector.sytemd"], "'--collector.systemd'"),
        (&["chekc"], "'check'"),
        (&["top", "--top.intervall=1s"], "'--top.interval'"),
    ] {
        let line = usage_error(args);
        assert!(
            line.contains(&format!("(did you mean {suggestion}?)")),
            "{line}"
        );
        assert!(line.ends_with(", try --help\n"), "{line}");
    }
}

#[test]
fn flags_of_cadvisor_name_ours() {
    for (flag, hint) in [
        ("--docker_only", "use --cgroup.include='^/$'"),
        ("--port=8080", "use --web.listen-address"),
        ("-port=8080", "use --web.listen-address"),
        ("--listen_ip=127.0.0.1", "use --web.listen-address"),
        ("--docker=unix:///x", "use --engine.socket=unix:///PATH"),
        ("--disable_metrics=tcp", "use --no-collector.NAME"),
        (
            "--store_container_labels=false",
            "use --engine.label-include",
        ),
        ("--housekeeping_interval=1s", "not needed"),
        ("--env_metadata_whitelist=x", "not supported"),
        ("--v=4", "use --log.level"),
    ] {
        let line = usage_error(&[flag]);
        let name = flag.split('=').next().unwrap();
        let expected = format!("unexpected argument '{name}' found (a flag of cAdvisor: {hint}");
        assert!(line.contains(&expected), "{line}");
    }
}

#[test]
fn version_has_revision_compiler_target_and_features() {
    let text = stdout(&["--version"]);
    let lines: Vec<_> = text.lines().collect();
    let first = concat!("strata_exporter ", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines[0], first, "{text}");
    let values: Vec<_> = lines[1..]
        .iter()
        .map(|line| line.split_once(':').unwrap())
        .collect();
    let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["revision", "rustc", "target", "features"], "{text}");
    let revision = values[0].1.trim();
    let is_hash = revision.len() == 40 && revision.bytes().all(|it| it.is_ascii_hexdigit());
    let is_set = option_env!("STRATA_BUILD_REVISION").is_some();
    assert!(is_hash || is_set || revision == "unknown", "{text}");
    assert!(values[1].1.starts_with("    rustc 1."), "{text}");
    assert!(values[2].1.contains("-linux-"), "{text}");
    let features = if cfg!(feature = "virt") {
        "virt"
    } else {
        "none"
    };
    assert_eq!(values[3].1.trim(), features, "{text}");
    assert_eq!(stdout(&["-V"]), format!("{first}\n"));
}

#[test]
fn sizes_and_durations_have_units_and_errors_list_them() {
    let run = |flag: &str| run(&["check", "--quiet", "--collector.disable-defaults", flag]);
    for flag in [
        "--history.max-bytes=1MB",
        "--history.max-bytes=1000000",
        "--history.max-bytes=64KiB",
        "--history.interval=500ms",
        "--cgroup.grace=1m30s",
    ] {
        let output = run(flag);
        assert_eq!(output.status.code(), Some(0), "{flag}: {output:?}");
    }
    for (flag, expected) in [
        (
            "--history.max-bytes=1X",
            "MB, GB (powers of 1000) or KiB, MiB, GiB",
        ),
        ("--history.max-bytes=1kB", "must be at least 64KiB"),
        ("--history.interval=5", "a unit (ns, us, ms, s, m or h)"),
        ("--cgroup.grace=5 minutes", "a unit (ns, us, ms, s, m or h)"),
    ] {
        let output = run(flag);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag}");
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn completion_scripts_are_valid() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&["completion", shell]);
        for word in [
            "strata_exporter",
            "collector.loadavg",
            "web-config",
            "top.interval",
        ] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        if !is_installed(shell) {
            skip(shell);
            continue;
        }
        let mut command = Command::new(shell);
        let mut shell = command
            .arg("-n")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        drop(stdin);
        let output = shell.wait_with_output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
    assert!(usage_error(&["completion", "tcsh"]).contains("[possible values: bash,"));
}

#[test]
fn manual_page_has_all_subcommands_and_flags() {
    let page = stdout(&["man"]);
    assert!(page.starts_with(".TH strata_exporter 1 "), "{page}");
    for line in [
        ".SH NAME",
        ".SH SYNOPSIS",
        ".SH WEB",
        ".SH \"HOST COLLECTORS\"",
        ".SH SUBCOMMANDS",
        ".SS strata_exporter check",
        ".SS strata_exporter targets add",
        ".SS strata_exporter web-config check",
    ] {
        assert!(page.lines().any(|it| it == line), "{line}");
    }
    for flag in [r"\-\-collector.loadavg", r"\-\-quiet", r"\-\-top.interval"] {
        assert!(page.contains(flag), "{flag}");
    }
    assert!(page.contains("Maximum concurrent requests for metrics"));
    // Pages that do not exist.
    assert!(!page.contains(r"\-check(1)"), "{page}");
}

fn server(dir: &TempDir, environment: &[(&str, &str)]) -> Command {
    let mut command = exporter_command();
    command
        .args(["--collector.disable-defaults", "--collector.loadavg"])
        .args(["--engine.socket=", "--web.telemetry-path=/metrics"])
        .current_dir(&dir.0)
        .envs(environment.iter().copied());
    command
}

fn signal(program: &ServerProcess, signal: Signal) {
    let pid = i32::try_from(program.pid()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[test]
fn unknown_variables_are_logged_with_a_suggestion() {
    let dir = TempDir::new("cli-variables");
    let variables = [
        ("STRATA_COLLECTOR_SYTEMD", "true"),
        ("STRATA_NOTHING_LIKE_IT", "1"),
        ("STRATA_EXPORTER_SERVICE_HOST", "10.0.0.1"),
        ("STRATA_WEB_MAX_REQUESTS", "40"),
        ("STRATA_TOP_INTERVAL", "1s"),
    ];
    let program = ServerProcess::start(&mut server(&dir, &variables), &dir.0);
    let log = program.log();
    let lines = log
        .lines()
        .filter(|it| it.contains("unknown environment variable"));
    let lines: Vec<_> = lines.filter(|it| !it.contains("STRATA_TEST_")).collect();
    let [near, far] = lines.as_slice() else {
        panic!("{log}")
    };
    assert!(near.contains("variable=STRATA_COLLECTOR_SYTEMD"), "{near}");
    assert!(
        near.contains("suggestion=STRATA_COLLECTOR_SYSTEMD"),
        "{near}"
    );
    assert!(far.contains("variable=STRATA_NOTHING_LIKE_IT"), "{far}");
    assert!(!far.contains("suggestion"), "{far}");
}

#[test]
fn hangup_without_a_web_config_is_logged() {
    let dir = TempDir::new("cli-hangup");
    let program = ServerProcess::start(&mut server(&dir, &[]), &dir.0);
    signal(&program, Signal::USR1);
    signal(&program, Signal::HUP);
    wait_until("a log line", || {
        program
            .log()
            .contains("no web config file to reload")
            .then_some(())
    });
    assert!(program.get("/-/healthy", "").is_ok());
}

#[test]
fn hangup_reloads_the_web_config() {
    let dir = TempDir::new("cli-reload");
    let header =
        |value: &str| format!("http_server_config:\n  headers:\n    X-Frame-Options: {value}\n");
    let mut command = server(&dir, &[]);
    let (program, file) =
        ServerProcess::start_with_web_config(&mut command, &dir.0, &header("deny"));
    let reloads = || program.log().matches("web config reloaded").count();
    // Even if nothing changed, and without a request.
    signal(&program, Signal::HUP);
    wait_until("the first reload", || (reloads() == 1).then_some(()));
    fs::write(&file, header("sameorigin")).unwrap();
    signal(&program, Signal::HUP);
    wait_until("the second reload", || (reloads() == 2).then_some(()));
    fs::write(&file, "wrong: 1\n").unwrap();
    signal(&program, Signal::HUP);
    wait_until("an error", || {
        program
            .log()
            .contains("cannot reload web config")
            .then_some(())
    });
    assert!(program.get("/-/healthy", "").is_ok());
    let mut stream = std::net::TcpStream::connect(program.address).unwrap();
    write!(stream, "GET /-/healthy HTTP/1.0\r\n\r\n").unwrap();
    let mut response = String::new();
    std::io::Read::read_to_string(&mut stream, &mut response).unwrap();
    assert!(
        response
            .to_lowercase()
            .contains("x-frame-options: sameorigin"),
        "{response}"
    );
}
