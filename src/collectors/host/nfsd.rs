//! NFS server statistics, from `/proc/net/rpc/nfsd`, documented in `nfsstat(8)`.
//!
//! Operations of version 4 are named by their numbers in RFC 7530. `node_exporter` 1.5.0 lacks
//! two of these, so it reports other operations' counts as `Verify`, `Write` and `RelLockOwner`.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{Fields, Snapshot, Text},
};

use super::nfs::{V2, V3, add_requests, parse_numbers};

metrics! {
    /// Total number of NFSd reply cache hits (retransmitted requests).
    REPLY_CACHE_HITS: Counter = "node_nfsd_reply_cache_hits_total" [];
    /// Total number of NFSd reply cache misses.
    REPLY_CACHE_MISSES: Counter = "node_nfsd_reply_cache_misses_total" [];
    /// Total number of NFSd requests that do not use the reply cache because they are idempotent.
    REPLY_CACHE_NOCACHE: Counter = "node_nfsd_reply_cache_nocache_total" [];
    /// Total number of NFSd stale file handles.
    FILE_HANDLES_STALE: Counter = "node_nfsd_file_handles_stale_total" [];
    /// Total NFSd bytes read.
    DISK_BYTES_READ: Counter = "node_nfsd_disk_bytes_read_total" [];
    /// Total NFSd bytes written.
    DISK_BYTES_WRITTEN: Counter = "node_nfsd_disk_bytes_written_total" [];
    /// Total number of NFSd kernel threads that are running.
    SERVER_THREADS: Gauge = "node_nfsd_server_threads" [];
    /// NFSd read-ahead cache size in blocks; removed in Linux 5.4.
    READ_AHEAD_CACHE_SIZE: Gauge = "node_nfsd_read_ahead_cache_size_blocks" [];
    /// Total number of NFSd read-ahead cache misses; the cache was removed in Linux 5.4.
    READ_AHEAD_CACHE_NOT_FOUND: Counter = "node_nfsd_read_ahead_cache_not_found_total" [];
    /// Total NFSd network packets by protocol type.
    PACKETS: Counter = "node_nfsd_packets_total" ["proto"];
    /// Total number of NFSd TCP connections.
    CONNECTIONS: Counter = "node_nfsd_connections_total" [];
    /// Total number of NFSd RPC errors by error type: bad format, authentication, or bad client.
    RPC_ERRORS: Counter = "node_nfsd_rpc_errors_total" ["error"];
    /// Total number of NFSd RPCs.
    SERVER_RPCS: Counter = "node_nfsd_server_rpcs_total" [];
    /// Total number of NFSd requests by method and protocol version.
    REQUESTS: Counter = "node_nfsd_requests_total" ["method", "proto"];
}

/// Operations of NFS version 4 by number; the first three numbers are unassigned. The later
/// ones, of versions 4.1 and 4.2, are in the order of `OP_*` in the kernel's `nfs4.h`.
const V4: &[&str] = &[
    "",
    "",
    "",
    "Access",
    "Close",
    "Commit",
    "Create",
    "DelegPurge",
    "DelegReturn",
    "GetAttr",
    "GetFH",
    "Link",
    "Lock",
    "Lockt",
    "Locku",
    "Lookup",
    "LookupRoot",
    "Nverify",
    "Open",
    "OpenAttr",
    "OpenConfirm",
    "OpenDgrd",
    "PutFH",
    "PutPubFH",
    "PutRootFH",
    "Read",
    "ReadDir",
    "ReadLink",
    "Remove",
    "Rename",
    "Renew",
    "RestoreFH",
    "SaveFH",
    "SecInfo",
    "SetAttr",
    "SetClientID",
    "SetClientIDConfirm",
    "Verify",
    "Write",
    "RelLockOwner",
    // Version 4.1.
    "BackchannelCtl",
    "BindConnToSession",
    "ExchangeID",
    "CreateSession",
    "DestroySession",
    "FreeStateID",
    "GetDirDelegation",
    "GetDeviceInfo",
    "GetDeviceList",
    "LayoutCommit",
    "LayoutGet",
    "LayoutReturn",
    "SecinfoNoName",
    "Sequence",
    "SetSSV",
    "TestStateID",
    "WantDelegation",
    "DestroyClientID",
    "ReclaimComplete",
    // Version 4.2.
    "Allocate",
    "Copy",
    "CopyNotify",
    "DeAllocate",
    "IOAdvise",
    "LayoutError",
    "LayoutStats",
    "OffloadCancel",
    "OffloadStatus",
    "ReadPlus",
    "Seek",
    "WriteSame",
    "Clone",
    // RFC 8276.
    "GetXattr",
    "SetXattr",
    "ListXattrs",
    "RemoveXattr",
];

#[derive(Debug)]
pub(super) struct Nfsd;

impl Collector for Nfsd {
    const NAME: &'static str = "nfsd";
    const ABOUT: &'static str = "NFS server requests";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        Ok(families(&snapshot.read_proc("net/rpc/nfsd")?))
    }
}

fn families(text: &Text) -> Families {
    let mut out = Families::default();
    for line in text.lines() {
        let result = add_line(&mut out, line);
        out.ok_or_skip(result);
    }
    out
}

fn add_line(out: &mut Families, mut line: Fields<'_>) -> Result<()> {
    let Some(keyword) = line.next_word() else {
        return Ok(());
    };
    match keyword {
        "rc" => {
            let [hits, misses, nocache] = parse_numbers(line)?;
            out.add(&REPLY_CACHE_HITS, [], hits);
            out.add(&REPLY_CACHE_MISSES, [], misses);
            out.add(&REPLY_CACHE_NOCACHE, [], nocache);
        }
        "fh" => {
            let [stale] = parse_numbers(line)?;
            out.add(&FILE_HANDLES_STALE, [], stale);
        }
        "io" => {
            let [read, written] = parse_numbers(line)?;
            out.add(&DISK_BYTES_READ, [], read);
            out.add(&DISK_BYTES_WRITTEN, [], written);
        }
        "th" => {
            let [threads] = parse_numbers(line)?;
            out.add(&SERVER_THREADS, [], threads);
        }
        "ra" => {
            // The columns between are a histogram of the depth of cache hits, in steps of 10 %.
            let [size, .., not_found]: [Value; 12] = parse_numbers(line)?;
            out.add(&READ_AHEAD_CACHE_SIZE, [], size);
            out.add(&READ_AHEAD_CACHE_NOT_FOUND, [], not_found);
        }
        "net" => {
            let [_, udp, tcp, connections] = parse_numbers(line)?;
            out.add(&PACKETS, ["udp"], udp);
            out.add(&PACKETS, ["tcp"], tcp);
            out.add(&CONNECTIONS, [], connections);
        }
        "rpc" => {
            // The second is the sum of those after it.
            let [calls, _, format, authentication, client] = parse_numbers(line)?;
            out.add(&SERVER_RPCS, [], calls);
            out.add(&RPC_ERRORS, ["fmt"], format);
            out.add(&RPC_ERRORS, ["auth"], authentication);
            out.add(&RPC_ERRORS, ["cInt"], client);
        }
        "proc2" => add_requests(out, &REQUESTS, "2", line, |_| V2)?,
        "proc3" => add_requests(out, &REQUESTS, "3", line, |_| V3)?,
        // The operations inside the compounds are counted in the next line.
        "proc4" => {}
        "proc4ops" => add_requests(out, &REQUESTS, "4", line, |_| V4)?,
        "wdeleg_getattr" => {
            let [calls] = parse_numbers(line)?;
            out.add(&REQUESTS, ["WdelegGetattr", "4"], calls);
        }
        _ => return Err(line.error(format_args!("unknown keyword {keyword:?}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(text: &str) -> Families {
        families(&Text::from(text))
    }

    #[test]
    fn operations_are_named_by_their_number() {
        let counts: Vec<_> = (1000..1076).map(|i| i.to_string()).collect();
        let out = collected(&format!("proc4 2 1 2\nproc4ops 76 {}\n", counts.join(" ")));
        let lines = out.lines();
        assert_eq!(lines.len(), 73);
        for (method, number) in [
            ("Access", 3),
            ("Write", 38),
            ("RelLockOwner", 39),
            ("ReclaimComplete", 58),
            ("RemoveXattr", 75),
        ] {
            let labels = format!(r#"{{method="{method}",proto="4"}}"#);
            let line = format!("node_nfsd_requests_total{labels} {}", 1000 + number);
            assert!(lines.contains(&line), "{line}");
        }
    }

    #[test]
    fn old_kernels_have_fewer_operations() {
        let out = collected("proc4ops 5 0 0 0 11 12\n");
        assert_eq!(
            out.lines(),
            [
                r#"node_nfsd_requests_total{method="Access",proto="4"} 11"#,
                r#"node_nfsd_requests_total{method="Close",proto="4"} 12"#,
            ]
        );
    }

    #[test]
    fn malformed_line_is_skipped() {
        let out = collected("rc 1 2\nfh 3 0\nnovel 7\nra 32 1\nio x 2\nth 8\n");
        assert_eq!(
            out.lines(),
            [
                "node_nfsd_file_handles_stale_total 3",
                "node_nfsd_server_threads 8",
            ]
        );
        assert_eq!(out.errors().0, 4);
    }
}
