//! D-Bus over a daemon's own socket, without a bus.
//!
//! Messages are rewritten before the client parses them: as the sender, systemd sends its
//! well-known name `org.freedesktop.systemd1`, where only a unique name is allowed, and the client
//! would close the connection. The first letter of the name is replaced by the `:` that starts a
//! unique name.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use tokio::net::{
    UnixStream,
    unix::{OwnedReadHalf, OwnedWriteHalf},
};
use zbus::{
    Guid, OwnedGuid,
    connection::socket::{ReadHalf, Socket, Split, WriteHalf},
    export::async_trait::async_trait,
};

/// Header field SENDER: the field's code, its signature, a length, a name.
const SENDER: u8 = 7;
const NAME: &[u8] = b"org.freedesktop.systemd1\0";
/// Bytes searched for the sender: header fields are at the start of a message, the sender among
/// the first.
const MAX_FIELDS_LEN: usize = 256;

/// An authenticated connection.
#[derive(Debug)]
pub(super) struct PeerSocket(UnixStream);

impl PeerSocket {
    /// Connects and authenticates as the user of this process.
    pub(super) async fn connect(socket: &Path) -> io::Result<(Self, OwnedGuid)> {
        let stream = UnixStream::connect(socket).await?;
        let user = rustix::process::geteuid().as_raw().to_string();
        // In hexadecimal, as the protocol requires.
        let user: String = user.chars().flat_map(|digit| ['3', digit]).collect();
        write_all(&stream, format!("\0AUTH EXTERNAL {user}\r\n").as_bytes()).await?;

        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n") {
            let mut byte = [0];
            read_exact(&stream, &mut byte).await?;
            reply.extend(byte);
            if reply.len() > MAX_FIELDS_LEN {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let reply = String::from_utf8_lossy(&reply);
        let guid = reply.trim_end().strip_prefix("OK ");
        let guid = guid.and_then(|guid| Guid::try_from(guid).ok());
        let guid = guid
            .ok_or(io::ErrorKind::PermissionDenied)?
            .to_owned()
            .into();
        write_all(&stream, b"BEGIN\r\n").await?;
        Ok((Self(stream), guid))
    }
}

impl Socket for PeerSocket {
    type ReadHalf = PeerReader;
    type WriteHalf = PeerWriter;

    fn split(self) -> Split<PeerReader, PeerWriter> {
        let (read, write) = self.0.into_split();
        Split::new(PeerReader(read), PeerWriter(write))
    }
}

#[derive(Debug)]
pub(super) struct PeerReader(OwnedReadHalf);

#[async_trait]
impl ReadHalf for PeerReader {
    /// Called for the first bytes of a message and then for the rest of it, so at least as many
    /// bytes as requested will arrive.
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        read_exact(self.0.as_ref(), buffer).await?;
        make_sender_unique(buffer);
        Ok((buffer.len(), Vec::new()))
    }
}

#[derive(Debug)]
pub(super) struct PeerWriter(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for PeerWriter {
    async fn sendmsg(&mut self, buffer: &[u8], _fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        write_all(self.0.as_ref(), buffer).await?;
        Ok(buffer.len())
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn read_exact(stream: &UnixStream, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => buffer = buffer.get_mut(len..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn write_all(stream: &UnixStream, mut buffer: &[u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.writable().await?;
        match stream.try_write(buffer) {
            Ok(len) => buffer = buffer.get(len..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn make_sender_unique(message: &mut [u8]) {
    let end = message.len().min(MAX_FIELDS_LEN);
    let Some(fields) = message.get_mut(..end) else {
        return;
    };
    let [a, b, c, d] = 24_u32.to_ne_bytes();
    let mut field = vec![SENDER, 1, b's', 0, a, b, c, d];
    let name = field.len();
    field.extend(NAME);
    let found = fields
        .windows(field.len())
        .position(|window| window == field);
    if let Some(first_byte) = found.and_then(|start| fields.get_mut(start + name)) {
        *first_byte = b':';
    }
}

#[cfg(test)]
mod tests {
    use zbus::Message;

    use super::*;

    #[test]
    fn sender_name_becomes_unique_and_strings_are_unchanged() {
        let call = Message::method_call("/a", "B").sender(":rg.freedesktop.systemd1");
        let expected = call.build(&"org.freedesktop.systemd1").unwrap();
        let mut bytes = expected.data().to_vec();
        let start = bytes
            .windows(4)
            .position(|window| window == b":rg.")
            .unwrap();
        bytes[start] = b'o';
        assert_ne!(bytes, expected.data().to_vec());
        make_sender_unique(&mut bytes);
        assert_eq!(bytes, expected.data().to_vec());
    }
}
