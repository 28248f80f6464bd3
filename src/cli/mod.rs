//! The command line: one `clap::Command` with the exporter's own flags, every collector's, and the
//! subcommands.
//!
//! Flags and their syntax are those of `node_exporter`: a switch `--x` can be negated as `--no-x`,
//! and the last one wins. Every flag of the server can also be set by the environment:
//! `--web.listen-address` is `STRATA_WEB_LISTEN_ADDRESS`.
//!
//! Without a subcommand the exporter serves, as `node_exporter` does. `serve`, `check` and
//! `census` accept the server's flags also before the subcommand, so `check` can be appended to
//! any command line.

mod hints;
mod man;
mod variables;

use std::{any::TypeId, collections::BTreeSet, ffi::OsString, num::NonZeroUsize};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::ValueParser,
    error::ErrorKind, parser::ValueSource, value_parser,
};
use clap_complete::Shell;

use crate::{
    api::census,
    check,
    collector::{CollectFn, Entry, Layer},
    history,
    http::{self, web_config},
    log::{self, Level},
    sandbox,
    sources::{
        Roots,
        engine::{self, SizeFlags},
        libvirt, workloads,
    },
    targets,
    top::{self, ExporterUrl},
};
pub use hints::one_line;
pub use man::man_page;
pub use variables::UnknownVariable;

const NAME: &str = env!("CARGO_PKG_NAME");

/// Output of `--version` after the name; `-V` prints only the first line.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nrevision: ",
    env!("BUILD_REVISION"),
    "\nrustc:    ",
    env!("BUILD_RUSTC"),
    "\ntarget:   ",
    env!("BUILD_TARGET"),
    "\nfeatures: ",
    env!("BUILD_FEATURES"),
);

/// The only flags in `-h`.
const SHORT_HELP: [&str; 10] = [
    "web.listen-address",
    "web.telemetry-path",
    "web.config.file",
    "path.rootfs",
    "engine.socket",
    "libvirt.uri",
    "sandbox",
    "log.level",
    "log.format",
    "collector.disable-defaults",
];

const AFTER_HELP: &str = "\
Enable a collector with --collector.NAME, disable it with --no-collector.NAME.
All flags, and those of each collector: strata_exporter --help
Flags of a subcommand:                  strata_exporter SUBCOMMAND --help
What is collected on this machine:      strata_exporter check";

const AFTER_LONG_HELP: &str = "\
A switch --x is disabled with --no-x. Flags can also be set in the environment:
STRATA_WEB_LISTEN_ADDRESS sets --web.listen-address.

Durations are numbers with a unit, ns, us, ms, s, m or h: 5s, 1m30s. Sizes are numbers of bytes, or
numbers with a unit, kB, MB, GB (powers of 1000), KiB, MiB, GiB (powers of 1024): 32MiB.

SIGTERM and SIGINT stop the exporter after the requests in progress. SIGHUP reloads the file of
--web.config.file.

The exit code is 0 after a stop, 2 for an invalid command line or a failed start.";

const AFTER_CHECK_HELP: &str = "\
Pass the flags of the server, before or after the word check, and run it as the same user. All flags
of strata_exporter --help are accepted.

The exit code is 0 if all enabled collectors work, 1 if there are errors, 2 for an invalid command
line or a failed start.";

const AFTER_CENSUS_HELP: &str = "\
All flags of strata_exporter --help are accepted, before or after the word census. The report has
the values of the enabled census collectors; /api/v1/census returns the same report.

The exit code is 0 if the census was taken, 2 for an invalid command line or a failed start.";

const AFTER_TOP_HELP: &str = "\
If the output is not a terminal, one table is printed.

The exit code is 0 if the exporter responded, 1 if it did not, 2 for an invalid command line.";

/// Switches of `container_processes` that need ptrace(2) access to other processes: argument ID
/// and flag.
const PTRACE_FLAGS: [(&str, &str); 2] = [
    (
        "container_processes_sockets",
        "--collector.container_processes.sockets",
    ),
    (
        "container_processes_referenced",
        "--collector.container_processes.referenced",
    ),
];

/// The server's flags that belong to no collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct ServerFlags {
    /// Web server flags.
    #[command(flatten, next_help_heading = "Web")]
    pub web: http::WebFlags,
    /// Where the machine's file systems are mounted.
    #[command(flatten, next_help_heading = "Host paths")]
    pub roots: Roots,
    /// Container engines to connect to.
    #[command(flatten, next_help_heading = "Container engines")]
    pub engines: engine::EngineFlags,
    /// The libvirt to connect to.
    #[command(flatten, next_help_heading = "Libvirt")]
    pub libvirt: libvirt::LibvirtFlags,
    /// Cgroup flags.
    #[command(flatten, next_help_heading = "Control groups")]
    pub workloads: workloads::WorkloadFlags,
    /// Census flags.
    #[command(flatten, next_help_heading = "Census")]
    pub census: census::CensusReportFlags,
    /// History flags.
    #[command(flatten, next_help_heading = "History")]
    pub history: history::HistoryFlags,
    /// Sandbox flags.
    #[command(flatten, next_help_heading = "Security")]
    pub sandbox: sandbox::SandboxFlags,
    /// Minimum level of log lines.
    #[arg(
        long = "log.level",
        value_name = "LEVEL",
        default_value = "info",
        help_heading = "Logging"
    )]
    pub log_level: Level,
    /// Format of log lines.
    #[arg(
        long = "log.format",
        value_name = "FORMAT",
        default_value = "logfmt",
        help_heading = "Logging"
    )]
    pub log_format: log::LogFormat,
    /// Disable all collectors not enabled by name.
    #[arg(
        long = "collector.disable-defaults",
        default_value_t = false,
        action = ArgAction::Set,
        help_heading = "Collectors"
    )]
    pub disable_defaults: bool,
    /// Accepted for compatibility with `node_exporter`; has no effect.
    #[arg(long = "runtime.gomaxprocs", value_name = "N", hide = true)]
    pub gomaxprocs: Option<NonZeroUsize>,
}

/// The flags of `strata_exporter census`.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
pub struct CensusFlags {
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// A parsed command line.
#[expect(missing_debug_implementations, reason = "holds closures")]
pub enum Subcommand {
    /// Serve metrics.
    Serve(Box<Settings>),
    /// Report what is collected, and errors.
    Check(Box<Settings>, check::CheckFlags),
    /// Print the census.
    Census(Box<Settings>, CensusFlags),
    /// Live view of an exporter's data.
    Top(ExporterUrl, top::TopFlags),
    /// Edit target files.
    Targets(targets::TargetsFlags),
    /// Validate web config files.
    WebConfig(web_config::WebConfigFlags),
    /// Print a completion script.
    Completion(Shell),
    /// Print the manual page.
    Man,
}

/// Configuration of a server, from its flags.
#[expect(missing_debug_implementations, reason = "holds closures")]
pub struct Settings {
    /// The exporter's own flags.
    pub flags: ServerFlags,
    /// The enabled collectors.
    pub collectors: Vec<(&'static str, Layer, CollectFn)>,
    /// Collectors enabled by name that are not implemented yet.
    pub planned: Vec<&'static str>,
    /// Enabled flags that need ptrace(2) access to other processes.
    pub ptrace_flags: Vec<&'static str>,
    /// Environment variables with the prefix of flags that match no flag.
    pub unknown_variables: Vec<UnknownVariable>,
}

/// The complete command: the server's flags and the subcommands with their flags.
#[must_use]
pub fn command(collectors: &[Entry]) -> Command {
    with_subcommands(server(collectors), |subcommand| {
        server_flags(subcommand, collectors)
    })
}

/// The program without subcommands.
fn server(collectors: &[Entry]) -> Command {
    let command = Command::new(NAME)
        .bin_name(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .long_version(LONG_VERSION);
    let command = server_flags(command, collectors).mut_args(|arg| {
        let is_short = arg
            .get_long()
            .is_some_and(|long| SHORT_HELP.contains(&long));
        arg.hide_short_help(!is_short)
    });
    // Set after the flags, whose doc comment would replace it.
    command
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .override_usage(format!("{NAME} [OPTIONS] [SUBCOMMAND]"))
        .subcommand_help_heading("Subcommands")
        .after_help(AFTER_HELP)
        .after_long_help(AFTER_LONG_HELP)
}

/// Adds the subcommands; `server_flags` adds the server's flags to those that accept them.
fn with_subcommands(command: Command, server_flags: impl Fn(Command) -> Command) -> Command {
    let serve = server_flags(Command::new("serve"))
        .about("Serve metrics (the default)")
        .after_help(AFTER_LONG_HELP);
    let hidden = |command: Command| command.mut_args(|arg| arg.hide(true));
    let check = hidden(server_flags(Command::new("check")));
    let check = check::CheckFlags::augment_args(check)
        .about("Report what is collected on this machine; for missing data, the cause and the fix")
        .after_help(AFTER_CHECK_HELP);
    let census = hidden(server_flags(Command::new("census")));
    let census = CensusFlags::augment_args(census)
        .about("Print the census of this machine: its workloads, without names")
        .after_help(AFTER_CENSUS_HELP);
    // Not parsed by clap, whose errors quote the value, which may contain a password.
    let url = Arg::new("url").value_name("URL").help(
        "The exporter to query: http://HOST:PORT, https://HOST:PORT or unix:///PATH \
         [default: http://localhost:9100]",
    );
    let top = top::TopFlags::augment_args(Command::new("top").arg(url))
        .mut_args(with_variable)
        .about("Live view of an exporter's data in the terminal")
        .after_help(AFTER_TOP_HELP);
    let targets = targets::TargetsFlags::augment_args(Command::new("targets"));
    let web_config = web_config::WebConfigFlags::augment_args(Command::new("web-config"));
    let shell = Arg::new("shell")
        .value_name("SHELL")
        .required(true)
        .value_parser(value_parser!(Shell));
    let completion = Command::new("completion")
        .about("Print a completion script for a shell")
        .arg(shell.help("The shell"));
    let man = Command::new("man").about("Print the manual page, in roff");
    command.subcommands([
        serve, check, census, top, targets, web_config, completion, man,
    ])
}

/// Adds the server's flags: the exporter's own and every collector's.
fn server_flags(command: Command, collectors: &[Entry]) -> Command {
    let command = ServerFlags::augment_args(command.args_override_self(true));
    let command = collectors.iter().fold(command, |command, collector| {
        let state = if collector.enabled { "on" } else { "off" };
        let switch = Arg::new(switch(collector.name))
            .long(switch(collector.name))
            .value_parser(ValueParser::bool())
            .help(format!("Collect {} [default: {state}]", collector.about))
            .hide(collector.is_planned());
        let command = command.next_help_heading(match collector.layer {
            Layer::Host => "Host collectors",
            Layer::Containers => "Container collectors",
            Layer::Domains => "Domain collectors",
            Layer::Census => "Census collectors",
        });
        let command = (collector.add_flags)(command.arg(switch));
        let reserved = collector.reserved_flags.iter().map(|flag| {
            let long = format!("collector.{}.{flag}", collector.name);
            // A switch or a flag with a value: the value is ignored.
            let arg = Arg::new(long.clone()).long(long).hide(true);
            arg.num_args(0..=1).action(ArgAction::Append)
        });
        command.args(reserved)
    });
    let command = command.next_help_heading(None::<&str>);
    command.mut_args(|arg| {
        let arg = with_variable(arg);
        if is_switch(&arg) {
            // The value is used by `--no-x`, which becomes `--x=false`, and by the environment.
            arg.action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .hide_possible_values(true)
                .value_name("BOOL")
        } else {
            arg
        }
    })
}

/// A flag that can also be set by its environment variable.
fn with_variable(arg: Arg) -> Arg {
    match arg.get_long().map(variables::name) {
        Some(name) => arg.env(name).hide_env(true),
        None => arg,
    }
}

/// Parses a command line, the program's name first.
pub fn parse(
    collectors: &[Entry],
    line: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Subcommand, clap::Error> {
    let server = server(collectors);
    let switches = switches(&server);
    let line: Vec<OsString> = line.into_iter().map(Into::into).collect();
    let words: Vec<_> = line
        .iter()
        .map(|word| positive(word.clone(), &switches))
        .collect();
    let unknown = variables::unknown(&server);
    let settings = |matches: &ArgMatches| settings(collectors, matches, unknown);
    let matches = match subcommand_index(&server, &words) {
        // Skips the flags of serve, check and census, which are not needed here and cost memory.
        None => with_subcommands(server, |bare| bare).try_get_matches_from(words),
        Some(index) => parse_subcommand(command(collectors), &words, &line, index),
    };
    let matches = matches.map_err(|error| hints::explain(error, &line, &switches))?;
    match matches.subcommand() {
        None => Ok(Subcommand::Serve(settings(&matches)?)),
        Some(("serve", matches)) => Ok(Subcommand::Serve(settings(matches)?)),
        Some(("check", matches)) => Ok(Subcommand::Check(
            settings(matches)?,
            check::CheckFlags::from_arg_matches(matches)?,
        )),
        Some(("census", matches)) => Ok(Subcommand::Census(
            settings(matches)?,
            CensusFlags::from_arg_matches(matches)?,
        )),
        Some(("top", matches)) => {
            let url = matches.get_one::<String>("url");
            let exporter = url.map(|url| url.parse::<ExporterUrl>()).transpose();
            let exporter = exporter.map_err(|why| {
                let message = format!("URL: {why}");
                clap::Error::raw(ErrorKind::ValueValidation, message)
            })?;
            let flags = top::TopFlags::from_arg_matches(matches)?;
            Ok(Subcommand::Top(exporter.unwrap_or_default(), flags))
        }
        Some(("targets", matches)) => {
            targets::TargetsFlags::from_arg_matches(matches).map(Subcommand::Targets)
        }
        Some(("web-config", matches)) => {
            web_config::WebConfigFlags::from_arg_matches(matches).map(Subcommand::WebConfig)
        }
        Some(("completion", matches)) => {
            let shell = matches.get_one("shell").copied();
            Ok(Subcommand::Completion(shell.unwrap_or(Shell::Bash)))
        }
        Some((_, _)) => Ok(Subcommand::Man),
    }
}

/// Parses a command line of a server, the program's name first.
pub fn parse_server(
    collectors: &[Entry],
    line: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Settings, clap::Error> {
    match parse(collectors, line)? {
        Subcommand::Serve(settings) => Ok(*settings),
        _ => Err(clap::Error::raw(
            ErrorKind::InvalidSubcommand,
            "expected no subcommand but serve",
        )),
    }
}

/// Index of the subcommand, found by clap, so that a flag's value is not mistaken for it.
fn subcommand_index(server: &Command, words: &[OsString]) -> Option<usize> {
    let is_plain = |word: &OsString| !word.as_encoded_bytes().starts_with(b"-");
    if !words.iter().skip(1).any(is_plain) {
        return None;
    }
    let command = server.clone().allow_external_subcommands(true);
    let matches = command.ignore_errors(true).try_get_matches_from(words);
    // The whole command reports the same error.
    let matches = matches.ok()?;
    let (_, rest) = matches.subcommand()?;
    let rest = rest.get_raw("").map_or(0, Iterator::count);
    words.len().checked_sub(rest + 1)
}

/// Parses a command line with the subcommand at this index. `words` is the `line` with `--no-x`
/// replaced.
fn parse_subcommand(
    command: Command,
    words: &[OsString],
    line: &[OsString],
    index: usize,
) -> Result<ArgMatches, clap::Error> {
    // Environment variables are for the subcommand.
    let command = command.mut_args(|arg| arg.env(None::<&str>));
    let (before, after) = words.split_at(index);
    let (name, flags) = before.split_first().unzip();
    let flags = flags.unwrap_or_default();
    let takes_server_flags = ["serve", "check", "census"];
    if takes_server_flags
        .iter()
        .any(|it| after.first().is_some_and(|word| word == it))
    {
        let (subcommand, after) = after.split_at(1);
        let words = name.into_iter().chain(subcommand).chain(flags).chain(after);
        return command.try_get_matches_from(words);
    }
    let after = line.iter().skip(index);
    let Some(flag) = flags.first() else {
        return command.try_get_matches_from(name.into_iter().chain(after));
    };
    // Errors of the flags before the subcommand come first, such as an unknown flag.
    let alone = command.clone().try_get_matches_from(before)?;
    drop(alone);
    let subcommand = after.clone().take(1).next();
    let subcommand = subcommand
        .map(|it| it.to_string_lossy())
        .unwrap_or_default();
    if command.find_subcommand(&*subcommand).is_none() {
        return command.try_get_matches_from(words);
    }
    let flag = flag.to_string_lossy();
    let flag = flag.split('=').next().unwrap_or_default();
    let message = format!("{flag} is only valid for serve, check and census, not for {subcommand}");
    Err(clap::Error::raw(ErrorKind::ArgumentConflict, message))
}

/// Creates the server's settings.
fn settings(
    collectors: &[Entry],
    matches: &ArgMatches,
    unknown_variables: Vec<UnknownVariable>,
) -> Result<Box<Settings>, clap::Error> {
    let mut flags = ServerFlags::from_arg_matches(matches)?;
    check_paths(&flags.roots, matches)?;

    let is_on = |collector: &&Entry| match explicit_state(matches, collector.name) {
        Some(on) => on,
        None => collector.enabled && !flags.disable_defaults,
    };
    let created: Vec<_> = collectors
        .iter()
        .filter(is_on)
        .map(|entry| Ok((entry.name, entry.layer, (entry.make)(matches)?)))
        .collect::<Result<_, clap::Error>>()?;
    // Engines are queried in the background for this collector.
    if created.iter().any(|(name, ..)| *name == "container_size") {
        let sizes = SizeFlags::from_arg_matches(matches)?;
        flags.engines.disk_usage_interval = Some(sizes.container_size_interval);
    }
    // The flags of disabled collectors are validated too.
    for entry in collectors.iter().filter(|entry| !is_on(entry)) {
        drop((entry.make)(matches)?);
    }
    let reads_processes = created
        .iter()
        .any(|(name, ..)| *name == "container_processes");
    let is_on = |id| matches!(matches.try_get_one::<bool>(id), Ok(Some(true)));
    let ptrace_flags = PTRACE_FLAGS
        .iter()
        .filter(|(id, _)| reads_processes && is_on(id));
    let ptrace_flags = ptrace_flags.map(|(_, flag)| *flag).collect();
    let planned = collectors
        .iter()
        .filter(|entry| entry.is_planned() && explicit_state(matches, entry.name) == Some(true))
        .map(|entry| entry.name)
        .collect();
    Ok(Box::new(Settings {
        flags,
        collectors: created,
        planned,
        ptrace_flags,
        unknown_variables,
    }))
}

/// Writes a completion script.
#[must_use]
pub fn completion(collectors: &[Entry], shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(collectors), NAME, &mut script);
    script
}

/// Whether the collector was enabled or disabled by name.
fn explicit_state(matches: &ArgMatches, collector: &str) -> Option<bool> {
    matches.get_one::<bool>(&switch(collector)).copied()
}

fn switch(collector: &str) -> String {
    format!("collector.{collector}")
}

fn is_switch(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<bool>()
        && !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version)
}

fn switches(command: &Command) -> BTreeSet<String> {
    let switches = command.get_arguments().filter(|arg| is_switch(arg));
    switches
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .collect()
}

/// `--no-x` as `--x=false`, if `x` is a switch.
fn positive(word: OsString, switches: &BTreeSet<String>) -> OsString {
    let name = word.to_str().and_then(|word| word.strip_prefix("--no-"));
    match name.filter(|name| switches.contains(*name)) {
        Some(name) => format!("--{name}=false").into(),
        None => word,
    }
}

/// Rejects explicit paths that do not exist, because all metrics would be missing without an
/// obvious cause.
fn check_paths(roots: &Roots, matches: &ArgMatches) -> Result<(), clap::Error> {
    for (id, flag, path) in [
        ("procfs", "path.procfs", &roots.procfs),
        ("sysfs", "path.sysfs", &roots.sysfs),
        ("rootfs", "path.rootfs", &roots.rootfs),
    ] {
        let is_explicit = matches.value_source(id) != Some(ValueSource::DefaultValue);
        if is_explicit && !path.is_dir() {
            let message = format!("--{flag}: {} is not a directory", path.display());
            return Err(clap::Error::raw(ErrorKind::ValueValidation, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors;

    fn parse_any(line: &str) -> Result<Subcommand, String> {
        let words = std::iter::once("strata_exporter").chain(line.split_whitespace());
        super::parse(collectors::ALL, words).map_err(|error| one_line(&error))
    }

    fn parse(line: &str) -> Result<Settings, String> {
        match parse_any(line)? {
            Subcommand::Serve(settings)
            | Subcommand::Check(settings, _)
            | Subcommand::Census(settings, _) => Ok(*settings),
            _ => Err("no server".to_owned()),
        }
    }

    fn names(line: &str) -> Vec<&'static str> {
        let settings = parse(line).unwrap_or_else(|error| panic!("{error}"));
        settings.collectors.iter().map(|(name, ..)| *name).collect()
    }

    #[test]
    fn flags_do_not_collide() {
        command(collectors::ALL).debug_assert();
    }

    #[test]
    fn last_collector_switch_wins() {
        assert!(names("").contains(&"meminfo"));
        assert!(!names("--no-collector.meminfo").contains(&"meminfo"));
        assert!(names("--no-collector.meminfo --collector.meminfo").contains(&"meminfo"));
        let two = "--collector.disable-defaults --collector.stat --collector.loadavg";
        assert_eq!(names(two), ["loadavg", "stat"]);
    }

    #[test]
    fn disk_usage_is_queried_only_for_container_size() {
        let interval = |line: &str| {
            let settings = parse(line).unwrap_or_else(|error| panic!("{error}"));
            settings
                .flags
                .engines
                .disk_usage_interval
                .map(|every| every.as_secs())
        };
        assert_eq!(interval(""), None);
        assert_eq!(interval("--collector.container_size.interval=2m"), None);
        assert_eq!(interval("--collector.container_size"), Some(3600));
        let both = "--collector.container_size --collector.container_size.interval=2m";
        assert_eq!(interval(both), Some(120));
        assert!(parse("--collector.container_size.interval=59s").is_err());
    }

    #[test]
    fn ptrace_flags_need_their_collector() {
        let flags = |line: &str| parse(line).unwrap_or_else(|e| panic!("{e}")).ptrace_flags;
        let both = "--collector.container_processes.sockets \
                    --collector.container_processes.referenced";
        assert!(flags(both).is_empty());
        assert!(flags("--collector.container_processes").is_empty());
        let on = flags(&format!("--collector.container_processes {both}"));
        assert_eq!(on.join(" "), both);
    }

    #[test]
    fn planned_collectors_and_their_flags_are_accepted() {
        assert!(!names("--no-collector.zfs").contains(&"zfs"));
        let settings =
            parse("--collector.perf --runtime.gomaxprocs=2").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(settings.planned, ["perf"]);
        let flags = "--collector.tapestats.ignored-devices=^x --collector.bcache.priorityStats \
                     --collector.perf.tracepoint a:b --collector.perf.tracepoint c:d";
        assert!(names(flags).contains(&"meminfo"));
    }

    #[test]
    fn errors_are_one_line() {
        for (line, message) in [
            ("check http://x", "unexpected argument 'http://x' found"),
            (
                "top https://me:secret@x",
                "URL: user name and password are not supported in the URL, set basic_auth in \
                 --http.config.file",
            ),
            (
                "--log.level=warn targets",
                "--log.level is only valid for serve, check and census, not for targets",
            ),
            (
                "targets --log.level=warn",
                "unexpected argument '--log.level' found",
            ),
            (
                "check --json=false",
                "unexpected value 'false' for '--json' found; no more were expected",
            ),
            (
                "--no-such-flag",
                "unexpected argument '--no-such-flag' found",
            ),
            (
                "--path.procfs=/nowhere",
                "--path.procfs: /nowhere is not a directory",
            ),
            (
                "--log.level=loud",
                "invalid value 'loud' for '--log.level <LEVEL>' [possible values: debug, info, \
                 warn, error]",
            ),
            ("surplus", "unrecognized subcommand 'surplus'"),
            (
                "--log.level=warn surplus",
                "unrecognized subcommand 'surplus'",
            ),
            (
                "chekc",
                "unrecognized subcommand 'chekc' (did you mean 'check'?)",
            ),
            (
                "--collector.sytemd",
                "unexpected argument '--collector.sytemd' found (did you mean \
                 '--collector.systemd'?)",
            ),
            (
                "check --no-collector.sytemd",
                "unexpected argument '--no-collector.sytemd' found (did you mean \
                 '--no-collector.systemd'?)",
            ),
            (
                "-port=8080",
                "unexpected argument '-port' found (a flag of cAdvisor: use --web.listen-address)",
            ),
        ] {
            let error = parse_any(line).err();
            let expected = format!("strata_exporter: {message}, try --help");
            assert_eq!(error, Some(expected), "{line}");
        }
    }

    #[test]
    fn server_flags_go_before_and_after_the_subcommand() {
        for line in [
            "--collector.disable-defaults --collector.stat check --collector.loadavg",
            "--no-collector.stat --log.level warn check --collector.disable-defaults \
             --collector.loadavg --collector.stat",
            "serve --collector.disable-defaults --collector.stat --collector.loadavg",
            "--collector.disable-defaults --collector.stat --collector.loadavg census",
        ] {
            assert_eq!(names(line), ["loadavg", "stat"], "{line}");
        }
        // A value is not a subcommand.
        let settings = parse("--web.telemetry-path /x --libvirt.uri check");
        assert!(settings.is_ok(), "{:?}", settings.err());
        let is_served = parse_any("--libvirt.uri check --collector.stat");
        assert!(matches!(is_served, Ok(Subcommand::Serve(_))));
    }
}
