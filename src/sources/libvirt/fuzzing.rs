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
const MAX_DURATION: Duration = Duration::from_secs(8);

/// Parses a stream of messages and returns how many there are.
pub(crate) fn rpc(bytes: &[u8]) -> usize {
    let mut messages = 0;
    let events = DomainEvents::default();
    events.set_subscriptions(|_| true);
    let cache = DefinitionCache::default();
    let mut rest = bytes;
    while let Ok(Some((message, remaining))) = Message::parse(rest) {
        // A truncated message must be reported as incomplete.
        let (first, _) = rest.split_at(rest.len() - remaining.len());
        for length in [1, 4, first.len() / 2, first.len() - 1] {
            let truncated = first.get(..length).unwrap_or_default();
            assert!(
                matches!(Message::parse(truncated), Ok(None)),
                "truncated message"
            );
        }
        if message.kind != MessageType::Other && (first[24..28] == [0; 4] || message.is_error) {
            assert!(message.encode() == first, "encoding differs from input");
        }
        body(message.procedure, message.body, &events, &cache);
        rest = remaining;
        messages += 1 + events.running().len();
    }
    messages
}

/// Parses a body in every possible way; lists are bounded by the length of the input.
fn body(procedure: u32, body: &[u8], events: &DomainEvents, cache: &DefinitionCache) {
    if let Ok(error) = wire::RemoteError::parse(body) {
        // Escaped for a log, where a byte becomes at most three.
        assert!(error.to_string().len() <= 3 * body.len() + 32);
    }
    wire::parse_auth_list(body).ok();
    wire::parse_i32(body).ok();
    wire::parse_u64(body).ok();
    wire::parse_string(body).ok();
    wire::parse_domain_info(body).ok();
    wire::parse_domain_state(body).ok();
    wire::parse_job_info(body).ok();
    wire::parse_pool_info(body).ok();
    if let Ok(domains) = wire::parse_domain_list(body) {
        assert!(24 * domains.len() <= body.len());
        for domain in &domains {
            let encoded = XdrEncoder::default()
                .put_u32(1)
                .put_domain(domain)
                .into_bytes();
            assert!(
                wire::parse_domain_list(&encoded).as_deref() == Ok(std::slice::from_ref(domain))
            );
            cache.insert(domain, Instant::now(), None);
        }
        events.replace_domains(&domains);
        assert!(cache.stale(&domains, Duration::ZERO).len() <= domains.len());
    }
    if let Ok(objects) = wire::parse_object_list(body) {
        assert!(20 * objects.len() <= body.len());
    }
    for record in wire::parse_stats_records(body).unwrap_or_default() {
        assert!(12 * record.params.len() <= body.len());
        let (state, _, domain_stats) = params::parse_stats(record.params);
        params::is_complete(&domain_stats, state);
        let objects =
            domain_stats.disks.len() + domain_stats.interfaces.len() + domain_stats.vcpus.len();
        assert!(objects <= body.len());
    }
    if let Ok(Some(event)) = wire::parse_event(procedure, body) {
        cache.handle_event(&event);
        events.handle_event(&event);
    }
}

/// Parses the XML of a domain and returns its number of devices.
pub(crate) fn domain_xml(bytes: &[u8]) -> usize {
    let text = wire::string_lossy(bytes);
    match xml::parse_domain(&text) {
        Ok(definition) => {
            // Each device is an element of at least five bytes, and no text is longer than the
            // input.
            let devices = definition.disks.len() + definition.interfaces.len();
            assert!(5 * devices <= text.len());
            assert!(
                definition
                    .title
                    .is_none_or(|title| title.len() <= text.len())
            );
            devices
        }
        Err(reason) => {
            assert!(reason.len() <= 4096, "error too long for a log line");
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
    runtime.block_on(exchange(bytes, socket.to_path_buf()))
}

async fn exchange(
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
    let endpoint = Endpoint {
        socket,
        uris: vec!["qemu:///system".to_owned()],
    };
    let timing = Timing {
        connect_timeout: MAX_DURATION,
        stats_retry_delays: [Duration::ZERO; 2],
        ..Timing::default()
    };
    let counters = Arc::new(RpcCounters::default());
    let session = LibvirtSession::connect(endpoint, timing, Arc::default(), counters).await;
    let mut fetched = FetchResult::default();
    let (mut pools, mut networks) = (None, None);
    if let Ok(session) = session {
        let deadline = Instant::now() + MAX_DURATION;
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
        let selection = StatsSelection::new(&groups, true);
        fetched.connection = ConnectionInfo {
            versions: session.versions.clone(),
            ..ConnectionInfo::default()
        };
        if let Ok((domains, error)) = fetch::fetch_domains(
            &session,
            selection,
            super::HostStatsByUuid::default(),
            deadline,
        )
        .await
        {
            fetched.connection.is_up = true;
            fetched.connection.error = error;
            fetched.domains = domains;
        }
        pools = storage::list_pools(&session, deadline).await.ok();
        networks = storage::list_networks(&session, deadline).await.ok();
        assert!(Instant::now() < deadline, "deadline exceeded");
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
    let mut buffer = Vec::new();
    loop {
        let call = match Message::parse(&buffer) {
            Ok(Some((message, rest))) => {
                let call = (message.procedure, message.serial);
                let consumed = buffer.len() - rest.len();
                buffer.drain(..consumed);
                call
            }
            Ok(None) => match stream.read_buf(&mut buffer).await {
                Ok(1..) => continue,
                _ => return,
            },
            Err(_) => return,
        };
        let (procedure, serial) = call;
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
        let fixed_reply = match procedure {
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
        let mut reply = Vec::new();
        let mut is_over = false;
        if let Some(body) = fixed_reply {
            reply = message(MessageType::Reply, procedure, false, &body.into_bytes());
        } else {
            loop {
                let next = script.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((kind, body)) = next else {
                    is_over = true;
                    break;
                };
                match kind % 4 {
                    0 => reply.extend(message(MessageType::Reply, procedure, false, &body)),
                    1 => reply.extend(message(MessageType::Reply, procedure, true, &body)),
                    2 => {
                        let (number, body) = body.split_first_chunk().unwrap_or((&[0; 4], &[]));
                        let number = u32::from_be_bytes(*number);
                        reply.extend(message(MessageType::Event, number, false, body));
                        continue;
                    }
                    _ => {
                        reply.extend(body);
                        is_over = true;
                    }
                }
                break;
            }
        }
        if stream.write_all(&reply).await.is_err() || is_over {
            return;
        }
    }
}
