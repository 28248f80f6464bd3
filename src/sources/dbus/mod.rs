//! D-Bus client for daemons on the system bus or on their own socket. The protocol is described in
//! the D-Bus specification.
//!
//! Collectors are synchronous, so the asynchronous client has its own runtime, which the calling
//! thread drives during a call: between two scrapes the connection stays open and no task runs.
//!
//! Calls never start a daemon: the bus is sent the flag that disables activation.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod peer_socket;

use std::{
    future::poll_fn,
    io,
    path::PathBuf,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use futures_core::Stream;
use tokio::runtime::{self, Runtime};
use zbus::{
    Connection, Message, MessageStream, Variant,
    address::{Transport, transport::UnixSocket},
    connection,
    message::{Body, Flags, Type},
    wire::DynamicDeserialize,
};

use self::peer_socket::PeerSocket;
use crate::error::{Error, Result};

/// Maximum number of calls in flight. A bus may reject more than 128 pending replies, which was
/// its default for a long time.
const MAX_IN_FLIGHT: usize = 64;

/// Errors of a daemon for an unknown object, interface, method or property: it disappeared after
/// it was listed, or the daemon is too old to have it.
const NOT_FOUND_ERRORS: &[&str] = &[
    "org.freedesktop.DBus.Error.UnknownObject",
    "org.freedesktop.DBus.Error.UnknownInterface",
    "org.freedesktop.DBus.Error.UnknownProperty",
    "org.freedesktop.DBus.Error.UnknownMethod",
    "org.freedesktop.systemd1.NoSuchUnit",
    "org.freedesktop.login1.NoSuchSession",
];
/// Errors of the bus when the daemon is not running.
const NO_OWNER_ERRORS: &[&str] = &[
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
];

/// How to reach a daemon.
#[derive(Debug, Clone)]
enum DbusEndpoint {
    /// The system bus, at `DBUS_SYSTEM_BUS_ADDRESS` or its default address.
    SystemBus,
    /// A bus at an address.
    #[cfg(test)]
    Bus(String),
    /// The daemon's own socket, without a bus.
    PeerSocket(PathBuf),
}

/// A daemon and the connection to it.
#[derive(Debug)]
pub struct Daemon {
    /// Name in error messages: `systemd`.
    name: &'static str,
    /// Well-known name on the bus.
    bus_name: &'static str,
    /// In order of preference; the first that exists is used.
    endpoints: Vec<DbusEndpoint>,
    connection: Mutex<Option<DbusConnection>>,
}

impl Daemon {
    /// Creates a client for a daemon on the system bus.
    #[must_use]
    pub fn on_system_bus(name: &'static str, bus_name: &'static str) -> Self {
        Self::with_endpoints(name, bus_name, vec![DbusEndpoint::SystemBus])
    }

    /// Creates a client for a daemon on the system bus that falls back to the daemon's own socket,
    /// which requires root, where there is no bus.
    #[must_use]
    pub fn on_system_bus_or_socket(
        name: &'static str,
        bus_name: &'static str,
        socket: impl Into<PathBuf>,
    ) -> Self {
        let mut endpoints = vec![DbusEndpoint::SystemBus];
        if rustix::process::geteuid().is_root() {
            endpoints.push(DbusEndpoint::PeerSocket(socket.into()));
        }
        Self::with_endpoints(name, bus_name, endpoints)
    }

    /// Creates a client for a daemon on its own socket.
    #[must_use]
    pub fn on_socket(name: &'static str, socket: impl Into<PathBuf>) -> Self {
        Self::with_endpoints(name, "", vec![DbusEndpoint::PeerSocket(socket.into())])
    }

    fn with_endpoints(
        name: &'static str,
        bus_name: &'static str,
        endpoints: Vec<DbusEndpoint>,
    ) -> Self {
        Self {
            name,
            bus_name,
            endpoints,
            connection: Mutex::default(),
        }
    }

    /// Runs a session with the daemon until `deadline`, on the open connection or a new one.
    ///
    /// If the open connection is broken because the daemon or the bus was restarted, the session
    /// is run once more on a new connection.
    pub fn with_session<T>(
        &self,
        deadline: Instant,
        run: impl Fn(&mut DbusSession<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut cached = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = cached.take() {
            let (result, state) = self.run_session(&connection, deadline, &run);
            match state {
                DbusState::Healthy => *cached = Some(connection),
                DbusState::Broken => {
                    drop(connection);
                    return self.reconnect_and_run(&mut cached, deadline, run);
                }
                DbusState::TimedOut => {}
            }
            return result;
        }
        self.reconnect_and_run(&mut cached, deadline, run)
    }

    fn reconnect_and_run<T>(
        &self,
        cached: &mut Option<DbusConnection>,
        deadline: Instant,
        run: impl Fn(&mut DbusSession<'_>) -> Result<T>,
    ) -> Result<T> {
        let connection = self.connect(deadline)?;
        let (result, state) = self.run_session(&connection, deadline, run);
        // On its own socket a daemon sends every signal to each client; systemd's would accumulate
        // in its memory while the connection is idle.
        if matches!(state, DbusState::Healthy) && connection.is_bus {
            *cached = Some(connection);
        }
        result
    }

    fn run_session<T>(
        &self,
        connection: &DbusConnection,
        deadline: Instant,
        run: impl Fn(&mut DbusSession<'_>) -> Result<T>,
    ) -> (Result<T>, DbusState) {
        let mut session = DbusSession {
            daemon: self,
            connection,
            deadline,
            state: DbusState::Healthy,
        };
        let result = run(&mut session);
        (result, session.state)
    }

    fn connect(&self, deadline: Instant) -> Result<DbusConnection> {
        let mut first_error = None;
        for endpoint in &self.endpoints {
            match self.connect_to(endpoint, deadline) {
                Err(error @ Error::TimedOut(_)) => return Err(error),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
                connection => return connection,
            }
        }
        Err(first_error.unwrap_or_else(|| Error::api(self.name, "no endpoint configured")))
    }

    fn connect_to(&self, endpoint: &DbusEndpoint, deadline: Instant) -> Result<DbusConnection> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Error::api(self.name, error))?;
        let connected = runtime.block_on(async {
            tokio::time::timeout_at(deadline.into(), self.open(endpoint)).await
        });
        let (connection, is_bus) =
            connected.map_err(|_| Error::TimedOut(self.name.to_owned()))??;
        Ok(DbusConnection {
            connection,
            is_bus,
            runtime,
        })
    }

    /// Opens the connection and returns whether it leads to a bus.
    async fn open(&self, endpoint: &DbusEndpoint) -> Result<(Connection, bool)> {
        let (builder, is_bus) = match endpoint {
            DbusEndpoint::SystemBus => (connection::Builder::system(), true),
            #[cfg(test)]
            DbusEndpoint::Bus(address) => (connection::Builder::address(address.as_str()), true),
            DbusEndpoint::PeerSocket(path) => {
                let socket = PeerSocket::connect(path).await;
                let (socket, guid) = socket.map_err(|error| Error::io(path, error))?;
                let builder = connection::Builder::authenticated_socket(socket, guid);
                (builder.p2p(), false)
            }
        };
        let connection = builder.build().await;
        let connection = connection.map_err(|error| self.connect_error(error))?;
        Ok((connection, is_bus))
    }

    fn connect_error(&self, error: zbus::Error) -> Error {
        match error {
            zbus::Error::Connection(source, address) => {
                let path = match address.transport() {
                    Transport::Unix(unix) => match unix.path() {
                        UnixSocket::File(path) => path.as_os_str().into(),
                        _ => PathBuf::from(address.to_string()),
                    },
                    _ => PathBuf::from(address.to_string()),
                };
                let source = source
                    .raw_os_error()
                    .map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
                Error::io(path, source)
            }
            error => Error::api(self.name, error),
        }
    }
}

/// An open connection. The order of the fields is the order in which they are dropped.
#[derive(Debug)]
struct DbusConnection {
    connection: Connection,
    is_bus: bool,
    runtime: Runtime,
}

/// State of a connection after a session.
#[derive(Debug, Clone, Copy)]
enum DbusState {
    Healthy,
    /// The peer closed it or sent data that cannot be parsed.
    Broken,
    /// A reply did not arrive in time; it may still arrive.
    TimedOut,
}

/// A method call.
#[derive(Debug, Clone, Copy)]
pub struct MethodCall<'a> {
    path: &'a str,
    interface: &'a str,
    method: &'a str,
    /// Interface and name of the property to read.
    property: Option<(&'a str, &'a str)>,
}

impl<'a> MethodCall<'a> {
    /// A call of a method without arguments.
    #[must_use]
    pub fn method(path: &'a str, interface: &'a str, method: &'a str) -> Self {
        Self {
            path,
            interface,
            method,
            property: None,
        }
    }

    /// A call that reads a property.
    #[must_use]
    pub fn property(path: &'a str, interface: &'a str, property: &'a str) -> Self {
        Self {
            path,
            interface: "org.freedesktop.DBus.Properties",
            method: "Get",
            property: Some((interface, property)),
        }
    }

    fn message(&self, destination: Option<&str>) -> zbus::Result<Message> {
        let mut call = Message::method_call(self.path, self.method)
            .interface(self.interface)
            .with_flags(Flags::NO_AUTO_START);
        if let Some(destination) = destination {
            call = call.destination(destination);
        }
        match &self.property {
            Some(property) => call.build(property),
            None => call.build(&()),
        }
    }
}

/// A session with a daemon, limited by a deadline.
#[derive(Debug)]
pub struct DbusSession<'a> {
    daemon: &'a Daemon,
    connection: &'a DbusConnection,
    deadline: Instant,
    state: DbusState,
}

impl DbusSession<'_> {
    /// Sends one call and waits for its reply.
    pub fn call(&mut self, call: MethodCall<'_>) -> Result<Reply> {
        let mut replies = self.call_all([call])?;
        replies
            .pop()
            .unwrap_or_else(|| Err(Error::api(self.daemon.name, "no reply")))
    }

    /// Sends many calls without waiting for one reply before sending the next call. The results
    /// are in the order of the calls, one each.
    pub fn call_all<'c>(
        &mut self,
        calls: impl IntoIterator<Item = MethodCall<'c>>,
    ) -> Result<Vec<Result<Reply>>> {
        let calls: Vec<MethodCall<'_>> = calls.into_iter().collect();
        let mut replies = Vec::with_capacity(calls.len());
        for calls in calls.chunks(MAX_IN_FLIGHT) {
            let messages = self.send_batch(calls)?;
            replies.extend(calls.iter().zip(messages).map(|(call, message)| {
                let message = message.ok_or_else(|| Error::api(self.name(), "no reply"))?;
                self.reply(call, &message)
            }));
        }
        Ok(replies)
    }

    fn name(&self) -> &'static str {
        self.daemon.name
    }

    fn send_batch(&mut self, calls: &[MethodCall<'_>]) -> Result<Vec<Option<Message>>> {
        let destination = self.connection.is_bus.then_some(self.daemon.bus_name);
        let messages = calls
            .iter()
            .map(|call| call.message(destination))
            .collect::<zbus::Result<Vec<_>>>()
            .map_err(|error| Error::api(self.daemon.name, error))?;
        let DbusConnection {
            connection,
            runtime,
            ..
        } = self.connection;
        let result = runtime.block_on(async {
            tokio::time::timeout_at(self.deadline.into(), request_all(connection, &messages)).await
        });
        match result {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => {
                self.state = DbusState::Broken;
                Err(Error::api(self.daemon.name, error))
            }
            Err(_) => {
                self.state = DbusState::TimedOut;
                Err(Error::TimedOut(self.daemon.name.to_owned()))
            }
        }
    }

    fn reply(&self, call: &MethodCall<'_>, message: &Message) -> Result<Reply> {
        if message.message_type() != Type::Error {
            return Ok(Reply {
                daemon: self.daemon.name,
                body: message.body(),
            });
        }
        let header = message.header();
        let name = header
            .error_name()
            .map_or("unnamed error", |name| name.as_str());
        if NOT_FOUND_ERRORS.contains(&name) {
            return Err(Error::NotFound(call.path.into()));
        }
        if NO_OWNER_ERRORS.contains(&name) {
            return Err(Error::NotFound(self.daemon.bus_name.into()));
        }
        let body = message.body();
        let text = body.deserialize::<&str>().unwrap_or_default();
        Err(Error::api(
            self.daemon.name,
            format_args!("{name}: {text} ({} of {})", call.method, call.path),
        ))
    }
}

/// Sends the messages and waits for a reply to each.
async fn request_all(
    connection: &Connection,
    messages: &[Message],
) -> zbus::Result<Vec<Option<Message>>> {
    // Subscribe before sending, so that no reply is missed.
    let mut incoming = MessageStream::from(connection);
    connection.send_all(messages).await?;

    let mut replies = vec![None; messages.len()];
    let mut missing = messages.len();
    while missing > 0 {
        let next = poll_fn(|context| Pin::new(&mut incoming).poll_next(context)).await;
        let message = next.ok_or_else(|| zbus::Error::from(io::Error::from(CLOSED)))??;
        if !matches!(message.message_type(), Type::MethodReturn | Type::Error) {
            continue;
        }
        let serial = message.header().reply_serial();
        let call = messages
            .iter()
            .position(|call| Some(call.primary_header().serial_num()) == serial);
        let reply = call.and_then(|index| replies.get_mut(index));
        if let Some(reply @ None) = reply {
            *reply = Some(message);
            missing -= 1;
        }
    }
    Ok(replies)
}

const CLOSED: io::ErrorKind = io::ErrorKind::ConnectionAborted;

/// A reply to a method call.
#[derive(Debug)]
pub struct Reply {
    daemon: &'static str,
    body: Body,
}

impl Reply {
    /// Deserializes the whole body; `T` has the shape given by the method's documentation.
    pub fn read<'s, T: DynamicDeserialize<'s>>(&'s self) -> Result<T> {
        let value = self.body.deserialize();
        value.map_err(|error| Error::api(self.daemon, error))
    }

    /// Returns the value of a string property.
    pub fn text(&self) -> Result<String> {
        match self.read()? {
            Variant::Str(text) => Ok(text.as_str().to_owned()),
            other => Err(self.type_mismatch("a string", &other)),
        }
    }

    /// Returns the value of an unsigned integer property.
    pub fn number(&self) -> Result<u64> {
        match self.read()? {
            Variant::U32(number) => Ok(number.into()),
            Variant::U64(number) => Ok(number),
            other => Err(self.type_mismatch("a number", &other)),
        }
    }

    /// Returns the value of a boolean property.
    pub fn boolean(&self) -> Result<bool> {
        match self.read()? {
            Variant::Bool(value) => Ok(value),
            other => Err(self.type_mismatch("a boolean", &other)),
        }
    }

    fn type_mismatch(&self, expected: &str, found: &Variant<'_>) -> Error {
        Error::api(
            self.daemon,
            format_args!("expected {expected}, got {found:?}"),
        )
    }
}

/// A bus with one daemon on it, for tests.
#[cfg(test)]
pub(crate) mod fake_bus {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::{net::UnixListener, sync::oneshot};
    use zbus::Guid;

    use super::*;

    type Responder = Arc<dyn Fn(&Message) -> Option<Message> + Send + Sync>;

    /// Listens on a temporary socket until dropped.
    pub(crate) struct FakeBus {
        socket: PathBuf,
        accepted: Arc<AtomicUsize>,
        stop: Option<oneshot::Sender<()>>,
        thread: Option<std::thread::JoinHandle<()>>,
    }

    impl FakeBus {
        /// `respond` may return no reply.
        pub(crate) fn start(
            name: &str,
            respond: impl Fn(&Message) -> Option<Message> + Send + Sync + 'static,
        ) -> Self {
            let file = format!("strata-bus-{name}-{}", std::process::id());
            let socket = std::env::temp_dir().join(file);
            let accepted = Arc::new(AtomicUsize::new(0));
            let (stop, stopped) = oneshot::channel();
            let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            listener.set_nonblocking(true).unwrap();
            let count = Arc::clone(&accepted);
            let thread = std::thread::spawn(move || {
                let mut runtime = runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                runtime.block_on(async move {
                    let listener = UnixListener::from_std(listener).unwrap();
                    tokio::select! {
                        () = serve(listener, Arc::new(respond), count) => {}
                        _ = stopped => {}
                    }
                });
            });
            Self {
                socket,
                accepted,
                stop: Some(stop),
                thread: Some(thread),
            }
        }

        pub(crate) fn daemon(&self, name: &'static str, bus_name: &'static str) -> Daemon {
            let address = format!("unix:path={}", self.socket.display());
            Daemon::with_endpoints(name, bus_name, vec![DbusEndpoint::Bus(address)])
        }

        pub(super) fn socket(&self) -> &std::path::Path {
            &self.socket
        }

        pub(super) fn accepted(&self) -> usize {
            self.accepted.load(Ordering::SeqCst)
        }
    }

    impl Drop for FakeBus {
        fn drop(&mut self) {
            drop(self.stop.take());
            let stopped = self.thread.take().map(std::thread::JoinHandle::join);
            std::fs::remove_file(&self.socket).unwrap();
            assert!(std::thread::panicking() || stopped.is_some_and(|result| result.is_ok()));
        }
    }

    /// Returns the object, interface and method of a call.
    pub(crate) fn called_method(call: &Message) -> (String, String, String) {
        let header = call.header();
        (
            header.path().unwrap().to_string(),
            header.interface().unwrap().to_string(),
            header.member().unwrap().to_string(),
        )
    }

    async fn serve(listener: UnixListener, respond: Responder, accepted: Arc<AtomicUsize>) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve_connection(
                stream.into_std().unwrap(),
                Arc::clone(&respond),
            ));
        }
    }

    async fn serve_connection(stream: std::os::unix::net::UnixStream, respond: Responder) {
        let builder = connection::Builder::unix_stream(stream)
            .server(Guid::generate())
            .p2p();
        let Ok(connection) = builder.build().await else {
            return;
        };
        // No other task on this thread has run since.
        let mut incoming = MessageStream::from(&connection);
        let mut next = async || poll_fn(|cx| Pin::new(&mut incoming).poll_next(cx)).await;
        while let Some(Ok(call)) = next().await {
            let reply = match called_method(&call).2.as_str() {
                "Hello" => {
                    let reply = Message::method_return(&call.header());
                    Some(reply.build(&":1.7").unwrap())
                }
                _ => respond(&call),
            };
            if let Some(reply) = reply
                && connection.send(&reply).await.is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        fake_bus::{FakeBus, called_method},
        *,
    };

    const ECHO: MethodCall<'_> = MethodCall {
        path: "/a",
        interface: "a.b",
        method: "Echo",
        property: None,
    };

    fn far_deadline() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn call_echo(daemon: &Daemon, deadline: Instant) -> Result<String> {
        daemon.with_session(deadline, |session| {
            Ok(session.call(ECHO)?.read::<&str>()?.to_owned())
        })
    }

    fn echo(call: &Message) -> Option<Message> {
        let reply = Message::method_return(&call.header());
        reply.build(&called_method(call).0).ok()
    }

    #[test]
    fn connection_is_reused_and_reopened_after_bus_restart() {
        let bus = FakeBus::start("restart", echo);
        let daemon = bus.daemon("test", "a.b");
        assert_eq!(call_echo(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(call_echo(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(bus.accepted(), 1);
        drop(bus);
        assert!(matches!(
            call_echo(&daemon, far_deadline()),
            Err(Error::NotFound(_))
        ));
        let bus = FakeBus::start("restart", echo);
        assert_eq!(call_echo(&daemon, far_deadline()).unwrap(), "/a");
        drop(bus);
        let bus = FakeBus::start("restart", echo);
        assert_eq!(call_echo(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(bus.accepted(), 1);
    }

    #[test]
    fn own_socket_gets_a_new_connection_each_time() {
        let bus = FakeBus::start("own", echo);
        let daemon = Daemon::on_socket("test", bus.socket());
        assert_eq!(call_echo(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(call_echo(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(bus.accepted(), 2);
    }

    #[test]
    fn replies_are_matched_to_their_calls() {
        let bus = FakeBus::start("many", echo);
        let daemon = bus.daemon("test", "a.b");
        let paths: Vec<_> = (0..=5 * MAX_IN_FLIGHT).map(|n| format!("/n{n}")).collect();
        let replies = daemon.with_session(far_deadline(), |session| {
            session.call_all(paths.iter().map(|path| MethodCall { path, ..ECHO }))
        });
        let replies = replies.unwrap().into_iter();
        let replies: Vec<String> = replies
            .map(|reply| reply.unwrap().read().unwrap())
            .collect();
        assert_eq!(replies, paths);
    }

    #[test]
    fn late_reply_is_not_used_for_the_next_call() {
        let bus = FakeBus::start("late", |call| {
            let (path, ..) = called_method(call);
            (path != "/silent").then(|| echo(call))?
        });
        let daemon = bus.daemon("test", "a.b");
        let deadline = Instant::now() + Duration::from_millis(200);
        let path = "/silent";
        let late = daemon.with_session(deadline, |session| {
            session.call(MethodCall { path, ..ECHO })
        });
        assert!(matches!(late, Err(Error::TimedOut(_))));
        assert!(deadline.elapsed() < Duration::from_secs(5));
        assert_eq!(call_echo(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(bus.accepted(), 2);
    }

    #[test]
    fn missing_bus_name_is_absent() {
        let bus = FakeBus::start("no-owner", |call| {
            let name = "org.freedesktop.DBus.Error.NameHasNoOwner";
            let error = Message::error(&call.header(), name);
            error.build(&"name has no owner").ok()
        });
        let error = call_echo(&bus.daemon("test", "a.b"), far_deadline()).unwrap_err();
        assert_eq!(error.to_string(), "a.b does not exist");
    }
}
