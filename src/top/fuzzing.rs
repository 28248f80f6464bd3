//! Fuzz targets for the client of `strata_exporter top`, see [`crate::fuzzing`].

use std::time::{Duration, Instant};

use ratatui::{buffer::Buffer, layout::Rect};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::{Client, TopApp, http_config, view};
use std::path::Path;

/// Time limit: the scripted exporter sends its whole response at once and closes.
const MAX_DURATION: Duration = Duration::from_secs(4);

/// Returns these bytes, head and body, to every request; returns 1 if they are a valid response.
pub(crate) fn answers(bytes: &[u8], socket: &Path) -> usize {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return 0;
    };
    let url = format!("unix://{}", socket.display()).parse();
    let Ok(client) = url.and_then(|url| Client::new(url, None)) else {
        return 0;
    };
    let result = runtime.block_on(async {
        let listener = UnixListener::bind(socket).ok()?;
        let response = bytes.to_vec();
        let exporter = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, response.clone()));
            }
        });
        let start = Instant::now();
        let result = client.ask().await;
        assert!(
            start.elapsed() < MAX_DURATION,
            "the client waits for data that never arrives"
        );
        exporter.abort();
        Some(result)
    });
    let Some(result) = result else { return 0 };
    let is_valid = result.is_ok();
    match &result {
        Ok(result) => {
            let text = view::render_text(result);
            let is_safe = |c: char| c == '\n' || !c.is_control();
            assert!(
                text.chars().all(is_safe),
                "control characters reach the terminal"
            );
        }
        Err(reason) => {
            assert!(
                !reason.contains(char::is_control),
                "control characters reach the terminal"
            );
            assert!(reason.len() < 4096, "error message too long for one line");
        }
    }
    let mut top = TopApp::default();
    top.update(result);
    for (width, height) in [(1, 1), (80, 24), (200, 3)] {
        let area = Rect::new(0, 0, width, height);
        top.draw(area, &mut Buffer::empty(area));
    }
    is_valid.into()
}

/// Reads a request and sends the response.
async fn serve(mut stream: UnixStream, response: Vec<u8>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
            return;
        }
    }
    stream.write_all(&response).await.ok();
    stream.shutdown().await.ok();
    while matches!(stream.read_buf(&mut request).await, Ok(1..)) {}
}

/// Parses a file of `--http.config.file`; returns the number of settings in it.
pub(crate) fn settings(bytes: &[u8]) -> usize {
    match http_config::parse(bytes, Path::new("/etc/strata")) {
        Ok(config) => {
            let result = [
                config.basic_auth.is_some(),
                config.tls.ca.is_some(),
                config.tls.client_cert.is_some(),
                config.tls.insecure_skip_verify,
            ];
            result.into_iter().filter(|it| *it).count()
        }
        // The error has to fit on a line.
        Err(error) => {
            let result = error.to_string();
            assert!(!result.contains('\n') && result.len() <= 8 * bytes.len() + 2000);
            0
        }
    }
}
