//! Drops the capabilities of root that are not needed; see `capabilities(7)`.
//!
//! Without capabilities nothing changes. At most three are retained; none of them permits a
//! modification that the rest of the sandbox does not forbid. The reasons are given below.

use std::path::{Path, PathBuf};

use rustix::{
    fs::{Access, AtFlags, CWD},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities,
    },
};

use super::Requirements;
use crate::sources::{Snapshot, SocketAccess};

/// Drops all capabilities that are not needed and returns the retained ones.
pub(super) fn drop_privileges(needs: &Requirements, snapshot: &Snapshot) -> Vec<&'static str> {
    let Ok(initial) = capabilities(None) else {
        return Vec::new();
    };
    // To read mount points and textfile directories that only another user may access.
    let mut retained = CapabilitySet::DAC_READ_SEARCH;
    let sees_others = snapshot.can_see_other_processes();
    // A capability that is permitted but not effective can be enabled again.
    let without = |dropped: CapabilitySet| {
        let sets = CapabilitySets {
            effective: initial.effective.difference(dropped),
            ..initial
        };
        set_capabilities(None, sets).is_ok()
    };
    // To see open files of other processes, and processes at all if procfs is mounted with hidepid.
    let needs_ptrace =
        without(CapabilitySet::SYS_PTRACE) && sees_others && !snapshot.can_see_other_processes();
    if needs_ptrace || !needs.ptrace_flags.is_empty() {
        retained |= CapabilitySet::SYS_PTRACE;
    }
    // To connect to sockets that only another user may access, such as those of rootless engines,
    // and to remove the exporter's own socket from another user's directory.
    if without(CapabilitySet::DAC_OVERRIDE) && needs_dac_override(needs, snapshot) {
        retained |= CapabilitySet::DAC_OVERRIDE;
    }
    drop_all_except(retained, initial);
    let remaining = capabilities(None).map_or(initial.effective, |remaining| remaining.effective);
    remaining.iter_names().map(|(name, _)| name).collect()
}

fn needs_dac_override(needs: &Requirements, snapshot: &Snapshot) -> bool {
    let is_denied = |(socket, is_configured): &(PathBuf, bool)| match snapshot.socket_access(socket)
    {
        SocketAccess::Allowed | SocketAccess::NotASocket => false,
        SocketAccess::Denied { .. } => true,
        SocketAccess::Missing => *is_configured && is_owned_by_another_user(socket),
    };
    let is_unwritable = |socket: &Path| {
        let dir = socket.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        rustix::fs::accessat(CWD, dir, Access::WRITE_OK, AtFlags::EACCESS).is_err()
    };
    needs.sockets.iter().any(is_denied)
        || needs.own_sockets.iter().any(|socket| is_unwritable(socket))
}

/// Whether a file created at this path later will probably belong to another user.
fn is_owned_by_another_user(path: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let mut above = path.ancestors().skip(1);
    let nearest = above.find_map(|dir| rustix::fs::statat(CWD, dir, AtFlags::empty()).ok());
    nearest.is_some_and(|dir| dir.st_uid != user)
}

fn drop_all_except(retained: CapabilitySet, initial: CapabilitySets) {
    // Requires a capability itself, and only matters for executed programs, which there are none
    // of.
    for capability in CapabilitySet::all().difference(retained) {
        remove_capability_from_bounding_set(capability).ok();
    }
    clear_ambient_capability_set().ok();
    let remaining = CapabilitySets {
        effective: initial.effective & retained,
        permitted: initial.permitted & retained,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, remaining).ok();
}
