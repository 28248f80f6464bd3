//! What this program gave up before it looked, as a server does that has the same flags.

use super::diagnosis::Finding;
use crate::sandbox::{self, InForce, NEWEST_LANDLOCK};

pub(super) fn findings() -> Vec<Finding> {
    sandbox::in_force().map_or_else(Vec::new, of)
}

fn of(it: &InForce) -> Vec<Finding> {
    let left = match it.capabilities.as_slice() {
        [] => "none".to_owned(),
        left => left.join(", "),
    };
    let mut found = vec![Finding::fine(format!(
        "no new privileges; capabilities that are left: {left}"
    ))];
    found.push(match &it.landlock {
        Ok(version) if *version < NEWEST_LANDLOCK => Finding::fine(format!(
            "Landlock, version {version} of {NEWEST_LANDLOCK}: a newer kernel forbids more"
        )),
        Ok(version) => Finding::fine(format!("Landlock, version {version}")),
        Err(why) => Finding::nothing(format!("no Landlock: {why}")),
    });
    found.push(match &it.seccomp {
        Ok(()) => Finding::fine("system calls are filtered"),
        Err(why) => Finding::nothing(format!("system calls are not filtered: {why}")),
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_force_is_not_claimed() {
        let said = |landlock, seccomp| {
            let it = InForce {
                landlock,
                seccomp,
                capabilities: vec!["DAC_READ_SEARCH"],
            };
            let found = of(&it).into_iter().map(|it| it.text);
            found.collect::<Vec<_>>().join("; ")
        };
        let off = said(Err("x".to_owned()), Err("y".to_owned()));
        assert!(off.contains("no Landlock: x; system calls are not filtered: y"));
        assert!(said(Ok(1), Ok(())).contains("version 1 of "));
        assert!(said(Ok(NEWEST_LANDLOCK), Ok(())).ends_with("; system calls are filtered"));
    }
}
