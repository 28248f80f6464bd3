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

use crate::sources::{Snapshot, threads};

/// How to lock this program in.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Flags {
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
pub struct Needs {
    /// Unix sockets that are connected to, and whether flags name them.
    pub sockets: Vec<(PathBuf, bool)>,
    /// Unix sockets that are removed in the end.
    pub own_sockets: Vec<PathBuf>,
    /// Flags that are on and look into processes of others, as who may trace them does.
    pub ptrace_flags: Vec<&'static str>,
    /// A URI that libvirt's own library is asked for, which may do anything.
    pub library: Option<String>,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Landlock's version, or why it is off.
    pub landlock: Result<u32, String>,
    /// The filter of system calls, or why it is off.
    pub seccomp: Result<(), String>,
    /// The capabilities that are left, by the kernel's names.
    pub capabilities: Vec<&'static str>,
}

/// The newest version of Landlock that is made use of.
pub const NEWEST_LANDLOCK: u32 = landlock::NEWEST;

/// What the flag does where it is not given.
const OFF: &str = "--sandbox=none";

static IN_FORCE: OnceLock<InForce> = OnceLock::new();

/// Makes sure that nothing that is ever executed has more rights. The first thing to do.
pub fn no_new_privileges() {
    // Linux has it since 3.5.
    rustix::thread::set_no_new_privs(true).ok();
}

/// What was given up; nothing before anything was.
#[must_use]
pub fn in_force() -> Option<&'static InForce> {
    IN_FORCE.get()
}

/// Gives up what the flags say, for as long as the process lives. What the error says is for
/// the command line.
pub fn enter(mode: Mode, needs: &Needs, machine: &Snapshot) -> Result<&'static InForce, String> {
    let capabilities = capabilities::give_up(needs, machine);
    let (landlock, seccomp) = if mode == Mode::None {
        (Err(OFF.to_owned()), Err(OFF.to_owned()))
    } else {
        locked(needs, machine)
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
            && version < NEWEST_LANDLOCK
        {
            return Err(format!(
                "--sandbox=strict: this kernel's Landlock has version {version}, and all of it \
                 takes {NEWEST_LANDLOCK}"
            ));
        }
    }
    Ok(IN_FORCE.get_or_init(|| InForce {
        landlock,
        seccomp,
        capabilities,
    }))
}

/// Landlock first: the filter of system calls forbids what it takes.
fn locked(needs: &Needs, machine: &Snapshot) -> (Result<u32, String>, Result<(), String>) {
    if let Some(uri) = &needs.library {
        let why = format!("libvirt's library, which {uri} takes, may start programs and connect");
        return (Err(why.clone()), Err(why));
    }
    (landlocked(needs, machine), seccomp::filter(needs))
}

fn landlocked(needs: &Needs, machine: &Snapshot) -> Result<u32, String> {
    // It holds for one thread and those that this one starts.
    match threads() {
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
    if machine.sees_others() && !seen_from_inside(needs, machine)? {
        return Err(
            "procfs is mounted with hidepid, so with Landlock no process would be seen".to_owned(),
        );
    }
    landlock::restrict(needs)
}

/// Whether the processes of others are seen by a thread that Landlock holds for.
fn seen_from_inside(needs: &Needs, machine: &Snapshot) -> Result<bool, String> {
    let seen = std::thread::scope(|scope| {
        let scout = scope.spawn(|| landlock::restrict(needs).map(|_| machine.sees_others()));
        scout.join()
    });
    seen.map_err(|_| "the thread that looks what it costs ended".to_owned())?
}

impl InForce {
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
