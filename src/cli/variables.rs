//! Environment variables that set flags.

use clap::{Args, Command};

use crate::top;

const PREFIX: &str = "STRATA_";
/// Prefix of variables of this repository's tests, which inherit them to the programs they start.
const TESTS: &str = "STRATA_TEST_";
/// Maximum edit distance of a suggestion.
const MAX_EDITS: usize = 2;

/// An environment variable with the prefix of flags that matches no flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariable {
    /// Name of the variable.
    pub name: String,
    /// The most similar variable of a flag, if close enough.
    pub suggestion: Option<String>,
}

/// Name of the variable that sets a flag.
pub(super) fn name(flag: &str) -> String {
    PREFIX.to_owned() + &flag.replace(['.', '-'], "_").to_uppercase()
}

/// Variables in this process's environment that match no flag.
pub(super) fn unknown(server: &Command) -> Vec<UnknownVariable> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let names: Vec<_> = names.filter(|name| name.starts_with(PREFIX)).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let top = top::TopFlags::augment_args(Command::new("top"));
    let flags = server.get_arguments().chain(top.get_arguments());
    let defined: Vec<_> = flags
        .filter_map(|arg| arg.get_long())
        .map(self::name)
        .collect();
    find_unknown(names, &defined)
}

fn find_unknown(names: Vec<String>, defined: &[String]) -> Vec<UnknownVariable> {
    let unknown = names.into_iter().filter(|name| {
        !defined.contains(name) && !is_service_link(name) && !name.starts_with(TESTS)
    });
    let mut unknown: Vec<_> = unknown
        .map(|name| {
            let edits = defined
                .iter()
                .map(|defined| (strsim::damerau_levenshtein(&name, defined), defined));
            let nearest = edits.min().filter(|(edits, _)| *edits <= MAX_EDITS);
            UnknownVariable {
                suggestion: nearest.map(|(_, defined)| defined.clone()),
                name,
            }
        })
        .collect();
    unknown.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    unknown
}

/// Whether Kubernetes or Docker sets the variable for a service named strata or `strata-exporter`,
/// such as `STRATA_EXPORTER_SERVICE_HOST` and `STRATA_PORT_9100_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    let port = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name
            .split_once("_PORT_")
            .is_some_and(|(_, rest)| port(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_near_names_and_ignores_service_links() {
        let defined = ["STRATA_COLLECTOR_SYSTEMD", "STRATA_LOG_LEVEL"].map(str::to_owned);
        let names = [
            "STRATA_LOG_LEVEL",
            "STRATA_SOMETHING",
            "STRATA_COLLECTOR_SYTEMD",
            "STRATA_EXPORTER_SERVICE_HOST",
            "STRATA_EXPORTER_SERVICE_PORT_METRICS",
            "STRATA_PORT",
            "STRATA_PORT_9100_TCP_ADDR",
        ];
        let unknown = find_unknown(names.map(str::to_owned).into(), &defined);
        let unknown: Vec<_> = unknown
            .iter()
            .map(|it| (it.name.as_str(), it.suggestion.as_deref()))
            .collect();
        assert_eq!(
            unknown,
            [
                ("STRATA_COLLECTOR_SYTEMD", Some("STRATA_COLLECTOR_SYSTEMD")),
                ("STRATA_SOMETHING", None),
            ]
        );
    }
}
