//! The capabilities of root that nothing here needs, documented in `capabilities(7)`.
//!
//! Whoever has none loses none. Three may stay, of which none lets anybody change a thing
//! that the sandbox does not forbid: the reasons stand beside them.

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

/// Gives up all but what is needed, and says what is left.
pub(super) fn drop_privileges(needs: &Requirements, snapshot: &Snapshot) -> Vec<&'static str> {
    let Ok(had) = capabilities(None) else {
        return Vec::new();
    };
    // Reads what is closed to all but another user: mount points in closed directories,
    // directories of text files.
    let mut kept = CapabilitySet::DAC_READ_SEARCH;
    let sees_others = snapshot.can_see_other_processes();
    // What is not in force can be taken up again, as long as it is permitted.
    let without = |dropped: CapabilitySet| {
        let sets = CapabilitySets {
            effective: had.effective.difference(dropped),
            ..had
        };
        set_capabilities(None, sets).is_ok()
    };
    // Looks at what processes have open, and at processes at all where procfs hides them.
    let hides =
        without(CapabilitySet::SYS_PTRACE) && sees_others && !snapshot.can_see_other_processes();
    if hides || !needs.ptrace_flags.is_empty() {
        kept |= CapabilitySet::SYS_PTRACE;
    }
    // Connects to sockets that are closed to all but another user, as those of engines that
    // users run, and removes the own socket from a directory of another's.
    if without(CapabilitySet::DAC_OVERRIDE) && needs_dac_override(needs, snapshot) {
        kept |= CapabilitySet::DAC_OVERRIDE;
    }
    drop_all_except(kept, had);
    let left = capabilities(None).map_or(had.effective, |left| left.effective);
    left.iter_names().map(|(name, _)| name).collect()
}

fn needs_dac_override(needs: &Requirements, snapshot: &Snapshot) -> bool {
    let closed = |(socket, is_named): &(PathBuf, bool)| match snapshot.socket_access(socket) {
        SocketAccess::Allowed | SocketAccess::NotASocket => false,
        SocketAccess::Denied { .. } => true,
        SocketAccess::Missing => *is_named && is_owned_by_another_user(socket),
    };
    let unwritable = |socket: &Path| {
        let dir = socket.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        rustix::fs::accessat(CWD, dir, Access::WRITE_OK, AtFlags::EACCESS).is_err()
    };
    needs.sockets.iter().any(closed) || needs.own_sockets.iter().any(|socket| unwritable(socket))
}

/// Whether what there will be at this path will probably be another user's.
fn is_owned_by_another_user(path: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    let mut above = path.ancestors().skip(1);
    let nearest = above.find_map(|dir| rustix::fs::statat(CWD, dir, AtFlags::empty()).ok());
    nearest.is_some_and(|dir| dir.st_uid != user)
}

fn drop_all_except(kept: CapabilitySet, had: CapabilitySets) {
    // Takes a capability itself, and matters only to who is executed, which nobody is.
    for capability in CapabilitySet::all().difference(kept) {
        remove_capability_from_bounding_set(capability).ok();
    }
    clear_ambient_capability_set().ok();
    let left = CapabilitySets {
        effective: had.effective & kept,
        permitted: had.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, left).ok();
}
