//! Statistics of NFS mounts, from `/proc/self/mountstats`, documented in the kernel's
//! `filesystems/nfs/`; the columns are documented only by `net/sunrpc/stats.c`, `xprtsock.c` and
//! `nfs_iostat.h`.
//!
//! Mounts of one export share their statistics, so an export is exposed once per server address
//! and transport protocol. The address is not part of the file; it is looked up by mount point
//! in `/proc/self/mountinfo`.

use std::collections::{HashMap, HashSet};

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{Fields, Snapshot, Text},
};

metrics! {
    /// NFS export information: its mount point and server address.
    MOUNTPOINT: Info = "node_mountstats_nfs_mountpoint_info" ["export", "mountaddr", "mountpoint", "protocol"];
    /// The age of the NFS mount in seconds.
    AGE: Counter = "node_mountstats_nfs_age_seconds_total" ["export", "mountaddr", "protocol"];
    /// Number of bytes read using the read() syscall.
    READ_BYTES: Counter = "node_mountstats_nfs_read_bytes_total" ["export", "mountaddr", "protocol"];
    /// Number of bytes written using the write() syscall.
    WRITE_BYTES: Counter = "node_mountstats_nfs_write_bytes_total" ["export", "mountaddr", "protocol"];
    /// Number of bytes read using the read() syscall in O_DIRECT mode.
    DIRECT_READ_BYTES: Counter = "node_mountstats_nfs_direct_read_bytes_total" ["export", "mountaddr", "protocol"];
    /// Number of bytes written using the write() syscall in O_DIRECT mode.
    DIRECT_WRITE_BYTES: Counter = "node_mountstats_nfs_direct_write_bytes_total" ["export", "mountaddr", "protocol"];
    /// Number of bytes read from the NFS server, in total.
    TOTAL_READ_BYTES: Counter = "node_mountstats_nfs_total_read_bytes_total" ["export", "mountaddr", "protocol"];
    /// Number of bytes written to the NFS server, in total.
    TOTAL_WRITE_BYTES: Counter = "node_mountstats_nfs_total_write_bytes_total" ["export", "mountaddr", "protocol"];
    /// Number of pages read directly via mmap()'d files or whole-page reads.
    READ_PAGES: Counter = "node_mountstats_nfs_read_pages_total" ["export", "mountaddr", "protocol"];
    /// Number of pages written directly via mmap()'d files or whole-page writes.
    WRITE_PAGES: Counter = "node_mountstats_nfs_write_pages_total" ["export", "mountaddr", "protocol"];
    /// Number of times cached inode attributes are re-validated from the server.
    INODE_REVALIDATE: Counter = "node_mountstats_nfs_event_inode_revalidate_total" ["export", "mountaddr", "protocol"];
    /// Number of times cached dentry nodes are re-validated from the server.
    DNODE_REVALIDATE: Counter = "node_mountstats_nfs_event_dnode_revalidate_total" ["export", "mountaddr", "protocol"];
    /// Number of times cached file data are invalidated.
    DATA_INVALIDATE: Counter = "node_mountstats_nfs_event_data_invalidate_total" ["export", "mountaddr", "protocol"];
    /// Number of times cached inode attributes are invalidated.
    ATTRIBUTE_INVALIDATE: Counter = "node_mountstats_nfs_event_attribute_invalidate_total" ["export", "mountaddr", "protocol"];
    /// Number of times cached files or directories have been opened.
    VFS_OPEN: Counter = "node_mountstats_nfs_event_vfs_open_total" ["export", "mountaddr", "protocol"];
    /// Number of times a directory lookup has occurred.
    VFS_LOOKUP: Counter = "node_mountstats_nfs_event_vfs_lookup_total" ["export", "mountaddr", "protocol"];
    /// Number of times permissions have been checked.
    VFS_ACCESS: Counter = "node_mountstats_nfs_event_vfs_access_total" ["export", "mountaddr", "protocol"];
    /// Number of updates (and potential writes) to pages.
    VFS_UPDATE_PAGE: Counter = "node_mountstats_nfs_event_vfs_update_page_total" ["export", "mountaddr", "protocol"];
    /// Number of single pages read.
    VFS_READ_PAGE: Counter = "node_mountstats_nfs_event_vfs_read_page_total" ["export", "mountaddr", "protocol"];
    /// Number of times a group of pages has been read.
    VFS_READ_PAGES: Counter = "node_mountstats_nfs_event_vfs_read_pages_total" ["export", "mountaddr", "protocol"];
    /// Number of single pages written.
    VFS_WRITE_PAGE: Counter = "node_mountstats_nfs_event_vfs_write_page_total" ["export", "mountaddr", "protocol"];
    /// Number of times a group of pages has been written.
    VFS_WRITE_PAGES: Counter = "node_mountstats_nfs_event_vfs_write_pages_total" ["export", "mountaddr", "protocol"];
    /// Number of times directory entries have been read with getdents().
    VFS_GETDENTS: Counter = "node_mountstats_nfs_event_vfs_getdents_total" ["export", "mountaddr", "protocol"];
    /// Number of times file attributes have been set.
    VFS_SETATTR: Counter = "node_mountstats_nfs_event_vfs_setattr_total" ["export", "mountaddr", "protocol"];
    /// Number of times pending writes have been flushed to the server on close.
    VFS_FLUSH: Counter = "node_mountstats_nfs_event_vfs_flush_total" ["export", "mountaddr", "protocol"];
    /// Number of times fsync() has been called on directories and files.
    VFS_FSYNC: Counter = "node_mountstats_nfs_event_vfs_fsync_total" ["export", "mountaddr", "protocol"];
    /// Number of times locking has been attempted on a file.
    VFS_LOCK: Counter = "node_mountstats_nfs_event_vfs_lock_total" ["export", "mountaddr", "protocol"];
    /// Number of times files have been closed and released.
    VFS_FILE_RELEASE: Counter = "node_mountstats_nfs_event_vfs_file_release_total" ["export", "mountaddr", "protocol"];
    /// Number of times files have been truncated.
    TRUNCATION: Counter = "node_mountstats_nfs_event_truncation_total" ["export", "mountaddr", "protocol"];
    /// Number of times a file has been grown due to writes beyond its existing end.
    WRITE_EXTENSION: Counter = "node_mountstats_nfs_event_write_extension_total" ["export", "mountaddr", "protocol"];
    /// Number of times an open file was removed and therefore renamed (silly rename).
    SILLY_RENAME: Counter = "node_mountstats_nfs_event_silly_rename_total" ["export", "mountaddr", "protocol"];
    /// Number of times the NFS server returned less data than requested while reading.
    SHORT_READ: Counter = "node_mountstats_nfs_event_short_read_total" ["export", "mountaddr", "protocol"];
    /// Number of times the NFS server wrote less data than it was sent.
    SHORT_WRITE: Counter = "node_mountstats_nfs_event_short_write_total" ["export", "mountaddr", "protocol"];
    /// Number of times the NFS server indicated EJUKEBOX or NFS4ERR_DELAY.
    JUKEBOX_DELAY: Counter = "node_mountstats_nfs_event_jukebox_delay_total" ["export", "mountaddr", "protocol"];
    /// Number of NFS v4.1+ pNFS reads.
    PNFS_READ: Counter = "node_mountstats_nfs_event_pnfs_read_total" ["export", "mountaddr", "protocol"];
    /// Number of NFS v4.1+ pNFS writes.
    PNFS_WRITE: Counter = "node_mountstats_nfs_event_pnfs_write_total" ["export", "mountaddr", "protocol"];
    /// Number of times the transport has queried the server's port (rpcbind).
    BIND: Counter = "node_mountstats_nfs_transport_bind_total" ["export", "mountaddr", "protocol", "transport"];
    /// Number of times the transport has made a TCP connection to the NFS server.
    CONNECT: Counter = "node_mountstats_nfs_transport_connect_total" ["export", "mountaddr", "protocol", "transport"];
    /// Seconds since the transport was last used.
    IDLE_TIME: Gauge = "node_mountstats_nfs_transport_idle_time_seconds" ["export", "mountaddr", "protocol", "transport"];
    /// Number of RPC requests sent by this transport to the NFS server.
    SENDS: Counter = "node_mountstats_nfs_transport_sends_total" ["export", "mountaddr", "protocol", "transport"];
    /// Number of RPC responses received by this transport from the NFS server.
    RECEIVES: Counter = "node_mountstats_nfs_transport_receives_total" ["export", "mountaddr", "protocol", "transport"];
    /// Number of times the NFS server sent a response with a transaction ID unknown to this client.
    BAD_TRANSACTION_IDS: Counter = "node_mountstats_nfs_transport_bad_transaction_ids_total" ["export", "mountaddr", "protocol", "transport"];
    /// Length of the queue for a free RPC slot, summed over all sent requests.
    BACKLOG_QUEUE: Counter = "node_mountstats_nfs_transport_backlog_queue_total" ["export", "mountaddr", "protocol", "transport"];
    /// Maximum number of simultaneously active RPC requests ever used.
    MAXIMUM_RPC_SLOTS: Gauge = "node_mountstats_nfs_transport_maximum_rpc_slots" ["export", "mountaddr", "protocol", "transport"];
    /// Length of the transport's sending queue, summed over all sent requests.
    SENDING_QUEUE: Counter = "node_mountstats_nfs_transport_sending_queue_total" ["export", "mountaddr", "protocol", "transport"];
    /// Length of the transport's queue for responses, summed over all sent requests.
    PENDING_QUEUE: Counter = "node_mountstats_nfs_transport_pending_queue_total" ["export", "mountaddr", "protocol", "transport"];
    /// Number of requests completed for a given operation.
    REQUESTS: Counter = "node_mountstats_nfs_operations_requests_total" ["export", "mountaddr", "operation", "protocol"];
    /// Number of times an actual RPC request has been transmitted for a given operation.
    TRANSMISSIONS: Counter = "node_mountstats_nfs_operations_transmissions_total" ["export", "mountaddr", "operation", "protocol"];
    /// Number of times a request has had a major timeout for a given operation.
    MAJOR_TIMEOUTS: Counter = "node_mountstats_nfs_operations_major_timeouts_total" ["export", "mountaddr", "operation", "protocol"];
    /// Number of bytes sent for a given operation, including RPC headers and payload.
    SENT_BYTES: Counter = "node_mountstats_nfs_operations_sent_bytes_total" ["export", "mountaddr", "operation", "protocol"];
    /// Number of bytes received for a given operation, including RPC headers and payload.
    RECEIVED_BYTES: Counter = "node_mountstats_nfs_operations_received_bytes_total" ["export", "mountaddr", "operation", "protocol"];
    /// Duration all requests spent queued for transmission for a given operation, in seconds.
    QUEUE_TIME: Counter = "node_mountstats_nfs_operations_queue_time_seconds_total" ["export", "mountaddr", "operation", "protocol"];
    /// Duration all requests took to get a reply after transmission, in seconds.
    RESPONSE_TIME: Counter = "node_mountstats_nfs_operations_response_time_seconds_total" ["export", "mountaddr", "operation", "protocol"];
    /// Duration all requests took from enqueuing to completion for a given operation, in seconds.
    REQUEST_TIME: Counter = "node_mountstats_nfs_operations_request_time_seconds_total" ["export", "mountaddr", "operation", "protocol"];
}

/// The columns of `bytes:`.
const BYTES: &[Option<&Metric<3>>] = &[
    Some(&READ_BYTES),
    Some(&WRITE_BYTES),
    Some(&DIRECT_READ_BYTES),
    Some(&DIRECT_WRITE_BYTES),
    Some(&TOTAL_READ_BYTES),
    Some(&TOTAL_WRITE_BYTES),
    Some(&READ_PAGES),
    Some(&WRITE_PAGES),
];

/// The columns of `events:`.
const EVENTS: &[Option<&Metric<3>>] = &[
    Some(&INODE_REVALIDATE),
    Some(&DNODE_REVALIDATE),
    Some(&DATA_INVALIDATE),
    Some(&ATTRIBUTE_INVALIDATE),
    Some(&VFS_OPEN),
    Some(&VFS_LOOKUP),
    Some(&VFS_ACCESS),
    Some(&VFS_UPDATE_PAGE),
    Some(&VFS_READ_PAGE),
    Some(&VFS_READ_PAGES),
    Some(&VFS_WRITE_PAGE),
    Some(&VFS_WRITE_PAGES),
    Some(&VFS_GETDENTS),
    Some(&VFS_SETATTR),
    Some(&VFS_FLUSH),
    Some(&VFS_FSYNC),
    Some(&VFS_LOCK),
    Some(&VFS_FILE_RELEASE),
    None, // waits for congestion, no longer counted by any kernel
    Some(&TRUNCATION),
    Some(&WRITE_EXTENSION),
    Some(&SILLY_RENAME),
    Some(&SHORT_READ),
    Some(&SHORT_WRITE),
    Some(&JUKEBOX_DELAY),
    Some(&PNFS_READ),
    Some(&PNFS_WRITE),
];

/// The columns of `xprt:` after the protocol, for TCP.
const TCP: &[Option<&Metric<4>>] = &[
    None, // local port
    Some(&BIND),
    Some(&CONNECT),
    None, // seconds spent connecting
    Some(&IDLE_TIME),
    Some(&SENDS),
    Some(&RECEIVES),
    Some(&BAD_TRANSACTION_IDS),
    None, // requests in flight, accumulated
    Some(&BACKLOG_QUEUE),
    Some(&MAXIMUM_RPC_SLOTS),
    Some(&SENDING_QUEUE),
    Some(&PENDING_QUEUE),
];

/// The same for UDP, which has no connections.
const UDP: &[Option<&Metric<4>>] = &[
    None,
    Some(&BIND),
    Some(&SENDS),
    Some(&RECEIVES),
    Some(&BAD_TRANSACTION_IDS),
    None,
    Some(&BACKLOG_QUEUE),
    Some(&MAXIMUM_RPC_SLOTS),
    Some(&SENDING_QUEUE),
    Some(&PENDING_QUEUE),
];

/// Number of columns that RDMA shares with TCP; the columns after these are specific to RDMA.
const RDMA_COLUMNS: usize = 10;

#[derive(Debug)]
pub(super) struct MountStats;

impl Collector for MountStats {
    const NAME: &'static str = "mountstats";
    const ABOUT: &'static str = "NFS mount statistics";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        let mountstats = snapshot.read_proc("self/mountstats")?;
        let mounts = parse_mounts(&mut out, &mountstats);
        if !mounts.is_empty() {
            add_mounts(&mut out, &mounts, &snapshot.read_proc("self/mountinfo")?);
        }
        Ok(out)
    }
}

/// An NFS mount whose lines have not been parsed yet.
struct NfsMount<'a> {
    head: Fields<'a>,
    export: &'a str,
    point: &'a str,
    protocol: &'a str,
    age: Option<Fields<'a>>,
    bytes: Option<Fields<'a>>,
    events: Option<Fields<'a>>,
    transports: Vec<(&'a str, Fields<'a>)>,
    operations: Vec<(&'a str, Fields<'a>)>,
}

fn add_mounts(out: &mut Families, mounts: &[NfsMount<'_>], mountinfo: &Text) {
    let addresses = parse_addresses(mountinfo);
    let mut seen = HashSet::new();
    let mut points = HashSet::new();
    for mount in mounts {
        let Some(address) = addresses.get(&(mount.point, mount.export)) else {
            let point = mount.point;
            out.record_error(
                mount
                    .head
                    .error(format_args!("no address for {point} in mountinfo")),
            );
            continue;
        };
        let export = (mount.export, address, mount.protocol);
        if points.insert((mount.point, export)) {
            let labels = [mount.export, address, mount.point, mount.protocol];
            out.add(&MOUNTPOINT, labels, true);
        }
        if seen.insert(export) {
            add_export(out, mount, address);
        }
    }
}

fn add_export(out: &mut Families, mount: &NfsMount<'_>, address: &str) {
    let (export, protocol) = (mount.export, mount.protocol);
    let labels = [export, address, protocol];
    for (line, metrics) in [
        (&mount.age, &[Some(&AGE)] as &[_]),
        (&mount.bytes, BYTES),
        (&mount.events, EVENTS),
    ] {
        let Some(line) = line else { continue };
        add_columns(out, metrics, labels, line.clone());
    }
    for (number, (kind, line)) in mount.transports.iter().enumerate() {
        let columns = match *kind {
            "tcp" => TCP,
            "udp" => UDP,
            "rdma" => TCP.get(..RDMA_COLUMNS).unwrap_or(TCP),
            // Like TCP, without the port.
            "local" => TCP.get(1..).unwrap_or(TCP),
            _ => {
                out.record_error(line.error(format_args!("unknown transport {kind:?}")));
                continue;
            }
        };
        let mut buffer = itoa::Buffer::new();
        let number = buffer.format(number);
        add_columns(
            out,
            columns,
            [export, address, protocol, number],
            line.clone(),
        );
    }
    for (name, line) in &mount.operations {
        let result = add_operation(out, [export, address, name, protocol], line.clone());
        out.ok_or_skip(result);
    }
}

/// Adds the columns that the line has: all of them, or none if one is malformed.
fn add_columns<const N: usize>(
    out: &mut Families,
    metrics: &[Option<&'static Metric<N>>],
    labels: [&str; N],
    mut line: Fields<'_>,
) {
    let mut read = || -> Result<Vec<_>> {
        let mut values = Vec::with_capacity(metrics.len());
        for metric in metrics {
            let Some(value) = line.parse_opt::<Value>("column")? else {
                break;
            };
            values.push((*metric, value));
        }
        Ok(values)
    };
    let read = read();
    for (metric, value) in out.ok_or_skip(read).unwrap_or_default() {
        if let Some(metric) = metric {
            out.add(metric, labels, value);
        }
    }
}

fn add_operation(out: &mut Families, labels: [&str; 4], mut line: Fields<'_>) -> Result<()> {
    let counts = [
        &REQUESTS,
        &TRANSMISSIONS,
        &MAJOR_TIMEOUTS,
        &SENT_BYTES,
        &RECEIVED_BYTES,
    ];
    let times = [&QUEUE_TIME, &RESPONSE_TIME, &REQUEST_TIME];
    let mut values = Vec::with_capacity(counts.len() + times.len());
    for metric in counts {
        values.push((metric, line.parse::<Value>("count")?));
    }
    for metric in times {
        values.push((metric, Value::quotient(line.parse("milliseconds")?, 1000)));
    }
    for (metric, value) in values {
        out.add(metric, labels, value);
    }
    Ok(())
}

/// Finds the NFS mounts in a `mountstats` file.
fn parse_mounts<'a>(out: &mut Families, text: &'a Text) -> Vec<NfsMount<'a>> {
    let mut mounts: Vec<NfsMount<'a>> = Vec::new();
    let mut current: Option<NfsMount<'a>> = None;
    let mut finish = |mount: Option<NfsMount<'a>>| match mount {
        Some(mount) if mount.protocol.is_empty() => {
            let export = mount.export;
            out.record_error(
                mount
                    .head
                    .error(format_args!("no transport (xprt) line for {export}")),
            );
        }
        Some(mount) => mounts.push(mount),
        None => {}
    };
    for mut line in text.lines() {
        let Some(word) = line.next_word() else {
            continue;
        };
        if word == "device" || word == "no" {
            finish(current.take());
            current = parse_nfs_mount(line);
            continue;
        }
        let Some(mount) = &mut current else {
            continue;
        };
        match word {
            "age:" => mount.age = Some(line),
            "bytes:" => mount.bytes = Some(line),
            "events:" => mount.events = Some(line),
            "xprt:" => {
                let protocol = line.next_word().unwrap_or_default();
                if mount.protocol.is_empty() {
                    mount.protocol = protocol;
                }
                mount.transports.push((protocol, line));
            }
            "opts:" | "caps:" | "sec:" | "nfsv4:" | "fsc:" | "impl_id:" => {}
            // Operations come last; only the colon identifies their lines.
            _ => {
                if let (Some(name), false) = (word.strip_suffix(':'), mount.protocol.is_empty()) {
                    mount.operations.push((name, line));
                }
            }
        }
    }
    finish(current);
    mounts
}

/// Parses `device X mounted on Y with fstype nfs4 statvers=1.1`, after the first word.
fn parse_nfs_mount(mut line: Fields<'_>) -> Option<NfsMount<'_>> {
    let head = line.clone();
    let export = line.next_word()?;
    let _mounted_on = (line.next_word()?, line.next_word()?);
    let point = line.next_word()?;
    let _with_fstype = (line.next_word()?, line.next_word()?);
    matches!(line.next_word()?, "nfs" | "nfs4").then_some(NfsMount {
        head,
        export,
        point,
        protocol: "",
        age: None,
        bytes: None,
        events: None,
        transports: Vec::new(),
        operations: Vec::new(),
    })
}

/// Parses the server addresses in a `mountinfo` file, by mount point and export.
fn parse_addresses(mountinfo: &Text) -> HashMap<(&str, &str), &str> {
    mountinfo.lines().filter_map(parse_address).collect()
}

/// `35 24 0:45 / POINT OPTIONS OPTIONAL... - TYPE EXPORT SUPER-OPTIONS`
fn parse_address(mut line: Fields<'_>) -> Option<((&str, &str), &str)> {
    for _ in 0..4 {
        line.next_word()?;
    }
    let point = line.next_word()?;
    while line.next_word()? != "-" {}
    if !matches!(line.next_word()?, "nfs" | "nfs4") {
        return None;
    }
    let export = line.next_word()?;
    let mut options = line.next_word()?.split(',');
    let address = options.find_map(|option| option.strip_prefix("addr="))?;
    Some(((point, export), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
21 1 8:2 / / rw shared:1 - ext4 /dev/sda2 rw
41 21 0:50 / /a rw shared:2 - nfs4 nas:/x rw,vers=4.2,clientaddr=192.0.2.7,addr=192.0.2.1
42 21 0:50 / /b rw shared:2 - nfs4 nas:/x rw,vers=4.2,addr=192.0.2.1
43 21 0:51 / /c rw - nfs nas:/x rw,mountaddr=192.0.2.9,addr=192.0.2.1
";

    fn collected(mountstats: &str) -> Families {
        let mut out = Families::default();
        let text = Text::from(mountstats);
        let mounts = parse_mounts(&mut out, &text);
        add_mounts(&mut out, &mounts, &Text::from(MOUNTINFO));
        out
    }

    fn mount(point: &str, lines: &str) -> String {
        format!("device nas:/x mounted on {point} with fstype nfs4 statvers=1.1\n{lines}\n")
    }

    fn column(line: &str, metric: &str) -> Option<String> {
        let lines = collected(&mount("/a", line)).lines();
        let line = lines.iter().find(|line| line.contains(metric))?;
        line.rsplit_once(' ').map(|(_, value)| value.to_owned())
    }

    #[test]
    fn mounts_of_one_export_are_counted_once() {
        let tcp = "\tage:\t7\n\txprt:\ttcp 1\n";
        let udp = "\tage:\t8\n\txprt:\tudp 1\n";
        let out = collected(&[mount("/a", tcp), mount("/b", tcp), mount("/c", udp)].concat());
        let age = "node_mountstats_nfs_age_seconds_total";
        let info = "node_mountstats_nfs_mountpoint_info";
        let export = r#"export="nas:/x",mountaddr="192.0.2.1""#;
        assert_eq!(
            out.lines(),
            [
                format!(r#"{info}{{{export},mountpoint="/a",protocol="tcp"}} 1"#),
                format!(r#"{info}{{{export},mountpoint="/b",protocol="tcp"}} 1"#),
                format!(r#"{info}{{{export},mountpoint="/c",protocol="udp"}} 1"#),
                format!(r#"{age}{{{export},protocol="tcp"}} 7"#),
                format!(r#"{age}{{{export},protocol="udp"}} 8"#),
            ]
        );
    }

    #[test]
    fn each_transport_has_its_own_columns() {
        let number = |kind| format!("\txprt:\t{kind} 10 11 12 13 14 15 16 17 18 19 20 21 22\n");
        for (kind, sends, slots) in [
            ("tcp", "15", Some("20")),
            ("udp", "12", Some("17")),
            ("rdma", "15", None),
            ("local", "14", Some("19")),
        ] {
            let line = number(kind);
            assert_eq!(column(&line, "_sends_").as_deref(), Some(sends), "{kind}");
            assert_eq!(column(&line, "_slots").as_deref(), slots, "{kind}");
        }
        assert_eq!(column(&number("udp"), "idle_time"), None);
    }

    #[test]
    fn old_kernels_write_shorter_lines() {
        let xprt = "\txprt:\ttcp 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(column(xprt, "backlog").as_deref(), Some("10"));
        assert_eq!(column(xprt, "pending"), None);
    }

    #[test]
    fn an_operation_is_counted_in_numbers_bytes_and_seconds() {
        let lines = "\txprt:\ttcp 1\n\tper-op statistics\n\t  READ: 1 2 3 4 5 600 700 800 9\n";
        assert_eq!(column(lines, "transmissions").as_deref(), Some("2"));
        assert_eq!(column(lines, "received_bytes").as_deref(), Some("5"));
        assert_eq!(column(lines, "response_time").as_deref(), Some("0.7"));
        assert_eq!(column(lines, r#"operation="READ""#).as_deref(), Some("1"));
    }

    #[test]
    fn malformed_line_is_skipped() {
        let lines = "\tage:\t7\n\tevents:\t1 x\n\tbytes:\t5\n\txprt:\tpigeon 1\n\t  READ: 1\n";
        let out = collected(&mount("/a", lines));
        let names: Vec<_> = out.iter().map(|family| family.name.as_ref()).collect();
        assert_eq!(
            names,
            [
                "node_mountstats_nfs_mountpoint_info",
                "node_mountstats_nfs_age_seconds_total",
                "node_mountstats_nfs_read_bytes_total",
            ]
        );
        assert_eq!(out.errors().0, 3);
        let out = collected(&mount("/a", "\tage:\t7\n"));
        assert!(out.is_empty());
        let reason = out.errors().1.unwrap().to_string();
        assert_eq!(reason, "test:1: no transport (xprt) line for nas:/x");
    }

    #[test]
    fn mount_without_server_address_is_skipped() {
        let lines = "\tage:\t7\n\txprt:\ttcp 1\n";
        let out = collected(&[mount("/gone", lines), mount("/a", lines)].concat());
        assert_eq!(out.lines().len(), 2);
        let reason = out.errors().1.unwrap().to_string();
        assert_eq!(reason, "test:1: no address for /gone in mountinfo");
    }

    #[test]
    fn other_file_systems_have_no_statistics() {
        let text = "no device mounted on /x with fstype tmpfs\n\
                    device /dev/sda2 mounted on / with fstype ext4\n";
        assert!(collected(text).is_empty());
    }
}
