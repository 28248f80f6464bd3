//! Disk statistics from `/proc/diskstats`, documented in the kernel's
//! `Documentation/admin-guide/iostats.rst`.
//!
//! The number of columns depends on the kernel: 14 at first, 18 with discards (4.18), 20 with
//! flushes (5.5), and before 2.6.25 only 7 for partitions, with other meanings. A sector is 512
//! bytes here, whatever the device's own sector size is.

use super::{Snapshot, Text, text::Fields};
use crate::error::Result;

/// Regular expression for devices that are not whole disks: RAM disks, loop devices, floppies and
/// partitions.
pub const IGNORED_DEVICES: &str = r"^(z?ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$";

/// Maximum number of known columns; further ones are ignored.
const MAX_COLUMNS: usize = 17;
/// Minimum number of columns in every kernel.
const MIN_COLUMNS: usize = 11;
/// Number of columns of a partition before 2.6.25.
const OLD_PARTITION_COLUMNS: usize = 4;

/// One line: the counters of a device.
#[derive(Debug)]
pub struct DiskCounters<'a> {
    /// Major number.
    pub major: &'a str,
    /// Minor number.
    pub minor: &'a str,
    /// Device name, which may contain a slash: `cciss/c0d0`.
    pub name: &'a str,
    /// The columns after the name: 11 to 17, or the 4 of a partition before 2.6.25.
    pub columns: Vec<u64>,
}

impl<'a> DiskCounters<'a> {
    /// Parses one line.
    pub fn parse(mut line: Fields<'a>) -> Result<Self> {
        let (major, minor) = (line.word("major number")?, line.word("minor number")?);
        // Both become part of a file name.
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
    /// Returns `/proc/diskstats`, one device per line, to be parsed with [`DiskCounters::read`].
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
    fn number_of_columns_depends_on_the_kernel() {
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
