//! How full file systems are, asked with statfs(2), which can hang.
//!
//! A call to a dead NFS or FUSE server never returns and cannot be cancelled, and no
//! type of file system is above suspicion: the way to a local one may lead through a
//! dead one. So all calls are made on a thread of their own. It parks between
//! scrapes; in the ordinary case nothing is started, and both sides wake up once.
//! Where one call takes longer than a moment, another thread goes on with the rest,
//! so that any number of dead servers cost their deadline side by side. A thread that
//! hangs is left where it is, and what it asks is not asked again until it is back.

use std::{
    collections::HashSet,
    fmt, mem,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;

/// How long one call may take before another thread goes on with the rest.
const PATIENCE: Duration = Duration::from_millis(25);
/// When so many calls hang, only what answered the last time is asked.
const MAX_STUCK: usize = 64;
/// Room for those that answered and then hang.
const MAX_THREADS: usize = 2 * MAX_STUCK;
/// Enough for one system call, and for a panic to say where.
const STACK: usize = 128 << 10;

/// What is asked.
#[derive(Debug)]
pub struct Place {
    /// The number of the mount that is meant: another mount on the same path is
    /// not stuck because this one is.
    pub mount: u64,
    /// A path on it.
    pub path: PathBuf,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// How full it is.
    Space(Space),
    /// The kernel refused.
    Refused(Errno),
    /// There was no answer in time, now or since an earlier scrape.
    TimedOut,
    /// It was not asked, because so many others hang.
    NotAsked,
}

/// How full a file system is.
#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    /// Bytes in a block.
    pub block: u64,
    /// Blocks there are.
    pub blocks: u64,
    /// Blocks that hold nothing.
    pub free: u64,
    /// Blocks that anybody may still fill.
    pub available: u64,
    /// Inodes there are.
    pub files: u64,
    /// Inodes that are no file.
    pub files_free: u64,
}

/// Asks, on threads that may hang; see the module's documentation.
pub struct Statfs {
    /// How long a call may take.
    timeout: Duration,
    call: Call,
    /// Held by whoever asks.
    turn: Mutex<()>,
    shared: Arc<Shared>,
}

/// The call that may hang. Tests make their own.
type Call = fn(&Place) -> Result<Space, Errno>;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to ask.
    questions: Condvar,
    /// Everything was answered.
    answered: Condvar,
}

#[derive(Default)]
struct State {
    round: Round,
    /// What threads are asking now, in this round or since an earlier one.
    asking: Vec<Question>,
    /// The mounts that answered in the round before this one.
    answering: HashSet<u64>,
    threads: usize,
    idle: usize,
    closing: bool,
}

/// What was asked at once.
#[derive(Default)]
struct Round {
    number: u64,
    places: Option<Arc<[Place]>>,
    answers: Vec<Option<Answer>>,
    /// The first place that was not looked at yet.
    next: usize,
    /// How many answers are missing.
    missing: usize,
    /// When the last call was begun.
    begun: Option<Instant>,
}

/// One place of one round.
#[derive(Clone)]
struct Question {
    round: u64,
    places: Arc<[Place]>,
    at: usize,
}

impl Statfs {
    /// Makes an asker that gives up on a call after `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self::with(timeout, statfs)
    }

    fn with(timeout: Duration, call: Call) -> Self {
        Self {
            timeout,
            call,
            turn: Mutex::default(),
            shared: Arc::default(),
        }
    }

    /// Asks about all the places; answers in their order, and before `deadline`.
    #[must_use]
    pub fn ask(&self, places: &Arc<[Place]>, deadline: Instant) -> Vec<Answer> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        let mut state = self.shared.lock();
        state.begin(places);
        if state.round.missing > 0 {
            if state.idle > 0 {
                self.shared.questions.notify_one();
            } else {
                self.start_thread(&mut state);
            }
        }
        while state.round.missing > 0 && !state.is_hopeless() {
            let begun = state.round.begun.unwrap_or(started);
            let waited = begun.elapsed();
            let left = self.timeout.saturating_sub(waited);
            let left = left.min(deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            let moment = if state.round.is_all_asked() {
                left
            } else if waited < PATIENCE {
                left.min(PATIENCE)
            } else {
                self.start_thread(&mut state);
                left.min(PATIENCE)
            };
            let waited = self.shared.answered.wait_timeout(state, moment);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.end()
    }

    fn start_thread(&self, state: &mut State) {
        if state.threads >= MAX_THREADS {
            return;
        }
        let (shared, call) = (Arc::clone(&self.shared), self.call);
        let started = thread::Builder::new()
            .name("statfs".into())
            .stack_size(STACK)
            .spawn(move || shared.work(call));
        // Where none can be started, the threads there are go on, if any is left.
        if started.is_ok() {
            state.threads += 1;
        }
    }
}

impl Drop for Statfs {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.questions.notify_all();
    }
}

impl fmt::Debug for Statfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statfs")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn work(&self, call: Call) {
        let mut state = self.lock();
        loop {
            if let Some(question) = state.take() {
                drop(state);
                let answer = match question.places.get(question.at).map(call) {
                    Some(Ok(space)) => Answer::Space(space),
                    Some(Err(errno)) => Answer::Refused(errno),
                    None => Answer::NotAsked,
                };
                state = self.lock();
                state.put(&question, answer);
                continue;
            }
            if state.round.missing == 0 {
                self.answered.notify_one();
            }
            if state.idle > 0 || state.closing {
                state.threads -= 1;
                return;
            }
            state.idle += 1;
            let woken = self.questions.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

impl State {
    fn begin(&mut self, places: &Arc<[Place]>) {
        let answer = |place: &Place| self.is_stuck(place).then_some(Answer::TimedOut);
        let answers: Vec<_> = places.iter().map(answer).collect();
        self.round = Round {
            number: self.round.number,
            places: Some(Arc::clone(places)),
            missing: answers.iter().filter(|answer| answer.is_none()).count(),
            answers,
            next: 0,
            begun: None,
        };
    }

    /// Ends the round; what is answered from now on comes too late.
    fn end(&mut self) -> Vec<Answer> {
        let round = mem::take(&mut self.round);
        self.round.number = round.number + 1;
        let places = round.places.as_deref().unwrap_or_default();
        let answers: Vec<_> = round
            .answers
            .into_iter()
            .zip(places)
            .map(|(answer, place)| {
                answer.unwrap_or_else(|| {
                    if self.is_stuck(place) {
                        Answer::TimedOut
                    } else {
                        Answer::NotAsked
                    }
                })
            })
            .collect();
        self.answering.clear();
        let answered = answers.iter().zip(places);
        let answered = answered.filter(|(answer, _)| matches!(answer, Answer::Space(_)));
        self.answering
            .extend(answered.map(|(_, place)| place.mount));
        answers
    }

    /// Whether a thread is asking about this place.
    fn is_stuck(&self, place: &Place) -> bool {
        let mut asked = self.asking.iter().filter_map(Question::place);
        asked.any(|asked| asked.mount == place.mount && asked.path == place.path)
    }

    /// Whether no answer can come any more: every thread there is hangs since an
    /// earlier round, and no other could be started.
    fn is_hopeless(&self) -> bool {
        let now = self.round.number;
        self.threads == self.asking.len() && self.asking.iter().all(|q| q.round != now)
    }

    /// The next place to ask about.
    fn take(&mut self) -> Option<Question> {
        let round = &mut self.round;
        let places = round.places.as_ref()?;
        let careful = self.asking.len() >= MAX_STUCK;
        while let (Some(place), Some(answer)) =
            (places.get(round.next), round.answers.get_mut(round.next))
        {
            let at = round.next;
            round.next += 1;
            if answer.is_some() {
                continue;
            }
            if careful && !self.answering.contains(&place.mount) {
                *answer = Some(Answer::NotAsked);
                round.missing -= 1;
                continue;
            }
            round.begun = Some(Instant::now());
            let question = Question {
                round: round.number,
                places: Arc::clone(places),
                at,
            };
            self.asking.push(question.clone());
            return Some(question);
        }
        None
    }

    /// Keeps an answer, unless it comes too late.
    fn put(&mut self, question: &Question, answer: Answer) {
        self.asking.retain(|asked| !asked.is(question));
        let round = &mut self.round;
        let place = round.answers.get_mut(question.at);
        if let Some(place) = place.filter(|_| round.number == question.round) {
            *place = Some(answer);
            round.missing -= 1;
        }
    }
}

impl Round {
    fn is_all_asked(&self) -> bool {
        self.next >= self.answers.len()
    }
}

impl Question {
    fn place(&self) -> Option<&Place> {
        self.places.get(self.at)
    }

    fn is(&self, other: &Self) -> bool {
        (self.round, self.at) == (other.round, other.at)
    }
}

fn statfs(place: &Place) -> Result<Space, Errno> {
    // Not rustix' `statfs`, for statvfs knows that blocks are counted in `f_frsize`,
    // which some FUSE servers set to something else than `f_bsize`.
    let space = rustix::io::retry_on_intr(|| rustix::fs::statvfs(&place.path))?;
    Ok(Space {
        block: space.f_frsize,
        blocks: space.f_blocks,
        free: space.f_bfree,
        available: space.f_bavail,
        files: space.f_files,
        files_free: space.f_ffree,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(400);
    /// Far enough for none of the tests to reach.
    const FAR: Duration = Duration::from_secs(60);

    fn places(of: impl IntoIterator<Item = (u64, PathBuf)>) -> Arc<[Place]> {
        let place = |(mount, path)| Place { mount, path };
        of.into_iter().map(place).collect()
    }

    fn named(names: &[&str]) -> Arc<[Place]> {
        places((0..).zip(names.iter().map(PathBuf::from)))
    }

    /// Hangs where there is a file of this name.
    fn hanging(place: &Place) -> Result<Space, Errno> {
        while place.path.starts_with("/") && place.path.exists() {
            thread::sleep(Duration::from_millis(2));
        }
        if place.path.ends_with("odd") {
            return Err(Errno::STALE);
        }
        Ok(space(place.mount))
    }

    fn space(n: u64) -> Space {
        Space {
            block: n,
            blocks: 0,
            free: 0,
            available: 0,
            files: 0,
            files_free: 0,
        }
    }

    /// Files that hang are those in here.
    fn scratch(name: &str) -> PathBuf {
        let dir = format!("strata-statfs-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn ask(statfs: &Statfs, places: &Arc<[Place]>) -> (Vec<Answer>, Duration) {
        let started = Instant::now();
        let answers = statfs.ask(places, started + FAR);
        (answers, started.elapsed())
    }

    fn threads(statfs: &Statfs) -> usize {
        statfs.shared.lock().threads
    }

    #[test]
    fn what_answers_is_answered_in_order_on_one_thread() {
        let statfs = Statfs::with(TIMEOUT, hanging);
        for _ in 0..3 {
            let (answers, _) = ask(&statfs, &named(&["a", "odd", "c"]));
            let [a, b, c] = answers.try_into().unwrap();
            assert_eq!((a, c), (Answer::Space(space(0)), Answer::Space(space(2))));
            assert_eq!(b, Answer::Refused(Errno::STALE));
        }
        assert_eq!(threads(&statfs), 1);
        assert!(ask(&statfs, &named(&[])).0.is_empty());
    }

    #[test]
    fn what_hangs_costs_the_timeout_once_and_a_thread_each_and_recovers() {
        let dir = scratch("hangs");
        let stuck = [dir.join("x"), dir.join("y")];
        for path in &stuck {
            std::fs::write(path, "").unwrap();
        }
        let [x, y] = stuck.clone();
        let all = places([(0, "a".into()), (1, x), (2, y), (3, "d".into())]);
        let hang = [
            Answer::Space(space(0)),
            Answer::TimedOut,
            Answer::TimedOut,
            Answer::Space(space(3)),
        ];
        let statfs = Statfs::with(TIMEOUT, hanging);
        let (answers, took) = ask(&statfs, &all);
        assert_eq!(answers, hang);
        // Side by side, not one after the other.
        assert!(TIMEOUT <= took && took < 2 * TIMEOUT, "{took:?}");
        for _ in 0..3 {
            let (answers, took) = ask(&statfs, &all);
            assert_eq!(answers, hang);
            assert!(took < TIMEOUT, "{took:?}");
        }
        assert_eq!(threads(&statfs), 3);

        std::fs::remove_dir_all(&dir).unwrap();
        while threads(&statfs) > 1 {
            thread::sleep(Duration::from_millis(5));
        }
        let (answers, _) = ask(&statfs, &all);
        assert_eq!(answers[1], Answer::Space(space(1)));
    }

    #[test]
    fn a_new_mount_on_the_path_of_a_stuck_one_is_asked() {
        let dir = scratch("again");
        let path = dir.join("x");
        std::fs::write(&path, "").unwrap();
        let statfs = Statfs::with(TIMEOUT, |place| match place.mount {
            1 => hanging(place),
            n => Ok(space(n)),
        });
        let (answers, _) = ask(&statfs, &places([(1, path.clone())]));
        assert_eq!(answers, [Answer::TimedOut]);
        let (answers, _) = ask(&statfs, &places([(2, path)]));
        assert_eq!(answers, [Answer::Space(space(2))]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_deadline_of_the_scrape_counts_where_it_is_earlier() {
        let dir = scratch("deadline");
        let path = dir.join("x");
        std::fs::write(&path, "").unwrap();
        let statfs = Statfs::with(FAR, hanging);
        let started = Instant::now();
        let answers = statfs.ask(&places([(1, path)]), started + TIMEOUT);
        assert_eq!(answers, [Answer::TimedOut]);
        assert!(started.elapsed() < 2 * TIMEOUT);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn threads_are_bounded_and_what_answered_before_goes_on_answering() {
        let dir = scratch("many");
        let path = dir.join("x");
        let of = |n: u64| {
            let good = places([(1000, "good".into())]);
            let bad = (0..n).map(|mount| (mount, path.clone()));
            places(bad.chain([(1000, good[0].path.clone()), (1001, "new".into())]))
        };
        let patience = Duration::from_secs(1);
        let statfs = Statfs::with(patience, hanging);
        assert_eq!(ask(&statfs, &of(0)).0[0], Answer::Space(space(1000)));
        std::fs::write(&path, "").unwrap();
        let many = MAX_STUCK + 10;
        let all = of(many as u64);
        for round in 0..3 {
            let (answers, took) = ask(&statfs, &all);
            assert_eq!(answers[0], Answer::TimedOut);
            assert_eq!(answers[many], Answer::Space(space(1000)), "round {round}");
            assert_eq!(answers[many - 1], Answer::NotAsked);
            if round > 0 {
                // Nobody was waited for again.
                assert!(took < patience, "{took:?}");
            }
        }
        assert!(threads(&statfs) <= MAX_STUCK + 1, "{}", threads(&statfs));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
