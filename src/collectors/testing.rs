//! Fixture machines of a few files, for the collectors' tests.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::sources::{Roots, Snapshot};

/// A directory with `proc`, `sys`, `root` and `udev`, removed on drop.
pub(in crate::collectors) struct MachineFixture(PathBuf);

impl MachineFixture {
    /// Creates an empty machine. The name must be unique among concurrent tests.
    pub(in crate::collectors) fn new(name: &str) -> Self {
        let dir = format!("strata-machine-{name}-{}", std::process::id());
        let machine = Self(std::env::temp_dir().join(dir));
        for root in ["proc", "sys", "root", "udev"] {
            fs::create_dir_all(machine.0.join(root)).unwrap();
        }
        machine
    }

    /// Writes a file, whose path begins with `proc`, `sys`, `root` or `udev`.
    pub(in crate::collectors) fn write(&self, path: &str, body: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
    }

    /// Creates a symbolic link at a path as in `write`.
    pub(in crate::collectors) fn link(&self, path: &str, target: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    /// Removes a file or directory.
    pub(in crate::collectors) fn remove(&self, path: &str) {
        let path = self.0.join(path);
        let removed = if path.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        removed.unwrap();
    }

    pub(in crate::collectors) fn snapshot(&self) -> Snapshot {
        self.snapshots()()
    }

    /// Returns a function that creates successive snapshots, which share caches.
    pub(in crate::collectors) fn snapshots(&self) -> impl Fn() -> Snapshot + use<> {
        let roots = Roots {
            procfs: self.0.join("proc"),
            sysfs: self.0.join("sys"),
            rootfs: self.0.join("root"),
            udev_data: self.0.join("udev"),
        };
        let machine = roots.into();
        move || {
            Snapshot::new(
                Arc::clone(&machine),
                Instant::now() + Duration::from_secs(60),
            )
        }
    }
}

impl Drop for MachineFixture {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
