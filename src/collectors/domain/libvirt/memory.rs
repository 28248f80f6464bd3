//! Memory of a virtual machine: its size, its usage on the host, and the statistics of the guest,
//! if it has a balloon driver that is polled (`<stats period='…'/>` of its `<memballoon>`).

use super::labels::{DOMAIN, LabelledDomain};
use crate::{
    family::{Families, Value},
    metrics,
    sources::libvirt::Balloon,
};

metrics! {
    /// Maximum memory of the domain in bytes.
    MAXIMUM: Gauge = "libvirt_domain_info_maximum_memory_bytes" base DOMAIN [];
    /// Memory assigned to the domain (balloon) in bytes; absent while it is not running.
    USAGE: Gauge = "libvirt_domain_info_memory_usage_bytes" base DOMAIN [];
    /// Maximum memory of the domain in bytes.
    STATS_MAXIMUM: Gauge = "libvirt_domain_memory_stats_maximum_bytes" base DOMAIN [];
    /// Memory assigned to the domain (balloon) in bytes; absent while it is not running.
    CURRENT_BALLOON: Gauge = "libvirt_domain_memory_stats_current_balloon_bytes" base DOMAIN [];
    /// Memory assigned to the domain (balloon) in bytes; absent while it is not running.
    ACTUAL_BALLOON: Gauge = "libvirt_domain_memory_stats_actual_balloon_bytes" base DOMAIN [];
    /// Resident memory of the domain on the host in bytes, including QEMU itself.
    RSS: Gauge = "libvirt_domain_memory_stats_rss_bytes" base DOMAIN [];
    /// Total memory visible to the guest in bytes, reported by the guest.
    AVAILABLE: Gauge = "libvirt_domain_memory_stats_available_bytes" base DOMAIN [];
    /// Memory that the guest could use without swapping in bytes, reported by the guest.
    USABLE: Gauge = "libvirt_domain_memory_stats_usable_bytes" base DOMAIN [];
    /// Unused memory of the guest in bytes, reported by the guest.
    UNUSED: Gauge = "libvirt_domain_memory_stats_unused_bytes" base DOMAIN [];
    /// Memory of the guest that is not usable without swapping, in percent of the available memory;
    /// absent if the guest does not report.
    USED_PERCENT: Gauge = "libvirt_domain_memory_stats_used_percent" base DOMAIN [];
    /// Total bytes swapped in, reported by the guest.
    SWAP_IN: Gauge = "libvirt_domain_memory_stats_swap_in_bytes" base DOMAIN [];
    /// Total bytes swapped out, reported by the guest.
    SWAP_OUT: Gauge = "libvirt_domain_memory_stats_swap_out_bytes" base DOMAIN [];
    /// Major page faults, reported by the guest.
    MAJOR_FAULTS: Counter = "libvirt_domain_memory_stats_major_fault_total" base DOMAIN [];
    /// Minor page faults, reported by the guest.
    MINOR_FAULTS: Counter = "libvirt_domain_memory_stats_minor_fault_total" base DOMAIN [];
    /// Page cache in bytes, reported by the guest.
    DISK_CACHES: Gauge = "libvirt_domain_memory_stats_disk_caches_bytes" base DOMAIN [];
    /// Page cache in bytes, reported by the guest.
    DISK_CACHE: Gauge = "libvirt_domain_memory_stats_disk_cache_bytes" base DOMAIN [];
    /// Successful huge page allocations, reported by the guest.
    HUGETLB_PGALLOC: Gauge = "libvirt_domain_memory_stats_hugetlb_pgalloc_total" base DOMAIN [];
    /// Failed huge page allocations, reported by the guest.
    HUGETLB_PGFAIL: Gauge = "libvirt_domain_memory_stats_hugetlb_pgfail_total" base DOMAIN [];
    /// Unix time of the last report of the guest; absent without one.
    LAST_UPDATE: Gauge = "libvirt_domain_memory_stats_last_update_timestamp_seconds" base DOMAIN [];
    /// Configured interval of the reports of the guest in seconds; 0 if they are not requested, so
    /// that reported values are absent or old.
    PERIOD: Gauge = "libvirt_domain_memory_stats_period_seconds" base DOMAIN [];
}

pub(super) fn collect_into(out: &mut Families, labelled: &LabelledDomain<'_>) {
    let balloon = &labelled.domain.stats.balloon;
    for (metric, bytes) in [(&MAXIMUM, balloon.maximum), (&USAGE, balloon.current)] {
        if let Some(bytes) = bytes {
            labelled.add_shared(out, metric, bytes);
        }
    }
    let compat = labelled.compat;
    for (metric, number) in [
        (&STATS_MAXIMUM, balloon.maximum),
        (&CURRENT_BALLOON, balloon.current.filter(|_| compat.inovex)),
        (&ACTUAL_BALLOON, balloon.current.filter(|_| compat.tinkoff)),
        (&RSS, balloon.rss),
        (&AVAILABLE, balloon.available),
        (&USABLE, balloon.usable),
        (&UNUSED, balloon.unused),
        (&SWAP_IN, balloon.swap_in),
        (&SWAP_OUT, balloon.swap_out),
        (&MAJOR_FAULTS, balloon.major_fault),
        (&MINOR_FAULTS, balloon.minor_fault),
        (&DISK_CACHES, balloon.disk_caches.filter(|_| compat.inovex)),
        (&DISK_CACHE, balloon.disk_caches.filter(|_| compat.tinkoff)),
        (&HUGETLB_PGALLOC, balloon.hugetlb_pgalloc),
        (&HUGETLB_PGFAIL, balloon.hugetlb_pgfail),
    ] {
        if let Some(number) = number {
            out.add_with(metric, &labelled.base, [], number);
        }
    }
    if let Some(percent) = used_percent(balloon) {
        out.add_with(&USED_PERCENT, &labelled.base, [], percent);
    }
    if let Some(last) = balloon.last_update {
        out.add_with(&LAST_UPDATE, &labelled.base, [], last);
    }
    if let Some(definition) = &labelled.domain.definition {
        let period = definition.balloon_period.unwrap_or_default();
        out.add_with(&PERIOD, &labelled.base, [], period);
    }
}

/// The formula of both exporters that have this metric.
fn used_percent(balloon: &Balloon) -> Option<Value> {
    let available = balloon.available.filter(|available| *available > 0)?;
    let used = available.checked_sub(balloon.usable?)?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a percentage needs fewer digits"
    )]
    Some(Value::Float(used as f64 / available as f64 * 100.0))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{super::testing, *};
    use crate::sources::libvirt::{Domain, DomainDef, DomainState, DomainStats};

    fn with(state: DomainState, balloon: Balloon) -> Domain {
        Domain {
            state: Some(state),
            stats: DomainStats {
                balloon,
                ..DomainStats::default()
            },
            ..testing::domain("web")
        }
    }

    fn reporting() -> Balloon {
        Balloon {
            current: Some(90),
            maximum: Some(100),
            swap_in: Some(1),
            swap_out: Some(2),
            major_fault: Some(3),
            minor_fault: Some(4),
            unused: Some(30),
            available: Some(80),
            usable: Some(60),
            disk_caches: Some(5),
            hugetlb_pgalloc: Some(6),
            hugetlb_pgfail: Some(7),
            last_update: Some(Duration::from_secs(1_700_000_000)),
            rss: Some(220),
        }
    }

    #[test]
    fn balloon_stats_are_exposed_under_both_naming_schemes() {
        let mut domain = with(DomainState::Running, reporting());
        domain.definition = Some(Arc::new(DomainDef {
            balloon_period: Some(10),
            ..DomainDef::default()
        }));
        let lines = testing::lines(&domain, "inovex,tinkoff", collect_into);
        let lines: Vec<_> = lines
            .iter()
            .map(|line| line.trim_start_matches("libvirt_domain_"))
            .collect();
        assert_eq!(
            lines,
            [
                r#"info_maximum_memory_bytes{domain="web"} 100"#,
                r#"info_memory_usage_bytes{domain="web"} 90"#,
                r#"memory_stats_maximum_bytes{domain="web"} 100"#,
                r#"memory_stats_current_balloon_bytes{domain="web"} 90"#,
                r#"memory_stats_actual_balloon_bytes{domain="web"} 90"#,
                r#"memory_stats_rss_bytes{domain="web"} 220"#,
                r#"memory_stats_available_bytes{domain="web"} 80"#,
                r#"memory_stats_usable_bytes{domain="web"} 60"#,
                r#"memory_stats_unused_bytes{domain="web"} 30"#,
                r#"memory_stats_swap_in_bytes{domain="web"} 1"#,
                r#"memory_stats_swap_out_bytes{domain="web"} 2"#,
                r#"memory_stats_major_fault_total{domain="web"} 3"#,
                r#"memory_stats_minor_fault_total{domain="web"} 4"#,
                r#"memory_stats_disk_caches_bytes{domain="web"} 5"#,
                r#"memory_stats_disk_cache_bytes{domain="web"} 5"#,
                r#"memory_stats_hugetlb_pgalloc_total{domain="web"} 6"#,
                r#"memory_stats_hugetlb_pgfail_total{domain="web"} 7"#,
                r#"memory_stats_used_percent{domain="web"} 25"#,
                r#"memory_stats_last_update_timestamp_seconds{domain="web"} 1700000000"#,
                r#"memory_stats_period_seconds{domain="web"} 10"#,
            ]
        );
    }

    #[test]
    fn shut_off_domain_has_only_maximum() {
        let balloon = Balloon {
            maximum: Some(100),
            ..Balloon::default()
        };
        let domain = with(DomainState::Shutoff, balloon);
        let own = r#"libvirt_domain_memory_stats_maximum_bytes{domain="web"} 100"#;
        let shared = r#"libvirt_domain_info_maximum_memory_bytes{domain="web"} 100"#;
        assert_eq!(
            testing::lines(&domain, "inovex", collect_into),
            [shared, own]
        );
        // kumina's exporter has no inactive domains.
        assert_eq!(testing::lines(&domain, "kumina", collect_into), [own]);
    }

    #[test]
    fn no_used_percent_without_balloon_stats() {
        let percent_of = |available, usable| {
            used_percent(&Balloon {
                available,
                usable,
                ..Balloon::default()
            })
        };
        assert_eq!(percent_of(Some(0), Some(0)), None);
        assert_eq!(percent_of(Some(80), None), None);
        assert_eq!(percent_of(None, Some(1)), None);
        assert_eq!(percent_of(Some(80), Some(81)), None);
        assert_eq!(percent_of(Some(80), Some(0)), Some(Value::Float(100.0)));
    }
}
