//! Entries of an archive, and their conversion from and to a directory.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use crate::{Error, Result, format};

/// The entries of an archive, sorted by path.
///
/// No path is absolute or contains `..`, and no path leads through an entry that is a file or a
/// symbolic link, so nothing is ever unpacked outside of the target directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    entries: BTreeMap<PathBuf, Content>,
}

/// A path in an archive and its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the directory that was archived.
    pub path: PathBuf,
    /// Its content.
    pub content: Content,
}

/// Content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory. Written to an archive only if it is empty.
    Directory {
        /// The permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// The bytes of the file.
        bytes: Vec<u8>,
        /// The permission bits.
        mode: u32,
    },
    /// A symbolic link and its target, which is not checked.
    Symlink(PathBuf),
}

impl Archive {
    /// Parses the text of an archive.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mut archive = Self::default();
        for (line, entry) in format::parse(text)? {
            let inserted = archive.insert(entry);
            inserted.map_err(|error| Error::syntax(line, error.to_string()))?;
        }
        Ok(archive)
    }

    /// Reads an archive file.
    #[allow(clippy::disallowed_methods, reason = "not part of the exporter")]
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(Error::io(path))?;
        Self::parse(&text).map_err(Error::archive(path))
    }

    /// Reads a directory and everything below it. Symbolic links are archived, not followed.
    pub fn from_directory(directory: &Path) -> Result<Self> {
        let mut archive = Self::default();
        archive.add_directory(directory, Path::new(""))?;
        Ok(archive)
    }

    /// Adds an entry. Fails if its path already exists or leads out of the directory.
    pub fn insert(&mut self, Entry { path, content }: Entry) -> Result<()> {
        check_path(&path)?;
        for ancestor in path.ancestors().skip(1) {
            match self.entries.get(ancestor) {
                None | Some(Content::Directory { .. }) => {}
                Some(_) => {
                    return Err(Error::entry(&path, "leads through a file or symbolic link"));
                }
            }
        }
        if self.entries.contains_key(&path) {
            return Err(Error::entry(&path, "duplicate entry"));
        }
        // Paths are ordered by component, so those below this one follow it.
        let next = self.entries.range(path.clone()..).next();
        let has_entries_below = next.is_some_and(|(next, _)| next.starts_with(&path));
        if has_entries_below && !matches!(content, Content::Directory { .. }) {
            return Err(Error::entry(&path, "path has entries below it"));
        }
        self.entries.insert(path, content);
        Ok(())
    }

    /// Adds the entries of another archive. Fails if a path is in both.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        let mut entries = other.entries.into_iter();
        entries.try_for_each(|(path, content)| self.insert(Entry { path, content }))
    }

    /// The entries, sorted by path.
    pub fn entries(&self) -> impl Iterator<Item = (&Path, &Content)> {
        let entries = self.entries.iter();
        entries.map(|(path, content)| (path.as_path(), content))
    }

    /// The content of an entry.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<&Content> {
        self.entries.get(path)
    }

    /// Whether the archive has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The text of the archive. Fails if a path or a file cannot be encoded losslessly.
    pub fn to_text(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        for (path, content) in self.entries() {
            format::write_entry(&mut text, path, content)?;
        }
        Ok(text)
    }

    /// Creates all entries below a directory, which is created if it does not exist.
    pub fn unpack(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).map_err(Error::io(directory))?;
        for (path, content) in self.entries() {
            let path = directory.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(Error::io(parent))?;
            }
            let mode = match content {
                Content::Directory { mode } => {
                    fs::create_dir_all(&path).map_err(Error::io(&path))?;
                    mode
                }
                Content::File { bytes, mode } => {
                    fs::write(&path, bytes).map_err(Error::io(&path))?;
                    mode
                }
                Content::Symlink(target) => {
                    symlink(target, &path).map_err(Error::io(&path))?;
                    continue;
                }
            };
            let permissions = fs::Permissions::from_mode(*mode);
            fs::set_permissions(&path, permissions).map_err(Error::io(&path))?;
        }
        Ok(())
    }

    #[allow(clippy::disallowed_methods, reason = "not part of the exporter")]
    fn add_directory(&mut self, root: &Path, directory: &Path) -> Result<()> {
        let full_path = root.join(directory);
        let listing = fs::read_dir(&full_path).map_err(Error::io(&full_path))?;
        let mut is_empty = true;
        for entry in listing {
            let entry = entry.map_err(Error::io(&full_path))?;
            is_empty = false;
            let path = directory.join(entry.file_name());
            let at = root.join(&path);
            let metadata = fs::symlink_metadata(&at).map_err(Error::io(&at))?;
            let mode = metadata.permissions().mode() & 0o7777;
            let content = if metadata.is_symlink() {
                Content::Symlink(fs::read_link(&at).map_err(Error::io(&at))?)
            } else if metadata.is_dir() {
                self.add_directory(root, &path)?;
                continue;
            } else if metadata.is_file() {
                let bytes = fs::read(&at).map_err(Error::io(&at))?;
                Content::File { bytes, mode }
            } else {
                return Err(Error::entry(&at, "not a file, directory or symbolic link"));
            };
            self.insert(Entry { path, content })?;
        }
        if is_empty && directory != Path::new("") {
            let metadata = fs::metadata(&full_path).map_err(Error::io(&full_path))?;
            let mode = metadata.permissions().mode() & 0o7777;
            self.insert(Entry {
                path: directory.to_owned(),
                content: Content::Directory { mode },
            })?;
        }
        Ok(())
    }
}

fn check_path(path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Error::entry(path, "empty path"));
    }
    let is_plain = |part| matches!(part, Component::Normal(_));
    if !path.components().all(is_plain) {
        return Err(Error::entry(path, "leads out of the directory"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests read files as they are")]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;
    use crate::unpacked::tests::Scratch;

    fn file(path: &str, bytes: &[u8]) -> Entry {
        Entry {
            path: path.into(),
            content: Content::File {
                bytes: bytes.into(),
                mode: 0o644,
            },
        }
    }

    fn archive(entries: Vec<Entry>) -> Archive {
        let mut archive = Archive::default();
        for entry in entries {
            archive.insert(entry).unwrap();
        }
        archive
    }

    fn assert_rejected(text: &str, reason: &str) {
        let error = Archive::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn unusual_contents_survive_a_round_trip() {
        for bytes in [
            b"".as_slice(),
            b"\n",
            b"\n\n",
            b"a",
            b"a\n",
            b"a\nb",
            b"EOF",
            b"EOF\n",
            b"\\EOF",
            b"\\EOF\n",
            b"\\\\EOF\n",
            b"a EOF\nb EOF\n",
            b"EOFEOF",
            b"\0",
            b"\0\n\0",
            b"a\0b\0",
            b"NULLBYTE",
            b"\\NULLBYTE\n",
            b"NULLBYTE\0NULLBYTENULLBYTE",
            b"\0EOF",
            b"\xff\xfe\x80\n",
            b"a\r\nb\r",
            b"# ttar - - -\nPath: x\nLines: 1\nMode: 644\n",
        ] {
            let packed = archive(vec![file("a", bytes), file("b", b"after\n")]);
            let text = packed.to_text().unwrap();
            assert!(!text.contains(&0));
            assert_eq!(Archive::parse(&text).unwrap(), packed, "{bytes:?}");
        }
    }

    #[test]
    fn rejects_ambiguous_contents() {
        // The format cannot escape a backslash before its own markers.
        for bytes in [b"a\\\0b".as_slice(), b"a\\"] {
            let error = archive(vec![file("a", bytes)]).to_text().unwrap_err();
            assert!(error.to_string().starts_with("a: "), "{error}");
        }
        archive(vec![file("a", b"a\\\n")]).to_text().unwrap();
    }

    #[test]
    fn directory_survives_a_round_trip() {
        let scratch = Scratch::new();
        let entries = archive(vec![
            file("proc/1/stat", b"1 (a) S"),
            file("sys/a file with  spaces ", b"1\n"),
            Entry {
                path: OsStr::from_bytes(b"not\xffutf8").into(),
                content: Content::File {
                    bytes: b"#!/bin/sh\n".to_vec(),
                    mode: 0o755,
                },
            },
            Entry {
                path: "sys/empty".into(),
                content: Content::Directory { mode: 0o750 },
            },
            Entry {
                path: "sys/link".into(),
                content: Content::Symlink("../proc/1/stat".into()),
            },
            Entry {
                path: "sys/dangling".into(),
                content: Content::Symlink("/dev/no such file".into()),
            },
        ]);
        let directory = scratch.0.join("tree");
        let parsed = Archive::parse(&entries.to_text().unwrap()).unwrap();
        assert_eq!(parsed, entries);
        parsed.unpack(&directory).unwrap();
        assert_eq!(Archive::from_directory(&directory).unwrap(), entries);
        let through_link = fs::read(directory.join("sys/link")).unwrap();
        assert_eq!(through_link, b"1 (a) S");
    }

    #[test]
    fn rejects_paths_out_of_the_directory() {
        for path in ["/etc/passwd", "../a", "a/../../b", "a/..", "."] {
            let text = format!("Path: {path}\nLines: 0\nMode: 644\n# ttar\n");
            assert_rejected(&text, "leads out of the directory");
            let text = format!("Directory: {path}\nMode: 755\n# ttar\n");
            assert_rejected(&text, "leads out of the directory");
        }
        assert_rejected("Path: \nLines: 0\nMode: 644\n# ttar\n", "empty path");
    }

    #[test]
    fn rejects_paths_through_links_and_files() {
        let link = "Path: a\nSymlinkTo: /etc\n# ttar\n";
        let below = "Path: a/b\nLines: 0\nMode: 644\n# ttar\n";
        let file = "Path: a\nLines: 0\nMode: 644\n# ttar\n";
        assert_rejected(&format!("{link}{below}"), "leads through");
        assert_rejected(&format!("{file}{below}"), "leads through");
        assert_rejected(&format!("{below}{link}"), "has entries below");
        assert_rejected(&format!("{file}{file}"), "duplicate entry");
        assert_rejected(&format!("{link}{file}"), "duplicate entry");
    }

    #[test]
    fn merge_rejects_duplicate_paths() {
        let mut all = archive(vec![file("a", b"1\n")]);
        all.merge(archive(vec![file("b", b"2\n")])).unwrap();
        assert_eq!(all.entries().count(), 2);
        let error = all.merge(archive(vec![file("a", b"3\n")])).unwrap_err();
        assert_eq!(error.to_string(), "a: duplicate entry");
    }
}
