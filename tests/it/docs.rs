//! The documents: the tree is complete, links and anchors are valid, flags exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use strata_exporter::{cli, collectors};

/// The files that the documentation consists of.
const TREE: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/api.md",
    "docs/benchmarks.md",
    "docs/development/fuzzing.md",
    "docs/faults.md",
    "docs/glossary.md",
    "docs/metrics/census.md",
    "docs/metrics/containers.md",
    "docs/metrics/domains.md",
    "docs/metrics/exporter.md",
    "docs/metrics/host.md",
    "docs/migration/cadvisor.md",
    "docs/migration/libvirt.md",
    "docs/migration/node_exporter.md",
    "docs/operations/alerts.md",
    "docs/operations/fleet.md",
    "docs/operations/load.md",
    "docs/operations/runbooks.md",
    "docs/pictures/page.svg",
    "docs/privacy.md",
    "docs/rights.md",
    "docs/security.md",
    "docs/stability.md",
    "docs/systems.md",
    "docs/web-config.md",
];

/// Flags of Prometheus, by their beginning.
const OTHER_FLAGS: &str = "storage.";

#[test]
fn tree_is_complete() {
    for file in TREE {
        assert!(root().join(file).exists(), "{file} is missing");
    }
}

#[test]
fn readme_is_short() {
    let size = fs::metadata(root().join("README.md")).unwrap().len();
    assert!(size <= 12_000, "README.md has {size} bytes");
}

#[test]
fn figures_in_readme_are_in_benchmarks() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let benchmarks = fs::read_to_string(root().join("docs/benchmarks.md")).unwrap();
    let (_, table) = readme.split_once("## What it costs").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let mut checked = 0;
    for row in table.lines().filter(|line| line.starts_with('|')).skip(2) {
        for cell in row
            .split('|')
            .map(str::trim)
            .skip(3)
            .take(2)
            .filter(|it| !it.is_empty())
        {
            assert!(
                benchmarks.contains(cell),
                "{cell} is not in docs/benchmarks.md"
            );
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} figures were found");
}

#[test]
fn relative_links_and_anchors_are_valid() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for file in documents() {
        let text = fs::read_to_string(&file).unwrap();
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() {
                file.clone()
            } else {
                normalized(&file.parent().unwrap().join(path))
            };
            let is_valid =
                target.exists() && (anchor.is_empty() || anchors(&target).contains(anchor));
            if !is_valid {
                broken.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(checked > 100, "only {checked} links were found");
}

#[test]
fn documented_flags_exist() {
    let command = cli::command(collectors::ALL);
    let subcommand_flags = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments);
    let known_flags: BTreeSet<_> = command
        .get_arguments()
        .chain(subcommand_flags)
        .filter_map(|it| it.get_long())
        .collect();
    let mut checked = 0;
    for file in documents() {
        // Tables of other exporters' flags, which `migration` checks, and former names.
        if file.parent().unwrap().ends_with("migration") || file.ends_with("CHANGELOG.md") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for rest in text.split("`--").skip(1) {
            let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            let (flag, after) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
            let flag = flag.strip_prefix("no-").unwrap_or(flag);
            // What has no dot may be another program's; NAME and `…` stand for any name.
            let is_exact = flag.contains('.')
                && !flag.contains("NAME")
                && !flag.ends_with(['.', '-', '_'])
                && !after.starts_with(['…', '*'])
                && !flag.starts_with(OTHER_FLAGS);
            if is_exact {
                assert!(known_flags.contains(flag), "{}: --{flag}", file.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 60, "only {checked} flags were found");
}

#[test]
fn links_and_anchors_are_parsed() {
    let text =
        "# A `b` c, d_e!\n[x](y.md#z) ![p](p.svg)\n```sh\n[no](link)\n# no\n```\n`[no](code)`\n";
    assert_eq!(links(text), ["y.md#z", "p.svg"]);
    assert_eq!(anchor_names(text), ["a-b-c-d_e"].map(str::to_owned).into());
    let twice = "## A\n## A\n";
    assert_eq!(anchor_names(twice), ["a", "a-1"].map(str::to_owned).into());
}

/// Every Markdown file of the repository.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![root()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_str().unwrap();
            // Links are not followed: fixtures have many.
            if entry.file_type().unwrap().is_dir() {
                if !name.starts_with('.') && !["target", "fixtures", "corpus"].contains(&name) {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|it| it == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The targets of inline links and pictures, outside code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        // Every second part is inside backticks; the text of a link may be such a part.
        let mut is_code = false;
        let mut plain = String::new();
        for part in line.split('`') {
            plain += if is_code { "code" } else { part };
            is_code = !is_code;
        }
        for rest in plain.split("](").skip(1) {
            let target = rest.split([')', ' ']).next().unwrap();
            found.push(target.to_owned());
        }
    }
    found
}

fn anchors(path: &Path) -> BTreeSet<String> {
    anchor_names(&fs::read_to_string(path).unwrap_or_default())
}

/// The anchors of headings, as the forge makes them.
fn anchor_names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let chars = heading
            .trim()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let name: String = chars.collect::<String>().to_lowercase().replace(' ', "-");
        let mut unique = name.clone();
        let mut count = 0;
        while !names.insert(unique.clone()) {
            count += 1;
            unique = format!("{name}-{count}");
        }
    }
    names
}

/// Lines outside fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fence && !is_fenced
    })
}

/// Without `.` and `..`.
fn normalized(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
