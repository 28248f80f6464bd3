//! I/O limits of a virtual machine's disks, from the domain XML, because libvirt has no statistics
//! for them. The names are Tinkoff's, whose exporter has 0 where there is no limit.

use super::labels::{DOMAIN, LabelledDomain};
use crate::{
    family::Families,
    metric::Metric,
    metrics,
    sources::libvirt::{DiskDef, IoLimit, IoTuneLimits},
};

metrics! {
    /// Limit on read and write bytes per second in the definition of the domain; absent without a
    /// limit.
    TOTAL_BYTES: Gauge = "libvirt_domain_block_stats_limit_total_bytes" base DOMAIN ["target_device"];
    /// Limit on read bytes per second in the definition of the domain; absent without a limit.
    READ_BYTES: Gauge = "libvirt_domain_block_stats_limit_read_bytes" base DOMAIN ["target_device"];
    /// Limit on write bytes per second in the definition of the domain; absent without a limit.
    WRITE_BYTES: Gauge = "libvirt_domain_block_stats_limit_write_bytes" base DOMAIN ["target_device"];
    /// Limit on read and write requests per second in the definition of the domain; absent without
    /// a limit.
    TOTAL_REQUESTS: Gauge = "libvirt_domain_block_stats_limit_total_requests" base DOMAIN ["target_device"];
    /// Limit on read requests per second in the definition of the domain; absent without a limit.
    READ_REQUESTS: Gauge = "libvirt_domain_block_stats_limit_read_requests" base DOMAIN ["target_device"];
    /// Limit on write requests per second in the definition of the domain; absent without a limit.
    WRITE_REQUESTS: Gauge = "libvirt_domain_block_stats_limit_write_requests" base DOMAIN ["target_device"];
    /// Limit on read and write bytes per second during a burst; absent without a limit.
    BURST_TOTAL_BYTES: Gauge = "libvirt_domain_block_stats_limit_burst_total_bytes" base DOMAIN ["target_device"];
    /// Limit on read bytes per second during a burst; absent without a limit.
    BURST_READ_BYTES: Gauge = "libvirt_domain_block_stats_limit_burst_read_bytes" base DOMAIN ["target_device"];
    /// Limit on write bytes per second during a burst; absent without a limit.
    BURST_WRITE_BYTES: Gauge = "libvirt_domain_block_stats_limit_burst_write_bytes" base DOMAIN ["target_device"];
    /// Limit on read and write requests per second during a burst; absent without a limit.
    BURST_TOTAL_REQUESTS: Gauge = "libvirt_domain_block_stats_limit_burst_total_requests" base DOMAIN ["target_device"];
    /// Limit on read requests per second during a burst; absent without a limit.
    BURST_READ_REQUESTS: Gauge = "libvirt_domain_block_stats_limit_burst_read_requests" base DOMAIN ["target_device"];
    /// Limit on write requests per second during a burst; absent without a limit.
    BURST_WRITE_REQUESTS: Gauge = "libvirt_domain_block_stats_limit_burst_write_requests" base DOMAIN ["target_device"];
    /// Maximum duration of a burst at libvirt_domain_block_stats_limit_burst_total_bytes; absent if
    /// not defined.
    LENGTH_TOTAL_BYTES: Gauge = "libvirt_domain_block_stats_limit_burst_total_bytes_length_seconds" base DOMAIN ["target_device"];
    /// Maximum duration of a burst at libvirt_domain_block_stats_limit_burst_read_bytes; absent if
    /// not defined.
    LENGTH_READ_BYTES: Gauge = "libvirt_domain_block_stats_limit_burst_read_bytes_length_seconds" base DOMAIN ["target_device"];
    /// Maximum duration of a burst at libvirt_domain_block_stats_limit_burst_write_bytes; absent if
    /// not defined.
    LENGTH_WRITE_BYTES: Gauge = "libvirt_domain_block_stats_limit_burst_write_bytes_length_seconds" base DOMAIN ["target_device"];
    /// Maximum duration of a burst at libvirt_domain_block_stats_limit_burst_total_requests; absent
    /// if not defined.
    LENGTH_TOTAL_REQUESTS: Gauge = "libvirt_domain_block_stats_limit_burst_length_total_requests_seconds" base DOMAIN ["target_device"];
    /// Maximum duration of a burst at libvirt_domain_block_stats_limit_burst_read_requests; absent
    /// if not defined.
    LENGTH_READ_REQUESTS: Gauge = "libvirt_domain_block_stats_limit_burst_length_read_requests_seconds" base DOMAIN ["target_device"];
    /// Maximum duration of a burst at libvirt_domain_block_stats_limit_burst_write_requests; absent
    /// if not defined.
    LENGTH_WRITE_REQUESTS: Gauge = "libvirt_domain_block_stats_limit_burst_length_write_requests_seconds" base DOMAIN ["target_device"];
    /// Size above which a request counts as several toward the limit on requests; absent if each
    /// counts as one.
    REQUEST_SIZE: Gauge = "libvirt_domain_block_stats_size_iops_bytes" base DOMAIN ["target_device"];
}

type Gauge = Metric<1>;

pub(super) fn add_disk_limits(out: &mut Families, labelled: &LabelledDomain<'_>, disk: &DiskDef) {
    let Some(limits) = &disk.limits else {
        return;
    };
    let IoTuneLimits { total, read, write } = &limits.bytes;
    for (limit, metrics) in [
        (
            total,
            [&TOTAL_BYTES, &BURST_TOTAL_BYTES, &LENGTH_TOTAL_BYTES],
        ),
        (read, [&READ_BYTES, &BURST_READ_BYTES, &LENGTH_READ_BYTES]),
        (
            write,
            [&WRITE_BYTES, &BURST_WRITE_BYTES, &LENGTH_WRITE_BYTES],
        ),
    ] {
        add_limit(out, labelled, &disk.target, limit, metrics);
    }
    let IoTuneLimits { total, read, write } = &limits.requests;
    for (limit, metrics) in [
        (
            total,
            [
                &TOTAL_REQUESTS,
                &BURST_TOTAL_REQUESTS,
                &LENGTH_TOTAL_REQUESTS,
            ],
        ),
        (
            read,
            [&READ_REQUESTS, &BURST_READ_REQUESTS, &LENGTH_READ_REQUESTS],
        ),
        (
            write,
            [
                &WRITE_REQUESTS,
                &BURST_WRITE_REQUESTS,
                &LENGTH_WRITE_REQUESTS,
            ],
        ),
    ] {
        add_limit(out, labelled, &disk.target, limit, metrics);
    }
    if let Some(size) = limits.request_size {
        out.add_with(&REQUEST_SIZE, &labelled.base, [&disk.target], size);
    }
}

fn add_limit(
    out: &mut Families,
    labelled: &LabelledDomain<'_>,
    target: &str,
    limit: &IoLimit,
    [rate, burst, length]: [&'static Gauge; 3],
) {
    for (metric, limit) in [(rate, limit.rate), (burst, limit.burst)] {
        if let Some(limit) = limit {
            out.add_with(metric, &labelled.base, [target], limit);
        }
    }
    if let Some(time) = limit.burst_length {
        out.add_with(length, &labelled.base, [target], time);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::testing, *};
    use crate::sources::libvirt::IoTune;

    /// Limits with a different number in each field.
    fn limited(first: u64) -> IoTuneLimits {
        let limit = |first| IoLimit {
            rate: Some(first),
            burst: Some(first + 1),
            burst_length: Some(Duration::from_secs(first + 2)),
        };
        IoTuneLimits {
            total: limit(first),
            read: limit(first + 3),
            write: limit(first + 6),
        }
    }

    fn lines(limits: IoTune) -> Vec<String> {
        let disk = DiskDef {
            target: "vda".to_owned(),
            limits: Some(limits.into()),
            ..DiskDef::default()
        };
        let lines = testing::lines(&testing::domain("web"), "inovex", |out, labelled| {
            add_disk_limits(out, labelled, &disk);
        });
        let short = lines.iter().map(|line| {
            let line = line.replace(r#"{domain="web",target_device="vda"}"#, "");
            line.replace("libvirt_domain_block_stats_", "")
        });
        short.collect()
    }

    #[test]
    fn each_limit_has_its_tinkoff_name() {
        let limits = IoTune {
            bytes: limited(10),
            requests: limited(20),
            request_size: Some(30),
        };
        assert_eq!(
            lines(limits),
            [
                "limit_total_bytes 10",
                "limit_burst_total_bytes 11",
                "limit_burst_total_bytes_length_seconds 12",
                "limit_read_bytes 13",
                "limit_burst_read_bytes 14",
                "limit_burst_read_bytes_length_seconds 15",
                "limit_write_bytes 16",
                "limit_burst_write_bytes 17",
                "limit_burst_write_bytes_length_seconds 18",
                "limit_total_requests 20",
                "limit_burst_total_requests 21",
                "limit_burst_length_total_requests_seconds 22",
                "limit_read_requests 23",
                "limit_burst_read_requests 24",
                "limit_burst_length_read_requests_seconds 25",
                "limit_write_requests 26",
                "limit_burst_write_requests 27",
                "limit_burst_length_write_requests_seconds 28",
                "size_iops_bytes 30",
            ]
        );
    }

    #[test]
    fn missing_limits_are_absent() {
        let limits = IoTune {
            requests: IoTuneLimits {
                write: IoLimit {
                    rate: Some(5),
                    ..IoLimit::default()
                },
                ..IoTuneLimits::default()
            },
            ..IoTune::default()
        };
        assert_eq!(lines(limits), ["limit_write_requests 5"]);
    }
}
