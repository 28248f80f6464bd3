//! A target file on disk: reads are bounded, writes are atomic.
//!
//! A writer locks the file `.NAME.lock` in the same directory, which is never removed: the target
//! file itself is a new inode after each change. New content is written to `.NAME.tmp`, which
//! Prometheus does not read, synced, and renamed over the old file, so a complete file exists at
//! every moment, even after a crash. Mode and owner are preserved; access control lists, extended
//! attributes and hard links are not.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Maximum file size, far above the targets of one Prometheus.
const MAX_SIZE: u64 = 16 << 20;
/// Mode of a new file.
const DEFAULT_MODE: u32 = 0o644;
/// Interval between two attempts to lock.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Path of a target file with symbolic links resolved.
#[derive(Debug)]
pub(super) struct TargetFile {
    path: PathBuf,
    dir: PathBuf,
    name: String,
}

/// Lock held until dropped.
#[derive(Debug)]
pub(super) struct FileLock(#[expect(dead_code, reason = "held")] File);

/// Text and metadata of a file.
#[derive(Debug)]
pub(super) struct FileContents {
    pub(super) text: String,
    metadata: Metadata,
}

impl TargetFile {
    /// Resolves the path of a file, which need not exist.
    pub(super) fn resolve(path: &Path) -> Result<Self, String> {
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.is_symlink() {
                    return Err(path_error(path, "is a dangling symbolic link"));
                }
                let name = path
                    .file_name()
                    .ok_or_else(|| path_error(path, "has no file name"))?;
                let dir = path.parent().filter(|dir| *dir != OsStr::new(""));
                let dir = dir.unwrap_or(Path::new("."));
                let real = fs::canonicalize(dir).map_err(|error| path_error(dir, error))?;
                real.join(name)
            }
            Err(error) => return Err(path_error(path, error)),
        };
        let parts = real.parent().zip(real.file_name().and_then(OsStr::to_str));
        let (dir, name) = parts.ok_or_else(|| path_error(&real, "is not a UTF-8 file name"))?;
        Ok(Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            path: real,
        })
    }

    /// Reads the file. Returns `None` if it does not exist.
    pub(super) fn read(&self) -> Result<Option<FileContents>, String> {
        // A special file, such as a pipe, must not block.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let file = match options.open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(path_error(&self.path, error)),
        };
        let metadata = file
            .metadata()
            .map_err(|error| path_error(&self.path, error))?;
        if !metadata.is_file() {
            return Err(path_error(&self.path, "is not a regular file"));
        }
        let text = read_bounded(file).map_err(|error| path_error(&self.path, error))?;
        Ok(Some(FileContents { text, metadata }))
    }

    /// Acquires the lock, waiting at most this long.
    pub(super) fn lock(&self, wait: Duration) -> Result<FileLock, String> {
        let path = self.dir.join(format!(".{}.lock", self.name));
        let started = Instant::now();
        loop {
            let mut file = open_lock(&path).map_err(|error| path_error(&path, error))?;
            match file.try_lock() {
                // The lock file may have been deleted and recreated since it was opened.
                Ok(()) if is_same_inode(&file, &path) => {
                    // Shown to waiting processes. Fails if the lock file is read-only for this
                    // user.
                    let host = rustix::system::uname();
                    let host = host.nodename().to_string_lossy();
                    let holder = format!("process {} on {host}\n", std::process::id());
                    file.set_len(0).ok();
                    file.write_all(holder.as_bytes()).ok();
                    return Ok(FileLock(file));
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(path_error(&path, error)),
            }
            if started.elapsed() >= wait {
                return Err(format!(
                    "timed out: process {} waited {wait:?} for {}, locked by {}: retry, or use a \
                     longer --wait",
                    std::process::id(),
                    self.path.display(),
                    lock_holder(&mut file)
                ));
            }
            thread::sleep(LOCK_RETRY_INTERVAL);
        }
    }

    /// Replaces the content of the file. The caller holds the lock.
    pub(super) fn replace(&self, old: Option<&FileContents>, text: &str) -> Result<(), String> {
        if text.len() as u64 > MAX_SIZE {
            return Err(path_error(&self.path, too_large()));
        }
        let new = self.dir.join(format!(".{}.tmp", self.name));
        // An existing one is left over from a killed process, since we hold the lock.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(path_error(&new, error));
            }
            _ => {}
        }
        let result = self.write(&new, old, text);
        if result.is_err() {
            fs::remove_file(&new).ok();
        }
        result
    }

    fn write(&self, new: &Path, old: Option<&FileContents>, text: &str) -> Result<(), String> {
        let new_error = |error: io::Error| path_error(new, error);
        let mut options = OpenOptions::new();
        // Private until the final mode is set.
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(new).map_err(new_error)?;
        file.write_all(text.as_bytes()).map_err(new_error)?;
        let mut mode = DEFAULT_MODE;
        if let Some(FileContents { metadata: old, .. }) = old {
            mode = old.mode() & 0o7777;
            let own = file.metadata().map_err(new_error)?;
            let uid = Some(old.uid()).filter(|uid| *uid != own.uid());
            let gid = Some(old.gid()).filter(|gid| *gid != own.gid());
            if uid.or(gid).is_some() {
                fchown(&file, uid, gid).map_err(|error| {
                    let (uid, gid) = (old.uid(), old.gid());
                    path_error(
                        &self.path,
                        format_args!(
                            "cannot preserve owner {uid}:{gid}, {error}: run as this user or as \
                             root"
                        ),
                    )
                })?;
            }
        }
        // After chown, which clears mode bits.
        let permissions = Permissions::from_mode(mode);
        file.set_permissions(permissions).map_err(new_error)?;
        file.sync_all().map_err(new_error)?;
        fs::rename(new, &self.path).map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::ResourceBusy => ": mount the directory instead of the file",
                _ => "",
            };
            path_error(&self.path, format_args!("cannot replace, {error}{advice}"))
        })?;
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(|error| path_error(&self.dir, error))
    }
}

/// Reads text of at most [`MAX_SIZE`] bytes.
pub(super) fn read_bounded(from: impl Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = from.take(MAX_SIZE + 1).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(too_large());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

fn too_large() -> String {
    format!("is larger than {} MiB", MAX_SIZE >> 20)
}

/// Opens the lock file, read-only if this user cannot write it.
fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut writable = options.clone();
    writable.write(true).create(true).mode(DEFAULT_MODE);
    match writable.open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            options.open(path).map_err(|_| error)
        }
        result => result,
    }
}

/// Whether the path still refers to this open file.
fn is_same_inode(file: &File, path: &Path) -> bool {
    let metadata = file
        .metadata()
        .and_then(|own| Ok((own, fs::symlink_metadata(path)?)));
    metadata.is_ok_and(|(own, current)| (own.dev(), own.ino()) == (current.dev(), current.ino()))
}

/// The lock holder recorded in the lock file. It may be the previous one if the new holder has not
/// written yet.
fn lock_holder(file: &mut File) -> String {
    let mut holder = Vec::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(128).read_to_end(&mut holder));
    let holder = String::from_utf8_lossy(&holder);
    match holder.lines().next() {
        Some(line) if read.is_ok() => line.chars().filter(|c| !c.is_control()).collect(),
        _ => "another process".to_owned(),
    }
}

fn path_error(path: &Path, what: impl std::fmt::Display) -> String {
    let path = path.display().to_string();
    match what.to_string() {
        text if text.starts_with("is ") || text.starts_with("has ") => format!("{path} {text}"),
        text => format!("{path}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test's own directory.
    struct TestDir(PathBuf);

    impl TestDir {
        fn new(name: &str) -> Self {
            let name = format!("strata-targets-{name}-{}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn file(&self) -> PathBuf {
            self.0.join("targets.json")
        }

        fn target_file(&self) -> TargetFile {
            TargetFile::resolve(&self.file()).unwrap()
        }
    }

    impl Drop for TestDir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn rejects_non_text_files() {
        let dir = TestDir::new("refused");
        let target_file = dir.target_file();
        assert!(target_file.read().unwrap().is_none());
        fs::write(dir.file(), b"\"\xff\"").unwrap();
        assert!(target_file.read().unwrap_err().ends_with("is not UTF-8"));
        let file = File::create(dir.file()).unwrap();
        file.set_len(MAX_SIZE + 1).unwrap();
        let error = target_file.read().unwrap_err();
        assert!(
            error.ends_with("targets.json is larger than 16 MiB"),
            "{error}"
        );
        fs::remove_file(dir.file()).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.file(),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(
            target_file
                .read()
                .unwrap_err()
                .ends_with("is not a regular file")
        );
    }

    #[test]
    fn stale_temp_and_lock_files_are_ignored() {
        let dir = TestDir::new("stale");
        let target_file = dir.target_file();
        let stale = dir.0.join(".targets.json.tmp");
        std::os::unix::fs::symlink(dir.0.join("elsewhere"), &stale).unwrap();
        target_file.replace(None, "[]").unwrap();
        assert_eq!(target_file.read().unwrap().unwrap().text, "[]");
        assert!(!stale.is_symlink());
        assert!(!dir.0.join("elsewhere").exists());
    }

    #[test]
    fn failed_write_leaves_no_temp_file() {
        let dir = TestDir::new("clean");
        // A directory cannot be replaced by a file.
        fs::create_dir(dir.file()).unwrap();
        let target_file = dir.target_file();
        let error = target_file.replace(None, "[]").unwrap_err();
        assert!(error.contains("cannot replace"), "{error}");
        assert!(!dir.0.join(".targets.json.tmp").exists());
        let huge = " ".repeat(usize::try_from(MAX_SIZE).unwrap() + 1);
        assert!(target_file.replace(None, &huge).is_err());
    }

    #[test]
    fn lock_timeout_names_holder() {
        let dir = TestDir::new("lock");
        let target_file = dir.target_file();
        let lock = target_file.lock(Duration::ZERO).unwrap();
        let error = target_file.lock(Duration::ZERO).unwrap_err();
        let own = format!("locked by process {} on ", std::process::id());
        assert!(error.contains(&own), "{error}");
        drop(lock);
        target_file.lock(Duration::ZERO).unwrap();
    }

    #[test]
    fn deleted_lock_file_is_not_a_lock() {
        let dir = TestDir::new("relock");
        let target_file = dir.target_file();
        let path = dir.0.join(".targets.json.lock");
        let removed = open_lock(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _new = target_file.lock(Duration::ZERO).unwrap();
        assert!(!is_same_inode(&removed, &path));
    }
}
