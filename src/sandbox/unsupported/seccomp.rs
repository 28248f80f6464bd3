//! Seccomp on architectures without a list of system calls.

use super::Requirements;

pub(super) fn install_filter(_needs: &Requirements) -> Result<(), String> {
    Err("not supported on this CPU architecture".to_owned())
}
