//! Queries each domain with a call of its own, four at a time, so that one hung domain does not
//! delay the others.
//!
//! Calls set `VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT`, so libvirt does not wait for a busy
//! domain. That protects every caller but the first, whose call waits in the domain's monitor while
//! that hangs. This call is left pending; meanwhile, queries of the domain are limited to what needs
//! no monitor and is returned at once. Statistics that are missing because the domain was only
//! briefly busy with another job are queried again, twice.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::sleep_until};

use super::{
    HostStatsByUuid, StatsGroup,
    connection::{CallError, Result, RpcRequest},
    domain::{
        CpuTimes, Domain, DomainDef, DomainInterface, DomainJob, DomainState, DomainStats,
        HostStats, InterfaceTraffic, Vcpu,
    },
    params,
    session::{CallSubject, LibvirtSession},
    wire::{self, DomainRef, XdrEncoder, format_uuid, procedure},
    xml,
};
use crate::sources::LinkTraffic;

/// Maximum number of calls in flight that are not overdue.
const MAX_IN_FLIGHT: usize = 4;
/// Number of inactive domains per query.
const INACTIVE_BATCH: usize = 32;
/// A domain with this many pending calls is not queried again.
const MAX_PENDING_PER_DOMAIN: usize = 2;
/// Interface types whose peer is the guest's device, so that the guest receives what the host's
/// device sends, and which the kernel counts, not a virtual switch.
const KERNEL_COUNTED_TYPES: [&str; 3] = ["bridge", "ethernet", "network"];
const VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT: u32 = 1 << 29;

/// Which statistics to query.
#[derive(Debug, Clone, Copy)]
pub(super) struct StatsSelection {
    groups: u32,
    has_jobs: bool,
}

impl StatsSelection {
    pub(super) fn new(groups: &[StatsGroup], has_jobs: bool) -> Self {
        let groups = groups.iter().fold(0, |bits, group| bits | group.bit());
        // The other statistics cannot be interpreted without the state.
        let groups = groups | StatsGroup::State.bit();
        Self { groups, has_jobs }
    }

    fn restrict_to(self, groups: &[StatsGroup]) -> u32 {
        self.groups & Self::new(groups, false).groups
    }

    /// Returns the groups of a domain that have to come from libvirt.
    fn groups_to_query(self, host_stats: &HostStats, definition: Option<&DomainDef>) -> u32 {
        let cpu = host_stats.cpu.as_ref().map_or(0, |_| StatsGroup::Cpu.bit());
        // KVM's statistics of each virtual CPU come with this group.
        let is_enough = host_stats.vcpus.is_some() && self.groups & StatsGroup::Vm.bit() == 0;
        let vcpus = if is_enough { StatsGroup::Vcpu.bit() } else { 0 };
        let links = definition.and_then(|about| host_links(about, host_stats));
        let has_all = links.is_some_and(|mut links| links.all(|link| link.is_some()));
        let interfaces = if has_all {
            StatsGroup::Interface.bit()
        } else {
            0
        };
        self.groups & !(cpu | vcpus | interfaces)
    }

    /// Returns the groups that libvirt answers without the domain's monitor.
    fn groups_without_monitor(self) -> u32 {
        self.restrict_to(&[StatsGroup::State, StatsGroup::Interface])
    }

    /// Returns the groups that exist for an inactive domain. For the block group libvirt opens the
    /// disks, which may be on a hung file system.
    fn groups_for_inactive(self, is_stuck: bool) -> u32 {
        let groups = [
            StatsGroup::State,
            StatsGroup::Balloon,
            StatsGroup::Vcpu,
            StatsGroup::Block,
        ];
        let (_, without) = groups.split_last().unwrap_or((&StatsGroup::Block, &groups));
        self.restrict_to(if is_stuck { without } else { &groups })
    }
}

/// A query; numbers are indexes of domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DomainQuery {
    /// Statistics of a domain; the number of earlier attempts.
    Stats(usize, usize),
    /// Statistics without the monitor, while an earlier query of this scrape hangs.
    FallbackStats(usize),
    /// Statistics of a number of inactive domains from this index on.
    InactiveStats(usize, usize),
    Xml(usize),
    Info(usize),
    State(usize),
    Job(usize),
}

/// A query in flight.
#[derive(Debug)]
struct PendingQuery {
    query: DomainQuery,
    sent_at: Instant,
    /// Whether it no longer occupies a place among the calls in flight.
    is_overdue: bool,
    /// Whether only groups that need no monitor were requested.
    is_quick: bool,
}

/// Data of a domain collected in this scrape.
#[derive(Debug, Default)]
struct PartialDomain {
    host_stats: HostStats,
    stats: Option<(Option<DomainState>, Option<i32>, DomainStats)>,
    id: Option<i32>,
    is_partial: bool,
    /// Whether a call of an earlier scrape is still pending.
    was_stuck: bool,
    is_gone: bool,
    response_time: Option<Duration>,
    job: Option<DomainJob>,
}

/// Returns the domains, sorted by name, and the first error that did not prevent a result.
pub(super) async fn fetch_domains(
    session: &Arc<LibvirtSession>,
    selection: StatsSelection,
    host_stats: HostStatsByUuid,
    deadline: Instant,
) -> Result<(Vec<Domain>, Option<String>)> {
    let guests = session.list_domains(deadline).await?;
    let mut fetch = Fetch::new(session, selection, deadline, guests);
    fetch.set_host_stats(host_stats);
    fetch.enqueue_queries();
    fetch.run().await;
    match session.close_error() {
        Some(failure) => Err(failure),
        None => Ok(fetch.into_domains()),
    }
}

struct Fetch<'a> {
    session: &'a Arc<LibvirtSession>,
    selection: StatsSelection,
    deadline: Instant,
    /// After this time a pending query no longer blocks others.
    patience: Duration,
    /// Active domains first.
    domains: Vec<DomainRef>,
    partials: Vec<PartialDomain>,
    queue: VecDeque<DomainQuery>,
    delayed: Vec<(Instant, DomainQuery)>,
    in_flight: HashMap<u64, PendingQuery>,
    next_id: u64,
    reply_tx: mpsc::UnboundedSender<(u64, Result<Vec<u8>>)>,
    reply_rx: mpsc::UnboundedReceiver<(u64, Result<Vec<u8>>)>,
    error: Option<String>,
}

impl<'a> Fetch<'a> {
    fn new(
        session: &'a Arc<LibvirtSession>,
        selection: StatsSelection,
        deadline: Instant,
        mut domains: Vec<DomainRef>,
    ) -> Self {
        domains.sort_by_key(|guest| !guest.is_active());
        let left = deadline.saturating_duration_since(Instant::now());
        let (say, said) = mpsc::unbounded_channel();
        Self {
            session,
            selection,
            deadline,
            patience: (left / 4).clamp(Duration::from_millis(100), Duration::from_secs(2)),
            partials: domains.iter().map(|_| PartialDomain::default()).collect(),
            domains,
            queue: VecDeque::new(),
            delayed: Vec::new(),
            in_flight: HashMap::new(),
            next_id: 0,
            reply_tx: say,
            reply_rx: said,
            error: None,
        }
    }

    /// Stores the host's statistics, which are not queried from libvirt.
    fn set_host_stats(&mut self, mut host_stats: HostStatsByUuid) {
        for (guest, draft) in self.domains.iter().zip(&mut self.partials) {
            let of_this_run = |it: &HostStats| u32::try_from(guest.id) == Ok(it.id);
            let counted = host_stats
                .remove(&format_uuid(&guest.uuid))
                .filter(of_this_run);
            draft.host_stats = counted.unwrap_or_default();
        }
    }

    fn enqueue_queries(&mut self) {
        let lacks_stats = self.session.lacks_bulk_stats.load(Ordering::Relaxed);
        for (at, (guest, draft)) in self.domains.iter().zip(&mut self.partials).enumerate() {
            let asked = self.session.pending_calls(CallSubject::Domain(guest.uuid));
            draft.was_stuck = asked > 0;
            if asked < MAX_PENDING_PER_DOMAIN {
                if lacks_stats {
                    self.queue.push_back(DomainQuery::Info(at));
                } else if guest.is_active() {
                    self.queue.push_back(DomainQuery::Stats(at, 0));
                }
            }
        }
        if !lacks_stats {
            let first = self
                .domains
                .iter()
                .filter(|guest| guest.is_active())
                .count();
            let places = (first..self.domains.len()).step_by(INACTIVE_BATCH);
            self.queue.extend(places.map(|at| {
                let count = self.domains.len().saturating_sub(at).min(INACTIVE_BATCH);
                DomainQuery::InactiveStats(at, count)
            }));
        }
        let lifetime = self.session.timing().definition_ttl;
        for at in self.session.cache.stale(&self.domains, lifetime) {
            let uuid = self.domains.get(at).map(|guest| guest.uuid);
            if uuid
                .is_some_and(|uuid| self.session.pending_calls(CallSubject::DomainXml(uuid)) == 0)
            {
                self.queue.push_back(DomainQuery::Xml(at));
            }
        }
    }

    /// Runs until all queries are complete or the deadline has passed.
    async fn run(&mut self) {
        loop {
            let mut room = pin!(self.session.slot_freed());
            room.as_mut().enable();
            self.send_queued();
            if self.queue.is_empty() && self.delayed.is_empty() && self.in_flight.is_empty() {
                return;
            }
            let (wake, waits) = (self.next_wakeup(), !self.queue.is_empty());
            tokio::select! {
                Some((number, answer)) = self.reply_rx.recv() => {
                    self.handle_reply(number, answer);
                    while let Ok((number, answer)) = self.reply_rx.try_recv() {
                        self.handle_reply(number, answer);
                    }
                }
                () = room, if waits => {}
                () = sleep_until(wake.into()) => {}
            }
            if Instant::now() >= self.deadline || self.session.close_error().is_some() {
                return;
            }
            self.handle_timers();
        }
    }

    fn next_wakeup(&self) -> Instant {
        let later = self.delayed.iter().map(|(at, _)| *at);
        let flights = self.in_flight.values().filter(|flight| !flight.is_overdue);
        let late = flights.map(|flight| flight.sent_at + self.patience);
        // Queries without a slot, which other callers occupy, may find one on another connection
        // by then.
        let waits = (!self.queue.is_empty()).then(|| Instant::now() + self.patience);
        later
            .chain(late)
            .chain(waits)
            .fold(self.deadline, Instant::min)
    }

    /// Handles expired timers.
    fn handle_timers(&mut self) {
        let now = Instant::now();
        let due = self.delayed.extract_if(.., |(at, _)| *at <= now);
        self.queue.extend(due.map(|(_, question)| question));
        for flight in self.in_flight.values_mut() {
            if flight.is_overdue || flight.sent_at + self.patience > now {
                continue;
            }
            flight.is_overdue = true;
            if let DomainQuery::Stats(at, _) = flight.query {
                let uuid = self.domains.get(at).map(|guest| guest.uuid);
                if uuid.is_some_and(|it| {
                    self.session.pending_calls(CallSubject::Domain(it)) < MAX_PENDING_PER_DOMAIN
                }) {
                    self.queue.push_front(DomainQuery::FallbackStats(at));
                }
            }
        }
    }

    fn send_queued(&mut self) {
        let soon = self.in_flight.values().filter(|flight| !flight.is_overdue);
        let mut free = MAX_IN_FLIGHT.saturating_sub(soon.count());
        while free > 0 {
            let Some(question) = self.queue.pop_front() else {
                return;
            };
            if !self.send(question) {
                self.queue.push_front(question);
                return;
            }
            free -= 1;
        }
    }

    /// Sends a query and returns whether a slot was free.
    fn send(&mut self, query: DomainQuery) -> bool {
        let Some((subject, procedure, body)) = self.build_request(query, false) else {
            return true;
        };
        let (by, number) = (self.deadline, self.next_id);
        let request = |body: XdrEncoder| RpcRequest {
            procedure,
            body: body.into_bytes(),
            deadline: by,
        };
        let then = || {
            let say = self.reply_tx.clone();
            // The scrape may have ended.
            Box::new(move |answer| drop(say.send((number, answer))))
        };
        let mut is_quick = false;
        let mut asked = self.session.try_call(subject, request(body), then());
        if asked.is_err() && self.session.is_saturated(self.patience) {
            // Groups that need no monitor can still be read.
            is_quick = matches!(
                query,
                DomainQuery::Stats(..) | DomainQuery::FallbackStats(_)
            );
            if let Some((subject, _, body)) = self.build_request(query, is_quick) {
                asked = self.session.try_call_quick(subject, request(body), then());
            }
        }
        if asked.is_err() {
            return false;
        }
        self.next_id = self.next_id.wrapping_add(1);
        let flight = PendingQuery {
            query,
            sent_at: Instant::now(),
            is_overdue: false,
            is_quick,
        };
        self.in_flight.insert(number, flight);
        true
    }

    fn build_request(
        &self,
        query: DomainQuery,
        is_quick: bool,
    ) -> Option<(CallSubject, u32, XdrEncoder)> {
        let about = |at: usize| self.domains.get(at);
        Some(match query {
            DomainQuery::Stats(at, _) | DomainQuery::FallbackStats(at) => {
                let guest = about(at)?;
                let groups = if is_quick {
                    self.selection.groups_without_monitor()
                } else {
                    let about = self.session.cache.get(guest);
                    let counted = &self.partials.get(at)?.host_stats;
                    self.selection.groups_to_query(counted, about.as_deref())
                };
                let body = XdrEncoder::default().put_u32(1).put_domain(guest);
                let body = body
                    .put_u32(groups)
                    .put_u32(VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT);
                (
                    CallSubject::Domain(guest.uuid),
                    procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS,
                    body,
                )
            }
            DomainQuery::InactiveStats(at, count) => {
                let guests = self.domains.get(at..)?.iter().take(count);
                let body = XdrEncoder::default().put_u32(u32::try_from(guests.len()).ok()?);
                let body = guests.fold(body, XdrEncoder::put_domain);
                let is_stuck = self.session.pending_calls(CallSubject::InactiveDomains) > 0;
                let body = body
                    .put_u32(self.selection.groups_for_inactive(is_stuck))
                    .put_u32(VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT);
                (
                    CallSubject::InactiveDomains,
                    procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS,
                    body,
                )
            }
            DomainQuery::Xml(at) => {
                let guest = about(at)?;
                let body = XdrEncoder::default().put_domain(guest).put_u32(0);
                (
                    CallSubject::DomainXml(guest.uuid),
                    procedure::REMOTE_PROC_DOMAIN_GET_XML_DESC,
                    body,
                )
            }
            DomainQuery::Info(at) => {
                let guest = about(at)?;
                let body = XdrEncoder::default().put_domain(guest);
                (
                    CallSubject::Domain(guest.uuid),
                    procedure::REMOTE_PROC_DOMAIN_GET_INFO,
                    body,
                )
            }
            DomainQuery::State(at) => {
                let guest = about(at)?;
                let body = XdrEncoder::default().put_domain(guest).put_u32(0);
                (
                    CallSubject::Domain(guest.uuid),
                    procedure::REMOTE_PROC_DOMAIN_GET_STATE,
                    body,
                )
            }
            DomainQuery::Job(at) => {
                let guest = about(at)?;
                let body = XdrEncoder::default().put_domain(guest);
                (
                    CallSubject::Domain(guest.uuid),
                    procedure::REMOTE_PROC_DOMAIN_GET_JOB_INFO,
                    body,
                )
            }
        })
    }

    fn handle_reply(&mut self, number: u64, answer: Result<Vec<u8>>) {
        let Some(flight) = self.in_flight.remove(&number) else {
            return;
        };
        let question = flight.query;
        let taken = answer.and_then(|body| match question {
            DomainQuery::Stats(at, _) | DomainQuery::FallbackStats(at) => {
                self.handle_stats(at, &flight, &body)
            }
            DomainQuery::InactiveStats(at, count) => self.handle_inactive_stats(at, count, &body),
            DomainQuery::Xml(at) => self.handle_xml(at, flight.sent_at, &body),
            DomainQuery::Info(at) => self.handle_info(at, &flight, &body),
            DomainQuery::State(at) => self.handle_state(at, &body),
            DomainQuery::Job(at) => self.handle_job(at, &body),
        });
        let Err(failure) = taken else {
            return;
        };
        match (&failure, question) {
            (
                CallError::Remote(refusal),
                DomainQuery::Stats(..)
                | DomainQuery::FallbackStats(_)
                | DomainQuery::InactiveStats(..),
            ) if refusal.is_unsupported() => {
                self.session.lacks_bulk_stats.store(true, Ordering::Relaxed);
                let at = match question {
                    DomainQuery::Stats(at, _) | DomainQuery::FallbackStats(at) => {
                        at..at.saturating_add(1)
                    }
                    DomainQuery::InactiveStats(at, count) => at..at.saturating_add(count),
                    _ => 0..0,
                };
                self.queue.extend(at.map(DomainQuery::Info));
            }
            (CallError::Remote(refusal), DomainQuery::Stats(at, _) | DomainQuery::Info(at))
                if refusal.is_gone() =>
            {
                if let Some(draft) = self.partials.get_mut(at) {
                    draft.is_gone = true;
                }
            }
            // The domain has no job or has disappeared; other queries report that.
            (CallError::Remote(_), DomainQuery::Job(_)) => {}
            (CallError::Remote(refusal), _) if refusal.is_gone() => {}
            _ => {
                let about = self.describe(question);
                self.error
                    .get_or_insert_with(|| format!("{about}{failure}"));
            }
        }
    }

    fn describe(&self, query: DomainQuery) -> String {
        let (DomainQuery::Stats(at, _)
        | DomainQuery::FallbackStats(at)
        | DomainQuery::InactiveStats(at, _)
        | DomainQuery::Xml(at)
        | DomainQuery::Info(at)
        | DomainQuery::State(at)
        | DomainQuery::Job(at)) = query;
        let name = self
            .domains
            .get(at)
            .map(DomainRef::name_lossy)
            .unwrap_or_default();
        match query {
            DomainQuery::InactiveStats(..) => "domains that do not run: ".to_owned(),
            DomainQuery::Xml(_) => format!("description of {name:?}: "),
            _ => format!("{name:?}: "),
        }
    }

    fn handle_stats(&mut self, at: usize, pending: &PendingQuery, body: &[u8]) -> Result<()> {
        let records = wire::parse_stats_records(body)?;
        let (Some(guest), Some(draft)) = (self.domains.get(at), self.partials.get_mut(at)) else {
            return Ok(());
        };
        let mut records = records.into_iter();
        let Some(record) = records.find(|record| record.domain.uuid == guest.uuid) else {
            draft.is_gone = true;
            return Ok(());
        };
        let said = params::parse_stats(record.params);
        let is_qemu = self.session.is_qemu();
        let is_partial = pending.is_quick || is_qemu && !params::is_complete(&said.2, said.0);
        if is_partial && draft.stats.is_some() && !draft.is_partial {
            // A reply to an earlier query has been more complete.
            return Ok(());
        }
        let lacks_info = !is_qemu && said.2.balloon.maximum.is_none();
        draft.stats = Some(said);
        draft.id = Some(record.domain.id);
        draft.is_partial = is_partial;
        draft.response_time = Some(pending.sent_at.elapsed());
        if lacks_info {
            self.queue.push_back(DomainQuery::Info(at));
        }
        let is_last = matches!(pending.query, DomainQuery::FallbackStats(_));
        if self.selection.has_jobs && !is_partial && !is_last {
            self.queue.push_back(DomainQuery::Job(at));
        }
        if let DomainQuery::Stats(_, tries) = pending.query
            && is_partial
            && !pending.is_quick
            && !draft.was_stuck
            && let Some(pause) = self.session.timing().stats_retry_delays.get(tries)
        {
            let due = Instant::now() + *pause;
            if due < self.deadline {
                let again = DomainQuery::Stats(at, tries.saturating_add(1));
                self.delayed.push((due, again));
            }
        }
        Ok(())
    }

    fn handle_inactive_stats(&mut self, at: usize, count: usize, body: &[u8]) -> Result<()> {
        let mut records: HashMap<_, _> = wire::parse_stats_records(body)?
            .into_iter()
            .map(|record| (record.domain.uuid, record))
            .collect();
        let drafts = self.domains.iter().zip(&mut self.partials).enumerate();
        for (at, (guest, draft)) in drafts.skip(at).take(count) {
            let Some(record) = records.remove(&guest.uuid) else {
                draft.is_gone = true;
                continue;
            };
            let said = params::parse_stats(record.params);
            if !self.session.is_qemu() && said.2.balloon.maximum.is_none() {
                self.queue.push_back(DomainQuery::Info(at));
            }
            draft.id = Some(record.domain.id);
            draft.stats = Some(said);
        }
        Ok(())
    }

    fn handle_xml(&mut self, at: usize, requested_at: Instant, body: &[u8]) -> Result<()> {
        let Some(guest) = self.domains.get(at) else {
            return Ok(());
        };
        let text = wire::parse_string(body)?;
        let about = xml::parse_domain(&text);
        if let Err(reason) = &about {
            let name = guest.name_lossy();
            let error = || format!("description of {name:?}: {reason}");
            self.error.get_or_insert_with(error);
        }
        self.session.cache.insert(guest, requested_at, about.ok());
        Ok(())
    }

    fn handle_info(&mut self, at: usize, pending: &PendingQuery, body: &[u8]) -> Result<()> {
        let info = wire::parse_domain_info(body)?;
        let Some(draft) = self.partials.get_mut(at) else {
            return Ok(());
        };
        draft.response_time.get_or_insert(pending.sent_at.elapsed());
        let (state, reason, used) = draft.stats.get_or_insert_default();
        *state = state.or(DomainState::from_number(info.state));
        if reason.is_none() {
            self.queue.push_back(DomainQuery::State(at));
        }
        let bytes = |kib: u64| kib.checked_mul(1024);
        let balloon = &mut used.balloon;
        balloon.current = balloon.current.or(bytes(info.memory));
        balloon.maximum = balloon.maximum.or(bytes(info.max_memory));
        used.vcpu_current = used.vcpu_current.or(Some(info.vcpus.into()));
        let time = Duration::from_nanos(info.cpu_time);
        used.cpu.time = used.cpu.time.or(Some(time));
        Ok(())
    }

    fn handle_state(&mut self, at: usize, body: &[u8]) -> Result<()> {
        let (_, why) = wire::parse_domain_state(body)?;
        let draft = self.partials.get_mut(at);
        if let Some((_, reason, _)) = draft.and_then(|draft| draft.stats.as_mut()) {
            *reason = Some(why);
        }
        Ok(())
    }

    fn handle_job(&mut self, at: usize, body: &[u8]) -> Result<()> {
        let info = wire::parse_job_info(body)?;
        if let Some(draft) = self.partials.get_mut(at) {
            draft.job = Some(domain_job(&info));
        }
        Ok(())
    }

    /// Returns the domains with the data collected so far.
    fn into_domains(self) -> (Vec<Domain>, Option<String>) {
        let Self {
            session,
            domains: guests,
            partials: drafts,
            error,
            selection: wanted,
            ..
        } = self;
        let drafts = guests
            .iter()
            .zip(drafts)
            .filter(|(_, draft)| !draft.is_gone);
        let mut domains: Vec<_> = drafts
            .map(|(guest, draft)| build_domain(session, wanted, guest, draft))
            .collect();
        domains.sort_by(|a, b| a.name.cmp(&b.name));
        // Different byte strings may have become the same text.
        domains.dedup_by(|a, b| a.name == b.name);
        (domains, error)
    }
}

fn build_domain(
    session: &LibvirtSession,
    selection: StatsSelection,
    domain: &DomainRef,
    partial: PartialDomain,
) -> Domain {
    let about = session.cache.get(domain);
    let is_silent = partial.stats.is_none();
    let (state, reason, mut used) = partial.stats.unwrap_or_default();
    let is_off = state.is_some_and(|state| !state.is_active());
    if is_off {
        // libvirt 9 reports the CPU time of the daemon and the memory the domain would get.
        used.cpu = CpuTimes::default();
        used.balloon.current = None;
    } else {
        add_host_stats(&mut used, selection, &partial.host_stats, about.as_deref());
    }
    let id = partial.id.unwrap_or(domain.id);
    Domain {
        name: domain.name_lossy(),
        uuid: format_uuid(&domain.uuid),
        id: id.try_into().ok().filter(|_| !is_off),
        state,
        reason,
        started: partial.host_stats.started.filter(|_| !is_off),
        lifecycle: session.events().counts_for(&domain.uuid, about.as_deref()),
        definition: about,
        stats: used,
        is_partial: partial.is_partial || is_silent,
        is_stuck: session.pending_calls(CallSubject::Domain(domain.uuid)) > 0,
        response_time: partial.response_time,
        job: partial.job,
    }
}

/// Adds the host's statistics. They replace values from libvirt even if it returned some: the two
/// are rounded differently, and a counter must not decrease.
fn add_host_stats(
    stats: &mut DomainStats,
    selection: StatsSelection,
    host_stats: &HostStats,
    definition: Option<&DomainDef>,
) {
    let is_wanted = |group: StatsGroup| selection.groups & group.bit() != 0;
    if let Some(cpu) = host_stats.cpu
        && is_wanted(StatsGroup::Cpu)
    {
        stats.cpu = cpu;
    }
    if let Some(vcpus) = &host_stats.vcpus
        && is_wanted(StatsGroup::Vcpu)
    {
        let mut said: HashMap<_, _> = stats.vcpus.drain(..).map(|it| (it.number, it)).collect();
        let whole = vcpus.iter().map(|vcpu| Vcpu {
            kvm: said.remove(&vcpu.number).map_or_else(Vec::new, |it| it.kvm),
            ..vcpu.clone()
        });
        stats.vcpus = whole.collect();
        stats.vcpu_current = Some(vcpus.len() as u64);
        let maximum = definition.and_then(|about| about.max_vcpus);
        stats.vcpu_maximum = stats.vcpu_maximum.or(maximum);
    }
    if stats.interfaces.is_empty()
        && is_wanted(StatsGroup::Interface)
        && let Some(interfaces) = definition.and_then(|about| host_interfaces(about, host_stats))
    {
        stats.interfaces = interfaces;
    }
}

/// Returns the interfaces as libvirt would report them, if the kernel counts for all that have a
/// name.
fn host_interfaces(definition: &DomainDef, host_stats: &HostStats) -> Option<Vec<DomainInterface>> {
    let interfaces = host_links(definition, host_stats)?.map(|link| {
        let (name, link) = link?;
        Some(DomainInterface {
            name: name.to_owned(),
            // The guest receives what the host's device sends.
            received: interface_traffic(link.sent),
            sent: interface_traffic(link.received),
        })
    });
    interfaces.collect()
}

/// Returns each interface that has a name, with the kernel's counters if there are some.
fn host_links<'a>(
    definition: &'a DomainDef,
    host_stats: &'a HostStats,
) -> Option<impl Iterator<Item = Option<(&'a str, &'a LinkTraffic)>>> {
    let links = host_stats.links.as_ref()?;
    Some(definition.interfaces.iter().filter_map(|interface| {
        let name = interface.target.as_deref()?;
        let is_plain = KERNEL_COUNTED_TYPES.contains(&interface.kind.as_str());
        let link = links.get(name).filter(|_| is_plain);
        Some(link.map(|link| (name, link)))
    }))
}

fn interface_traffic([bytes, packets, errors, drops]: [u64; 4]) -> InterfaceTraffic {
    InterfaceTraffic {
        bytes: Some(bytes),
        packets: Some(packets),
        errors: Some(errors),
        drops: Some(drops),
    }
}

fn domain_job(info: &wire::JobInfo) -> DomainJob {
    let is_there = info.kind != 0;
    let three = |sizes: [u64; 3]| sizes.map(|size| is_there.then_some(size));
    let time = |time| is_there.then(|| Duration::from_millis(time));
    DomainJob {
        kind: Some(info.kind),
        elapsed: time(info.elapsed),
        // The remaining time of an unbounded job is unknown.
        remaining: time(info.remaining).filter(|_| info.kind == 1),
        data: three(info.data),
        memory: three(info.memory),
        file: three(info.file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::libvirt::InterfaceDef;

    fn named(target: Option<&str>, kind: &str) -> InterfaceDef {
        InterfaceDef {
            target: target.map(str::to_owned),
            kind: kind.to_owned(),
            ..InterfaceDef::default()
        }
    }

    #[test]
    fn guest_receives_what_its_host_interface_sends() {
        let link = LinkTraffic {
            received: [1, 2, 3, 4],
            sent: [5, 6, 7, 8],
        };
        let links = ["vnet0", "vnet1", "macvtap0"].map(|name| (name.to_owned(), link));
        let counted = HostStats {
            links: Some(Arc::new(links.into())),
            ..HostStats::default()
        };
        let known = |all: &[InterfaceDef]| {
            let about = DomainDef {
                interfaces: all.to_vec(),
                ..DomainDef::default()
            };
            host_interfaces(&about, &counted)
        };
        // A passed-through interface has no name and no statistics in libvirt.
        let (first, nameless) = (named(Some("vnet0"), "bridge"), named(None, "hostdev"));
        let expected = DomainInterface {
            name: "vnet0".to_owned(),
            received: interface_traffic([5, 6, 7, 8]),
            sent: interface_traffic([1, 2, 3, 4]),
        };
        assert_eq!(known(&[first.clone(), nameless]), Some(vec![expected]));
        for other in [
            named(Some("vnet7"), "network"),
            named(Some("vnet1"), "vhostuser"),
            // Counted from the host's point of view.
            named(Some("macvtap0"), "direct"),
        ] {
            assert_eq!(known(&[first.clone(), other]), None);
        }
        let nothing = HostStats::default();
        assert_eq!(host_interfaces(&DomainDef::default(), &nothing), None);
    }
}
