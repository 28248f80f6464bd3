//! Cache of domain definitions.
//!
//! A definition seldom changes and libvirt reports changes with an event, so it is read again
//! after an event, and otherwise every five minutes in case an event was missed. These refreshes
//! are spread over several scrapes.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    domain::DomainDef,
    wire::{DomainEvent, DomainRef, Uuid},
};

/// Per scrape, at most `domains / REFRESH_DIVISOR + 1` expired definitions are read again.
const REFRESH_DIVISOR: usize = 20;

/// Cached domain definitions. Belongs to one connection, because events between two
/// connections are lost.
#[derive(Debug, Default)]
pub(super) struct DefinitionCache(Mutex<HashMap<Uuid, CachedDefinition>>);

#[derive(Debug)]
struct CachedDefinition {
    /// The domain's ID, which identifies its run.
    id: i32,
    definition: Option<Arc<DomainDef>>,
    read_at: Instant,
    /// When the last change event arrived.
    changed_at: Option<Instant>,
}

impl DefinitionCache {
    /// Returns the cached definition of a domain.
    pub(super) fn get(&self, domain: &DomainRef) -> Option<Arc<DomainDef>> {
        let entries = self.entries();
        let entry = entries
            .get(&domain.uuid)
            .filter(|entry| entry.id == domain.id)?;
        entry.definition.clone()
    }

    /// Stores a definition that was requested at that time; `None` if it could not be parsed.
    pub(super) fn insert(
        &self,
        domain: &DomainRef,
        requested_at: Instant,
        definition: Option<DomainDef>,
    ) {
        let mut entries = self.entries();
        let changed = entries.get(&domain.uuid).and_then(|entry| entry.changed_at);
        let entry = CachedDefinition {
            id: domain.id,
            definition: definition.map(Arc::new),
            read_at: requested_at,
            changed_at: changed.filter(|changed| *changed >= requested_at),
        };
        entries.insert(domain.uuid, entry);
    }

    /// Handles a lifecycle or change event.
    pub(super) fn handle_event(&self, event: &DomainEvent) {
        if let DomainEvent::Lifecycle { domain, .. } | DomainEvent::DefinitionChanged(domain) =
            event
            && let Some(entry) = self.entries().get_mut(&domain.uuid)
        {
            entry.changed_at = Some(Instant::now());
        }
    }

    /// Returns the indexes of the domains whose definition has to be read; drops domains that are
    /// not in the list.
    pub(super) fn stale(&self, domains: &[DomainRef], ttl: Duration) -> Vec<usize> {
        let mut entries = self.entries();
        if entries.len() > domains.len() {
            let listed: HashSet<_> = domains.iter().map(|domain| domain.uuid).collect();
            entries.retain(|uuid, _| listed.contains(uuid));
        }
        let mut stale = Vec::new();
        let mut expired = Vec::new();
        for (index, domain) in domains.iter().enumerate() {
            match entries.get(&domain.uuid) {
                Some(entry) if entry.id == domain.id && entry.changed_at.is_none() => {
                    if entry.read_at.elapsed() >= ttl {
                        expired.push((entry.read_at, index));
                    }
                }
                _ => stale.push(index),
            }
        }
        expired.sort_unstable();
        let batch = domains.len() / REFRESH_DIVISOR + 1;
        stale.extend(expired.into_iter().take(batch).map(|(_, index)| index));
        stale
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, CachedDefinition>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(300);

    fn domain(number: u8, id: i32) -> DomainRef {
        DomainRef {
            name: vec![number],
            uuid: [number; 16],
            id,
        }
    }

    fn titled(title: &str) -> DomainDef {
        DomainDef {
            title: Some(title.to_owned()),
            ..DomainDef::default()
        }
    }

    #[test]
    fn rereads_definition_after_change_and_in_next_run() {
        let (cache, now) = (DefinitionCache::default(), Instant::now());
        let domains = [domain(1, 1), domain(2, -1)];
        assert_eq!(cache.stale(&domains, LONG), [0, 1]);
        for domain in &domains {
            cache.insert(domain, now, Some(titled("a")));
        }
        assert!(cache.stale(&domains, LONG).is_empty());
        cache.handle_event(&DomainEvent::DefinitionChanged(domains[1].clone()));
        assert_eq!(cache.stale(&domains, LONG), [1]);
        assert!(cache.get(&domains[1]).is_some());
        cache.insert(&domains[1], Instant::now() + LONG, Some(titled("b")));
        assert!(cache.stale(&domains, LONG).is_empty());

        let domains = [domain(1, 3), domain(2, -1)];
        assert_eq!(cache.stale(&domains, LONG), [0]);
        assert_eq!(cache.get(&domains[0]), None);
    }

    #[test]
    fn change_during_read_causes_another_read() {
        let (cache, domains) = (DefinitionCache::default(), [domain(1, 1)]);
        let requested_at = Instant::now();
        cache.insert(&domains[0], requested_at, Some(titled("a")));
        cache.handle_event(&DomainEvent::DefinitionChanged(domains[0].clone()));
        cache.insert(&domains[0], requested_at, Some(titled("a")));
        assert_eq!(cache.stale(&domains, LONG), [0]);
    }

    #[test]
    fn expired_entries_are_refreshed_gradually_oldest_first() {
        let (cache, now) = (DefinitionCache::default(), Instant::now());
        let domains: Vec<_> = (0..40).map(|number| domain(number, 1)).collect();
        for (n, domain) in domains.iter().enumerate() {
            let later = Duration::from_nanos(40 - u64::try_from(n).unwrap());
            cache.insert(domain, now + later, Some(titled("a")));
        }
        std::thread::sleep(Duration::from_micros(1));
        assert_eq!(cache.stale(&domains, Duration::ZERO), [39, 38, 37]);
    }

    #[test]
    fn missing_domains_are_evicted() {
        let (cache, now) = (DefinitionCache::default(), Instant::now());
        cache.insert(&domain(1, 1), now, Some(titled("a")));
        cache.insert(&domain(2, 1), now, Some(titled("a")));
        cache.stale(&[domain(2, 1)], LONG);
        assert_eq!(cache.entries().len(), 1);
    }
}
