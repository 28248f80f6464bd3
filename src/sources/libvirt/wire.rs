//! libvirt's RPC protocol: framing, and encoding and decoding of the messages used here.
//!
//! Everything is XDR (RFC 4506). The framing is documented in libvirt's `virnetprotocol.x`, the
//! bodies in `remote_protocol.x`. This module does no I/O and trusts no length: the input may be
//! arbitrary bytes.

use std::{fmt, fmt::Write as _};

use super::params::TypedParamValue;

/// Program number of all calls and events.
pub(super) const REMOTE_PROGRAM: u32 = 0x2000_8086;
/// Program number of keepalive messages.
pub(super) const KEEPALIVE_PROGRAM: u32 = 0x6b65_6570;
/// Keepalive request.
pub(super) const KEEPALIVE_PROC_PING: u32 = 1;
/// Keepalive response.
pub(super) const KEEPALIVE_PROC_PONG: u32 = 2;

/// Maximum length of a message. libvirt's own limit is 32 MiB; the longest domain XML is 4 MiB.
pub(super) const MAX_MESSAGE: usize = 16 << 20;
/// Bytes of the length and of the header before the body.
const HEADER: usize = 28;

/// Maximum length of a string in the protocol.
const REMOTE_STRING_MAX: usize = 4 << 20;
/// Maximum length of a list in the protocol.
const MAX_LIST: usize = 16_384;
/// Maximum length of a name.
const MAX_NAME: usize = 4096;
/// Maximum number of parameters parsed from one reply.
const MAX_PARAMS: usize = 1 << 18;
/// Maximum number of authentication types.
const REMOTE_AUTH_TYPE_LIST_MAX: usize = 20;

/// Procedure numbers of calls and events.
pub(super) mod procedure {
    pub(in super::super) const REMOTE_PROC_CONNECT_OPEN: u32 = 1;
    pub(in super::super) const REMOTE_PROC_CONNECT_GET_TYPE: u32 = 3;
    pub(in super::super) const REMOTE_PROC_CONNECT_GET_VERSION: u32 = 4;
    pub(in super::super) const REMOTE_PROC_DOMAIN_GET_XML_DESC: u32 = 14;
    pub(in super::super) const REMOTE_PROC_DOMAIN_GET_INFO: u32 = 16;
    pub(in super::super) const REMOTE_PROC_NETWORK_GET_BRIDGE_NAME: u32 = 45;
    pub(in super::super) const REMOTE_PROC_AUTH_LIST: u32 = 66;
    pub(in super::super) const REMOTE_PROC_AUTH_POLKIT: u32 = 70;
    pub(in super::super) const REMOTE_PROC_STORAGE_POOL_GET_INFO: u32 = 87;
    pub(in super::super) const REMOTE_PROC_NETWORK_IS_ACTIVE: u32 = 152;
    pub(in super::super) const REMOTE_PROC_CONNECT_GET_LIB_VERSION: u32 = 157;
    pub(in super::super) const REMOTE_PROC_DOMAIN_GET_JOB_INFO: u32 = 163;
    pub(in super::super) const REMOTE_PROC_DOMAIN_GET_STATE: u32 = 212;
    pub(in super::super) const REMOTE_PROC_CONNECT_LIST_ALL_DOMAINS: u32 = 273;
    pub(in super::super) const REMOTE_PROC_CONNECT_LIST_ALL_STORAGE_POOLS: u32 = 281;
    pub(in super::super) const REMOTE_PROC_CONNECT_LIST_ALL_NETWORKS: u32 = 283;
    pub(in super::super) const REMOTE_PROC_CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY: u32 = 316;
    pub(in super::super) const REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS: u32 = 344;

    pub(super) const REMOTE_PROC_DOMAIN_EVENT_CALLBACK_LIFECYCLE: u32 = 318;
    pub(super) const REMOTE_PROC_DOMAIN_EVENT_CALLBACK_IO_ERROR: u32 = 322;
    pub(super) const REMOTE_PROC_DOMAIN_EVENT_CALLBACK_DISK_CHANGE: u32 = 327;
    pub(super) const REMOTE_PROC_DOMAIN_EVENT_CALLBACK_TRAY_CHANGE: u32 = 328;
    pub(super) const REMOTE_PROC_DOMAIN_EVENT_CALLBACK_DEVICE_REMOVED: u32 = 333;
    pub(super) const REMOTE_PROC_DOMAIN_EVENT_BLOCK_JOB_2: u32 = 339;
    pub(super) const REMOTE_PROC_DOMAIN_EVENT_CALLBACK_TUNABLE: u32 = 346;
    pub(super) const REMOTE_PROC_DOMAIN_EVENT_CALLBACK_DEVICE_ADDED: u32 = 354;
    pub(super) const REMOTE_PROC_DOMAIN_EVENT_CALLBACK_METADATA_CHANGE: u32 = 379;
}

/// Event IDs from libvirt's header.
pub(super) const VIR_DOMAIN_EVENT_ID_LIFECYCLE: u32 = 0;
pub(super) const VIR_DOMAIN_EVENT_ID_IO_ERROR: u32 = 4;
/// IDs of the subscribed events: lifecycle, I/O errors, and those that change a definition: disks
/// and trays, devices removed and added, block jobs (the second kind, which names the disk), I/O
/// limits of disks, metadata.
pub(super) const EVENTS: [u32; 9] = [
    VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    VIR_DOMAIN_EVENT_ID_IO_ERROR,
    9,
    10,
    15,
    16,
    17,
    19,
    23,
];

/// Why a message could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DecodeError(&'static str);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

type Result<T> = std::result::Result<T, DecodeError>;

/// Type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageType {
    Call,
    Reply,
    /// An unsolicited message.
    Event,
    /// A stream or a message with file descriptors, which are not used here.
    Other,
}

impl MessageType {
    fn number(self) -> u32 {
        match self {
            Self::Call => 0,
            Self::Reply => 1,
            Self::Event | Self::Other => 2,
        }
    }

    fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Call,
            1 => Self::Reply,
            2 => Self::Event,
            _ => Self::Other,
        }
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Message<'a> {
    pub(super) program: u32,
    pub(super) procedure: u32,
    pub(super) kind: MessageType,
    pub(super) serial: u32,
    /// Whether the body is an error instead of the result.
    pub(super) is_error: bool,
    pub(super) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Returns the first message and the remaining bytes, or `None` while the message is
    /// incomplete.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>> {
        let Some((length, _)) = bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length < HEADER {
            return Err(DecodeError("message shorter than its header"));
        }
        if length > MAX_MESSAGE {
            return Err(DecodeError("message too long"));
        }
        let Some((message, rest)) = bytes.split_at_checked(length) else {
            return Ok(None);
        };
        let mut header = XdrDecoder(message);
        header.read_u32()?;
        let program = header.read_u32()?;
        let version = header.read_u32()?;
        if version != 1 {
            return Err(DecodeError("unsupported protocol version"));
        }
        let message = Self {
            program,
            procedure: header.read_u32()?,
            kind: MessageType::from_number(header.read_u32()?),
            serial: header.read_u32()?,
            is_error: header.read_u32()? == 1,
            body: header.0,
        };
        Ok(Some((message, rest)))
    }

    /// Encodes the message.
    pub(super) fn encode(&self) -> Vec<u8> {
        let length = HEADER.saturating_add(self.body.len());
        let mut body = XdrEncoder(Vec::with_capacity(length));
        for number in [
            u32::try_from(length).unwrap_or(u32::MAX),
            self.program,
            1,
            self.procedure,
            self.kind.number(),
            self.serial,
            self.is_error.into(),
        ] {
            body = body.put_u32(number);
        }
        body.0.extend_from_slice(self.body);
        body.0
    }
}

pub(super) type Uuid = [u8; 16];

/// Formats a UUID.
pub(super) fn format_uuid(uuid: &Uuid) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// Reference to a domain. Names are bytes, because the protocol does not guarantee UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DomainRef {
    pub(super) name: Vec<u8>,
    pub(super) uuid: Uuid,
    /// Negative if the domain is inactive.
    pub(super) id: i32,
}

impl DomainRef {
    pub(super) fn is_active(&self) -> bool {
        self.id >= 0
    }

    pub(super) fn name_lossy(&self) -> String {
        string_lossy(&self.name)
    }
}

/// Reference to a storage pool or a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedObject {
    pub(super) name: Vec<u8>,
    pub(super) uuid: Uuid,
}

/// Converts bytes to text, replacing invalid UTF-8.
pub(super) fn string_lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Encoder of a request body.
#[derive(Debug, Default)]
pub(super) struct XdrEncoder(Vec<u8>);

impl XdrEncoder {
    pub(super) fn put_u32(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Only names are encoded, so the length always fits.
    pub(super) fn put_string(self, text: &[u8]) -> Self {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let mut body = self.put_u32(length);
        body.0.extend_from_slice(text);
        let padded = body.0.len().next_multiple_of(4);
        body.0.resize(padded, 0);
        body
    }

    pub(super) fn put_optional_string(self, text: &[u8]) -> Self {
        self.put_u32(1).put_string(text)
    }

    pub(super) fn put_domain(self, domain: &DomainRef) -> Self {
        let body = self.put_named_object(&domain.name, &domain.uuid);
        body.put_u32(domain.id.cast_unsigned())
    }

    pub(super) fn put_named_object(self, name: &[u8], uuid: &Uuid) -> Self {
        let mut body = self.put_string(name);
        body.0.extend_from_slice(uuid);
        body
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Decoder: the bytes that have not been read yet.
struct XdrDecoder<'a>(&'a [u8]);

impl<'a> XdrDecoder<'a> {
    fn read_bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        let split = self.0.split_at_checked(length);
        let (bytes, rest) = split.ok_or(DecodeError("truncated reply"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn read_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let split = self.0.split_first_chunk();
        let (bytes, rest) = split.ok_or(DecodeError("truncated reply"))?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn read_u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.read_array()?))
    }

    fn read_i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.read_array()?))
    }

    fn read_u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.read_array()?))
    }

    fn read_bool(&mut self) -> Result<bool> {
        Ok(self.read_u32()? != 0)
    }

    fn read_opaque(&mut self, max_len: usize) -> Result<&'a [u8]> {
        let length = usize::try_from(self.read_u32()?).unwrap_or(usize::MAX);
        if length > max_len {
            return Err(DecodeError("string too long"));
        }
        let bytes = self.read_bytes(length)?;
        self.read_bytes(length.next_multiple_of(4) - length)?;
        Ok(bytes)
    }

    fn read_string(&mut self, max_len: usize) -> Result<String> {
        self.read_opaque(max_len).map(string_lossy)
    }

    fn read_list<T>(
        &mut self,
        max_len: usize,
        item: impl Fn(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let length = usize::try_from(self.read_u32()?).unwrap_or(usize::MAX);
        if length > max_len {
            return Err(DecodeError("list too long"));
        }
        // No capacity is reserved for the claimed length.
        let mut list = Vec::new();
        for _ in 0..length {
            list.push(item(self)?);
        }
        Ok(list)
    }

    fn read_domain(&mut self) -> Result<DomainRef> {
        let NamedObject { name, uuid } = self.read_named_object()?;
        let id = self.read_i32()?;
        Ok(DomainRef { name, uuid, id })
    }

    fn read_named_object(&mut self) -> Result<NamedObject> {
        Ok(NamedObject {
            name: self.read_opaque(MAX_NAME)?.to_vec(),
            uuid: self.read_array()?,
        })
    }

    fn read_typed_param(&mut self) -> Result<(String, TypedParamValue)> {
        let name = self.read_string(MAX_NAME)?;
        let value = match self.read_u32()? {
            1 => TypedParamValue::Int(self.read_i32()?.into()),
            2 => TypedParamValue::Unsigned(self.read_u32()?.into()),
            3 => TypedParamValue::Int(self.read_u64()?.cast_signed()),
            4 => TypedParamValue::Unsigned(self.read_u64()?),
            5 => TypedParamValue::Float(f64::from_bits(self.read_u64()?)),
            6 => TypedParamValue::Bool(self.read_bool()?),
            7 => TypedParamValue::Text(self.read_string(REMOTE_STRING_MAX)?),
            _ => return Err(DecodeError("unknown parameter type")),
        };
        Ok((name, value))
    }
}

/// An error returned by the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteError {
    code: i32,
    message: String,
}

impl RemoteError {
    pub(super) fn parse(body: &[u8]) -> Result<Self> {
        let mut reader = XdrDecoder(body);
        let code = reader.read_i32()?;
        // The domain of the error: the part of libvirt that reports it.
        reader.read_i32()?;
        let message = match reader.read_u32()? {
            0 => String::new(),
            _ => reader.read_string(REMOTE_STRING_MAX)?,
        };
        Ok(Self { code, message })
    }

    /// Whether the daemon or driver does not support the call.
    pub(super) fn is_unsupported(&self) -> bool {
        // VIR_ERR_NO_SUPPORT, VIR_ERR_ARGUMENT_UNSUPPORTED
        matches!(self.code, 3 | 74)
    }

    /// Whether the object no longer exists.
    pub(super) fn is_gone(&self) -> bool {
        // VIR_ERR_NO_DOMAIN, VIR_ERR_NO_NETWORK, VIR_ERR_NO_STORAGE_POOL
        matches!(self.code, 42 | 43 | 49)
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "error {}", self.code),
            message => f.write_str(message),
        }
    }
}

/// Authentication type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Auth {
    None,
    Polkit,
    /// SASL or an unknown type.
    Other,
}

pub(super) fn parse_auth_list(body: &[u8]) -> Result<Vec<Auth>> {
    XdrDecoder(body).read_list(REMOTE_AUTH_TYPE_LIST_MAX, |reader| {
        Ok(match reader.read_u32()? {
            0 => Auth::None,
            2 => Auth::Polkit,
            _ => Auth::Other,
        })
    })
}

/// Decodes a reply with one 32-bit integer.
pub(super) fn parse_i32(body: &[u8]) -> Result<i32> {
    XdrDecoder(body).read_i32()
}

/// Decodes a reply with one 64-bit integer.
pub(super) fn parse_u64(body: &[u8]) -> Result<u64> {
    XdrDecoder(body).read_u64()
}

/// Decodes a reply with one string.
pub(super) fn parse_string(body: &[u8]) -> Result<String> {
    XdrDecoder(body).read_string(REMOTE_STRING_MAX)
}

pub(super) fn parse_domain_list(body: &[u8]) -> Result<Vec<DomainRef>> {
    XdrDecoder(body).read_list(MAX_LIST, XdrDecoder::read_domain)
}

pub(super) fn parse_object_list(body: &[u8]) -> Result<Vec<NamedObject>> {
    XdrDecoder(body).read_list(MAX_LIST, XdrDecoder::read_named_object)
}

/// Statistics of a domain.
#[derive(Debug, PartialEq)]
pub(super) struct StatsRecord {
    pub(super) domain: DomainRef,
    pub(super) params: Vec<(String, TypedParamValue)>,
}

pub(super) fn parse_stats_records(body: &[u8]) -> Result<Vec<StatsRecord>> {
    let mut reader = XdrDecoder(body);
    let mut records = Vec::new();
    let mut remaining = MAX_PARAMS;
    let length = reader.read_u32()?;
    if usize::try_from(length).is_ok_and(|length| length > MAX_LIST) {
        return Err(DecodeError("list too long"));
    }
    for _ in 0..length {
        let domain = reader.read_domain()?;
        let params = reader.read_list(remaining, XdrDecoder::read_typed_param)?;
        remaining = remaining.saturating_sub(params.len());
        records.push(StatsRecord { domain, params });
    }
    Ok(records)
}

/// Basic data of a domain, used where the driver has no statistics.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DomainInfo {
    pub(super) state: i32,
    /// KiB
    pub(super) max_memory: u64,
    /// KiB
    pub(super) memory: u64,
    pub(super) vcpus: u32,
    /// Nanoseconds.
    pub(super) cpu_time: u64,
}

pub(super) fn parse_domain_info(body: &[u8]) -> Result<DomainInfo> {
    let mut reader = XdrDecoder(body);
    Ok(DomainInfo {
        state: reader.read_i32()?,
        max_memory: reader.read_u64()?,
        memory: reader.read_u64()?,
        vcpus: reader.read_u32()?,
        cpu_time: reader.read_u64()?,
    })
}

/// Decodes state and reason.
pub(super) fn parse_domain_state(body: &[u8]) -> Result<(i32, i32)> {
    let mut reader = XdrDecoder(body);
    Ok((reader.read_i32()?, reader.read_i32()?))
}

/// Progress of a domain's job.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JobInfo {
    pub(super) kind: i32,
    /// Milliseconds.
    pub(super) elapsed: u64,
    /// Milliseconds.
    pub(super) remaining: u64,
    /// Total, processed, remaining.
    pub(super) data: [u64; 3],
    pub(super) memory: [u64; 3],
    pub(super) file: [u64; 3],
}

pub(super) fn parse_job_info(body: &[u8]) -> Result<JobInfo> {
    let mut reader = XdrDecoder(body);
    let kind = reader.read_i32()?;
    let mut three = || Ok([reader.read_u64()?, reader.read_u64()?, reader.read_u64()?]);
    // Two times, then three sizes for each of data, memory and file.
    let [elapsed, remaining, total] = three()?;
    let [done, remaining_data, memory_total] = three()?;
    let [memory_done, memory_left, file_total] = three()?;
    let (file_done, file_left) = (reader.read_u64()?, reader.read_u64()?);
    Ok(JobInfo {
        kind,
        elapsed,
        remaining,
        data: [total, done, remaining_data],
        memory: [memory_total, memory_done, memory_left],
        file: [file_total, file_done, file_left],
    })
}

/// Decodes a storage pool's state, capacity, allocation and available bytes.
pub(super) fn parse_pool_info(body: &[u8]) -> Result<(u32, [u64; 3])> {
    let mut reader = XdrDecoder(body);
    let state = reader.read_u32()?;
    Ok((
        state,
        [reader.read_u64()?, reader.read_u64()?, reader.read_u64()?],
    ))
}

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DomainEvent {
    /// Type and detail are numbers from libvirt's header.
    Lifecycle {
        domain: DomainRef,
        kind: i32,
        detail: i32,
    },
    /// A request to a disk failed.
    IoError {
        domain: DomainRef,
        /// Source path of the disk.
        path: Vec<u8>,
        /// libvirt's alias of the disk.
        alias: Vec<u8>,
    },
    /// The definition has changed.
    DefinitionChanged(DomainRef),
}

/// Decodes an event; `None` if it is not one of the subscribed events.
pub(super) fn parse_event(procedure: u32, body: &[u8]) -> Result<Option<DomainEvent>> {
    let mut reader = XdrDecoder(body);
    let mut domain = || {
        // The callback ID of the subscription.
        reader.read_i32()?;
        reader.read_domain()
    };
    Ok(Some(match procedure {
        procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_LIFECYCLE => DomainEvent::Lifecycle {
            domain: domain()?,
            kind: reader.read_i32()?,
            detail: reader.read_i32()?,
        },
        procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_IO_ERROR => DomainEvent::IoError {
            domain: domain()?,
            path: reader.read_opaque(REMOTE_STRING_MAX)?.to_vec(),
            alias: reader.read_opaque(REMOTE_STRING_MAX)?.to_vec(),
        },
        procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_DISK_CHANGE
        | procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_TRAY_CHANGE
        | procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_DEVICE_REMOVED
        | procedure::REMOTE_PROC_DOMAIN_EVENT_BLOCK_JOB_2
        | procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_TUNABLE
        | procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_DEVICE_ADDED
        | procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_METADATA_CHANGE => {
            DomainEvent::DefinitionChanged(domain()?)
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::{
        super::fake::{FakeDomain, encode_stats_records as recorded},
        *,
    };
    use crate::fixtures::libvirt_body;

    fn domain_ref(name: &[u8], id: i32) -> DomainRef {
        DomainRef {
            name: name.to_vec(),
            uuid: [7; 16],
            id,
        }
    }

    fn reply(body: &[u8]) -> Message<'_> {
        Message {
            program: REMOTE_PROGRAM,
            procedure: procedure::REMOTE_PROC_CONNECT_LIST_ALL_DOMAINS,
            kind: MessageType::Reply,
            serial: 9,
            is_error: false,
            body,
        }
    }

    /// Checks that every truncated body is rejected and that damaged bodies cause no panic.
    fn rejects_truncated_and_damaged<T>(body: &[u8], read: impl Fn(&[u8]) -> Result<T>) {
        assert!(read(body).is_ok());
        for length in 0..body.len() {
            let (truncated, _) = body.split_at(length);
            assert!(read(truncated).is_err(), "{length} of {}", body.len());
        }
        for index in 0..body.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut corrupted = body.to_vec();
                corrupted[index] = value;
                drop(read(&corrupted));
            }
        }
    }

    #[test]
    fn splits_stream_into_messages() {
        let first = reply(&[1, 2, 3, 4]).encode();
        assert_eq!(first.len(), 32);
        assert_eq!(first[..8], [0, 0, 0, 32, 0x20, 0, 0x80, 0x86]);
        let both = [first.clone(), reply(&[]).encode()].concat();
        let (message, rest) = Message::parse(&both).unwrap().unwrap();
        assert_eq!(message, reply(&[1, 2, 3, 4]));
        let (message, rest) = Message::parse(rest).unwrap().unwrap();
        assert_eq!(message, reply(&[]));
        assert_eq!(Message::parse(rest), Ok(None));
        for length in 0..first.len() {
            assert_eq!(Message::parse(&first[..length]), Ok(None));
        }
    }

    #[test]
    fn claimed_lengths_are_not_trusted() {
        for length in [0, 27, (16 << 20) + 1, u32::MAX] {
            assert!(Message::parse(&length.to_be_bytes()).is_err(), "{length}");
        }
        let length_prefix = |length: u32| [length.to_be_bytes(), [0; 4]].concat();
        assert_eq!(Message::parse(&length_prefix(16 << 20)), Ok(None));
        assert!(parse_domain_list(&16_385_u32.to_be_bytes()).is_err());
        assert!(parse_string(&length_prefix(u32::MAX)).is_err());
        assert!(parse_string(&length_prefix((4 << 20) + 1)).is_err());
        let many = [vec![0, 0, 0, 1], domain_bytes(), vec![0xff; 64]].concat();
        assert_eq!(
            parse_stats_records(&many),
            Err(DecodeError("list too long"))
        );
    }

    fn domain_bytes() -> Vec<u8> {
        XdrEncoder::default()
            .put_domain(&domain_ref(b"abcde", 3))
            .into_bytes()
    }

    #[test]
    fn truncated_bodies_are_rejected() {
        let list = [vec![0, 0, 0, 2], domain_bytes(), domain_bytes()].concat();
        rejects_truncated_and_damaged(&list, parse_domain_list);
        assert_eq!(
            parse_domain_list(&list).unwrap()[1],
            domain_ref(b"abcde", 3)
        );
        let list = XdrEncoder::default()
            .put_u32(1)
            .put_named_object(b"ab", &[1; 16])
            .into_bytes();
        rejects_truncated_and_damaged(&list, parse_object_list);
        let fake = FakeDomain {
            name: b"a".to_vec(),
            id: 4,
            is_hung: false,
            busy_replies: 0,
            title: String::new(),
        };
        rejects_truncated_and_damaged(&recorded(&[&fake, &fake], false), parse_stats_records);
        rejects_truncated_and_damaged(
            &XdrEncoder::default().put_string(b"<domain/>").into_bytes(),
            parse_string,
        );
        rejects_truncated_and_damaged(&[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2], parse_auth_list);
        rejects_truncated_and_damaged(&[1; 92], parse_job_info);
        rejects_truncated_and_damaged(&[1; 32], parse_domain_info);
        rejects_truncated_and_damaged(&[1; 28], parse_pool_info);
        rejects_truncated_and_damaged(&[1; 8], parse_domain_state);
        let error = XdrEncoder::default()
            .put_u32(42)
            .put_u32(10)
            .put_optional_string(b"no domain")
            .into_bytes();
        rejects_truncated_and_damaged(&error, RemoteError::parse);
        assert!(RemoteError::parse(&error).unwrap().is_gone());
        let event = [vec![0; 4], domain_bytes(), vec![0; 8]].concat();
        rejects_truncated_and_damaged(&event, |body| {
            parse_event(procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_LIFECYCLE, body)
        });
        rejects_truncated_and_damaged(&event, |body| {
            parse_event(procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_IO_ERROR, body)
        });
        rejects_truncated_and_damaged(&event[..36], |body| {
            parse_event(
                procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_METADATA_CHANGE,
                body,
            )
        });
    }

    #[test]
    fn parses_recorded_messages() {
        let web1 = &parse_domain_list(&libvirt_body("domains")).unwrap()[0];
        assert_eq!(
            (web1.name_lossy().as_str(), web1.is_active()),
            ("web1", true)
        );
        let all = parse_stats_records(&libvirt_body("stats")).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].domain, *web1);
        let value = |name: &str| {
            let mut params = all[0].params.iter();
            params
                .find(|(param, _)| param == name)
                .map(|(_, value)| value)
        };
        assert_eq!(value("state.state"), Some(&TypedParamValue::Int(1)));
        assert_eq!(value("vcpu.current"), Some(&TypedParamValue::Unsigned(2)));
        let nic = TypedParamValue::Text("web1a".to_owned());
        assert_eq!(value("net.0.name"), Some(&nic));
        assert_eq!(
            value("block.1.name"),
            Some(&TypedParamValue::Text("hdc".to_owned()))
        );
        let info = parse_domain_info(&libvirt_body("info")).unwrap();
        assert_eq!((info.state, info.max_memory, info.vcpus), (1, 98304, 2));
        assert_eq!(parse_job_info(&libvirt_body("job")).unwrap().kind, 0);
        let remote = RemoteError::parse(&libvirt_body("refusal")).unwrap();
        assert!(remote.is_gone() && !remote.is_unsupported());
        assert!(
            remote.to_string().starts_with("Domain not found"),
            "{remote}"
        );

        let suspended = parse_event(
            procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_LIFECYCLE,
            &libvirt_body("lifecycle"),
        );
        let domain = web1.clone();
        let (kind, detail) = (3, 0);
        let expected = DomainEvent::Lifecycle {
            domain,
            kind,
            detail,
        };
        assert_eq!(suspended, Ok(Some(expected)));
        for (number, body) in [
            (
                procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_METADATA_CHANGE,
                libvirt_body("metadata"),
            ),
            (
                procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_DEVICE_ADDED,
                libvirt_body("device"),
            ),
        ] {
            assert_eq!(
                parse_event(number, &body),
                Ok(Some(DomainEvent::DefinitionChanged(web1.clone())))
            );
        }
        let error = parse_event(
            procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_IO_ERROR,
            &libvirt_body("io_error"),
        )
        .unwrap();
        let Some(DomainEvent::IoError {
            domain,
            path,
            alias,
        }) = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(domain.name_lossy(), "web2");
        assert_eq!(path, b"/var/lib/libvirt/small/web2.qcow2");
        assert_eq!(alias, b"virtio-disk0");
        let limited = parse_event(
            procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_TUNABLE,
            &libvirt_body("tunable"),
        )
        .unwrap();
        let Some(DomainEvent::DefinitionChanged(domain)) = limited else {
            panic!("{limited:?}");
        };
        assert_eq!(domain.name_lossy(), "web3");
    }

    #[test]
    fn truncated_recordings_are_rejected() {
        rejects_truncated_and_damaged(&libvirt_body("domains")[..32], parse_domain_list);
        rejects_truncated_and_damaged(&libvirt_body("stats"), parse_stats_records);
        rejects_truncated_and_damaged(&libvirt_body("info"), parse_domain_info);
        rejects_truncated_and_damaged(&libvirt_body("job"), parse_job_info);
        rejects_truncated_and_damaged(&libvirt_body("lifecycle"), |body| {
            parse_event(procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_LIFECYCLE, body)
        });
        rejects_truncated_and_damaged(&libvirt_body("io_error")[..88], |body| {
            parse_event(procedure::REMOTE_PROC_DOMAIN_EVENT_CALLBACK_IO_ERROR, body)
        });
    }

    #[test]
    fn parses_all_seven_value_types() {
        let parse = |kind: u32, value: &[u8]| {
            let header = XdrEncoder::default()
                .put_string(b"a")
                .put_u32(kind)
                .into_bytes();
            XdrDecoder(&[&header, value].concat())
                .read_typed_param()
                .map(|(_, value)| value)
        };
        assert_eq!(parse(1, &[0xff; 4]), Ok(TypedParamValue::Int(-1)));
        assert_eq!(
            parse(2, &[0xff; 4]),
            Ok(TypedParamValue::Unsigned(u32::MAX.into()))
        );
        assert_eq!(parse(3, &[0xff; 8]), Ok(TypedParamValue::Int(-1)));
        assert_eq!(
            parse(4, &[0xff; 8]),
            Ok(TypedParamValue::Unsigned(u64::MAX))
        );
        assert_eq!(
            parse(5, &1.5_f64.to_be_bytes()),
            Ok(TypedParamValue::Float(1.5))
        );
        assert_eq!(parse(6, &[0, 0, 0, 1]), Ok(TypedParamValue::Bool(true)));
        let text = Ok(TypedParamValue::Text("xy\u{fffd}".to_owned()));
        assert_eq!(parse(7, &[0, 0, 0, 3, b'x', b'y', 0xff, 0]), text);
        assert!(parse(0, &[0; 8]).is_err() && parse(8, &[0; 8]).is_err());
    }

    #[test]
    fn formats_uuid_in_five_groups() {
        let uuid = std::array::from_fn(|index| u8::try_from(index).unwrap());
        assert_eq!(format_uuid(&uuid), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
