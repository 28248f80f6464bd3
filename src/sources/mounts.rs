//! Mounts from `/proc/PID/mountinfo`, documented in `proc_pid_mountinfo(5)`.
//!
//! Names are bytes, not text, because mount points may have any name. The kernel writes white
//! space, `\` and `#` in them as three octal digits.

use std::{
    borrow::Cow,
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::{Snapshot, dir};
use crate::error::{Error, Result};

/// The mounts in the namespace of one process.
#[derive(Debug)]
pub struct MountInfo {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// One mount.
#[derive(Debug)]
pub struct Mount<'a> {
    /// Mount ID, which never changes.
    pub id: u64,
    /// ID of the parent mount.
    pub parent_id: u64,
    /// Major number of its device.
    pub major: u32,
    /// Minor number of its device.
    pub minor: u32,
    /// Mount point.
    pub mount_point: PathBuf,
    /// File system type.
    pub fs_type: Cow<'a, str>,
    /// Source as passed to mount(2), with the kernel's escapes of white space; may be empty.
    pub source: Cow<'a, str>,
    /// Whether it is read-only: by a flag of the mount or of the file system, or because the file
    /// system shut itself down after an error.
    pub read_only: bool,
    /// The file system's own options, separated by commas; for cgroups they name the controllers.
    pub options: Cow<'a, str>,
}

impl MountInfo {
    /// Reads the host's mounts, for [`Snapshot::mounts`].
    pub(super) fn read(procfs: &Path) -> Result<Self> {
        let read_for = |pid: &str| {
            let path = procfs.join(pid).join("mountinfo");
            let bytes = dir::read_bytes(&path)?;
            Ok(Self { path, bytes })
        };
        read_for("1").or_else(|_| read_for("self"))
    }

    /// Creates it from the content of the file.
    #[cfg(any(test, fuzzing))]
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            path: "mountinfo".into(),
            bytes: bytes.to_vec(),
        }
    }

    /// Returns the content of the file: if it is unchanged, the mounts are unchanged.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Iterates over the mounts in the kernel's order.
    pub fn mounts(&self) -> impl Iterator<Item = Result<Mount<'_>>> {
        let lines = self.bytes.split(|b| *b == b'\n').enumerate();
        lines
            .filter(|(_, line)| !line.is_empty())
            .map(|(i, line)| parse_mount(line).map_err(|reason| self.error(i + 1, reason)))
    }

    fn error(&self, line: usize, reason: &str) -> Error {
        Error::Parse {
            path: self.path.clone(),
            line,
            reason: reason.to_owned(),
        }
    }
}

impl Snapshot {
    /// Returns the mounts of process 1, or of this process if other users' processes are hidden
    /// (`hidepid`).
    pub fn mounts(&self) -> Result<&MountInfo> {
        let read = || MountInfo::read(&self.roots().procfs);
        self.mounts.get_or_read(read)
    }
}

fn parse_mount(line: &[u8]) -> Result<Mount<'_>, &'static str> {
    // Split at every single space, because the source may be empty.
    let mut fields = line.split(|b| *b == b' ');
    let mut next = |missing| fields.next().ok_or(missing);
    let id = parse_number(next("mount ID is missing")?).ok_or("mount ID is not a number")?;
    let parent = parse_number(next("parent ID is missing")?).ok_or("parent ID is not a number")?;
    let device = next("device is missing")?;
    let (major, minor) = parse_device(device).ok_or("device is not two numbers")?;
    let _root = next("root is missing")?;
    let point = next("mount point is missing")?;
    let options = next("mount options are missing")?;
    // Any number of optional fields, terminated by a dash.
    while next("separator is missing")? != b"-" {}
    let kind = next("file system type is missing")?;
    let source = next("source is missing")?;
    // The last field; some file systems write spaces in it.
    let super_options = fields.next().unwrap_or_default();
    let read_only = has_option(options, &[b"ro"])
        || std::iter::once(super_options)
            .chain(fields)
            .any(|options| has_option(options, &[b"ro", b"emergency_ro"]));
    Ok(Mount {
        id,
        parent_id: parent,
        major,
        minor,
        mount_point: OsString::from_vec(unescape_bytes(point)).into(),
        fs_type: String::from_utf8_lossy(kind),
        source: String::from_utf8_lossy(source),
        read_only,
        options: String::from_utf8_lossy(super_options),
    })
}

fn parse_number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    str::from_utf8(field).ok()?.parse().ok()
}

fn parse_device(field: &[u8]) -> Option<(u32, u32)> {
    let colon = field.iter().position(|b| *b == b':')?;
    let (major, minor) = field.split_at_checked(colon)?;
    Some((
        parse_number(major)?,
        parse_number(minor.strip_prefix(b":")?)?,
    ))
}

fn has_option(options: &[u8], names: &[&[u8]]) -> bool {
    options
        .split(|b| *b == b',')
        .any(|option| names.contains(&option))
}

/// Decodes octal escapes such as `\040` for a space.
fn unescape_bytes(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let byte;
        (byte, rest) = match after {
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] if *first == b'\\' => ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after),
            _ => (*first, after),
        };
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn mounts(text: &[u8]) -> Vec<Result<String, String>> {
        let info = MountInfo {
            path: "test".into(),
            bytes: text.to_vec(),
        };
        let shown = |mount: Mount<'_>| {
            let point = mount.mount_point.as_os_str().as_bytes().escape_ascii();
            format!(
                "{}<{} {}:{} {point} {} {:?} {}",
                mount.id,
                mount.parent_id,
                mount.major,
                mount.minor,
                mount.fs_type,
                mount.source,
                mount.read_only
            )
        };
        let all = info.mounts();
        all.map(|m| m.map(shown).map_err(|e| e.to_string()))
            .collect()
    }

    #[test]
    fn mount_may_have_any_number_of_optional_fields() {
        assert_eq!(
            mounts(
                b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
                  36 27 98:7 /a /mnt rw shared:1 master:2 - nfs4 srv:/x rw,addr=10.0.0.1\n"
            ),
            [
                Ok("27<1 254:0 / ext4 \"/dev/vda\" false".into()),
                Ok("36<27 98:7 /mnt nfs4 \"srv:/x\" false".into()),
            ]
        );
    }

    #[test]
    fn escapes_in_mount_point_are_decoded() {
        assert_eq!(
            mounts(
                b"1 2 3:4 / /a\\040b\\011c\\012d\\134e\\043f\\9g\xff rw - vfat /dev/x\\040y rw\n"
            ),
            [Ok(
                r#"1<2 3:4 /a b\tc\nd\\e#f\\9g\xff vfat "/dev/x\\040y" false"#.into()
            )]
        );
    }

    #[test]
    fn source_may_be_empty() {
        assert_eq!(
            mounts(b"1 2 3:4 / /a rw - tmpfs  rw,size=4k\n"),
            [Ok(r#"1<2 3:4 /a tmpfs "" false"#.into())]
        );
    }

    #[test]
    fn read_only_has_three_notations() {
        for (options, read_only) in [
            ("rw,relatime - ext4 d rw,errors=remount-ro", false),
            ("ro,relatime - ext4 d rw", true),
            ("rw - ext4 d ro,discard", true),
            ("rw - ext4 d rw,emergency_ro", true),
            ("rw - odd d rw,name=a b,ro", true),
        ] {
            let line = format!("1 2 3:4 / /a {options}\n");
            let expected = format!(r#" "d" {read_only}"#);
            assert!(
                mounts(line.as_bytes())[0]
                    .as_ref()
                    .unwrap()
                    .ends_with(&expected),
                "{line}"
            );
        }
    }

    #[test]
    fn invalid_line_skips_only_itself() {
        assert_eq!(
            mounts(
                b"1 2 3:4 / /a rw\n1 2 3 / /b rw - x y rw\nx 2 3:4 / /b rw - x y rw\n\
                  5 2 3:4 / /c rw - x y rw\n6 2 3:4 / /d rw - x y"
            ),
            [
                Err("test:1: separator is missing".into()),
                Err("test:2: device is not two numbers".into()),
                Err("test:3: mount ID is not a number".into()),
                Ok(r#"5<2 3:4 /c x "y" false"#.into()),
                Ok(r#"6<2 3:4 /d x "y" false"#.into()),
            ]
        );
    }
}
