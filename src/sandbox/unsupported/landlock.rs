//! Landlock on architectures on which it is not tested.

use super::Requirements;

pub(super) const MAX_ABI: u32 = 6;

pub(super) fn restrict(_needs: &Requirements) -> Result<u32, String> {
    Err("not supported on this CPU architecture".to_owned())
}
