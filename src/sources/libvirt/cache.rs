//! What the descriptions of domains say, as they were last read.
//!
//! A description changes seldom and libvirt tells when, so it is read again after an
//! event, and else every five minutes in case one was missed; not all in the same scrape.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    domain::About,
    wire::{Event, Guest, Uuid},
};

/// Of those that are only old, one in so many is read again in one scrape, and one more.
const SPREAD: usize = 20;

/// See the module's documentation. Belongs to one connection: what happens before
/// another is made is not told.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<Uuid, Entry>>);

#[derive(Debug)]
struct Entry {
    /// Of which run it is.
    id: i32,
    about: Option<Arc<About>>,
    read: Instant,
    /// When it was last told to have changed.
    changed: Option<Instant>,
}

impl Cache {
    /// What is known of a domain.
    pub(super) fn about(&self, guest: &Guest) -> Option<Arc<About>> {
        let entries = self.entries();
        let entry = entries.get(&guest.uuid).filter(|it| it.id == guest.id)?;
        entry.about.clone()
    }

    /// What a domain's description said that was asked for then; nothing if that made no
    /// sense.
    pub(super) fn put(&self, guest: &Guest, asked: Instant, about: Option<About>) {
        let mut entries = self.entries();
        let changed = entries.get(&guest.uuid).and_then(|entry| entry.changed);
        let entry = Entry {
            id: guest.id,
            about: about.map(Arc::new),
            read: asked,
            changed: changed.filter(|changed| *changed >= asked),
        };
        entries.insert(guest.uuid, entry);
    }

    /// This happened.
    pub(super) fn take(&self, event: &Event) {
        if let Event::Lifecycle { guest, .. } | Event::Changed(guest) = event
            && let Some(entry) = self.entries().get_mut(&guest.uuid)
        {
            entry.changed = Some(Instant::now());
        }
    }

    /// Which of these, all there are, to read again.
    pub(super) fn wanted(&self, guests: &[Guest], lifetime: Duration) -> Vec<usize> {
        let mut entries = self.entries();
        if entries.len() > guests.len() {
            let there: HashSet<_> = guests.iter().map(|guest| guest.uuid).collect();
            entries.retain(|uuid, _| there.contains(uuid));
        }
        let mut wanted = Vec::new();
        let mut old = Vec::new();
        for (at, guest) in guests.iter().enumerate() {
            match entries.get(&guest.uuid) {
                Some(entry) if entry.id == guest.id && entry.changed.is_none() => {
                    if entry.read.elapsed() >= lifetime {
                        old.push((entry.read, at));
                    }
                }
                _ => wanted.push(at),
            }
        }
        old.sort_unstable();
        let some = guests.len() / SPREAD + 1;
        wanted.extend(old.into_iter().take(some).map(|(_, at)| at));
        wanted
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(300);

    fn guest(number: u8, id: i32) -> Guest {
        Guest {
            name: vec![number],
            uuid: [number; 16],
            id,
        }
    }

    fn titled(title: &str) -> About {
        About {
            title: Some(title.to_owned()),
            ..About::default()
        }
    }

    #[test]
    fn a_description_is_read_again_when_it_changed_and_in_the_next_run() {
        let (cache, now) = (Cache::default(), Instant::now());
        let guests = [guest(1, 1), guest(2, -1)];
        assert_eq!(cache.wanted(&guests, LONG), [0, 1]);
        for guest in &guests {
            cache.put(guest, now, Some(titled("a")));
        }
        assert!(cache.wanted(&guests, LONG).is_empty());
        cache.take(&Event::Changed(guests[1].clone()));
        assert_eq!(cache.wanted(&guests, LONG), [1]);
        assert!(cache.about(&guests[1]).is_some());
        cache.put(&guests[1], Instant::now() + LONG, Some(titled("b")));
        assert!(cache.wanted(&guests, LONG).is_empty());

        let guests = [guest(1, 3), guest(2, -1)];
        assert_eq!(cache.wanted(&guests, LONG), [0]);
        assert_eq!(cache.about(&guests[0]), None);
    }

    #[test]
    fn what_changed_while_it_was_read_is_read_again() {
        let (cache, guests) = (Cache::default(), [guest(1, 1)]);
        let asked = Instant::now();
        cache.put(&guests[0], asked, Some(titled("a")));
        cache.take(&Event::Changed(guests[0].clone()));
        cache.put(&guests[0], asked, Some(titled("a")));
        assert_eq!(cache.wanted(&guests, LONG), [0]);
    }

    #[test]
    fn old_ones_are_read_again_a_few_at_a_time_the_oldest_first() {
        let (cache, now) = (Cache::default(), Instant::now());
        let guests: Vec<_> = (0..40).map(|number| guest(number, 1)).collect();
        for (n, guest) in guests.iter().enumerate() {
            let later = Duration::from_nanos(40 - u64::try_from(n).unwrap());
            cache.put(guest, now + later, Some(titled("a")));
        }
        std::thread::sleep(Duration::from_micros(1));
        assert_eq!(cache.wanted(&guests, Duration::ZERO), [39, 38, 37]);
    }

    #[test]
    fn those_that_are_gone_are_forgotten() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.put(&guest(1, 1), now, Some(titled("a")));
        cache.put(&guest(2, 1), now, Some(titled("a")));
        cache.wanted(&[guest(2, 1)], LONG);
        assert_eq!(cache.entries().len(), 1);
    }
}
