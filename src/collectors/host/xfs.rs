//! What XFS file systems did, from `/sys/fs/xfs/DEVICE/stats/stats`; the lines and their
//! numbers are those of the kernel's `fs/xfs/xfs_stats.c`.
//!
//! The numbers are counted in 32 bits and step back to 0 when these are full.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::Families,
    metric::{Desc, Metric},
    metrics,
    sources::{Fields, Snapshot},
};

metrics! {
    /// Extents that were allocated.
    EXTENTS_ALLOCATED: Counter = "node_xfs_extent_allocation_extents_allocated_total" ["device"];
    /// Blocks that were allocated.
    BLOCKS_ALLOCATED: Counter = "node_xfs_extent_allocation_blocks_allocated_total" ["device"];
    /// Extents that were freed.
    EXTENTS_FREED: Counter = "node_xfs_extent_allocation_extents_freed_total" ["device"];
    /// Blocks that were freed.
    BLOCKS_FREED: Counter = "node_xfs_extent_allocation_blocks_freed_total" ["device"];
    /// Lookups in the trees of free space.
    ALLOCATION_LOOKUPS: Counter = "node_xfs_allocation_btree_lookups_total" ["device"];
    /// Comparisons made in the trees of free space.
    ALLOCATION_COMPARES: Counter = "node_xfs_allocation_btree_compares_total" ["device"];
    /// Records put into the trees of free space.
    ALLOCATION_INSERTED: Counter = "node_xfs_allocation_btree_records_inserted_total" ["device"];
    /// Records taken out of the trees of free space.
    ALLOCATION_DELETED: Counter = "node_xfs_allocation_btree_records_deleted_total" ["device"];
    /// Times that the place of a file's block was asked for in order to read.
    MAPPING_READS: Counter = "node_xfs_block_mapping_reads_total" ["device"];
    /// Times that the place of a file's block was asked for in order to write.
    MAPPING_WRITES: Counter = "node_xfs_block_mapping_writes_total" ["device"];
    /// Times that blocks were taken from a file.
    MAPPING_UNMAPS: Counter = "node_xfs_block_mapping_unmaps_total" ["device"];
    /// Extents put into files' lists of extents.
    LIST_INSERTIONS: Counter = "node_xfs_block_mapping_extent_list_insertions_total" ["device"];
    /// Extents taken out of files' lists of extents.
    LIST_DELETIONS: Counter = "node_xfs_block_mapping_extent_list_deletions_total" ["device"];
    /// Lookups in files' lists of extents.
    LIST_LOOKUPS: Counter = "node_xfs_block_mapping_extent_list_lookups_total" ["device"];
    /// Comparisons made in files' lists of extents.
    LIST_COMPARES: Counter = "node_xfs_block_mapping_extent_list_compares_total" ["device"];
    /// Lookups in the trees that say where files' blocks are.
    MAP_LOOKUPS: Counter = "node_xfs_block_map_btree_lookups_total" ["device"];
    /// Comparisons made in the trees that say where files' blocks are.
    MAP_COMPARES: Counter = "node_xfs_block_map_btree_compares_total" ["device"];
    /// Records put into the trees that say where files' blocks are.
    MAP_INSERTED: Counter = "node_xfs_block_map_btree_records_inserted_total" ["device"];
    /// Records taken out of the trees that say where files' blocks are.
    MAP_DELETED: Counter = "node_xfs_block_map_btree_records_deleted_total" ["device"];
    /// Names looked up in directories on the disk, for want of them in the kernel's cache.
    DIRECTORY_LOOKUPS: Counter = "node_xfs_directory_operation_lookup_total" ["device"];
    /// Names put into directories.
    DIRECTORY_CREATES: Counter = "node_xfs_directory_operation_create_total" ["device"];
    /// Names taken out of directories.
    DIRECTORY_REMOVES: Counter = "node_xfs_directory_operation_remove_total" ["device"];
    /// Times that a directory was listed.
    DIRECTORY_GETDENTS: Counter = "node_xfs_directory_operation_getdents_total" ["device"];
    /// Inodes looked for in XFS' cache.
    INODE_ATTEMPTS: Counter = "node_xfs_inode_operation_attempts_total" ["device"];
    /// Inodes found in XFS' cache.
    INODE_FOUND: Counter = "node_xfs_inode_operation_found_total" ["device"];
    /// Inodes found in XFS' cache that were about to leave it.
    INODE_RECYCLED: Counter = "node_xfs_inode_operation_recycled_total" ["device"];
    /// Inodes that were not in XFS' cache and had to be read.
    INODE_MISSED: Counter = "node_xfs_inode_operation_missed_total" ["device"];
    /// Inodes that were not in XFS' cache, and were when they had been read, because somebody else had read them, too.
    INODE_DUPLICATES: Counter = "node_xfs_inode_operation_duplicates_total" ["device"];
    /// Inodes that left XFS' cache to make room.
    INODE_RECLAIMS: Counter = "node_xfs_inode_operation_reclaims_total" ["device"];
    /// Times that the attributes of an inode were changed.
    INODE_ATTRIBUTE_CHANGES: Counter = "node_xfs_inode_operation_attribute_changes_total" ["device"];
    /// Calls of write(2) and the like.
    WRITE_CALLS: Counter = "node_xfs_write_calls_total" ["device"];
    /// Calls of read(2) and the like.
    READ_CALLS: Counter = "node_xfs_read_calls_total" ["device"];
    /// Inodes in memory; goes down, too, whatever its type says.
    VNODE_ACTIVE: Counter = "node_xfs_vnode_active_total" ["device"];
    /// Times that an inode got its place in memory.
    VNODE_ALLOCATE: Counter = "node_xfs_vnode_allocate_total" ["device"];
    /// Times that an inode in memory was taken into use.
    VNODE_GET: Counter = "node_xfs_vnode_get_total" ["device"];
    /// Times that somebody took hold of an inode in memory.
    VNODE_HOLD: Counter = "node_xfs_vnode_hold_total" ["device"];
    /// Times that somebody let go of an inode in memory.
    VNODE_RELEASE: Counter = "node_xfs_vnode_release_total" ["device"];
    /// Times that an inode's place in memory was taken back.
    VNODE_RECLAIM: Counter = "node_xfs_vnode_reclaim_total" ["device"];
    /// Times that an inode went out of use in memory.
    VNODE_REMOVE: Counter = "node_xfs_vnode_remove_total" ["device"];
}

/// The metrics of the numbers after the first word of each line.
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

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Xfs;

impl Collector for Xfs {
    const NAME: &'static str = "xfs";
    const ABOUT: &'static str = "what XFS file systems do";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for device in snapshot.sys_dirs("fs/xfs")? {
            // `stats` and `debug` are not devices, and have no such file.
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

/// Adds the numbers of one line, all or none of them.
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
