//! A file of targets on disk: read within a bound, replaced whole or not at all.
//!
//! Whoever changes it holds a lock on a file beside it, `.NAME.lock`, which stays: the file itself
//! is another one after each change. New text goes to `.NAME.tmp`, which Prometheus does not look
//! at, is written out, and takes the old one's name; so there is at every moment one whole file of
//! that name, even after a crash. Mode and owner stay; access control lists, extended attributes
//! and hard links do not.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Far more than the targets of one Prometheus.
const MAX_SIZE: u64 = 16 << 20;
/// The mode of a file that was not there.
const DEFAULT_MODE: u32 = 0o644;
/// How long to wait between two looks at a lock.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Where a file is, links followed.
#[derive(Debug)]
pub(super) struct TargetFile {
    path: PathBuf,
    dir: PathBuf,
    name: String,
}

/// A lock that lasts as long as this.
#[derive(Debug)]
pub(super) struct FileLock(#[expect(dead_code, reason = "held")] File);

/// What was in a file.
#[derive(Debug)]
pub(super) struct FileContents {
    pub(super) text: String,
    metadata: Metadata,
}

impl TargetFile {
    /// Finds the file, or where it would be.
    pub(super) fn resolve(path: &Path) -> Result<Self, String> {
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.is_symlink() {
                    return Err(path_error(path, "is a link to what does not exist"));
                }
                let name = path
                    .file_name()
                    .ok_or_else(|| path_error(path, "has no name"))?;
                let dir = path.parent().filter(|dir| *dir != OsStr::new(""));
                let dir = dir.unwrap_or(Path::new("."));
                let real = fs::canonicalize(dir).map_err(|error| path_error(dir, error))?;
                real.join(name)
            }
            Err(error) => return Err(path_error(path, error)),
        };
        let place = real.parent().zip(real.file_name().and_then(OsStr::to_str));
        let (dir, name) =
            place.ok_or_else(|| path_error(&real, "is not a name of a file in UTF-8"))?;
        Ok(Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            path: real,
        })
    }

    /// What is in the file, if there is one.
    pub(super) fn read(&self) -> Result<Option<FileContents>, String> {
        // What is no file, such as a pipe, must not hold us up.
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
            return Err(path_error(&self.path, "is not a file"));
        }
        let text = read_bounded(file).map_err(|error| path_error(&self.path, error))?;
        Ok(Some(FileContents { text, metadata }))
    }

    /// Waits until no one else changes the file.
    pub(super) fn lock(&self, wait: Duration) -> Result<FileLock, String> {
        let path = self.dir.join(format!(".{}.lock", self.name));
        let started = Instant::now();
        loop {
            let mut file = open_lock(&path).map_err(|error| path_error(&path, error))?;
            match file.try_lock() {
                // Somebody may have removed it in between, and another made a new one.
                Ok(()) if is_same_inode(&file, &path) => {
                    // For whoever waits. It may be a file that we may only read.
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
                    "process {} waited {wait:?} for {}, which is being changed by {}: try again, \
                     or with a longer --wait",
                    std::process::id(),
                    self.path.display(),
                    lock_holder(&mut file)
                ));
            }
            thread::sleep(LOCK_RETRY_INTERVAL);
        }
    }

    /// Puts a text in the file's place. To be done under the lock only.
    pub(super) fn replace(&self, old: Option<&FileContents>, text: &str) -> Result<(), String> {
        if text.len() as u64 > MAX_SIZE {
            return Err(path_error(&self.path, too_large()));
        }
        let new = self.dir.join(format!(".{}.tmp", self.name));
        // One that is there was left by somebody who was killed: the lock is ours.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(path_error(&new, error));
            }
            _ => {}
        }
        let done = self.write(&new, old, text);
        if done.is_err() {
            fs::remove_file(&new).ok();
        }
        done
    }

    fn write(&self, new: &Path, old: Option<&FileContents>, text: &str) -> Result<(), String> {
        let of_new = |error: io::Error| path_error(new, error);
        let mut options = OpenOptions::new();
        // For nobody else until it has the mode it should have.
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(new).map_err(of_new)?;
        file.write_all(text.as_bytes()).map_err(of_new)?;
        let mut mode = DEFAULT_MODE;
        if let Some(FileContents { metadata: old, .. }) = old {
            mode = old.mode() & 0o7777;
            let own = file.metadata().map_err(of_new)?;
            let uid = Some(old.uid()).filter(|uid| *uid != own.uid());
            let gid = Some(old.gid()).filter(|gid| *gid != own.gid());
            if uid.or(gid).is_some() {
                fchown(&file, uid, gid).map_err(|error| {
                    let (uid, gid) = (old.uid(), old.gid());
                    path_error(
                        &self.path,
                        format_args!(
                            "its owner {uid}:{gid} cannot be kept, {error}: run as this user or \
                             as root"
                        ),
                    )
                })?;
            }
        }
        // After the owner, whose change takes bits of the mode away.
        let permissions = Permissions::from_mode(mode);
        file.set_permissions(permissions).map_err(of_new)?;
        file.sync_all().map_err(of_new)?;
        fs::rename(new, &self.path).map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::ResourceBusy => ": mount its directory instead of the file",
                _ => "",
            };
            path_error(
                &self.path,
                format_args!("cannot be replaced, {error}{advice}"),
            )
        })?;
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(|error| path_error(&self.dir, error))
    }
}

/// Reads text, and no more than is sensible.
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

/// Opens the file that is locked, for reading only if we may no more.
fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut ours = options.clone();
    ours.write(true).create(true).mode(DEFAULT_MODE);
    match ours.open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            options.open(path).map_err(|_| error)
        }
        opened => opened,
    }
}

/// Whether it still has this name.
fn is_same_inode(file: &File, path: &Path) -> bool {
    let there = file
        .metadata()
        .and_then(|own| Ok((own, fs::symlink_metadata(path)?)));
    there.is_ok_and(|(own, there)| (own.dev(), own.ino()) == (there.dev(), there.ino()))
}

/// Who says to hold a lock. That may be the last one, if the new one is about to say so.
fn lock_holder(file: &mut File) -> String {
    let mut holder = Vec::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(128).read_to_end(&mut holder));
    let holder = String::from_utf8_lossy(&holder);
    match holder.lines().next() {
        Some(said) if read.is_ok() => said.chars().filter(|c| !c.is_control()).collect(),
        _ => "another process".to_owned(),
    }
}

fn path_error(path: &Path, what: impl std::fmt::Display) -> String {
    let path = path.display().to_string();
    match what.to_string() {
        said if said.starts_with("is ") || said.starts_with("has ") => format!("{path} {said}"),
        said => format!("{path}: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of its own for a test.
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
        let place = dir.target_file();
        assert!(place.read().unwrap().is_none());
        fs::write(dir.file(), b"\"\xff\"").unwrap();
        assert!(place.read().unwrap_err().ends_with("is not UTF-8"));
        let file = File::create(dir.file()).unwrap();
        file.set_len(MAX_SIZE + 1).unwrap();
        let error = place.read().unwrap_err();
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
        assert!(place.read().unwrap_err().ends_with("is not a file"));
    }

    #[test]
    fn stale_temp_and_lock_files_are_ignored() {
        let dir = TestDir::new("left");
        let place = dir.target_file();
        let left = dir.0.join(".targets.json.tmp");
        std::os::unix::fs::symlink(dir.0.join("elsewhere"), &left).unwrap();
        place.replace(None, "[]").unwrap();
        assert_eq!(place.read().unwrap().unwrap().text, "[]");
        assert!(!left.is_symlink());
        assert!(!dir.0.join("elsewhere").exists());
    }

    #[test]
    fn failed_write_leaves_no_temp_file() {
        let dir = TestDir::new("clean");
        // It cannot take the place of a directory.
        fs::create_dir(dir.file()).unwrap();
        let place = dir.target_file();
        let error = place.replace(None, "[]").unwrap_err();
        assert!(error.contains("cannot be replaced"), "{error}");
        assert!(!dir.0.join(".targets.json.tmp").exists());
        let huge = " ".repeat(usize::try_from(MAX_SIZE).unwrap() + 1);
        assert!(place.replace(None, &huge).is_err());
    }

    #[test]
    fn lock_timeout_names_holder() {
        let dir = TestDir::new("lock");
        let place = dir.target_file();
        let lock = place.lock(Duration::ZERO).unwrap();
        let error = place.lock(Duration::ZERO).unwrap_err();
        let own = format!("being changed by process {} on ", std::process::id());
        assert!(error.contains(&own), "{error}");
        drop(lock);
        place.lock(Duration::ZERO).unwrap();
    }

    #[test]
    fn deleted_lock_file_is_not_a_lock() {
        let dir = TestDir::new("relock");
        let place = dir.target_file();
        let path = dir.0.join(".targets.json.lock");
        let removed = open_lock(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _new = place.lock(Duration::ZERO).unwrap();
        assert!(!is_same_inode(&removed, &path));
    }
}
