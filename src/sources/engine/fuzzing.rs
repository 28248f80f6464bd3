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
const AT_MOST: Duration = Duration::from_secs(8);
/// Maximum number of bytes that are read.
const MAX_HEARD: usize = 4 << 20;

/// Result of all invalid responses.
const NOTHING: &str = "no answer";

/// Suffix of events after which the stream broke because of the input.
const BROKEN: &str = "broken";

fn kept() -> LabelFilter {
    LabelFilter {
        labels: ["com.docker.compose.service".to_owned(), "a".to_owned()].into(),
        images: "[a-m]".parse().unwrap_or_default(),
    }
}

/// Parses each line as every type of response, in any order. Returns the number of containers in
/// the end.
pub(crate) fn json(bytes: &[u8]) -> usize {
    let (kept, mut cache) = (kept(), ContainerCache::default());
    let mut engine = Engine::new("engine".into());
    for answer in bytes.split(|byte| *byte == b'\n') {
        let most = answer.len();
        if let Ok(list) = ListedContainer::parse_list(answer, &kept) {
            assert!(list.len() <= most);
            assert!(cache.apply_list(&mut engine, list).len() <= most);
        }
        if let Ok(Some(inspected)) = InspectedContainer::parse(answer, &kept) {
            assert!(inspected.container.memory_limit != Some(0));
            assert!(inspected.container.pid != Some(0));
            cache.apply_inspect(&mut engine, inspected);
        }
        if let Ok(images) = api_types::parse_images(answer, 100, &kept) {
            assert!(images.len() <= most.min(100));
            for image in images {
                assert!(image.tags.iter().all(|tag| tag.len() <= MAX_TEXT));
            }
        }
        EngineDiskUsage::parse(answer, Instant::now()).ok();
        api_types::parse_cgroup_driver(answer).ok();
        if let Ok(version) = serde_json::from_slice::<SystemVersion>(answer) {
            let version = EngineVersion::from_response(version);
            // The version becomes part of a path.
            let is_number = |c: char| c.is_ascii_digit() || c == '.';
            assert!(
                version
                    .api_version
                    .is_none_or(|api| api.chars().all(is_number))
            );
        }
        if let Ok(event) = serde_json::from_slice::<EventMessage>(answer) {
            cache.apply_event(&mut engine, EngineEvent::from_message(event));
        }
        if let Ok(text) = std::str::from_utf8(answer) {
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
    let texts = [&container.name, &container.image, &container.image_id];
    assert!(texts.iter().all(|text| text.len() <= MAX_TEXT));
    let mut labels = container.labels.iter();
    assert!(labels.all(|(_, value)| value.len() <= MAX_TEXT));
    assert!(engine.expected_cgroup_path(container).starts_with('/'));
}

/// Takes a line with the request and the chunk size, such as `containers 7`, then the bytes of a
/// response's head and body. Returns the length of the parsed response in text form.
pub(crate) fn http(bytes: &[u8], socket: &Path) -> usize {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, answer) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let asked = words.next().unwrap_or_default();
    let part = words.next().and_then(|word| word.parse::<usize>().ok());
    let part = part.unwrap_or(usize::MAX).max(1);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return 0;
    };
    let said = |part| runtime.block_on(talk(asked, answer, part, socket));
    let whole = said(usize::MAX);
    if part < answer.len() {
        let parts = said(part);
        assert!(
            agree(&parts, &whole),
            "result in chunks: {parts}, in one piece: {whole}"
        );
    }
    if whole == NOTHING { 0 } else { whole.len() }
}

/// Whether two results agree. If a connection breaks, more or fewer events may have been received;
/// everything is then listed again.
fn agree(one: &str, other: &str) -> bool {
    let begins = |one: &str, other: &str| {
        let heard = one.strip_suffix(BROKEN);
        heard.is_some_and(|heard| other.starts_with(heard))
    };
    one == other || begins(one, other) || begins(other, one)
}

/// Sends the request and returns the result as text.
async fn talk(asked: &str, answer: &[u8], part: usize, socket: &Path) -> String {
    std::fs::remove_file(socket).ok();
    let Ok(listener) = UnixListener::bind(socket) else {
        return String::new();
    };
    let answer = answer.to_vec();
    let engine = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer.clone(), part));
        }
    });
    let client = EngineClient::new(socket, Arc::new(kept()));
    let began = Instant::now();
    let said = match asked {
        "version" => text(client.version(AT_MOST).await),
        "info" => text(client.cgroup_driver(AT_MOST).await),
        "ping" => text(client.ping(AT_MOST).await),
        "container" => text(client.container(&"a".repeat(64), AT_MOST).await),
        "images" => text(client.images(100, AT_MOST).await),
        "sizes" => {
            let sizes = client.disk_usage(AT_MOST).await;
            text(sizes.map(|sizes| (sizes.containers, sizes.by_kind)))
        }
        "events" => {
            let mut heard = String::new();
            let end = match client.events(AT_MOST).await {
                Ok(mut events) => loop {
                    let next = tokio::time::timeout(AT_MOST, events.next()).await;
                    match next {
                        Ok(Ok(event)) if heard.len() <= MAX_HEARD => {
                            heard += &format!("{event:?}\n");
                        }
                        Ok(Ok(_)) => break String::new(),
                        Ok(Err(failure)) => break failure.to_string(),
                        Err(_) => break "late".to_owned(),
                    }
                },
                Err(failure) => failure.to_string(),
            };
            if end.contains("ended") || end.is_empty() {
                heard
            } else {
                heard + BROKEN
            }
        }
        _ => text(client.containers(AT_MOST).await),
    };
    assert!(
        began.elapsed() < AT_MOST,
        "the request did not end before its timeout"
    );
    engine.abort();
    said
}

/// Returns the response as text. For errors only that there was one, because how a connection
/// breaks depends on timing.
fn text<T: Debug>(answer: Result<T, super::connection::EngineError>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(failure) => {
            let reason = failure.to_string();
            assert!(reason.len() <= 4 * 400, "the error is too long for a log");
            assert!(
                !reason.contains(char::is_control),
                "the error contains control characters"
            );
            NOTHING.to_owned()
        }
    }
}

/// Reads a request and sends the response.
async fn serve(mut stream: UnixStream, answer: Vec<u8>, part: usize) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
            return;
        }
    }
    // Limits the number of chunks, so that sending them is fast.
    let part = part.max(answer.len() / 4096);
    for part in answer.chunks(part) {
        if stream.write_all(part).await.is_err() {
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
