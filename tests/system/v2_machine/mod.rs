//! A machine with cgroup v2, systemd and Docker, booted once for all that is looked at in
//! it.
//!
//! The machine is `tests/machine`'s: these tests need root to build it and QEMU to boot
//! it.

#![allow(
    clippy::float_cmp,
    reason = "what stands still is the same to the last bit"
)]

mod clock;
mod containers;
mod host;
mod package;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// What the machine has to do: all of it, one after the other. The package is gone before
/// others need its port, and nobody needs the clock any more when that is set.
const TASK: &str = "#!/bin/sh\nset -e\n./package.sh\n./compare.sh\n./containers.sh\n./clock.sh\n";
const TASK_WITHOUT_PACKAGE: &str = "#!/bin/sh\nset -e\n./compare.sh\n./containers.sh\n./clock.sh\n";

/// Where everything is that was written in the machine; `None`, which is said, where it
/// cannot be booted.
fn booted() -> Option<&'static Path> {
    static OUT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let machine = env::var_os("STRATA_MACHINE_DIR")
        .map_or_else(|| manifest.join("target/machine"), PathBuf::from);
    if !machine.join("stamp").exists() {
        crate::support::lacks("the machine that tests/machine/build.sh builds");
        return None;
    }
    // Each boot has a directory there.
    let test = std::thread::current();
    let trial = format!("trial-{}-{:?}", std::process::id(), test.id());
    let trial = machine.join(trial);
    if fs::create_dir(&trial).is_err() {
        crate::support::lacks("the right to write where the machine is");
        return None;
    }
    fs::remove_dir(trial).unwrap();
    if !crate::support::is_installed("qemu-system-x86_64") {
        crate::support::lacks("qemu-system-x86_64");
        return None;
    }
    let out = OUT.get_or_init(|| boot(&manifest.join("tests/machine"), &machine));
    Some(out.as_ref().unwrap_or_else(|said| panic!("{said}")))
}

/// Boots it, and has it do the task. What it wrote stays until it is booted again.
fn boot(scripts: &Path, machine: &Path) -> Result<PathBuf, String> {
    let task = Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine-task");
    let _there_was_none = fs::remove_dir_all(&task);
    fs::create_dir_all(&task).unwrap();
    let package = crate::support::package::build(&task);
    let scripts_of = package.map_or(TASK_WITHOUT_PACKAGE, |_| TASK);
    fs::write(task.join("run.sh"), scripts_of).unwrap();
    for script in ["clock.sh", "compare.sh", "containers.sh", "package.sh"] {
        fs::copy(scripts.join(script), task.join(script)).unwrap();
    }
    let exporter = env!("CARGO_BIN_EXE_strata_exporter");
    fs::copy(exporter, task.join("strata_exporter")).unwrap();
    let flags: Vec<String> = host::FLAGS
        .iter()
        .map(|flag| format!("'{flag}'\n"))
        .collect();
    fs::write(task.join("flags"), flags.concat()).unwrap();
    let ran = Command::new(scripts.join("run.sh"))
        .arg(&task)
        .env("STRATA_MACHINE_DIR", machine)
        .output()
        .unwrap();
    fs::remove_file(task.join("strata_exporter")).unwrap();
    let out = task.join("out");
    let console = String::from_utf8_lossy(&ran.stdout);
    if ran.status.success() {
        for line in console.lines().filter(|line| line.contains("resident")) {
            println!("{line}");
        }
        return Ok(out);
    }
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
    Err(format!(
        "{console}\n{}\n{}\n{}\nleft in {}",
        String::from_utf8_lossy(&ran.stderr),
        read("anchor.log"),
        read("ours.log"),
        out.display()
    ))
}
