//! Records for `--version` what the program was built from: the revision, the compiler, the
//! target and the features. Nothing else of the machine enters the program, so that builds of one
//! revision by one compiler are the same.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Names the revision where there is no checkout, such as in a source archive.
const REVISION: &str = "STRATA_BUILD_REVISION";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={REVISION}");
    let rustc = env::var("RUSTC").ok();
    let rustc = rustc.and_then(|rustc| output(Command::new(rustc).arg("--version")));
    let target = env::var("TARGET").ok();
    set("BUILD_REVISION", &or_unknown(revision()));
    set("BUILD_RUSTC", &or_unknown(rustc));
    set("BUILD_TARGET", &or_unknown(target));
    set("BUILD_FEATURES", &features());
}

fn set(name: &str, value: &str) {
    println!("cargo::rustc-env={name}={value}");
}

fn or_unknown(text: Option<String>) -> String {
    text.unwrap_or_else(|| "unknown".to_owned())
}

/// The revision that is checked out, if this directory is the root of a checkout.
fn revision() -> Option<String> {
    if let Some(revision) = env::var(REVISION).ok().filter(|it| !it.is_empty()) {
        return Some(revision);
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    // A source archive unpacked inside another repository has no revision of its own.
    if !root.join(".git").exists() {
        return None;
    }
    watch_git(&root);
    git(&root, &["rev-parse", "HEAD"])
}

/// Reruns this script after a commit or a checkout. Files that do not exist are not watched:
/// cargo would run the script in every build.
fn watch_git(root: &Path) {
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    // The reflog changes with every commit, wherever git stores the branch.
    let files = ["HEAD", "logs/HEAD", "packed-refs"].into_iter();
    for file in files.chain(branch.as_deref()) {
        let path = git(root, &["rev-parse", "--git-path", file]);
        if let Some(path) = path.map(|path| root.join(path)).filter(|it| it.is_file()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
}

fn git(root: &Path, words: &[&str]) -> Option<String> {
    output(Command::new("git").arg("-C").arg(root).args(words))
}

/// The features that are on, as in Cargo.toml but in lower case and with hyphens.
fn features() -> String {
    let names = env::vars().filter_map(|(name, _)| {
        let name = name.strip_prefix("CARGO_FEATURE_")?;
        Some(name.to_lowercase().replace('_', "-"))
    });
    let mut names: Vec<_> = names.filter(|name| name != "default").collect();
    names.sort_unstable();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(",")
    }
}

/// What a program prints, if it is installed and succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|it| it.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (!text.is_empty() && text.lines().count() == 1).then(|| text.to_owned())
}
