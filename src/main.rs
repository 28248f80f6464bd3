//! Exposes what the machine, its containers and its virtual machines are doing.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use clap::error::ErrorKind;
use strata_exporter::{
    api::{Api, census::Census},
    check,
    cli::{self, Flags, Settings, Task},
    collectors,
    http::{Server, web_config},
    log, sampler,
    sandbox::{self, InForce, Mode, Needs},
    scrape::{self, Scraper, Workers},
    sources::{self, Allowance, Machine, Snapshot},
    targets, top,
};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
};
use tracing::{info, warn};

/// What a wrong command line, or a machine that cannot be started on, exits with.
const USAGE: u8 = 2;
/// What a check exits with that found something wrong.
const WRONG: u8 = 1;

fn main() -> ExitCode {
    sources::keep_memory_small();
    let line: Vec<_> = std::env::args_os().collect();
    if let Some(asked) = cli::targets(&line) {
        return match asked {
            Ok(asked) => targets(asked),
            Err(error) => not_asked(&error),
        };
    }
    if let Some(asked) = cli::web_config(&line) {
        return match asked {
            Ok(asked) => web_config(&asked),
            Err(error) => not_asked(&error),
        };
    }
    let settings = match cli::parse(collectors::ALL, line) {
        Ok(settings) => settings,
        Err(error) => return not_asked(&error),
    };
    // Those that look at the machine; the others do no more than their user may.
    if matches!(settings.task, Task::Serve | Task::Check | Task::Census) {
        sandbox::no_new_privileges();
    }
    scrape::quiet_caught_panics();
    let done = match settings.task {
        Task::Serve => {
            log::start(settings.flags.log_level, settings.flags.log_format);
            run(settings).map(|()| true)
        }
        // Nothing is logged: what is wrong stands in what it prints.
        Task::Check => check(settings),
        Task::Census => census(settings).map(|()| true),
        Task::Top => top(settings).map(|()| true),
        Task::Targets | Task::WebConfig => Err("has to be the first word".to_owned()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(WRONG),
        Err(error) => {
            eprintln!("{}: {error}", env!("CARGO_PKG_NAME"));
            ExitCode::from(USAGE)
        }
    }
}

/// Where a command line asks for help, or for nothing that can be done.
fn not_asked(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // Whoever reads it may have read enough.
        write!(std::io::stdout(), "{error}").ok();
        return ExitCode::SUCCESS;
    }
    eprintln!("{}", cli::one_line(error));
    ExitCode::from(USAGE)
}

/// Changes or prints who is to be scraped.
fn targets(asked: targets::Asked) -> ExitCode {
    match targets::run(asked) {
        Ok(done) => {
            if let Some(note) = done.note {
                eprintln!("{}: {note}", env!("CARGO_PKG_NAME"));
            }
            // Whoever reads it may have read enough.
            std::io::stdout().write_all(done.text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}: {error}", env!("CARGO_PKG_NAME"));
            ExitCode::from(WRONG)
        }
    }
}

/// Says what is wrong with files for --web.config.file.
fn web_config(asked: &web_config::Asked) -> ExitCode {
    let checked = web_config::run(asked);
    // Whoever reads it may have read enough.
    std::io::stdout().write_all(checked.good.as_bytes()).ok();
    eprint!("{}", checked.wrong);
    if checked.wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(WRONG)
    }
}

fn run(settings: Settings) -> Result<(), String> {
    sources::raise_open_files_limit();
    let (enabled, to_come) = (settings.collectors.len(), settings.to_come);
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
    let asks_engines = scraper.collectors().any(|(_, layer)| layer.asks_engines());
    let asks_libvirt = scraper.collectors().any(|(_, layer)| layer.asks_libvirt());
    let samples = scraper.collectors().any(|(name, _)| name == "history");
    runtime.block_on(async {
        let stop = stop_signal()?;
        let server =
            Server::bind(settings.flags.web, scraper, api, collectors::ALL, workers).await?;
        // After all that only the start needs, and before there is any other thread.
        let own_sockets = server.own_sockets().map(Path::to_owned).collect();
        let mode = settings.flags.sandbox.sandbox;
        let in_force = give_up(mode, &machine, settings.traces, own_sockets)?;
        // Not before it is sure: a reason not to start is the only line then.
        started(enabled, &to_come);
        if mode != Mode::None {
            sandboxed(in_force);
        }
        if asks_engines {
            machine.engines().watch();
        }
        if asks_libvirt {
            machine.libvirt().watch();
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
    machine: &Arc<Machine>,
    traces: Vec<&'static str>,
    own_sockets: Vec<PathBuf>,
) -> Result<&'static InForce, String> {
    let machine = Snapshot::begin(Arc::clone(machine), Instant::now());
    let (engines, engines_are_named) = machine.engine_sockets();
    let (libvirts, libvirt_is_named) = machine.libvirt_sockets();
    let engines = engines.into_iter().map(|it| (it, engines_are_named));
    let libvirts = libvirts.into_iter().map(|it| (it, libvirt_is_named));
    let needs = Needs {
        sockets: engines.chain(libvirts).collect(),
        own_sockets,
        traces,
        library: machine.libvirt_library().map(str::to_owned),
    };
    sandbox::enter(mode, &needs, &machine)
}

fn sandboxed(in_force: &InForce) {
    let (landlock, seccomp) = (in_force.landlock_label(), in_force.seccomp_label());
    info!(landlock, seccomp, "sandboxed");
    if let Err(why) = &in_force.landlock {
        warn!(why, "not restricted by Landlock");
    }
    if let Err(why) = &in_force.seccomp {
        warn!(why, "system calls are not filtered");
    }
}

/// Prints what will be collected here, and says whether all is well.
fn check(settings: Settings) -> Result<bool, String> {
    sources::raise_open_files_limit();
    let runtime = runtime()?;
    let machine = machine(&settings.flags);
    machine.libvirt().check()?;
    let collectors = settings.collectors;
    let scraper = Scraper::new(Arc::clone(&machine), collectors, Workers::default());
    // Read with all rights, as at the start of a server.
    let web_config = settings.flags.web.config_file().map(web_config::look);
    // As a server would, which holds for what is found.
    give_up(
        settings.flags.sandbox.sandbox,
        &machine,
        settings.traces,
        Vec::new(),
    )?;
    let checked = check::run(machine, &scraper, collectors::ALL, web_config);
    let checked = runtime.block_on(checked);
    // Not dropped: that would wait for what hangs in the kernel.
    runtime.shutdown_background();
    // Whoever reads it may have read enough.
    std::io::stdout().write_all(checked.text.as_bytes()).ok();
    Ok(checked.is_well)
}

/// Prints the census of this machine.
fn census(settings: Settings) -> Result<(), String> {
    let runtime = runtime()?;
    let machine = machine(&settings.flags);
    let census = Census::new(&settings.flags.census)?;
    let collectors = settings.collectors;
    let scraper = Scraper::new(Arc::clone(&machine), collectors, Workers::default());
    give_up(
        settings.flags.sandbox.sandbox,
        &machine,
        settings.traces,
        Vec::new(),
    )?;
    let report = runtime.block_on(census.once(&machine, &scraper));
    // Not dropped: that would wait for what hangs in the kernel.
    runtime.shutdown_background();
    let text = if settings.flags.json {
        report.json()?
    } else {
        report.table()
    };
    // Whoever reads it may have read enough.
    std::io::stdout().write_all(text.as_bytes()).ok();
    Ok(())
}

/// Shows what an exporter says, live or, where nobody watches, once.
fn top(settings: Settings) -> Result<(), String> {
    let runtime = runtime()?;
    let http_config = settings.flags.top.http_config_file.as_deref();
    let client = top::Client::new(settings.exporter, http_config)?;
    let text = runtime.block_on(async {
        if std::io::stdout().is_terminal() {
            let interval = settings.flags.top.interval();
            top::live(client, interval, stop_signal()?).await?;
            return Ok::<_, String>(String::new());
        }
        top::once(&client).await
    });
    // Not dropped: that would wait for names that nobody resolves.
    runtime.shutdown_background();
    // Whoever reads it may have read enough.
    std::io::stdout().write_all(text?.as_bytes()).ok();
    Ok(())
}

/// One thread serves; what blocks is the workers'.
fn runtime() -> Result<Runtime, String> {
    let mut builder = runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))
}

/// The machine as the flags describe it.
fn machine(flags: &Flags) -> Arc<Machine> {
    let history = flags.history.clone();
    let history = match Allowance::of_this_process().history_bytes {
        Some(bytes) => history.within(bytes),
        None => history,
    };
    Arc::new(Machine::new(
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
    let allowance = Allowance::of_this_process();
    if let Some(memory_limit) = allowance.memory_limit.filter(|_| allowance.is_reduced) {
        let Allowance {
            kept_files,
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

/// Is over when the process is told to stop.
fn stop_signal() -> Result<impl Future<Output = ()>, String> {
    let on = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
    let (mut terminate, mut interrupt) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
