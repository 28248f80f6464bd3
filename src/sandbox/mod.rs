//! What this program gives up before it serves: what it never needs always, and by flag
//! what a program that was taken over would like to do.
//!
//! Nothing in here adds a right, and what is given up cannot be had again. It holds for
//! threads that are started later, so it is done before there are any, and after everything
//! is done that only the start needs: ports and sockets are open, the state is written.

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

/// How to lock this program in.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct SandboxFlags {
    /// Give up, once it listens, whatever is not needed for reading and answering, as far as
    /// the kernel can (auto), or start only where all of it can be given up (strict).
    #[arg(long = "sandbox", value_name = "HOW", default_value = "none")]
    pub sandbox: Mode,
}

/// How much of the sandbox there is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// None of it.
    None,
    /// What can be had.
    Auto,
    /// All of it, or there is no start.
    Strict,
}

/// What is still needed inside.
#[derive(Debug, Default)]
pub struct Requirements {
    /// Unix sockets that are connected to, and whether flags name them.
    pub sockets: Vec<(PathBuf, bool)>,
    /// Unix sockets that are removed in the end.
    pub own_sockets: Vec<PathBuf>,
    /// Flags that are on and look into processes of others, as who may trace them does.
    pub ptrace_flags: Vec<&'static str>,
    /// A URI that libvirt's own library is asked for, which may do anything.
    pub libvirt_library_uri: Option<String>,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveSandbox {
    /// Landlock's version, or why it is off.
    pub landlock: Result<u32, String>,
    /// The filter of system calls, or why it is off.
    pub seccomp: Result<(), String>,
    /// The capabilities that are left, by the kernel's names.
    pub capabilities: Vec<&'static str>,
}

/// The newest version of Landlock that is made use of.
pub const MAX_LANDLOCK_ABI: u32 = landlock::MAX_ABI;

/// What the flag does where it is not given.
const DISABLED_REASON: &str = "--sandbox=none";

static ACTIVE: OnceLock<ActiveSandbox> = OnceLock::new();

/// Makes sure that nothing that is ever executed has more rights. The first thing to do.
pub fn set_no_new_privs() {
    // Linux has it since 3.5.
    rustix::thread::set_no_new_privs(true).ok();
}

/// What was given up; nothing before anything was.
#[must_use]
pub fn active() -> Option<&'static ActiveSandbox> {
    ACTIVE.get()
}

/// Gives up what the flags say, for as long as the process lives. What the error says is for
/// the command line.
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
        for (name, why) in missing {
            if let Some(why) = why {
                return Err(format!("--sandbox=strict: no {name}: {why}"));
            }
        }
        if let Ok(version) = landlock
            && version < MAX_LANDLOCK_ABI
        {
            return Err(format!(
                "--sandbox=strict: this kernel's Landlock has version {version}, and all of it \
                 takes {MAX_LANDLOCK_ABI}"
            ));
        }
    }
    Ok(ACTIVE.get_or_init(|| ActiveSandbox {
        landlock,
        seccomp,
        capabilities,
    }))
}

/// Landlock first: the filter of system calls forbids what it takes.
fn apply(needs: &Requirements, snapshot: &Snapshot) -> (Result<u32, String>, Result<(), String>) {
    if let Some(uri) = &needs.libvirt_library_uri {
        let why = format!("libvirt's library, which {uri} takes, may start programs and connect");
        return (Err(why.clone()), Err(why));
    }
    (
        apply_landlock(needs, snapshot),
        seccomp::install_filter(needs),
    )
}

fn apply_landlock(needs: &Requirements, snapshot: &Snapshot) -> Result<u32, String> {
    // It holds for one thread and those that this one starts.
    match thread_count() {
        Ok(1) => {}
        Ok(many) => return Err(format!("{many} threads are running already")),
        Err(error) => return Err(error.to_string()),
    }
    // Whoever is inside may not trace who is outside, not even as root.
    if !needs.ptrace_flags.is_empty() {
        let flags = needs.ptrace_flags.join(" and ");
        return Err(format!(
            "it would forbid what {flags} asks for, to look into processes"
        ));
    }
    if snapshot.can_see_other_processes() && !sees_processes_under_landlock(needs, snapshot)? {
        return Err(
            "procfs is mounted with hidepid, so with Landlock no process would be seen".to_owned(),
        );
    }
    landlock::restrict(needs)
}

/// Whether the processes of others are seen by a thread that Landlock holds for.
fn sees_processes_under_landlock(
    needs: &Requirements,
    snapshot: &Snapshot,
) -> Result<bool, String> {
    let seen = std::thread::scope(|scope| {
        let probe =
            scope.spawn(|| landlock::restrict(needs).map(|_| snapshot.can_see_other_processes()));
        probe.join()
    });
    seen.map_err(|_| "the thread that looks what it costs ended".to_owned())?
}

impl ActiveSandbox {
    /// For a label: the version, or `off`.
    #[must_use]
    pub fn landlock_label(&self) -> String {
        self.landlock
            .as_ref()
            .map_or_else(|_| "off".to_owned(), |version| format!("abi {version}"))
    }

    /// For a label: `on` or `off`.
    #[must_use]
    pub fn seccomp_label(&self) -> &'static str {
        if self.seccomp.is_ok() { "on" } else { "off" }
    }
}
