//! Programs that run during a test and are stopped at its end.

use std::{
    env, fs,
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Timeout of waiting for a condition.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Polls until a value is returned; panics after the timeout.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            started.elapsed() < WAIT_TIMEOUT,
            "timed out waiting for {what}"
        );
        thread::sleep(Duration::from_millis(100));
    }
}

/// A temporary directory, removed when dropped.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("strata-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// A program that serves HTTP.
pub struct ServerProcess {
    process: Child,
    pub address: SocketAddr,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts the program and waits until it responds. Its output goes to a file in the directory.
    pub fn start(command: &mut Command, dir: &Path) -> Self {
        Self::start_and_wait_for_path(command, dir, "/")
    }

    /// Starts the program and waits until it responds at this path.
    pub fn start_and_wait_for_path(command: &mut Command, dir: &Path, path: &str) -> Self {
        Self::start_and_wait_for(command, dir, |program| program.get(path, "").is_ok())
    }

    /// Starts the program and waits until this check succeeds.
    pub fn start_and_wait_for(
        command: &mut Command,
        dir: &Path,
        is_ready: impl Fn(&Self) -> bool,
    ) -> Self {
        let address = free_address();
        let name = command.get_program().to_owned();
        let name = Path::new(&name).file_name().unwrap().to_owned();
        let mut log_name = name.clone();
        log_name.push(format!("-{}.log", address.port()));
        let log = dir.join(log_name);
        let out = File::create(&log).unwrap();
        let process = command
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", name.display()));
        let mut program = Self {
            process,
            address,
            log,
        };
        wait_until("a response", || {
            let ended = program.process.try_wait().unwrap();
            assert!(ended.is_none(), "{}: {}", name.display(), program.log());
            is_ready(&program).then_some(())
        });
        program
    }

    /// Starts the program with this content in a file for `--web.config.file` and waits until it
    /// accepts connections. Also returns the path of the file.
    pub fn start_with_web_config(
        command: &mut Command,
        dir: &Path,
        config: &str,
    ) -> (Self, PathBuf) {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let file = dir.join(format!("web-{number}.yml"));
        fs::write(&file, config).unwrap();
        command.arg(format!("--web.config.file={}", file.display()));
        let program = Self::start_and_wait_for(command, dir, |program| {
            TcpStream::connect(program.address).is_ok()
        });
        (program, file)
    }

    /// Starts this exporter.
    pub fn start_exporter(flags: &[String], dir: &Path) -> Self {
        // The status page would query parts that may hang.
        Self::start_and_wait_for_path(exporter_command().args(flags), dir, "/-/healthy")
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Output so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Body of a successful response.
    pub fn get(&self, path: &str, accept: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(WAIT_TIMEOUT))?;
        // In HTTP/1.0 the end of the connection ends the body.
        let host = self.address;
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n"
        )?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).unwrap_or_default();
        // Prometheus redirects "/".
        if !status.starts_with(['2', '3']) {
            return Err(io::Error::other(format!("{path}: {response}")));
        }
        Ok(body.to_owned())
    }

    pub fn metrics_text(&self) -> String {
        self.get("/metrics", "text/plain;version=0.0.4").unwrap()
    }

    pub fn openmetrics_text(&self) -> String {
        self.get("/metrics", "application/openmetrics-text;version=1.0.0")
            .unwrap()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// Command of this exporter.
pub fn exporter_command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_strata_exporter"))
}

/// An address that was free a moment ago.
pub fn free_address() -> SocketAddr {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap()
}

/// Output and exit code of a command with this input.
pub fn run_with_input(command: &mut Command, input: &str) -> (Option<i32>, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that stops reading at an error reports that error itself.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()).ok());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}
