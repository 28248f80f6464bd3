//! `strata_exporter targets` on the command line, compared with the Prometheus and promtool that
//! read its files.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::support::{
    is_installed, prometheus_tools,
    server_process::{ServerProcess, TempDir, run_with_input, wait_until},
    skip,
};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_strata_exporter");
/// UID of an unprivileged user.
const NOBODY_UID: u32 = 65_534;

/// Runs `targets TASK --file FILE WORDS…`; returns exit code and output.
fn targets(task: &str, file: &Path, args: &[&str]) -> (Option<i32>, String) {
    targets_with_input(task, file, args, "")
}

/// Like `targets`, but must succeed; returns the output.
fn run_ok(task: &str, file: &Path, args: &[&str]) -> String {
    let (code, output) = targets(task, file, args);
    assert_eq!(code, Some(0), "{task} {args:?}: {output}");
    output
}

fn targets_with_input(
    task: &str,
    file: &Path,
    args: &[&str],
    input: &str,
) -> (Option<i32>, String) {
    run_with_input(&mut command(task, file, args), input)
}

fn command(task: &str, file: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(["targets", task, "--file"])
        .arg(file)
        .args(args);
    command
}

/// Target groups of a JSON file.
fn groups(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// Whether promtool accepts a configuration with this target file.
fn promtool_accepts(dir: &Path, file: &Path) -> bool {
    let config = dir.join("promtool.yml");
    fs::write(&config, configuration(file)).unwrap();
    let mut promtool = Command::new("promtool");
    let (code, output) = run_with_input(promtool.args(["check", "config"]).arg(config), "");
    assert!(matches!(code, Some(0 | 1)), "{output}");
    code == Some(0)
}

/// One job each for the files `….json` and `….yml` if the name ends in `*`, else a single job.
fn configuration(file: &Path) -> String {
    let file = file.display().to_string();
    let job = |name: &str, file: String| {
        format!("- {{job_name: {name}, file_sd_configs: [{{files: ['{file}']}}]}}\n")
    };
    let jobs = match file.strip_suffix(".*") {
        Some(file) => ["json", "yml"]
            .map(|name| job(name, format!("{file}.{name}")))
            .concat(),
        None => job("strata", file),
    };
    format!("scrape_configs:\n{jobs}")
}

#[test]
fn prometheus_follows_added_and_removed_targets() {
    if !is_installed("prometheus") {
        return skip("prometheus");
    }
    let dir = TempDir::new("targets-prometheus");
    let files = ["targets.json", "targets.yml"].map(|name| dir.0.join(name));
    let each = |task: &str, args: &[&str]| {
        for file in &files {
            run_ok(task, file, args);
        }
    };
    let labels = ["--label=instance_id=i-1", "--label=project_id=p \"1\" ü\n"];
    each("add", &[labels[0], labels[1], "127.0.0.1:9"]);
    let prometheus =
        prometheus_tools::start_prometheus(&dir, &configuration(&dir.0.join("targets.*")));
    wait_for(&prometheus, &["127.0.0.1:9"]);
    each("add", &[labels[0], labels[1], "127.0.0.1:10", "web"]);
    let found = wait_for(&prometheus, &["127.0.0.1:10", "127.0.0.1:9", "web:80"]);
    for target in &found {
        assert_eq!(target["labels"]["instance_id"], "i-1");
        assert_eq!(target["labels"]["project_id"], "p \"1\" ü\n");
    }
    each("remove", &["127.0.0.1:9"]);
    wait_for(&prometheus, &["127.0.0.1:10", "web:80"]);
    each("remove", &["--label=instance_id=i-1"]);
    wait_for(&prometheus, &[]);
    let log = prometheus.log();
    assert!(!log.contains("Error reading file"), "{log}");
}

/// Waits until Prometheus scrapes exactly these addresses, each from both files.
fn wait_for(prometheus: &ServerProcess, addresses: &[&str]) -> Vec<Value> {
    let mut expected: Vec<_> = addresses
        .iter()
        .flat_map(|it| ["json", "yml"].map(|job| (job, *it)))
        .collect();
    expected.sort_unstable();
    wait_until(&format!("{addresses:?}"), || {
        let response = prometheus.get("/api/v1/targets?state=active", "").ok()?;
        let response: Value = serde_json::from_str(&response).unwrap();
        let active = response["data"]["activeTargets"].as_array().unwrap();
        let label =
            |target: &'_ Value, name: &str| target["labels"][name].as_str().unwrap().to_owned();
        let mut found: Vec<_> = active
            .iter()
            .map(|target| (label(target, "job"), label(target, "instance")))
            .collect();
        found.sort_unstable();
        let found: Vec<_> = found
            .iter()
            .map(|(job, it)| (job.as_str(), it.as_str()))
            .collect();
        (found == expected).then(|| active.clone())
    })
}

/// Addresses without labels.
const ADDRESSES: &[&str] = &[
    "h:9100",
    "h",
    "h:",
    ":9100",
    "a:b:c",
    "::1",
    "[::1]",
    "[::1]:9100",
    "[::1",
    "a b:1",
    "h:99999",
    "h:x",
    "ü:1",
    " ",
    "h\n:1",
    "\u{1b}[2J",
    "",
    "/",
    "h/",
    "h:9100/metrics",
    "http://h:9100",
    "//h",
    "-h",
];
/// Label names.
const NAMES: &[&str] = &[
    "a",
    "A9",
    "_",
    "__",
    "__x",
    "__address__",
    "__meta_filepath",
    "__name__",
    "__metrics_path__",
    "job",
    "instance",
    "le",
    "null",
    "on",
    "y",
    "",
    "9",
    "9a",
    "a-b",
    "a.b",
    "a:b",
    "a b",
    "ä",
    "a\n",
    "__param_x-y",
    "a\"",
];
/// Label values.
const VALUES: &[&str] = &[
    "", " ", "~", "null", "yes", "1e3", "ä\n\"\\", "\u{1b}", "\u{7f}", "\u{85}", "\u{feff}",
];
/// Addresses with schemes.
const SCHEMES: &[(&str, &str)] = &[
    ("h:1", "ftp"),
    ("h", "ftp"),
    ("h", "HTTP"),
    ("h", "https"),
    ("h", ""),
    ("::1", "ftp"),
    ("[::1]", "ftp"),
    ("[::1", "ftp"),
    ("a:b:c", "ftp"),
    ("h]", "ftp"),
    ("[a]b", "ftp"),
    ("[a]b:1", "ftp"),
    ("a[b:1", "ftp"),
    ("h:", "ftp"),
    (":", "ftp"),
    ("[]", "ftp"),
    ("[[a]]", "ftp"),
    ("[a:1", "ftp"),
    ("a]:1", "ftp"),
    ("[a]:", "ftp"),
    ("[a]:b:c", "ftp"),
    ("[a:b]", "ftp"),
];
/// Scrape intervals.
const INTERVALS: &[&str] = &[
    "",
    "1m",
    "1m0s",
    "1h30m5ms",
    "290y",
    "300y",
    "1d",
    "0",
    "0s",
    "60",
    "5x",
    "1.5h",
    "30m1h",
    " 1m",
    "99999999999999999999y",
    "1m1m",
    "1y2w3d4h5m6s7ms",
    "1ms1s",
    "0s0",
    "00",
    "01m",
    "+1m",
];
/// Scrape timeouts, for an interval of 20 s.
const TIMEOUTS: &[&str] = &["", "5s", "0s", "x", "20s", "21s"];

type Case = (&'static str, Vec<(&'static str, &'static str)>);

fn cases() -> Vec<Case> {
    let labelled = |name: &'static str, value: &'static str| ("h:1", vec![(name, value)]);
    let mut cases: Vec<Case> = Vec::new();
    cases.extend(ADDRESSES.iter().map(|address| (*address, vec![])));
    cases.extend(NAMES.iter().map(|name| labelled(name, "x")));
    cases.extend(VALUES.iter().map(|value| labelled("a", value)));
    let scheme = |(address, scheme): &(_, _)| (*address, vec![("__scheme__", *scheme)]);
    cases.extend(SCHEMES.iter().map(scheme));
    for interval in INTERVALS {
        // Otherwise Prometheus' default timeout may exceed the interval.
        let timeout = ("__scrape_timeout__", "1ms");
        cases.push(("h:1", vec![("__scrape_interval__", interval), timeout]));
    }
    for timeout in TIMEOUTS {
        let interval = ("__scrape_interval__", "20s");
        cases.push(("h:1", vec![interval, ("__scrape_timeout__", timeout)]));
    }
    cases
}

#[test]
fn targets_are_rejected_exactly_as_by_promtool() {
    if !is_installed("promtool") {
        return skip("promtool");
    }
    let dir = TempDir::new("targets-promtool");
    let (mut accepted, mut rejected) = (0, 0);
    for (address, labels) in &cases() {
        let labels_as_json: serde_json::Map<_, _> = labels
            .iter()
            .map(|&(name, value)| (name.to_owned(), json!(value)))
            .collect();
        let text = json!([{"targets": [address], "labels": labels_as_json}]).to_string();
        let theirs = dir.0.join("theirs.json");
        fs::write(&theirs, &text).unwrap();
        let expected = promtool_accepts(&dir.0, &theirs);
        let mut args: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("--label={name}={value}"))
            .collect();
        args.extend(["--".to_owned(), (*address).to_owned()]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        for name in ["json", "yml"] {
            let ours = dir.0.join(format!("ours-{accepted}.{name}"));
            let (code, output) = targets("add", &ours, &args);
            assert_eq!(
                code == Some(0),
                expected,
                "{address:?} {labels:?}: {output}"
            );
            assert_eq!(ours.exists(), expected, "{address:?} {labels:?}");
            if expected {
                // The file contains exactly the given target.
                let output = run_ok("list", &ours, &["--json"]);
                let listed: Value = serde_json::from_str(&output).unwrap();
                assert_eq!(listed[0]["targets"], json!([address]));
                let actual = listed[0].get("labels").cloned().unwrap_or(json!({}));
                assert_eq!(actual, Value::Object(labels_as_json.clone()), "{name}");
            }
        }
        *(if expected {
            &mut accepted
        } else {
            &mut rejected
        }) += 1;
    }
    assert!(
        accepted > 40 && rejected > 30,
        "{accepted} accepted, {rejected} rejected"
    );
}

/// Files that promtool accepts but this exporter rejects: rewriting them would change their
/// meaning.
const STRICTER: &[(&str, &[u8])] = &[
    ("twice.json", br#"[{"targets":["h:1"],"targets":["g:1"]}]"#),
    ("case.json", br#"[{"Targets":["h:1"]}]"#),
    (
        "utf8.json",
        b"[{\"targets\":[\"h:1\"],\"labels\":{\"a\":\"\xff\"}}]",
    ),
    (
        "surrogate.json",
        br#"[{"targets":["h:1"],"labels":{"a":"\ud800"}}]"#,
    ),
    ("documents.yml", b"- targets: [h]\n---\n- targets: [g]\n"),
    ("null.yml", b"- targets: [h]\n  labels: {null: x}\n"),
];
/// Files that promtool rejects, while Prometheus drops only the invalid targets.
const TOLERATED: &[(&str, &[u8])] = &[
    ("address.json", br#"[{"targets":["http://h","g:1"]}]"#),
    ("none.yml", b"- targets: [~, g]\n"),
];
/// Files that both accept or both reject.
const SAME: &[(&str, &[u8])] = &[
    ("empty.json", b""),
    ("null.json", b"null"),
    ("none.json", b"[]"),
    ("nil.json", b"[null]"),
    ("group.json", b"[{}]"),
    ("object.json", b"{}"),
    ("unknown.json", br#"[{"targets":["h:1"],"x":1}]"#),
    ("nulls.json", br#"[{"targets":null,"labels":{"a":null}}]"#),
    (
        "label.json",
        br#"[{"targets":["h:1"],"labels":{"a-b":"1"}}]"#,
    ),
    (
        "labels.json",
        br#"[{"targets":["h:1"],"labels":{"a":"1","a":"2"}}]"#,
    ),
    ("number.json", br#"[{"targets":[1]}]"#),
    ("value.json", br#"[{"targets":["h:1"],"labels":{"a":1}}]"#),
    ("behind.json", b"[] x"),
    ("bom.json", b"\xef\xbb\xbf[]"),
    (
        "duplicate.json",
        br#"[{"targets":["h:1","h:1"]},{"targets":["h:1"],"labels":{"a":"b"}}]"#,
    ),
    ("string.json", br#"[{"targets":"h:1"}]"#),
    ("empty.yml", b""),
    ("null.yaml", b"null"),
    ("comment.yml", b"# nothing\n"),
    ("nil.yml", b"- null\n"),
    ("map.yml", b"a: b\n"),
    (
        "numbers.yml",
        b"- targets: [1, 1.50, true, 0x10]\n  labels: {a: 1, b: ~, c: , d: 2001-01-01}\n",
    ),
    ("unknown.yml", b"- targets: [h]\n  x: 1\n"),
    ("case.yml", b"- Targets: [h]\n"),
    ("twice.yml", b"- targets: [h]\n  targets: [g]\n"),
    ("labels.yml", b"- targets: [h]\n  labels: {a: 1, a: 2}\n"),
    ("label.yml", b"- targets: [h]\n  labels: {1: x}\n"),
    ("value.yml", b"- targets: [h]\n  labels: {a: [b]}\n"),
    ("string.yml", b"- targets: h\n"),
    ("utf8.yml", b"- targets: [h]\n  labels: {a: \"\xff\"}\n"),
    ("bom.yml", b"\xef\xbb\xbf- targets: [h]\n"),
    (
        "merge.yml",
        b"- &a\n  targets: [h]\n- <<: *a\n  labels: {a: b}\n",
    ),
    ("alias.yml", b"- targets: &t [h]\n- targets: *t\n"),
    (
        "tags.yml",
        b"- targets: [h]\n  labels: {a: !!binary aGk=, b: !foo x}\n",
    ),
    ("json.yml", br#"[{"targets":["h:1"]}]"#),
    ("tab.yml", b"\t- x"),
    ("upper.JSON", b"[]"),
    ("upper.YML", b"[]"),
    ("upper.YAML", b"[]"),
    ("mixed.Json", b"[]"),
    ("text.txt", b"[]"),
    ("none", b"[]"),
];

#[test]
fn files_are_rejected_as_by_promtool() {
    if !is_installed("promtool") {
        return skip("promtool");
    }
    let dir = TempDir::new("targets-files");
    let check = |name: &str, bytes: &[u8], theirs: bool, ours: bool| {
        let file = dir.0.join(name);
        fs::write(&file, bytes).unwrap();
        assert_eq!(promtool_accepts(&dir.0, &file), theirs, "{name}");
        let (code, output) = targets("add", &file, &["--label=new=1", "new:1"]);
        assert_eq!(code == Some(0), ours, "{name}: {output}");
        if !ours {
            assert_eq!(fs::read(&file).unwrap(), bytes, "{name}");
        } else if theirs {
            assert!(promtool_accepts(&dir.0, &file), "{name}");
        }
    };
    for (name, bytes) in STRICTER {
        check(name, bytes, true, false);
    }
    for (name, bytes) in TOLERATED {
        check(name, bytes, false, true);
    }
    for (name, bytes) in SAME {
        let file = dir.0.join(name);
        fs::write(&file, bytes).unwrap();
        let theirs = promtool_accepts(&dir.0, &file);
        check(name, bytes, theirs, theirs);
    }
}

#[test]
fn examples_are_accepted_and_rewritten_unchanged() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("prometheus/targets");
    let dir = TempDir::new("targets-examples");
    for name in ["machines.json", "machines.yml"] {
        let file = dir.0.join(name);
        fs::copy(examples.join(name), &file).unwrap();
        if is_installed("promtool") {
            assert!(promtool_accepts(&dir.0, &file), "{name}");
        } else {
            skip("promtool");
        }
        let output = run_ok("list", &file, &["--label=service_id=web"]);
        assert!(
            output.contains("10.0.0.11:9100 {instance_id=\"i-0a1b2c3d\", "),
            "{output}"
        );
        run_ok(
            "add",
            &file,
            &["--label=service_id=cache", "10.0.0.31:9100"],
        );
        run_ok("remove", &file, &["10.0.0.31:9100"]);
        let before = fs::read_to_string(examples.join(name)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), before, "{name}");
    }
}

#[test]
fn concurrent_writers_lose_nothing() {
    const WRITERS: usize = 8;
    const EACH: usize = 12;
    let dir = TempDir::new("targets-writers");
    for name in ["targets.json", "targets.yml"] {
        let file = dir.0.join(name);
        let write = |writer: usize| {
            for number in 0..EACH {
                let address = format!("host-{writer}-{number}:9100");
                let label = format!("--label=writer={writer}");
                run_ok("add", &file, &[&label, &address]);
                // A target that other writers add and remove, too.
                let (code, output) = targets("add", &file, &[&label, "gone"]);
                assert!(code == Some(0) || output.contains("--replace"), "{output}");
                run_ok("remove", &file, &["gone"]);
            }
        };
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                scope.spawn(move || write(writer));
            }
        });
        let output = run_ok("list", &file, &[]);
        let mut listed: Vec<&str> = output.lines().collect();
        listed.sort_unstable();
        let expected = |it: usize| {
            let (writer, number) = (it / EACH, it % EACH);
            format!("host-{writer}-{number}:9100 {{writer=\"{writer}\"}}")
        };
        let mut expected: Vec<String> = (0..WRITERS * EACH).map(expected).collect();
        expected.sort_unstable();
        assert_eq!(listed, expected);
    }
}

#[test]
fn killed_writer_leaves_a_complete_file() {
    const ROUNDS: u64 = 50;
    let dir = TempDir::new("targets-killed");
    let file = dir.0.join("targets.json");
    // Large, so that writing it takes a while.
    let many: Vec<String> = (0..20_000).map(|it| format!("host-{it}:9100")).collect();
    let (code, output) = targets_with_input("sync", &file, &["--label=all=1"], &many.join("\n"));
    assert_eq!(code, Some(0), "{}", output.len());
    let new = dir.0.join(".targets.json.tmp");
    let (mut while_writing, mut is_there) = (0, false);
    for round in 0..ROUNDS {
        let task = if is_there { "remove" } else { "add" };
        let mut writer = command(task, &file, &["--label=all=1", "one-more"]);
        let mut writer = writer.stdout(Stdio::null()).spawn().unwrap();
        match round % 3 {
            // While the new text is being written.
            0 => while writer.try_wait().unwrap().is_none() && !new.exists() {},
            // At a different time in each round.
            1 => thread::sleep(Duration::from_millis(round * 3 % 97)),
            _ => assert!(writer.wait().unwrap().success()),
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        while_writing += u64::from(new.exists());
        let groups = groups(&file);
        let found = groups[0]["targets"].as_array().unwrap();
        let was_there = is_there;
        is_there = found.last() == Some(&json!("one-more"));
        assert_eq!(found.len(), many.len() + usize::from(is_there));
        assert!(round % 3 < 2 || is_there != was_there);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o644);
    }
    assert!(while_writing > 0);
    // Files left by killed writers do not block the next one.
    run_ok("add", &file, &["--label=all=1", "last"]);
    let names = fs::read_dir(&dir.0)
        .unwrap()
        .map(|it| it.unwrap().file_name());
    let names: BTreeSet<_> = names.collect();
    let expected = ["targets.json", ".targets.json.lock"].map(Into::into);
    assert_eq!(names, BTreeSet::from(expected));
}

#[test]
fn mode_and_owner_are_preserved() {
    if !rustix::process::geteuid().is_root() {
        return skip("root");
    }
    let dir = TempDir::new("targets-owner");
    let file = dir.0.join("targets.json");
    fs::write(&file, "[]").unwrap();
    chown(&file, Some(NOBODY_UID), Some(NOBODY_UID - 1)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4640)).unwrap();
    let before = fs::metadata(&file).unwrap();
    run_ok("add", &file, &["h:1"]);
    let after = fs::metadata(&file).unwrap();
    assert_ne!(before.ino(), after.ino());
    assert_eq!(
        (after.uid(), after.gid(), after.mode()),
        (NOBODY_UID, NOBODY_UID - 1, before.mode())
    );
}

#[test]
fn file_is_unchanged_if_its_owner_cannot_be_kept() {
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return skip("root");
    }
    let dir = TempDir::new("targets-other");
    fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o777)).unwrap();
    let file = dir.0.join("targets.json");
    fs::write(&file, "[]").unwrap();
    let binary = dir.0.join("strata_exporter");
    fs::copy(BINARY, &binary).unwrap();
    let mut command = Command::new(binary);
    command
        .args(["targets", "add", "--file"])
        .arg(&file)
        .arg("h:1");
    let (code, output) = run_with_input(command.uid(NOBODY_UID).gid(NOBODY_UID), "");
    assert_eq!(code, Some(1));
    assert!(output.contains("cannot preserve owner 0:0"), "{output}");
    assert_eq!(groups(&file), json!([]));
    assert!(!dir.0.join(".targets.json.tmp").exists());
}

#[test]
fn unchanged_targets_cause_no_write() {
    let dir = TempDir::new("targets-same");
    let file = dir.0.join("targets.json");
    // Not formatted as the exporter would write it.
    let text = r#"[{"labels":{"b":"2","a":"1"},"targets":["h:1"]}]"#;
    fs::write(&file, text).unwrap();
    let before = fs::metadata(&file).unwrap();
    let labels = ["--label=a=1", "--label=b=2"];
    for (task, args) in [
        ("add", vec![labels[0], labels[1], "h:1"]),
        ("remove", vec!["g:1"]),
        ("remove", vec!["--label=a=2", "h:1"]),
        ("sync", vec![labels[0], "h:1"]),
        ("sync", vec![labels[1], "--label=c=3", "--allow-empty"]),
    ] {
        let output = targets(task, &file, &args);
        assert_eq!(
            output,
            (Some(0), "nothing to change\n".to_owned()),
            "{task} {args:?}"
        );
    }
    for (task, args) in [
        ("add", vec!["g:1", "--dry-run"]),
        ("remove", vec!["h:1", "--dry-run"]),
        ("sync", vec!["g:1", "--dry-run"]),
    ] {
        let (code, output) = targets(task, &file, &args);
        assert!(code == Some(0) && output.starts_with("would "), "{output}");
    }
    let after = fs::metadata(&file).unwrap();
    assert_eq!(before.ino(), after.ino());
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn symbolic_link_is_preserved() {
    let dir = TempDir::new("targets-link");
    let (real, link) = (dir.0.join("real.json"), dir.0.join("sub/link.json"));
    fs::create_dir(dir.0.join("sub")).unwrap();
    symlink("../real.json", &link).unwrap();
    let (code, output) = targets("add", &link, &["h:1"]);
    assert_eq!(code, Some(1));
    assert!(
        output.ends_with("link.json is a dangling symbolic link\n"),
        "{output}"
    );
    fs::write(&real, "[]").unwrap();
    run_ok("add", &link, &["h:1"]);
    assert!(link.is_symlink() && !real.is_symlink());
    assert_eq!(groups(&real), json!([{"targets": ["h:1"]}]));
    // Beside the link's target, where users of that path look for it.
    assert!(dir.0.join(".real.json.lock").exists());
}

#[test]
fn sync_reads_lists_and_rejects_empty_input() {
    let dir = TempDir::new("targets-sync");
    let file = dir.0.join("targets.yml");
    let list = dir.0.join("list");
    fs::write(&list, "# ours\n b:1\r\n\na:1\nb:1\n").unwrap();
    run_ok("add", &file, &["other:1", "--label=p=2"]);
    let from = format!("--from={}", list.display());
    let output = run_ok("sync", &file, &["--label=p=1", &from]);
    assert_eq!(output, "added b:1 {p=\"1\"}\nadded a:1 {p=\"1\"}\n");
    let (_, output) = targets_with_input("sync", &file, &["--label=p=1", "--from=-"], "c:1\na:1\n");
    assert_eq!(output, "added c:1 {p=\"1\"}\nremoved b:1 {p=\"1\"}\n");
    let before = fs::read(&file).unwrap();
    let (code, output) = targets_with_input("sync", &file, &["--label=p=1"], "\n# none\n");
    assert!(
        code == Some(1) && output.contains("--allow-empty"),
        "{output}"
    );
    assert_eq!(fs::read(&file).unwrap(), before);
    targets_with_input("sync", &file, &["--label=p=1", "--allow-empty"], "");
    let output = run_ok("list", &file, &[]);
    assert_eq!(output, "other:1 {p=\"2\"}\n");
    let output = run_ok("list", &file, &["--label=p=1", "--json"]);
    assert_eq!(output, "[]\n");
}

#[test]
fn exit_codes_distinguish_usage_errors_from_failures() {
    let dir = TempDir::new("targets-codes");
    let file = dir.0.join("targets.json");
    for (task, args, status, expected) in [
        (
            "add",
            vec![],
            2,
            "strata_exporter: the following required arguments were not provided: <TARGET>..., \
             try --help\n",
        ),
        (
            "remove",
            vec![],
            2,
            "strata_exporter: the following required arguments were not provided: --label \
             <NAME=VALUE>, try --help\n",
        ),
        (
            "add",
            vec!["--label=a-b=1", "h:1"],
            2,
            "strata_exporter: invalid value 'a-b=1' for '--label <NAME=VALUE>': \"a-b\" is not a \
             valid label name, try --help\n",
        ),
        (
            "add",
            vec!["--label=a", "h:1"],
            2,
            "strata_exporter: invalid value 'a' for '--label <NAME=VALUE>': expected NAME=VALUE, \
             such as service_id=web, try --help\n",
        ),
        (
            "move",
            vec![],
            2,
            "strata_exporter: unrecognized subcommand 'move' (did you mean 'remove'?), try \
             --help\n",
        ),
        (
            "list",
            vec![],
            1,
            "strata_exporter: FILE: no such file or directory\n",
        ),
        (
            "add",
            vec!["http://h"],
            1,
            "strata_exporter: FILE: \"http://h\" is not a valid hostname: expected HOST:PORT, \
             without scheme and path\n",
        ),
        ("remove", vec!["h:1"], 0, "nothing to change\n"),
    ] {
        let (code, output) = targets(task, &file, &args);
        let output = output.replace(&file.display().to_string(), "FILE");
        assert_eq!((code, output.as_str()), (Some(status), expected));
    }
    assert!(!file.exists());
    let (code, help) = targets("add", &file, &["--help"]);
    assert!(
        code == Some(0) && help.contains("\n      --label <NAME=VALUE>"),
        "{help}"
    );
}
