//! Storage pools and networks, as libvirt knows them. Pools are not refreshed: that
//! would write, and take long.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Network, Pool,
    connection::{Failure, Result},
    session::{Session, Subject},
    wire::{self, Body, Thing, procedure, text, written},
};

/// The numbers of a pool's state.
const INACTIVE: u32 = 0;

/// All pools, running or not.
pub(super) async fn pools(session: &Arc<Session>, by: Instant) -> Result<Vec<Pool>> {
    let pools = list(session, Subject::Pools, procedure::POOLS, by).await?;
    let left = by.saturating_duration_since(Instant::now());
    // One that hangs leaves time for others.
    let patience = (left / 4).max(Duration::from_millis(50));
    let mut all = Vec::new();
    for pool in pools {
        let subject = Subject::Pool(pool.uuid);
        let mut seen = Pool {
            name: text(&pool.name),
            state: None,
            capacity: None,
            allocation: None,
            available: None,
            timed_out: false,
        };
        let answer = if session.asked(subject) > 0 {
            Err(Failure::Late)
        } else {
            let body = Body::default().thing(&pool.name, &pool.uuid);
            let by = by.min(Instant::now() + patience);
            session.ask(subject, procedure::POOL_INFO, body, by).await
        };
        match answer {
            // One that says nonsense has neither.
            Ok(body) => {
                if let Ok((state, sizes)) = wire::pool(&body) {
                    seen.state = Some(state);
                    if state != INACTIVE {
                        [seen.capacity, seen.allocation, seen.available] = sizes.map(Some);
                    }
                }
            }
            Err(Failure::Late) => seen.timed_out = true,
            Err(Failure::Refused(refusal)) if refusal.is_gone() => continue,
            Err(Failure::Refused(_)) => {}
            Err(failure) => return Err(failure),
        }
        all.push(seen);
    }
    Ok(all)
}

/// All networks, up or not.
pub(super) async fn networks(session: &Arc<Session>, by: Instant) -> Result<Vec<Network>> {
    let subject = Subject::Networks;
    let networks = list(session, subject, procedure::NETWORKS, by).await?;
    let mut all = Vec::new();
    for network in networks {
        let body = || Body::default().thing(&network.name, &network.uuid);
        let ask = |procedure| session.ask(subject, procedure, body(), by);
        let is_active = match ask(procedure::IS_NETWORK_ACTIVE).await {
            Ok(body) => Some(wire::int(&body)? != 0),
            Err(Failure::Refused(refusal)) if refusal.is_gone() => continue,
            Err(Failure::Refused(_)) => None,
            Err(failure) => return Err(failure),
        };
        let bridge = match is_active {
            Some(true) => match ask(procedure::BRIDGE_NAME).await {
                Ok(body) => Some(wire::string(&body)?),
                Err(Failure::Refused(_)) => None,
                Err(failure) => return Err(failure),
            },
            _ => None,
        };
        all.push(Network {
            name: text(&network.name),
            uuid: written(&network.uuid),
            is_active,
            bridge: bridge.filter(|bridge| !bridge.is_empty()),
        });
    }
    Ok(all)
}

/// What there is of a kind, sorted by name; nothing where the daemon has no such thing.
async fn list(
    session: &Arc<Session>,
    subject: Subject,
    procedure: u32,
    by: Instant,
) -> Result<Vec<Thing>> {
    if session.asked(subject) > 0 {
        // Never asked again before it is answered.
        return Err(Failure::Late);
    }
    // With results; all.
    let body = Body::default().number(1).number(0);
    let mut things = match session.ask(subject, procedure, body, by).await {
        Err(Failure::Refused(refusal)) if refusal.is_unsupported() => return Ok(Vec::new()),
        answer => wire::things(&answer?)?,
    };
    things.sort_by(|a, b| a.name.cmp(&b.name));
    things.dedup_by(|a, b| a.name == b.name);
    Ok(things)
}
