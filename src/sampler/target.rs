//! What is sampled: a container, a virtual machine, or the machine itself.

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

/// Nobody samples it.
const IDLE: u8 = 0;
/// Somebody does.
const BUSY: u8 = 1;
/// Somebody does, and nobody waits for it any more.
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
        group: Arc<Cgroup>,
        /// One that sees its network, if that is shown as its own.
        process: Option<Arc<Process>>,
    },
    Host(Arc<History>, Box<HostUsage>),
}

/// What changed since the last sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PendingChanges {
    pub(super) restarts: u64,
    pub(super) usage_baseline: Baseline,
    pub(super) traffic_baseline: Baseline,
    /// The interfaces that were counted last.
    interfaces: Option<u64>,
}

/// What came of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SampleOutcome {
    /// It was taken.
    Sampled,
    /// There was nothing to sample any more.
    Gone,
    /// Nothing could be read.
    Failed,
    /// An earlier sample of it still hangs.
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

    /// Whether this is what it samples.
    pub(super) fn matches(
        &self,
        series: &Arc<Series>,
        group: &Arc<Cgroup>,
        process: Option<&Arc<Process>>,
    ) -> bool {
        match &self.kind {
            TargetKind::Container {
                series: its_series,
                group: its_group,
                process: its_process,
            } => {
                let same_process = match (its_process, process) {
                    (Some(its), Some(one)) => Arc::ptr_eq(its, one),
                    (None, None) => true,
                    _ => false,
                };
                same_process && Arc::ptr_eq(its_series, series) && Arc::ptr_eq(its_group, group)
            }
            TargetKind::Host(..) => false,
        }
    }

    /// What changed and is in no sample yet.
    pub(super) fn changes(&self) -> PendingChanges {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_changes(&self, changes: PendingChanges) {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) = changes;
    }

    /// Whether somebody samples it, who may hang.
    pub(super) fn is_busy(&self) -> bool {
        self.state.load(Acquire) != IDLE
    }

    /// Gives up the sample that is being taken; whether there was one.
    pub(super) fn abandon(&self) -> bool {
        let given_up = self
            .state
            .compare_exchange(BUSY, ABANDONED, AcqRel, Acquire);
        given_up.is_ok()
    }

    /// Takes a sample. The disks that count are those that are above no other.
    pub(super) fn sample(&self, is_counted: impl FnMut(u32, u32) -> bool) -> SampleOutcome {
        let taken = self.state.compare_exchange(IDLE, BUSY, AcqRel, Acquire);
        if taken.is_err() {
            return SampleOutcome::Busy;
        }
        let read = match &self.kind {
            TargetKind::Container { group, process, .. } => {
                read_group(group, process.as_deref(), is_counted)
            }
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
        // One that is found again and again, and never there, is no ordinary end.
        if read.is_gone && !self.was_gone.swap(true, AcqRel) {
            return SampleOutcome::Gone;
        }
        SampleOutcome::Failed
    }

    fn push(&self, at: BootInstant, mut sample: Sample, traffic: Option<TotalTraffic>) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let PendingChanges {
            restarts,
            usage_baseline: usage_since,
            traffic_baseline: traffic_since,
            interfaces,
        } = &mut *changes;
        sample.restarts = std::mem::take(restarts);
        sample.usage_baseline = std::mem::take(usage_since);
        sample.traffic_baseline = std::mem::take(traffic_since);
        if let Some(traffic) = traffic {
            let others = interfaces.replace(traffic.interfaces_hash);
            // One that came may have counted before it did.
            if others.is_some_and(|others| others != traffic.interfaces_hash)
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

/// What was read.
struct SampleRead {
    at: BootInstant,
    /// Nothing if nothing could be read.
    sample: Option<Sample>,
    traffic: Option<TotalTraffic>,
    is_gone: bool,
}

/// Keeps what could be read, and why not what could not.
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

fn read_group(
    group: &Cgroup,
    process: Option<&Process>,
    is_counted: impl FnMut(u32, u32) -> bool,
) -> SampleRead {
    let mut reader = ReadTracker::default();
    let at = BootInstant::now();
    let cpu = reader.record(group.cpu_time()).flatten();
    let memory = reader.record(group.memory_usage());
    let pids = reader.record(group.tasks());
    let disks = reader.record(group.disk_bytes(is_counted)).flatten();
    let (read, written) = disks.unzip();
    // Its process may end before the others of its group, and the group is what counts.
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
