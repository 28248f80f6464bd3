//! Sandbox: privileges that the process drops before it serves. Capabilities it never needs are
//! always dropped; Landlock and a seccomp filter, which limit a compromised process, are enabled by
//! flag.
//!
//! Dropping cannot be undone and never adds a privilege. It applies to threads started later, so it
//! happens while there is only one thread, and after everything that only the start requires: ports
//! and sockets are open, the state is written.

mod capabilities;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    path = "unsupported/landlock.rs"
)]
mod landlock;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    path = "unsupported/seccomp.rs"
)]
mod seccomp;

use std::{path::PathBuf, sync::OnceLock};

use clap::ValueEnum;

use crate::sources::{Snapshot, thread_count};

/// The sandbox flags.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct SandboxFlags {
    /// Restrict the process by Landlock and seccomp after the start, as far as the kernel supports
    /// it (auto), or refuse to start unless fully supported (strict).
    #[arg(long = "sandbox", value_name = "HOW", default_value = "none")]
    pub sandbox: Mode,
}

/// Sandbox mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// No sandbox.
    None,
    /// As far as supported.
    Auto,
    /// Fully, or the start fails.
    Strict,
}

/// What the process still needs inside the sandbox.
#[derive(Debug, Default)]
pub struct Requirements {
    /// Unix sockets it connects to, and whether they are configured by flags.
    pub sockets: Vec<(PathBuf, bool)>,
    /// Unix sockets it removes at exit.
    pub own_sockets: Vec<PathBuf>,
    /// Enabled flags that need ptrace access to other processes.
    pub ptrace_flags: Vec<&'static str>,
    /// The URI opened with the libvirt library, which may run and open anything.
    pub libvirt_library_uri: Option<String>,
}

/// The active restrictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveSandbox {
    /// The Landlock ABI version, or why it is off.
    pub landlock: Result<u32, String>,
    /// The seccomp filter, or why it is off.
    pub seccomp: Result<(), String>,
    /// The retained capabilities, by their kernel names.
    pub capabilities: Vec<&'static str>,
}

/// The newest supported Landlock ABI version.
pub const MAX_LANDLOCK_ABI: u32 = landlock::MAX_ABI;

/// Reason reported if the sandbox is disabled.
const DISABLED_REASON: &str = "--sandbox=none";

static ACTIVE: OnceLock<ActiveSandbox> = OnceLock::new();

/// Ensures that no executed program gains privileges. Must be called first.
pub fn set_no_new_privs() {
    // Since Linux 3.5.
    rustix::thread::set_no_new_privs(true).ok();
}

/// The active sandbox; `None` before `enter`.
#[must_use]
pub fn active() -> Option<&'static ActiveSandbox> {
    ACTIVE.get()
}

/// Drops privileges and enters the sandbox, for the lifetime of the process. The error is for the
/// command line.
pub fn enter(
    mode: Mode,
    needs: &Requirements,
    snapshot: &Snapshot,
) -> Result<&'static ActiveSandbox, String> {
    let capabilities = capabilities::drop_privileges(needs, snapshot);
    let (landlock, seccomp) = if mode == Mode::None {
        (
            Err(DISABLED_REASON.to_owned()),
            Err(DISABLED_REASON.to_owned()),
        )
    } else {
        apply(needs, snapshot)
    };
    if mode == Mode::Strict {
        let missing = [
            ("Landlock", landlock.as_ref().err().cloned()),
            ("seccomp", seccomp.as_ref().err().cloned()),
        ];
        for (name, error) in missing {
            if let Some(error) = error {
                return Err(format!("--sandbox=strict: no {name}: {error}"));
            }
        }
        if let Ok(version) = landlock
            && version < MAX_LANDLOCK_ABI
        {
            return Err(format!(
                "--sandbox=strict: the kernel supports Landlock ABI {version}, {MAX_LANDLOCK_ABI} is \
                 required"
            ));
        }
    }
    Ok(ACTIVE.get_or_init(|| ActiveSandbox {
        landlock,
        seccomp,
        capabilities,
    }))
}

/// Applies Landlock first: the seccomp filter forbids the system calls it needs.
fn apply(needs: &Requirements, snapshot: &Snapshot) -> (Result<u32, String>, Result<(), String>) {
    if let Some(uri) = &needs.libvirt_library_uri {
        let reason = format!(
            "the libvirt library, required for {uri}, may start programs and open connections"
        );
        return (Err(reason.clone()), Err(reason));
    }
    (
        apply_landlock(needs, snapshot),
        seccomp::install_filter(needs),
    )
}

fn apply_landlock(needs: &Requirements, snapshot: &Snapshot) -> Result<u32, String> {
    // Landlock applies to the calling thread and threads it starts.
    match thread_count() {
        Ok(1) => {}
        Ok(count) => return Err(format!("{count} threads are already running")),
        Err(error) => return Err(error.to_string()),
    }
    // A restricted process may not trace unrestricted ones, not even as root.
    if !needs.ptrace_flags.is_empty() {
        let flags = needs.ptrace_flags.join(" and ");
        return Err(format!(
            "incompatible with {flags}, which needs ptrace access to other processes"
        ));
    }
    if snapshot.can_see_other_processes() && !sees_processes_under_landlock(needs, snapshot)? {
        return Err(
            "procfs is mounted with hidepid: with Landlock no other process would be visible"
                .to_owned(),
        );
    }
    landlock::restrict(needs)
}

/// Whether other users' processes are visible to a thread restricted by Landlock.
fn sees_processes_under_landlock(
    needs: &Requirements,
    snapshot: &Snapshot,
) -> Result<bool, String> {
    let is_visible = std::thread::scope(|scope| {
        let probe =
            scope.spawn(|| landlock::restrict(needs).map(|_| snapshot.can_see_other_processes()));
        probe.join()
    });
    is_visible.map_err(|_| "probe thread panicked".to_owned())?
}

impl ActiveSandbox {
    /// Label value: the ABI version, or `off`.
    #[must_use]
    pub fn landlock_label(&self) -> String {
        self.landlock
            .as_ref()
            .map_or_else(|_| "off".to_owned(), |version| format!("abi {version}"))
    }

    /// Label value: `on` or `off`.
    #[must_use]
    pub fn seccomp_label(&self) -> &'static str {
        if self.seccomp.is_ok() { "on" } else { "off" }
    }
}
