//! Small file trees of a host, for tests.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use crate::sources::Roots;

/// A temporary directory tree, removed at the end of the test.
pub(crate) struct TempTree(PathBuf);

impl TempTree {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("strata-cgroup-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::remove_dir_all(&root).ok();
        fs::create_dir_all(&root).unwrap();
        Self(root)
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots {
            procfs: self.0.join("proc"),
            sysfs: self.0.join("sys"),
            rootfs: self.0.clone(),
            udev_data: self.0.join("run/udev/data"),
        }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub(crate) fn write(&self, path: &str, body: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
    }

    /// Writes several files: lines `PATH: BODY`, with `;` for a line break.
    pub(crate) fn write_files(&self, dir: &str, files: &str) {
        for line in files.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (path, body) = line.split_once(':').unwrap();
            let body = format!("{}\n", body.trim().replace("; ", "\n"));
            self.write(&format!("{dir}/{path}"), &body);
        }
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }
}

impl Drop for TempTree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
