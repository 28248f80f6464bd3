//! NFS client statistics, from `/proc/net/rpc/nfs`, documented in `nfsstat(8)`.
//!
//! The file identifies operations by position only, and their number depends on the kernel.
//! Operations beyond those known here are dropped.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// Total NFS network packets by protocol type.
    PACKETS: Counter = "node_nfs_packets_total" ["protocol"];
    /// Total number of NFS TCP connections.
    CONNECTIONS: Counter = "node_nfs_connections_total" [];
    /// Total number of RPCs performed.
    RPCS: Counter = "node_nfs_rpcs_total" [];
    /// Number of RPC transmissions performed again for lack of a reply.
    RPC_RETRANSMISSIONS: Counter = "node_nfs_rpc_retransmissions_total" [];
    /// Number of RPC authentication refreshes performed.
    RPC_AUTHENTICATION_REFRESHES: Counter = "node_nfs_rpc_authentication_refreshes_total" [];
    /// Number of NFS procedures invoked.
    REQUESTS: Counter = "node_nfs_requests_total" ["method", "proto"];
}

/// The procedures of NFS version 2, in the order of RFC 1094.
pub(super) const V2: &[&str] = &[
    "Null", "GetAttr", "SetAttr", "Root", "Lookup", "ReadLink", "Read", "WrCache", "Write",
    "Create", "Remove", "Rename", "Link", "SymLink", "MkDir", "RmDir", "ReadDir", "FsStat",
];

/// The procedures of NFS version 3, in the order of RFC 1813.
pub(super) const V3: &[&str] = &[
    "Null",
    "GetAttr",
    "SetAttr",
    "Lookup",
    "Access",
    "ReadLink",
    "Read",
    "Write",
    "Create",
    "MkDir",
    "SymLink",
    "MkNod",
    "Remove",
    "RmDir",
    "Rename",
    "Link",
    "ReadDir",
    "ReadDirPlus",
    "FsStat",
    "FsInfo",
    "PathConf",
    "Commit",
];

/// Operations of the Linux client for NFS version 4, in the order of `NFSPROC4_CLNT_*` in the
/// kernel's `nfs4.h`.
const V4: &[&str] = &[
    "Null",
    "Read",
    "Write",
    "Commit",
    "Open",
    "OpenConfirm",
    "OpenNoattr",
    "OpenDowngrade",
    "Close",
    "Setattr",
    "FsInfo",
    "Renew",
    "SetClientID",
    "SetClientIDConfirm",
    "Lock",
    "Lockt",
    "Locku",
    "Access",
    "Getattr",
    "Lookup",
    "LookupRoot",
    "Remove",
    "Rename",
    "Link",
    "Symlink",
    "Create",
    "Pathconf",
    "StatFs",
    "ReadLink",
    "ReadDir",
    "ServerCaps",
    "DelegReturn",
    "GetACL",
    "SetACL",
    "FsLocations",
    "ReleaseLockowner",
    "Secinfo",
    "FsidPresent",
    "ExchangeID",
    "CreateSession",
    "DestroySession",
    "Sequence",
    "GetLeaseTime",
    "ReclaimComplete",
    "LayoutGet",
    "GetDeviceInfo",
    "LayoutCommit",
    "LayoutReturn",
    "SecinfoNoName",
    "TestStateID",
    "FreeStateID",
    "GetDeviceList",
    "BindConnToSession",
    "DestroyClientID",
    "Seek",
    "Allocate",
    "DeAllocate",
    "LayoutStats",
    "Clone",
    "Copy",
    "OffloadCancel",
    "Lookupp",
    "LayoutError",
    "CopyNotify",
    "GetXattr",
    "SetXattr",
    "ListXattrs",
    "RemoveXattr",
    "ReadPlus",
];

/// Names of version 4 operations if the kernel lists `count` of them.
///
/// Linux 4.19 inserted an operation before the end: in a shorter list the positions from there
/// on are ambiguous and have no name.
fn v4_operations(count: usize) -> &'static [&'static str] {
    let named = if count < 62 { 60 } else { V4.len() };
    V4.get(..named).unwrap_or(V4)
}

#[derive(Debug)]
pub(super) struct Nfs;

impl Collector for Nfs {
    const NAME: &'static str = "nfs";
    const ABOUT: &'static str = "NFS client requests";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.read_proc("net/rpc/nfs")?))
    }
}

fn families(text: &Text) -> Families {
    let mut out = Families::default();
    for mut line in text.lines() {
        let Some(keyword) = line.next_word() else {
            continue;
        };
        let result = match keyword {
            "net" => add_net(&mut out, line),
            "rpc" => add_rpc(&mut out, line),
            "proc2" => add_requests(&mut out, &REQUESTS, "2", line, |_| V2),
            "proc3" => add_requests(&mut out, &REQUESTS, "3", line, |_| V3),
            "proc4" => add_requests(&mut out, &REQUESTS, "4", line, v4_operations),
            _ => Err(line.error(format_args!("unknown keyword {keyword:?}"))),
        };
        out.ok_or_skip(result);
    }
    out
}

fn add_net(out: &mut Families, line: Fields<'_>) -> Result<()> {
    let [_, udp, tcp, connections] = parse_numbers(line)?;
    out.add(&PACKETS, ["udp"], udp);
    out.add(&PACKETS, ["tcp"], tcp);
    out.add(&CONNECTIONS, [], connections);
    Ok(())
}

fn add_rpc(out: &mut Families, line: Fields<'_>) -> Result<()> {
    let [calls, retransmissions, refreshes] = parse_numbers(line)?;
    out.add(&RPCS, [], calls);
    out.add(&RPC_RETRANSMISSIONS, [], retransmissions);
    out.add(&RPC_AUTHENTICATION_REFRESHES, [], refreshes);
    Ok(())
}

/// Parses the first `N` numbers of a line; trailing columns are ignored.
pub(super) fn parse_numbers<const N: usize>(mut line: Fields<'_>) -> Result<[Value; N]> {
    let mut numbers = [Value::Unsigned(0); N];
    for number in &mut numbers {
        *number = line.parse("count")?;
    }
    Ok(numbers)
}

/// Adds the requests of a version. The line has the number of operations, then the count of
/// each. Operations without a name are dropped.
pub(super) fn add_requests(
    out: &mut Families,
    metric: &'static Metric<2>,
    version: &str,
    mut line: Fields<'_>,
    names: impl FnOnce(usize) -> &'static [&'static str],
) -> Result<()> {
    let declared: usize = line.parse("operation count")?;
    let mut counts = Vec::with_capacity(128);
    while let Some(word) = line.next_word() {
        counts.push(line.parse_word::<Value>(word, "count")?);
    }
    let count = counts.len();
    if count != declared {
        return Err(line.error(format_args!(
            "expected {declared} operations, found {count}"
        )));
    }
    for (name, count) in names(count).iter().zip(counts) {
        if !name.is_empty() {
            out.add(metric, [name, version], count);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(count: usize) -> String {
        let counts: Vec<_> = (1000..1000 + count).map(|i| i.to_string()).collect();
        format!("proc4 {count} {}\n", counts.join(" "))
    }

    fn collected(text: &str) -> Families {
        families(&Text::from(text))
    }

    #[test]
    fn operations_are_named_by_position() {
        assert_eq!((V2.len(), V3.len(), V4.len()), (18, 22, 69));
        let lines = collected(&line_of(69)).lines();
        let has = |method: &str, count: u64| {
            let sample = "node_nfs_requests_total";
            let line = format!(r#"{sample}{{method="{method}",proto="4"}} {count}"#);
            assert!(lines.contains(&line), "{line}");
        };
        has("ExchangeID", 1038);
        has("OffloadCancel", 1060);
        has("ReadPlus", 1068);
    }

    #[test]
    fn tolerates_more_or_fewer_operations() {
        assert_eq!(collected(&line_of(75)).lines().len(), 69);
        assert_eq!(collected(&line_of(53)).lines().len(), 53);
        // As in Linux 4.18, whose last operation differs from what later became the 61st.
        let lines = collected(&line_of(61)).lines();
        assert_eq!(lines.len(), 60);
        assert!(lines[59].contains("\"Copy\""));
    }

    #[test]
    fn malformed_line_is_skipped() {
        let out = collected("net 1 2 x 4\nrpc 11 22 33\nnovel 5\nproc2 2 1\nproc3 1 7\n");
        assert_eq!(
            out.lines(),
            [
                "node_nfs_rpcs_total 11",
                "node_nfs_rpc_retransmissions_total 22",
                "node_nfs_rpc_authentication_refreshes_total 33",
                r#"node_nfs_requests_total{method="Null",proto="3"} 7"#,
            ]
        );
        assert_eq!(out.errors().0, 3);
    }
}
