//! Storage pools and networks. Pools are not refreshed, because a refresh writes and takes long.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    StoragePool, VirtualNetwork,
    connection::{CallError, Result},
    session::{CallSubject, LibvirtSession},
    wire::{self, NamedObject, XdrEncoder, format_uuid, procedure, string_lossy},
};

/// State of an inactive pool.
const VIR_STORAGE_POOL_INACTIVE: u32 = 0;

/// Returns all pools, active or not.
pub(super) async fn list_pools(
    session: &Arc<LibvirtSession>,
    deadline: Instant,
) -> Result<Vec<StoragePool>> {
    let pools = list_objects(
        session,
        CallSubject::Pools,
        procedure::REMOTE_PROC_CONNECT_LIST_ALL_STORAGE_POOLS,
        deadline,
    )
    .await?;
    let left = deadline.saturating_duration_since(Instant::now());
    // A pool that hangs leaves time for the others.
    let patience = (left / 4).max(Duration::from_millis(50));
    let mut all = Vec::new();
    for pool in pools {
        let subject = CallSubject::Pool(pool.uuid);
        let mut seen = StoragePool {
            name: string_lossy(&pool.name),
            state: None,
            capacity: None,
            allocation: None,
            available: None,
            timed_out: false,
        };
        let answer = if session.pending_calls(subject) > 0 {
            Err(CallError::TimedOut)
        } else {
            let body = XdrEncoder::default().put_named_object(&pool.name, &pool.uuid);
            let by = deadline.min(Instant::now() + patience);
            session
                .call(
                    subject,
                    procedure::REMOTE_PROC_STORAGE_POOL_GET_INFO,
                    body,
                    by,
                )
                .await
        };
        match answer {
            // A malformed reply yields neither state nor sizes.
            Ok(body) => {
                if let Ok((state, sizes)) = wire::parse_pool_info(&body) {
                    seen.state = Some(state);
                    if state != VIR_STORAGE_POOL_INACTIVE {
                        [seen.capacity, seen.allocation, seen.available] = sizes.map(Some);
                    }
                }
            }
            Err(CallError::TimedOut) => seen.timed_out = true,
            Err(CallError::Remote(refusal)) if refusal.is_gone() => continue,
            Err(CallError::Remote(_)) => {}
            Err(failure) => return Err(failure),
        }
        all.push(seen);
    }
    Ok(all)
}

/// Returns all networks, active or not.
pub(super) async fn list_networks(
    session: &Arc<LibvirtSession>,
    deadline: Instant,
) -> Result<Vec<VirtualNetwork>> {
    let subject = CallSubject::Networks;
    let networks = list_objects(
        session,
        subject,
        procedure::REMOTE_PROC_CONNECT_LIST_ALL_NETWORKS,
        deadline,
    )
    .await?;
    let mut all = Vec::new();
    for network in networks {
        let body = || XdrEncoder::default().put_named_object(&network.name, &network.uuid);
        let ask = |procedure| session.call(subject, procedure, body(), deadline);
        let is_active = match ask(procedure::REMOTE_PROC_NETWORK_IS_ACTIVE).await {
            Ok(body) => Some(wire::parse_i32(&body)? != 0),
            Err(CallError::Remote(refusal)) if refusal.is_gone() => continue,
            Err(CallError::Remote(_)) => None,
            Err(failure) => return Err(failure),
        };
        let bridge = match is_active {
            Some(true) => match ask(procedure::REMOTE_PROC_NETWORK_GET_BRIDGE_NAME).await {
                Ok(body) => Some(wire::parse_string(&body)?),
                Err(CallError::Remote(_)) => None,
                Err(failure) => return Err(failure),
            },
            _ => None,
        };
        all.push(VirtualNetwork {
            name: string_lossy(&network.name),
            uuid: format_uuid(&network.uuid),
            is_active,
            bridge: bridge.filter(|bridge| !bridge.is_empty()),
        });
    }
    Ok(all)
}

/// Lists objects of a kind, sorted by name; empty if the daemon does not support the kind.
async fn list_objects(
    session: &Arc<LibvirtSession>,
    subject: CallSubject,
    procedure: u32,
    deadline: Instant,
) -> Result<Vec<NamedObject>> {
    if session.pending_calls(subject) > 0 {
        // A pending list call is never repeated.
        return Err(CallError::TimedOut);
    }
    // need_results = 1, flags = 0 (all).
    let body = XdrEncoder::default().put_u32(1).put_u32(0);
    let mut things = match session.call(subject, procedure, body, deadline).await {
        Err(CallError::Remote(refusal)) if refusal.is_unsupported() => return Ok(Vec::new()),
        answer => wire::parse_object_list(&answer?)?,
    };
    things.sort_by(|a, b| a.name.cmp(&b.name));
    things.dedup_by(|a, b| a.name == b.name);
    Ok(things)
}
