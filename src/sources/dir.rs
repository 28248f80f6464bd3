//! Directories and the files in them: the one place that opens files.
//!
//! Files are opened below an open directory, which spares the kernel the walk from
//! the root (1.4 to 1.9 times faster over a sysfs tree than `std::fs::read`), and
//! never blocks on a FIFO that somebody put where a file should be.

use std::{
    cell::RefCell,
    ffi::{CStr, OsString},
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat},
    io::Errno,
};

use super::Text;
use crate::error::{Error, Result};

/// More than any file of the kernel's holds; what is larger is an error.
const MAX_FILE: usize = 32 << 20;
/// More than any directory of the kernel's holds; what is larger is an error.
const MAX_ENTRIES: usize = 1 << 20;
/// What is asked for at first. Files below `/proc/sys` make the kernel clear as
/// much memory as is asked for, and an attribute in sysfs is never larger.
const PAGE: usize = 4096;

/// What a file says that a person or a program of theirs wrote.
#[derive(Debug)]
pub struct UserFile {
    /// Which file it was.
    pub path: PathBuf,
    /// All its bytes, whatever they are.
    pub body: Vec<u8>,
    /// When it was last written, in seconds since 1970.
    pub modified: i64,
}

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::open_at(CWD, path, || path.to_owned())
    }

    fn open_at(at: BorrowedFd<'_>, name: &Path, path: impl Fn() -> PathBuf) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(at, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path() }),
            Err(errno) => Err(Error::io(path(), errno)),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last part of its path.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Opens a directory in this one.
    pub fn dir(&self, name: impl AsRef<Path>) -> Result<Self> {
        let name = name.as_ref();
        Self::open_at(self.fd.as_fd(), name, || self.path.join(name))
    }

    /// Reads a file in this directory.
    pub fn read(&self, name: impl AsRef<Path>) -> Result<Text> {
        let name = name.as_ref();
        read_at(self.fd.as_fd(), name, || self.path.join(name))
    }

    /// Hands over the bytes of a file in this directory, of which nothing is kept.
    pub(super) fn with_bytes<T>(
        &self,
        name: impl AsRef<Path>,
        parse: impl FnOnce(&[u8]) -> Result<T, &'static str>,
    ) -> Result<T> {
        let name = name.as_ref();
        match with_bytes(self.fd.as_fd(), name, parse) {
            Ok(Ok(made)) => Ok(made),
            Ok(Err(reason)) => Err(Error::Parse {
                path: self.path.join(name),
                line: 1,
                reason: reason.to_owned(),
            }),
            Err(errno) => Err(Error::io(self.path.join(name), errno)),
        }
    }

    /// Reads a file that holds one number.
    pub fn read_number<T: FromStr>(&self, name: impl AsRef<Path>) -> Result<T> {
        self.read(name)?.parse_number()
    }

    /// Reads a file that holds one word or sentence.
    pub fn read_trimmed(&self, name: impl AsRef<Path>) -> Result<String> {
        Ok(self.read(name)?.trimmed().to_owned())
    }

    /// The last part of what a symbolic link in this directory points to.
    pub fn read_link_name(&self, name: impl AsRef<Path>) -> Result<String> {
        let name = name.as_ref();
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map_err(|errno| Error::io(self.path.join(name), errno))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        let last = target.file_name().unwrap_or_default();
        Ok(last.to_string_lossy().into_owned())
    }

    /// Where something in this directory really is, all symbolic links followed.
    pub fn real_path(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::canonicalize(&path).map_err(|error| Error::io(path, error))
    }

    /// Reads a file that somebody put there for us, if it is one: no device, no FIFO,
    /// and no more than `max` bytes.
    pub fn read_user_file(&self, name: impl AsRef<Path>, max: usize) -> Result<UserFile> {
        let path = self.path.join(&name);
        let read = || -> io::Result<_> {
            // Asked before it is opened, because to open a device can set it off, and
            // once more of what was opened.
            regular_file_size(&rustix::fs::statat(
                &self.fd,
                name.as_ref(),
                AtFlags::empty(),
            )?)?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            let file = rustix::fs::openat(&self.fd, name.as_ref(), flags, Mode::empty())?;
            let size = regular_file_size(&rustix::fs::fstat(&file)?)?;
            if size > max as u64 {
                return Err(Errno::FBIG.into());
            }
            let mut body = Vec::new();
            let mut file = std::fs::File::from(file);
            (&mut file).take(max as u64 + 1).read_to_end(&mut body)?;
            if body.len() > max {
                return Err(Errno::FBIG.into());
            }
            // What is written while we read is newer than what we read.
            let modified = rustix::fs::fstat(&file)?.st_mtime;
            Ok((body, modified))
        };
        match read() {
            Ok((body, modified)) => Ok(UserFile {
                path,
                body,
                modified,
            }),
            Err(error) => Err(Error::io(path, error)),
        }
    }

    /// What is known about a file in this directory, following symbolic links.
    pub fn stat(&self, name: impl AsRef<Path>) -> Result<Stat> {
        let name = name.as_ref();
        rustix::fs::statat(&self.fd, name, AtFlags::empty())
            .map_err(|errno| Error::io(self.path.join(name), errno))
    }

    /// Whether there is something of this name.
    #[must_use]
    pub fn has(&self, name: impl AsRef<Path>) -> bool {
        self.stat(name).is_ok()
    }

    /// Whether it is a directory of a real procfs.
    pub(super) fn is_procfs(&self) -> bool {
        let magic = |it: rustix::fs::StatFs| it.f_type == rustix::fs::PROC_SUPER_MAGIC;
        rustix::fs::fstatfs(&self.fd).is_ok_and(magic)
    }

    /// The names of everything in this directory, sorted.
    pub fn names(&self) -> Result<Vec<OsString>> {
        self.list(|_| true)
    }

    /// The directories in this directory and the links to some, as in `/sys/class`,
    /// sorted by name.
    pub fn dirs(&self) -> Result<Vec<Self>> {
        let maybe = |kind| matches!(kind, FileType::Directory | FileType::Symlink);
        let names = self.list(|kind| maybe(kind) || kind == FileType::Unknown)?;
        // What vanished since, and links to files.
        Ok(names
            .iter()
            .filter_map(|name| self.dir(name).ok())
            .collect())
    }

    fn list(&self, wanted: impl Fn(FileType) -> bool) -> Result<Vec<OsString>> {
        let failed = |errno: Errno| Error::io(&self.path, errno);
        // Opened anew, because a directory's descriptor remembers how far it was read.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, c".", flags, Mode::empty()).map_err(failed)?;
        let mut buffer = Vec::with_capacity(PAGE);
        let mut entries = RawDir::new(fd, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            let name: &CStr = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") && wanted(entry.file_type()) {
                names.push(std::ffi::OsStr::from_bytes(name.to_bytes()).to_owned());
            }
            if names.len() > MAX_ENTRIES {
                return Err(failed(Errno::TOOBIG));
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// The size of a regular file.
fn regular_file_size(stat: &Stat) -> io::Result<u64> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        return Ok(stat.st_size.try_into().unwrap_or(0));
    }
    Err(io::Error::other("not a regular file"))
}

pub(super) fn read(path: &Path) -> Result<Text> {
    read_at(CWD, path, || path.to_owned())
}

/// Reads a file whose bytes matter as they are.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let read = with_bytes(CWD, path, <[u8]>::to_vec);
    read.map_err(|errno| Error::io(path, errno))
}

fn read_at(at: BorrowedFd<'_>, name: &Path, path: impl Fn() -> PathBuf) -> Result<Text> {
    let read = with_bytes(at, name, |bytes| Text::new(path(), bytes));
    read.map_err(|errno| Error::io(path(), errno))
}

fn with_bytes<T>(
    at: BorrowedFd<'_>,
    name: &Path,
    parse: impl FnOnce(&[u8]) -> T,
) -> Result<T, Errno> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let read =
            rustix::fs::openat(at, name, flags, Mode::empty()).and_then(|file| fill(buffer, &file));
        let read = read.map(|len| parse(&buffer[..len]));
        // What a rare large file needed is not held for ever.
        if buffer.len() > 64 * PAGE {
            *buffer = Vec::new();
        }
        read
    })
}

/// Reads a file from start to end; says how much it was.
fn fill(buffer: &mut Vec<u8>, file: &OwnedFd) -> Result<usize, Errno> {
    let mut len = 0;
    loop {
        if buffer.len() - len < PAGE {
            buffer.resize((buffer.len() * 2).max(2 * PAGE), 0);
        }
        // The first read asks for a page: see PAGE. Later ones for all there is room for.
        let end = if len == 0 { PAGE } else { buffer.len() };
        match rustix::io::read(file, &mut buffer[len..end]) {
            Ok(0) => return Ok(len),
            Ok(n) => len += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if len > MAX_FILE {
            return Err(Errno::FBIG);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("strata-dir-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_file_of_any_length_is_read_to_its_end() {
        let path = scratch("length");
        let dir = Dir::open(&path).unwrap();
        for len in [0, 1, PAGE - 1, PAGE, PAGE + 1, 200_000] {
            std::fs::write(path.join("file"), "x".repeat(len)).unwrap();
            assert_eq!(dir.read("file").unwrap().body().len(), len);
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let path = scratch("fifo");
        rustix::fs::mknodat(CWD, path.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let dir = Dir::open(&path).unwrap();
        assert_eq!(dir.read("fifo").unwrap().body(), "");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn of_what_users_put_there_only_files_of_a_sane_size_are_read() {
        let path = scratch("user");
        rustix::fs::mknodat(CWD, path.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        std::fs::create_dir_all(path.join("directory")).unwrap();
        std::os::unix::fs::symlink("loop", path.join("loop")).unwrap();
        std::fs::write(path.join("file"), [b'x', 0xff]).unwrap();
        std::os::unix::fs::symlink("file", path.join("link")).unwrap();
        let dir = Dir::open(&path).unwrap();
        for not_a_file in ["fifo", "directory"] {
            let error = dir.read_user_file(not_a_file, 9).unwrap_err().to_string();
            assert!(error.ends_with(": not a regular file"), "{error}");
        }
        assert!(dir.read_user_file("loop", 9).is_err());
        assert!(dir.read_user_file("gone", 9).unwrap_err().is_gone());
        let file = dir.read_user_file("link", 2).unwrap();
        assert_eq!(file.body, [b'x', 0xff]);
        assert!(file.modified > 1_700_000_000);
        assert!(dir.read_user_file("link", 1).is_err());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_directory_lists_names_in_order_and_only_directories_as_such() {
        let path = scratch("names");
        for name in ["b", "a"] {
            std::fs::create_dir_all(path.join(name)).unwrap();
        }
        std::fs::write(path.join("c"), "").unwrap();
        std::os::unix::fs::symlink("a", path.join("d")).unwrap();
        std::os::unix::fs::symlink("gone", path.join("e")).unwrap();
        let dir = Dir::open(&path).unwrap();
        assert_eq!(dir.names().unwrap(), ["a", "b", "c", "d", "e"]);
        let dirs: Vec<_> = dir.dirs().unwrap().iter().map(Dir::name).collect();
        assert_eq!(dirs, ["a", "b", "d"]);
        assert_eq!(dir.read_link_name("d").unwrap(), "a");
        assert!(dir.dir("gone").unwrap_err().is_gone());
        std::fs::remove_dir_all(path).unwrap();
    }
}
