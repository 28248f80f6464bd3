//! What the kernel's Landlock forbids: to write, make, move or remove any file, to execute
//! one, to connect or listen over TCP, to connect to abstract sockets and to signal others.
//! Reading is all that this program is for, and stays allowed everywhere. Documented in
//! the kernel's `Documentation/userspace-api/landlock.rst`.
//!
//! What older kernels do not know is left out.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::Requirements;

/// The newest version that is made use of: Linux 6.12.
pub(super) const MAX_ABI: u32 = 6;
const ABI: ABI = ABI::V6;

/// Restricts this thread and those that it starts, and says which version does it.
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
            "the kernel has none, or something else, such as the profile of a container, forbids \
             to ask for it"
                .to_owned(),
        ),
        LandlockStatus::NotEnabled => Err("the kernel has it, but not in its list lsm=".to_owned()),
        LandlockStatus::Available { effective_abi, .. }
            if status.ruleset != RulesetStatus::NotEnforced =>
        {
            Ok(effective_abi as u32)
        }
        LandlockStatus::Available { .. } => Err("the kernel enforces none of it".to_owned()),
    }
}
