//! Builds the Debian package of the tested program.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Path of cargo-deb, if installed.
fn cargo_deb() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_strata_exporter"));
    let tools = built.parent()?.parent()?.join("tools/bin/cargo-deb");
    let own = tools.is_file().then_some(tools);
    own.or_else(|| super::find_program("cargo-deb"))
}

/// The program to package: the release build that `STRATA_TEST_RELEASE` names, else the tests'
/// build.
pub fn program() -> PathBuf {
    env::var_os("STRATA_TEST_RELEASE").map_or_else(
        || env!("CARGO_BIN_EXE_strata_exporter").into(),
        PathBuf::from,
    )
}

/// Builds the package in this directory; `None` if a tool is missing.
pub fn build(dir: &Path) -> Option<PathBuf> {
    let Some(cargo_deb) = cargo_deb() else {
        super::skip("cargo-deb");
        return None;
    };
    if !super::is_installed("dpkg-shlibdeps") {
        super::skip("dpkg-shlibdeps");
        return None;
    }
    // cargo-deb takes the program from the release directory of a target directory.
    let target = dir.join("target");
    fs::create_dir_all(target.join("release")).unwrap();
    fs::copy(program(), target.join("release/strata_exporter")).unwrap();
    let generated = Command::new("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/generate.sh"))
        .arg(target.join("release"))
        .status();
    assert!(generated.unwrap().success());
    let package = dir.join("strata_exporter.deb");
    let output = Command::new(cargo_deb)
        .args(["deb", "--no-build", "--fast", "--offline", "--output"])
        .arg(&package)
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .unwrap();
    fs::remove_dir_all(target).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("warning"), "{stderr}");
    Some(package)
}
