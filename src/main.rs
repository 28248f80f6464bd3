//! Exposes what the machine, its containers and its virtual machines are doing.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use clap::error::ErrorKind;
use clap_complete::Shell;
use strata_exporter::{
    api::{Api, census::Census},
    check,
    cli::{self, CensusFlags, Flags, Settings, Subcommand, UnknownVariable},
    collectors,
    http::{Server, web_config},
    log, sampler,
    sandbox::{self, ActiveSandbox, Mode, Requirements},
    scrape::{self, Scraper, Workers},
    sources::{self, HostState, ResourceBudget, Snapshot},
    targets,
    top::{self, ExporterUrl},
};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{info, warn};

/// The exit code for a wrong command line or a failed start.
const USAGE: u8 = 2;
/// The exit code of a check that found something wrong, and of whatever could not be done.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    sources::tune_malloc();
    let subcommand = match cli::parse(collectors::ALL, std::env::args_os()) {
        Ok(subcommand) => subcommand,
        Err(error) => return command_line_error(&error),
    };
    // The others do no more than their user may.
    if matches!(
        subcommand,
        Subcommand::Serve(_) | Subcommand::Check(..) | Subcommand::Census(..)
    ) {
        sandbox::set_no_new_privs();
    }
    scrape::install_panic_hook();
    let result = match subcommand {
        Subcommand::Serve(settings) => {
            log::init(settings.flags.log_level, settings.flags.log_format);
            run(*settings).map(|()| ExitCode::SUCCESS)
        }
        // Without a log: what is wrong is in what is printed.
        Subcommand::Check(settings, flags) => check(*settings, flags),
        Subcommand::Census(settings, flags) => census(*settings, flags).map(|()| ExitCode::SUCCESS),
        Subcommand::Top(exporter, flags) => top(exporter, &flags),
        Subcommand::Targets(flags) => Ok(targets(flags)),
        Subcommand::WebConfig(flags) => Ok(web_config(&flags)),
        Subcommand::Completion(shell) => Ok(completion(shell)),
        Subcommand::Man => man(),
    };
    result.unwrap_or_else(|error| {
        print_error(&error);
        ExitCode::from(USAGE)
    })
}

fn print_error(error: &str) {
    eprintln!("{}: {error}", env!("CARGO_PKG_NAME"));
}

/// Prints text, coloured only on a terminal.
fn print(text: &str) {
    // The reader may have closed the pipe.
    anstream::stdout().write_all(text.as_bytes()).ok();
}

/// Prints help, the version, or what is wrong with the command line.
fn command_line_error(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        print(&error.render().ansi().to_string());
        return ExitCode::SUCCESS;
    }
    eprintln!("{}", cli::one_line(error));
    ExitCode::from(USAGE)
}

/// Edits or prints a file of targets.
fn targets(flags: targets::Flags) -> ExitCode {
    match targets::run(flags) {
        Ok(done) => {
            if let Some(note) = done.note {
                print_error(&note);
            }
            // The reader may have closed the pipe.
            std::io::stdout().write_all(done.text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// Validates files for --web.config.file.
fn web_config(flags: &web_config::CheckFlags) -> ExitCode {
    let checked = web_config::run(flags);
    // The reader may have closed the pipe.
    std::io::stdout().write_all(checked.valid.as_bytes()).ok();
    eprint!("{}", checked.errors);
    if checked.errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    }
}

fn completion(shell: Shell) -> ExitCode {
    let script = cli::completion(collectors::ALL, shell);
    // The reader may have closed the pipe.
    std::io::stdout().write_all(&script).ok();
    ExitCode::SUCCESS
}

fn man() -> Result<ExitCode, String> {
    let page = cli::man_page(collectors::ALL).map_err(|error| error.to_string())?;
    // The reader may have closed the pipe.
    std::io::stdout().write_all(page.as_bytes()).ok();
    Ok(ExitCode::SUCCESS)
}

fn run(settings: Settings) -> Result<(), String> {
    sources::raise_open_files_limit();
    let (enabled, to_come) = (settings.collectors.len(), settings.to_come);
    let unknown_variables = settings.unknown_variables;
    let runtime = runtime()?;
    let workers = Workers::default();
    let machine = machine(&settings.flags);
    machine.libvirt().check()?;
    let census = Census::new(&settings.flags.census)?;
    let scraper = Scraper::new(Arc::clone(&machine), settings.collectors, workers.clone());
    let scraper = Arc::new(scraper);
    let api = Api::new(
        Arc::clone(&machine),
        Arc::clone(&scraper),
        workers.clone(),
        collectors::ALL,
        census,
    );
    let asks_engines = scraper.collectors().any(|(_, layer)| layer.needs_engines());
    let asks_libvirt = scraper.collectors().any(|(_, layer)| layer.needs_libvirt());
    let samples = scraper.collectors().any(|(name, _)| name == "history");
    runtime.block_on(async {
        let stop = stop_signal()?;
        let hangup = hangup_signal()?;
        let server =
            Server::bind(settings.flags.web, scraper, api, collectors::ALL, workers).await?;
        // After all that only the start needs, and before there is any other thread.
        let own_sockets = server.owned_sockets().map(Path::to_owned).collect();
        let mode = settings.flags.sandbox.sandbox;
        let in_force = give_up(mode, &machine, settings.ptrace_flags, own_sockets)?;
        server.reload_on(hangup);
        // Not before the start is certain: a reason not to start is the only line then.
        started(enabled, &to_come);
        warn_of_variables(&unknown_variables);
        if mode != Mode::None {
            sandboxed(in_force);
        }
        if asks_engines {
            machine.engines().watch();
        }
        if asks_libvirt {
            machine.libvirt().start();
        }
        if samples {
            sampler::start(&machine);
        }
        server.serve(stop).await;
        Ok::<_, String>(())
    })?;
    info!("strata_exporter stops");
    // Not dropped: that would wait for what hangs in the kernel.
    runtime.shutdown_background();
    Ok(())
}

/// Gives up what is not needed any more, and never was.
fn give_up(
    mode: Mode,
    machine: &Arc<HostState>,
    ptrace_flags: Vec<&'static str>,
    own_sockets: Vec<PathBuf>,
) -> Result<&'static ActiveSandbox, String> {
    let machine = Snapshot::new(Arc::clone(machine), Instant::now());
    let (engines, engines_are_named) = machine.engine_sockets();
    let (libvirts, libvirt_is_named) = machine.libvirt_sockets();
    let engines = engines.into_iter().map(|it| (it, engines_are_named));
    let libvirts = libvirts.into_iter().map(|it| (it, libvirt_is_named));
    let needs = Requirements {
        sockets: engines.chain(libvirts).collect(),
        own_sockets,
        ptrace_flags,
        libvirt_library_uri: machine.libvirt_library().map(str::to_owned),
    };
    sandbox::enter(mode, &needs, &machine)
}

fn sandboxed(in_force: &ActiveSandbox) {
    let (landlock, seccomp) = (in_force.landlock_label(), in_force.seccomp_label());
    info!(landlock, seccomp, "sandboxed");
    if let Err(why) = &in_force.landlock {
        warn!(why, "not restricted by Landlock");
    }
    if let Err(why) = &in_force.seccomp {
        warn!(why, "system calls are not filtered");
    }
}

/// Prints what will be collected here and what is wrong.
fn check(settings: Settings, flags: check::Flags) -> Result<ExitCode, String> {
    sources::raise_open_files_limit();
    let runtime = runtime()?;
    let machine = machine(&settings.flags);
    machine.libvirt().check()?;
    let collectors = settings.collectors;
    let scraper = Scraper::new(Arc::clone(&machine), collectors, Workers::default());
    // Read with all rights, as at the start of a server.
    let web_config = settings.flags.web.config_file().map(web_config::check_file);
    // As a server would, which holds for what is found.
    give_up(
        settings.flags.sandbox.sandbox,
        &machine,
        settings.ptrace_flags,
        Vec::new(),
    )?;
    let checked = check::run(machine, &scraper, collectors::ALL, web_config);
    let checked = runtime.block_on(checked);
    // Not dropped: that would wait for what hangs in the kernel.
    runtime.shutdown_background();
    let text = match (flags.json, flags.quiet) {
        (true, only_wrong) => checked.json(only_wrong)?,
        (false, true) => checked.wrong(),
        (false, false) => checked.text(),
    };
    print(&text);
    Ok(if checked.is_well() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

/// Prints the census of this machine.
fn census(settings: Settings, flags: CensusFlags) -> Result<(), String> {
    let runtime = runtime()?;
    let machine = machine(&settings.flags);
    let census = Census::new(&settings.flags.census)?;
    let collectors = settings.collectors;
    let scraper = Scraper::new(Arc::clone(&machine), collectors, Workers::default());
    give_up(
        settings.flags.sandbox.sandbox,
        &machine,
        settings.ptrace_flags,
        Vec::new(),
    )?;
    let report = runtime.block_on(census.report_once(&machine, &scraper));
    // Not dropped: that would wait for what hangs in the kernel.
    runtime.shutdown_background();
    let text = if flags.json {
        report.to_json()?
    } else {
        report.to_table()
    };
    // The reader may have closed the pipe.
    std::io::stdout().write_all(text.as_bytes()).ok();
    Ok(())
}

/// Shows live what an exporter reports, or prints it once where the output is no terminal.
fn top(exporter: ExporterUrl, flags: &top::Flags) -> Result<ExitCode, String> {
    let runtime = runtime()?;
    let client = top::Client::new(exporter, flags.http_config_file.as_deref())?;
    let stop = {
        let _entered = runtime.enter();
        stop_signal()?
    };
    let shown = runtime.block_on(async {
        if std::io::stdout().is_terminal() {
            top::run(client, flags.top_interval, stop).await?;
            return Ok::<_, String>(String::new());
        }
        top::render_once(&client).await
    });
    // Not dropped: that would wait for names that no server resolves.
    runtime.shutdown_background();
    Ok(match shown {
        Ok(text) => {
            // The reader may have closed the pipe.
            std::io::stdout().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(&error);
            ExitCode::from(FAILED)
        }
    })
}

/// One thread serves; what blocks is the workers'.
fn runtime() -> Result<Runtime, String> {
    let mut builder = runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))
}

/// The machine as the flags describe it.
fn machine(flags: &Flags) -> Arc<HostState> {
    let history = flags.history.clone();
    let history = match ResourceBudget::for_this_process().history_bytes {
        Some(bytes) => history.capped_to(bytes),
        None => history,
    };
    Arc::new(HostState::new(
        flags.roots.clone(),
        flags.engines.clone(),
        flags.libvirt.clone(),
        flags.workloads.clone(),
        history,
    ))
}

fn started(collectors: usize, to_come: &[&str]) {
    let version = env!("CARGO_PKG_VERSION");
    info!(version, collectors, "strata_exporter starts");
    let allowance = ResourceBudget::for_this_process();
    if let Some(memory_limit) = allowance.memory_limit.filter(|_| allowance.is_reduced) {
        let ResourceBudget {
            cgroup_files: kept_files,
            history_bytes,
            ..
        } = allowance;
        info!(
            memory_limit,
            kept_files, history_bytes, "keeps less for the memory limit of its control group"
        );
    }
    for collector in to_come {
        warn!(
            collector,
            "this collector of node_exporter's is not built yet"
        );
    }
}

fn warn_of_variables(unknown: &[UnknownVariable]) {
    for UnknownVariable { name, suggestion } in unknown {
        let variable = name.as_str();
        if let Some(suggestion) = suggestion {
            warn!(variable, suggestion, "unknown environment variable");
        } else {
            warn!(variable, "unknown environment variable");
        }
    }
}

/// SIGHUP. From here on neither it nor SIGUSR1 ends the process.
fn hangup_signal() -> Result<Signal, String> {
    // Once there is a handler it stays, even if the stream is dropped.
    drop(handle(SignalKind::user_defined1())?);
    handle(SignalKind::hangup())
}

fn handle(kind: SignalKind) -> Result<Signal, String> {
    signal(kind).map_err(|error| format!("cannot handle signals: {error}"))
}

/// Completes at SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()>, String> {
    let mut terminate = handle(SignalKind::terminate())?;
    let mut interrupt = handle(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
