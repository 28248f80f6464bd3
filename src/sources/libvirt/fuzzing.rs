//! Fuzz targets for libvirt's protocol and domain XML: see [`crate::fuzzing`].

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::{
    ConnectionInfo, FetchResult, StoragePool, VirtualNetwork,
    cache::DefinitionCache,
    connection::RpcCounters,
    endpoint::Endpoint,
    event_state::DomainEvents,
    fetch::{self, StatsSelection},
    flags::StatsGroup,
    params,
    reconnect::Timing,
    session::LibvirtSession,
    storage,
    wire::{self, Auth, Message, MessageType, XdrEncoder, procedure},
    xml,
};

/// Limit for one run: the fake daemon replies at once or closes the connection.
const AT_MOST: Duration = Duration::from_secs(8);

/// Parses a stream of messages and returns how many there are.
pub(crate) fn rpc(bytes: &[u8]) -> usize {
    let mut messages = 0;
    let heard = DomainEvents::default();
    heard.set_subscriptions(|_| true);
    let cache = DefinitionCache::default();
    let mut rest = bytes;
    while let Ok(Some((message, behind))) = Message::parse(rest) {
        // A truncated message must be reported as incomplete.
        let (first, _) = rest.split_at(rest.len() - behind.len());
        for cut in [1, 4, first.len() / 2, first.len() - 1] {
            let part = first.get(..cut).unwrap_or_default();
            assert!(
                matches!(Message::parse(part), Ok(None)),
                "truncated message was not reported as incomplete"
            );
        }
        if message.kind != MessageType::Other && (first[24..28] == [0; 4] || message.is_error) {
            assert!(
                message.encode() == first,
                "encoding differs from the parsed message"
            );
        }
        body(message.procedure, message.body, &heard, &cache);
        rest = behind;
        messages += 1 + heard.running().len();
    }
    messages
}

/// Parses a body in every possible way; lists are bounded by the length of the input.
fn body(procedure: u32, body: &[u8], heard: &DomainEvents, cache: &DefinitionCache) {
    if let Ok(refusal) = wire::RemoteError::parse(body) {
        // Escaped for a log, where a byte becomes at most three.
        assert!(refusal.to_string().len() <= 3 * body.len() + 32);
    }
    wire::parse_auth_list(body).ok();
    wire::parse_i32(body).ok();
    wire::parse_u64(body).ok();
    wire::parse_string(body).ok();
    wire::parse_domain_info(body).ok();
    wire::parse_domain_state(body).ok();
    wire::parse_job_info(body).ok();
    wire::parse_pool_info(body).ok();
    if let Ok(guests) = wire::parse_domain_list(body) {
        assert!(24 * guests.len() <= body.len());
        for guest in &guests {
            let again = XdrEncoder::default()
                .put_u32(1)
                .put_domain(guest)
                .into_bytes();
            assert!(wire::parse_domain_list(&again).as_deref() == Ok(std::slice::from_ref(guest)));
            cache.insert(guest, Instant::now(), None);
        }
        heard.replace_domains(&guests);
        assert!(cache.stale(&guests, Duration::ZERO).len() <= guests.len());
    }
    if let Ok(things) = wire::parse_object_list(body) {
        assert!(20 * things.len() <= body.len());
    }
    for record in wire::parse_stats_records(body).unwrap_or_default() {
        assert!(12 * record.params.len() <= body.len());
        let (state, _, used) = params::parse_stats(record.params);
        params::is_complete(&used, state);
        let things = used.disks.len() + used.interfaces.len() + used.vcpus.len();
        assert!(things <= body.len());
    }
    if let Ok(Some(event)) = wire::parse_event(procedure, body) {
        cache.handle_event(&event);
        heard.handle_event(&event);
    }
}

/// Parses the XML of a domain and returns its number of devices.
pub(crate) fn domain_xml(bytes: &[u8]) -> usize {
    let text = wire::string_lossy(bytes);
    match xml::parse_domain(&text) {
        Ok(about) => {
            // Each device is an element of at least five bytes, and no text is longer than the
            // input.
            let devices = about.disks.len() + about.interfaces.len();
            assert!(5 * devices <= text.len());
            assert!(about.title.is_none_or(|title| title.len() <= text.len()));
            devices
        }
        Err(reason) => {
            assert!(reason.len() <= 4096, "the error is too long for a log");
            0
        }
    }
}

/// Runs a session against a scripted daemon; returns domains, pools and networks, or nothing if
/// the session has ended.
pub(crate) fn session(
    bytes: &[u8],
    socket: &Path,
) -> (
    FetchResult,
    Option<Vec<StoragePool>>,
    Option<Vec<VirtualNetwork>>,
) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return (FetchResult::default(), None, None);
    };
    runtime.block_on(talk(bytes, socket.to_path_buf()))
}

async fn talk(
    bytes: &[u8],
    socket: PathBuf,
) -> (
    FetchResult,
    Option<Vec<StoragePool>>,
    Option<Vec<VirtualNetwork>>,
) {
    let Ok(listener) = UnixListener::bind(&socket) else {
        return (FetchResult::default(), None, None);
    };
    let script = Arc::new(Mutex::new(Script(bytes.to_vec(), 0)));
    let daemon = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&script)));
        }
    });
    let place = Endpoint {
        socket,
        uris: vec!["qemu:///system".to_owned()],
    };
    let timing = Timing {
        connect_timeout: AT_MOST,
        stats_retry_delays: [Duration::ZERO; 2],
        ..Timing::default()
    };
    let counts = Arc::new(RpcCounters::default());
    let begun = LibvirtSession::connect(place, timing, Arc::default(), counts).await;
    let mut fetched = FetchResult::default();
    let (mut pools, mut networks) = (None, None);
    if let Ok(session) = begun {
        let by = Instant::now() + AT_MOST;
        let groups = [
            StatsGroup::State,
            StatsGroup::Cpu,
            StatsGroup::Balloon,
            StatsGroup::Vcpu,
            StatsGroup::Interface,
            StatsGroup::Block,
            StatsGroup::Iothread,
            StatsGroup::Dirtyrate,
            StatsGroup::Vm,
        ];
        let wanted = StatsSelection::new(&groups, true);
        fetched.connection = ConnectionInfo {
            versions: session.versions.clone(),
            ..ConnectionInfo::default()
        };
        if let Ok((domains, error)) =
            fetch::fetch_domains(&session, wanted, super::HostStatsByUuid::default(), by).await
        {
            fetched.connection.is_up = true;
            fetched.connection.error = error;
            fetched.domains = domains;
        }
        pools = storage::list_pools(&session, by).await.ok();
        networks = storage::list_networks(&session, by).await.ok();
        assert!(
            Instant::now() < by,
            "the session did not end before its deadline"
        );
    }
    daemon.abort();
    (fetched, pools, networks)
}

/// Scripted replies: each has a byte for its kind and two for its length.
struct Script(Vec<u8>, usize);

impl Script {
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let [kind, high, low] = *self.0.get(self.1..)?.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let rest = self.0.get(self.1 + 3..)?;
        let body = rest.get(..length).unwrap_or(rest);
        self.1 += 3 + body.len();
        Some((kind, body.to_vec()))
    }
}

/// A daemon that accepts every client and sends the scripted replies.
async fn serve(mut stream: UnixStream, script: Arc<Mutex<Script>>) {
    let mut asked = Vec::new();
    loop {
        let question = match Message::parse(&asked) {
            Ok(Some((message, rest))) => {
                let question = (message.procedure, message.serial);
                let done = asked.len() - rest.len();
                asked.drain(..done);
                question
            }
            Ok(None) => match stream.read_buf(&mut asked).await {
                Ok(1..) => continue,
                _ => return,
            },
            Err(_) => return,
        };
        let (of, serial) = question;
        let message = |kind, procedure, is_error, body: &[u8]| {
            let program = wire::REMOTE_PROGRAM;
            Message {
                program,
                procedure,
                kind,
                serial,
                is_error,
                body,
            }
            .encode()
        };
        let usual = match of {
            procedure::REMOTE_PROC_AUTH_LIST => {
                Some(XdrEncoder::default().put_u32(1).put_u32(Auth::None as u32))
            }
            procedure::REMOTE_PROC_CONNECT_OPEN
            | procedure::REMOTE_PROC_CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY => {
                Some(XdrEncoder::default())
            }
            procedure::REMOTE_PROC_CONNECT_GET_TYPE => {
                Some(XdrEncoder::default().put_string(b"QEMU"))
            }
            procedure::REMOTE_PROC_CONNECT_GET_LIB_VERSION
            | procedure::REMOTE_PROC_CONNECT_GET_VERSION => {
                Some(XdrEncoder::default().put_u32(0).put_u32(9_000_000))
            }
            _ => None,
        };
        let mut answer = Vec::new();
        let mut is_over = false;
        if let Some(body) = usual {
            answer = message(MessageType::Reply, of, false, &body.into_bytes());
        } else {
            loop {
                let next = script.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((kind, body)) = next else {
                    is_over = true;
                    break;
                };
                match kind % 4 {
                    0 => answer.extend(message(MessageType::Reply, of, false, &body)),
                    1 => answer.extend(message(MessageType::Reply, of, true, &body)),
                    2 => {
                        let (number, body) = body.split_first_chunk().unwrap_or((&[0; 4], &[]));
                        let number = u32::from_be_bytes(*number);
                        answer.extend(message(MessageType::Event, number, false, body));
                        continue;
                    }
                    _ => {
                        answer.extend(body);
                        is_over = true;
                    }
                }
                break;
            }
        }
        if stream.write_all(&answer).await.is_err() || is_over {
            return;
        }
    }
}
