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
    let remaining = deadline.saturating_duration_since(Instant::now());
    // A pool that hangs leaves time for the others.
    let timeout = (remaining / 4).max(Duration::from_millis(50));
    let mut all = Vec::new();
    for pool in pools {
        let subject = CallSubject::Pool(pool.uuid);
        let mut pool_info = StoragePool {
            name: string_lossy(&pool.name),
            state: None,
            capacity: None,
            allocation: None,
            available: None,
            timed_out: false,
        };
        let reply = if session.pending_calls(subject) > 0 {
            Err(CallError::TimedOut)
        } else {
            let body = XdrEncoder::default().put_named_object(&pool.name, &pool.uuid);
            let call_deadline = deadline.min(Instant::now() + timeout);
            session
                .call(
                    subject,
                    procedure::REMOTE_PROC_STORAGE_POOL_GET_INFO,
                    body,
                    call_deadline,
                )
                .await
        };
        match reply {
            // A malformed reply yields neither state nor sizes.
            Ok(body) => {
                if let Ok((state, sizes)) = wire::parse_pool_info(&body) {
                    pool_info.state = Some(state);
                    if state != VIR_STORAGE_POOL_INACTIVE {
                        [
                            pool_info.capacity,
                            pool_info.allocation,
                            pool_info.available,
                        ] = sizes.map(Some);
                    }
                }
            }
            Err(CallError::TimedOut) => pool_info.timed_out = true,
            Err(CallError::Remote(error)) if error.is_gone() => continue,
            Err(CallError::Remote(_)) => {}
            Err(error) => return Err(error),
        }
        all.push(pool_info);
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
        let call = |procedure| session.call(subject, procedure, body(), deadline);
        let is_active = match call(procedure::REMOTE_PROC_NETWORK_IS_ACTIVE).await {
            Ok(body) => Some(wire::parse_i32(&body)? != 0),
            Err(CallError::Remote(error)) if error.is_gone() => continue,
            Err(CallError::Remote(_)) => None,
            Err(error) => return Err(error),
        };
        let bridge = match is_active {
            Some(true) => match call(procedure::REMOTE_PROC_NETWORK_GET_BRIDGE_NAME).await {
                Ok(body) => Some(wire::parse_string(&body)?),
                Err(CallError::Remote(_)) => None,
                Err(error) => return Err(error),
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
    let mut objects = match session.call(subject, procedure, body, deadline).await {
        Err(CallError::Remote(error)) if error.is_unsupported() => return Ok(Vec::new()),
        reply => wire::parse_object_list(&reply?)?,
    };
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    objects.dedup_by(|a, b| a.name == b.name);
    Ok(objects)
}
