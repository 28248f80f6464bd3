//! On processors for which there is no list of system calls.

use super::Needs;

pub(super) fn filter(_needs: &Needs) -> Result<(), String> {
    Err("not built for this processor".to_owned())
}
