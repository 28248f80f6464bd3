//! Targets of the sampler: a container, a domain, or the host.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU8,
            Ordering::{AcqRel, Acquire},
        },
    },
    time::Duration,
};

use crate::{
    error::{Error, Result},
    history::{Baseline, BootInstant, History, Sample, Series},
    sources::{HostUsage, NetnsOwners, Process, TotalTraffic, cgroup::Cgroup},
};

/// Not being sampled.
const IDLE: u8 = 0;
/// Being sampled.
const BUSY: u8 = 1;
/// Being sampled, but the sampler no longer waits for it.
const ABANDONED: u8 = 2;

#[derive(Debug)]
pub(super) struct SampleTarget {
    kind: TargetKind,
    state: AtomicU8,
    was_gone: AtomicBool,
    changes: Mutex<PendingChanges>,
}

#[derive(Debug)]
pub(super) enum TargetKind {
    Container {
        series: Arc<Series>,
        cgroup: Arc<Cgroup>,
        /// A process in its network namespace, if that can be attributed to it.
        process: Option<Arc<Process>>,
    },
    Host(Arc<History>, Box<HostUsage>),
}

/// Changes since the last sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PendingChanges {
    pub(super) restarts: u64,
    pub(super) usage_baseline: Baseline,
    pub(super) traffic_baseline: Baseline,
    /// Hash of the interfaces in the last sample.
    interfaces: Option<u64>,
}

/// Outcome of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SampleOutcome {
    /// The sample was stored.
    Sampled,
    /// The target no longer exists.
    Gone,
    /// Nothing could be read.
    Failed,
    /// An earlier sample of it is still blocked.
    Busy,
    /// It took too long.
    Abandoned,
}

impl SampleTarget {
    pub(super) fn new(kind: TargetKind) -> Self {
        Self {
            kind,
            state: AtomicU8::new(IDLE),
            was_gone: AtomicBool::new(false),
            changes: Mutex::default(),
        }
    }

    /// Whether it samples this series, cgroup and process.
    pub(super) fn matches(
        &self,
        series: &Arc<Series>,
        cgroup: &Arc<Cgroup>,
        process: Option<&Arc<Process>>,
    ) -> bool {
        match &self.kind {
            TargetKind::Container {
                series: its_series,
                cgroup: its_cgroup,
                process: its_process,
            } => {
                let same_process = match (its_process, process) {
                    (Some(its_process), Some(process)) => Arc::ptr_eq(its_process, process),
                    (None, None) => true,
                    _ => false,
                };
                same_process && Arc::ptr_eq(its_series, series) && Arc::ptr_eq(its_cgroup, cgroup)
            }
            TargetKind::Host(..) => false,
        }
    }

    /// Changes that no sample includes yet.
    pub(super) fn changes(&self) -> PendingChanges {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_changes(&self, changes: PendingChanges) {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) = changes;
    }

    /// Whether it is being sampled, possibly by a blocked thread.
    pub(super) fn is_busy(&self) -> bool {
        self.state.load(Acquire) != IDLE
    }

    /// Abandons the sample in progress and returns whether there was one.
    pub(super) fn abandon(&self) -> bool {
        let result = self
            .state
            .compare_exchange(BUSY, ABANDONED, AcqRel, Acquire);
        result.is_ok()
    }

    /// Takes a sample. `is_counted` selects the disks, those that are not stacked on others, to
    /// avoid counting I/O twice.
    pub(super) fn sample(&self, is_counted: impl FnMut(u32, u32) -> bool) -> SampleOutcome {
        let started = self.state.compare_exchange(IDLE, BUSY, AcqRel, Acquire);
        if started.is_err() {
            return SampleOutcome::Busy;
        }
        let read = match &self.kind {
            TargetKind::Container {
                cgroup, process, ..
            } => read_cgroup(cgroup, process.as_deref(), is_counted),
            TargetKind::Host(_, usage) => read_host(usage, is_counted),
        };
        if self.state.swap(IDLE, AcqRel) != BUSY {
            return SampleOutcome::Abandoned;
        }
        if let Some(sample) = read.sample {
            self.was_gone.swap(false, AcqRel);
            self.push(read.at, sample, read.traffic);
            return SampleOutcome::Sampled;
        }
        // A target that is listed again and again, but never readable, is a failure.
        if read.is_gone && !self.was_gone.swap(true, AcqRel) {
            return SampleOutcome::Gone;
        }
        SampleOutcome::Failed
    }

    fn push(&self, at: BootInstant, mut sample: Sample, traffic: Option<TotalTraffic>) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let PendingChanges {
            restarts,
            usage_baseline,
            traffic_baseline,
            interfaces,
        } = &mut *changes;
        sample.restarts = std::mem::take(restarts);
        sample.usage_baseline = std::mem::take(usage_baseline);
        sample.traffic_baseline = std::mem::take(traffic_baseline);
        if let Some(traffic) = traffic {
            let last_hash = interfaces.replace(traffic.interfaces_hash);
            // An added interface may have counted traffic before it was added.
            if last_hash.is_some_and(|last| last != traffic.interfaces_hash)
                && sample.traffic_baseline == Baseline::Previous
            {
                sample.traffic_baseline = Baseline::Unknown;
            }
            (sample.received, sample.sent) = (Some(traffic.received), Some(traffic.sent));
        }
        match &self.kind {
            TargetKind::Container { series, .. } => series.push(at, &sample),
            TargetKind::Host(history, _) => history.host().push(at, &sample),
        }
    }
}

/// Result of reading a target.
struct SampleRead {
    at: BootInstant,
    /// `None` if nothing could be read.
    sample: Option<Sample>,
    traffic: Option<TotalTraffic>,
    is_gone: bool,
}

/// Tracks whether reads succeeded, and whether any failed other than by disappearing.
#[derive(Default)]
struct ReadTracker {
    has_read: bool,
    has_failed: bool,
}

impl ReadTracker {
    fn record<T>(&mut self, read: Result<T>) -> Option<T> {
        match read {
            Ok(read) => {
                self.has_read = true;
                Some(read)
            }
            Err(error) => {
                self.has_failed |= !Error::is_gone(&error);
                None
            }
        }
    }

    fn finish(self, at: BootInstant, sample: Sample, traffic: Option<TotalTraffic>) -> SampleRead {
        SampleRead {
            at,
            sample: self.has_read.then_some(sample),
            traffic,
            is_gone: !self.has_failed,
        }
    }
}

fn read_cgroup(
    cgroup: &Cgroup,
    process: Option<&Process>,
    is_counted: impl FnMut(u32, u32) -> bool,
) -> SampleRead {
    let mut reader = ReadTracker::default();
    let at = BootInstant::now();
    let cpu = reader.record(cgroup.cpu_time()).flatten();
    let memory = reader.record(cgroup.memory_usage());
    let pids = reader.record(cgroup.tasks());
    let disks = reader.record(cgroup.disk_bytes(is_counted)).flatten();
    let (read, written) = disks.unzip();
    // The process may end before others of its cgroup; the sample of the cgroup is still valid.
    let traffic = process.and_then(|it| {
        it.total_traffic(|name| !NetnsOwners::is_engine_interface(name))
            .ok()
    });
    let sample = Sample {
        cpu,
        memory,
        read,
        written,
        pids,
        ..Sample::default()
    };
    reader.finish(at, sample, traffic)
}

fn read_host(usage: &HostUsage, is_counted: impl FnMut(u32, u32) -> bool) -> SampleRead {
    let mut reader = ReadTracker::default();
    let at = BootInstant::now();
    let cpu: Option<Duration> = reader.record(usage.cpu_time());
    let memory = reader.record(usage.memory());
    let pids = reader.record(usage.tasks());
    let (read, written) = reader.record(usage.disk_bytes(is_counted)).unzip();
    let traffic = reader.record(usage.traffic());
    let sample = Sample {
        cpu,
        memory,
        read,
        written,
        pids,
        ..Sample::default()
    };
    reader.finish(at, sample, traffic)
}
