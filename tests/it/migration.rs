//! The metrics and flags that `docs/migration/*.md` name exist, and every flag of
//! `node_exporter` is accepted or listed there.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use strata_exporter::{collectors, scrape, self_metrics};

/// Names that the documents mention as missing.
const OTHER_NAMES: &[&str] = &[
    "container_hints",
    "container_llc_occupancy_bytes",
    "node_filesystem_purgeable_bytes",
];

#[test]
fn named_metrics_are_described() {
    let own = [scrape::SCRAPE_METRICS, self_metrics::SELF_METRICS].concat();
    let collector_descs = collectors::ALL.iter().flat_map(|it| it.metrics);
    let described: BTreeSet<_> = collector_descs
        .chain(own.iter())
        .map(|it| it.name)
        .collect();
    let prefixes = ["node_", "container_", "libvirt_", "census_", "strata_"];
    let text = page();
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_*:".contains(c)));
    let mut checked = 0;
    for word in words.filter(|it| prefixes.iter().any(|prefix| it.starts_with(prefix))) {
        let is_pattern = word.contains('*') || word.ends_with('_');
        let is_other = collectors::ALL.iter().any(|it| it.name == word)
            || word.starts_with("strata_exporter")
            || OTHER_NAMES.contains(&word)
            || ["node_exporter", "libvirt_exporter", "libvirt_library"].contains(&word);
        if is_pattern || is_other {
            continue;
        }
        assert!(described.contains(word), "{word}");
        checked += 1;
    }
    assert!(checked > 20, "only {checked}");
}

#[test]
fn recommended_flags_are_accepted() {
    let mut checked = 0;
    for line in page().lines() {
        let ours = match line.strip_prefix("| ") {
            // The first column is the other exporter's.
            Some(row) => row.split(" | ").nth(1).unwrap_or_default().to_owned(),
            None => line.to_owned(),
        };
        // Those of docker and systemctl have no dots.
        let words = ours.split(|c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c)));
        for flag in words.filter(|it| it.starts_with("--") && it.contains('.')) {
            let flag = flag.trim_end_matches('.');
            if flag.ends_with("NAME") {
                continue;
            }
            assert!(is_taken(flag), "{line}: {flag}");
            checked += 1;
        }
    }
    assert!(checked > 15, "only {checked}");
    assert!(!is_taken("--collector.nosuch"));
}

#[test]
fn node_exporter_flags_are_accepted_or_listed() {
    let Some(node_exporter) = crate::support::find_program("prometheus-node-exporter") else {
        return crate::support::skip("prometheus-node-exporter");
    };
    let help = Command::new(node_exporter).arg("--help").output().unwrap();
    let help = [help.stdout, help.stderr].concat();
    let help = String::from_utf8(help).unwrap();
    let flags: BTreeSet<_> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"))
        .filter_map(|line| line.split(['=', ' ']).next())
        .filter(|flag| flag.contains('.'))
        .collect();
    assert!(flags.len() > 80, "{flags:?}");
    let page = page();
    for flag in flags {
        // Older releases called it otherwise.
        let flag = flag.replace("bcache.priorityStats", "bcache.priority");
        let flag = format!("--{flag}");
        let is_named = page.contains(&format!("| `{flag}"));
        assert!(is_taken(&flag) || is_named, "{flag}");
    }
}

/// Whether the command line accepts a flag, regardless of its value.
fn is_taken(flag: &str) -> bool {
    let exporter = env!("CARGO_BIN_EXE_strata_exporter");
    let output = Command::new(exporter)
        .arg(format!("{flag}=x"))
        // Wrong in any case, so that nothing is served.
        .arg("--log.level=nosuch")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    !stderr.contains(&format!("'{flag}' found"))
}

/// The text of all three documents.
fn page() -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/migration");
    let read = |name| fs::read_to_string(dir.join(format!("{name}.md"))).unwrap();
    ["node_exporter", "cadvisor", "libvirt"].map(read).concat()
}
