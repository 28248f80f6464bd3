//! CPU hardware vulnerabilities and their mitigations, from
//! `/sys/devices/system/cpu/vulnerabilities`, documented in `Documentation/admin-guide/hw-vuln`.
//!
//! Each file is one sentence. Most begin with the state, but `itlb_multihit` names the affected
//! component first (`KVM: Mitigation: VMX disabled`), and in a virtual machine a file can
//! contain `Unknown: Dependent on hypervisor status`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::Desc,
    metrics,
    sources::Snapshot,
};

metrics! {
    /// Details of each CPU vulnerability known to the kernel: state and mitigation.
    INFO: Info = "node_cpu_vulnerabilities_info" ["codename", "mitigation", "state"];
}

/// States: the text that the kernel's sentence begins with, and the label value.
const STATES: [(&str, &str); 4] = [
    ("Not affected", "not affected"),
    ("Vulnerable", "vulnerable"),
    ("Mitigation", "mitigation"),
    ("Unknown", "unknown"),
];
/// Prefixes that precede the state in some files.
const PREFIXES: [&str; 2] = ["KVM: ", "Processor "];

#[derive(Debug)]
pub(super) struct CpuVulnerabilities;

impl Collector for CpuVulnerabilities {
    const NAME: &'static str = "cpu_vulnerabilities";
    const ABOUT: &'static str = "CPU vulnerabilities and mitigations";
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

/// Splits a sentence into the state and the remaining text.
fn parse_state(text: &str) -> (&'static str, &str) {
    let without_prefix = PREFIXES.iter().find_map(|s| text.strip_prefix(s));
    let text = without_prefix.unwrap_or(text);
    for (start, state) in STATES {
        let start = text
            .split_at_checked(start.len())
            .filter(|(word, _)| word.eq_ignore_ascii_case(start));
        if let Some((_, rest)) = start {
            let rest = rest.trim_start_matches([':', ',', ';']);
            return (state, rest.trim_ascii());
        }
    }
    ("unknown", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_state_and_mitigation() {
        for (text, expected) in [
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
            assert_eq!(parse_state(text), expected);
        }
    }
}
