//! A random ID of one installation of this exporter. It reveals nothing about the host, and is
//! stored if the flags name a directory for it.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

use super::dir;
use crate::error::{Error, Result};

/// Name of the file with the ID.
const FILE: &str = "installation-id";

/// An ID, and whether it was stored for the next start.
#[derive(Debug)]
pub struct InstallationId {
    /// The id.
    pub id: String,
    /// Why it could not be stored.
    pub persist_error: Option<Error>,
}

/// Returns the ID stored in this directory, or a new one that it stores there. Without a
/// directory, each start has a new ID. So it is after a storage error, because that is temporary
/// and no reason not to export metrics.
pub fn installation_id(state_dir: Option<&Path>) -> Result<InstallationId> {
    let id = match state_dir {
        Some(dir) => read_or_create(dir),
        None => generate_uuid(),
    };
    match id {
        Ok(id) => Ok(InstallationId {
            id,
            persist_error: None,
        }),
        Err(error) if is_storage_error(&error) => Ok(InstallationId {
            id: generate_uuid()?,
            persist_error: Some(error),
        }),
        Err(error) => Err(error),
    }
}

fn read_or_create(dir: &Path) -> Result<String> {
    let path = dir.join(FILE);
    match dir::read(&path) {
        Err(Error::NotFound(_)) => {
            write(dir, &path, &generate_uuid()?)?;
            // Reads back the stored ID, which may be another process's if two wrote it at once.
            read(&path)
        }
        _ => read(&path),
    }
}

/// Whether the error is about the disk (full, broken or read-only) and not about the directory.
fn is_storage_error(error: &Error) -> bool {
    let Error::Io { source, .. } = error else {
        return false;
    };
    let errors = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO];
    let is = |errno: &Errno| source.raw_os_error() == Some(errno.raw_os_error());
    errors.iter().any(is)
}

fn read(path: &Path) -> Result<String> {
    let text = dir::read(path)?;
    let id = text.trimmed();
    if is_id(id) {
        Ok(id.to_owned())
    } else {
        Err(text.error(1, "not an installation ID"))
    }
}

/// Writes the file atomically, and never overwrites an existing one.
fn write(dir: &Path, path: &Path, id: &str) -> Result<()> {
    let temp_path: PathBuf = dir.join(format!(".{FILE}-{}", std::process::id()));
    let result = (|| {
        // Left over from a process that had this process ID and was interrupted.
        fs::remove_file(&temp_path).ok();
        let mut options = fs::File::options();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&temp_path)?;
        file.write_all(format!("{id}\n").as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&temp_path, path) {
            Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => Ok(()),
            linked => linked,
        }
    })();
    fs::remove_file(&temp_path).ok();
    result.map_err(|error| Error::Io {
        path: path.to_owned(),
        source: error.into(),
    })
}

/// Generates a UUID of version 4, documented in RFC 9562.
fn generate_uuid() -> Result<String> {
    let mut bytes = [0_u8; 16];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty());
    if !matches!(filled, Ok(16)) {
        let error = filled.err().unwrap_or(Errno::AGAIN);
        return Err(Error::io("getrandom(2)", error));
    }
    let number = u128::from_be_bytes(bytes);
    let number = number & !(0xf << 76) | 0x4 << 76;
    let number = number & !(0x3 << 62) | 0x2 << 62;
    let digits = format!("{number:032x}");
    let mut id = String::with_capacity(36);
    for (index, digit) in digits.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            id.push('-');
        }
        id.push(digit);
    }
    Ok(id)
}

fn is_id(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    let is_digit = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f' | b'-');
    lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let name = format!("strata-installation-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn installation_id(state_dir: Option<&Path>) -> Result<String> {
        let found = super::installation_id(state_dir)?;
        assert!(found.persist_error.is_none(), "{found:?}");
        Ok(found.id)
    }

    #[test]
    fn only_storage_errors_are_tolerated() {
        for (errno, expected) in [
            (Errno::NOSPC, true),
            (Errno::DQUOT, true),
            (Errno::ROFS, true),
            (Errno::IO, true),
            (Errno::ACCESS, false),
            (Errno::NOTDIR, false),
            (Errno::NOENT, false),
        ] {
            assert_eq!(
                is_storage_error(&Error::io("x", errno)),
                expected,
                "{errno}"
            );
        }
    }

    #[test]
    fn stored_id_stays_the_same() {
        let dir = scratch("kept");
        let first = installation_id(Some(&dir)).unwrap();
        assert!(is_id(&first), "{first}");
        assert_eq!(first.chars().nth(14), Some('4'), "{first}");
        assert_eq!(installation_id(Some(&dir)).unwrap(), first);
        let file = dir.join(FILE);
        fs::remove_file(&file).unwrap();
        assert_ne!(installation_id(Some(&dir)).unwrap(), first);
        assert_ne!(
            installation_id(None).unwrap(),
            installation_id(None).unwrap()
        );
        // No other file remains.
        fs::remove_file(&file).unwrap();
        fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn second_writer_does_not_overwrite_the_first() {
        let dir = scratch("second");
        let path = dir.join(FILE);
        let first = generate_uuid().unwrap();
        write(&dir, &path, &first).unwrap();
        write(&dir, &path, &generate_uuid().unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), first);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn invalid_id_is_rejected() {
        let dir = scratch("wrong");
        let path = dir.join(FILE);
        for text in ["", "web-1\n", "0123456789abcdef"] {
            fs::write(&path, text).unwrap();
            let error = installation_id(Some(&dir)).unwrap_err();
            let expected = "installation-id:1: not an installation ID";
            assert!(error.to_string().ends_with(expected), "{error}");
        }
        fs::remove_dir_all(&dir).unwrap();
        let error = installation_id(Some(&dir)).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }
}
