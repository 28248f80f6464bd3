//! A libvirtd for tests, on a real socket, written from what the real one was seen to do.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic::AtomicUsize, atomic::Ordering},
    thread,
    time::Duration,
};

use super::wire::{self, Body, Kind, Message, Thing, procedure};

/// A domain.
#[derive(Debug, Clone)]
pub(super) struct FakeGuest {
    pub(super) name: Vec<u8>,
    pub(super) id: i32,
    /// Whether its monitor answers nobody.
    pub(super) is_hung: bool,
    /// So many times it is busy for somebody else.
    pub(super) busy: usize,
    pub(super) title: String,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    Usual,
    Refused(i32),
    /// These bytes instead of any message.
    Raw(Vec<u8>),
    /// A reply with this in it.
    Reply(Vec<u8>),
    /// Only the first bytes of what is in the reply.
    Cut(usize),
    Never,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Came {
    /// On which connection, by number.
    pub(super) on: usize,
    pub(super) procedure: u32,
    pub(super) body: Vec<u8>,
}

/// The groups that no monitor is needed for.
const QUICK: u32 = 0b1_0001;

type Decide = Box<dyn FnMut(&Came) -> Fate + Send>;

#[derive(Default)]
pub(super) struct World {
    pub(super) guests: Vec<FakeGuest>,
    pub(super) pools: Vec<Vec<u8>>,
    pub(super) networks: Vec<Vec<u8>>,
    pub(super) driver: &'static str,
    pub(super) auths: Vec<u32>,
    /// Whether it does nothing at all.
    pub(super) is_hung: bool,
    pub(super) decide: Option<Decide>,
    /// How long each answer takes.
    pub(super) takes: Duration,
    pub(super) came: Vec<Came>,
    pub(super) pongs: usize,
    /// Requests without an answer, by connection, now and at most.
    pub(super) outstanding: HashMap<usize, usize>,
    pub(super) most: HashMap<usize, usize>,
    /// Those that wait for a domain to go on: connection, serial, name.
    held: Vec<(usize, u32, Vec<u8>)>,
    streams: HashMap<usize, UnixStream>,
}

impl World {
    pub(super) fn guest(&mut self, name: &str) -> &mut FakeGuest {
        let mut guests = self.guests.iter_mut();
        guests.find(|guest| guest.name == name.as_bytes()).unwrap()
    }

    pub(super) fn count(&self, procedure: u32) -> usize {
        self.came
            .iter()
            .filter(|came| came.procedure == procedure)
            .count()
    }

    fn named<'a>(&'a self, body: &[u8]) -> Option<&'a FakeGuest> {
        let mut guests = self.guests.iter();
        guests.find(|guest| {
            let uuid = uuid(&guest.name);
            body.windows(16).any(|bytes| bytes == uuid)
        })
    }

    fn reply(&mut self, on: usize, serial: u32, procedure: u32, is_error: bool, body: &[u8]) {
        let message = Message {
            program: wire::REMOTE,
            procedure,
            kind: Kind::Reply,
            serial,
            is_error,
            body,
        };
        self.write(on, &message.bytes());
        *self.outstanding.get_mut(&on).unwrap() -= 1;
    }

    fn write(&mut self, on: usize, bytes: &[u8]) {
        // Whoever asked may have gone.
        if let Some(stream) = self.streams.get_mut(&on) {
            stream.write_all(bytes).ok();
        }
    }
}

/// See the module's documentation.
pub(super) struct FakeLibvirt {
    pub(super) socket: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    changed: Condvar,
    is_over: Mutex<bool>,
    connections: AtomicUsize,
}

impl FakeLibvirt {
    /// One with these domains, which run.
    pub(super) fn start(socket: &Path, guests: &[&str]) -> Self {
        let guests = guests.iter().zip(1..).map(|(name, id)| FakeGuest {
            name: name.as_bytes().to_vec(),
            id,
            is_hung: false,
            busy: 0,
            title: format!("about {name}"),
        });
        let world = World {
            guests: guests.collect(),
            driver: "QEMU",
            auths: vec![0],
            ..World::default()
        };
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
            changed: Condvar::new(),
            is_over: Mutex::new(false),
            connections: AtomicUsize::new(0),
        });
        let listener = UnixListener::bind(socket).unwrap();
        let of = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if *of.is_over.lock().unwrap() {
                    return;
                }
                let stream = stream.unwrap();
                let on = of.connections.fetch_add(1, Ordering::SeqCst);
                let mut world = of.world.lock().unwrap();
                world.streams.insert(on, stream.try_clone().unwrap());
                world.outstanding.insert(on, 0);
                let of = Arc::clone(&of);
                thread::spawn(move || converse(&of, on, stream));
            }
        });
        Self {
            socket: socket.to_owned(),
            shared,
        }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Lets requests be met by something else than usual.
    pub(super) fn decide(&self, decide: impl FnMut(&Came) -> Fate + Send + 'static) {
        self.world().decide = Some(Box::new(decide));
    }

    /// Stops doing anything, or goes on.
    pub(super) fn hang(&self, is_hung: bool) {
        self.world().is_hung = is_hung;
        self.shared.changed.notify_all();
    }

    /// Lets a domain go on.
    pub(super) fn resume(&self, name: &str) {
        let mut world = self.world();
        world.guest(name).is_hung = false;
        let held = std::mem::take(&mut world.held);
        for (on, serial, who) in held {
            if who == name.as_bytes() {
                let guest = world.guest(name).clone();
                let body = records(&[&guest], false);
                world.reply(on, serial, procedure::STATS, false, &body);
            } else {
                world.held.push((on, serial, who));
            }
        }
    }

    /// Tells something on the first connection.
    pub(super) fn tell(&self, program: u32, procedure: u32, body: &[u8]) {
        let message = Message {
            program,
            procedure,
            kind: Kind::Told,
            serial: 0,
            is_error: false,
            body,
        };
        self.world().write(0, &message.bytes());
    }

    /// Tells something about a domain: the numbers and texts behind it.
    pub(super) fn event(&self, procedure: u32, name: &str, rest: &[u8]) {
        let guest = self.world().guest(name).clone();
        let mut body = named(Body::default().number(7), &guest).bytes();
        body.extend(rest);
        self.tell(wire::REMOTE, procedure, &body);
    }

    /// Waits until this is so.
    pub(super) fn until(&self, is_so: impl Fn(&World) -> bool) {
        for _ in 0..2000 {
            if is_so(&self.world()) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("it never was so: {:?}", self.world().came);
    }
}

impl Drop for FakeLibvirt {
    fn drop(&mut self) {
        *self.shared.is_over.lock().unwrap() = true;
        self.hang(false);
        std::fs::remove_file(&self.socket).ok();
        for stream in self.world().streams.values() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

/// A UUID that follows from a name.
pub(super) fn uuid(name: &[u8]) -> [u8; 16] {
    let mut uuid = [0xa5; 16];
    for (byte, of) in uuid.iter_mut().zip(name.iter().rev()) {
        *byte = *of;
    }
    uuid
}

fn converse(shared: &Arc<Shared>, on: usize, mut stream: UnixStream) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let mut world = shared.world.lock().unwrap();
        while world.is_hung {
            world = shared.changed.wait(world).unwrap();
        }
        drop(world);
        while let Some((message, rest)) = Message::split(&bytes).unwrap() {
            take(shared, on, &message);
            bytes = rest.to_vec();
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    }
    shared.world.lock().unwrap().streams.remove(&on);
}

fn take(shared: &Arc<Shared>, on: usize, message: &Message<'_>) {
    let mut world = shared.world.lock().unwrap();
    if message.program == wire::KEEPALIVE {
        assert_eq!((message.procedure, message.kind), (wire::PONG, Kind::Told));
        world.pongs += 1;
        return;
    }
    assert_eq!((message.program, message.kind), (wire::REMOTE, Kind::Call));
    let (procedure, serial) = (message.procedure, message.serial);
    let came = Came {
        on,
        procedure,
        body: message.body.to_vec(),
    };
    world.came.push(came.clone());
    let outstanding = world.outstanding.get_mut(&on).unwrap();
    *outstanding += 1;
    let outstanding = *outstanding;
    let most = world.most.entry(on).or_default();
    *most = outstanding.max(*most);
    let fate = match &mut world.decide {
        Some(decide) => decide(&came),
        None => Fate::Usual,
    };
    let (is_error, body) = match fate {
        Fate::Never => return,
        Fate::Raw(bytes) => return world.write(on, &bytes),
        Fate::Reply(body) => (false, body),
        Fate::Refused(code) => (true, refusal(code)),
        fate => {
            let Some(mut body) = usual(&mut world, &came, serial) else {
                return;
            };
            if let Fate::Cut(length) = fate {
                body.truncate(length);
            }
            (false, body)
        }
    };
    if world.takes.is_zero() {
        return world.reply(on, serial, procedure, is_error, &body);
    }
    let (takes, shared) = (world.takes, Arc::clone(shared));
    thread::spawn(move || {
        thread::sleep(takes);
        let mut world = shared.world.lock().unwrap();
        world.reply(on, serial, procedure, is_error, &body);
    });
}

fn refusal(code: i32) -> Vec<u8> {
    let body = Body::default().number(code.cast_unsigned()).number(7);
    body.some(b"it\nis not to be").number(2).bytes()
}

fn usual(world: &mut World, came: &Came, serial: u32) -> Option<Vec<u8>> {
    let body = Body::default();
    let length = |length: usize| u32::try_from(length).unwrap();
    Some(match came.procedure {
        procedure::AUTH_LIST => {
            let body = body.number(length(world.auths.len()));
            world
                .auths
                .iter()
                .fold(body, |body, auth| body.number(*auth))
                .bytes()
        }
        procedure::AUTH_POLKIT => body.number(1).bytes(),
        procedure::OPEN => Vec::new(),
        procedure::TYPE => body.text(world.driver.as_bytes()).bytes(),
        procedure::VERSION => 7_002_022_u64.to_be_bytes().to_vec(),
        procedure::LIB_VERSION => 9_000_000_u64.to_be_bytes().to_vec(),
        procedure::REGISTER => body.number(7).bytes(),
        procedure::DOMAINS => {
            let guests = world.guests.iter();
            let body = guests.fold(body.number(length(world.guests.len())), named);
            body.number(1).bytes()
        }
        procedure::STATS => {
            let mut asked = Vec::new();
            let at = came.body.get(4..).unwrap();
            for guest in &mut world.guests {
                let uuid = uuid(&guest.name);
                if at.windows(16).any(|bytes| bytes == uuid) {
                    asked.push(guest.clone());
                    guest.busy = guest.busy.saturating_sub(1);
                }
            }
            if let [guest] = asked.as_slice()
                && guest.is_hung
                && groups(&came.body) & !QUICK != 0
            {
                let is_held = world.held.iter().any(|(_, _, who)| *who == guest.name);
                if !is_held {
                    world.held.push((came.on, serial, guest.name.clone()));
                    return None;
                }
            }
            let asked: Vec<_> = asked.iter().collect();
            let is_quick = groups(&came.body) & !QUICK == 0;
            records(&asked, is_quick)
        }
        procedure::XML => {
            let guest = world.named(&came.body)?;
            let xml = format!("<domain><title>{}</title></domain>", guest.title);
            body.text(xml.as_bytes()).bytes()
        }
        procedure::INFO => {
            let guest = world.named(&came.body)?;
            let body = body.number(if guest.id < 0 { 5 } else { 1 });
            let mut bytes = body.bytes();
            bytes.extend(2048_u64.to_be_bytes());
            bytes.extend(1024_u64.to_be_bytes());
            bytes.extend(3_u32.to_be_bytes());
            bytes.extend(5_000_000_000_u64.to_be_bytes());
            bytes
        }
        procedure::STATE => body.number(1).number(9).bytes(),
        procedure::JOB_INFO => {
            let mut bytes = body.number(2).bytes();
            for number in 1..=11_u64 {
                bytes.extend((number * 1000).to_be_bytes());
            }
            bytes
        }
        procedure::POOLS => things(&world.pools),
        procedure::NETWORKS => things(&world.networks),
        procedure::POOL_INFO => {
            let is_off = came.body.windows(3).any(|bytes| bytes == b"off");
            let mut bytes = body.number(if is_off { 0 } else { 2 }).bytes();
            for number in [30_u64, 10, 20] {
                bytes.extend(number.to_be_bytes());
            }
            bytes
        }
        procedure::IS_NETWORK_ACTIVE => {
            let is_off = came.body.windows(3).any(|bytes| bytes == b"off");
            body.number((!is_off).into()).bytes()
        }
        procedure::BRIDGE_NAME => body.text(b"virbr0").bytes(),
        procedure => panic!("procedure {procedure} is not known here"),
    })
}

/// The groups that are asked for.
pub(super) fn groups(body: &[u8]) -> u32 {
    let [.., a, b, c, d, _, _, _, _] = body else {
        return 0;
    };
    u32::from_be_bytes([*a, *b, *c, *d])
}

fn named(body: Body, guest: &FakeGuest) -> Body {
    let body = body.thing(&guest.name, &uuid(&guest.name));
    body.number(guest.id.cast_unsigned())
}

fn things(names: &[Vec<u8>]) -> Vec<u8> {
    let things = names.iter().map(|name| Thing {
        name: name.clone(),
        uuid: uuid(name),
    });
    let body = Body::default().number(u32::try_from(names.len()).unwrap());
    let add = |body: Body, thing: Thing| body.thing(&thing.name, &thing.uuid);
    things.fold(body, add).number(1).bytes()
}

pub(super) fn records(guests: &[&FakeGuest], is_quick: bool) -> Vec<u8> {
    let body = Body::default().number(u32::try_from(guests.len()).unwrap());
    let body = guests.iter().fold(body, |body, guest| {
        let is_on = guest.id >= 0;
        let state: u32 = if is_on { 1 } else { 5 };
        let mut params = vec![("state.state", 1, u64::from(state)), ("state.reason", 1, 1)];
        if !is_quick {
            // libvirt 9 says this of those that do not run, too.
            params.extend([("cpu.time", 4, 7_000_000_000)]);
            params.extend([("balloon.maximum", 4, 2048), ("balloon.current", 4, 1024)]);
            params.extend([("block.count", 2, 1)]);
            if is_on && !guest.is_hung && guest.busy == 0 {
                params.extend([("balloon.rss", 4, 512), ("block.0.rd.reqs", 4, 11)]);
            }
        }
        let texts = if is_quick { 0 } else { 2 };
        let count = u32::try_from(params.len() + texts).unwrap();
        let mut body = named(body, guest).number(count);
        for (name, kind, value) in params {
            body = body.text(name.as_bytes()).number(kind);
            let [high, low] =
                [value >> 32, value & 0xffff_ffff].map(|it| u32::try_from(it).unwrap());
            if kind == 4 {
                body = body.number(high);
            }
            body = body.number(low);
        }
        if texts > 0 {
            body = body.text(b"block.0.name").number(7).text(b"vda");
            body = body.text(b"block.0.path").number(7).text(b"/a");
        }
        body
    });
    body.bytes()
}
