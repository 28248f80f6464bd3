//! The command line of `strata_exporter`.

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
    cli::{self, CensusFlags, ServerFlags, Settings, Subcommand, UnknownVariable},
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

/// Exit code for an invalid command line or a failed start.
const USAGE: u8 = 2;
/// Exit code of `check` if it found an error, and of any subcommand that failed.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    sources::tune_malloc();
    let subcommand = match cli::parse(collectors::ALL, std::env::args_os()) {
        Ok(subcommand) => subcommand,
        Err(error) => return command_line_error(&error),
    };
    // The other subcommands need no privileges beyond those of their user.
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
        // Without logging: all findings are in the printed report.
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

/// Prints help, the version, or an error of the command line.
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

/// Edits or prints a targets file.
fn targets(flags: targets::TargetsFlags) -> ExitCode {
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
fn web_config(flags: &web_config::WebConfigFlags) -> ExitCode {
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
    let (enabled, planned) = (settings.collectors.len(), settings.planned);
    let unknown_variables = settings.unknown_variables;
    let runtime = runtime()?;
    let workers = Workers::default();
    let host = host_state(&settings.flags);
    host.libvirt().check()?;
    let census = Census::new(&settings.flags.census)?;
    let scraper = Scraper::new(Arc::clone(&host), settings.collectors, workers.clone());
    let scraper = Arc::new(scraper);
    let api = Api::new(
        Arc::clone(&host),
        Arc::clone(&scraper),
        workers.clone(),
        collectors::ALL,
        census,
    );
    let needs_engines = scraper.collectors().any(|(_, layer)| layer.needs_engines());
    let needs_libvirt = scraper.collectors().any(|(_, layer)| layer.needs_libvirt());
    let is_sampling = scraper.collectors().any(|(name, _)| name == "history");
    runtime.block_on(async {
        let stop = stop_signal()?;
        let hangup = hangup_signal()?;
        let server =
            Server::bind(settings.flags.web, scraper, api, collectors::ALL, workers).await?;
        // After everything that only the start requires, and while there is only one thread.
        let own_sockets = server.owned_sockets().map(Path::to_owned).collect();
        let mode = settings.flags.sandbox.sandbox;
        let active = drop_privileges(mode, &host, settings.ptrace_flags, own_sockets)?;
        server.reload_on(hangup);
        // Only once the start can no longer fail: a failed start logs its reason and nothing else.
        log_start(enabled, &planned);
        warn_unknown_variables(&unknown_variables);
        if mode != Mode::None {
            log_sandbox(active);
        }
        if needs_engines {
            host.engines().watch();
        }
        if needs_libvirt {
            host.libvirt().start();
        }
        if is_sampling {
            sampler::start(&host);
        }
        server.serve(stop).await;
        Ok::<_, String>(())
    })?;
    info!("stopping strata_exporter");
    // Not dropped: that would wait for threads blocked in the kernel.
    runtime.shutdown_background();
    Ok(())
}

/// Drops the privileges that are no longer needed, or never were.
fn drop_privileges(
    mode: Mode,
    host: &Arc<HostState>,
    ptrace_flags: Vec<&'static str>,
    own_sockets: Vec<PathBuf>,
) -> Result<&'static ActiveSandbox, String> {
    let snapshot = Snapshot::new(Arc::clone(host), Instant::now());
    let (engines, engines_are_configured) = snapshot.engine_sockets();
    let (libvirt_sockets, libvirt_is_configured) = snapshot.libvirt_sockets();
    let engines = engines.into_iter().map(|it| (it, engines_are_configured));
    let libvirt_sockets = libvirt_sockets
        .into_iter()
        .map(|it| (it, libvirt_is_configured));
    let needs = Requirements {
        sockets: engines.chain(libvirt_sockets).collect(),
        own_sockets,
        ptrace_flags,
        libvirt_library_uri: snapshot.libvirt_library().map(str::to_owned),
    };
    sandbox::enter(mode, &needs, &snapshot)
}

fn log_sandbox(active: &ActiveSandbox) {
    let (landlock, seccomp) = (active.landlock_label(), active.seccomp_label());
    info!(landlock, seccomp, "sandboxed");
    if let Err(error) = &active.landlock {
        warn!(error, "not restricted by Landlock");
    }
    if let Err(error) = &active.seccomp {
        warn!(error, "system calls are not filtered");
    }
}

/// Prints what will be collected on this machine, and the errors found.
fn check(settings: Settings, flags: check::CheckFlags) -> Result<ExitCode, String> {
    sources::raise_open_files_limit();
    let runtime = runtime()?;
    let host = host_state(&settings.flags);
    host.libvirt().check()?;
    let collectors = settings.collectors;
    let scraper = Scraper::new(Arc::clone(&host), collectors, Workers::default());
    // Read with all privileges, as at the start of a server.
    let web_config = settings.flags.web.config_file().map(web_config::check_file);
    // In the same sandbox as a server, so that the findings apply to it.
    drop_privileges(
        settings.flags.sandbox.sandbox,
        &host,
        settings.ptrace_flags,
        Vec::new(),
    )?;
    let checked = check::run(host, &scraper, collectors::ALL, web_config);
    let checked = runtime.block_on(checked);
    // Not dropped: that would wait for threads blocked in the kernel.
    runtime.shutdown_background();
    let text = match (flags.json, flags.quiet) {
        (true, quiet) => checked.json(quiet)?,
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
    let host = host_state(&settings.flags);
    let census = Census::new(&settings.flags.census)?;
    let collectors = settings.collectors;
    let scraper = Scraper::new(Arc::clone(&host), collectors, Workers::default());
    drop_privileges(
        settings.flags.sandbox.sandbox,
        &host,
        settings.ptrace_flags,
        Vec::new(),
    )?;
    let report = runtime.block_on(census.report_once(&host, &scraper));
    // Not dropped: that would wait for threads blocked in the kernel.
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

/// Displays live what an exporter reports, or prints it once if standard output is not a terminal.
fn top(exporter: ExporterUrl, flags: &top::TopFlags) -> Result<ExitCode, String> {
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
    // Not dropped: that would wait for pending DNS lookups.
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

/// Creates the runtime. One thread serves; blocking work runs on the worker threads.
fn runtime() -> Result<Runtime, String> {
    let mut builder = runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build();
    runtime.map_err(|error| format!("cannot start the async runtime: {error}"))
}

/// Creates the host state as configured by the flags.
fn host_state(flags: &ServerFlags) -> Arc<HostState> {
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

fn log_start(collectors: usize, planned: &[&str]) {
    let version = env!("CARGO_PKG_VERSION");
    info!(version, collectors, "starting strata_exporter");
    let budget = ResourceBudget::for_this_process();
    if let Some(memory_limit) = budget.memory_limit.filter(|_| budget.is_reduced) {
        let ResourceBudget {
            cgroup_files,
            history_bytes,
            ..
        } = budget;
        info!(
            memory_limit,
            cgroup_files, history_bytes, "limits reduced to fit the memory limit of the cgroup"
        );
    }
    for collector in planned {
        warn!(collector, "node_exporter collector not implemented yet");
    }
}

fn warn_unknown_variables(unknown: &[UnknownVariable]) {
    for UnknownVariable { name, suggestion } in unknown {
        let variable = name.as_str();
        if let Some(suggestion) = suggestion {
            warn!(variable, suggestion, "unknown environment variable");
        } else {
            warn!(variable, "unknown environment variable");
        }
    }
}

/// Handles SIGHUP. From here on neither SIGHUP nor SIGUSR1 ends the process.
fn hangup_signal() -> Result<Signal, String> {
    // A handler stays installed even if its stream is dropped.
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
