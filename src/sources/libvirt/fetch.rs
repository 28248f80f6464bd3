//! Queries each domain with a call of its own, four at a time, so that one hung domain does not
//! delay the others.
//!
//! Calls set `VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT`, so libvirt does not wait for a busy
//! domain. That protects every caller but the first, whose call waits in the domain's monitor while
//! that hangs. This call is left pending; meanwhile, queries of the domain are limited to what
//! needs no monitor and is returned at once. Statistics that are missing because the domain was
//! only briefly busy with another job are queried again, twice.

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
        let covers_vcpus = host_stats.vcpus.is_some() && self.groups & StatsGroup::Vm.bit() == 0;
        let vcpus = if covers_vcpus {
            StatsGroup::Vcpu.bit()
        } else {
            0
        };
        let links = definition.and_then(|definition| host_links(definition, host_stats));
        let covers_interfaces = links.is_some_and(|mut links| links.all(|link| link.is_some()));
        let interfaces = if covers_interfaces {
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
        let (_, without_block) = groups.split_last().unwrap_or((&StatsGroup::Block, &groups));
        self.restrict_to(if is_stuck { without_block } else { &groups })
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
    let domains = session.list_domains(deadline).await?;
    let mut fetch = Fetch::new(session, selection, deadline, domains);
    fetch.set_host_stats(host_stats);
    fetch.enqueue_queries();
    fetch.run().await;
    match session.close_error() {
        Some(error) => Err(error),
        None => Ok(fetch.into_domains()),
    }
}

struct Fetch<'a> {
    session: &'a Arc<LibvirtSession>,
    selection: StatsSelection,
    deadline: Instant,
    /// After this time a pending query no longer blocks others.
    overdue_after: Duration,
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
        domains.sort_by_key(|domain| !domain.is_active());
        let remaining = deadline.saturating_duration_since(Instant::now());
        let (reply_tx, reply_rx) = mpsc::unbounded_channel();
        Self {
            session,
            selection,
            deadline,
            overdue_after: (remaining / 4)
                .clamp(Duration::from_millis(100), Duration::from_secs(2)),
            partials: domains.iter().map(|_| PartialDomain::default()).collect(),
            domains,
            queue: VecDeque::new(),
            delayed: Vec::new(),
            in_flight: HashMap::new(),
            next_id: 0,
            reply_tx,
            reply_rx,
            error: None,
        }
    }

    /// Stores the host's statistics, which are not queried from libvirt.
    fn set_host_stats(&mut self, mut host_stats: HostStatsByUuid) {
        for (domain, partial) in self.domains.iter().zip(&mut self.partials) {
            let is_same_run = |stats: &HostStats| u32::try_from(domain.id) == Ok(stats.id);
            let domain_stats = host_stats
                .remove(&format_uuid(&domain.uuid))
                .filter(is_same_run);
            partial.host_stats = domain_stats.unwrap_or_default();
        }
    }

    fn enqueue_queries(&mut self) {
        let lacks_bulk_stats = self.session.lacks_bulk_stats.load(Ordering::Relaxed);
        for (index, (domain, partial)) in self.domains.iter().zip(&mut self.partials).enumerate() {
            let pending = self.session.pending_calls(CallSubject::Domain(domain.uuid));
            partial.was_stuck = pending > 0;
            if pending < MAX_PENDING_PER_DOMAIN {
                if lacks_bulk_stats {
                    self.queue.push_back(DomainQuery::Info(index));
                } else if domain.is_active() {
                    self.queue.push_back(DomainQuery::Stats(index, 0));
                }
            }
        }
        if !lacks_bulk_stats {
            let active = self
                .domains
                .iter()
                .filter(|domain| domain.is_active())
                .count();
            let starts = (active..self.domains.len()).step_by(INACTIVE_BATCH);
            self.queue.extend(starts.map(|index| {
                let count = self.domains.len().saturating_sub(index).min(INACTIVE_BATCH);
                DomainQuery::InactiveStats(index, count)
            }));
        }
        let ttl = self.session.timing().definition_ttl;
        for index in self.session.cache.stale(&self.domains, ttl) {
            let uuid = self.domains.get(index).map(|domain| domain.uuid);
            if uuid
                .is_some_and(|uuid| self.session.pending_calls(CallSubject::DomainXml(uuid)) == 0)
            {
                self.queue.push_back(DomainQuery::Xml(index));
            }
        }
    }

    /// Runs until all queries are complete or the deadline has passed.
    async fn run(&mut self) {
        loop {
            let mut slot_freed = pin!(self.session.slot_freed());
            slot_freed.as_mut().enable();
            self.send_queued();
            if self.queue.is_empty() && self.delayed.is_empty() && self.in_flight.is_empty() {
                return;
            }
            let (wakeup, has_queued) = (self.next_wakeup(), !self.queue.is_empty());
            tokio::select! {
                Some((id, reply)) = self.reply_rx.recv() => {
                    self.handle_reply(id, reply);
                    while let Ok((id, reply)) = self.reply_rx.try_recv() {
                        self.handle_reply(id, reply);
                    }
                }
                () = slot_freed, if has_queued => {}
                () = sleep_until(wakeup.into()) => {}
            }
            if Instant::now() >= self.deadline || self.session.close_error().is_some() {
                return;
            }
            self.handle_timers();
        }
    }

    fn next_wakeup(&self) -> Instant {
        let delayed = self.delayed.iter().map(|(due, _)| *due);
        let in_flight = self
            .in_flight
            .values()
            .filter(|pending| !pending.is_overdue);
        let overdue = in_flight.map(|pending| pending.sent_at + self.overdue_after);
        // Queries without a slot, which other callers occupy, may find one on another connection
        // by then.
        let retry_slot = (!self.queue.is_empty()).then(|| Instant::now() + self.overdue_after);
        delayed
            .chain(overdue)
            .chain(retry_slot)
            .fold(self.deadline, Instant::min)
    }

    /// Handles expired timers.
    fn handle_timers(&mut self) {
        let now = Instant::now();
        let due = self.delayed.extract_if(.., |(due, _)| *due <= now);
        self.queue.extend(due.map(|(_, query)| query));
        for pending in self.in_flight.values_mut() {
            if pending.is_overdue || pending.sent_at + self.overdue_after > now {
                continue;
            }
            pending.is_overdue = true;
            if let DomainQuery::Stats(index, _) = pending.query {
                let uuid = self.domains.get(index).map(|domain| domain.uuid);
                if uuid.is_some_and(|uuid| {
                    self.session.pending_calls(CallSubject::Domain(uuid)) < MAX_PENDING_PER_DOMAIN
                }) {
                    self.queue.push_front(DomainQuery::FallbackStats(index));
                }
            }
        }
    }

    fn send_queued(&mut self) {
        let in_flight = self
            .in_flight
            .values()
            .filter(|pending| !pending.is_overdue);
        let mut free = MAX_IN_FLIGHT.saturating_sub(in_flight.count());
        while free > 0 {
            let Some(query) = self.queue.pop_front() else {
                return;
            };
            if !self.send(query) {
                self.queue.push_front(query);
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
        let (deadline, id) = (self.deadline, self.next_id);
        let request = |body: XdrEncoder| RpcRequest {
            procedure,
            body: body.into_bytes(),
            deadline,
        };
        let on_reply = || {
            let reply_tx = self.reply_tx.clone();
            // The scrape may have ended.
            Box::new(move |reply| drop(reply_tx.send((id, reply))))
        };
        let mut is_quick = false;
        let mut result = self.session.try_call(subject, request(body), on_reply());
        if result.is_err() && self.session.is_saturated(self.overdue_after) {
            // Groups that need no monitor can still be read.
            is_quick = matches!(
                query,
                DomainQuery::Stats(..) | DomainQuery::FallbackStats(_)
            );
            if let Some((subject, _, body)) = self.build_request(query, is_quick) {
                result = self
                    .session
                    .try_call_quick(subject, request(body), on_reply());
            }
        }
        if result.is_err() {
            return false;
        }
        self.next_id = self.next_id.wrapping_add(1);
        let pending = PendingQuery {
            query,
            sent_at: Instant::now(),
            is_overdue: false,
            is_quick,
        };
        self.in_flight.insert(id, pending);
        true
    }

    fn build_request(
        &self,
        query: DomainQuery,
        is_quick: bool,
    ) -> Option<(CallSubject, u32, XdrEncoder)> {
        let domain_at = |index: usize| self.domains.get(index);
        Some(match query {
            DomainQuery::Stats(index, _) | DomainQuery::FallbackStats(index) => {
                let domain = domain_at(index)?;
                let groups = if is_quick {
                    self.selection.groups_without_monitor()
                } else {
                    let definition = self.session.cache.get(domain);
                    let host_stats = &self.partials.get(index)?.host_stats;
                    self.selection
                        .groups_to_query(host_stats, definition.as_deref())
                };
                let body = XdrEncoder::default().put_u32(1).put_domain(domain);
                let body = body
                    .put_u32(groups)
                    .put_u32(VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT);
                (
                    CallSubject::Domain(domain.uuid),
                    procedure::REMOTE_PROC_CONNECT_GET_ALL_DOMAIN_STATS,
                    body,
                )
            }
            DomainQuery::InactiveStats(index, count) => {
                let domains = self.domains.get(index..)?.iter().take(count);
                let body = XdrEncoder::default().put_u32(u32::try_from(domains.len()).ok()?);
                let body = domains.fold(body, XdrEncoder::put_domain);
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
            DomainQuery::Xml(index) => {
                let domain = domain_at(index)?;
                let body = XdrEncoder::default().put_domain(domain).put_u32(0);
                (
                    CallSubject::DomainXml(domain.uuid),
                    procedure::REMOTE_PROC_DOMAIN_GET_XML_DESC,
                    body,
                )
            }
            DomainQuery::Info(index) => {
                let domain = domain_at(index)?;
                let body = XdrEncoder::default().put_domain(domain);
                (
                    CallSubject::Domain(domain.uuid),
                    procedure::REMOTE_PROC_DOMAIN_GET_INFO,
                    body,
                )
            }
            DomainQuery::State(index) => {
                let domain = domain_at(index)?;
                let body = XdrEncoder::default().put_domain(domain).put_u32(0);
                (
                    CallSubject::Domain(domain.uuid),
                    procedure::REMOTE_PROC_DOMAIN_GET_STATE,
                    body,
                )
            }
            DomainQuery::Job(index) => {
                let domain = domain_at(index)?;
                let body = XdrEncoder::default().put_domain(domain);
                (
                    CallSubject::Domain(domain.uuid),
                    procedure::REMOTE_PROC_DOMAIN_GET_JOB_INFO,
                    body,
                )
            }
        })
    }

    fn handle_reply(&mut self, id: u64, reply: Result<Vec<u8>>) {
        let Some(pending) = self.in_flight.remove(&id) else {
            return;
        };
        let query = pending.query;
        let result = reply.and_then(|body| match query {
            DomainQuery::Stats(index, _) | DomainQuery::FallbackStats(index) => {
                self.handle_stats(index, &pending, &body)
            }
            DomainQuery::InactiveStats(index, count) => {
                self.handle_inactive_stats(index, count, &body)
            }
            DomainQuery::Xml(index) => self.handle_xml(index, pending.sent_at, &body),
            DomainQuery::Info(index) => self.handle_info(index, &pending, &body),
            DomainQuery::State(index) => self.handle_state(index, &body),
            DomainQuery::Job(index) => self.handle_job(index, &body),
        });
        let Err(error) = result else {
            return;
        };
        match (&error, query) {
            (
                CallError::Remote(remote),
                DomainQuery::Stats(..)
                | DomainQuery::FallbackStats(_)
                | DomainQuery::InactiveStats(..),
            ) if remote.is_unsupported() => {
                self.session.lacks_bulk_stats.store(true, Ordering::Relaxed);
                let index = match query {
                    DomainQuery::Stats(index, _) | DomainQuery::FallbackStats(index) => {
                        index..index.saturating_add(1)
                    }
                    DomainQuery::InactiveStats(index, count) => index..index.saturating_add(count),
                    _ => 0..0,
                };
                self.queue.extend(index.map(DomainQuery::Info));
            }
            (
                CallError::Remote(remote),
                DomainQuery::Stats(index, _) | DomainQuery::Info(index),
            ) if remote.is_gone() => {
                if let Some(partial) = self.partials.get_mut(index) {
                    partial.is_gone = true;
                }
            }
            // The domain has no job or has disappeared; other queries report that.
            (CallError::Remote(_), DomainQuery::Job(_)) => {}
            (CallError::Remote(remote), _) if remote.is_gone() => {}
            _ => {
                let context = self.describe(query);
                self.error
                    .get_or_insert_with(|| format!("{context}{error}"));
            }
        }
    }

    fn describe(&self, query: DomainQuery) -> String {
        let (DomainQuery::Stats(index, _)
        | DomainQuery::FallbackStats(index)
        | DomainQuery::InactiveStats(index, _)
        | DomainQuery::Xml(index)
        | DomainQuery::Info(index)
        | DomainQuery::State(index)
        | DomainQuery::Job(index)) = query;
        let name = self
            .domains
            .get(index)
            .map(DomainRef::name_lossy)
            .unwrap_or_default();
        match query {
            DomainQuery::InactiveStats(..) => "inactive domains: ".to_owned(),
            DomainQuery::Xml(_) => format!("XML of domain {name:?}: "),
            _ => format!("domain {name:?}: "),
        }
    }

    fn handle_stats(&mut self, index: usize, pending: &PendingQuery, body: &[u8]) -> Result<()> {
        let records = wire::parse_stats_records(body)?;
        let (Some(domain), Some(partial)) = (self.domains.get(index), self.partials.get_mut(index))
        else {
            return Ok(());
        };
        let mut records = records.into_iter();
        let Some(record) = records.find(|record| record.domain.uuid == domain.uuid) else {
            partial.is_gone = true;
            return Ok(());
        };
        let stats = params::parse_stats(record.params);
        let is_qemu = self.session.is_qemu();
        let is_partial = pending.is_quick || is_qemu && !params::is_complete(&stats.2, stats.0);
        if is_partial && partial.stats.is_some() && !partial.is_partial {
            // A reply to an earlier query has been more complete.
            return Ok(());
        }
        let lacks_info = !is_qemu && stats.2.balloon.maximum.is_none();
        partial.stats = Some(stats);
        partial.id = Some(record.domain.id);
        partial.is_partial = is_partial;
        partial.response_time = Some(pending.sent_at.elapsed());
        if lacks_info {
            self.queue.push_back(DomainQuery::Info(index));
        }
        let is_fallback = matches!(pending.query, DomainQuery::FallbackStats(_));
        if self.selection.has_jobs && !is_partial && !is_fallback {
            self.queue.push_back(DomainQuery::Job(index));
        }
        if let DomainQuery::Stats(_, attempt) = pending.query
            && is_partial
            && !pending.is_quick
            && !partial.was_stuck
            && let Some(delay) = self.session.timing().stats_retry_delays.get(attempt)
        {
            let due = Instant::now() + *delay;
            if due < self.deadline {
                let retry = DomainQuery::Stats(index, attempt.saturating_add(1));
                self.delayed.push((due, retry));
            }
        }
        Ok(())
    }

    fn handle_inactive_stats(&mut self, index: usize, count: usize, body: &[u8]) -> Result<()> {
        let mut records: HashMap<_, _> = wire::parse_stats_records(body)?
            .into_iter()
            .map(|record| (record.domain.uuid, record))
            .collect();
        let partials = self.domains.iter().zip(&mut self.partials).enumerate();
        for (index, (domain, partial)) in partials.skip(index).take(count) {
            let Some(record) = records.remove(&domain.uuid) else {
                partial.is_gone = true;
                continue;
            };
            let stats = params::parse_stats(record.params);
            if !self.session.is_qemu() && stats.2.balloon.maximum.is_none() {
                self.queue.push_back(DomainQuery::Info(index));
            }
            partial.id = Some(record.domain.id);
            partial.stats = Some(stats);
        }
        Ok(())
    }

    fn handle_xml(&mut self, index: usize, requested_at: Instant, body: &[u8]) -> Result<()> {
        let Some(domain) = self.domains.get(index) else {
            return Ok(());
        };
        let text = wire::parse_string(body)?;
        let definition = xml::parse_domain(&text);
        if let Err(reason) = &definition {
            let name = domain.name_lossy();
            let error = || format!("domain {name:?}: {reason}");
            self.error.get_or_insert_with(error);
        }
        self.session
            .cache
            .insert(domain, requested_at, definition.ok());
        Ok(())
    }

    fn handle_info(&mut self, index: usize, pending: &PendingQuery, body: &[u8]) -> Result<()> {
        let info = wire::parse_domain_info(body)?;
        let Some(partial) = self.partials.get_mut(index) else {
            return Ok(());
        };
        partial
            .response_time
            .get_or_insert(pending.sent_at.elapsed());
        let (state, reason, domain_stats) = partial.stats.get_or_insert_default();
        *state = state.or(DomainState::from_number(info.state));
        if reason.is_none() {
            self.queue.push_back(DomainQuery::State(index));
        }
        let bytes = |kib: u64| kib.checked_mul(1024);
        let balloon = &mut domain_stats.balloon;
        balloon.current = balloon.current.or(bytes(info.memory));
        balloon.maximum = balloon.maximum.or(bytes(info.max_memory));
        domain_stats.vcpu_current = domain_stats.vcpu_current.or(Some(info.vcpus.into()));
        let time = Duration::from_nanos(info.cpu_time);
        domain_stats.cpu.time = domain_stats.cpu.time.or(Some(time));
        Ok(())
    }

    fn handle_state(&mut self, index: usize, body: &[u8]) -> Result<()> {
        let (_, new_reason) = wire::parse_domain_state(body)?;
        let partial = self.partials.get_mut(index);
        if let Some((_, reason, _)) = partial.and_then(|partial| partial.stats.as_mut()) {
            *reason = Some(new_reason);
        }
        Ok(())
    }

    fn handle_job(&mut self, index: usize, body: &[u8]) -> Result<()> {
        let info = wire::parse_job_info(body)?;
        if let Some(partial) = self.partials.get_mut(index) {
            partial.job = Some(domain_job(&info));
        }
        Ok(())
    }

    /// Returns the domains with the data collected so far.
    fn into_domains(self) -> (Vec<Domain>, Option<String>) {
        let Self {
            session,
            domains,
            partials,
            error,
            selection,
            ..
        } = self;
        let partials = domains
            .iter()
            .zip(partials)
            .filter(|(_, partial)| !partial.is_gone);
        let mut domains: Vec<_> = partials
            .map(|(domain, partial)| build_domain(session, selection, domain, partial))
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
    let definition = session.cache.get(domain);
    let lacks_stats = partial.stats.is_none();
    let (state, reason, mut domain_stats) = partial.stats.unwrap_or_default();
    let is_off = state.is_some_and(|state| !state.is_active());
    if is_off {
        // libvirt 9 reports the CPU time of the daemon and the memory the domain would get.
        domain_stats.cpu = CpuTimes::default();
        domain_stats.balloon.current = None;
    } else {
        add_host_stats(
            &mut domain_stats,
            selection,
            &partial.host_stats,
            definition.as_deref(),
        );
    }
    let id = partial.id.unwrap_or(domain.id);
    Domain {
        name: domain.name_lossy(),
        uuid: format_uuid(&domain.uuid),
        id: id.try_into().ok().filter(|_| !is_off),
        state,
        reason,
        started: partial.host_stats.started.filter(|_| !is_off),
        lifecycle: session
            .events()
            .counts_for(&domain.uuid, definition.as_deref()),
        definition,
        stats: domain_stats,
        is_partial: partial.is_partial || lacks_stats,
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
    let is_selected = |group: StatsGroup| selection.groups & group.bit() != 0;
    if let Some(cpu) = host_stats.cpu
        && is_selected(StatsGroup::Cpu)
    {
        stats.cpu = cpu;
    }
    if let Some(vcpus) = &host_stats.vcpus
        && is_selected(StatsGroup::Vcpu)
    {
        let mut reported: HashMap<_, _> = stats
            .vcpus
            .drain(..)
            .map(|vcpu| (vcpu.number, vcpu))
            .collect();
        let merged = vcpus.iter().map(|vcpu| Vcpu {
            kvm: reported
                .remove(&vcpu.number)
                .map_or_else(Vec::new, |vcpu| vcpu.kvm),
            ..vcpu.clone()
        });
        stats.vcpus = merged.collect();
        stats.vcpu_current = Some(vcpus.len() as u64);
        let maximum = definition.and_then(|definition| definition.max_vcpus);
        stats.vcpu_maximum = stats.vcpu_maximum.or(maximum);
    }
    if stats.interfaces.is_empty()
        && is_selected(StatsGroup::Interface)
        && let Some(interfaces) =
            definition.and_then(|definition| host_interfaces(definition, host_stats))
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
        let is_kernel_counted = KERNEL_COUNTED_TYPES.contains(&interface.kind.as_str());
        let link = links.get(name).filter(|_| is_kernel_counted);
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
    let has_job = info.kind != 0;
    let three = |sizes: [u64; 3]| sizes.map(|size| has_job.then_some(size));
    let time = |time| has_job.then(|| Duration::from_millis(time));
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
    fn host_interface_counters_are_swapped() {
        let link = LinkTraffic {
            received: [1, 2, 3, 4],
            sent: [5, 6, 7, 8],
        };
        let links = ["vnet0", "vnet1", "macvtap0"].map(|name| (name.to_owned(), link));
        let host_stats = HostStats {
            links: Some(Arc::new(links.into())),
            ..HostStats::default()
        };
        let from_host = |interfaces: &[InterfaceDef]| {
            let definition = DomainDef {
                interfaces: interfaces.to_vec(),
                ..DomainDef::default()
            };
            host_interfaces(&definition, &host_stats)
        };
        // A passed-through interface has no name and no statistics in libvirt.
        let (first, nameless) = (named(Some("vnet0"), "bridge"), named(None, "hostdev"));
        let expected = DomainInterface {
            name: "vnet0".to_owned(),
            received: interface_traffic([5, 6, 7, 8]),
            sent: interface_traffic([1, 2, 3, 4]),
        };
        assert_eq!(from_host(&[first.clone(), nameless]), Some(vec![expected]));
        for other in [
            named(Some("vnet7"), "network"),
            named(Some("vnet1"), "vhostuser"),
            // Counted from the host's point of view.
            named(Some("macvtap0"), "direct"),
        ] {
            assert_eq!(from_host(&[first.clone(), other]), None);
        }
        let no_stats = HostStats::default();
        assert_eq!(host_interfaces(&DomainDef::default(), &no_stats), None);
    }
}
