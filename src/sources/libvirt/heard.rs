//! What is known without asking: from the last list of domains, and from events since.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Running,
    domain::{About, Lifecycle},
    wire::{self, Event, Guest, Uuid, text, written},
};

/// No more domains are remembered than the daemon may list.
const MAX_DOMAINS: usize = 16_384;
/// No more disks of a domain are remembered to have had errors.
const MAX_DISKS: usize = 64;
/// No longer name of a disk is remembered.
const MAX_NAME: usize = 4096;

/// The numbers of lifecycle events, as in libvirt's header.
const UNDEFINED: i32 = 1;
const STARTED: i32 = 2;
const STOPPED: i32 = 5;
const CRASHED: i32 = 8;
/// Details of some.
const STARTED_WAKEUP: i32 = 4;
const STOPPED_CRASHED: i32 = 2;

/// See the module's documentation. Outlives connections.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    lives: HashMap<Uuid, Life>,
    /// Whether the daemon tells of what becomes of domains.
    has_lifecycle: bool,
    /// Whether it tells of errors of disks.
    has_io_errors: bool,
    running: Arc<Vec<Running>>,
}

#[derive(Debug, Default)]
struct Life {
    starts: u64,
    stops: u64,
    crashes: u64,
    /// Whether it was told that this run crashed.
    has_crashed: bool,
    /// By what the disk is made of and libvirt's name for it.
    io_errors: BTreeMap<(Vec<u8>, Vec<u8>), u64>,
}

impl Heard {
    /// The domains that run.
    pub(super) fn running(&self) -> Arc<Vec<Running>> {
        Arc::clone(&self.inner().running)
    }

    /// The daemon that is connected to tells of these events.
    pub(super) fn listens(&self, is_told: impl Fn(u32) -> bool) {
        let mut inner = self.inner();
        inner.has_lifecycle = is_told(wire::OF_LIFECYCLE);
        inner.has_io_errors = is_told(wire::OF_IO_ERRORS);
    }

    /// These are all domains there are.
    pub(super) fn listed(&self, guests: &[Guest]) {
        let mut inner = self.inner();
        let there: HashSet<_> = guests.iter().map(|guest| guest.uuid).collect();
        inner.lives.retain(|uuid, _| there.contains(uuid));
        let running: Vec<_> = guests.iter().filter_map(running).collect();
        if *inner.running != running {
            inner.running = Arc::new(running);
        }
    }

    /// This happened.
    pub(super) fn take(&self, event: &Event) {
        match event {
            Event::Lifecycle {
                guest,
                what,
                detail,
            } => self.lifecycle(guest, *what, *detail),
            Event::IoError { guest, path, alias } => self.inner().io_error(guest, path, alias),
            Event::Changed(_) => {}
        }
    }

    fn lifecycle(&self, guest: &Guest, what: i32, detail: i32) {
        let mut inner = self.inner();
        match (what, detail) {
            (UNDEFINED, _) if !guest.is_active() => {
                inner.lives.remove(&guest.uuid);
                return;
            }
            (STARTED, STARTED_WAKEUP) => {}
            (STARTED, _) => {
                inner.ends(guest);
                inner.begins(guest);
            }
            (STOPPED, _) => inner.ends(guest),
            _ => {}
        }
        let Some(life) = inner.life(guest) else {
            return;
        };
        match (what, detail) {
            (STARTED, STARTED_WAKEUP) => {}
            (STARTED, _) => {
                life.starts = life.starts.saturating_add(1);
                life.has_crashed = false;
            }
            (STOPPED, detail) => {
                life.stops = life.stops.saturating_add(1);
                if detail == STOPPED_CRASHED {
                    life.crashes();
                }
            }
            (CRASHED, _) => life.crashes(),
            _ => {}
        }
    }

    /// What became of a domain, whose description names its disks; nothing if nobody
    /// tells.
    pub(super) fn of(&self, uuid: &Uuid, about: Option<&About>) -> Option<Lifecycle> {
        let inner = self.inner();
        inner.has_lifecycle.then_some(())?;
        let mut io_errors = inner.has_io_errors.then(BTreeMap::new);
        let Some(life) = inner.lives.get(uuid) else {
            return Some(Lifecycle {
                io_errors,
                ..Lifecycle::default()
            });
        };
        for ((path, alias), count) in &life.io_errors {
            let path = text(path);
            let disks = about.iter().flat_map(|about| &about.disks);
            let mut disks = disks.filter(|disk| disk.source.as_ref() == Some(&path));
            let target = disks.next().map(|disk| disk.target.clone());
            let name = target.unwrap_or_else(|| text(alias));
            if let Some(io_errors) = &mut io_errors {
                let sum: &mut u64 = io_errors.entry(name).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        Some(Lifecycle {
            starts: life.starts,
            stops: life.stops,
            crashes: life.crashes,
            io_errors,
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn life(&mut self, guest: &Guest) -> Option<&mut Life> {
        if self.lives.len() >= MAX_DOMAINS && !self.lives.contains_key(&guest.uuid) {
            return None;
        }
        Some(self.lives.entry(guest.uuid).or_default())
    }

    fn io_error(&mut self, guest: &Guest, path: &[u8], alias: &[u8]) {
        if path.len() > MAX_NAME || alias.len() > MAX_NAME {
            return;
        }
        let Some(life) = self.life(guest) else {
            return;
        };
        let key = (path.to_vec(), alias.to_vec());
        if life.io_errors.len() < MAX_DISKS || life.io_errors.contains_key(&key) {
            let count = life.io_errors.entry(key).or_default();
            *count = count.saturating_add(1);
        }
    }

    fn begins(&mut self, guest: &Guest) {
        if let Some(guest) = running(guest)
            && self.running.len() < MAX_DOMAINS
        {
            Arc::make_mut(&mut self.running).push(guest);
        }
    }

    fn ends(&mut self, guest: &Guest) {
        let uuid = written(&guest.uuid);
        if self.running.iter().any(|it| it.uuid == uuid) {
            Arc::make_mut(&mut self.running).retain(|it| it.uuid != uuid);
        }
    }
}

impl Life {
    /// libvirt says up to twice that it crashed: when the guest says so, and when it is
    /// ended for it.
    fn crashes(&mut self) {
        if !self.has_crashed {
            self.crashes = self.crashes.saturating_add(1);
        }
        self.has_crashed = true;
    }
}

fn running(guest: &Guest) -> Option<Running> {
    Some(Running {
        id: guest.id.try_into().ok()?,
        name: guest.text(),
        uuid: written(&guest.uuid),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::domain::AboutDisk, *};

    fn guest(number: u8, id: i32) -> Guest {
        Guest {
            name: vec![b'a' + number],
            uuid: [number; 16],
            id,
        }
    }

    /// One that is told of everything.
    fn heard() -> Heard {
        let heard = Heard::default();
        heard.listens(|_| true);
        heard
    }

    fn lifecycle(heard: &Heard, guest: Guest, what: i32, detail: i32) {
        heard.take(&Event::Lifecycle {
            guest,
            what,
            detail,
        });
    }

    fn ids(heard: &Heard) -> Vec<u32> {
        heard.running().iter().map(|it| it.id).collect()
    }

    #[test]
    fn a_domain_runs_from_its_start_to_its_end() {
        let heard = heard();
        heard.listed(&[guest(1, 4), guest(2, -1)]);
        assert_eq!(ids(&heard), [4]);
        lifecycle(&heard, guest(2, 5), STARTED, 0);
        assert_eq!(ids(&heard), [4, 5]);
        lifecycle(&heard, guest(1, -1), STOPPED, 1);
        assert_eq!(ids(&heard), [5]);
        lifecycle(&heard, guest(2, 6), STARTED, STARTED_WAKEUP);
        assert_eq!(ids(&heard), [5]);
        let of = |number| heard.of(&[number; 16], None).unwrap();
        assert_eq!((of(1).starts, of(1).stops), (0, 1));
        assert_eq!((of(2).starts, of(2).stops), (1, 0));
    }

    #[test]
    fn a_crash_is_one_however_often_it_is_told() {
        let heard = heard();
        lifecycle(&heard, guest(1, 4), CRASHED, 0);
        lifecycle(&heard, guest(1, -1), STOPPED, STOPPED_CRASHED);
        lifecycle(&heard, guest(1, 5), STARTED, 0);
        lifecycle(&heard, guest(1, -1), STOPPED, STOPPED_CRASHED);
        let life = heard.of(&[1; 16], None).unwrap();
        assert_eq!((life.starts, life.stops, life.crashes), (1, 2, 2));
    }

    #[test]
    fn what_became_of_a_domain_is_forgotten_with_it() {
        let heard = heard();
        lifecycle(&heard, guest(1, 4), STARTED, 0);
        lifecycle(&heard, guest(2, 5), STARTED, 0);
        // Still runs, and is no longer defined.
        lifecycle(&heard, guest(1, 4), UNDEFINED, 0);
        let starts = |number| heard.of(&[number; 16], None).unwrap().starts;
        assert_eq!(starts(1), 1);
        lifecycle(&heard, guest(2, -1), UNDEFINED, 0);
        assert_eq!(starts(2), 0);
        heard.listed(&[]);
        assert_eq!(starts(1), 0);
    }

    #[test]
    fn errors_of_a_disk_are_counted_by_the_guests_name_for_it() {
        let heard = heard();
        let error = |path: &str, alias: &str| {
            heard.take(&Event::IoError {
                guest: guest(1, 4),
                path: path.into(),
                alias: alias.into(),
            });
        };
        error("/a", "virtio-disk0");
        error("/a", "virtio-disk0");
        error("/b", "virtio-disk1");
        let about = About {
            disks: vec![AboutDisk {
                target: "vda".to_owned(),
                source: Some("/a".to_owned()),
                ..AboutDisk::default()
            }],
            ..About::default()
        };
        let errors = heard.of(&[1; 16], Some(&about)).unwrap().io_errors.unwrap();
        let errors: Vec<_> = errors.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(errors, [("vda", 2), ("virtio-disk1", 1)]);
    }

    #[test]
    fn what_nobody_tells_is_not_known() {
        let heard = Heard::default();
        lifecycle(&heard, guest(1, 4), STARTED, 0);
        let of = || heard.of(&[1; 16], None);
        assert_eq!(of(), None);
        heard.listens(|event| event != wire::OF_IO_ERRORS);
        let life = of().unwrap();
        assert_eq!((life.starts, life.io_errors), (1, None));
        heard.listens(|event| event != wire::OF_LIFECYCLE);
        assert_eq!(of(), None);
        heard.listens(|_| true);
        assert_eq!(of().unwrap().io_errors, Some(BTreeMap::new()));
    }

    #[test]
    fn a_daemon_that_makes_things_up_fills_no_memory() {
        let heard = heard();
        for number in 0..u8::MAX {
            heard.take(&Event::IoError {
                guest: guest(1, 4),
                path: vec![number],
                alias: Vec::new(),
            });
        }
        let inner = heard.inner();
        assert_eq!(inner.lives[&[1; 16]].io_errors.len(), MAX_DISKS);
    }
}
