//! What disks did, from `/proc/diskstats`, documented in the kernel's
//! `Documentation/admin-guide/iostats.rst`.
//!
//! How many columns there are depends on the kernel: 14 at first, 18 with discards
//! (4.18), 20 with flushes (5.5), and before 2.6.25 only 7 for partitions, with other
//! meanings. A sector is 512 bytes here, whatever the device's own is.

use super::{Snapshot, Text, text::Fields};
use crate::error::Result;

/// What is no whole disk: RAM disks, loop devices, floppies, partitions. A regular
/// expression.
pub const IGNORED_DEVICES: &str = r"^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$";

/// More columns than these mean nothing to us.
const MAX_COLUMNS: usize = 17;
/// How many every kernel has.
const MIN_COLUMNS: usize = 11;
/// How many partitions had before 2.6.25.
const OLD_PARTITION_COLUMNS: usize = 4;

/// One line: a device.
#[derive(Debug)]
pub struct DiskCounters<'a> {
    /// Its major number.
    pub major: &'a str,
    /// Its minor number.
    pub minor: &'a str,
    /// Its name, which may have a slash in it: `cciss/c0d0`.
    pub name: &'a str,
    /// What stands behind the name: 11 to 17 columns, or the 4 of a partition before
    /// 2.6.25.
    pub columns: Vec<u64>,
}

impl<'a> DiskCounters<'a> {
    /// Reads one line.
    pub fn parse(mut line: Fields<'a>) -> Result<Self> {
        let (major, minor) = (line.word("major number")?, line.word("minor number")?);
        // Both become part of a file's name.
        line.parse_word::<u32>(major, "major number")?;
        line.parse_word::<u32>(minor, "minor number")?;
        let name = line.word("device")?;
        let mut columns = Vec::with_capacity(MAX_COLUMNS);
        while columns.len() < MAX_COLUMNS
            && let Some(column) = line.parse_opt("column")?
        {
            columns.push(column);
        }
        if columns.len() < MIN_COLUMNS && columns.len() != OLD_PARTITION_COLUMNS {
            return Err(line.error("columns are missing"));
        }
        Ok(Self {
            major,
            minor,
            name,
            columns,
        })
    }
}

impl Snapshot {
    /// `/proc/diskstats`, a line for each device, to be read with [`DiskCounters::read`].
    pub fn diskstats(&self) -> Result<&Text> {
        self.diskstats.get_or_read(|| self.read_proc("diskstats"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<usize> {
        let text = Text::from(line);
        let disk = DiskCounters::parse(text.line().unwrap())?;
        Ok(disk.columns.len())
    }

    #[test]
    fn kernels_differ_in_how_many_columns_they_have() {
        let line = |columns: u32| {
            let columns = (1..=columns).map(|column| format!(" {column}"));
            format!("8 0 sda{}\n", columns.collect::<String>())
        };
        for (columns, read_columns) in [(4, 4), (11, 11), (15, 15), (17, 17), (19, 17)] {
            assert_eq!(read(&line(columns)).unwrap(), read_columns);
        }
        for columns in [0, 3, 5, 10] {
            let error = read(&line(columns)).unwrap_err();
            assert_eq!(error.to_string(), "test:1: columns are missing");
        }
        for bad in [
            "../8 0 sda 1 2 3 4\n",
            "8 x sda 1 2 3 4\n",
            "8 0 sda 1 2 x 4\n",
            "8 0\n",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
