//! The parsers agree with the independent procfs crate.
//!
//! The exporter does not use that crate: it is several times slower and drops a whole file for one
//! unknown line. It serves as a second implementation to compare with.

use std::{collections::BTreeMap, path::PathBuf};

use procfs::{FromRead, process::MountInfos};
use strata_exporter::exposition::Format;

/// Captured machines; the synthetic one has unusual lines that procfs rejects.
const CAPTURED: [&str; 2] = ["vm-v1", "vm-v2"];

/// Series of a machine and their values.
async fn series(machine: &str) -> BTreeMap<String, f64> {
    let body = crate::support::fixture_exposition(machine, Format::Text).await;
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn file(machine: &str, path: &str) -> PathBuf {
    crate::support::fixture(machine).join("proc").join(path)
}

#[expect(clippy::cast_precision_loss, reason = "samples are floats")]
fn assert_value(series: &BTreeMap<String, f64>, name: &str, expected: u64) {
    let value = series.get(name).copied();
    assert_eq!(value, Some(expected as f64), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn meminfo_matches_procfs() {
    for machine in CAPTURED {
        let series = series(machine).await;
        let memory = procfs::Meminfo::from_file(file(machine, "meminfo")).unwrap();
        for (name, bytes) in [
            ("node_memory_MemTotal_bytes", Some(memory.mem_total)),
            ("node_memory_MemFree_bytes", Some(memory.mem_free)),
            ("node_memory_MemAvailable_bytes", memory.mem_available),
            ("node_memory_Cached_bytes", Some(memory.cached)),
            ("node_memory_Active_anon_bytes", memory.active_anon),
            ("node_memory_Slab_bytes", Some(memory.slab)),
            ("node_memory_Committed_AS_bytes", Some(memory.committed_as)),
            ("node_memory_DirectMap4k_bytes", memory.direct_map_4k),
        ] {
            assert_value(&series, name, bytes.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn diskstats_match_procfs() {
    for machine in CAPTURED {
        let series = series(machine).await;
        let disks = procfs::DiskStats::from_file(file(machine, "diskstats")).unwrap();
        let mut compared = 0;
        for disk in disks.0 {
            let series_of = |name: &str| format!("node_disk_{name}{{device=\"{}\"}}", disk.name);
            if !series.contains_key(&series_of("io_now")) {
                continue; // excluded by the filter
            }
            compared += 1;
            assert_value(&series, &series_of("reads_completed_total"), disk.reads);
            assert_value(
                &series,
                &series_of("read_bytes_total"),
                disk.sectors_read * 512,
            );
            assert_value(
                &series,
                &series_of("writes_merged_total"),
                disk.writes_merged,
            );
            let written = disk.sectors_written * 512;
            assert_value(&series, &series_of("written_bytes_total"), written);
            let flushes = disk.flushes.unwrap();
            assert_value(&series, &series_of("flush_requests_total"), flushes);
        }
        assert!(compared > 0, "{machine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vmstat_fields_match_procfs() {
    for machine in CAPTURED {
        let series = series(machine).await;
        let all = procfs::VmStat::from_file(file(machine, "vmstat")).unwrap();
        let ours = series.iter().filter_map(|(name, value)| {
            let field = name.strip_prefix("node_vmstat_")?;
            Some((field, *value))
        });
        let ours: Vec<_> = ours.collect();
        assert!(ours.len() > 5, "{machine}: {ours:?}");
        for (field, value) in ours {
            #[expect(clippy::cast_precision_loss, reason = "samples are floats")]
            let expected = all.0.get(field).map(|value| *value as f64);
            assert_eq!(Some(value), expected, "{field}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_counts_and_boot_time_match_procfs() {
    let ticks = procfs::ExplicitSystemInfo {
        boot_time_secs: 0,
        ticks_per_second: 100,
        page_size: 4096,
        is_little_endian: true,
    };
    for machine in CAPTURED {
        let series = series(machine).await;
        let file = std::fs::File::open(file(machine, "stat")).unwrap();
        let stat: procfs::KernelStats =
            procfs::FromReadSI::from_read(std::io::BufReader::new(file), &ticks).unwrap();
        assert_value(&series, "node_boot_time_seconds", stat.btime);
        assert_value(&series, "node_context_switches_total", stat.ctxt);
        assert_value(&series, "node_forks_total", stat.processes);
        let running = stat.procs_running.unwrap().into();
        assert_value(&series, "node_procs_running", running);
    }
}

#[test]
fn mounts_match_procfs() {
    use strata_exporter::sources::{Roots, Snapshot};
    for machine in CAPTURED {
        let path = file(machine, "1/mountinfo");
        let theirs: Vec<_> = MountInfos::from_file(&path)
            .unwrap()
            .0
            .into_iter()
            .map(|mount| {
                (
                    u64::try_from(mount.mnt_id).unwrap(),
                    mount.mount_point,
                    mount.fs_type,
                )
            })
            .collect();
        let root = crate::support::fixture(machine);
        let roots = Roots {
            procfs: root.join("proc"),
            sysfs: root.join("sys"),
            rootfs: root.join("root"),
            udev_data: root.join("udev"),
        };
        let snapshot = Snapshot::new(roots.into(), std::time::Instant::now());
        let mounts = snapshot.mounts().unwrap();
        let ours: Vec<_> = mounts
            .mounts()
            .map(|mount| mount.unwrap())
            .map(|mount| {
                (
                    mount.id,
                    mount.mount_point.clone(),
                    mount.fs_type.clone().into_owned(),
                )
            })
            .collect();
        assert!(!ours.is_empty());
        assert_eq!(ours, theirs);
    }
}
