//! Disks of a virtual machine.
//!
//! A drive without a medium has an info series but no counters: libvirt reports 0 for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    labels::{DOMAIN, LabelledDomain},
    limits,
    metadata::text_or_empty,
};
use crate::{
    family::Families,
    metrics,
    sources::libvirt::{DiskDef, DomainDisk},
};

metrics! {
    /// Disk, floppy or CD-ROM of the domain: always 1; without source_file if no medium is
    /// inserted.
    INFO: Info = "libvirt_domain_block_stats_info" base DOMAIN ["disk_type", "target_bus", "driver_name", "driver_type", "driver_cache", "driver_discard", "source_file", "source_protocol", "target_device", "serial"];
    /// Disk, floppy or CD-ROM of the domain: always 1.
    META: Gauge = "libvirt_domain_block_meta" base DOMAIN ["target_device", "source_file", "serial", "bus", "disk_type", "driver_type", "cache", "discard"];
    /// Bytes read.
    READ_BYTES: Counter = "libvirt_domain_block_stats_read_bytes_total" base DOMAIN ["target_device"];
    /// Read requests.
    READ_REQUESTS: Counter = "libvirt_domain_block_stats_read_requests_total" base DOMAIN ["target_device"];
    /// Total time of read requests.
    READ_TIME: Counter = "libvirt_domain_block_stats_read_time_seconds_total" base DOMAIN ["target_device"];
    /// Bytes written.
    WRITE_BYTES: Counter = "libvirt_domain_block_stats_write_bytes_total" base DOMAIN ["target_device"];
    /// Write requests.
    WRITE_REQUESTS: Counter = "libvirt_domain_block_stats_write_requests_total" base DOMAIN ["target_device"];
    /// Total time of write requests.
    WRITE_TIME: Counter = "libvirt_domain_block_stats_write_time_seconds_total" base DOMAIN ["target_device"];
    /// Flush requests.
    FLUSH_REQUESTS: Counter = "libvirt_domain_block_stats_flush_requests_total" base DOMAIN ["target_device"];
    /// Total time of flush requests.
    FLUSH_TIME: Counter = "libvirt_domain_block_stats_flush_time_seconds_total" base DOMAIN ["target_device"];
    /// Errors counted by the hypervisor; Xen counts them, QEMU does not (see
    /// libvirt_domain_block_io_errors_total).
    ERRORS: Counter = "libvirt_domain_block_stats_errors_total" base DOMAIN ["target_device"];
    /// I/O error events of the disk since this exporter connected to libvirt.
    IO_ERRORS: Counter = "libvirt_domain_block_io_errors_total" base DOMAIN ["target_device"];
    /// Logical size of the disk in bytes.
    CAPACITY: Gauge = "libvirt_domain_block_stats_capacity_bytes" base DOMAIN ["target_device"];
    /// Allocated size of the disk image in bytes, without holes.
    ALLOCATION: Gauge = "libvirt_domain_block_stats_allocation_bytes" base DOMAIN ["target_device"];
    /// Allocated size of the disk image in bytes, without holes.
    TINKOFF_ALLOCATION: Gauge = "libvirt_domain_block_stats_allocation" base DOMAIN ["target_device"];
    /// Size of the file or device behind the disk in bytes.
    PHYSICAL: Gauge = "libvirt_domain_block_stats_physicalsize_bytes" base DOMAIN ["target_device"];
}

pub(super) fn collect_into(out: &mut Families, labelled: &LabelledDomain<'_>) {
    let metadata = labelled.domain.definition.as_deref();
    let described = metadata.map_or(&[][..], |definition| &definition.disks);
    let mut by_target = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for each in described {
        let target = each.target.as_str();
        if labelled.is_first(out, &mut seen, "disk", target) {
            add_description(out, labelled, each);
            limits::add_disk_limits(out, labelled, each);
            by_target.insert(target, each);
        }
    }
    let mut counted = Vec::new();
    let mut seen = BTreeSet::new();
    for disk in &labelled.domain.stats.disks {
        let name = disk.name.as_str();
        let description = by_target.get(name).copied();
        if is_empty_drive(disk, description) || !labelled.is_first(out, &mut seen, "disk", name) {
            continue;
        }
        add_counters(out, labelled, disk, description);
        counted.push(name);
    }
    add_io_errors(out, labelled, &counted);
}

/// I/O errors, if the daemon reports them.
fn add_io_errors(out: &mut Families, labelled: &LabelledDomain<'_>, counted: &[&str]) {
    let lifecycle = labelled.domain.lifecycle.as_ref();
    let Some(io_errors) = lifecycle.and_then(|lifecycle| lifecycle.io_errors.as_ref()) else {
        return;
    };
    // Disks without errors start at 0, so that a rate has a first value.
    let active_names = counted.iter().filter(|_| labelled.is_active());
    let mut errors: BTreeMap<&str, u64> = active_names.map(|name| (*name, 0)).collect();
    errors.extend(
        io_errors
            .iter()
            .map(|(name, count)| (name.as_str(), *count)),
    );
    for (name, count) in errors {
        out.add_with(&IO_ERRORS, &labelled.base, [name], count);
    }
}

/// Whether the disk is a drive without a medium.
fn is_empty_drive(disk: &DomainDisk, description: Option<&DiskDef>) -> bool {
    let is_fixed = |it: &DiskDef| !matches!(it.device.as_str(), "cdrom" | "floppy");
    disk.path.is_none() && disk.capacity.is_none() && !description.is_some_and(is_fixed)
}

fn add_counters(
    out: &mut Families,
    labelled: &LabelledDomain<'_>,
    disk: &DomainDisk,
    description: Option<&DiskDef>,
) {
    let name = disk.name.as_str();
    let file = description.and_then(|definition| definition.source.as_deref());
    let file = file.or(disk.path.as_deref()).unwrap_or_default();
    let shared = labelled.shared_device_base("source_file", file);
    for (metric, count) in [
        (&READ_BYTES, disk.read.bytes),
        (&READ_REQUESTS, disk.read.requests),
        (&WRITE_BYTES, disk.written.bytes),
        (&WRITE_REQUESTS, disk.written.requests),
    ] {
        if let Some(count) = count {
            out.add_with(metric, &shared, [name], count);
        }
    }
    for (metric, time) in [
        (&READ_TIME, disk.read.time),
        (&WRITE_TIME, disk.written.time),
        (&FLUSH_TIME, disk.flushed.time),
    ] {
        if let Some(time) = time {
            out.add_with(metric, &labelled.base, [name], time);
        }
    }
    let tinkoff_allocation = disk.allocation.filter(|_| labelled.compat.tinkoff);
    for (metric, number) in [
        (&FLUSH_REQUESTS, disk.flushed.requests),
        (&ERRORS, disk.errors),
        (&CAPACITY, disk.capacity),
        (&ALLOCATION, disk.allocation),
        (&TINKOFF_ALLOCATION, tinkoff_allocation),
        (&PHYSICAL, disk.physical),
    ] {
        if let Some(number) = number {
            out.add_with(metric, &labelled.base, [name], number);
        }
    }
}

fn add_description(out: &mut Families, labelled: &LabelledDomain<'_>, disk: &DiskDef) {
    let kind = text_or_empty(&disk.kind);
    let source = text_or_empty(&disk.source);
    if labelled.compat.inovex {
        let labels = [
            kind,
            text_or_empty(&disk.bus),
            text_or_empty(&disk.driver_name),
            text_or_empty(&disk.driver_type),
            text_or_empty(&disk.cache),
            text_or_empty(&disk.discard),
            source,
            text_or_empty(&disk.source_protocol),
            &disk.target,
            text_or_empty(&disk.serial),
        ];
        out.add_with(&INFO, &labelled.base, labels, true);
    }
    if labelled.compat.tinkoff {
        let labels = [
            disk.target.as_str(),
            source,
            text_or_empty(&disk.serial),
            text_or_empty(&disk.bus),
            kind,
            text_or_empty(&disk.driver_type),
            text_or_empty(&disk.cache),
            text_or_empty(&disk.discard),
        ];
        out.add_with(&META, &labelled.base, labels, true);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{super::testing, *};
    use crate::sources::libvirt::{
        DiskOperations, Domain, DomainDef, DomainState, DomainStats, LifecycleCounts,
    };

    fn described(target: &str, device: &str) -> DiskDef {
        DiskDef {
            target: target.to_owned(),
            device: device.to_owned(),
            kind: Some("file".to_owned()),
            bus: Some("virtio".to_owned()),
            ..DiskDef::default()
        }
    }

    fn counted(name: &str, first: u64) -> DomainDisk {
        let operations = |first| DiskOperations {
            requests: Some(first),
            bytes: Some(first + 1),
            time: Some(Duration::from_secs(first + 2)),
        };
        DomainDisk {
            name: name.to_owned(),
            path: Some(format!("/img/{name}.qcow2")),
            read: operations(first),
            written: operations(first + 3),
            flushed: DiskOperations {
                bytes: None,
                ..operations(first + 6)
            },
            errors: None,
            allocation: Some(first + 10),
            capacity: Some(first + 11),
            physical: Some(first + 12),
        }
    }

    fn domain(definitions: Vec<DiskDef>, disks: Vec<DomainDisk>) -> Domain {
        Domain {
            state: Some(DomainState::Running),
            definition: Some(Arc::new(DomainDef {
                disks: definitions,
                ..DomainDef::default()
            })),
            stats: DomainStats {
                disks,
                ..DomainStats::default()
            },
            lifecycle: Some(LifecycleCounts {
                io_errors: Some(BTreeMap::new()),
                ..LifecycleCounts::default()
            }),
            ..testing::domain("web")
        }
    }

    #[test]
    fn disk_is_exposed_under_both_naming_schemes() {
        let definition = DiskDef {
            driver_name: Some("qemu".to_owned()),
            driver_type: Some("qcow2".to_owned()),
            cache: Some("none".to_owned()),
            discard: Some("unmap".to_owned()),
            source: Some("/img/vda.qcow2".to_owned()),
            serial: Some("S1".to_owned()),
            ..described("vda", "disk")
        };
        let domain = domain(vec![definition], vec![counted("vda", 20)]);
        assert_eq!(
            testing::lines(&domain, "inovex,tinkoff", collect_into),
            [
                r#"libvirt_domain_block_stats_info{domain="web",disk_type="file",target_bus="virtio",driver_name="qemu",driver_type="qcow2",driver_cache="none",driver_discard="unmap",source_file="/img/vda.qcow2",source_protocol="",target_device="vda",serial="S1"} 1"#,
                r#"libvirt_domain_block_meta{domain="web",target_device="vda",source_file="/img/vda.qcow2",serial="S1",bus="virtio",disk_type="file",driver_type="qcow2",cache="none",discard="unmap"} 1"#,
                r#"libvirt_domain_block_stats_read_bytes_total{domain="web",target_device="vda"} 21"#,
                r#"libvirt_domain_block_stats_read_requests_total{domain="web",target_device="vda"} 20"#,
                r#"libvirt_domain_block_stats_write_bytes_total{domain="web",target_device="vda"} 24"#,
                r#"libvirt_domain_block_stats_write_requests_total{domain="web",target_device="vda"} 23"#,
                r#"libvirt_domain_block_stats_read_time_seconds_total{domain="web",target_device="vda"} 22"#,
                r#"libvirt_domain_block_stats_write_time_seconds_total{domain="web",target_device="vda"} 25"#,
                r#"libvirt_domain_block_stats_flush_time_seconds_total{domain="web",target_device="vda"} 28"#,
                r#"libvirt_domain_block_stats_flush_requests_total{domain="web",target_device="vda"} 26"#,
                r#"libvirt_domain_block_stats_capacity_bytes{domain="web",target_device="vda"} 31"#,
                r#"libvirt_domain_block_stats_allocation_bytes{domain="web",target_device="vda"} 30"#,
                r#"libvirt_domain_block_stats_allocation{domain="web",target_device="vda"} 30"#,
                r#"libvirt_domain_block_stats_physicalsize_bytes{domain="web",target_device="vda"} 32"#,
                r#"libvirt_domain_block_io_errors_total{domain="web",target_device="vda"} 0"#,
            ]
        );
        let lines = testing::lines(&domain, "kumina", collect_into);
        let uuid = testing::UUID;
        let labels = format!(
            r#"{{domain="web",uuid="{uuid}",source_file="/img/vda.qcow2",target_device="vda"}} 23"#
        );
        let line = format!("libvirt_domain_block_stats_write_requests_total{labels}");
        assert!(lines.contains(&line), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("allocation{")));
    }

    #[test]
    fn drive_without_medium_has_info_but_no_counters() {
        let zeros = |name: &str| DomainDisk {
            path: None,
            capacity: None,
            ..counted(name, 0)
        };
        let definitions = vec![
            described("hdc", "cdrom"),
            described("fda", "floppy"),
            // For example a network disk without a path.
            described("vda", "disk"),
        ];
        let domain = domain(definitions, vec![zeros("hdc"), zeros("fda"), zeros("vda")]);
        let lines = testing::lines(&domain, "inovex", collect_into);
        let series_count = |name: &str| {
            let label = format!(r#"target_device="{name}""#);
            lines.iter().filter(|line| line.contains(&label)).count()
        };
        assert_eq!(
            [
                series_count("hdc"),
                series_count("fda"),
                series_count("vda")
            ],
            [1, 1, 12],
            "{lines:#?}"
        );
    }

    #[test]
    fn duplicate_disk_names_yield_one_series() {
        let definitions = vec![described("vda", "disk"), described("vda", "disk")];
        let disks = vec![counted("vda", 1), counted("vda", 50)];
        let out = testing::families(&domain(definitions, disks), "inovex", collect_into);
        assert_eq!(out.lines().len(), 1 + 12);
        assert_eq!(out.errors().0, 2);
    }

    #[test]
    fn io_errors_of_unplugged_disk_remain() {
        let io_errors = [("vda".to_owned(), 3), ("vdz".to_owned(), 1)];
        let domain = Domain {
            lifecycle: Some(LifecycleCounts {
                io_errors: Some(io_errors.into()),
                ..LifecycleCounts::default()
            }),
            ..domain(vec![], vec![counted("vda", 1)])
        };
        let lines = testing::lines(&domain, "inovex", collect_into);
        let errors: Vec<_> = lines.iter().filter(|it| it.contains("errors")).collect();
        assert_eq!(
            errors,
            [
                r#"libvirt_domain_block_io_errors_total{domain="web",target_device="vda"} 3"#,
                r#"libvirt_domain_block_io_errors_total{domain="web",target_device="vdz"} 1"#,
            ]
        );
    }

    #[test]
    fn unreported_io_errors_are_absent() {
        let mut domain = domain(vec![], vec![counted("vda", 1)]);
        for lifecycle in [None, Some(LifecycleCounts::default())] {
            domain.lifecycle = lifecycle;
            let lines = testing::lines(&domain, "inovex", collect_into);
            assert!(!lines.iter().any(|line| line.contains("io_errors")));
        }
    }
}
