//! Worker threads for libvirt's library, whose calls block without a timeout.
//!
//! A call that hangs keeps its thread and cannot be cancelled. If it is about one domain, another
//! thread serves the other domains, up to a small number of threads. If it is about the
//! connection, no other thread is started, because it would hang as well.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Instant,
};

use super::connect::LibraryConnection;

/// A task that uses a connection.
type Task = Box<dyn FnOnce(&mut LibraryConnection, &Doing) + Send>;

/// What a thread is doing, visible to other threads.
#[derive(Debug, Default)]
pub(super) struct Doing(Mutex<What>);

#[derive(Debug, Clone, Default)]
enum What {
    #[default]
    Nothing,
    /// Connecting or calling about no single domain, since this time.
    Asks(Instant),
    /// Calling about the domain with this UUID.
    AsksAbout(String),
    /// The thread has panicked.
    Gone,
}

impl Doing {
    /// Records a call about no single domain.
    pub(super) fn asks(&self) {
        *locked(&self.0) = What::Asks(Instant::now());
    }

    /// Records calls about the domain with this UUID.
    pub(super) fn asks_about(&self, uuid: &str) {
        *locked(&self.0) = What::AsksAbout(uuid.to_owned());
    }

    /// Returns the UUID of the domain that the current call is about.
    pub(super) fn about(&self) -> Option<String> {
        match self.what() {
            What::AsksAbout(uuid) => Some(uuid),
            _ => None,
        }
    }

    fn what(&self) -> What {
        locked(&self.0).clone()
    }
}

/// Marks the thread as gone when it ends, even by a panic.
struct Leaves(Arc<Doing>);

impl Drop for Leaves {
    fn drop(&mut self) {
        *locked(&self.0.0) = What::Gone;
    }
}

/// A worker thread.
#[derive(Debug, Clone)]
pub(super) struct Hand {
    tasks: SyncSender<Task>,
    pub(super) doing: Arc<Doing>,
}

impl Hand {
    fn hire(name: &str, mut link: LibraryConnection) -> Result<Self, String> {
        let (sender, tasks) = sync_channel::<Task>(1);
        let doing = Arc::new(Doing::default());
        let leaves = Leaves(Arc::clone(&doing));
        let works = move || {
            let leaves = leaves;
            for task in tasks {
                task(&mut link, &leaves.0);
            }
        };
        let thread = thread::Builder::new().name(name.to_owned());
        thread.spawn(works).map_err(|error| error.to_string())?;
        let tasks = sender;
        Ok(Self { tasks, doing })
    }

    /// Starts a task. The caller must have [engaged](Crew::engage) the thread, which becomes
    /// available again before the result is passed to `tell`.
    pub(super) fn begin<T>(
        &self,
        task: impl FnOnce(&mut LibraryConnection, &Doing) -> T + Send + 'static,
        tell: impl FnOnce(T) + Send + 'static,
    ) {
        let task = move |link: &mut LibraryConnection, doing: &Doing| {
            let result = task(link, doing);
            *locked(&doing.0) = What::Nothing;
            tell(result);
        };
        // If the thread is gone, the task and its sender are dropped.
        self.tasks.try_send(Box::new(task)).ok();
    }
}

/// Threads for one kind of query.
#[derive(Debug)]
pub(super) struct Crew {
    name: &'static str,
    most: usize,
    hands: Mutex<Vec<Hand>>,
    is_taken: Mutex<bool>,
    given_back: Condvar,
}

impl Crew {
    /// Creates a pool with at most this many threads, which get this name.
    pub(super) fn new(name: &'static str, most: usize) -> Self {
        Self {
            name,
            most,
            hands: Mutex::default(),
            is_taken: Mutex::default(),
            given_back: Condvar::new(),
        }
    }

    /// Waits for exclusive use until the deadline; `None` after it.
    pub(super) fn turn(&self, by: Instant) -> Option<Turn<'_>> {
        let left = by.saturating_duration_since(Instant::now());
        let is_taken = locked(&self.is_taken);
        let waited = self
            .given_back
            .wait_timeout_while(is_taken, left, |taken| *taken);
        let (mut is_taken, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        *is_taken = true;
        Some(Turn(self))
    }

    /// Returns the number of threads that are still in a call.
    pub(super) fn stuck(&self) -> usize {
        let hands = locked(&self.hands);
        let is_stuck =
            |hand: &&Hand| matches!(hand.doing.what(), What::Asks(_) | What::AsksAbout(_));
        hands.iter().filter(is_stuck).count()
    }
}

/// Exclusive use of the pool, until dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Crew);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *locked(&self.0.is_taken) = false;
        self.0.given_back.notify_one();
    }
}

impl Turn<'_> {
    /// Returns an idle thread, and the number of hung threads by UUID of the domain; or why there
    /// is no thread.
    pub(super) fn engage(
        &self,
        link: impl FnOnce() -> LibraryConnection,
    ) -> Result<(Hand, HashMap<String, usize>), String> {
        let crew = self.0;
        let mut hands = locked(&crew.hands);
        let mut stuck = HashMap::new();
        let mut is_one_free = false;
        let mut since = None;
        hands.retain(|hand| match hand.doing.what() {
            // One idle thread is enough; others end after their hung call has returned.
            What::Nothing => !std::mem::replace(&mut is_one_free, true),
            What::Asks(then) => {
                since = Some(then);
                true
            }
            What::AsksAbout(uuid) => {
                *stuck.entry(uuid).or_default() += 1;
                true
            }
            What::Gone => false,
        });
        if let Some(since) = since {
            return Err(format!("no answer for {} s", since.elapsed().as_secs()));
        }
        let free = hands
            .iter()
            .find(|hand| matches!(hand.doing.what(), What::Nothing));
        if let Some(hand) = free {
            hand.doing.asks();
            return Ok((hand.clone(), stuck));
        }
        if hands.len() >= crew.most {
            return Err(format!("no answer about {} domains", stuck.len()));
        }
        let hand = Hand::hire(crew.name, link())?;
        hand.doing.asks();
        hands.push(hand.clone());
        Ok((hand, stuck))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
