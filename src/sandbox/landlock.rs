//! Landlock restrictions: no file may be written, created, moved, removed or executed, no TCP
//! connection or listener opened, no abstract socket connected to, and no other process signalled.
//! Reading stays allowed everywhere. See the kernel's `Documentation/userspace-api/landlock.rst`.
//!
//! Restrictions that an older kernel does not support are left out.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::Requirements;

/// The newest supported ABI version: Linux 6.12.
pub(super) const MAX_ABI: u32 = 6;
const ABI: ABI = ABI::V6;

/// Restricts this thread and threads it starts; returns the ABI version in force.
pub(super) fn restrict(needs: &Requirements) -> Result<u32, String> {
    let failed = |error: RulesetError| error.to_string();
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_write(ABI) | AccessFs::Execute)
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    for socket in &needs.own_sockets {
        let dir = socket.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = PathFd::new(dir.unwrap_or(Path::new("."))).map_err(|error| error.to_string())?;
        let rule = PathBeneath::new(dir, AccessFs::RemoveFile);
        rules = rules.add_rule(rule).map_err(failed)?;
    }
    let status = rules.restrict_self().map_err(failed)?;
    match status.landlock {
        LandlockStatus::NotImplemented => Err(
            "not supported by the kernel, or blocked, for example by a container's seccomp \
             profile"
                .to_owned(),
        ),
        LandlockStatus::NotEnabled => {
            Err("not enabled in the kernel, add landlock to the lsm= boot parameter".to_owned())
        }
        LandlockStatus::Available { effective_abi, .. }
            if status.ruleset != RulesetStatus::NotEnforced =>
        {
            Ok(effective_abi as u32)
        }
        LandlockStatus::Available { .. } => Err("not enforced by the kernel".to_owned()),
    }
}
