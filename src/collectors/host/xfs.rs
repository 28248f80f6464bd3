//! XFS runtime statistics, from `/sys/fs/xfs/DEVICE/stats/stats`; the lines and columns are
//! documented only by the kernel's `fs/xfs/xfs_stats.c`.
//!
//! The counters have 32 bits and wrap to 0.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::{Desc, Metric},
    metrics,
    sources::{Fields, Snapshot},
};

metrics! {
    /// Number of extents allocated for a filesystem.
    EXTENTS_ALLOCATED: Counter = "node_xfs_extent_allocation_extents_allocated_total" ["device"];
    /// Number of blocks allocated for a filesystem.
    BLOCKS_ALLOCATED: Counter = "node_xfs_extent_allocation_blocks_allocated_total" ["device"];
    /// Number of extents freed for a filesystem.
    EXTENTS_FREED: Counter = "node_xfs_extent_allocation_extents_freed_total" ["device"];
    /// Number of blocks freed for a filesystem.
    BLOCKS_FREED: Counter = "node_xfs_extent_allocation_blocks_freed_total" ["device"];
    /// Number of allocation B-tree lookups for a filesystem.
    ALLOCATION_LOOKUPS: Counter = "node_xfs_allocation_btree_lookups_total" ["device"];
    /// Number of allocation B-tree compares for a filesystem.
    ALLOCATION_COMPARES: Counter = "node_xfs_allocation_btree_compares_total" ["device"];
    /// Number of allocation B-tree records inserted for a filesystem.
    ALLOCATION_INSERTED: Counter = "node_xfs_allocation_btree_records_inserted_total" ["device"];
    /// Number of allocation B-tree records deleted for a filesystem.
    ALLOCATION_DELETED: Counter = "node_xfs_allocation_btree_records_deleted_total" ["device"];
    /// Number of block map operations for reads of a filesystem.
    MAPPING_READS: Counter = "node_xfs_block_mapping_reads_total" ["device"];
    /// Number of block map operations for writes of a filesystem.
    MAPPING_WRITES: Counter = "node_xfs_block_mapping_writes_total" ["device"];
    /// Number of block unmaps (deletes) for a filesystem.
    MAPPING_UNMAPS: Counter = "node_xfs_block_mapping_unmaps_total" ["device"];
    /// Number of extent list insertions for a filesystem.
    LIST_INSERTIONS: Counter = "node_xfs_block_mapping_extent_list_insertions_total" ["device"];
    /// Number of extent list deletions for a filesystem.
    LIST_DELETIONS: Counter = "node_xfs_block_mapping_extent_list_deletions_total" ["device"];
    /// Number of extent list lookups for a filesystem.
    LIST_LOOKUPS: Counter = "node_xfs_block_mapping_extent_list_lookups_total" ["device"];
    /// Number of extent list compares for a filesystem.
    LIST_COMPARES: Counter = "node_xfs_block_mapping_extent_list_compares_total" ["device"];
    /// Number of block map B-tree lookups for a filesystem.
    MAP_LOOKUPS: Counter = "node_xfs_block_map_btree_lookups_total" ["device"];
    /// Number of block map B-tree compares for a filesystem.
    MAP_COMPARES: Counter = "node_xfs_block_map_btree_compares_total" ["device"];
    /// Number of block map B-tree records inserted for a filesystem.
    MAP_INSERTED: Counter = "node_xfs_block_map_btree_records_inserted_total" ["device"];
    /// Number of block map B-tree records deleted for a filesystem.
    MAP_DELETED: Counter = "node_xfs_block_map_btree_records_deleted_total" ["device"];
    /// Number of file name directory lookups which missed the operating system's dentry cache.
    DIRECTORY_LOOKUPS: Counter = "node_xfs_directory_operation_lookup_total" ["device"];
    /// Number of times a new directory entry was created for a filesystem.
    DIRECTORY_CREATES: Counter = "node_xfs_directory_operation_create_total" ["device"];
    /// Number of times an existing directory entry was removed for a filesystem.
    DIRECTORY_REMOVES: Counter = "node_xfs_directory_operation_remove_total" ["device"];
    /// Number of times the directory getdents operation was performed for a filesystem.
    DIRECTORY_GETDENTS: Counter = "node_xfs_directory_operation_getdents_total" ["device"];
    /// Number of times the OS looked for an XFS inode in the inode cache.
    INODE_ATTEMPTS: Counter = "node_xfs_inode_operation_attempts_total" ["device"];
    /// Number of times the OS looked for and found an XFS inode in the inode cache.
    INODE_FOUND: Counter = "node_xfs_inode_operation_found_total" ["device"];
    /// Number of times an XFS inode was found in the cache but was about to be reclaimed.
    INODE_RECYCLED: Counter = "node_xfs_inode_operation_recycled_total" ["device"];
    /// Number of times the OS looked for an XFS inode in the cache but did not find it.
    INODE_MISSED: Counter = "node_xfs_inode_operation_missed_total" ["device"];
    /// Number of times an inode missing from the cache was added meanwhile by another process.
    INODE_DUPLICATES: Counter = "node_xfs_inode_operation_duplicates_total" ["device"];
    /// Number of times the OS reclaimed an XFS inode from the inode cache to free memory.
    INODE_RECLAIMS: Counter = "node_xfs_inode_operation_reclaims_total" ["device"];
    /// Number of times the OS explicitly changed the attributes of an XFS inode.
    INODE_ATTRIBUTE_CHANGES: Counter = "node_xfs_inode_operation_attribute_changes_total" ["device"];
    /// Number of write(2) system calls made to files in a filesystem.
    WRITE_CALLS: Counter = "node_xfs_write_calls_total" ["device"];
    /// Number of read(2) system calls made to files in a filesystem.
    READ_CALLS: Counter = "node_xfs_read_calls_total" ["device"];
    /// In-core inodes of a filesystem; a gauge despite its type.
    VNODE_ACTIVE: Counter = "node_xfs_vnode_active_total" ["device"];
    /// vn_alloc calls (in-core inodes allocated).
    VNODE_ALLOCATE: Counter = "node_xfs_vnode_allocate_total" ["device"];
    /// vn_get calls (in-core inodes taken into use).
    VNODE_GET: Counter = "node_xfs_vnode_get_total" ["device"];
    /// vn_hold calls (references taken on in-core inodes).
    VNODE_HOLD: Counter = "node_xfs_vnode_hold_total" ["device"];
    /// vn_rele calls (references to in-core inodes released).
    VNODE_RELEASE: Counter = "node_xfs_vnode_release_total" ["device"];
    /// vn_reclaim calls (in-core inodes reclaimed).
    VNODE_RECLAIM: Counter = "node_xfs_vnode_reclaim_total" ["device"];
    /// vn_remove calls (in-core inodes no longer in use).
    VNODE_REMOVE: Counter = "node_xfs_vnode_remove_total" ["device"];
}

/// Metrics of the columns after the first word of each line.
const LINES: [(&str, &[&Metric<1>]); 8] = [
    (
        "extent_alloc",
        &[
            &EXTENTS_ALLOCATED,
            &BLOCKS_ALLOCATED,
            &EXTENTS_FREED,
            &BLOCKS_FREED,
        ],
    ),
    (
        "abt",
        &[
            &ALLOCATION_LOOKUPS,
            &ALLOCATION_COMPARES,
            &ALLOCATION_INSERTED,
            &ALLOCATION_DELETED,
        ],
    ),
    (
        "blk_map",
        &[
            &MAPPING_READS,
            &MAPPING_WRITES,
            &MAPPING_UNMAPS,
            &LIST_INSERTIONS,
            &LIST_DELETIONS,
            &LIST_LOOKUPS,
            &LIST_COMPARES,
        ],
    ),
    (
        "bmbt",
        &[&MAP_LOOKUPS, &MAP_COMPARES, &MAP_INSERTED, &MAP_DELETED],
    ),
    (
        "dir",
        &[
            &DIRECTORY_LOOKUPS,
            &DIRECTORY_CREATES,
            &DIRECTORY_REMOVES,
            &DIRECTORY_GETDENTS,
        ],
    ),
    (
        "ig",
        &[
            &INODE_ATTEMPTS,
            &INODE_FOUND,
            &INODE_RECYCLED,
            &INODE_MISSED,
            &INODE_DUPLICATES,
            &INODE_RECLAIMS,
            &INODE_ATTRIBUTE_CHANGES,
        ],
    ),
    ("rw", &[&WRITE_CALLS, &READ_CALLS]),
    (
        "vnodes",
        &[
            &VNODE_ACTIVE,
            &VNODE_ALLOCATE,
            &VNODE_GET,
            &VNODE_HOLD,
            &VNODE_RELEASE,
            &VNODE_RECLAIM,
            &VNODE_REMOVE,
        ],
    ),
];

#[derive(Debug)]
pub(super) struct Xfs;

impl Collector for Xfs {
    const NAME: &'static str = "xfs";
    const ABOUT: &'static str = "XFS filesystem statistics";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for device in snapshot.sys_dirs("fs/xfs")? {
            // `stats` and `debug` are not devices, and do not have this file.
            let Some(stats) = out.ok_or_skip(device.read("stats/stats")) else {
                continue;
            };
            let device = device.name();
            for line in stats.lines() {
                let result = add_line(&mut out, &device, line);
                out.ok_or_skip(result);
            }
        }
        Ok(out)
    }
}

/// Adds the columns of a line: all of them, or none if one is malformed.
fn add_line(out: &mut Families, device: &str, mut line: Fields<'_>) -> Result<()> {
    let name = line.next_word();
    let Some((_, metrics)) = LINES.iter().find(|(line, _)| name == Some(line)) else {
        return Ok(());
    };
    let numbers = metrics.iter().map(|_| line.parse::<u64>("number"));
    let numbers = numbers.collect::<Result<Vec<_>>>()?;
    for (metric, number) in metrics.iter().zip(numbers) {
        out.add(metric, [device], number);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{collectors::testing::MachineFixture, sources::Text};

    #[test]
    fn succeeds_without_xfs() {
        let machine = MachineFixture::new("no-xfs");
        let families = Xfs.collect(&machine.snapshot()).unwrap();
        assert!(families.is_empty());
    }

    #[test]
    fn malformed_or_unknown_line_is_skipped() {
        let text = Text::from("rw 28 7 99\nxpc 1 2\ndir 1 2 x 4\nbmbt 1 2\nextent_alloc 1 2 3 4\n");
        let mut out = Families::default();
        for line in text.lines() {
            let added = add_line(&mut out, "sda1", line);
            out.ok_or_skip(added);
        }
        assert_eq!(
            out.lines(),
            [
                r#"node_xfs_write_calls_total{device="sda1"} 28"#,
                r#"node_xfs_read_calls_total{device="sda1"} 7"#,
                r#"node_xfs_extent_allocation_extents_allocated_total{device="sda1"} 1"#,
                r#"node_xfs_extent_allocation_blocks_allocated_total{device="sda1"} 2"#,
                r#"node_xfs_extent_allocation_extents_freed_total{device="sda1"} 3"#,
                r#"node_xfs_extent_allocation_blocks_freed_total{device="sda1"} 4"#,
            ]
        );
        assert_eq!(out.errors().0, 2);
    }
}
