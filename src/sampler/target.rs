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
    history::{History, Moment, Sample, Series, Since},
    sources::{HostUsage, Networks, Process, Traffic, cgroup::Group},
};

/// Nobody samples it.
const FREE: u8 = 0;
/// Somebody does.
const BUSY: u8 = 1;
/// Somebody does, and nobody waits for it any more.
const GIVEN_UP: u8 = 2;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Target {
    whose: Whose,
    state: AtomicU8,
    has_vanished: AtomicBool,
    changes: Mutex<Changes>,
}

#[derive(Debug)]
pub(super) enum Whose {
    Container {
        series: Arc<Series>,
        group: Arc<Group>,
        /// One that sees its network, if that is shown as its own.
        process: Option<Arc<Process>>,
    },
    Host(Arc<History>, Box<HostUsage>),
}

/// What changed since the last sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) restarts: u64,
    pub(super) usage_since: Since,
    pub(super) traffic_since: Since,
    /// The interfaces that were counted last.
    interfaces: Option<u64>,
}

/// What came of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was taken.
    Sampled,
    /// There was nothing to sample any more.
    Vanished,
    /// Nothing could be read.
    Failed,
    /// An earlier sample of it still hangs.
    Busy,
    /// It took too long.
    GivenUp,
}

impl Target {
    pub(super) fn new(whose: Whose) -> Self {
        Self {
            whose,
            state: AtomicU8::new(FREE),
            has_vanished: AtomicBool::new(false),
            changes: Mutex::default(),
        }
    }

    /// Whether this is what it samples.
    pub(super) fn is_of(
        &self,
        series: &Arc<Series>,
        group: &Arc<Group>,
        process: Option<&Arc<Process>>,
    ) -> bool {
        match &self.whose {
            Whose::Container {
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
            Whose::Host(..) => false,
        }
    }

    /// What changed and is in no sample yet.
    pub(super) fn changes(&self) -> Changes {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, changes: Changes) {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) = changes;
    }

    /// Whether somebody samples it, who may hang.
    pub(super) fn is_busy(&self) -> bool {
        self.state.load(Acquire) != FREE
    }

    /// Gives up the sample that is being taken; whether there was one.
    pub(super) fn give_up(&self) -> bool {
        let given_up = self.state.compare_exchange(BUSY, GIVEN_UP, AcqRel, Acquire);
        given_up.is_ok()
    }

    /// Takes a sample. The disks that count are those that are above no other.
    pub(super) fn sample(&self, counts: impl FnMut(u32, u32) -> bool) -> Outcome {
        let taken = self.state.compare_exchange(FREE, BUSY, AcqRel, Acquire);
        if taken.is_err() {
            return Outcome::Busy;
        }
        let read = match &self.whose {
            Whose::Container { group, process, .. } => of_group(group, process.as_deref(), counts),
            Whose::Host(_, usage) => of_host(usage, counts),
        };
        if self.state.swap(FREE, AcqRel) != BUSY {
            return Outcome::GivenUp;
        }
        if let Some(sample) = read.sample {
            self.has_vanished.swap(false, AcqRel);
            self.push(read.at, sample, read.traffic);
            return Outcome::Sampled;
        }
        // One that is found again and again, and never there, is no ordinary end.
        if read.is_vanished && !self.has_vanished.swap(true, AcqRel) {
            return Outcome::Vanished;
        }
        Outcome::Failed
    }

    fn push(&self, at: Moment, mut sample: Sample, traffic: Option<Traffic>) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let Changes {
            restarts,
            usage_since,
            traffic_since,
            interfaces,
        } = &mut *changes;
        sample.restarts = std::mem::take(restarts);
        sample.usage_since = std::mem::take(usage_since);
        sample.traffic_since = std::mem::take(traffic_since);
        if let Some(traffic) = traffic {
            let others = interfaces.replace(traffic.interfaces);
            // One that came may have counted before it did.
            if others.is_some_and(|others| others != traffic.interfaces)
                && sample.traffic_since == Since::Before
            {
                sample.traffic_since = Since::Unknown;
            }
            (sample.received, sample.sent) = (Some(traffic.received), Some(traffic.sent));
        }
        match &self.whose {
            Whose::Container { series, .. } => series.push(at, &sample),
            Whose::Host(history, _) => history.host().push(at, &sample),
        }
    }
}

/// What was read.
struct Read {
    at: Moment,
    /// Nothing if nothing could be read.
    sample: Option<Sample>,
    traffic: Option<Traffic>,
    is_vanished: bool,
}

/// Keeps what could be read, and why not what could not.
#[derive(Default)]
struct Reader {
    has_read: bool,
    has_failed: bool,
}

impl Reader {
    fn keep<T>(&mut self, read: Result<T>) -> Option<T> {
        match read {
            Ok(read) => {
                self.has_read = true;
                Some(read)
            }
            Err(error) => {
                self.has_failed |= !Error::is_vanished(&error);
                None
            }
        }
    }

    fn read(self, at: Moment, sample: Sample, traffic: Option<Traffic>) -> Read {
        Read {
            at,
            sample: self.has_read.then_some(sample),
            traffic,
            is_vanished: !self.has_failed,
        }
    }
}

fn of_group(
    group: &Group,
    process: Option<&Process>,
    counts: impl FnMut(u32, u32) -> bool,
) -> Read {
    let mut reader = Reader::default();
    let at = Moment::now();
    let cpu = reader.keep(group.cpu_time()).flatten();
    let memory = reader.keep(group.memory_usage());
    let pids = reader.keep(group.tasks());
    let disks = reader.keep(group.disk_bytes(counts)).flatten();
    let (read, written) = disks.unzip();
    // Its process may end before the others of its group, and the group is what counts.
    let traffic = process.and_then(|it| it.traffic(|name| !Networks::is_engines(name)).ok());
    let sample = Sample {
        cpu,
        memory,
        read,
        written,
        pids,
        ..Sample::default()
    };
    reader.read(at, sample, traffic)
}

fn of_host(usage: &HostUsage, counts: impl FnMut(u32, u32) -> bool) -> Read {
    let mut reader = Reader::default();
    let at = Moment::now();
    let cpu: Option<Duration> = reader.keep(usage.cpu_time());
    let memory = reader.keep(usage.memory());
    let pids = reader.keep(usage.tasks());
    let (read, written) = reader.keep(usage.disk_bytes(counts)).unzip();
    let traffic = reader.keep(usage.traffic());
    let sample = Sample {
        cpu,
        memory,
        read,
        written,
        pids,
        ..Sample::default()
    };
    reader.read(at, sample, traffic)
}
