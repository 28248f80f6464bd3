//! Fuzz targets for engine responses: see [`crate::fuzzing`].

use std::{
    fmt::Debug,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bollard::models::{EventMessage, SystemVersion};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::{
    Container, Engine, EngineDiskUsage,
    api_types::{
        self, EngineEvent, EngineVersion, InspectedContainer, LabelFilter, ListedContainer,
    },
    cache::ContainerCache,
    connection::EngineClient,
    rfc3339,
};

/// Maximum length of stored names, images and labels.
const MAX_TEXT: usize = 1024;
/// Limit for one run: the fake engine sends its response at once and closes.
const MAX_DURATION: Duration = Duration::from_secs(8);
/// Maximum number of bytes that are read.
const MAX_EVENTS_LEN: usize = 4 << 20;

/// Result of all invalid responses.
const NO_RESPONSE: &str = "no response";

/// Suffix of events after which the stream broke because of the input.
const BROKEN: &str = "broken";

fn label_filter() -> LabelFilter {
    LabelFilter {
        labels: ["com.docker.compose.service".to_owned(), "a".to_owned()].into(),
        images: "[a-m]".parse().unwrap_or_default(),
    }
}

/// Parses each line as every type of response, in any order. Returns the number of containers in
/// the end.
pub(crate) fn json(bytes: &[u8]) -> usize {
    let (label_filter, mut cache) = (label_filter(), ContainerCache::default());
    let mut engine = Engine::new("engine".into());
    for response in bytes.split(|byte| *byte == b'\n') {
        let length = response.len();
        if let Ok(list) = ListedContainer::parse_list(response, &label_filter) {
            assert!(list.len() <= length);
            assert!(cache.apply_list(&mut engine, list).len() <= length);
        }
        if let Ok(Some(inspected)) = InspectedContainer::parse(response, &label_filter) {
            assert!(inspected.container.memory_limit != Some(0));
            assert!(inspected.container.pid != Some(0));
            cache.apply_inspect(&mut engine, inspected);
        }
        if let Ok(images) = api_types::parse_images(response, 100, &label_filter) {
            assert!(images.len() <= length.min(100));
            for image in images {
                assert!(image.tags.iter().all(|tag| tag.len() <= MAX_TEXT));
            }
        }
        EngineDiskUsage::parse(response, Instant::now()).ok();
        api_types::parse_cgroup_driver(response).ok();
        if let Ok(version) = serde_json::from_slice::<SystemVersion>(response) {
            let version = EngineVersion::from_response(version);
            // The version becomes part of a path.
            let is_number = |c: char| c.is_ascii_digit() || c == '.';
            assert!(
                version
                    .api_version
                    .is_none_or(|api| api.chars().all(is_number))
            );
        }
        if let Ok(event) = serde_json::from_slice::<EventMessage>(response) {
            cache.apply_event(&mut engine, EngineEvent::from_message(event));
        }
        if let Ok(text) = std::str::from_utf8(response) {
            rfc3339::parse(text);
        }
        for container in engine.containers.values() {
            check(&engine, container);
        }
    }
    engine.containers.len()
}

fn check(engine: &Engine, container: &Container) {
    assert!(super::is_container_id(&container.id));
    let strings = [&container.name, &container.image, &container.image_id];
    assert!(strings.iter().all(|string| string.len() <= MAX_TEXT));
    let mut labels = container.labels.iter();
    assert!(labels.all(|(_, value)| value.len() <= MAX_TEXT));
    assert!(engine.expected_cgroup_path(container).starts_with('/'));
}

/// Takes a line with the request and the chunk size, such as `containers 7`, then the bytes of a
/// response's head and body. Returns the length of the parsed response in text form.
pub(crate) fn http(bytes: &[u8], socket: &Path) -> usize {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, response) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let operation = words.next().unwrap_or_default();
    let chunk_size = words.next().and_then(|word| word.parse::<usize>().ok());
    let chunk_size = chunk_size.unwrap_or(usize::MAX).max(1);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return 0;
    };
    let result_of =
        |chunk_size| runtime.block_on(exchange(operation, response, chunk_size, socket));
    let unsplit = result_of(usize::MAX);
    if chunk_size < response.len() {
        let split = result_of(chunk_size);
        assert!(
            agree(&split, &unsplit),
            "split: {split}, unsplit: {unsplit}"
        );
    }
    if unsplit == NO_RESPONSE {
        0
    } else {
        unsplit.len()
    }
}

/// Whether two results agree. If a connection breaks, more or fewer events may have been received;
/// everything is then listed again.
fn agree(a: &str, b: &str) -> bool {
    let is_cut_off = |a: &str, b: &str| {
        let prefix = a.strip_suffix(BROKEN);
        prefix.is_some_and(|prefix| b.starts_with(prefix))
    };
    a == b || is_cut_off(a, b) || is_cut_off(b, a)
}

/// Sends the request and returns the result as text.
async fn exchange(operation: &str, response: &[u8], chunk_size: usize, socket: &Path) -> String {
    std::fs::remove_file(socket).ok();
    let Ok(listener) = UnixListener::bind(socket) else {
        return String::new();
    };
    let response = response.to_vec();
    let engine = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, response.clone(), chunk_size));
        }
    });
    let client = EngineClient::new(socket, Arc::new(label_filter()));
    let started = Instant::now();
    let result = match operation {
        "version" => text(client.version(MAX_DURATION).await),
        "info" => text(client.cgroup_driver(MAX_DURATION).await),
        "ping" => text(client.ping(MAX_DURATION).await),
        "container" => text(client.container(&"a".repeat(64), MAX_DURATION).await),
        "images" => text(client.images(100, MAX_DURATION).await),
        "sizes" => {
            let usage = client.disk_usage(MAX_DURATION).await;
            text(usage.map(|usage| (usage.containers, usage.by_kind)))
        }
        "events" => {
            let mut log = String::new();
            let end = match client.events(MAX_DURATION).await {
                Ok(mut events) => loop {
                    let next = tokio::time::timeout(MAX_DURATION, events.next()).await;
                    match next {
                        Ok(Ok(event)) if log.len() <= MAX_EVENTS_LEN => {
                            log += &format!("{event:?}\n");
                        }
                        Ok(Ok(_)) => break String::new(),
                        Ok(Err(error)) => break error.to_string(),
                        Err(_) => break "late".to_owned(),
                    }
                },
                Err(error) => error.to_string(),
            };
            if end.contains("ended") || end.is_empty() {
                log
            } else {
                log + BROKEN
            }
        }
        _ => text(client.containers(MAX_DURATION).await),
    };
    assert!(started.elapsed() < MAX_DURATION, "deadline exceeded");
    engine.abort();
    result
}

/// Returns the response as text. For errors only that there was one, because how a connection
/// breaks depends on timing.
fn text<T: Debug>(result: Result<T, super::connection::EngineError>) -> String {
    match result {
        Ok(result) => format!("{result:?}"),
        Err(error) => {
            let reason = error.to_string();
            assert!(reason.len() <= 4 * 400, "error too long for a log line");
            assert!(
                !reason.contains(char::is_control),
                "error spans several lines"
            );
            NO_RESPONSE.to_owned()
        }
    }
}

/// Reads a request and sends the response.
async fn serve(mut stream: UnixStream, response: Vec<u8>, chunk_size: usize) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
            return;
        }
    }
    // Limits the number of chunks, so that sending them is fast.
    let chunk_size = chunk_size.max(response.len() / 4096);
    for chunk in response.chunks(chunk_size) {
        if stream.write_all(chunk).await.is_err() {
            return;
        }
        // Lets the client read each chunk before the next is sent.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.ok();
    // Closing with unread data would reset the connection.
    while matches!(stream.read_buf(&mut request).await, Ok(1..)) {}
}
