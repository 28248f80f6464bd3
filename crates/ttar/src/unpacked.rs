//! Trees that are unpacked once and shared by all test processes.

use std::{
    ffi::OsStr,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::{Archive, Error, Result};

/// Unpacks these archive files into `PARENT/NAME-HASH` and returns that directory.
///
/// The hash covers the archives, so an existing directory is complete and current. The files are
/// unpacked into a temporary directory that is then renamed, so processes may call this
/// concurrently. The tree is shared: callers must not write to it.
#[allow(clippy::disallowed_methods, reason = "not part of the exporter")]
pub fn unpacked(name: &str, archives: &[PathBuf], parent: &Path) -> Result<PathBuf> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let mut hasher = DefaultHasher::new();
    let mut texts = Vec::with_capacity(archives.len());
    for path in archives {
        let text = fs::read(path).map_err(Error::io(path))?;
        path.file_name().hash(&mut hasher);
        text.hash(&mut hasher);
        texts.push((path, text));
    }
    let name = format!("{name}-{:016x}", hasher.finish());
    let directory = parent.join(&name);
    if directory.is_dir() {
        return Ok(directory);
    }
    let mut all = Archive::default();
    for (path, text) in texts {
        let archive = Archive::parse(&text);
        let merged = archive.and_then(|archive| all.merge(archive));
        merged.map_err(Error::archive(path))?;
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = parent.join(format!(".{name}.{}.{count}", process::id()));
    all.unpack(&temporary)?;
    match fs::rename(&temporary, &directory) {
        Ok(()) => Ok(directory),
        // Another process was faster.
        Err(_) if directory.is_dir() => {
            fs::remove_dir_all(&temporary).map_err(Error::io(&temporary))?;
            Ok(directory)
        }
        Err(error) => Err(Error::io(&directory)(error)),
    }
}

/// The archive files of a machine: `MACHINE.ttar`, or if there is no such file, all `*.ttar` in
/// the directory `MACHINE`, sorted by name.
#[allow(clippy::disallowed_methods, reason = "not part of the exporter")]
pub fn archive_files(machine: &Path) -> Result<Vec<PathBuf>> {
    let mut single = machine.as_os_str().to_owned();
    single.push(".ttar");
    let single = PathBuf::from(single);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(machine).map_err(Error::io(machine))? {
        let path = entry.map_err(Error::io(machine))?.path();
        if path.extension() == Some(OsStr::new("ttar")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests read files as they are")]
pub(crate) mod tests {
    use std::thread;

    use super::*;

    /// A directory that is removed with its contents when dropped.
    pub(crate) struct Scratch(pub(crate) PathBuf);

    impl Scratch {
        pub(crate) fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("ttar-test-{}-{count}", process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn text(path: &str, content: &str) -> String {
        format!("Path: {path}\nLines: 1\n{content}\nMode: 644\n# ttar\n")
    }

    #[test]
    fn concurrent_callers_get_one_complete_tree() {
        let scratch = Scratch::new();
        let machine = scratch.0.join("machine");
        fs::create_dir(&machine).unwrap();
        fs::write(machine.join("b.ttar"), text("proc/b", "2")).unwrap();
        fs::write(machine.join("a.ttar"), text("proc/a", "1")).unwrap();
        fs::write(machine.join("README.md"), "").unwrap();
        let archives = archive_files(&machine).unwrap();
        assert_eq!(archives, ["a.ttar", "b.ttar"].map(|it| machine.join(it)));
        let parent = scratch.0.join("unpacked");
        let trees: Vec<_> = thread::scope(|scope| {
            let unpack = || unpacked("machine", &archives, &parent).unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(unpack)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });
        assert!(trees.iter().all(|tree| *tree == trees[0]));
        assert_eq!(fs::read(trees[0].join("proc/a")).unwrap(), b"1\n");
        assert_eq!(fs::read(trees[0].join("proc/b")).unwrap(), b"2\n");
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 1);
        fs::write(machine.join("a.ttar"), text("proc/a", "3")).unwrap();
        let changed = unpacked("machine", &archives, &parent).unwrap();
        assert_ne!(changed, trees[0]);
        assert_eq!(fs::read(changed.join("proc/a")).unwrap(), b"3\n");
    }

    #[test]
    fn machine_may_be_a_single_archive() {
        let scratch = Scratch::new();
        let file = scratch.0.join("vm-v1.ttar");
        fs::write(&file, text("flags", "--x")).unwrap();
        let machine = scratch.0.join("vm-v1");
        assert_eq!(archive_files(&machine).unwrap(), [file]);
    }

    #[test]
    fn errors_name_the_archive_and_its_line() {
        let scratch = Scratch::new();
        let file = scratch.0.join("bad.ttar");
        fs::write(&file, "Path: a\nLines: x\n").unwrap();
        let error = unpacked("bad", std::slice::from_ref(&file), &scratch.0).unwrap_err();
        let expected = format!("{}:2: expected ", file.display());
        assert!(error.to_string().starts_with(&expected), "{error}");
        let missing = scratch.0.join("missing");
        let error = archive_files(&missing).unwrap_err().to_string();
        assert!(error.starts_with(&missing.display().to_string()), "{error}");
    }
}
