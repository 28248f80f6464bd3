//! On processors for which there is no list of system calls.

use super::Requirements;

pub(super) fn install_filter(_needs: &Requirements) -> Result<(), String> {
    Err("not built for this processor".to_owned())
}
