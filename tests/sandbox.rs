//! Forbidden operations fail in the sandbox and succeed outside; required operations succeed in
//! both.
//!
//! A process cannot leave the sandbox, so this program starts itself once inside and once outside
//! and compares the results. It has its own harness, because threads of another harness would be
//! outside.

#![allow(
    clippy::disallowed_methods,
    reason = "tests read and write files directly"
)]

mod support;

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener, UnixStream},
            process::parent_id,
        },
    },
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::Instant,
};

use rustix::process::{Pid, test_kill_process};
use strata_exporter::{
    cli, collectors,
    sandbox::{self, MAX_LANDLOCK_ABI, Mode, Requirements},
    sources::{HostState, Snapshot},
};
use support::{server_process::TempDir, skip};

/// Directory for the child's attempts; only the child has this variable.
const DIR: &str = "STRATA_TEST_SANDBOX_DIR";
/// The child's sandbox mode.
const MODE: &str = "STRATA_TEST_SANDBOX_MODE";
/// A port that the parent listens on.
const PORT: &str = "STRATA_TEST_SANDBOX_PORT";

/// What rejects an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RejectedBy {
    /// Nothing: the operation is required.
    Nothing,
    /// The seccomp filter and Landlock, or seccomp alone on a kernel without Landlock.
    Seccomp,
    /// Only Landlock.
    Landlock,
}

const OPERATIONS: &[(&str, RejectedBy)] = &[
    ("read a file", RejectedBy::Nothing),
    ("start a thread", RejectedBy::Nothing),
    ("connect to a Unix socket", RejectedBy::Nothing),
    ("accept a connection", RejectedBy::Nothing),
    ("remove the own socket", RejectedBy::Nothing),
    ("start a program", RejectedBy::Seccomp),
    ("create a file", RejectedBy::Seccomp),
    ("write to a file", RejectedBy::Seccomp),
    ("truncate a file", RejectedBy::Seccomp),
    ("append to a file", RejectedBy::Seccomp),
    ("remove a file elsewhere", RejectedBy::Landlock),
    ("rename a file", RejectedBy::Seccomp),
    ("create a directory", RejectedBy::Seccomp),
    ("link to a file", RejectedBy::Seccomp),
    ("change a mode", RejectedBy::Seccomp),
    ("connect over TCP", RejectedBy::Seccomp),
    ("listen over TCP", RejectedBy::Seccomp),
    ("send over UDP", RejectedBy::Seccomp),
    ("listen on a Unix socket", RejectedBy::Seccomp),
    ("connect to an abstract socket", RejectedBy::Landlock),
    ("signal another process", RejectedBy::Seccomp),
    ("raise a limit", RejectedBy::Seccomp),
];

fn main() {
    if let Some(dir) = env::var_os(DIR) {
        return child(Path::new(&dir));
    }
    // nextest lists the tests before it runs one.
    if env::args().any(|arg| arg == "--list") {
        return;
    }
    println!("forbidden_operations_fail_only_in_sandbox");
    forbidden_operations_fail_only_in_sandbox();
    println!("unavailable_strict_sandbox_is_an_error");
    unavailable_strict_sandbox_is_an_error();
}

fn forbidden_operations_fail_only_in_sandbox() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let outside = run_child(Mode::None, &port);
    let inside = run_child(Mode::Auto, &port);
    assert_eq!(outside.len(), OPERATIONS.len() + 1, "{outside:#?}");
    let landlocked = inside["sandbox"].contains(&format!("abi {MAX_LANDLOCK_ABI}"));
    if !landlocked {
        skip("a kernel with Landlock ABI 6");
    }
    for (what, rejected_by) in OPERATIONS {
        assert_eq!(outside[*what], "ok", "outside: {what}");
        let is_rejected = match rejected_by {
            RejectedBy::Nothing => false,
            RejectedBy::Seccomp => true,
            RejectedBy::Landlock => landlocked,
        };
        let result = &inside[*what];
        if is_rejected {
            let denied = result.contains("os error 1)") || result.contains("os error 13)");
            assert!(denied, "inside: {what}: {result}");
        } else {
            assert_eq!(result, "ok", "inside: {what}");
        }
    }
}

fn unavailable_strict_sandbox_is_an_error() {
    let needs = Requirements {
        libvirt_library_uri: Some("xen+ssh://elsewhere/".to_owned()),
        ..Requirements::default()
    };
    let error = sandbox::enter(Mode::Strict, &needs, &machine()).unwrap_err();
    assert!(
        error.starts_with("--sandbox=strict: no Landlock: "),
        "{error}"
    );
    assert!(sandbox::active().is_none());
}

/// Results of a child in this mode.
fn run_child(mode: Mode, port: &TcpListener) -> BTreeMap<String, String> {
    let dir = TempDir::new("sandbox");
    let abstract_socket = SocketAddr::from_abstract_name(abstract_name()).unwrap();
    let _listening = UnixListener::bind_addr(&abstract_socket).unwrap();
    let _reached = UnixListener::bind(dir.0.join("reached")).unwrap();
    fs::create_dir(dir.0.join("elsewhere")).unwrap();
    for name in ["read", "written", "renamed", "elsewhere/removed"] {
        fs::write(dir.0.join(name), "text").unwrap();
    }
    let output = Command::new(env::current_exe().unwrap())
        .env(DIR, &dir.0)
        .env(MODE, format!("{mode:?}"))
        .env(PORT, port.local_addr().unwrap().port().to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(what, result)| (what.to_owned(), result.to_owned()))
        .collect()
}

/// Name of the parent's abstract socket, in the parent and in the child.
fn abstract_name() -> String {
    let is_child = env::var_os(DIR).is_some();
    let parent = if is_child {
        parent_id()
    } else {
        std::process::id()
    };
    format!("strata-sandbox-{parent}")
}

fn machine() -> Snapshot {
    let settings = cli::parse_server(collectors::ALL, ["strata_exporter"]).unwrap();
    let flags = settings.flags;
    let machine = HostState::new(
        flags.roots,
        flags.engines,
        flags.libvirt,
        flags.workloads,
        flags.history,
    );
    Snapshot::new(Arc::new(machine), Instant::now())
}

/// Enters the sandbox, attempts every operation and prints the results.
fn child(dir: &Path) {
    let mode = match env::var(MODE).unwrap().as_str() {
        "None" => Mode::None,
        _ => Mode::Auto,
    };
    let own_dir = dir.join("own");
    fs::create_dir(&own_dir).unwrap();
    let own = own_dir.join("socket");
    let own_socket = UnixListener::bind(&own).unwrap();
    let client = UnixStream::connect(&own).unwrap();
    let needs = Requirements {
        own_sockets: vec![own.clone()],
        ..Requirements::default()
    };
    sandbox::set_no_new_privs();
    let active = sandbox::enter(mode, &needs, &machine()).unwrap();
    println!(
        "sandbox: {}, {}",
        active.landlock_label(),
        active.seccomp_label()
    );
    let port = format!("127.0.0.1:{}", env::var(PORT).unwrap());
    let file = |name: &str| dir.join(name);
    let open = |options: &mut fs::OpenOptions| options.open(file("written")).map(drop);
    let into_io = |done: rustix::io::Result<()>| done.map_err(io::Error::from);
    for (what, _) in OPERATIONS {
        let done: io::Result<()> = match *what {
            "read a file" => fs::read(file("read")).map(drop),
            "start a thread" => thread::Builder::new().spawn(|| ()).map(drop),
            "connect to a Unix socket" => UnixStream::connect(file("reached")).map(drop),
            "accept a connection" => own_socket.accept().map(drop),
            "remove the own socket" => fs::remove_file(&own),
            "start a program" => Command::new("true").status().map(drop),
            "create a file" => fs::File::create(file("created")).map(drop),
            "write to a file" => open(fs::OpenOptions::new().write(true)),
            "truncate a file" => open(fs::OpenOptions::new().write(true).truncate(true)),
            "append to a file" => open(fs::OpenOptions::new().append(true)),
            "remove a file elsewhere" => fs::remove_file(file("elsewhere/removed")),
            "rename a file" => fs::rename(file("renamed"), file("renamed-to")),
            "create a directory" => fs::create_dir(file("directory")),
            "link to a file" => std::os::unix::fs::symlink("read", file("link")),
            "change a mode" => fs::set_permissions(file("read"), fs::Permissions::from_mode(0o600)),
            "connect over TCP" => TcpStream::connect(&port).map(drop),
            "listen over TCP" => TcpListener::bind("127.0.0.1:0").map(drop),
            "send over UDP" => UdpSocket::bind("127.0.0.1:0").map(drop),
            "listen on a Unix socket" => UnixListener::bind(file("created-socket")).map(drop),
            "connect to an abstract socket" => SocketAddr::from_abstract_name(abstract_name())
                .and_then(|address| UnixStream::connect_addr(&address))
                .map(drop),
            "signal another process" => {
                let parent = i32::try_from(parent_id()).unwrap();
                into_io(test_kill_process(Pid::from_raw(parent).unwrap()))
            }
            "raise a limit" => into_io(raise()),
            other => panic!("unknown operation: {other}"),
        };
        match done {
            Ok(()) => println!("{what}: ok"),
            Err(error) => println!("{what}: {error}"),
        }
    }
    drop(client);
}

fn raise() -> rustix::io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    setrlimit(Resource::Core, getrlimit(Resource::Core))
}
