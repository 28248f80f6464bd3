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
        let mut roads = vec![DbusEndpoint::SystemBus];
        if rustix::process::geteuid().is_root() {
            roads.push(DbusEndpoint::PeerSocket(socket.into()));
        }
        Self::with_endpoints(name, bus_name, roads)
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
        let mut kept = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = kept.take() {
            let (answer, state) = self.run_session(&link, deadline, &run);
            match state {
                DbusState::Healthy => *kept = Some(link),
                DbusState::Broken => {
                    drop(link);
                    return self.reconnect_and_run(&mut kept, deadline, run);
                }
                DbusState::TimedOut => {}
            }
            return answer;
        }
        self.reconnect_and_run(&mut kept, deadline, run)
    }

    fn reconnect_and_run<T>(
        &self,
        kept: &mut Option<DbusConnection>,
        deadline: Instant,
        run: impl Fn(&mut DbusSession<'_>) -> Result<T>,
    ) -> Result<T> {
        let link = self.connect(deadline)?;
        let (answer, state) = self.run_session(&link, deadline, run);
        // On its own socket a daemon sends every signal to each client; systemd's would accumulate
        // in its memory while the connection is idle.
        if matches!(state, DbusState::Healthy) && link.is_bus {
            *kept = Some(link);
        }
        answer
    }

    fn run_session<T>(
        &self,
        link: &DbusConnection,
        deadline: Instant,
        run: impl Fn(&mut DbusSession<'_>) -> Result<T>,
    ) -> (Result<T>, DbusState) {
        let mut with = DbusSession {
            daemon: self,
            connection: link,
            deadline,
            state: DbusState::Healthy,
        };
        let answer = run(&mut with);
        (answer, with.state)
    }

    fn connect(&self, deadline: Instant) -> Result<DbusConnection> {
        let mut first = None;
        for road in &self.endpoints {
            match self.connect_to(road, deadline) {
                Err(error @ Error::TimedOut(_)) => return Err(error),
                Err(error) => {
                    first.get_or_insert(error);
                }
                link => return link,
            }
        }
        Err(first.unwrap_or_else(|| Error::api(self.name, "there is no way to reach it")))
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
        let (connection, on_bus) =
            connected.map_err(|_| Error::TimedOut(self.name.to_owned()))??;
        Ok(DbusConnection {
            connection,
            is_bus: on_bus,
            runtime,
        })
    }

    /// Opens the connection and returns whether it leads to a bus.
    async fn open(&self, endpoint: &DbusEndpoint) -> Result<(Connection, bool)> {
        let (builder, on_bus) = match endpoint {
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
        Ok((connection, on_bus))
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
            .unwrap_or_else(|| Err(Error::api(self.daemon.name, "there was no answer")))
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
            let answers = self.send_batch(calls)?;
            replies.extend(calls.iter().zip(answers).map(|(call, answer)| {
                let answer = answer.ok_or_else(|| Error::api(self.name(), "no answer"))?;
                self.reply(call, &answer)
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
        let answers = runtime.block_on(async {
            tokio::time::timeout_at(self.deadline.into(), request_all(connection, &messages)).await
        });
        match answers {
            Ok(Ok(answers)) => Ok(answers),
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

    fn reply(&self, call: &MethodCall<'_>, answer: &Message) -> Result<Reply> {
        if answer.message_type() != Type::Error {
            return Ok(Reply {
                daemon: self.daemon.name,
                body: answer.body(),
            });
        }
        let header = answer.header();
        let name = header.error_name().map_or("an error", |name| name.as_str());
        if NOT_FOUND_ERRORS.contains(&name) {
            return Err(Error::NotFound(call.path.into()));
        }
        if NO_OWNER_ERRORS.contains(&name) {
            return Err(Error::NotFound(self.daemon.bus_name.into()));
        }
        let body = answer.body();
        let why = body.deserialize::<&str>().unwrap_or_default();
        Err(Error::api(
            self.daemon.name,
            format_args!("{name}: {why} ({} of {})", call.method, call.path),
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

    let mut answers = vec![None; messages.len()];
    let mut missing = messages.len();
    while missing > 0 {
        let next = poll_fn(|context| Pin::new(&mut incoming).poll_next(context)).await;
        let message = next.ok_or_else(|| zbus::Error::from(io::Error::from(CLOSED)))??;
        if !matches!(message.message_type(), Type::MethodReturn | Type::Error) {
            continue;
        }
        let serial = message.header().reply_serial();
        let question = messages
            .iter()
            .position(|question| Some(question.primary_header().serial_num()) == serial);
        let answer = question.and_then(|at| answers.get_mut(at));
        if let Some(answer @ None) = answer {
            *answer = Some(message);
            missing -= 1;
        }
    }
    Ok(answers)
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
        let read = self.body.deserialize();
        read.map_err(|error| Error::api(self.daemon, error))
    }

    /// Returns the value of a string property.
    pub fn text(&self) -> Result<String> {
        match self.read()? {
            Variant::Str(text) => Ok(text.as_str().to_owned()),
            other => Err(self.type_mismatch("a text", &other)),
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
            Variant::Bool(truth) => Ok(truth),
            other => Err(self.type_mismatch("true or false", &other)),
        }
    }

    fn type_mismatch(&self, expected: &str, found: &Variant<'_>) -> Error {
        Error::api(self.daemon, format_args!("not {expected}: {found:?}"))
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
        /// `answer` may return no reply.
        pub(crate) fn start(
            name: &str,
            answer: impl Fn(&Message) -> Option<Message> + Send + Sync + 'static,
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
                        () = serve(listener, Arc::new(answer), count) => {}
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
            assert!(std::thread::panicking() || stopped.is_some_and(|it| it.is_ok()));
        }
    }

    /// Returns the object, interface and method of a call.
    pub(crate) fn called_method(question: &Message) -> (String, String, String) {
        let header = question.header();
        (
            header.path().unwrap().to_string(),
            header.interface().unwrap().to_string(),
            header.member().unwrap().to_string(),
        )
    }

    async fn serve(listener: UnixListener, answer: Responder, accepted: Arc<AtomicUsize>) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            accepted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve_connection(
                stream.into_std().unwrap(),
                Arc::clone(&answer),
            ));
        }
    }

    async fn serve_connection(stream: std::os::unix::net::UnixStream, answer: Responder) {
        let builder = connection::Builder::unix_stream(stream)
            .server(Guid::generate())
            .p2p();
        let Ok(connection) = builder.build().await else {
            return;
        };
        // No other task on this thread has run since.
        let mut incoming = MessageStream::from(&connection);
        let mut next = async || poll_fn(|cx| Pin::new(&mut incoming).poll_next(cx)).await;
        while let Some(Ok(question)) = next().await {
            let reply = match called_method(&question).2.as_str() {
                "Hello" => {
                    let reply = Message::method_return(&question.header());
                    Some(reply.build(&":1.7").unwrap())
                }
                _ => answer(&question),
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

    const WHO: MethodCall<'_> = MethodCall {
        path: "/a",
        interface: "a.b",
        method: "Who",
        property: None,
    };

    fn far_deadline() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn call_who(daemon: &Daemon, deadline: Instant) -> Result<String> {
        daemon.with_session(deadline, |talk| {
            Ok(talk.call(WHO)?.read::<&str>()?.to_owned())
        })
    }

    fn echo(question: &Message) -> Option<Message> {
        let reply = Message::method_return(&question.header());
        reply.build(&called_method(question).0).ok()
    }

    #[test]
    fn connection_is_reused_and_reopened_after_bus_restart() {
        let bus = FakeBus::start("restart", echo);
        let daemon = bus.daemon("test", "a.b");
        assert_eq!(call_who(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(call_who(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(bus.accepted(), 1);
        drop(bus);
        assert!(matches!(
            call_who(&daemon, far_deadline()),
            Err(Error::NotFound(_))
        ));
        let bus = FakeBus::start("restart", echo);
        assert_eq!(call_who(&daemon, far_deadline()).unwrap(), "/a");
        drop(bus);
        let bus = FakeBus::start("restart", echo);
        assert_eq!(call_who(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(bus.accepted(), 1);
    }

    #[test]
    fn own_socket_gets_a_new_connection_each_time() {
        let bus = FakeBus::start("own", echo);
        let daemon = Daemon::on_socket("test", bus.socket());
        assert_eq!(call_who(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(call_who(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(bus.accepted(), 2);
    }

    #[test]
    fn replies_are_matched_to_their_calls() {
        let bus = FakeBus::start("many", echo);
        let daemon = bus.daemon("test", "a.b");
        let paths: Vec<_> = (0..=5 * MAX_IN_FLIGHT).map(|n| format!("/n{n}")).collect();
        let answers = daemon.with_session(far_deadline(), |talk| {
            talk.call_all(paths.iter().map(|path| MethodCall { path, ..WHO }))
        });
        let answers = answers.unwrap().into_iter();
        let answers: Vec<String> = answers.map(|it| it.unwrap().read().unwrap()).collect();
        assert_eq!(answers, paths);
    }

    #[test]
    fn late_reply_is_not_used_for_the_next_call() {
        let bus = FakeBus::start("late", |question| {
            let (path, ..) = called_method(question);
            (path != "/silent").then(|| echo(question))?
        });
        let daemon = bus.daemon("test", "a.b");
        let deadline = Instant::now() + Duration::from_millis(200);
        let path = "/silent";
        let late = daemon.with_session(deadline, |talk| talk.call(MethodCall { path, ..WHO }));
        assert!(matches!(late, Err(Error::TimedOut(_))));
        assert!(deadline.elapsed() < Duration::from_secs(5));
        assert_eq!(call_who(&daemon, far_deadline()).unwrap(), "/a");
        assert_eq!(bus.accepted(), 2);
    }

    #[test]
    fn missing_bus_name_is_absent() {
        let bus = FakeBus::start("nobody", |question| {
            let name = "org.freedesktop.DBus.Error.NameHasNoOwner";
            let error = Message::error(&question.header(), name);
            error.build(&"nobody of that name").ok()
        });
        let absent = call_who(&bus.daemon("test", "a.b"), far_deadline()).unwrap_err();
        assert_eq!(absent.to_string(), "a.b does not exist");
    }
}
