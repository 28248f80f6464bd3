//! libvirt's remote protocol: messages, and what is in those that are used here.
//!
//! Everything is XDR (RFC 4506). The messages are documented in libvirt's
//! `virnetprotocol.x`, what is in them in `remote_protocol.x`. Nothing in here does input
//! or output, and nothing believes a length: what came may be anything.

use std::{fmt, fmt::Write as _};

use super::params::Value;

/// The program that everything but keepalive belongs to.
pub(super) const REMOTE: u32 = 0x2000_8086;
/// The program that says that somebody is there.
pub(super) const KEEPALIVE: u32 = 0x6b65_6570;
/// Keepalive's question.
pub(super) const PING: u32 = 1;
/// Its answer.
pub(super) const PONG: u32 = 2;

/// Longer messages are not taken. libvirt itself has 32 MiB; the longest description of a
/// domain is 4 MiB.
pub(super) const MAX_MESSAGE: usize = 16 << 20;
/// The length, and what is before the body.
const HEADER: usize = 28;

/// No text is longer, says the protocol.
const MAX_TEXT: usize = 4 << 20;
/// No more things are listed, says the protocol.
const MAX_LIST: usize = 16_384;
/// No name is longer.
const MAX_NAME: usize = 4096;
/// More parameters are not taken out of one answer.
const MAX_PARAMS: usize = 1 << 18;
/// There are no more ways to authenticate.
const MAX_AUTH: usize = 20;

/// The numbers of what can be asked, and of what is told by itself.
pub(super) mod procedure {
    pub(in super::super) const OPEN: u32 = 1;
    pub(in super::super) const TYPE: u32 = 3;
    pub(in super::super) const VERSION: u32 = 4;
    pub(in super::super) const XML: u32 = 14;
    pub(in super::super) const INFO: u32 = 16;
    pub(in super::super) const BRIDGE_NAME: u32 = 45;
    pub(in super::super) const AUTH_LIST: u32 = 66;
    pub(in super::super) const AUTH_POLKIT: u32 = 70;
    pub(in super::super) const POOL_INFO: u32 = 87;
    pub(in super::super) const IS_NETWORK_ACTIVE: u32 = 152;
    pub(in super::super) const LIB_VERSION: u32 = 157;
    pub(in super::super) const JOB_INFO: u32 = 163;
    pub(in super::super) const STATE: u32 = 212;
    pub(in super::super) const DOMAINS: u32 = 273;
    pub(in super::super) const POOLS: u32 = 281;
    pub(in super::super) const NETWORKS: u32 = 283;
    pub(in super::super) const REGISTER: u32 = 316;
    pub(in super::super) const STATS: u32 = 344;

    pub(super) const LIFECYCLE: u32 = 318;
    pub(super) const IO_ERROR: u32 = 322;
    pub(super) const DISK_CHANGE: u32 = 327;
    pub(super) const TRAY_CHANGE: u32 = 328;
    pub(super) const DEVICE_REMOVED: u32 = 333;
    pub(super) const BLOCK_JOB: u32 = 339;
    pub(super) const TUNABLE: u32 = 346;
    pub(super) const DEVICE_ADDED: u32 = 354;
    pub(super) const METADATA_CHANGE: u32 = 379;
}

/// The numbers of two events in libvirt's header.
pub(super) const OF_LIFECYCLE: u32 = 0;
pub(super) const OF_IO_ERRORS: u32 = 4;
/// The events that are listened for, by their numbers: lifecycle, I/O errors, and what changes a description: disks and trays, devices removed and added,
/// block jobs (the second kind, which names the disk), limits of disks, metadata.
pub(super) const EVENTS: [u32; 9] = [OF_LIFECYCLE, OF_IO_ERRORS, 9, 10, 15, 16, 17, 19, 23];

/// What is wrong with what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrong(&'static str);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

type Result<T> = std::result::Result<T, Wrong>;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Reply,
    /// What nobody asked for.
    Told,
    /// A stream, or one with files: nothing that is used here.
    Other,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Call => 0,
            Self::Reply => 1,
            Self::Told | Self::Other => 2,
        }
    }

    fn of(number: u32) -> Self {
        match number {
            0 => Self::Call,
            1 => Self::Reply,
            2 => Self::Told,
            _ => Self::Other,
        }
    }
}

/// A message.
#[derive(Debug, PartialEq)]
pub(super) struct Message<'a> {
    pub(super) program: u32,
    pub(super) procedure: u32,
    pub(super) kind: Kind,
    pub(super) serial: u32,
    /// Whether it is an error instead of what was asked for.
    pub(super) is_error: bool,
    pub(super) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message in these bytes and the bytes behind it, or nothing while it is
    /// not complete.
    pub(super) fn split(bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>> {
        let Some((length, _)) = bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length < HEADER {
            return Err(Wrong("a message is shorter than its header"));
        }
        if length > MAX_MESSAGE {
            return Err(Wrong("a message is too long"));
        }
        let Some((message, rest)) = bytes.split_at_checked(length) else {
            return Ok(None);
        };
        let mut header = Reader(message);
        header.number()?;
        let program = header.number()?;
        let version = header.number()?;
        if version != 1 {
            return Err(Wrong("a message is of another version of the protocol"));
        }
        let message = Self {
            program,
            procedure: header.number()?,
            kind: Kind::of(header.number()?),
            serial: header.number()?,
            is_error: header.number()? == 1,
            body: header.0,
        };
        Ok(Some((message, rest)))
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let length = HEADER.saturating_add(self.body.len());
        let mut body = Body(Vec::with_capacity(length));
        for number in [
            u32::try_from(length).unwrap_or(u32::MAX),
            self.program,
            1,
            self.procedure,
            self.kind.number(),
            self.serial,
            self.is_error.into(),
        ] {
            body = body.number(number);
        }
        body.0.extend_from_slice(self.body);
        body.0
    }
}

/// A universally unique identifier.
pub(super) type Uuid = [u8; 16];

/// A UUID as it is written.
pub(super) fn written(uuid: &Uuid) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string does not fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// A domain as the protocol names it. Names are bytes, for nobody says that they are UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Guest {
    pub(super) name: Vec<u8>,
    pub(super) uuid: Uuid,
    /// Negative while it does not run.
    pub(super) id: i32,
}

impl Guest {
    pub(super) fn is_active(&self) -> bool {
        self.id >= 0
    }

    pub(super) fn text(&self) -> String {
        text(&self.name)
    }
}

/// A storage pool or a network as the protocol names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) name: Vec<u8>,
    pub(super) uuid: Uuid,
}

/// A text that may be none.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What goes into a request.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Names and nothing longer are sent.
    pub(super) fn text(self, text: &[u8]) -> Self {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let mut body = self.number(length);
        body.0.extend_from_slice(text);
        let padded = body.0.len().next_multiple_of(4);
        body.0.resize(padded, 0);
        body
    }

    pub(super) fn some(self, text: &[u8]) -> Self {
        self.number(1).text(text)
    }

    pub(super) fn guest(self, guest: &Guest) -> Self {
        let body = self.thing(&guest.name, &guest.uuid);
        body.number(guest.id.cast_unsigned())
    }

    pub(super) fn thing(self, name: &[u8], uuid: &Uuid) -> Self {
        let mut body = self.text(name);
        body.0.extend_from_slice(uuid);
        body
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The rest of what is being read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let split = self.0.split_at_checked(length);
        let (taken, rest) = split.ok_or(Wrong("an answer ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N]> {
        let split = self.0.split_first_chunk();
        let (taken, rest) = split.ok_or(Wrong("an answer ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.chunk()?))
    }

    fn int(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.chunk()?))
    }

    fn long(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.chunk()?))
    }

    fn is(&mut self) -> Result<bool> {
        Ok(self.number()? != 0)
    }

    fn bytes(&mut self, most: usize) -> Result<&'a [u8]> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if length > most {
            return Err(Wrong("a text is too long"));
        }
        let bytes = self.take(length)?;
        self.take(length.next_multiple_of(4) - length)?;
        Ok(bytes)
    }

    fn text(&mut self, most: usize) -> Result<String> {
        self.bytes(most).map(text)
    }

    fn list<T>(&mut self, most: usize, item: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if length > most {
            return Err(Wrong("a list is too long"));
        }
        // Not made as long as it claims to be, before there is anything in it.
        let mut list = Vec::new();
        for _ in 0..length {
            list.push(item(self)?);
        }
        Ok(list)
    }

    fn guest(&mut self) -> Result<Guest> {
        let Thing { name, uuid } = self.thing()?;
        let id = self.int()?;
        Ok(Guest { name, uuid, id })
    }

    fn thing(&mut self) -> Result<Thing> {
        Ok(Thing {
            name: self.bytes(MAX_NAME)?.to_vec(),
            uuid: self.chunk()?,
        })
    }

    fn param(&mut self) -> Result<(String, Value)> {
        let name = self.text(MAX_NAME)?;
        let value = match self.number()? {
            1 => Value::Int(self.int()?.into()),
            2 => Value::Unsigned(self.number()?.into()),
            3 => Value::Int(self.long()?.cast_signed()),
            4 => Value::Unsigned(self.long()?),
            5 => Value::Float(f64::from_bits(self.long()?)),
            6 => Value::Bool(self.is()?),
            7 => Value::Text(self.text(MAX_TEXT)?),
            _ => return Err(Wrong("a value is of no known type")),
        };
        Ok((name, value))
    }
}

/// Why the daemon did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    code: i32,
    message: String,
}

impl Refusal {
    pub(super) fn read(body: &[u8]) -> Result<Self> {
        let mut reader = Reader(body);
        let code = reader.int()?;
        // Which part of libvirt says so.
        reader.int()?;
        let message = match reader.number()? {
            0 => String::new(),
            _ => reader.text(MAX_TEXT)?,
        };
        Ok(Self { code, message })
    }

    /// Whether it cannot do such a thing at all.
    pub(super) fn is_unsupported(&self) -> bool {
        // VIR_ERR_NO_SUPPORT, VIR_ERR_ARGUMENT_UNSUPPORTED
        matches!(self.code, 3 | 74)
    }

    /// Whether what was asked about is not there any more.
    pub(super) fn is_gone(&self) -> bool {
        // VIR_ERR_NO_DOMAIN, VIR_ERR_NO_NETWORK, VIR_ERR_NO_STORAGE_POOL
        matches!(self.code, 42 | 43 | 49)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(f, "error {}", self.code),
            message => f.write_str(message),
        }
    }
}

/// How one may authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Auth {
    None,
    Polkit,
    /// SASL, or what is not known here.
    Other,
}

pub(super) fn auths(body: &[u8]) -> Result<Vec<Auth>> {
    Reader(body).list(MAX_AUTH, |reader| {
        Ok(match reader.number()? {
            0 => Auth::None,
            2 => Auth::Polkit,
            _ => Auth::Other,
        })
    })
}

/// An answer that is a number.
pub(super) fn int(body: &[u8]) -> Result<i32> {
    Reader(body).int()
}

/// An answer that is a longer number.
pub(super) fn long(body: &[u8]) -> Result<u64> {
    Reader(body).long()
}

/// An answer that is a text.
pub(super) fn string(body: &[u8]) -> Result<String> {
    Reader(body).text(MAX_TEXT)
}

pub(super) fn guests(body: &[u8]) -> Result<Vec<Guest>> {
    Reader(body).list(MAX_LIST, Reader::guest)
}

pub(super) fn things(body: &[u8]) -> Result<Vec<Thing>> {
    Reader(body).list(MAX_LIST, Reader::thing)
}

/// What is said of a domain.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    pub(super) guest: Guest,
    pub(super) params: Vec<(String, Value)>,
}

pub(super) fn records(body: &[u8]) -> Result<Vec<Record>> {
    let mut reader = Reader(body);
    let mut records = Vec::new();
    let mut left = MAX_PARAMS;
    let length = reader.number()?;
    if usize::try_from(length).is_ok_and(|length| length > MAX_LIST) {
        return Err(Wrong("a list is too long"));
    }
    for _ in 0..length {
        let guest = reader.guest()?;
        let params = reader.list(left, Reader::param)?;
        left = left.saturating_sub(params.len());
        records.push(Record { guest, params });
    }
    Ok(records)
}

/// What is said of a domain where there are no statistics.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) state: i32,
    /// KiB
    pub(super) max_memory: u64,
    /// KiB
    pub(super) memory: u64,
    pub(super) vcpus: u32,
    /// Nanoseconds.
    pub(super) cpu_time: u64,
}

pub(super) fn info(body: &[u8]) -> Result<Info> {
    let mut reader = Reader(body);
    Ok(Info {
        state: reader.int()?,
        max_memory: reader.long()?,
        memory: reader.long()?,
        vcpus: reader.number()?,
        cpu_time: reader.long()?,
    })
}

/// State and reason.
pub(super) fn state(body: &[u8]) -> Result<(i32, i32)> {
    let mut reader = Reader(body);
    Ok((reader.int()?, reader.int()?))
}

/// What is said of a domain's job.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JobInfo {
    pub(super) kind: i32,
    /// Milliseconds.
    pub(super) elapsed: u64,
    /// Milliseconds.
    pub(super) remaining: u64,
    /// In all, done, and left.
    pub(super) data: [u64; 3],
    pub(super) memory: [u64; 3],
    pub(super) file: [u64; 3],
}

pub(super) fn job(body: &[u8]) -> Result<JobInfo> {
    let mut reader = Reader(body);
    let kind = reader.int()?;
    let mut three = || Ok([reader.long()?, reader.long()?, reader.long()?]);
    // The times are two, the sizes three times three.
    let [elapsed, remaining, total] = three()?;
    let [done, left, memory_total] = three()?;
    let [memory_done, memory_left, file_total] = three()?;
    let (file_done, file_left) = (reader.long()?, reader.long()?);
    Ok(JobInfo {
        kind,
        elapsed,
        remaining,
        data: [total, done, left],
        memory: [memory_total, memory_done, memory_left],
        file: [file_total, file_done, file_left],
    })
}

/// What is said of a storage pool: its state, capacity, allocation, and what is left.
pub(super) fn pool(body: &[u8]) -> Result<(u32, [u64; 3])> {
    let mut reader = Reader(body);
    let state = reader.number()?;
    Ok((state, [reader.long()?, reader.long()?, reader.long()?]))
}

/// What was told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// By the numbers of libvirt's header.
    Lifecycle {
        guest: Guest,
        what: i32,
        detail: i32,
    },
    /// A request of a domain's to a disk failed.
    IoError {
        guest: Guest,
        /// What the disk is made of.
        path: Vec<u8>,
        /// libvirt's name for it.
        alias: Vec<u8>,
    },
    /// Its description is not what it was.
    Changed(Guest),
}

/// An event that was listened for; nothing for others.
pub(super) fn event(procedure: u32, body: &[u8]) -> Result<Option<Event>> {
    let mut reader = Reader(body);
    let mut guest = || {
        // Which registration it is for.
        reader.int()?;
        reader.guest()
    };
    Ok(Some(match procedure {
        procedure::LIFECYCLE => Event::Lifecycle {
            guest: guest()?,
            what: reader.int()?,
            detail: reader.int()?,
        },
        procedure::IO_ERROR => Event::IoError {
            guest: guest()?,
            path: reader.bytes(MAX_TEXT)?.to_vec(),
            alias: reader.bytes(MAX_TEXT)?.to_vec(),
        },
        procedure::DISK_CHANGE
        | procedure::TRAY_CHANGE
        | procedure::DEVICE_REMOVED
        | procedure::BLOCK_JOB
        | procedure::TUNABLE
        | procedure::DEVICE_ADDED
        | procedure::METADATA_CHANGE => Event::Changed(guest()?),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::{
        super::fake::{FakeGuest, records as recorded},
        *,
    };
    use crate::fixtures::libvirt_body;

    fn guest(name: &[u8], id: i32) -> Guest {
        Guest {
            name: name.to_vec(),
            uuid: [7; 16],
            id,
        }
    }

    fn said(body: &[u8]) -> Message<'_> {
        Message {
            program: REMOTE,
            procedure: procedure::DOMAINS,
            kind: Kind::Reply,
            serial: 9,
            is_error: false,
            body,
        }
    }

    /// Nothing that ends too early is taken for something, and nothing panics.
    fn is_nothing_less<T>(body: &[u8], read: impl Fn(&[u8]) -> Result<T>) {
        assert!(read(body).is_ok());
        for length in 0..body.len() {
            let (cut, _) = body.split_at(length);
            assert!(read(cut).is_err(), "{length} of {}", body.len());
        }
        for at in 0..body.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = body.to_vec();
                damaged[at] = value;
                drop(read(&damaged));
            }
        }
    }

    #[test]
    fn messages_are_told_apart() {
        let first = said(&[1, 2, 3, 4]).bytes();
        assert_eq!(first.len(), 32);
        assert_eq!(first[..8], [0, 0, 0, 32, 0x20, 0, 0x80, 0x86]);
        let both = [first.clone(), said(&[]).bytes()].concat();
        let (message, rest) = Message::split(&both).unwrap().unwrap();
        assert_eq!(message, said(&[1, 2, 3, 4]));
        let (message, rest) = Message::split(rest).unwrap().unwrap();
        assert_eq!(message, said(&[]));
        assert_eq!(Message::split(rest), Ok(None));
        for length in 0..first.len() {
            assert_eq!(Message::split(&first[..length]), Ok(None));
        }
    }

    #[test]
    fn a_length_is_not_believed() {
        for length in [0, 27, (16 << 20) + 1, u32::MAX] {
            assert!(Message::split(&length.to_be_bytes()).is_err(), "{length}");
        }
        let whole = |length: u32| [length.to_be_bytes(), [0; 4]].concat();
        assert_eq!(Message::split(&whole(16 << 20)), Ok(None));
        assert!(guests(&16_385_u32.to_be_bytes()).is_err());
        assert!(string(&whole(u32::MAX)).is_err());
        assert!(string(&whole((4 << 20) + 1)).is_err());
        let many = [vec![0, 0, 0, 1], guest_bytes(), vec![0xff; 64]].concat();
        assert_eq!(records(&many), Err(Wrong("a list is too long")));
    }

    fn guest_bytes() -> Vec<u8> {
        Body::default().guest(&guest(b"abcde", 3)).bytes()
    }

    #[test]
    fn an_answer_that_ends_too_early_is_no_answer() {
        let list = [vec![0, 0, 0, 2], guest_bytes(), guest_bytes()].concat();
        is_nothing_less(&list, guests);
        assert_eq!(guests(&list).unwrap()[1], guest(b"abcde", 3));
        let list = Body::default().number(1).thing(b"ab", &[1; 16]).bytes();
        is_nothing_less(&list, things);
        let fake = FakeGuest {
            name: b"a".to_vec(),
            id: 4,
            is_hung: false,
            busy: 0,
            title: String::new(),
        };
        is_nothing_less(&recorded(&[&fake, &fake], false), records);
        is_nothing_less(&Body::default().text(b"<domain/>").bytes(), string);
        is_nothing_less(&[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2], auths);
        is_nothing_less(&[1; 92], job);
        is_nothing_less(&[1; 32], info);
        is_nothing_less(&[1; 28], pool);
        is_nothing_less(&[1; 8], state);
        let refusal = Body::default()
            .number(42)
            .number(10)
            .some(b"no domain")
            .bytes();
        is_nothing_less(&refusal, Refusal::read);
        assert!(Refusal::read(&refusal).unwrap().is_gone());
        let told = [vec![0; 4], guest_bytes(), vec![0; 8]].concat();
        is_nothing_less(&told, |body| event(procedure::LIFECYCLE, body));
        is_nothing_less(&told, |body| event(procedure::IO_ERROR, body));
        is_nothing_less(&told[..36], |body| event(procedure::METADATA_CHANGE, body));
    }

    #[test]
    fn what_libvirt_said_is_understood() {
        let web1 = &guests(&libvirt_body("domains")).unwrap()[0];
        assert_eq!((web1.text().as_str(), web1.is_active()), ("web1", true));
        let all = records(&libvirt_body("stats")).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].guest, *web1);
        let value = |name: &str| {
            let mut params = all[0].params.iter();
            params.find(|(of, _)| of == name).map(|(_, value)| value)
        };
        assert_eq!(value("state.state"), Some(&Value::Int(1)));
        assert_eq!(value("vcpu.current"), Some(&Value::Unsigned(2)));
        let nic = Value::Text("web1a".to_owned());
        assert_eq!(value("net.0.name"), Some(&nic));
        assert_eq!(value("block.1.name"), Some(&Value::Text("hdc".to_owned())));
        let info = info(&libvirt_body("info")).unwrap();
        assert_eq!((info.state, info.max_memory, info.vcpus), (1, 98304, 2));
        assert_eq!(job(&libvirt_body("job")).unwrap().kind, 0);
        let refusal = Refusal::read(&libvirt_body("refusal")).unwrap();
        assert!(refusal.is_gone() && !refusal.is_unsupported());
        assert!(
            refusal.to_string().starts_with("Domain not found"),
            "{refusal}"
        );

        let suspended = event(procedure::LIFECYCLE, &libvirt_body("lifecycle"));
        let guest = web1.clone();
        let (what, detail) = (3, 0);
        let expected = Event::Lifecycle {
            guest,
            what,
            detail,
        };
        assert_eq!(suspended, Ok(Some(expected)));
        for (number, told) in [
            (procedure::METADATA_CHANGE, libvirt_body("metadata")),
            (procedure::DEVICE_ADDED, libvirt_body("device")),
        ] {
            assert_eq!(event(number, &told), Ok(Some(Event::Changed(web1.clone()))));
        }
        let error = event(procedure::IO_ERROR, &libvirt_body("io_error")).unwrap();
        let Some(Event::IoError { guest, path, alias }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(guest.text(), "web2");
        assert_eq!(path, b"/var/lib/libvirt/small/web2.qcow2");
        assert_eq!(alias, b"virtio-disk0");
        let limited = event(procedure::TUNABLE, &libvirt_body("tunable")).unwrap();
        let Some(Event::Changed(guest)) = limited else {
            panic!("{limited:?}");
        };
        assert_eq!(guest.text(), "web3");
    }

    #[test]
    fn what_libvirt_said_and_did_not_end_is_not_understood() {
        is_nothing_less(&libvirt_body("domains")[..32], guests);
        is_nothing_less(&libvirt_body("stats"), records);
        is_nothing_less(&libvirt_body("info"), info);
        is_nothing_less(&libvirt_body("job"), job);
        is_nothing_less(&libvirt_body("lifecycle"), |it| {
            event(procedure::LIFECYCLE, it)
        });
        is_nothing_less(&libvirt_body("io_error")[..88], |it| {
            event(procedure::IO_ERROR, it)
        });
    }

    #[test]
    fn values_are_of_seven_types() {
        let one = |kind: u32, value: &[u8]| {
            let head = Body::default().text(b"a").number(kind).bytes();
            Reader(&[&head, value].concat())
                .param()
                .map(|(_, value)| value)
        };
        assert_eq!(one(1, &[0xff; 4]), Ok(Value::Int(-1)));
        assert_eq!(one(2, &[0xff; 4]), Ok(Value::Unsigned(u32::MAX.into())));
        assert_eq!(one(3, &[0xff; 8]), Ok(Value::Int(-1)));
        assert_eq!(one(4, &[0xff; 8]), Ok(Value::Unsigned(u64::MAX)));
        assert_eq!(one(5, &1.5_f64.to_be_bytes()), Ok(Value::Float(1.5)));
        assert_eq!(one(6, &[0, 0, 0, 1]), Ok(Value::Bool(true)));
        let text = Ok(Value::Text("xy\u{fffd}".to_owned()));
        assert_eq!(one(7, &[0, 0, 0, 3, b'x', b'y', 0xff, 0]), text);
        assert!(one(0, &[0; 8]).is_err() && one(8, &[0; 8]).is_err());
    }

    #[test]
    fn a_uuid_is_written_in_five_groups() {
        let uuid = std::array::from_fn(|at| u8::try_from(at).unwrap());
        assert_eq!(written(&uuid), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
