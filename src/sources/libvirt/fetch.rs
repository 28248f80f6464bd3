//! Asking about all domains, each by itself and four at a time, so that one that hangs
//! costs only itself.
//!
//! libvirt is told not to wait for a domain that is busy (`NOWAIT`). That protects all
//! but the first who asks, whose request waits in the domain's monitor for as long as
//! that hangs; so it is left there, and while it is, who asks again is answered at once
//! with what needs no monitor. What is missing because the domain was just busy for
//! somebody else is asked for again, twice.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::sleep_until};

use super::{
    Group, Runs,
    connection::{Failure, Request, Result},
    domain::{About, Counted, CpuTimes, Domain, Interface, Job, State, Stats, Traffic, Vcpu},
    params,
    session::{Session, Subject},
    wire::{self, Body, Guest, procedure, written},
    xml,
};
use crate::sources::LinkTraffic;

/// So many requests at a time that may still be answered soon.
const WINDOW: usize = 4;
/// So many domains that do not run are asked about together.
const OFF_TOGETHER: usize = 32;
/// A domain with so many questions without an answer is asked no other.
const MAX_STUCK: usize = 2;
/// Interfaces whose other end is the guest's, so that it receives what they send; and that
/// the kernel counts for, not a virtual switch.
const PLAIN_KINDS: [&str; 3] = ["bridge", "ethernet", "network"];
/// `VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT`
const NOWAIT: u32 = 1 << 29;

/// What to ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    groups: u32,
    has_jobs: bool,
}

impl Wanted {
    pub(super) fn new(groups: &[Group], has_jobs: bool) -> Self {
        let groups = groups.iter().fold(0, |bits, group| bits | group.bit());
        // Without its state nobody could tell what the rest means.
        let groups = groups | Group::State.bit();
        Self { groups, has_jobs }
    }

    fn only(self, groups: &[Group]) -> u32 {
        self.groups & Self::new(groups, false).groups
    }

    /// What is not known without libvirt, of a domain that this is said of.
    fn beside(self, counted: &Counted, about: Option<&About>) -> u32 {
        let cpu = counted.cpu.as_ref().map_or(0, |_| Group::Cpu.bit());
        // What KVM says of each comes with them.
        let is_enough = counted.vcpus.is_some() && self.groups & Group::Vm.bit() == 0;
        let vcpus = if is_enough { Group::Vcpu.bit() } else { 0 };
        let links = about.and_then(|about| links(about, counted));
        let has_all = links.is_some_and(|mut links| links.all(|link| link.is_some()));
        let interfaces = if has_all { Group::Interface.bit() } else { 0 };
        self.groups & !(cpu | vcpus | interfaces)
    }

    /// What libvirt knows without asking a domain's monitor.
    fn quick(self) -> u32 {
        self.only(&[Group::State, Group::Interface])
    }

    /// What there is of a domain that does not run. Disks are looked at for it, which may
    /// be on a file system that hangs.
    fn off(self, is_stuck: bool) -> u32 {
        let groups = [Group::State, Group::Balloon, Group::Vcpu, Group::Block];
        let (_, without) = groups.split_last().unwrap_or((&Group::Block, &groups));
        self.only(if is_stuck { without } else { &groups })
    }
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// What the domain of this place uses; how often that was asked before.
    Stats(usize, usize),
    /// What it uses while an earlier question of this scrape hangs.
    Rest(usize),
    /// What so many from this place on use, which do not run.
    Off(usize, usize),
    Xml(usize),
    Info(usize),
    State(usize),
    Job(usize),
}

/// A question that is asked.
#[derive(Debug)]
struct Flight {
    question: Question,
    since: Instant,
    /// Whether others are asked meanwhile.
    is_late: bool,
    /// Whether only what needs no monitor was asked for.
    is_quick: bool,
}

/// What became known of a domain in this scrape.
#[derive(Debug, Default)]
struct Draft {
    counted: Counted,
    said: Option<(Option<State>, Option<i32>, Stats)>,
    id: Option<i32>,
    is_partial: bool,
    /// Whether it was not answered in an earlier scrape.
    was_stuck: bool,
    is_gone: bool,
    took: Option<Duration>,
    job: Option<Job>,
}

/// The domains, sorted by name, and what went wrong although they are there.
pub(super) async fn domains(
    session: &Arc<Session>,
    wanted: Wanted,
    counted: Runs,
    by: Instant,
) -> Result<(Vec<Domain>, Option<String>)> {
    let guests = session.guests(by).await?;
    let mut fetch = Fetch::new(session, wanted, by, guests);
    fetch.count(counted);
    fetch.plan();
    fetch.run().await;
    match session.end() {
        Some(failure) => Err(failure),
        None => Ok(fetch.done()),
    }
}

struct Fetch<'a> {
    session: &'a Arc<Session>,
    wanted: Wanted,
    by: Instant,
    /// How long a question keeps others waiting.
    patience: Duration,
    /// Those that run first.
    guests: Vec<Guest>,
    drafts: Vec<Draft>,
    queue: VecDeque<Question>,
    later: Vec<(Instant, Question)>,
    flights: HashMap<u64, Flight>,
    flown: u64,
    say: mpsc::UnboundedSender<(u64, Result<Vec<u8>>)>,
    said: mpsc::UnboundedReceiver<(u64, Result<Vec<u8>>)>,
    error: Option<String>,
}

impl<'a> Fetch<'a> {
    fn new(session: &'a Arc<Session>, wanted: Wanted, by: Instant, mut guests: Vec<Guest>) -> Self {
        guests.sort_by_key(|guest| !guest.is_active());
        let left = by.saturating_duration_since(Instant::now());
        let (say, said) = mpsc::unbounded_channel();
        Self {
            session,
            wanted,
            by,
            patience: (left / 4).clamp(Duration::from_millis(100), Duration::from_secs(2)),
            drafts: guests.iter().map(|_| Draft::default()).collect(),
            guests,
            queue: VecDeque::new(),
            later: Vec::new(),
            flights: HashMap::new(),
            flown: 0,
            say,
            said,
            error: None,
        }
    }

    /// Takes what need not be asked for.
    fn count(&mut self, mut counted: Runs) {
        for (guest, draft) in self.guests.iter().zip(&mut self.drafts) {
            let of_this_run = |it: &Counted| u32::try_from(guest.id) == Ok(it.id);
            let counted = counted.remove(&written(&guest.uuid)).filter(of_this_run);
            draft.counted = counted.unwrap_or_default();
        }
    }

    fn plan(&mut self) {
        let lacks_stats = self.session.lacks_stats.load(Ordering::Relaxed);
        for (at, (guest, draft)) in self.guests.iter().zip(&mut self.drafts).enumerate() {
            let asked = self.session.asked(Subject::Domain(guest.uuid));
            draft.was_stuck = asked > 0;
            if asked < MAX_STUCK {
                if lacks_stats {
                    self.queue.push_back(Question::Info(at));
                } else if guest.is_active() {
                    self.queue.push_back(Question::Stats(at, 0));
                }
            }
        }
        if !lacks_stats {
            let first = self.guests.iter().filter(|guest| guest.is_active()).count();
            let places = (first..self.guests.len()).step_by(OFF_TOGETHER);
            self.queue.extend(places.map(|at| {
                let count = self.guests.len().saturating_sub(at).min(OFF_TOGETHER);
                Question::Off(at, count)
            }));
        }
        let lifetime = self.session.timing().lifetime;
        for at in self.session.cache.wanted(&self.guests, lifetime) {
            let uuid = self.guests.get(at).map(|guest| guest.uuid);
            if uuid.is_some_and(|uuid| self.session.asked(Subject::Xml(uuid)) == 0) {
                self.queue.push_back(Question::Xml(at));
            }
        }
    }

    /// Asks until all is answered or the time is over.
    async fn run(&mut self) {
        loop {
            let mut room = pin!(self.session.room());
            room.as_mut().enable();
            self.ask_next();
            if self.queue.is_empty() && self.later.is_empty() && self.flights.is_empty() {
                return;
            }
            let (wake, waits) = (self.next_wake(), !self.queue.is_empty());
            tokio::select! {
                Some((number, answer)) = self.said.recv() => {
                    self.answered(number, answer);
                    while let Ok((number, answer)) = self.said.try_recv() {
                        self.answered(number, answer);
                    }
                }
                () = room, if waits => {}
                () = sleep_until(wake.into()) => {}
            }
            if Instant::now() >= self.by || self.session.end().is_some() {
                return;
            }
            self.woke();
        }
    }

    fn next_wake(&self) -> Instant {
        let later = self.later.iter().map(|(at, _)| *at);
        let flights = self.flights.values().filter(|flight| !flight.is_late);
        let late = flights.map(|flight| flight.since + self.patience);
        // What finds no room, because others ask too, may find some elsewhere by then.
        let waits = (!self.queue.is_empty()).then(|| Instant::now() + self.patience);
        later.chain(late).chain(waits).fold(self.by, Instant::min)
    }

    /// Sees to what is due by now.
    fn woke(&mut self) {
        let now = Instant::now();
        let due = self.later.extract_if(.., |(at, _)| *at <= now);
        self.queue.extend(due.map(|(_, question)| question));
        for flight in self.flights.values_mut() {
            if flight.is_late || flight.since + self.patience > now {
                continue;
            }
            flight.is_late = true;
            if let Question::Stats(at, _) = flight.question {
                let uuid = self.guests.get(at).map(|guest| guest.uuid);
                if uuid.is_some_and(|it| self.session.asked(Subject::Domain(it)) < MAX_STUCK) {
                    self.queue.push_front(Question::Rest(at));
                }
            }
        }
    }

    fn ask_next(&mut self) {
        let soon = self.flights.values().filter(|flight| !flight.is_late);
        let mut free = WINDOW.saturating_sub(soon.count());
        while free > 0 {
            let Some(question) = self.queue.pop_front() else {
                return;
            };
            if !self.ask(question) {
                self.queue.push_front(question);
                return;
            }
            free -= 1;
        }
    }

    /// Asks; whether there was room for it.
    fn ask(&mut self, question: Question) -> bool {
        let Some((subject, procedure, body)) = self.request(question, false) else {
            return true;
        };
        let (by, number) = (self.by, self.flown);
        let request = |body: Body| Request {
            procedure,
            body: body.bytes(),
            by,
        };
        let then = || {
            let say = self.say.clone();
            // The scrape may be over.
            Box::new(move |answer| drop(say.send((number, answer))))
        };
        let mut is_quick = false;
        let mut asked = self.session.try_ask(subject, request(body), then());
        if asked.is_err() && self.session.is_full_for(self.patience) {
            // What needs no domain can be had all the same.
            is_quick = matches!(question, Question::Stats(..) | Question::Rest(_));
            if let Some((subject, _, body)) = self.request(question, is_quick) {
                asked = self.session.try_ask_quick(subject, request(body), then());
            }
        }
        if asked.is_err() {
            return false;
        }
        self.flown = self.flown.wrapping_add(1);
        let flight = Flight {
            question,
            since: Instant::now(),
            is_late: false,
            is_quick,
        };
        self.flights.insert(number, flight);
        true
    }

    fn request(&self, question: Question, is_quick: bool) -> Option<(Subject, u32, Body)> {
        let about = |at: usize| self.guests.get(at);
        Some(match question {
            Question::Stats(at, _) | Question::Rest(at) => {
                let guest = about(at)?;
                let groups = if is_quick {
                    self.wanted.quick()
                } else {
                    let about = self.session.cache.about(guest);
                    let counted = &self.drafts.get(at)?.counted;
                    self.wanted.beside(counted, about.as_deref())
                };
                let body = Body::default().number(1).guest(guest);
                let body = body.number(groups).number(NOWAIT);
                (Subject::Domain(guest.uuid), procedure::STATS, body)
            }
            Question::Off(at, count) => {
                let guests = self.guests.get(at..)?.iter().take(count);
                let body = Body::default().number(u32::try_from(guests.len()).ok()?);
                let body = guests.fold(body, Body::guest);
                let is_stuck = self.session.asked(Subject::Off) > 0;
                let body = body.number(self.wanted.off(is_stuck)).number(NOWAIT);
                (Subject::Off, procedure::STATS, body)
            }
            Question::Xml(at) => {
                let guest = about(at)?;
                let body = Body::default().guest(guest).number(0);
                (Subject::Xml(guest.uuid), procedure::XML, body)
            }
            Question::Info(at) => {
                let guest = about(at)?;
                let body = Body::default().guest(guest);
                (Subject::Domain(guest.uuid), procedure::INFO, body)
            }
            Question::State(at) => {
                let guest = about(at)?;
                let body = Body::default().guest(guest).number(0);
                (Subject::Domain(guest.uuid), procedure::STATE, body)
            }
            Question::Job(at) => {
                let guest = about(at)?;
                let body = Body::default().guest(guest);
                (Subject::Domain(guest.uuid), procedure::JOB_INFO, body)
            }
        })
    }

    fn answered(&mut self, number: u64, answer: Result<Vec<u8>>) {
        let Some(flight) = self.flights.remove(&number) else {
            return;
        };
        let question = flight.question;
        let taken = answer.and_then(|body| match question {
            Question::Stats(at, _) | Question::Rest(at) => self.stats(at, &flight, &body),
            Question::Off(at, count) => self.off(at, count, &body),
            Question::Xml(at) => self.xml(at, flight.since, &body),
            Question::Info(at) => self.info(at, &flight, &body),
            Question::State(at) => self.state(at, &body),
            Question::Job(at) => self.job(at, &body),
        });
        let Err(failure) = taken else {
            return;
        };
        match (&failure, question) {
            (
                Failure::Refused(refusal),
                Question::Stats(..) | Question::Rest(_) | Question::Off(..),
            ) if refusal.is_unsupported() => {
                self.session.lacks_stats.store(true, Ordering::Relaxed);
                let at = match question {
                    Question::Stats(at, _) | Question::Rest(at) => at..at.saturating_add(1),
                    Question::Off(at, count) => at..at.saturating_add(count),
                    _ => 0..0,
                };
                self.queue.extend(at.map(Question::Info));
            }
            (Failure::Refused(refusal), Question::Stats(at, _) | Question::Info(at))
                if refusal.is_gone() =>
            {
                if let Some(draft) = self.drafts.get_mut(at) {
                    draft.is_gone = true;
                }
            }
            // No job, or no longer there: whoever asked for more is told.
            (Failure::Refused(_), Question::Job(_)) => {}
            (Failure::Refused(refusal), _) if refusal.is_gone() => {}
            _ => {
                let about = self.named(question);
                self.error
                    .get_or_insert_with(|| format!("{about}{failure}"));
            }
        }
    }

    fn named(&self, question: Question) -> String {
        let (Question::Stats(at, _)
        | Question::Rest(at)
        | Question::Off(at, _)
        | Question::Xml(at)
        | Question::Info(at)
        | Question::State(at)
        | Question::Job(at)) = question;
        let name = self.guests.get(at).map(Guest::text).unwrap_or_default();
        match question {
            Question::Off(..) => "domains that do not run: ".to_owned(),
            Question::Xml(_) => format!("description of {name:?}: "),
            _ => format!("{name:?}: "),
        }
    }

    fn stats(&mut self, at: usize, flight: &Flight, body: &[u8]) -> Result<()> {
        let records = wire::records(body)?;
        let (Some(guest), Some(draft)) = (self.guests.get(at), self.drafts.get_mut(at)) else {
            return Ok(());
        };
        let mut records = records.into_iter();
        let Some(record) = records.find(|record| record.guest.uuid == guest.uuid) else {
            draft.is_gone = true;
            return Ok(());
        };
        let said = params::stats(record.params);
        let is_qemu = self.session.is_qemu();
        let is_partial = flight.is_quick || is_qemu && !params::is_complete(&said.2, said.0);
        if is_partial && draft.said.is_some() && !draft.is_partial {
            // An earlier question was answered better meanwhile.
            return Ok(());
        }
        let lacks_info = !is_qemu && said.2.balloon.maximum.is_none();
        draft.said = Some(said);
        draft.id = Some(record.guest.id);
        draft.is_partial = is_partial;
        draft.took = Some(flight.since.elapsed());
        if lacks_info {
            self.queue.push_back(Question::Info(at));
        }
        let is_last = matches!(flight.question, Question::Rest(_));
        if self.wanted.has_jobs && !is_partial && !is_last {
            self.queue.push_back(Question::Job(at));
        }
        if let Question::Stats(_, tries) = flight.question
            && is_partial
            && !flight.is_quick
            && !draft.was_stuck
            && let Some(pause) = self.session.timing().again.get(tries)
        {
            let due = Instant::now() + *pause;
            if due < self.by {
                let again = Question::Stats(at, tries.saturating_add(1));
                self.later.push((due, again));
            }
        }
        Ok(())
    }

    fn off(&mut self, at: usize, count: usize, body: &[u8]) -> Result<()> {
        let mut records: HashMap<_, _> = wire::records(body)?
            .into_iter()
            .map(|record| (record.guest.uuid, record))
            .collect();
        let drafts = self.guests.iter().zip(&mut self.drafts).enumerate();
        for (at, (guest, draft)) in drafts.skip(at).take(count) {
            let Some(record) = records.remove(&guest.uuid) else {
                draft.is_gone = true;
                continue;
            };
            let said = params::stats(record.params);
            if !self.session.is_qemu() && said.2.balloon.maximum.is_none() {
                self.queue.push_back(Question::Info(at));
            }
            draft.id = Some(record.guest.id);
            draft.said = Some(said);
        }
        Ok(())
    }

    fn xml(&mut self, at: usize, asked: Instant, body: &[u8]) -> Result<()> {
        let Some(guest) = self.guests.get(at) else {
            return Ok(());
        };
        let text = wire::string(body)?;
        let about = xml::about(&text);
        if let Err(reason) = &about {
            let name = guest.text();
            let error = || format!("description of {name:?}: {reason}");
            self.error.get_or_insert_with(error);
        }
        self.session.cache.put(guest, asked, about.ok());
        Ok(())
    }

    fn info(&mut self, at: usize, flight: &Flight, body: &[u8]) -> Result<()> {
        let info = wire::info(body)?;
        let Some(draft) = self.drafts.get_mut(at) else {
            return Ok(());
        };
        draft.took.get_or_insert(flight.since.elapsed());
        let (state, reason, used) = draft.said.get_or_insert_default();
        *state = state.or(State::of(info.state));
        if reason.is_none() {
            self.queue.push_back(Question::State(at));
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

    fn state(&mut self, at: usize, body: &[u8]) -> Result<()> {
        let (_, why) = wire::state(body)?;
        let draft = self.drafts.get_mut(at);
        if let Some((_, reason, _)) = draft.and_then(|draft| draft.said.as_mut()) {
            *reason = Some(why);
        }
        Ok(())
    }

    fn job(&mut self, at: usize, body: &[u8]) -> Result<()> {
        let info = wire::job(body)?;
        if let Some(draft) = self.drafts.get_mut(at) {
            draft.job = Some(job(&info));
        }
        Ok(())
    }

    /// The domains as they are known now.
    fn done(self) -> (Vec<Domain>, Option<String>) {
        let Self {
            session,
            guests,
            drafts,
            error,
            wanted,
            ..
        } = self;
        let drafts = guests
            .iter()
            .zip(drafts)
            .filter(|(_, draft)| !draft.is_gone);
        let mut domains: Vec<_> = drafts
            .map(|(guest, draft)| domain(session, wanted, guest, draft))
            .collect();
        domains.sort_by(|a, b| a.name.cmp(&b.name));
        // Other bytes may have become the same text.
        domains.dedup_by(|a, b| a.name == b.name);
        (domains, error)
    }
}

fn domain(session: &Session, wanted: Wanted, guest: &Guest, draft: Draft) -> Domain {
    let about = session.cache.about(guest);
    let is_silent = draft.said.is_none();
    let (state, reason, mut used) = draft.said.unwrap_or_default();
    let is_off = state.is_some_and(|state| !state.is_active());
    if is_off {
        // libvirt 9 says what it used itself, and what the domain would get.
        used.cpu = CpuTimes::default();
        used.balloon.current = None;
    } else {
        complete(&mut used, wanted, &draft.counted, about.as_deref());
    }
    let id = draft.id.unwrap_or(guest.id);
    Domain {
        name: guest.text(),
        uuid: written(&guest.uuid),
        id: id.try_into().ok().filter(|_| !is_off),
        state,
        reason,
        started: draft.counted.started.filter(|_| !is_off),
        lifecycle: session.heard().of(&guest.uuid, about.as_deref()),
        about,
        stats: used,
        is_partial: draft.is_partial || is_silent,
        is_stuck: session.asked(Subject::Domain(guest.uuid)) > 0,
        took: draft.took,
        job: draft.job,
    }
}

/// Adds what was not asked for. Where it was said all the same, it is not taken from there:
/// the two are rounded in different ways, and no counter may step back.
fn complete(used: &mut Stats, wanted: Wanted, counted: &Counted, about: Option<&About>) {
    let is_wanted = |group: Group| wanted.groups & group.bit() != 0;
    if let Some(cpu) = counted.cpu
        && is_wanted(Group::Cpu)
    {
        used.cpu = cpu;
    }
    if let Some(vcpus) = &counted.vcpus
        && is_wanted(Group::Vcpu)
    {
        let mut said: HashMap<_, _> = used.vcpus.drain(..).map(|it| (it.number, it)).collect();
        let whole = vcpus.iter().map(|vcpu| Vcpu {
            kvm: said.remove(&vcpu.number).map_or_else(Vec::new, |it| it.kvm),
            ..vcpu.clone()
        });
        used.vcpus = whole.collect();
        used.vcpu_current = Some(vcpus.len() as u64);
        let maximum = about.and_then(|about| about.max_vcpus);
        used.vcpu_maximum = used.vcpu_maximum.or(maximum);
    }
    if used.interfaces.is_empty()
        && is_wanted(Group::Interface)
        && let Some(interfaces) = about.and_then(|about| interfaces(about, counted))
    {
        used.interfaces = interfaces;
    }
}

/// What libvirt would say of its interfaces, if the kernel counts for all that have a name.
fn interfaces(about: &About, counted: &Counted) -> Option<Vec<Interface>> {
    let interfaces = links(about, counted)?.map(|link| {
        let (name, link) = link?;
        Some(Interface {
            name: name.to_owned(),
            // What the host sends is what the guest receives.
            received: traffic(link.sent),
            sent: traffic(link.received),
        })
    });
    interfaces.collect()
}

/// Each interface that has a name, and what the kernel counts for it, if it does.
fn links<'a>(
    about: &'a About,
    counted: &'a Counted,
) -> Option<impl Iterator<Item = Option<(&'a str, &'a LinkTraffic)>>> {
    let links = counted.links.as_ref()?;
    Some(about.interfaces.iter().filter_map(|interface| {
        let name = interface.target.as_deref()?;
        let is_plain = PLAIN_KINDS.contains(&interface.kind.as_str());
        let link = links.get(name).filter(|_| is_plain);
        Some(link.map(|link| (name, link)))
    }))
}

fn traffic([bytes, packets, errors, drops]: [u64; 4]) -> Traffic {
    Traffic {
        bytes: Some(bytes),
        packets: Some(packets),
        errors: Some(errors),
        drops: Some(drops),
    }
}

fn job(info: &wire::JobInfo) -> Job {
    let is_there = info.kind != 0;
    let three = |sizes: [u64; 3]| sizes.map(|size| is_there.then_some(size));
    let time = |time| is_there.then(|| Duration::from_millis(time));
    Job {
        kind: Some(info.kind),
        elapsed: time(info.elapsed),
        // Nobody knows of a job without bounds.
        remaining: time(info.remaining).filter(|_| info.kind == 1),
        data: three(info.data),
        memory: three(info.memory),
        file: three(info.file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::libvirt::AboutInterface;

    fn named(target: Option<&str>, kind: &str) -> AboutInterface {
        AboutInterface {
            target: target.map(str::to_owned),
            kind: kind.to_owned(),
            ..AboutInterface::default()
        }
    }

    #[test]
    fn a_guest_receives_what_its_interface_sends() {
        let link = LinkTraffic {
            received: [1, 2, 3, 4],
            sent: [5, 6, 7, 8],
        };
        let links = ["vnet0", "vnet1", "macvtap0"].map(|name| (name.to_owned(), link));
        let counted = Counted {
            links: Some(Arc::new(links.into())),
            ..Counted::default()
        };
        let known = |all: &[AboutInterface]| {
            let about = About {
                interfaces: all.to_vec(),
                ..About::default()
            };
            interfaces(&about, &counted)
        };
        // One that was passed through has no name, and libvirt says nothing of it.
        let (first, nameless) = (named(Some("vnet0"), "bridge"), named(None, "hostdev"));
        let expected = Interface {
            name: "vnet0".to_owned(),
            received: traffic([5, 6, 7, 8]),
            sent: traffic([1, 2, 3, 4]),
        };
        assert_eq!(known(&[first.clone(), nameless]), Some(vec![expected]));
        for other in [
            named(Some("vnet7"), "network"),
            named(Some("vnet1"), "vhostuser"),
            // Counted as the host sees it.
            named(Some("macvtap0"), "direct"),
        ] {
            assert_eq!(known(&[first.clone(), other]), None);
        }
        let nothing = Counted::default();
        assert_eq!(interfaces(&About::default(), &nothing), None);
    }
}
