//! Reader and writer of ttar, the text archive format of the fixtures in `prometheus/procfs`.
//!
//! An archive is a list of entries, each ended by a separator line that starts with `#`:
//!
//! ```text
//! Path: proc/loadavg
//! Lines: 1
//! 0.02 0.04 0.05 1/497 11947
//! Mode: 644
//! # ttar - - -
//! Directory: sys/empty
//! Mode: 755
//! # ttar - - -
//! Path: sys/class/net/eth0
//! SymlinkTo: ../../devices/virtual/net/eth0
//! # ttar - - -
//! ```
//!
//! In file contents a NUL byte is written as `NULLBYTE`, and a last line without a newline ends in
//! `EOF`. A literal `NULLBYTE`, and a literal `EOF` at the end of a line, are escaped by a
//! backslash. All other bytes are written unchanged, even if they are not UTF-8.
//!
//! A directory has an entry only if it is empty: unpacking creates the parents of each entry.

mod archive;
mod error;
mod format;
mod unpacked;

pub use archive::{Archive, Content, Entry};
pub use error::{Error, Result};
pub use unpacked::{archive_files, unpacked};
