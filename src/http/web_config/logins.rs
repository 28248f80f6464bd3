//! Names and passwords in requests.
//!
//! Bcrypt is slow by intent: it takes 50 ms of CPU time and more. It runs on no thread that serves
//! or collects, one comparison at a time, and few may wait for theirs; what came of one is
//! remembered, so that a scraper waits once. What is right and what is wrong are remembered apart:
//! no number of guesses drives out who knew the password. A name that nobody has costs as much as
//! one that somebody has.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{HeaderMap, header::AUTHORIZATION};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::{aside::aside, passwords::Hash};
use crate::exporter::Refused;

/// How many may wait for a comparison, with the one that is under way.
const MAX_WAITING: usize = 16;
/// How many results are remembered, of right ones and of wrong ones.
const MAX_REMEMBERED: usize = 1_000;

type Key = [u8; 32];

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Logins {
    /// Keeps others from knowing our keys.
    salt: [u8; 16],
    right: Mutex<Remembered>,
    wrong: Mutex<Remembered>,
    desk: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The last so many keys.
#[derive(Debug, Default)]
struct Remembered {
    keys: HashSet<Key>,
    order: VecDeque<Key>,
}

impl Remembered {
    fn add(&mut self, key: Key) {
        if !self.keys.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// None if there are too many.
    fn begin(all: &'a AtomicUsize) -> Option<Self> {
        let before = all.fetch_add(1, Ordering::Relaxed);
        // Counted before the look, so that it is counted down in either case.
        let waiting = Self(all);
        (before < MAX_WAITING).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Logins {
    pub(super) fn new() -> Result<Self, String> {
        let mut salt = [0; 16];
        let drawn = getrandom(&mut salt, GetRandomFlags::empty());
        drawn.map_err(|error| format!("no random numbers: {error}"))?;
        Ok(Self {
            salt,
            right: Mutex::default(),
            wrong: Mutex::default(),
            desk: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Whether the request has the name and the password of one of these users.
    pub(super) async fn check(
        self: &Arc<Self>,
        users: &BTreeMap<String, Hash>,
        headers: &HeaderMap,
    ) -> Result<(), Refused> {
        let Some((name, password)) = credentials(headers) else {
            return Err(Refused::NoPassword);
        };
        let known = std::str::from_utf8(&name).ok();
        let known = known.and_then(|name| users.get(name));
        let hash = known.cloned().unwrap_or_else(|| self.decoy(users, &name));
        let key = self.key(&[&name, hash.as_bytes(), &password]);
        if let Some(result) = self.remembered(key) {
            return result;
        }
        let waiting = Waiting::begin(&self.waiting).ok_or(Refused::Busy)?;
        let turn = Arc::clone(&self.desk).acquire_owned().await;
        // Another request with the same may have been before.
        if let Some(result) = self.remembered(key) {
            return result;
        }
        let (this, is_known) = (Arc::clone(self), known.is_some());
        let compared = aside(move || {
            let is_right = hash.is_of(&password) && is_known;
            let list = if is_right { &this.right } else { &this.wrong };
            list.lock().unwrap_or_else(PoisonError::into_inner).add(key);
            // Not before: whoever asked may have gone, and the next must still wait.
            drop(turn);
            is_right
        });
        let is_right = compared.await;
        drop(waiting);
        match is_right {
            Some(true) => Ok(()),
            Some(false) => Err(Refused::WrongPassword),
            None => Err(Refused::Busy),
        }
    }

    fn remembered(&self, key: Key) -> Option<Result<(), Refused>> {
        let has = |list: &Mutex<Remembered>| {
            let list = list.lock().unwrap_or_else(PoisonError::into_inner);
            list.keys.contains(&key)
        };
        if has(&self.right) {
            return Some(Ok(()));
        }
        has(&self.wrong).then_some(Err(Refused::WrongPassword))
    }

    /// A hash of nothing that somebody knows, as costly as that of one of the users: always the
    /// same one for the same name.
    fn decoy(&self, users: &BTreeMap<String, Hash>, name: &[u8]) -> Hash {
        let drawn = self.key(&[name]);
        let drawn = drawn.iter().fold(0usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(*byte))
        });
        let like = users
            .values()
            .nth(drawn.checked_rem(users.len()).unwrap_or(0));
        Hash::decoy(like)
    }

    fn key(&self, parts: &[&[u8]]) -> Key {
        let mut hasher = Sha256::new_with_prefix(self.salt);
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// What the request has for Basic authentication: a name and a password.
fn credentials(headers: &HeaderMap) -> Option<(Vec<u8>, Vec<u8>)> {
    let given = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = given.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let both = STANDARD.decode(rest).ok()?;
    let colon = both.iter().position(|byte| *byte == b':')?;
    let (name, password) = both.split_at_checked(colon)?;
    Some((name.to_owned(), password.get(1..)?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        headers
    }

    fn with(name: &str, password: &str) -> HeaderMap {
        let both = STANDARD.encode(format!("{name}:{password}"));
        headers(&format!("Basic {both}"))
    }

    fn users(list: &[(&str, &str)]) -> BTreeMap<String, Hash> {
        let hash = |password: &str| Hash::read(&bcrypt::hash(password, 4).unwrap()).unwrap();
        let users = list.iter();
        users
            .map(|(name, password)| ((*name).to_owned(), hash(password)))
            .collect()
    }

    #[test]
    fn names_and_passwords_are_read_as_go_reads_them() {
        let read = |value: &str| {
            let (name, password) = credentials(&headers(value))?;
            let text = |bytes| String::from_utf8(bytes).unwrap();
            Some((text(name), text(password)))
        };
        let pair = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        assert_eq!(read("Basic YTpi"), pair("a", "b"));
        assert_eq!(read("bAsIc YTpi"), pair("a", "b"));
        assert_eq!(read("Basic YTpiOmM="), pair("a", "b:c"));
        assert_eq!(read("Basic Og=="), pair("", ""));
        for none in [
            "Basic",
            "Basic ",
            "Basic YQ==",
            "Basic YTpiOmM",
            "Basic  YTpi",
            "Bearer YTpi",
            "Basic \u{e9}",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
        assert_eq!(credentials(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_user_is_right() {
        let logins = Arc::new(Logins::new().unwrap());
        let users = users(&[("a", "one"), ("b", "two")]);
        // Twice: what is remembered is the same.
        for _ in 0..2 {
            for (name, password, result) in [
                ("a", "one", Ok(())),
                ("b", "two", Ok(())),
                ("a", "two", Err(Refused::WrongPassword)),
                ("b", "one", Err(Refused::WrongPassword)),
                ("a", "", Err(Refused::WrongPassword)),
                ("", "one", Err(Refused::WrongPassword)),
                ("c", "fakepassword", Err(Refused::WrongPassword)),
            ] {
                let got = logins.check(&users, &with(name, password)).await;
                assert_eq!(got, result, "{name} {password}");
            }
        }
        let none = logins.check(&users, &HeaderMap::new()).await;
        assert_eq!(none, Err(Refused::NoPassword));
    }

    #[tokio::test]
    async fn a_password_that_was_changed_is_not_remembered() {
        let logins = Arc::new(Logins::new().unwrap());
        let asks = with("a", "one");
        assert_eq!(logins.check(&users(&[("a", "one")]), &asks).await, Ok(()));
        let now = users(&[("a", "two")]);
        let refused = Err(Refused::WrongPassword);
        assert_eq!(logins.check(&now, &asks).await, refused);
        let gone = users(&[("b", "one")]);
        assert_eq!(logins.check(&gone, &asks).await, refused);
    }

    #[tokio::test]
    async fn no_more_than_a_few_wait_and_who_is_known_does_not_wait() {
        let logins = Arc::new(Logins::new().unwrap());
        let users = Arc::new(users(&[("a", "one")]));
        assert_eq!(logins.check(&users, &with("a", "one")).await, Ok(()));
        let under_way = Arc::clone(&logins.desk).acquire_owned().await.unwrap();
        let mut guesses = Vec::new();
        for guess in 0..MAX_WAITING {
            let (logins, users) = (Arc::clone(&logins), Arc::clone(&users));
            guesses.push(tokio::spawn(async move {
                let guess = with("a", &guess.to_string());
                logins.check(&users, &guess).await
            }));
        }
        while logins.waiting.load(Ordering::Relaxed) < MAX_WAITING {
            tokio::task::yield_now().await;
        }
        let one_more = logins.check(&users, &with("a", "other")).await;
        assert_eq!(one_more, Err(Refused::Busy));
        assert_eq!(logins.check(&users, &with("a", "one")).await, Ok(()));
        drop(under_way);
        for guess in guesses {
            assert_eq!(guess.await.unwrap(), Err(Refused::WrongPassword));
        }
        assert_eq!(logins.waiting.load(Ordering::Relaxed), 0);
        let one_more = logins.check(&users, &with("a", "other")).await;
        assert_eq!(one_more, Err(Refused::WrongPassword));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut remembered = Remembered::default();
        for number in 0..3 * MAX_REMEMBERED {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            remembered.add(key);
            remembered.add(key);
        }
        assert_eq!(remembered.keys.len(), MAX_REMEMBERED);
        assert_eq!(remembered.order.len(), MAX_REMEMBERED);
    }

    #[test]
    fn a_name_that_nobody_has_costs_what_one_of_the_others_costs() {
        let logins = Logins::new().unwrap();
        let mut users = users(&[("a", "one")]);
        assert_eq!(logins.decoy(&users, b"x").cost(), 4);
        let dear = format!(
            "$2y$07${}",
            "QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
        );
        users.insert("b".to_owned(), Hash::read(&dear).unwrap());
        let mut costs: Vec<u32> = (0..100u8)
            .map(|name| logins.decoy(&users, &[name]).cost())
            .collect();
        costs.sort_unstable();
        costs.dedup();
        assert_eq!(costs, [4, 7]);
        assert_eq!(logins.decoy(&users, b"x"), logins.decoy(&users, b"x"));
    }
}
