//! Fuzz target for the D-Bus client: see [`crate::fuzzing`].

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::Daemon;

/// Limit for one run: the fake daemon replies at once or closes the connection.
const MAX_DURATION: Duration = Duration::from_secs(8);

/// Connects a client to a daemon scripted by the input. Each step is a byte for its kind and two
/// for its length; then follow, depending on the kind, the length of a signature, the signature
/// and the body, or the name of an error, or raw bytes that are sent unchanged.
pub(crate) fn talk<T>(
    bytes: &[u8],
    socket: &Path,
    run: impl FnOnce(Daemon, Instant) -> T,
) -> Option<T> {
    let listener = UnixListener::bind(socket).ok()?;
    let script = bytes.to_vec();
    let daemon = thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            // The client may have disconnected.
            serve(stream, &script);
        }
    });
    let deadline = Instant::now() + MAX_DURATION;
    let result = run(Daemon::on_socket("fuzzing", socket), deadline);
    assert!(Instant::now() < deadline, "deadline exceeded");
    // Without a connection `accept` would block forever.
    UnixStream::connect(socket).ok();
    daemon.join().ok();
    Some(result)
}

fn serve(mut stream: UnixStream, script: &[u8]) -> Option<()> {
    let mut byte = [0];
    for end in ["\r\n", "BEGIN\r\n"] {
        let mut line = Vec::new();
        while !line.ends_with(end.as_bytes()) {
            stream.read_exact(&mut byte).ok()?;
            line.extend(byte);
        }
        if end == "\r\n" {
            let ok = b"OK 0123456789abcdef0123456789abcdef\r\n";
            stream.write_all(ok).ok()?;
        }
    }
    let mut rest = script;
    loop {
        let serial = read_call(&mut stream)?;
        let ([kind, high, low], remaining) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let body;
        (body, rest) = remaining.split_at(length.min(remaining.len()));
        match kind % 4 {
            0 | 1 => {
                let (length, body) = body.split_first().unwrap_or((&0, &[]));
                let (signature, body) = body.split_at(usize::from(*length).min(body.len()));
                stream
                    .write_all(&message(2, serial, signature, body))
                    .ok()?;
            }
            2 => stream.write_all(&message(3, serial, body, &[])).ok()?,
            _ => {
                stream.write_all(body).ok()?;
                return None;
            }
        }
    }
}

/// Reads a method call and returns its serial number.
fn read_call(stream: &mut UnixStream) -> Option<[u8; 4]> {
    let mut header = [0; 16];
    stream.read_exact(&mut header).ok()?;
    let number = |offset: usize| {
        let bytes = header.get(offset..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let rest = number(12)?.checked_next_multiple_of(8)? + number(4)?;
    stream.read_exact(&mut vec![0; rest]).ok()?;
    header.get(8..)?.first_chunk().copied()
}

/// Encodes a method return, or an error with this name.
fn message(kind: u8, reply_to: [u8; 4], field: &[u8], body: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or_default().to_le_bytes();
    let mut fields = vec![5, 1, b'u', 0];
    fields.extend(reply_to);
    if kind == 3 {
        fields.extend([4, 1, b's', 0]);
        fields.extend(length(field));
    } else {
        fields.extend([8, 1, b'g', 0, u8::try_from(field.len()).unwrap_or_default()]);
    }
    fields.extend(field);
    fields.push(0);
    let mut message = vec![b'l', kind, 1, 1];
    message.extend(length(body));
    message.extend(1_u32.to_le_bytes());
    message.extend(length(&fields));
    message.extend(fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(body);
    message
}
