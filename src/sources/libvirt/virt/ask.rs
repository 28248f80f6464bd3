//! Asking about one domain. The statistics come all together where the driver can do that;
//! what it cannot say so is asked for device by device, and told in the same words.

use std::{
    thread,
    time::{Duration, Instant},
};

use ::virt::{
    domain::{Domain as Handle, DomainInfo},
    error::ErrorNumber,
};

use super::{link::Counts, raw};
use crate::sources::libvirt::{
    About, Domain, Group, Job, State,
    params::{self, Value},
    xml,
};

/// `VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT`
const NOWAIT: u32 = 1 << 29;
/// When a domain was busy for somebody else, it is asked again after this long.
const AGAIN: [Duration; 2] = [Duration::from_millis(30), Duration::from_millis(100)];
/// What `virDomainMemoryStats` has numbers for, as the statistics have names.
const BALLOON: [&str; 13] = [
    "balloon.swap_in",
    "balloon.swap_out",
    "balloon.major_fault",
    "balloon.minor_fault",
    "balloon.unused",
    "balloon.available",
    "balloon.current",
    "balloon.rss",
    "balloon.usable",
    "balloon.last-update",
    "balloon.disk_caches",
    "balloon.hugetlb_pgalloc",
    "balloon.hugetlb_pgfail",
];

/// What to ask for, and until when.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) groups: Vec<Group>,
    pub(super) has_jobs: bool,
    pub(super) by: Instant,
}

impl Question {
    fn wants(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }

    /// The groups, and the state without which nobody could tell what the rest means.
    fn bits(&self) -> u32 {
        let groups = self.groups.iter().chain([&Group::State]);
        groups.fold(0, |bits, group| bits | group.bit())
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.by
    }
}

/// Who is asked.
struct Asked<'a> {
    handle: &'a Handle,
    counts: &'a Counts,
    question: &'a Question,
    said: Vec<(String, Value)>,
}

/// What there is to know of a domain, of which the list said only who it is; nothing if it
/// went away since.
pub(super) fn about(
    handle: &Handle,
    listed: &Domain,
    question: &Question,
    counts: &Counts,
) -> Option<Domain> {
    let began = Instant::now();
    let mut asked = Asked {
        handle,
        counts,
        question,
        said: vec![],
    };
    let mut is_complete = asked.everything()?;
    counts.asked();
    let xml = handle.xml_desc(0).ok();
    let about = xml.and_then(|xml| xml::about(&xml).ok());
    if !asked.says("state.") {
        asked.state()?;
    }
    let is_active = asked.active();
    is_complete &= asked.rest(about.as_ref(), is_active);
    let job = (question.has_jobs && is_active && !question.is_over())
        .then(|| asked.job())
        .flatten();
    let (state, reason, used) = params::stats(asked.said);
    Some(Domain {
        state,
        reason,
        about: about.map(Into::into),
        stats: used,
        is_partial: !is_complete,
        took: Some(began.elapsed()),
        job,
        ..listed.clone()
    })
}

/// The same of one that an earlier question hangs with: only what no driver has to ask the
/// guest's process for.
pub(super) fn quickly(
    handle: &Handle,
    listed: &Domain,
    question: &Question,
    counts: &Counts,
) -> Option<Domain> {
    let began = Instant::now();
    counts.asked();
    let bits = question.bits() & (Group::State.bit() | Group::Interface.bit());
    let said = match raw::stats(handle, bits, NOWAIT) {
        Ok(said) => said,
        Err(error) if error.code().is(ErrorNumber::NoDomain) => return None,
        Err(_) => vec![],
    };
    let (state, reason, used) = params::stats(said);
    Some(Domain {
        state,
        reason,
        stats: used,
        is_partial: true,
        took: Some(began.elapsed()),
        ..listed.clone()
    })
}

impl Asked<'_> {
    /// Asks for everything at once, and whether that is all that there is; nothing if
    /// there is no such domain.
    fn everything(&mut self) -> Option<bool> {
        let mut waits = AGAIN.into_iter();
        loop {
            self.counts.asked();
            match raw::stats(self.handle, self.question.bits(), NOWAIT) {
                Ok(said) => self.said = said,
                Err(error) if error.code().is(ErrorNumber::NoDomain) => return None,
                // A driver without them, or an old daemon's.
                Err(_) => return Some(true),
            }
            let (state, _, used) = params::stats(self.said.iter().cloned());
            if params::is_complete(&used, state) {
                return Some(true);
            }
            let wait = waits.next();
            let Some(wait) = wait.filter(|wait| Instant::now() + *wait < self.question.by) else {
                return Some(false);
            };
            thread::sleep(wait);
        }
    }

    fn says(&self, prefix: &str) -> bool {
        self.said.iter().any(|(name, _)| name.starts_with(prefix))
    }

    fn say(&mut self, name: impl Into<String>, value: Value) {
        self.said.push((name.into(), value));
    }

    fn state(&mut self) -> Option<()> {
        self.counts.asked();
        let (state, reason) = raw::state(self.handle).ok()?;
        self.say("state.state", Value::Int(state.into()));
        self.say("state.reason", Value::Int(reason.into()));
        Some(())
    }

    fn active(&self) -> bool {
        let state = self.said.iter().find(|(name, _)| name == "state.state");
        let number = match state {
            Some((_, Value::Int(number))) => i32::try_from(*number).ok(),
            _ => None,
        };
        number.and_then(State::of).is_some_and(State::is_active)
    }

    /// Asks for each that was not said although it was wanted, and says whether there was
    /// time for all.
    fn rest(&mut self, about: Option<&About>, is_active: bool) -> bool {
        let lacks = |group: Group, prefix: &str| self.question.wants(group) && !self.says(prefix);
        let cpu = is_active && lacks(Group::Cpu, "cpu.");
        let balloon = lacks(Group::Balloon, "balloon.");
        let vcpu = lacks(Group::Vcpu, "vcpu.");
        let interface = is_active && lacks(Group::Interface, "net.");
        let block = lacks(Group::Block, "block.");
        if cpu || balloon || vcpu {
            self.counts.asked();
            if let Ok(info) = self.handle.info() {
                self.cpu_and_memory(&info, [cpu, balloon, vcpu], is_active);
            }
        }
        let (disks, interfaces) = about
            .map(|about| (&*about.disks, &*about.interfaces))
            .unwrap_or_default();
        let interfaces = interfaces.iter().filter(|_| interface);
        // A device that was handed over to the guest is none of the host's.
        let interfaces = interfaces.filter(|interface| interface.kind != "hostdev");
        let names = interfaces.filter_map(|interface| interface.target.as_deref());
        for (number, name) in names.enumerate() {
            if self.question.is_over() {
                return false;
            }
            self.interface(number, name);
        }
        for (number, disk) in disks.iter().filter(|_| block).enumerate() {
            if self.question.is_over() {
                return false;
            }
            self.disk(number, &disk.target, disk.source.as_deref(), is_active);
        }
        true
    }

    fn cpu_and_memory(
        &mut self,
        info: &DomainInfo,
        [cpu, balloon, vcpu]: [bool; 3],
        is_active: bool,
    ) {
        if cpu {
            self.counts.asked();
            let times = self.handle.cpu_stats(-1, 1, 0).unwrap_or_default();
            let times = times.into_iter().next().unwrap_or_default();
            let time = times.cpu_time.unwrap_or(info.cpu_time);
            self.say("cpu.time", Value::Unsigned(time));
            for (name, time) in [
                ("cpu.user", times.user_time),
                ("cpu.system", times.system_time),
            ] {
                if let Some(time) = time {
                    self.say(name, Value::Unsigned(time));
                }
            }
        }
        if balloon {
            self.say("balloon.maximum", Value::Unsigned(info.max_mem));
            self.say("balloon.current", Value::Unsigned(info.memory));
        }
        if balloon && is_active {
            self.counts.asked();
            for memory in self.handle.memory_stats(0).unwrap_or_default() {
                let name = usize::try_from(memory.tag)
                    .ok()
                    .and_then(|tag| BALLOON.get(tag));
                if let Some(name) = name {
                    self.say(*name, Value::Unsigned(memory.val));
                }
            }
        }
        if vcpu {
            self.say("vcpu.current", Value::Unsigned(info.nr_virt_cpu.into()));
            self.counts.asked();
            if is_active && let Ok(maximum) = self.handle.max_vcpus() {
                self.say("vcpu.maximum", Value::Unsigned(maximum));
            }
        }
    }

    fn interface(&mut self, number: usize, name: &str) {
        self.counts.asked();
        let Ok(counted) = self.handle.interface_stats(name) else {
            return;
        };
        self.say(format!("net.{number}.name"), Value::Text(name.to_owned()));
        for (name, count) in [
            ("rx.bytes", counted.rx_bytes),
            ("rx.pkts", counted.rx_packets),
            ("rx.errs", counted.rx_errs),
            ("rx.drop", counted.rx_drop),
            ("tx.bytes", counted.tx_bytes),
            ("tx.pkts", counted.tx_packets),
            ("tx.errs", counted.tx_errs),
            ("tx.drop", counted.tx_drop),
        ] {
            self.say(format!("net.{number}.{name}"), Value::Int(count));
        }
    }

    fn disk(&mut self, number: usize, name: &str, source: Option<&str>, is_active: bool) {
        self.say(format!("block.{number}.name"), Value::Text(name.to_owned()));
        if let Some(source) = source {
            self.say(
                format!("block.{number}.path"),
                Value::Text(source.to_owned()),
            );
        }
        if is_active {
            self.counts.asked();
            if let Ok(counted) = self.handle.block_stats(name) {
                for (name, count) in [
                    ("rd.reqs", counted.rd_req),
                    ("rd.bytes", counted.rd_bytes),
                    ("wr.reqs", counted.wr_req),
                    ("wr.bytes", counted.wr_bytes),
                    ("errors", counted.errs),
                ] {
                    self.say(format!("block.{number}.{name}"), Value::Int(count));
                }
            }
        }
        if source.is_some() {
            self.counts.asked();
            if let Ok(sizes) = raw::sizes(self.handle, name) {
                for (name, size) in ["allocation", "capacity", "physical"]
                    .into_iter()
                    .zip(sizes)
                {
                    self.say(format!("block.{number}.{name}"), Value::Unsigned(size));
                }
            }
        }
    }

    fn job(&self) -> Option<Job> {
        self.counts.asked();
        let job = self.handle.job_info().ok()?;
        let kind = Some(job.r#type);
        if job.r#type == 0 {
            return Some(Job {
                kind,
                ..Job::default()
            });
        }
        Some(Job {
            kind,
            elapsed: job.time_elapsed.map(Duration::from_millis),
            remaining: job.time_remaining.map(Duration::from_millis),
            data: [job.data_total, job.data_processed, job.data_remaining],
            memory: [job.mem_total, job.mem_processed, job.mem_remaining],
            file: [job.disk_total, job.disk_processed, job.disk_remaining],
        })
    }
}
