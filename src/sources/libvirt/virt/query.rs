//! Queries one domain. If the driver supports bulk statistics, one call returns most of them; the
//! rest is queried device by device and converted to the same parameter names.

use std::{
    thread,
    time::{Duration, Instant},
};

use ::virt::{
    domain::{Domain as Handle, DomainInfo},
    error::ErrorNumber,
};

use super::{connect::CallCounters, ffi};
use crate::sources::libvirt::{
    Domain, DomainDef, DomainJob, DomainState, StatsGroup,
    params::{self, TypedParamValue},
    xml,
};

const VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT: u32 = 1 << 29;
/// Delays before a domain that was busy with another job is queried again.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(30), Duration::from_millis(100)];
/// Parameter names of `virDomainMemoryStats`, by number.
const MEMORY_STAT_NAMES: [&str; 13] = [
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

/// What to query, and the deadline.
#[derive(Debug, Clone)]
pub(super) struct QueryOptions {
    pub(super) groups: Vec<StatsGroup>,
    pub(super) has_jobs: bool,
    pub(super) deadline: Instant,
}

impl QueryOptions {
    fn wants(&self, group: StatsGroup) -> bool {
        self.groups.contains(&group)
    }

    /// Returns the groups, always with the state, without which the others cannot be interpreted.
    fn group_bits(&self) -> u32 {
        let groups = self.groups.iter().chain([&StatsGroup::State]);
        groups.fold(0, |bits, group| bits | group.bit())
    }

    fn is_expired(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// The domain that is queried, and the parameters so far.
struct DomainReader<'a> {
    handle: &'a Handle,
    counters: &'a CallCounters,
    options: &'a QueryOptions,
    params: Vec<(String, TypedParamValue)>,
}

/// Completes a domain of which only the list entry is known; `None` if it has disappeared.
pub(super) fn query_domain(
    handle: &Handle,
    listed: &Domain,
    options: &QueryOptions,
    counters: &CallCounters,
) -> Option<Domain> {
    let started = Instant::now();
    let mut reader = DomainReader {
        handle,
        counters,
        options,
        params: vec![],
    };
    let mut is_complete = reader.read_all_stats()?;
    counters.count_request();
    let xml = handle.xml_desc(0).ok();
    let definition = xml.and_then(|xml| xml::parse_domain(&xml).ok());
    if !reader.has_prefix("state.") {
        reader.read_state()?;
    }
    let is_active = reader.is_active();
    is_complete &= reader.read_missing(definition.as_ref(), is_active);
    let job = (options.has_jobs && is_active && !options.is_expired())
        .then(|| reader.read_job())
        .flatten();
    let (state, reason, domain_stats) = params::parse_stats(reader.params);
    Some(Domain {
        state,
        reason,
        definition: definition.map(Into::into),
        stats: domain_stats,
        is_partial: !is_complete,
        response_time: Some(started.elapsed()),
        job,
        ..listed.clone()
    })
}

/// The same for a domain with a pending call: queries only what needs no monitor of the domain.
pub(super) fn query_domain_quick(
    handle: &Handle,
    listed: &Domain,
    options: &QueryOptions,
    counters: &CallCounters,
) -> Option<Domain> {
    let started = Instant::now();
    counters.count_request();
    let bits = options.group_bits() & (StatsGroup::State.bit() | StatsGroup::Interface.bit());
    let params = match ffi::stats(handle, bits, VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT) {
        Ok(params) => params,
        Err(error) if error.code().is(ErrorNumber::NoDomain) => return None,
        Err(_) => vec![],
    };
    let (state, reason, domain_stats) = params::parse_stats(params);
    Some(Domain {
        state,
        reason,
        stats: domain_stats,
        is_partial: true,
        response_time: Some(started.elapsed()),
        ..listed.clone()
    })
}

impl DomainReader<'_> {
    /// Queries bulk statistics and returns whether they are complete; `None` if the domain has
    /// disappeared.
    fn read_all_stats(&mut self) -> Option<bool> {
        let mut delays = RETRY_DELAYS.into_iter();
        loop {
            self.counters.count_request();
            match ffi::stats(
                self.handle,
                self.options.group_bits(),
                VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
            ) {
                Ok(params) => self.params = params,
                Err(error) if error.code().is(ErrorNumber::NoDomain) => return None,
                // Unsupported by the driver or by an old daemon.
                Err(_) => return Some(true),
            }
            let (state, _, domain_stats) = params::parse_stats(self.params.iter().cloned());
            if params::is_complete(&domain_stats, state) {
                return Some(true);
            }
            let delay = delays.next();
            let Some(delay) = delay.filter(|delay| Instant::now() + *delay < self.options.deadline)
            else {
                return Some(false);
            };
            thread::sleep(delay);
        }
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.params.iter().any(|(name, _)| name.starts_with(prefix))
    }

    fn push_param(&mut self, name: impl Into<String>, value: TypedParamValue) {
        self.params.push((name.into(), value));
    }

    fn read_state(&mut self) -> Option<()> {
        self.counters.count_request();
        let (state, reason) = ffi::state(self.handle).ok()?;
        self.push_param("state.state", TypedParamValue::Int(state.into()));
        self.push_param("state.reason", TypedParamValue::Int(reason.into()));
        Some(())
    }

    fn is_active(&self) -> bool {
        let state = self.params.iter().find(|(name, _)| name == "state.state");
        let number = match state {
            Some((_, TypedParamValue::Int(number))) => i32::try_from(*number).ok(),
            _ => None,
        };
        number
            .and_then(DomainState::from_number)
            .is_some_and(DomainState::is_active)
    }

    /// Queries each requested group that is missing, and returns whether there was time for all.
    fn read_missing(&mut self, definition: Option<&DomainDef>, is_active: bool) -> bool {
        let lacks =
            |group: StatsGroup, prefix: &str| self.options.wants(group) && !self.has_prefix(prefix);
        let cpu = is_active && lacks(StatsGroup::Cpu, "cpu.");
        let balloon = lacks(StatsGroup::Balloon, "balloon.");
        let vcpu = lacks(StatsGroup::Vcpu, "vcpu.");
        let interface = is_active && lacks(StatsGroup::Interface, "net.");
        let block = lacks(StatsGroup::Block, "block.");
        if cpu || balloon || vcpu {
            self.counters.count_request();
            if let Ok(info) = self.handle.info() {
                self.read_cpu_and_memory(&info, [cpu, balloon, vcpu], is_active);
            }
        }
        let (disks, interfaces) = definition
            .map(|definition| (&*definition.disks, &*definition.interfaces))
            .unwrap_or_default();
        let interfaces = interfaces.iter().filter(|_| interface);
        // A passed-through device has no counters on the host.
        let interfaces = interfaces.filter(|interface| interface.kind != "hostdev");
        let names = interfaces.filter_map(|interface| interface.target.as_deref());
        for (number, name) in names.enumerate() {
            if self.options.is_expired() {
                return false;
            }
            self.read_interface(number, name);
        }
        for (number, disk) in disks.iter().filter(|_| block).enumerate() {
            if self.options.is_expired() {
                return false;
            }
            self.read_disk(number, &disk.target, disk.source.as_deref(), is_active);
        }
        true
    }

    fn read_cpu_and_memory(
        &mut self,
        info: &DomainInfo,
        [cpu, balloon, vcpu]: [bool; 3],
        is_active: bool,
    ) {
        if cpu {
            self.counters.count_request();
            let times = self.handle.cpu_stats(-1, 1, 0).unwrap_or_default();
            let times = times.into_iter().next().unwrap_or_default();
            let time = times.cpu_time.unwrap_or(info.cpu_time);
            self.push_param("cpu.time", TypedParamValue::Unsigned(time));
            for (name, time) in [
                ("cpu.user", times.user_time),
                ("cpu.system", times.system_time),
            ] {
                if let Some(time) = time {
                    self.push_param(name, TypedParamValue::Unsigned(time));
                }
            }
        }
        if balloon {
            self.push_param("balloon.maximum", TypedParamValue::Unsigned(info.max_mem));
            self.push_param("balloon.current", TypedParamValue::Unsigned(info.memory));
        }
        if balloon && is_active {
            self.counters.count_request();
            for memory in self.handle.memory_stats(0).unwrap_or_default() {
                let name = usize::try_from(memory.tag)
                    .ok()
                    .and_then(|tag| MEMORY_STAT_NAMES.get(tag));
                if let Some(name) = name {
                    self.push_param(*name, TypedParamValue::Unsigned(memory.val));
                }
            }
        }
        if vcpu {
            self.push_param(
                "vcpu.current",
                TypedParamValue::Unsigned(info.nr_virt_cpu.into()),
            );
            self.counters.count_request();
            if is_active && let Ok(maximum) = self.handle.max_vcpus() {
                self.push_param("vcpu.maximum", TypedParamValue::Unsigned(maximum));
            }
        }
    }

    fn read_interface(&mut self, number: usize, name: &str) {
        self.counters.count_request();
        let Ok(stats) = self.handle.interface_stats(name) else {
            return;
        };
        self.push_param(
            format!("net.{number}.name"),
            TypedParamValue::Text(name.to_owned()),
        );
        for (name, count) in [
            ("rx.bytes", stats.rx_bytes),
            ("rx.pkts", stats.rx_packets),
            ("rx.errs", stats.rx_errs),
            ("rx.drop", stats.rx_drop),
            ("tx.bytes", stats.tx_bytes),
            ("tx.pkts", stats.tx_packets),
            ("tx.errs", stats.tx_errs),
            ("tx.drop", stats.tx_drop),
        ] {
            self.push_param(format!("net.{number}.{name}"), TypedParamValue::Int(count));
        }
    }

    fn read_disk(&mut self, number: usize, name: &str, source: Option<&str>, is_active: bool) {
        self.push_param(
            format!("block.{number}.name"),
            TypedParamValue::Text(name.to_owned()),
        );
        if let Some(source) = source {
            self.push_param(
                format!("block.{number}.path"),
                TypedParamValue::Text(source.to_owned()),
            );
        }
        if is_active {
            self.counters.count_request();
            if let Ok(stats) = self.handle.block_stats(name) {
                for (name, count) in [
                    ("rd.reqs", stats.rd_req),
                    ("rd.bytes", stats.rd_bytes),
                    ("wr.reqs", stats.wr_req),
                    ("wr.bytes", stats.wr_bytes),
                    ("errors", stats.errs),
                ] {
                    self.push_param(
                        format!("block.{number}.{name}"),
                        TypedParamValue::Int(count),
                    );
                }
            }
        }
        if source.is_some() {
            self.counters.count_request();
            if let Ok(sizes) = ffi::block_info(self.handle, name) {
                for (name, size) in ["allocation", "capacity", "physical"]
                    .into_iter()
                    .zip(sizes)
                {
                    self.push_param(
                        format!("block.{number}.{name}"),
                        TypedParamValue::Unsigned(size),
                    );
                }
            }
        }
    }

    fn read_job(&self) -> Option<DomainJob> {
        self.counters.count_request();
        let job = self.handle.job_info().ok()?;
        let kind = Some(job.r#type);
        if job.r#type == 0 {
            return Some(DomainJob {
                kind,
                ..DomainJob::default()
            });
        }
        Some(DomainJob {
            kind,
            elapsed: job.time_elapsed.map(Duration::from_millis),
            remaining: job.time_remaining.map(Duration::from_millis),
            data: [job.data_total, job.data_processed, job.data_remaining],
            memory: [job.mem_total, job.mem_processed, job.mem_remaining],
            file: [job.disk_total, job.disk_processed, job.disk_remaining],
        })
    }
}
