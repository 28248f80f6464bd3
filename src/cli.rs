//! The command line: the exporter's own flags, then every collector's.
//!
//! Flags are `node_exporter`'s, and so are their manners: a switch `--x` also comes
//! as `--no-x`, and the last one given wins. Every flag can also be set by the
//! environment: `--web.listen-address` is `STRATA_WEB_LISTEN_ADDRESS`.

use std::{any::TypeId, collections::BTreeSet, ffi::OsString, num::NonZeroUsize};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, ValueEnum,
    builder::ValueParser, error::ErrorKind, parser::ValueSource, value_parser,
};

use crate::{
    api::census,
    collector::{Collect, Entry, Layer},
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
    top::{self, Exporter},
};

/// Switches of `container_processes` that look into processes of others, and how they are
/// written.
const TRACING: [(&str, &str); 2] = [
    (
        "container_processes_sockets",
        "--collector.container_processes.sockets",
    ),
    (
        "container_processes_referenced",
        "--collector.container_processes.referenced",
    ),
];

/// The flags that belong to no collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Where and how to serve.
    #[command(flatten)]
    pub web: http::Flags,
    /// Which parts of the machine to look at.
    #[command(flatten)]
    pub roots: Roots,
    /// Which container engines to ask.
    #[command(flatten)]
    pub engines: engine::Flags,
    /// Which libvirt to ask.
    #[command(flatten)]
    pub libvirt: libvirt::Flags,
    /// Which control groups to show.
    #[command(flatten)]
    pub workloads: workloads::Flags,
    /// How the census is told.
    #[command(flatten)]
    pub census: census::Flags,
    /// With the task census: print JSON instead of a table.
    #[arg(long = "json", default_value_t = false, action = ArgAction::Set)]
    pub json: bool,
    /// How the task top shows things.
    #[command(flatten)]
    pub top: top::Flags,
    /// What to remember.
    #[command(flatten)]
    pub history: history::Flags,
    /// What to give up.
    #[command(flatten)]
    pub sandbox: sandbox::Flags,
    /// Turn all collectors off but those that are turned on by name.
    #[arg(long = "collector.disable-defaults", default_value_t = false, action = ArgAction::Set)]
    pub disable_defaults: bool,
    /// Log only what is at least this important.
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,
    /// How log lines are written.
    #[arg(long = "log.format", value_name = "FORMAT", default_value = "logfmt")]
    pub log_format: log::Format,
    /// Taken for the sake of unit files; this exporter needs no such limit.
    #[arg(long = "runtime.gomaxprocs", value_name = "N", hide = true)]
    pub gomaxprocs: Option<NonZeroUsize>,
}

/// What the program is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Serve metrics.
    Serve,
    /// Say what will be collected on this machine, and for what is not, why and how to mend
    /// it.
    Check,
    /// Print the census of this machine: what runs here, without naming any of it.
    Census,
    /// Show live what an exporter says of its machine.
    Top,
    /// Register who is to be scraped; has flags of its own.
    Targets,
    /// Look at files for --web.config.file; has flags of its own.
    WebConfig,
}

/// What the command line asks for.
#[expect(missing_debug_implementations, reason = "holds closures")]
pub struct Settings {
    /// What to do.
    pub task: Task,
    /// Which exporter to show.
    pub exporter: Exporter,
    /// The exporter's own flags.
    pub flags: Flags,
    /// The collectors that are on, and how each reads.
    pub collectors: Vec<(&'static str, Layer, Collect)>,
    /// Collectors that were turned on by name and are not built yet.
    pub to_come: Vec<&'static str>,
    /// Flags that are on and look into processes of others.
    pub traces: Vec<&'static str>,
}

/// The command line these collectors understand.
#[must_use]
pub fn command(collectors: &[Entry]) -> Command {
    let help = Arg::new("help").long("help").short('h');
    let task = Arg::new("task")
        .value_name("TASK")
        .value_parser(value_parser!(Task));
    // Not parsed by clap, whose errors show what is wrong: it may have a password in it.
    let url = Arg::new("url").value_name("URL");
    let own = Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .args_override_self(true)
        .disable_help_flag(true)
        .arg(help.action(ArgAction::HelpShort).help("Print this help"))
        .arg(task.help(
            "What to do: serve metrics, check what will be collected here, print the census, show \
             live what an exporter says, register targets in a file of Prometheus's, or look at a \
             file for --web.config.file [default: serve]",
        ))
        .arg(url.help(
            "With the task top: which exporter to ask, http://HOST:PORT, https://HOST:PORT or \
             unix:///PATH [default: http://localhost:9100]",
        ))
        .next_help_heading("Serving, logging, where the machine is");
    let command = Flags::augment_args(own).next_help_heading("Collectors and their settings");
    let command = collectors.iter().fold(command, |command, collector| {
        let state = if collector.enabled { "on" } else { "off" };
        let switch = Arg::new(switch(collector.name))
            .long(switch(collector.name))
            .value_parser(ValueParser::bool())
            .help(format!("Collect {} [default: {state}]", collector.about))
            .hide(collector.is_to_come());
        let command = (collector.add_flags)(command.arg(switch));
        let to_come = collector.flags_to_come.iter().map(|flag| {
            let long = format!("collector.{}.{flag}", collector.name);
            // Whether switch or value: what is taken is not looked at.
            let arg = Arg::new(long.clone()).long(long).hide(true);
            arg.num_args(0..=1).action(ArgAction::Append)
        });
        command.args(to_come)
    });
    // After the flags, whose documentation would stand in its place.
    let command = command.about(env!("CARGO_PKG_DESCRIPTION")).after_help(
        "strata_exporter census prints what runs here without naming any of it, as a table or with \
         --json as the report at /api/v1/census.\n\n\
         strata_exporter top [URL] shows live what an exporter here or elsewhere says of its \
         machine, containers and virtual machines; into a file or pipe it prints one table. A \
         password for it and whom to trust stand in --http.config.file, as basic_auth and tls_config \
         do in prometheus.yml.\n\n\
         strata_exporter check, with the flags it is served with, says for this machine what will \
         be collected, and for what is not, why and how to mend it. It exits with 0 if everything \
         that is on works, else with 1.\n\n\
         strata_exporter targets add, remove, list and sync change files that tell Prometheus whom \
         to scrape; strata_exporter targets --help says how.\n\n\
         strata_exporter web-config check FILE says what is wrong with a file for --web.config.file, \
         and where.\n\n\
         A switch --x is turned off by --no-x. Every flag can be set by the environment too: \
         --web.listen-address by STRATA_WEB_LISTEN_ADDRESS.",
    );
    command.mut_args(|arg| {
        let Some(long) = arg.get_long().map(str::to_owned) else {
            return arg;
        };
        let arg = arg
            .env(format!(
                "STRATA_{}",
                long.replace(['.', '-'], "_").to_uppercase()
            ))
            .hide_env(true);
        if is_switch(&arg) {
            // The value is for `--no-x`, which becomes `--x=false`, and for the environment.
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

/// Reads a command line whose first word, after the program's name, is `targets`. It has no
/// collectors, and nothing of it is set by the environment.
#[must_use]
pub fn targets(line: &[OsString]) -> Option<Result<targets::Asked, clap::Error>> {
    let (_, words) = line.split_first()?;
    let is_asked = words.first().is_some_and(|word| word == "targets");
    is_asked.then(|| targets::Asked::try_parse_from(words))
}

/// Reads a command line whose first word is `web-config`, in the same way.
#[must_use]
pub fn web_config(line: &[OsString]) -> Option<Result<web_config::Asked, clap::Error>> {
    let (_, words) = line.split_first()?;
    let is_asked = words.first().is_some_and(|word| word == "web-config");
    is_asked.then(|| web_config::Asked::try_parse_from(words))
}

/// Reads a command line, the program's name first.
pub fn parse(
    collectors: &[Entry],
    line: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Settings, clap::Error> {
    let mut command = command(collectors);
    let switches = switches(&command);
    let line: Vec<OsString> = line
        .into_iter()
        .map(|word| positive(word.into(), &switches))
        .collect();
    let matches = command.try_get_matches_from_mut(line)?;
    let mut flags = Flags::from_arg_matches(&matches)?;
    check_paths(&flags.roots, &matches)?;

    let is_on = |collector: &&Entry| match given(&matches, collector.name) {
        Some(on) => on,
        None => collector.enabled && !flags.disable_defaults,
    };
    let made: Vec<_> = collectors
        .iter()
        .filter(is_on)
        .map(|entry| Ok((entry.name, entry.layer, (entry.make)(&matches)?)))
        .collect::<Result<_, clap::Error>>()?;
    // What is asked in the background is asked for a collector.
    if made.iter().any(|(name, ..)| *name == "container_size") {
        let sizes = SizeFlags::from_arg_matches(&matches)?;
        flags.engines.sizes = Some(sizes.container_size_interval);
    }
    // A collector that is off does not need its flags, but they must not clash either.
    for entry in collectors.iter().filter(|entry| !is_on(entry)) {
        drop((entry.make)(&matches)?);
    }
    let looks_at_processes = made.iter().any(|(name, ..)| *name == "container_processes");
    let is_on = |id| matches!(matches.try_get_one::<bool>(id), Ok(Some(true)));
    let traces = TRACING
        .iter()
        .filter(|(id, _)| looks_at_processes && is_on(id));
    let traces = traces.map(|(_, flag)| *flag).collect();
    let to_come = collectors
        .iter()
        .filter(|entry| entry.is_to_come() && given(&matches, entry.name) == Some(true))
        .map(|entry| entry.name)
        .collect();
    let task = matches.get_one("task").copied().unwrap_or(Task::Serve);
    if flags.json && task != Task::Census {
        let message = "--json goes with the task census only";
        return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
    }
    if let Task::Targets | Task::WebConfig = task {
        let task = if task == Task::Targets {
            "targets"
        } else {
            "web-config"
        };
        let message = format!("{task} has to be the first word, with its flags behind it");
        return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
    }
    let url = matches.get_one::<String>("url");
    if task != Task::Top {
        let given = url.map(|_| "URL");
        let given = given.or_else(|| flags.top.interval.map(|_| "--interval"));
        let http_config = flags.top.http_config_file.as_ref();
        let given = given.or_else(|| http_config.map(|_| "--http.config.file"));
        if let Some(given) = given {
            let message = format!("{given} goes with the task top only");
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
        }
    }
    let exporter = url.map(|url| url.parse::<Exporter>()).transpose();
    let exporter = exporter.map_err(|said| {
        let message = format!("URL: {said}");
        clap::Error::raw(ErrorKind::ValueValidation, message)
    })?;
    Ok(Settings {
        task,
        exporter: exporter.unwrap_or_default(),
        flags,
        collectors: made,
        to_come,
        traces,
    })
}

/// An error of the command line as the one line that says what to do.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    // Of clap's message the first paragraph says what is wrong.
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{}: {line}, try --help", env!("CARGO_PKG_NAME"))
}

/// Whether the collector was turned on or off by name.
fn given(matches: &ArgMatches, collector: &str) -> Option<bool> {
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

/// A path that was given has to be there: where it is not, every number would be
/// missing and nobody would know why.
fn check_paths(roots: &Roots, matches: &ArgMatches) -> Result<(), clap::Error> {
    for (id, flag, path) in [
        ("procfs", "path.procfs", &roots.procfs),
        ("sysfs", "path.sysfs", &roots.sysfs),
        ("rootfs", "path.rootfs", &roots.rootfs),
    ] {
        let is_given = matches.value_source(id) != Some(ValueSource::DefaultValue);
        if is_given && !path.is_dir() {
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

    fn parse(line: &str) -> Result<Settings, String> {
        let words = std::iter::once("strata_exporter").chain(line.split_whitespace());
        super::parse(collectors::ALL, words).map_err(|error| one_line(&error))
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
    fn collectors_are_turned_on_and_off_by_name_and_the_last_word_counts() {
        assert!(names("").contains(&"meminfo"));
        assert!(!names("--no-collector.meminfo").contains(&"meminfo"));
        assert!(names("--no-collector.meminfo --collector.meminfo").contains(&"meminfo"));
        let two = "--collector.disable-defaults --collector.stat --collector.loadavg";
        assert_eq!(names(two), ["loadavg", "stat"]);
    }

    #[test]
    fn engines_are_asked_for_sizes_only_if_somebody_wants_them() {
        let interval = |line: &str| {
            let settings = parse(line).unwrap_or_else(|error| panic!("{error}"));
            settings.flags.engines.sizes.map(|every| every.as_secs())
        };
        assert_eq!(interval(""), None);
        assert_eq!(interval("--collector.container_size.interval=2m"), None);
        assert_eq!(interval("--collector.container_size"), Some(3600));
        let both = "--collector.container_size --collector.container_size.interval=2m";
        assert_eq!(interval(both), Some(120));
        assert!(parse("--collector.container_size.interval=59s").is_err());
    }

    #[test]
    fn who_looks_into_processes_of_others_is_known() {
        let traces = |line: &str| parse(line).unwrap_or_else(|e| panic!("{e}")).traces;
        let both = "--collector.container_processes.sockets \
                    --collector.container_processes.referenced";
        assert!(traces(both).is_empty());
        assert!(traces("--collector.container_processes").is_empty());
        let on = traces(&format!("--collector.container_processes {both}"));
        assert_eq!(on.join(" "), both);
    }

    #[test]
    fn a_unit_file_that_names_a_collector_still_to_come_goes_on_working() {
        assert!(!names("--no-collector.zfs").contains(&"zfs"));
        let settings =
            parse("--collector.perf --runtime.gomaxprocs=2").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(settings.to_come, ["perf"]);
        let flags = "--collector.tapestats.ignored-devices=^x --collector.bcache.priorityStats \
                     --collector.perf.tracepoint a:b --collector.perf.tracepoint c:d";
        assert!(names(flags).contains(&"meminfo"));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (line, said) in [
            ("check http://x", "URL goes with the task top only"),
            (
                "top https://me:secret@x",
                "URL: name and password belong into --http.config.file, as basic_auth",
            ),
            (
                "--json=false targets",
                "targets has to be the first word, with its flags behind it",
            ),
            ("--interval=1s", "--interval goes with the task top only"),
            (
                "--http.config.file=x",
                "--http.config.file goes with the task top only",
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
                "invalid value 'loud' for '--log.level <LEVEL>' [possible values: debug, info, warn, error]",
            ),
            (
                "surplus",
                "invalid value 'surplus' for '[TASK]' [possible values: serve, check, census, top, targets, web-config]",
            ),
        ] {
            let error = parse(line).err();
            let expected = format!("strata_exporter: {said}, try --help");
            assert_eq!(error, Some(expected), "{line}");
        }
    }
}
