//! Linux software RAID, from `/proc/mdstat` and `/sys/block/md*/md`, documented in the kernel's
//! `Documentation/admin-guide/md.rst` and `drivers/md/md.c`.
//!
//! `mdstat` is meant for humans: an array is an unindented line followed by indented ones. The
//! content of the indented lines depends on the RAID level, on the kernel, and on the operation
//! in progress.

use crate::{
    collector::{Collector, NoFlags},
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{Dir, Fields, Snapshot, Text},
};

metrics! {
    /// Whether the array is in this state; not active while it is rebuilt, checked or reshaped.
    STATE: Gauge = "node_md_state" ["device", "state"];
    /// Number of disks of the array by state.
    DISKS: Gauge = "node_md_disks" ["device", "state"];
    /// Total number of disks required by the array, without spares; 0 if it is not running.
    DISKS_REQUIRED: Gauge = "node_md_disks_required" ["device"];
    /// Total number of 1024-byte blocks on device.
    BLOCKS: Gauge = "node_md_blocks" ["device"];
    /// Number of 1024-byte blocks synced; per disk while the array is rebuilt or checked.
    BLOCKS_SYNCED: Gauge = "node_md_blocks_synced" ["device"];
    /// Number of raid disks on device, according to sysfs.
    RAID_DISKS: Gauge = "node_md_raid_disks" ["device"];
    /// Number of degraded disks on device; 0 also for levels without redundancy.
    DEGRADED: Gauge = "node_md_degraded" ["device"];
}

/// States that are exposed; an array is in at most one of them.
const STATES: [&str; 6] = [
    "active",
    "inactive",
    "recovering",
    "resync",
    "check",
    "reshaping",
];

#[derive(Debug)]
pub(super) struct Mdadm;

impl Collector for Mdadm {
    const NAME: &'static str = "mdadm";
    const ABOUT: &'static str = "software RAID arrays";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mdstat = snapshot.read_proc("mdstat")?;
        let mut out = Families::default();
        for array in parse_arrays(&mdstat) {
            if let Some(array) = out.ok_or_skip(array) {
                add_array(&mut out, &array);
            }
        }
        if let Some(block) = out.ok_or_skip(snapshot.sys_dir("block")) {
            for name in block.names()? {
                let name = name.to_string_lossy();
                if name.starts_with("md")
                    && let Some(array) = out.ok_or_skip(block.dir(format!("{name}/md")))
                {
                    add_sysfs(&mut out, &name, &array);
                }
            }
        }
        Ok(out)
    }
}

fn add_array(out: &mut Families, array: &Array<'_>) {
    let name = array.name;
    let state = array.sync.as_ref().map_or(array.state, |sync| sync.state);
    for state_name in STATES {
        out.add(&STATE, [name, state_name], state_name == state);
    }
    out.add(&DISKS, [name, "failed"], array.failed);
    out.add(&DISKS, [name, "spare"], array.spare);
    if let Some((required, active)) = array.disks {
        out.add(&DISKS, [name, "active"], active);
        out.add(&DISKS_REQUIRED, [name], required);
    }
    if let Some(blocks) = array.blocks {
        out.add(&BLOCKS, [name], blocks);
        let synced = array.sync.as_ref().map_or(Some(blocks), |sync| sync.blocks);
        if let Some(synced) = synced {
            out.add(&BLOCKS_SYNCED, [name], synced);
        }
    }
}

fn add_sysfs(out: &mut Families, name: &str, array: &Dir) {
    // `3 (2)` while the number is changing.
    let disks = array.read("raid_disks");
    let disks = disks.and_then(|disks| disks.line()?.parse::<u64>("raid_disks"));
    if let Some(disks) = out.ok_or_skip(disks) {
        out.add(&RAID_DISKS, [name], disks);
    }
    let degraded = match array.read_number::<u64>("degraded") {
        Err(Error::NotFound(_)) => Ok(0),
        read => read,
    };
    if let Some(degraded) = out.ok_or_skip(degraded) {
        out.add(&DEGRADED, [name], degraded);
    }
}

/// An array as described in `mdstat`.
#[derive(Debug)]
struct Array<'a> {
    name: &'a str,
    /// `active`, `inactive` or `broken`.
    state: &'a str,
    /// Whether the array survives the loss of a disk.
    redundant: bool,
    members: u64,
    failed: u64,
    spare: u64,
    blocks: Option<u64>,
    /// Number of required disks and number of active disks.
    disks: Option<(u64, u64)>,
    sync: Option<SyncState>,
}

/// Operation in progress.
#[derive(Debug)]
struct SyncState {
    state: &'static str,
    /// Blocks processed so far, if known.
    blocks: Option<u64>,
}

/// Parses the arrays in the order of the file. A malformed array is an error of its own.
fn parse_arrays(mdstat: &Text) -> Vec<Result<Array<'_>>> {
    let mut arrays: Vec<Result<Array<'_>>> = Vec::new();
    for (raw, line) in mdstat.body().lines().zip(mdstat.lines()) {
        if raw.starts_with([' ', '\t']) {
            if let Some(last) = arrays.last_mut()
                && let Ok(array) = last
                && let Err(error) = array.parse_continuation(line)
            {
                *last = Err(error);
            }
        } else if !raw.is_empty()
            && !raw.starts_with("Personalities")
            && !raw.starts_with("unused devices")
            && !raw.starts_with("read_ahead")
        {
            arrays.push(Array::parse(line));
        }
    }
    for array in arrays.iter_mut().flatten() {
        array.finish();
    }
    arrays
}

impl<'a> Array<'a> {
    /// Parses `md0 : active (read-only) raid1 sdb1[1](F) sda1[0]`.
    fn parse(mut line: Fields<'a>) -> Result<Self> {
        let name = line.word("array")?;
        if line.word("colon")? != ":" {
            return Err(line.error("not an array"));
        }
        let mut array = Self {
            name,
            state: line.word("state")?,
            redundant: true,
            members: 0,
            failed: 0,
            spare: 0,
            blocks: None,
            disks: None,
            sync: None,
        };
        while let Some(word) = line.next_word() {
            match word {
                "raid0" | "linear" => array.redundant = false,
                disk if disk.contains('[') => {
                    array.members += 1;
                    array.failed += u64::from(disk.contains("(F)"));
                    array.spare += u64::from(disk.contains("(S)"));
                }
                _ => {}
            }
        }
        Ok(array)
    }

    /// Parses one of the indented lines.
    fn parse_continuation(&mut self, mut line: Fields<'a>) -> Result<()> {
        let rest = line.rest();
        match line.next_word() {
            None | Some("bitmap:") => {}
            Some(word) if line.clone().next_word() == Some("blocks") => {
                self.blocks = Some(line.parse_word(word, "blocks")?);
                self.disks = parse_disks(line)?;
            }
            Some(_) => {
                if let Some(sync) = parse_sync(rest, &line)? {
                    self.sync = Some(sync);
                }
            }
        }
        Ok(())
    }

    /// Fills in fields that depend on all lines.
    fn finish(&mut self) {
        if self.state == "inactive" {
            self.disks = Some((0, 0));
        } else if !self.redundant {
            let required = self.members.saturating_sub(self.spare);
            self.disks = Some((required, required.saturating_sub(self.failed)));
        }
    }
}

/// Parses the numbers in brackets in `super 1.2 level 5, 64k chunk, algorithm 2 [3/2] [U_U]`.
fn parse_disks(mut line: Fields<'_>) -> Result<Option<(u64, u64)>> {
    while let Some(word) = line.next_word() {
        let bracketed = word
            .strip_prefix('[')
            .and_then(|word| word.strip_suffix(']'));
        if let Some((required, active)) = bracketed.and_then(|word| word.split_once('/')) {
            let number = |word| line.parse_word(word, "number of disks");
            return Ok(Some((number(required)?, number(active)?)));
        }
    }
    Ok(None)
}

/// Parses `[=>...]  recovery = 16.1% (7861/48825) finish=61.5min speed=1109K/sec` or
/// `resync=DELAYED`; `None` for other lines.
fn parse_sync(rest: &str, line: &Fields<'_>) -> Result<Option<SyncState>> {
    let mut words = rest.split([' ', '\t', '=']).filter(|word| !word.is_empty());
    let state = words.find_map(|word| match word {
        "recovery" => Some("recovering"),
        "resync" => Some("resync"),
        "check" => Some("check"),
        "reshape" => Some("reshaping"),
        _ => None,
    });
    let Some(state) = state else { return Ok(None) };
    let mut blocks = None;
    for word in words {
        match word {
            "PENDING" | "DELAYED" => blocks = Some(0),
            // The operation runs on another host.
            "REMOTE" => {
                return Ok(Some(SyncState {
                    state,
                    blocks: None,
                }));
            }
            word => {
                let done = word.strip_prefix('(').and_then(|word| word.split_once('/'));
                if let Some((done, _)) = done {
                    blocks = Some(line.parse_word(done, "blocks")?);
                }
            }
        }
    }
    if blocks.is_none() {
        return Err(line.error(format_args!("missing progress of {state}")));
    }
    Ok(Some(SyncState { state, blocks }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mdstat: &str) -> (Vec<String>, usize) {
        let mut out = Families::default();
        for array in parse_arrays(&Text::from(mdstat)) {
            if let Some(array) = out.ok_or_skip(array) {
                add_array(&mut out, &array);
            }
        }
        (out.lines(), out.errors().0)
    }

    /// State, number of disks (active, failed, spare, required) and number of blocks.
    fn collected(mdstat: &str) -> String {
        let (lines, skipped) = lines(mdstat);
        assert_eq!(skipped, 0);
        let value = |series: &str| {
            let line = lines.iter().find_map(|line| line.strip_prefix(series));
            line.and_then(|line| line.rsplit(' ').next()).unwrap_or("-")
        };
        let state = STATES.iter().find(|state| {
            value(&format!(r#"node_md_state{{device="md0",state="{state}"}}"#)) == "1"
        });
        let disks = ["active", "failed", "spare"]
            .map(|state| value(&format!(r#"node_md_disks{{device="md0",state="{state}"}}"#)));
        format!(
            "{} {} of {}, {}/{}",
            state.unwrap_or(&"none"),
            disks.join(" "),
            value("node_md_disks_required"),
            value("node_md_blocks_synced"),
            value("node_md_blocks{"),
        )
    }

    #[test]
    fn parses_every_raid_level() {
        for (mdstat, expected) in [
            (
                "md0 : active raid1 sdb1[1] sda1[0]\n      523264 blocks [2/2] [UU]\n      \n",
                "active 2 0 0 of 2, 523264/523264",
            ),
            (
                "md0 : active (auto-read-only) raid5 sdc[3](S) sdb[1] sda[0](F)\n      77 blocks super 1.2 level 5, 64k chunk, algorithm 2 [3/1] [_U_]\n      bitmap: 0/1 pages [0KB], 65536KB chunk\n\n",
                "active 1 1 1 of 3, 77/77",
            ),
            (
                "md0 : active raid10 sda[0] sdb[1]\n      66 blocks super 1.2 512K chunks 2 near-copies [2/2] [UU]\n",
                "active 2 0 0 of 2, 66/66",
            ),
            (
                "md0 : active raid0 sda[0] sdb[1] sdc[2]\n      55 blocks 64k chunks\n      \n",
                "active 3 0 0 of 3, 55/55",
            ),
            (
                "md0 : broken linear sda[0] sdb[1](F)\n      44 blocks super 1.2 0k rounding\n",
                "none 1 1 0 of 2, 44/44",
            ),
            (
                "md0 : inactive sda[0](S) sdb[1](S)\n      33 blocks super external:imsm\n       \n",
                "inactive 0 0 2 of 0, 33/33",
            ),
            (
                "md0 : inactive\n      super external:ddf\n",
                "inactive 0 0 0 of 0, -/-",
            ),
            (
                "md0 : active faulty sda[0]\n      22 blocks nfaults=0\n",
                "active - 0 0 of -, 22/22",
            ),
        ] {
            assert_eq!(collected(mdstat), expected, "{mdstat}");
        }
    }

    #[test]
    fn busy_array_exposes_state_and_progress() {
        for (line, expected) in [
            (
                "[=>..]  recovery =  8.5% (16/195) finish=2min speed=9K/sec",
                "recovering 16",
            ),
            (
                "[=>..]  resync = 12.6% (17/195) finish=1min speed=9K/sec",
                "resync 17",
            ),
            (
                "[=>..]  check = 12.6% (18/195) finish=1min speed=9K/sec",
                "check 18",
            ),
            (
                "[=>..]  reshape = 12.6% (19/195) finish=1min speed=9K/sec",
                "reshaping 19",
            ),
            ("[>..] recovery=0.0% (0/195)", "recovering 0"),
            ("\tresync=PENDING", "resync 0"),
            ("\tresync=DELAYED", "resync 0"),
            ("\tresync=REMOTE", "resync -"),
        ] {
            let mdstat = format!(
                "md0 : active raid1 sda[0] sdb[1]\n      200 blocks [2/2] [UU]\n      {line}\n      bitmap: 1/2 pages, file: /check\n"
            );
            let (state, blocks) = expected.split_once(' ').unwrap();
            assert_eq!(
                collected(&mdstat),
                format!("{state} 2 0 0 of 2, {blocks}/200"),
                "{line}"
            );
        }
    }

    #[test]
    fn malformed_array_is_skipped() {
        let good = |name| format!("{name} : active raid1 sda[0]\n      8 blocks [1/1] [U]\n\n");
        for bad in [
            "md1 active\n",
            "md1 : active raid1 sda[0]\n      x blocks [1/1] [U]\n",
            "md1 : active raid1 sda[0]\n      8 blocks [x/1] [U]\n",
            "md1 : active raid1 sda[0]\n      8 blocks [1/1] [U]\n      [>..] resync = x%\n",
        ] {
            let mdstat = format!(
                "Personalities : [raid1]\n{}{bad}\n{}unused devices: <none>\n",
                good("md0"),
                good("md2")
            );
            let (lines, skipped) = lines(&mdstat);
            assert_eq!(skipped, 1, "{bad}");
            assert_eq!(lines.iter().filter(|line| line.contains("md0")).count(), 12);
            assert_eq!(lines.iter().filter(|line| line.contains("md2")).count(), 12);
            assert!(!lines.iter().any(|line| line.contains("md1")), "{bad}");
        }
    }
}
