//! Sandbox restrictions applied before the checks, the same as for a server with the same flags.

use super::findings::Finding;
use crate::sandbox::{self, ActiveSandbox, MAX_LANDLOCK_ABI};

pub(super) fn findings() -> Vec<Finding> {
    sandbox::active().map_or_else(Vec::new, describe)
}

fn describe(sandbox: &ActiveSandbox) -> Vec<Finding> {
    let capabilities = match sandbox.capabilities.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let mut found = vec![Finding::ok(format!(
        "no new privileges; remaining capabilities: {capabilities}"
    ))];
    found.push(match &sandbox.landlock {
        Ok(version) if *version < MAX_LANDLOCK_ABI => Finding::ok(format!(
            "Landlock ABI version {version} of {MAX_LANDLOCK_ABI} (a newer kernel restricts more)"
        )),
        Ok(version) => Finding::ok(format!("Landlock ABI version {version}")),
        Err(why) => Finding::info(format!("Landlock unavailable: {why}")),
    });
    found.push(match &sandbox.seccomp {
        Ok(()) => Finding::ok("seccomp filter active"),
        Err(why) => Finding::info(format!("seccomp filter inactive: {why}")),
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inactive_protections_are_not_reported_as_active() {
        let text = |landlock, seccomp| {
            let it = ActiveSandbox {
                landlock,
                seccomp,
                capabilities: vec!["DAC_READ_SEARCH"],
            };
            let found = describe(&it).into_iter().map(|it| it.text);
            found.collect::<Vec<_>>().join("; ")
        };
        let off = text(Err("x".to_owned()), Err("y".to_owned()));
        assert!(off.contains("Landlock unavailable: x; seccomp filter inactive: y"));
        assert!(text(Ok(1), Ok(())).contains("version 1 of "));
        assert!(text(Ok(MAX_LANDLOCK_ABI), Ok(())).ends_with("; seccomp filter active"));
    }
}
