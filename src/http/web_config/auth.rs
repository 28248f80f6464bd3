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
    fn try_enter(counter: &'a AtomicUsize) -> Option<Self> {
        let before = counter.fetch_add(1, Ordering::Relaxed);
        // Created before the check, so that the counter is decremented in either case.
        let guard = Self(counter);
        (before < MAX_PENDING).then_some(guard)
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
        let result = getrandom(&mut salt, GetRandomFlags::empty());
        result.map_err(|error| format!("getrandom: {error}"))?;
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
        let user_hash = std::str::from_utf8(&name).ok();
        let user_hash = user_hash.and_then(|name| users.get(name));
        let hash = user_hash
            .cloned()
            .unwrap_or_else(|| self.decoy(users, &name));
        let key = self.key(&[&name, hash.as_bytes(), &password]);
        if let Some(result) = self.cached_result(key) {
            return result;
        }
        let pending = PendingGuard::try_enter(&self.pending).ok_or(RejectReason::Busy)?;
        let permit = Arc::clone(&self.verify_permits).acquire_owned().await;
        // A previous request may have had the same credentials.
        if let Some(result) = self.cached_result(key) {
            return result;
        }
        let (this, is_known) = (Arc::clone(self), user_hash.is_some());
        let compared = aside(move || {
            let is_valid = hash.verify(&password) && is_known;
            let list = if is_valid {
                &this.accepted
            } else {
                &this.rejected
            };
            list.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(key);
            // Not earlier: if the request is dropped, the next one must still wait for this
            // comparison.
            drop(permit);
            is_valid
        });
        let is_valid = compared.await;
        drop(pending);
        match is_valid {
            Some(true) => Ok(()),
            Some(false) => Err(RejectReason::WrongPassword),
            None => Err(RejectReason::Busy),
        }
    }

    fn cached_result(&self, key: CredentialKey) -> Option<Result<(), RejectReason>> {
        let contains = |list: &Mutex<CredentialCache>| {
            let list = list.lock().unwrap_or_else(PoisonError::into_inner);
            list.keys.contains(&key)
        };
        if contains(&self.accepted) {
            return Some(Ok(()));
        }
        contains(&self.rejected).then_some(Err(RejectReason::WrongPassword))
    }

    /// A hash that matches no known password, with the cost of one of the users' hashes. The same
    /// name always gets the same hash.
    fn decoy(&self, users: &BTreeMap<String, PasswordHash>, name: &[u8]) -> PasswordHash {
        let digest = self.key(&[name]);
        let number = digest.iter().fold(0usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(*byte))
        });
        let template = users
            .values()
            .nth(number.checked_rem(users.len()).unwrap_or(0));
        PasswordHash::decoy(template)
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
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = value.split_at_checked(6)?;
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
        let authenticator = Arc::new(Authenticator::new().unwrap());
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
                let got = authenticator
                    .authenticate(&users, &basic_auth(name, password))
                    .await;
                assert_eq!(got, result, "{name} {password}");
            }
        }
        let none = authenticator.authenticate(&users, &HeaderMap::new()).await;
        assert_eq!(none, Err(RejectReason::NoPassword));
    }

    #[tokio::test]
    async fn changed_password_invalidates_cache() {
        let authenticator = Arc::new(Authenticator::new().unwrap());
        let request = basic_auth("a", "one");
        assert_eq!(
            authenticator
                .authenticate(&users(&[("a", "one")]), &request)
                .await,
            Ok(())
        );
        let now = users(&[("a", "two")]);
        let rejected = Err(RejectReason::WrongPassword);
        assert_eq!(authenticator.authenticate(&now, &request).await, rejected);
        let removed = users(&[("b", "one")]);
        assert_eq!(
            authenticator.authenticate(&removed, &request).await,
            rejected
        );
    }

    #[tokio::test]
    async fn pending_logins_are_bounded_and_cached_skip_queue() {
        let authenticator = Arc::new(Authenticator::new().unwrap());
        let users = Arc::new(users(&[("a", "one")]));
        assert_eq!(
            authenticator
                .authenticate(&users, &basic_auth("a", "one"))
                .await,
            Ok(())
        );
        let busy_permit = Arc::clone(&authenticator.verify_permits)
            .acquire_owned()
            .await
            .unwrap();
        let mut guesses = Vec::new();
        for guess in 0..MAX_PENDING {
            let (authenticator, users) = (Arc::clone(&authenticator), Arc::clone(&users));
            guesses.push(tokio::spawn(async move {
                let guess = basic_auth("a", &guess.to_string());
                authenticator.authenticate(&users, &guess).await
            }));
        }
        while authenticator.pending.load(Ordering::Relaxed) < MAX_PENDING {
            tokio::task::yield_now().await;
        }
        let one_more = authenticator
            .authenticate(&users, &basic_auth("a", "other"))
            .await;
        assert_eq!(one_more, Err(RejectReason::Busy));
        assert_eq!(
            authenticator
                .authenticate(&users, &basic_auth("a", "one"))
                .await,
            Ok(())
        );
        drop(busy_permit);
        for guess in guesses {
            assert_eq!(guess.await.unwrap(), Err(RejectReason::WrongPassword));
        }
        assert_eq!(authenticator.pending.load(Ordering::Relaxed), 0);
        let one_more = authenticator
            .authenticate(&users, &basic_auth("a", "other"))
            .await;
        assert_eq!(one_more, Err(RejectReason::WrongPassword));
    }

    #[test]
    fn credential_cache_is_bounded() {
        let mut cache = CredentialCache::default();
        for number in 0..3 * CACHE_CAPACITY {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            cache.insert(key);
            cache.insert(key);
        }
        assert_eq!(cache.keys.len(), CACHE_CAPACITY);
        assert_eq!(cache.order.len(), CACHE_CAPACITY);
    }

    #[test]
    fn unknown_user_costs_as_much_as_known_user() {
        let authenticator = Authenticator::new().unwrap();
        let mut users = users(&[("a", "one")]);
        assert_eq!(authenticator.decoy(&users, b"x").cost(), 4);
        let expensive = format!(
            "$2y$07${}",
            "QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
        );
        users.insert("b".to_owned(), PasswordHash::parse(&expensive).unwrap());
        let mut costs: Vec<u32> = (0..100u8)
            .map(|name| authenticator.decoy(&users, &[name]).cost())
            .collect();
        costs.sort_unstable();
        costs.dedup();
        assert_eq!(costs, [4, 7]);
        assert_eq!(
            authenticator.decoy(&users, b"x"),
            authenticator.decoy(&users, b"x")
        );
    }
}
