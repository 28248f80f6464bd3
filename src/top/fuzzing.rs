//! Fuzz targets for the client of `top`: see [`crate::fuzzing`].

use std::time::{Duration, Instant};

use ratatui::{buffer::Buffer, layout::Rect};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::{Client, TopApp, http_config, view};
use std::path::Path;

/// Limit for one run: the fake exporter sends its response at once and closes.
const AT_MOST: Duration = Duration::from_secs(4);

/// Sends the input, a head and a body, as the response to every request; returns 1 if it is valid.
pub(crate) fn answers(bytes: &[u8], socket: &Path) -> usize {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return 0;
    };
    let there = format!("unix://{}", socket.display()).parse();
    let Ok(client) = there.and_then(|there| Client::new(there, None)) else {
        return 0;
    };
    let said = runtime.block_on(async {
        let listener = UnixListener::bind(socket).ok()?;
        let answer = bytes.to_vec();
        let exporter = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone()));
            }
        });
        let began = Instant::now();
        let said = client.ask().await;
        assert!(
            began.elapsed() < AT_MOST,
            "the request did not end before its timeout"
        );
        exporter.abort();
        Some(said)
    });
    let Some(said) = said else { return 0 };
    let is_answer = said.is_ok();
    match &said {
        Ok(said) => {
            let text = view::render_text(said);
            let is_safe = |c: char| c == '\n' || !c.is_control();
            assert!(
                text.chars().all(is_safe),
                "output contains control characters"
            );
        }
        Err(reason) => {
            assert!(
                !reason.contains(char::is_control),
                "output contains control characters"
            );
            assert!(reason.len() < 4096, "the error is too long for a line");
        }
    }
    let mut top = TopApp::default();
    top.update(said);
    for (width, height) in [(1, 1), (80, 24), (200, 3)] {
        let area = Rect::new(0, 0, width, height);
        top.draw(area, &mut Buffer::empty(area));
    }
    is_answer.into()
}

/// Reads a request and sends the response.
async fn serve(mut stream: UnixStream, answer: Vec<u8>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
            return;
        }
    }
    stream.write_all(&answer).await.ok();
    stream.shutdown().await.ok();
    while matches!(stream.read_buf(&mut request).await, Ok(1..)) {}
}

/// Parses a file for `--http.config.file`; returns the number of settings.
pub(crate) fn settings(bytes: &[u8]) -> usize {
    match http_config::parse(bytes, Path::new("/etc/strata")) {
        Ok(config) => {
            let said = [
                config.basic_auth.is_some(),
                config.tls.ca.is_some(),
                config.tls.client_cert.is_some(),
                config.tls.insecure_skip_verify,
            ];
            said.into_iter().filter(|it| *it).count()
        }
        // The error is printed in one line.
        Err(wrong) => {
            let said = wrong.to_string();
            assert!(!said.contains('\n') && said.len() <= 8 * bytes.len() + 2000);
            0
        }
    }
}
