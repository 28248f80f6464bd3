//! A machine with cgroup v2, systemd and Docker, booted once for all tests in it.
//!
//! The machine is that of `tests/machine`: these tests need root to build it and QEMU to boot it.

#![allow(
    clippy::float_cmp,
    reason = "values that do not change are equal to the last bit"
)]

mod clock;
mod containers;
mod host;
mod package;

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The tasks in the machine, one after the other. The package is removed before its port is needed
/// again, and the clock is set last.
const TASK: &str = "#!/bin/sh\nset -e\n./package.sh\n./compare.sh\n./containers.sh\n./clock.sh\n";
const TASK_WITHOUT_PACKAGE: &str = "#!/bin/sh\nset -e\n./compare.sh\n./containers.sh\n./clock.sh\n";

/// Directory of the tasks' output; `None` if the machine cannot be booted.
fn booted() -> Option<&'static Path> {
    static OUT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let machine = env::var_os("STRATA_MACHINE_DIR")
        .map_or_else(|| manifest.join("target/machine"), PathBuf::from);
    if !machine.join("stamp").exists() {
        crate::support::skip("the machine that tests/machine/build.sh builds");
        return None;
    }
    // Each boot creates its own directory there.
    let test = std::thread::current();
    let probe = format!("probe-{}-{:?}", std::process::id(), test.id());
    let probe = machine.join(probe);
    if fs::create_dir(&probe).is_err() {
        crate::support::skip("write access to the machine's directory");
        return None;
    }
    fs::remove_dir(probe).unwrap();
    if !crate::support::is_installed("qemu-system-x86_64") {
        crate::support::skip("qemu-system-x86_64");
        return None;
    }
    let out = OUT.get_or_init(|| boot_once(&manifest.join("tests/machine"), &machine));
    Some(out.as_ref().unwrap_or_else(|error| panic!("{error}")))
}

/// Boots the machine once per test run. nextest runs each test in its own process, so the first
/// boots it and leaves the result in a file for the others.
fn boot_once(scripts: &Path, machine: &Path) -> Result<PathBuf, String> {
    let task = Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine-task");
    let run = env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string());
    let lock = File::create(task.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let result = task.with_extension("result");
    let text = fs::read_to_string(&result).unwrap_or_default();
    if let Some((recorded_run, error)) = text.split_once('\n')
        && recorded_run == run
    {
        return match error {
            "" => Ok(task.join("out")),
            _ => Err(error.to_owned()),
        };
    }
    let booted = boot(scripts, machine, &task);
    let error = booted.as_ref().err().map_or("", String::as_str);
    fs::write(result, format!("{run}\n{error}")).unwrap();
    booted
}

/// Boots the machine and runs the tasks. Their output stays until the next boot.
fn boot(scripts: &Path, machine: &Path, task: &Path) -> Result<PathBuf, String> {
    let _missing = fs::remove_dir_all(task);
    fs::create_dir_all(task).unwrap();
    let package = crate::support::deb_package::build(task);
    let tasks = package.map_or(TASK_WITHOUT_PACKAGE, |_| TASK);
    fs::write(task.join("run.sh"), tasks).unwrap();
    for script in ["clock.sh", "compare.sh", "containers.sh", "package.sh"] {
        fs::copy(scripts.join(script), task.join(script)).unwrap();
    }
    fs::copy(
        crate::support::deb_package::program(),
        task.join("strata_exporter"),
    )
    .unwrap();
    let flags: Vec<String> = host::FLAGS
        .iter()
        .map(|flag| format!("'{flag}'\n"))
        .collect();
    fs::write(task.join("flags"), flags.concat()).unwrap();
    let ran = Command::new(scripts.join("run.sh"))
        .arg(task)
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
        "{console}\n{}\n{}\n{}\noutput is in {}",
        String::from_utf8_lossy(&ran.stderr),
        read("anchor.log"),
        read("ours.log"),
        out.display()
    ))
}
