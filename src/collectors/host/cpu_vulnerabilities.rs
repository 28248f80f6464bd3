//! Which hardware bugs the CPUs have and what is done about them, from
//! `/sys/devices/system/cpu/vulnerabilities`, documented in
//! `Documentation/admin-guide/hw-vuln`.
//!
//! Each file is one sentence. Most begin with the state, but `itlb_multihit` says
//! first whom it is about (`KVM: Mitigation: VMX disabled`), and a virtual machine is
//! told `Unknown: Dependent on hypervisor status`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::Snapshot,
};

metrics! {
    /// A known CPU bug, whether this CPU has it (not affected, vulnerable, mitigation, unknown) and what the kernel does about it.
    INFO: Info = "node_cpu_vulnerabilities_info" ["codename", "mitigation", "state"];
}

/// The states, as the kernel begins a sentence about them and as the label has them.
const STATES: [(&str, &str); 4] = [
    ("Not affected", "not affected"),
    ("Vulnerable", "vulnerable"),
    ("Mitigation", "mitigation"),
    ("Unknown", "unknown"),
];
/// What stands before the state in some files.
const PREFIXES: [&str; 2] = ["KVM: ", "Processor "];

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct CpuVulnerabilities;

impl Collector for CpuVulnerabilities {
    const NAME: &'static str = "cpu_vulnerabilities";
    const ABOUT: &'static str = "hardware bugs of the CPUs and what is done about them";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let vulnerabilities = snapshot.sys_dir("devices/system/cpu/vulnerabilities")?;
        for codename in vulnerabilities.names()? {
            let text = vulnerabilities.read(&codename);
            if let Some(text) = out.ok_or_skip(text) {
                let (state, mitigation) = parse_state(text.trimmed());
                let codename = codename.to_string_lossy();
                out.add(&INFO, [&codename, mitigation, state], true);
            }
        }
        Ok(out)
    }
}

/// The state that a sentence tells, and what else it says.
fn parse_state(sentence: &str) -> (&'static str, &str) {
    let without_prefix = PREFIXES.iter().find_map(|s| sentence.strip_prefix(s));
    let sentence = without_prefix.unwrap_or(sentence);
    for (start, state) in STATES {
        let start = sentence
            .split_at_checked(start.len())
            .filter(|(word, _)| word.eq_ignore_ascii_case(start));
        if let Some((_, rest)) = start {
            let rest = rest.trim_start_matches([':', ',', ';']);
            return (state, rest.trim_ascii());
        }
    }
    ("unknown", sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_state_and_mitigation() {
        for (sentence, expected) in [
            ("Not affected", ("not affected", "")),
            ("Vulnerable", ("vulnerable", "")),
            (
                "Vulnerable: Safe RET, no microcode",
                ("vulnerable", "Safe RET, no microcode"),
            ),
            (
                "Vulnerable, IBPB: disabled",
                ("vulnerable", "IBPB: disabled"),
            ),
            (
                "Mitigation: PTE Inversion; VMX: vulnerable",
                ("mitigation", "PTE Inversion; VMX: vulnerable"),
            ),
            (
                "KVM: Mitigation: VMX disabled",
                ("mitigation", "VMX disabled"),
            ),
            ("Processor vulnerable", ("vulnerable", "")),
            (
                "Unknown: Dependent on hypervisor status",
                ("unknown", "Dependent on hypervisor status"),
            ),
            ("something new", ("unknown", "something new")),
        ] {
            assert_eq!(parse_state(sentence), expected);
        }
    }
}
