//! Command-line errors, one line each, with a suggestion.

use std::{collections::BTreeSet, ffi::OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Flags of cAdvisor and their replacements. `docs/migration/cadvisor.md` has the same table with
/// the reasons.
const CADVISOR: &[(&str, &str)] = &[
    ("allow_dynamic_housekeeping", NO_HOUSEKEEPING),
    ("application_metrics_count_limit", UNSUPPORTED),
    ("boot_id_file", "not needed"),
    ("collector_cert", UNSUPPORTED),
    ("collector_key", UNSUPPORTED),
    ("container_hints", UNSUPPORTED),
    ("containerd", CGROUPS_ONLY),
    ("containerd-namespace", CGROUPS_ONLY),
    ("crio", CGROUPS_ONLY),
    ("disable_metrics", "use --no-collector.NAME"),
    ("docker", "use --engine.socket=unix:///PATH"),
    ("docker_only", "use --cgroup.include='^/$'"),
    (
        "enable_load_reader",
        "use --collector.container_processes.tasks-state",
    ),
    ("enable_metrics", "use --collector.NAME"),
    ("env_metadata_whitelist", UNSUPPORTED),
    ("event_storage_age_limit", UNSUPPORTED),
    ("event_storage_event_limit", UNSUPPORTED),
    ("global_housekeeping_interval", NO_HOUSEKEEPING),
    ("housekeeping_interval", NO_HOUSEKEEPING),
    ("http_auth_file", "use --web.config.file"),
    ("http_auth_realm", "use --web.config.file"),
    (
        "http_digest_file",
        "use --web.config.file, with basic_auth_users",
    ),
    (
        "http_digest_realm",
        "use --web.config.file, with basic_auth_users",
    ),
    ("listen_ip", "use --web.listen-address"),
    ("logtostderr", "use --log.level"),
    ("machine_id_file", "not needed"),
    ("max_housekeeping_interval", NO_HOUSEKEEPING),
    ("max_procs", "not needed"),
    ("percpu", "use --collector.container_cpu.per-cpu"),
    ("perf_events_config", UNSUPPORTED),
    ("podman", "use --engine.socket=unix:///PATH"),
    ("port", "use --web.listen-address"),
    ("profiling", UNSUPPORTED),
    ("prometheus_endpoint", "use --web.telemetry-path"),
    ("raw_cgroup_prefix_whitelist", "use --cgroup.include"),
    ("referenced_reset_interval", UNSUPPORTED),
    ("resctrl_interval", UNSUPPORTED),
    ("storage_driver", UNSUPPORTED),
    ("storage_driver_buffer_duration", UNSUPPORTED),
    ("storage_driver_db", UNSUPPORTED),
    ("storage_driver_host", UNSUPPORTED),
    ("storage_driver_password", UNSUPPORTED),
    ("storage_driver_secure", UNSUPPORTED),
    ("storage_driver_table", UNSUPPORTED),
    ("storage_driver_user", UNSUPPORTED),
    (
        "storage_duration",
        "use --history.interval and --history.points",
    ),
    ("store_container_labels", "use --engine.label-include"),
    ("url_base_prefix", "use a reverse proxy"),
    ("v", "use --log.level"),
    ("vmodule", "use --log.level"),
    ("whitelisted_container_labels", "use --engine.label-include"),
];

const UNSUPPORTED: &str = "not supported";
const NO_HOUSEKEEPING: &str = "not needed, each scrape reads current values";
const CGROUPS_ONLY: &str =
    "not supported, containers of containerd and CRI-O are exposed by cgroup, named by their ID";

/// Adds a suggestion to the error. `line` is the original command line.
pub(super) fn explain(
    error: clap::Error,
    line: &[OsString],
    switches: &BTreeSet<String>,
) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let unknown = full_name(unknown, line);
    let hint = if let Some(hint) = cadvisor_hint(&unknown) {
        format!("a flag of cAdvisor: {hint}")
    } else {
        let Some(ContextValue::String(nearest)) = error.get(ContextKind::SuggestedArg) else {
            return error;
        };
        let nearest = nearest.trim_start_matches('-');
        // clap does not know `--no-x`.
        let no = if unknown.starts_with("--no-") && switches.contains(nearest) {
            "no-"
        } else {
            ""
        };
        format!("did you mean '--{no}{nearest}'?")
    };
    let message = format!("unexpected argument '{unknown}' found ({hint})");
    clap::Error::raw(ErrorKind::UnknownArgument, message)
}

/// The full name of an unknown flag: for `-port=8080`, Go syntax, clap reports only `-p`.
fn full_name(unknown: &str, line: &[OsString]) -> String {
    let is_short = !unknown.starts_with("--");
    let words = line.iter().filter_map(|word| word.to_str());
    let mut words = words.filter(|word| is_short && word.starts_with(unknown));
    let word = words.next().unwrap_or(unknown);
    word.split('=').next().unwrap_or_default().to_owned()
}

fn cadvisor_hint(flag: &str) -> Option<&'static str> {
    let name = flag.trim_start_matches('-');
    let found = CADVISOR
        .binary_search_by_key(&name, |(flag, _)| flag)
        .ok()?;
    CADVISOR.get(found).map(|(_, hint)| *hint)
}

/// Formats a command-line error as one line that ends with a hint.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    // The first paragraph of clap's message is the error.
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let suggestion = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(nearest)) => Some(nearest),
        Some(ContextValue::Strings(nearest)) => nearest.first(),
        _ => None,
    };
    let suggestion = suggestion.or_else(|| match error.get(ContextKind::SuggestedValue) {
        Some(ContextValue::String(nearest)) => Some(nearest),
        _ => None,
    });
    let suggestion = suggestion.map(|nearest| format!(" (did you mean '{nearest}'?)"));
    let suggestion = suggestion.unwrap_or_default();
    format!("{}: {line}{suggestion}, try --help", super::NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cadvisor_flags_are_sorted_and_hints_name_our_flags() {
        assert!(CADVISOR.is_sorted_by_key(|(flag, _)| flag));
        let command = super::super::command(crate::collectors::ALL);
        let ours: Vec<_> = command
            .get_arguments()
            .filter_map(|it| it.get_long())
            .collect();
        let mut named = 0;
        for (flag, hint) in CADVISOR {
            assert!(!ours.contains(flag), "{flag}");
            for rest in hint.split("--").skip(1) {
                let name = rest.split([' ', '=', ',']).next().unwrap();
                if !name.ends_with("NAME") {
                    assert!(ours.contains(&name), "{hint}");
                    named += 1;
                }
            }
        }
        assert!(named > 10, "{named}");
    }

    #[test]
    fn cadvisor_flags_of_the_migration_guide_have_hints() {
        #[expect(clippy::disallowed_methods, reason = "a file of this repository")]
        let guide = std::fs::read_to_string("docs/migration/cadvisor.md").unwrap();
        let (table, _) = guide.split_once("\n\n| in `--disable_metrics`").unwrap();
        let mut flags = 0;
        for row in table.lines().filter(|row| row.starts_with("| `--")) {
            let cell = row.split('|').nth(1).unwrap();
            for rest in cell.split("`--").skip(1) {
                let flag = rest.split(['`', '=']).next().unwrap();
                let flag = flag.trim_end_matches('…');
                let found = CADVISOR.iter().any(|(name, _)| name.starts_with(flag));
                assert!(found, "{flag}");
                flags += 1;
            }
        }
        assert!(flags > 30, "{flags}");
    }
}
