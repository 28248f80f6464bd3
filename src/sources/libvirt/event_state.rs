//! Domain state maintained from the last listing plus lifecycle events.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    RunningDomain,
    domain::{DomainDef, LifecycleCounts},
    wire::{self, DomainEvent, DomainRef, Uuid, format_uuid, string_lossy},
};

/// Maximum number of domains, the same as in libvirt's listing.
const MAX_DOMAINS: usize = 16_384;
/// Maximum number of disks with errors per domain.
const MAX_DISKS: usize = 64;
/// Maximum length of a disk's name.
const MAX_NAME: usize = 4096;

/// Lifecycle event types from libvirt's header.
const VIR_DOMAIN_EVENT_UNDEFINED: i32 = 1;
const VIR_DOMAIN_EVENT_STARTED: i32 = 2;
const VIR_DOMAIN_EVENT_STOPPED: i32 = 5;
const VIR_DOMAIN_EVENT_CRASHED: i32 = 8;
/// Details of lifecycle events.
const VIR_DOMAIN_EVENT_STARTED_WAKEUP: i32 = 4;
const VIR_DOMAIN_EVENT_STOPPED_CRASHED: i32 = 2;

/// Domain state maintained from events. Outlives connections.
#[derive(Debug, Default)]
pub(super) struct DomainEvents(Mutex<EventState>);

#[derive(Debug, Default)]
struct EventState {
    lifecycles: HashMap<Uuid, DomainLifecycle>,
    /// Whether the daemon delivers lifecycle events.
    has_lifecycle: bool,
    /// Whether the daemon delivers I/O error events.
    has_io_errors: bool,
    running: Arc<Vec<RunningDomain>>,
}

#[derive(Debug, Default)]
struct DomainLifecycle {
    starts: u64,
    stops: u64,
    crashes: u64,
    /// Whether a crash of this run was already counted.
    has_crashed: bool,
    /// By source path of the disk and libvirt's alias for it.
    io_errors: BTreeMap<(Vec<u8>, Vec<u8>), u64>,
}

impl DomainEvents {
    /// Returns the running domains.
    pub(super) fn running(&self) -> Arc<Vec<RunningDomain>> {
        Arc::clone(&self.state().running)
    }

    /// Records which events the connected daemon delivers.
    pub(super) fn set_subscriptions(&self, is_subscribed: impl Fn(u32) -> bool) {
        let mut state = self.state();
        state.has_lifecycle = is_subscribed(wire::VIR_DOMAIN_EVENT_ID_LIFECYCLE);
        state.has_io_errors = is_subscribed(wire::VIR_DOMAIN_EVENT_ID_IO_ERROR);
    }

    /// Replaces the domains by a complete list.
    pub(super) fn replace_domains(&self, domains: &[DomainRef]) {
        let mut state = self.state();
        let listed: HashSet<_> = domains.iter().map(|domain| domain.uuid).collect();
        state.lifecycles.retain(|uuid, _| listed.contains(uuid));
        let running: Vec<_> = domains.iter().filter_map(running_domain).collect();
        if *state.running != running {
            state.running = Arc::new(running);
        }
    }

    /// Applies an event.
    pub(super) fn handle_event(&self, event: &DomainEvent) {
        match event {
            DomainEvent::Lifecycle {
                domain,
                kind,
                detail,
            } => self.handle_lifecycle(domain, *kind, *detail),
            DomainEvent::IoError {
                domain,
                path,
                alias,
            } => self.state().record_io_error(domain, path, alias),
            DomainEvent::DefinitionChanged(_) => {}
        }
    }

    fn handle_lifecycle(&self, domain: &DomainRef, kind: i32, detail: i32) {
        let mut state = self.state();
        match (kind, detail) {
            (VIR_DOMAIN_EVENT_UNDEFINED, _) if !domain.is_active() => {
                state.lifecycles.remove(&domain.uuid);
                return;
            }
            (VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_WAKEUP) => {}
            (VIR_DOMAIN_EVENT_STARTED, _) => {
                state.remove_running(domain);
                state.add_running(domain);
            }
            (VIR_DOMAIN_EVENT_STOPPED, _) => state.remove_running(domain),
            _ => {}
        }
        let Some(lifecycle) = state.lifecycle_mut(domain) else {
            return;
        };
        match (kind, detail) {
            (VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_WAKEUP) => {}
            (VIR_DOMAIN_EVENT_STARTED, _) => {
                lifecycle.starts = lifecycle.starts.saturating_add(1);
                lifecycle.has_crashed = false;
            }
            (VIR_DOMAIN_EVENT_STOPPED, detail) => {
                lifecycle.stops = lifecycle.stops.saturating_add(1);
                if detail == VIR_DOMAIN_EVENT_STOPPED_CRASHED {
                    lifecycle.record_crash();
                }
            }
            (VIR_DOMAIN_EVENT_CRASHED, _) => lifecycle.record_crash(),
            _ => {}
        }
    }

    /// Returns the counts of a domain, with disks named as in its definition; `None` if the daemon
    /// delivers no lifecycle events.
    pub(super) fn counts_for(
        &self,
        uuid: &Uuid,
        definition: Option<&DomainDef>,
    ) -> Option<LifecycleCounts> {
        let state = self.state();
        state.has_lifecycle.then_some(())?;
        let mut io_errors = state.has_io_errors.then(BTreeMap::new);
        let Some(lifecycle) = state.lifecycles.get(uuid) else {
            return Some(LifecycleCounts {
                io_errors,
                ..LifecycleCounts::default()
            });
        };
        for ((path, alias), count) in &lifecycle.io_errors {
            let path = string_lossy(path);
            let disks = definition.iter().flat_map(|definition| &definition.disks);
            let mut disks = disks.filter(|disk| disk.source.as_ref() == Some(&path));
            let target = disks.next().map(|disk| disk.target.clone());
            let name = target.unwrap_or_else(|| string_lossy(alias));
            if let Some(io_errors) = &mut io_errors {
                let sum: &mut u64 = io_errors.entry(name).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        Some(LifecycleCounts {
            starts: lifecycle.starts,
            stops: lifecycle.stops,
            crashes: lifecycle.crashes,
            io_errors,
        })
    }

    fn state(&self) -> MutexGuard<'_, EventState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventState {
    fn lifecycle_mut(&mut self, domain: &DomainRef) -> Option<&mut DomainLifecycle> {
        if self.lifecycles.len() >= MAX_DOMAINS && !self.lifecycles.contains_key(&domain.uuid) {
            return None;
        }
        Some(self.lifecycles.entry(domain.uuid).or_default())
    }

    fn record_io_error(&mut self, domain: &DomainRef, path: &[u8], alias: &[u8]) {
        if path.len() > MAX_NAME || alias.len() > MAX_NAME {
            return;
        }
        let Some(lifecycle) = self.lifecycle_mut(domain) else {
            return;
        };
        let key = (path.to_vec(), alias.to_vec());
        if lifecycle.io_errors.len() < MAX_DISKS || lifecycle.io_errors.contains_key(&key) {
            let count = lifecycle.io_errors.entry(key).or_default();
            *count = count.saturating_add(1);
        }
    }

    fn add_running(&mut self, domain: &DomainRef) {
        if let Some(running) = running_domain(domain)
            && self.running.len() < MAX_DOMAINS
        {
            Arc::make_mut(&mut self.running).push(running);
        }
    }

    fn remove_running(&mut self, domain: &DomainRef) {
        let uuid = format_uuid(&domain.uuid);
        if self.running.iter().any(|domain| domain.uuid == uuid) {
            Arc::make_mut(&mut self.running).retain(|domain| domain.uuid != uuid);
        }
    }
}

impl DomainLifecycle {
    /// Counts a crash once: libvirt reports it up to twice, when the guest panics and when the
    /// domain is stopped because of it.
    fn record_crash(&mut self) {
        if !self.has_crashed {
            self.crashes = self.crashes.saturating_add(1);
        }
        self.has_crashed = true;
    }
}

fn running_domain(domain: &DomainRef) -> Option<RunningDomain> {
    Some(RunningDomain {
        id: domain.id.try_into().ok()?,
        name: domain.name_lossy(),
        uuid: format_uuid(&domain.uuid),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::domain::DiskDef, *};

    fn domain(number: u8, id: i32) -> DomainRef {
        DomainRef {
            name: vec![b'a' + number],
            uuid: [number; 16],
            id,
        }
    }

    /// State with all events subscribed.
    fn all_events() -> DomainEvents {
        let events = DomainEvents::default();
        events.set_subscriptions(|_| true);
        events
    }

    fn lifecycle(events: &DomainEvents, domain: DomainRef, kind: i32, detail: i32) {
        events.handle_event(&DomainEvent::Lifecycle {
            domain,
            kind,
            detail,
        });
    }

    fn ids(events: &DomainEvents) -> Vec<u32> {
        events.running().iter().map(|domain| domain.id).collect()
    }

    #[test]
    fn domain_is_running_from_start_to_stop() {
        let events = all_events();
        events.replace_domains(&[domain(1, 4), domain(2, -1)]);
        assert_eq!(ids(&events), [4]);
        lifecycle(&events, domain(2, 5), VIR_DOMAIN_EVENT_STARTED, 0);
        assert_eq!(ids(&events), [4, 5]);
        lifecycle(&events, domain(1, -1), VIR_DOMAIN_EVENT_STOPPED, 1);
        assert_eq!(ids(&events), [5]);
        lifecycle(
            &events,
            domain(2, 6),
            VIR_DOMAIN_EVENT_STARTED,
            VIR_DOMAIN_EVENT_STARTED_WAKEUP,
        );
        assert_eq!(ids(&events), [5]);
        let counts = |number| events.counts_for(&[number; 16], None).unwrap();
        assert_eq!((counts(1).starts, counts(1).stops), (0, 1));
        assert_eq!((counts(2).starts, counts(2).stops), (1, 0));
    }

    #[test]
    fn crash_reported_twice_counts_once() {
        let events = all_events();
        lifecycle(&events, domain(1, 4), VIR_DOMAIN_EVENT_CRASHED, 0);
        lifecycle(
            &events,
            domain(1, -1),
            VIR_DOMAIN_EVENT_STOPPED,
            VIR_DOMAIN_EVENT_STOPPED_CRASHED,
        );
        lifecycle(&events, domain(1, 5), VIR_DOMAIN_EVENT_STARTED, 0);
        lifecycle(
            &events,
            domain(1, -1),
            VIR_DOMAIN_EVENT_STOPPED,
            VIR_DOMAIN_EVENT_STOPPED_CRASHED,
        );
        let lifecycle = events.counts_for(&[1; 16], None).unwrap();
        assert_eq!(
            (lifecycle.starts, lifecycle.stops, lifecycle.crashes),
            (1, 2, 2)
        );
    }

    #[test]
    fn counts_are_dropped_with_the_domain() {
        let events = all_events();
        lifecycle(&events, domain(1, 4), VIR_DOMAIN_EVENT_STARTED, 0);
        lifecycle(&events, domain(2, 5), VIR_DOMAIN_EVENT_STARTED, 0);
        // Still running, but no longer defined.
        lifecycle(&events, domain(1, 4), VIR_DOMAIN_EVENT_UNDEFINED, 0);
        let starts = |number| events.counts_for(&[number; 16], None).unwrap().starts;
        assert_eq!(starts(1), 1);
        lifecycle(&events, domain(2, -1), VIR_DOMAIN_EVENT_UNDEFINED, 0);
        assert_eq!(starts(2), 0);
        events.replace_domains(&[]);
        assert_eq!(starts(1), 0);
    }

    #[test]
    fn disk_errors_are_counted_by_target_name() {
        let events = all_events();
        let error = |path: &str, alias: &str| {
            events.handle_event(&DomainEvent::IoError {
                domain: domain(1, 4),
                path: path.into(),
                alias: alias.into(),
            });
        };
        error("/a", "virtio-disk0");
        error("/a", "virtio-disk0");
        error("/b", "virtio-disk1");
        let definition = DomainDef {
            disks: vec![DiskDef {
                target: "vda".to_owned(),
                source: Some("/a".to_owned()),
                ..DiskDef::default()
            }],
            ..DomainDef::default()
        };
        let errors = events
            .counts_for(&[1; 16], Some(&definition))
            .unwrap()
            .io_errors
            .unwrap();
        let errors: Vec<_> = errors.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(errors, [("vda", 2), ("virtio-disk1", 1)]);
    }

    #[test]
    fn unsubscribed_events_are_unknown() {
        let events = DomainEvents::default();
        lifecycle(&events, domain(1, 4), VIR_DOMAIN_EVENT_STARTED, 0);
        let counts = || events.counts_for(&[1; 16], None);
        assert_eq!(counts(), None);
        events.set_subscriptions(|event| event != wire::VIR_DOMAIN_EVENT_ID_IO_ERROR);
        let lifecycle = counts().unwrap();
        assert_eq!((lifecycle.starts, lifecycle.io_errors), (1, None));
        events.set_subscriptions(|event| event != wire::VIR_DOMAIN_EVENT_ID_LIFECYCLE);
        assert_eq!(counts(), None);
        events.set_subscriptions(|_| true);
        assert_eq!(counts().unwrap().io_errors, Some(BTreeMap::new()));
    }

    #[test]
    fn memory_is_bounded_against_invented_domains() {
        let events = all_events();
        for number in 0..u8::MAX {
            events.handle_event(&DomainEvent::IoError {
                domain: domain(1, 4),
                path: vec![number],
                alias: Vec::new(),
            });
        }
        let state = events.state();
        assert_eq!(state.lifecycles[&[1; 16]].io_errors.len(), MAX_DISKS);
    }
}
