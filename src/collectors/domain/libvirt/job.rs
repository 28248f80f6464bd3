//! The active job of a virtual machine: a migration, save or dump.

use super::labels::{DOMAIN, LabelledDomain};
use crate::{family::Families, metrics};

metrics! {
    /// Type of the current job of the domain: 0 none, 1 bounded, 2 unbounded, 3 completed, 4
    /// failed, 5 cancelled.
    TYPE: Gauge = "libvirt_domain_job_info_type" base DOMAIN [];
    /// Time since the start of the job.
    ELAPSED: Gauge = "libvirt_domain_job_info_time_elapsed_seconds" base DOMAIN [];
    /// Estimated time until the end of the job.
    REMAINING: Gauge = "libvirt_domain_job_info_time_remaining_seconds" base DOMAIN [];
    /// Total bytes of the job.
    DATA_TOTAL: Gauge = "libvirt_domain_job_info_data_total_bytes" base DOMAIN [];
    /// Bytes processed by the job.
    DATA_PROCESSED: Gauge = "libvirt_domain_job_info_data_processed_bytes" base DOMAIN [];
    /// Bytes that the job has left to process.
    DATA_REMAINING: Gauge = "libvirt_domain_job_info_data_remaining_bytes" base DOMAIN [];
    /// Total bytes of memory of the job.
    MEMORY_TOTAL: Gauge = "libvirt_domain_job_info_memory_total_bytes" base DOMAIN [];
    /// Bytes of memory processed by the job.
    MEMORY_PROCESSED: Gauge = "libvirt_domain_job_info_memory_processed_bytes" base DOMAIN [];
    /// Bytes of memory that the job has left to process.
    MEMORY_REMAINING: Gauge = "libvirt_domain_job_info_memory_remaining_bytes" base DOMAIN [];
    /// Total bytes of disks of the job.
    FILE_TOTAL: Gauge = "libvirt_domain_job_info_file_total_bytes" base DOMAIN [];
    /// Bytes of disks processed by the job.
    FILE_PROCESSED: Gauge = "libvirt_domain_job_info_file_processed_bytes" base DOMAIN [];
    /// Bytes of disks that the job has left to process.
    FILE_REMAINING: Gauge = "libvirt_domain_job_info_file_remaining_bytes" base DOMAIN [];
}

pub(super) fn collect_into(out: &mut Families, labelled: &LabelledDomain<'_>) {
    let Some(job) = &labelled.domain.job else {
        return;
    };
    if let Some(kind) = job.kind {
        out.add_with(&TYPE, &labelled.base, [], i64::from(kind));
    }
    for (metric, time) in [(&ELAPSED, job.elapsed), (&REMAINING, job.remaining)] {
        if let Some(time) = time {
            out.add_with(metric, &labelled.base, [], time);
        }
    }
    for (metrics, bytes) in [
        ([&DATA_TOTAL, &DATA_PROCESSED, &DATA_REMAINING], job.data),
        (
            [&MEMORY_TOTAL, &MEMORY_PROCESSED, &MEMORY_REMAINING],
            job.memory,
        ),
        ([&FILE_TOTAL, &FILE_PROCESSED, &FILE_REMAINING], job.file),
    ] {
        for (metric, bytes) in metrics.into_iter().zip(bytes) {
            if let Some(bytes) = bytes {
                out.add_with(metric, &labelled.base, [], bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::testing, *};
    use crate::sources::libvirt::{Domain, DomainJob};

    #[test]
    fn migration_exposes_progress() {
        let job = DomainJob {
            kind: Some(2),
            elapsed: Some(Duration::from_millis(1500)),
            remaining: None,
            data: [Some(100), Some(60), Some(40)],
            memory: [Some(90), Some(55), Some(35)],
            file: [None; 3],
        };
        let domain = Domain {
            job: Some(job),
            ..testing::domain("web")
        };
        assert_eq!(
            testing::lines(&domain, "inovex", collect_into),
            [
                r#"libvirt_domain_job_info_type{domain="web"} 2"#,
                r#"libvirt_domain_job_info_time_elapsed_seconds{domain="web"} 1.5"#,
                r#"libvirt_domain_job_info_data_total_bytes{domain="web"} 100"#,
                r#"libvirt_domain_job_info_data_processed_bytes{domain="web"} 60"#,
                r#"libvirt_domain_job_info_data_remaining_bytes{domain="web"} 40"#,
                r#"libvirt_domain_job_info_memory_total_bytes{domain="web"} 90"#,
                r#"libvirt_domain_job_info_memory_processed_bytes{domain="web"} 55"#,
                r#"libvirt_domain_job_info_memory_remaining_bytes{domain="web"} 35"#,
            ]
        );
        let lines = testing::lines(&testing::domain("web"), "inovex", collect_into);
        assert!(lines.is_empty(), "{lines:#?}");
    }
}
