//! What this program gave up before it looked, as a server does that has the same flags.

use super::findings::Finding;
use crate::sandbox::{self, ActiveSandbox, MAX_LANDLOCK_ABI};

pub(super) fn findings() -> Vec<Finding> {
    sandbox::active().map_or_else(Vec::new, describe)
}

fn describe(it: &ActiveSandbox) -> Vec<Finding> {
    let left = match it.capabilities.as_slice() {
        [] => "none".to_owned(),
        left => left.join(", "),
    };
    let mut found = vec![Finding::ok(format!(
        "no new privileges; capabilities that are left: {left}"
    ))];
    found.push(match &it.landlock {
        Ok(version) if *version < MAX_LANDLOCK_ABI => Finding::ok(format!(
            "Landlock, version {version} of {MAX_LANDLOCK_ABI}: a newer kernel forbids more"
        )),
        Ok(version) => Finding::ok(format!("Landlock, version {version}")),
        Err(why) => Finding::info(format!("no Landlock: {why}")),
    });
    found.push(match &it.seccomp {
        Ok(()) => Finding::ok("system calls are filtered"),
        Err(why) => Finding::info(format!("system calls are not filtered: {why}")),
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inactive_protections_are_not_reported_as_active() {
        let said = |landlock, seccomp| {
            let it = ActiveSandbox {
                landlock,
                seccomp,
                capabilities: vec!["DAC_READ_SEARCH"],
            };
            let found = describe(&it).into_iter().map(|it| it.text);
            found.collect::<Vec<_>>().join("; ")
        };
        let off = said(Err("x".to_owned()), Err("y".to_owned()));
        assert!(off.contains("no Landlock: x; system calls are not filtered: y"));
        assert!(said(Ok(1), Ok(())).contains("version 1 of "));
        assert!(said(Ok(MAX_LANDLOCK_ABI), Ok(())).ends_with("; system calls are filtered"));
    }
}
