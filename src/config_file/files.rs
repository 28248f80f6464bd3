//! Reads configuration files and the files they refer to, with limits, and detects changes.
//!
//! Only regular files are read, up to a megabyte: a FIFO, a device or a log file in place of the
//! configuration neither blocks nor fills the memory.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{MAX_SIZE, too_large};

/// State of a file at the time it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileVersion {
    pub path: PathBuf,
    /// `None` if stat failed.
    stamp: Option<FileStamp>,
}

/// Attributes that change when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    fn from_metadata(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl FileVersion {
    /// Returns the state of a file, following links.
    pub(crate) fn stat(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            stamp: fs::metadata(path)
                .ok()
                .as_ref()
                .map(FileStamp::from_metadata),
        }
    }

    /// Whether the file is unchanged.
    pub(crate) fn is_current(&self) -> bool {
        Self::stat(&self.path) == *self
    }
}

/// Reads files and records their state.
#[derive(Debug, Default)]
pub(crate) struct ConfigReader {
    pub versions: Vec<FileVersion>,
}

impl ConfigReader {
    /// Reads a file. The error does not include the path.
    pub(crate) fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        // Don't wait for a writer of a FIFO.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .and_then(|file| Ok((file.metadata()?, file)));
        let stamp = opened
            .as_ref()
            .ok()
            .map(|(file, _)| FileStamp::from_metadata(file));
        let path = path.to_owned();
        self.versions.push(FileVersion { path, stamp });
        let (metadata, file) = opened.map_err(|error| error.to_string())?;
        read_bounded(&metadata, &file)
    }
}

fn read_bounded(metadata: &Metadata, file: &File) -> Result<Vec<u8>, String> {
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_SIZE + 1).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(too_large());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Result<Vec<u8>, String> {
        ConfigReader::default().read(Path::new(path))
    }

    #[test]
    fn reads_only_regular_files_of_bounded_size() {
        let dir = std::env::temp_dir().join(format!("strata-files-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        let fifo = path("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let large = path("large");
        File::create(&large).unwrap().set_len(1 << 40).unwrap();
        let small = path("small");
        fs::write(&small, "x").unwrap();
        assert_eq!(read(&small), Ok(b"x".to_vec()));
        for (path, expected) in [
            (fifo.as_str(), "is not a regular file"),
            (&large, "is larger than 1 MiB"),
            (&path(""), "is not a regular file"),
            ("/dev/zero", "is not a regular file"),
            (&path("missing"), "No such file or directory (os error 2)"),
        ] {
            assert_eq!(read(path), Err(expected.to_owned()), "{path}");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn detects_rewritten_and_replaced_files() {
        let path = std::env::temp_dir().join(format!("strata-versions-{}", std::process::id()));
        let mut reader = ConfigReader::default();
        assert!(reader.read(&path).is_err());
        assert!(reader.versions[0].is_current());
        fs::write(&path, "a").unwrap();
        assert!(!reader.versions[0].is_current());
        reader.read(&path).unwrap();
        assert!(reader.versions[1].is_current());
        let other = path.with_extension("new");
        fs::write(&other, "b").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(!reader.versions[1].is_current());
        fs::remove_file(&path).unwrap();
        assert!(!reader.versions[1].is_current());
    }
}
