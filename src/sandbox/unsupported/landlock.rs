//! On processors for which nobody tried it.

use super::Requirements;

pub(super) const MAX_ABI: u32 = 6;

pub(super) fn restrict(_needs: &Requirements) -> Result<u32, String> {
    Err("not built for this processor".to_owned())
}
