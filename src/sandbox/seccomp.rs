//! Seccomp filter with a deny list: system calls on it fail with `EPERM`.
//!
//! It is a deny list, not an allow list, because the calls a C library makes change with its
//! version, and a call missing from an allow list loses series after an upgrade of the machine.
//! `SystemCallFilter=` in the unit is an allow list, maintained by systemd for its machine. Calls
//! added to the kernel later are not forbidden here, but no-new-privileges, Landlock and the
//! dropped capabilities apply to them.
//!
//! A filter sees the arguments of a call, not memory that they point to. `clone3` and `openat2`
//! have their flags in memory, so they fail with `ENOSYS`, and callers fall back to `clone` and
//! `openat`.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::Requirements;

/// Calls that fail as if the kernel did not support them.
const ENOSYS_CALLS: &[c_long] = &[libc::SYS_clone3, libc::SYS_openat2];

/// Start a program.
const PROGRAMS: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_memfd_create,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// Access, modify or signal another process. Signals to the process itself are among the
/// conditional rules.
const PROCESSES: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
];

/// Modify, create, move or remove files. Opening and removing are among the conditional rules.
const FILES: &[c_long] = &[
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_open_by_handle_at,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

/// Remove a file; allowed if there is an own socket to remove.
const REMOVE: &[c_long] = &[
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// Listen: all listeners are already open.
const LISTENING: &[c_long] = &[libc::SYS_bind, libc::SYS_listen];

/// Mount, and change the mount namespace.
const MOUNTS: &[c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
];

/// Change the user or group.
const USERS: &[c_long] = &[
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
];

/// Administer the system, or reach parts of the kernel with a history of vulnerabilities.
const KERNEL: &[c_long] = &[
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_personality,
    libc::SYS_vhangup,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_fanotify_init,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Missing in some versions of `libc`; the same number on every architecture.
const SYS_FCHMODAT2: c_long = 452;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs the filter for all threads.
pub(super) fn install_filter(needs: &Requirements) -> Result<(), String> {
    let failed = |error: BackendError| error.to_string();
    // Two filters, because each has one errno for all its calls.
    let unsupported = compile(unconditional(ENOSYS_CALLS.iter()), libc::ENOSYS).map_err(failed)?;
    let denied = denied_rules(needs).map_err(failed)?;
    let denied = compile(denied, libc::EPERM).map_err(failed)?;
    for program in [unsupported, denied] {
        apply_filter_all_threads(&program).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn compile(rules: Rules, errno: libc::c_int) -> Result<BpfProgram, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let on_match = SeccompAction::Errno(errno.unsigned_abs());
    // Calls of another architecture kill the process.
    SeccompFilter::new(rules, SeccompAction::Allow, on_match, arch)?.try_into()
}

fn unconditional<'a>(calls: impl Iterator<Item = &'a c_long>) -> Rules {
    let mut rules = Rules::new();
    for call in calls {
        insert(&mut rules, *call, Vec::new());
    }
    rules
}

/// Adds rules for the call's number and, if the kernel supports the x32 ABI, for its x32 number.
fn insert(rules: &mut Rules, call: c_long, conditions: Vec<SeccompRule>) {
    #[cfg(target_arch = "x86_64")]
    rules.insert(X32_SYSCALL_BIT | call, Vec::new());
    rules.insert(call, conditions);
}

/// `__X32_SYSCALL_BIT`. The exporter makes no such calls.
#[cfg(target_arch = "x86_64")]
const X32_SYSCALL_BIT: i64 = 0x4000_0000;
/// Numbers that only x32 has, including `execve`.
#[cfg(target_arch = "x86_64")]
const X32_ONLY: std::ops::Range<i64> = 512..548;

fn denied_rules(needs: &Requirements) -> Result<Rules, BackendError> {
    let lists = [PROGRAMS, PROCESSES, FILES, LISTENING, MOUNTS, USERS, KERNEL];
    let mut rules = unconditional(lists.into_iter().flatten());
    #[cfg(target_arch = "x86_64")]
    for call in X32_ONLY {
        rules.insert(X32_SYSCALL_BIT | call, Vec::new());
    }
    if needs.own_sockets.is_empty() {
        rules.append(&mut unconditional(REMOVE.iter()));
    }
    let mut deny = |call, conditions| insert(&mut rules, call, conditions);

    // Creating a process instead of a thread.
    let threads = libc::CLONE_THREAD.unsigned_abs().into();
    let is_process = condition(0, SeccompCmpOp::MaskedEq(threads), 0)?;
    deny(libc::SYS_clone, vec![all_of(vec![is_process])?]);
    // Opening a file other than for reading.
    deny(libc::SYS_openat, open_for_writing(2)?);
    #[cfg(target_arch = "x86_64")]
    deny(libc::SYS_open, open_for_writing(1)?);
    // Sockets other than Unix and netlink.
    let families = [libc::AF_UNIX, libc::AF_NETLINK].map(|family| {
        let family = family.unsigned_abs().into();
        condition(0, SeccompCmpOp::Ne, family)
    });
    let others = families.into_iter().collect::<Result<_, _>>()?;
    deny(libc::SYS_socket, vec![all_of(others)?]);
    // Signals to other processes. The C library aborts by signalling its own process.
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let not_own = condition(0, SeccompCmpOp::Ne, own.unsigned_abs().into())?;
    deny(libc::SYS_tgkill, vec![all_of(vec![not_own])?]);
    // Limits of other processes, and setting a limit.
    let others = condition(0, SeccompCmpOp::Ne, 0)?;
    let new = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    let limits = vec![all_of(vec![others])?, all_of(vec![new])?];
    deny(libc::SYS_prlimit64, limits);
    // Injecting input into a terminal.
    let inject_input = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| {
        let is_request = condition(1, SeccompCmpOp::Eq, ioctl_number(request))?;
        all_of(vec![is_request])
    });
    deny(
        libc::SYS_ioctl,
        inject_input.into_iter().collect::<Result<_, _>>()?,
    );
    Ok(rules)
}

/// Rules for opening other than for reading, with the flags in this argument.
fn open_for_writing(argument: u8) -> Result<Vec<SeccompRule>, BackendError> {
    let flags = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];
    let rules = flags.map(|flag| {
        let flag = flag.unsigned_abs().into();
        let is_set = condition(argument, SeccompCmpOp::MaskedEq(flag), flag)?;
        all_of(vec![is_set])
    });
    rules.into_iter().collect()
}

/// A condition on the lower half of an argument; the kernel ignores the upper half there.
fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
}

fn all_of(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions)
}

/// The type is signed in one C library and unsigned in another.
fn ioctl_number(request: libc::Ioctl) -> u64 {
    u64::from(u32::from_ne_bytes(
        request
            .to_ne_bytes()
            .first_chunk()
            .copied()
            .unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_is_small_and_calls_are_unique() {
        let rules = denied_rules(&Requirements::default()).unwrap();
        let program = compile(rules, libc::EPERM).unwrap();
        assert!(program.len() < 2048, "{}", program.len());
        let lists = [
            ENOSYS_CALLS,
            PROGRAMS,
            PROCESSES,
            FILES,
            REMOVE,
            LISTENING,
            MOUNTS,
            USERS,
            KERNEL,
        ];
        let mut all = lists.concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
