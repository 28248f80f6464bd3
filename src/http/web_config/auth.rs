//! HTTP basic authentication.
//!
//! Bcrypt is slow by design: a comparison takes 50 ms of CPU time or more. Comparisons run one at
//! a time on threads that neither serve nor collect, with few requests in the queue. Results are
//! cached, so a scraper waits only once. Accepted and rejected credentials have separate caches,
//! so no number of guesses evicts valid credentials. An unknown user name costs as much as a known
//! one.

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

use super::{aside::aside, password_hash::PasswordHash};
use crate::self_metrics::RejectReason;

/// Maximum number of pending comparisons, including the one in progress.
const MAX_PENDING: usize = 16;
/// Maximum number of cached results, for accepted and for rejected credentials each.
const CACHE_CAPACITY: usize = 1_000;

type CredentialKey = [u8; 32];

#[derive(Debug)]
pub(super) struct Authenticator {
    /// Makes the cache keys unpredictable.
    salt: [u8; 16],
    accepted: Mutex<CredentialCache>,
    rejected: Mutex<CredentialCache>,
    verify_permits: Arc<Semaphore>,
    pending: AtomicUsize,
}

/// The most recent keys.
#[derive(Debug, Default)]
struct CredentialCache {
    keys: HashSet<CredentialKey>,
    order: VecDeque<CredentialKey>,
}

impl CredentialCache {
    fn insert(&mut self, key: CredentialKey) {
        if !self.keys.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > CACHE_CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }
}

/// Counts one pending comparison.
struct PendingGuard<'a>(&'a AtomicUsize);

impl<'a> PendingGuard<'a> {
    /// `None` if there are too many.
    fn try_enter(all: &'a AtomicUsize) -> Option<Self> {
        let before = all.fetch_add(1, Ordering::Relaxed);
        // Created before the check, so that the counter is decremented in either case.
        let waiting = Self(all);
        (before < MAX_PENDING).then_some(waiting)
    }
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Authenticator {
    pub(super) fn new() -> Result<Self, String> {
        let mut salt = [0; 16];
        let drawn = getrandom(&mut salt, GetRandomFlags::empty());
        drawn.map_err(|error| format!("no random numbers: {error}"))?;
        Ok(Self {
            salt,
            accepted: Mutex::default(),
            rejected: Mutex::default(),
            verify_permits: Arc::new(Semaphore::new(1)),
            pending: AtomicUsize::new(0),
        })
    }

    /// Checks that the request has the name and password of one of these users.
    pub(super) async fn authenticate(
        self: &Arc<Self>,
        users: &BTreeMap<String, PasswordHash>,
        headers: &HeaderMap,
    ) -> Result<(), RejectReason> {
        let Some((name, password)) = credentials(headers) else {
            return Err(RejectReason::NoPassword);
        };
        let known = std::str::from_utf8(&name).ok();
        let known = known.and_then(|name| users.get(name));
        let hash = known.cloned().unwrap_or_else(|| self.decoy(users, &name));
        let key = self.key(&[&name, hash.as_bytes(), &password]);
        if let Some(result) = self.cached_result(key) {
            return result;
        }
        let waiting = PendingGuard::try_enter(&self.pending).ok_or(RejectReason::Busy)?;
        let turn = Arc::clone(&self.verify_permits).acquire_owned().await;
        // A previous request may have had the same credentials.
        if let Some(result) = self.cached_result(key) {
            return result;
        }
        let (this, is_known) = (Arc::clone(self), known.is_some());
        let compared = aside(move || {
            let is_right = hash.verify(&password) && is_known;
            let list = if is_right {
                &this.accepted
            } else {
                &this.rejected
            };
            list.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(key);
            // Not earlier: if the request is dropped, the next one must still wait for this
            // comparison.
            drop(turn);
            is_right
        });
        let is_right = compared.await;
        drop(waiting);
        match is_right {
            Some(true) => Ok(()),
            Some(false) => Err(RejectReason::WrongPassword),
            None => Err(RejectReason::Busy),
        }
    }

    fn cached_result(&self, key: CredentialKey) -> Option<Result<(), RejectReason>> {
        let has = |list: &Mutex<CredentialCache>| {
            let list = list.lock().unwrap_or_else(PoisonError::into_inner);
            list.keys.contains(&key)
        };
        if has(&self.accepted) {
            return Some(Ok(()));
        }
        has(&self.rejected).then_some(Err(RejectReason::WrongPassword))
    }

    /// A hash that matches no known password, with the cost of one of the users' hashes. The same
    /// name always gets the same hash.
    fn decoy(&self, users: &BTreeMap<String, PasswordHash>, name: &[u8]) -> PasswordHash {
        let drawn = self.key(&[name]);
        let drawn = drawn.iter().fold(0usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(*byte))
        });
        let like = users
            .values()
            .nth(drawn.checked_rem(users.len()).unwrap_or(0));
        PasswordHash::decoy(like)
    }

    fn key(&self, parts: &[&[u8]]) -> CredentialKey {
        let mut hasher = Sha256::new_with_prefix(self.salt);
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// The name and password of the request's basic authentication header.
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

    fn basic_auth(name: &str, password: &str) -> HeaderMap {
        let both = STANDARD.encode(format!("{name}:{password}"));
        headers(&format!("Basic {both}"))
    }

    fn users(list: &[(&str, &str)]) -> BTreeMap<String, PasswordHash> {
        let hash =
            |password: &str| PasswordHash::parse(&bcrypt::hash(password, 4).unwrap()).unwrap();
        let users = list.iter();
        users
            .map(|(name, password)| ((*name).to_owned(), hash(password)))
            .collect()
    }

    #[test]
    fn basic_credentials_parse_as_in_go() {
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
    async fn only_correct_password_is_accepted() {
        let logins = Arc::new(Authenticator::new().unwrap());
        let users = users(&[("a", "one"), ("b", "two")]);
        // The cached result is the same as the first one.
        for _ in 0..2 {
            for (name, password, result) in [
                ("a", "one", Ok(())),
                ("b", "two", Ok(())),
                ("a", "two", Err(RejectReason::WrongPassword)),
                ("b", "one", Err(RejectReason::WrongPassword)),
                ("a", "", Err(RejectReason::WrongPassword)),
                ("", "one", Err(RejectReason::WrongPassword)),
                ("c", "fakepassword", Err(RejectReason::WrongPassword)),
            ] {
                let got = logins
                    .authenticate(&users, &basic_auth(name, password))
                    .await;
                assert_eq!(got, result, "{name} {password}");
            }
        }
        let none = logins.authenticate(&users, &HeaderMap::new()).await;
        assert_eq!(none, Err(RejectReason::NoPassword));
    }

    #[tokio::test]
    async fn changed_password_invalidates_cache() {
        let logins = Arc::new(Authenticator::new().unwrap());
        let asks = basic_auth("a", "one");
        assert_eq!(
            logins.authenticate(&users(&[("a", "one")]), &asks).await,
            Ok(())
        );
        let now = users(&[("a", "two")]);
        let refused = Err(RejectReason::WrongPassword);
        assert_eq!(logins.authenticate(&now, &asks).await, refused);
        let gone = users(&[("b", "one")]);
        assert_eq!(logins.authenticate(&gone, &asks).await, refused);
    }

    #[tokio::test]
    async fn pending_logins_are_bounded_and_cached_skip_queue() {
        let logins = Arc::new(Authenticator::new().unwrap());
        let users = Arc::new(users(&[("a", "one")]));
        assert_eq!(
            logins.authenticate(&users, &basic_auth("a", "one")).await,
            Ok(())
        );
        let under_way = Arc::clone(&logins.verify_permits)
            .acquire_owned()
            .await
            .unwrap();
        let mut guesses = Vec::new();
        for guess in 0..MAX_PENDING {
            let (logins, users) = (Arc::clone(&logins), Arc::clone(&users));
            guesses.push(tokio::spawn(async move {
                let guess = basic_auth("a", &guess.to_string());
                logins.authenticate(&users, &guess).await
            }));
        }
        while logins.pending.load(Ordering::Relaxed) < MAX_PENDING {
            tokio::task::yield_now().await;
        }
        let one_more = logins.authenticate(&users, &basic_auth("a", "other")).await;
        assert_eq!(one_more, Err(RejectReason::Busy));
        assert_eq!(
            logins.authenticate(&users, &basic_auth("a", "one")).await,
            Ok(())
        );
        drop(under_way);
        for guess in guesses {
            assert_eq!(guess.await.unwrap(), Err(RejectReason::WrongPassword));
        }
        assert_eq!(logins.pending.load(Ordering::Relaxed), 0);
        let one_more = logins.authenticate(&users, &basic_auth("a", "other")).await;
        assert_eq!(one_more, Err(RejectReason::WrongPassword));
    }

    #[test]
    fn credential_cache_is_bounded() {
        let mut remembered = CredentialCache::default();
        for number in 0..3 * CACHE_CAPACITY {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            remembered.insert(key);
            remembered.insert(key);
        }
        assert_eq!(remembered.keys.len(), CACHE_CAPACITY);
        assert_eq!(remembered.order.len(), CACHE_CAPACITY);
    }

    #[test]
    fn unknown_user_costs_as_much_as_known_user() {
        let logins = Authenticator::new().unwrap();
        let mut users = users(&[("a", "one")]);
        assert_eq!(logins.decoy(&users, b"x").cost(), 4);
        let dear = format!(
            "$2y$07${}",
            "QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
        );
        users.insert("b".to_owned(), PasswordHash::parse(&dear).unwrap());
        let mut costs: Vec<u32> = (0..100u8)
            .map(|name| logins.decoy(&users, &[name]).cost())
            .collect();
        costs.sort_unstable();
        costs.dedup();
        assert_eq!(costs, [4, 7]);
        assert_eq!(logins.decoy(&users, b"x"), logins.decoy(&users, b"x"));
    }
}
