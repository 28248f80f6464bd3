//! On processors for which nobody tried it.

use super::Needs;

pub(super) const NEWEST: u32 = 6;

pub(super) fn restrict(_needs: &Needs) -> Result<u32, String> {
    Err("not built for this processor".to_owned())
}
