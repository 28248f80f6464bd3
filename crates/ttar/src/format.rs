//! Parser and encoder of the text of an archive.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use crate::{Content, Entry, Error, Result};

const SEPARATOR: &[u8] = b"# ttar - - - - - - - - - - - - - - - - - - - - - - - - - - - -\n";
const NULLBYTE: &[u8] = b"NULLBYTE";
const EOF: &[u8] = b"EOF";

/// Parses an archive into entries, each with the number of its first line.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<(usize, Entry)>> {
    let mut lines = Lines { text, number: 0 };
    let mut entries = Vec::new();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let number = lines.number;
        let entry = if let Some(path) = line.strip_prefix(b"Directory: ") {
            let mode = lines.mode()?;
            (path, Content::Directory { mode })
        } else if let Some(path) = line.strip_prefix(b"Path: ") {
            (path, lines.content()?)
        } else {
            return Err(lines.error("expected \"Path: \", \"Directory: \" or a comment"));
        };
        let (path, content) = entry;
        let path = path_from(path);
        entries.push((number, Entry { path, content }));
    }
    Ok(entries)
}

/// Appends an entry to the text of an archive.
pub(crate) fn write_entry(text: &mut Vec<u8>, path: &Path, content: &Content) -> Result<()> {
    let name = path.as_os_str().as_bytes();
    if name.contains(&b'\n') {
        return Err(Error::entry(path, "path contains a newline"));
    }
    match content {
        Content::Directory { mode } => {
            text.extend([b"Directory: ", name, b"\n"].concat());
            text.extend(format!("Mode: {mode:o}\n").into_bytes());
        }
        Content::Symlink(target) => {
            let target = target.as_os_str().as_bytes();
            if target.contains(&b'\n') {
                return Err(Error::entry(path, "link target contains a newline"));
            }
            text.extend([b"Path: ", name, b"\nSymlinkTo: ", target, b"\n"].concat());
        }
        Content::File { bytes, mode } => {
            let encoded = encode(bytes);
            if decode(&encoded).as_ref() != Ok(bytes) {
                let reason = "cannot archive a backslash before a NUL byte or the end of the file";
                return Err(Error::entry(path, reason));
            }
            let count = encoded.split_inclusive(|byte| *byte == b'\n').count();
            text.extend([b"Path: ", name, b"\n"].concat());
            text.extend(format!("Lines: {count}\n").into_bytes());
            text.extend(encoded);
            text.extend(format!("Mode: {mode:o}\n").into_bytes());
        }
    }
    text.extend(SEPARATOR);
    Ok(())
}

/// Encodes the content of a file as complete lines.
fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let (line, has_newline) = match line.strip_suffix(b"\n") {
            Some(line) => (line, true),
            None => (line, false),
        };
        let mut rest = line;
        while let Some(first) = rest.first() {
            if let Some(after) = rest.strip_prefix(NULLBYTE) {
                encoded.extend([b"\\", NULLBYTE].concat());
                rest = after;
            } else if *first == 0 {
                encoded.extend(NULLBYTE);
                rest = &rest[1..];
            } else if has_newline && rest == EOF {
                encoded.extend([b"\\", EOF].concat());
                rest = &[];
            } else {
                encoded.push(*first);
                rest = &rest[1..];
            }
        }
        if !has_newline {
            encoded.extend(EOF);
        }
        encoded.push(b'\n');
    }
    encoded
}

/// Decodes the content of a file. The error is the index of a line that ends the file although more
/// lines follow.
fn decode(encoded: &[u8]) -> std::result::Result<Vec<u8>, usize> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut lines = encoded.split_inclusive(|byte| *byte == b'\n').enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let (line, end): (_, &[u8]) = match line.strip_suffix(EOF) {
            Some(line) => match line.strip_suffix(b"\\") {
                Some(line) => (line, b"EOF\n"),
                None => (line, b""),
            },
            None => (line, b"\n"),
        };
        let mut rest = line;
        while let Some(first) = rest.first() {
            if let Some(after) = rest.strip_prefix(b"\\NULLBYTE") {
                bytes.extend(NULLBYTE);
                rest = after;
            } else if let Some(after) = rest.strip_prefix(NULLBYTE) {
                bytes.push(0);
                rest = after;
            } else {
                bytes.push(*first);
                rest = &rest[1..];
            }
        }
        bytes.extend(end);
        if end.is_empty() && lines.next().is_some() {
            return Err(number);
        }
    }
    Ok(bytes)
}

fn path_from(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

/// Splits a text into lines and counts them.
struct Lines<'a> {
    text: &'a [u8],
    /// Number of the last line that was read, from 1.
    number: usize,
}

impl<'a> Lines<'a> {
    /// The next line without its newline.
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.text.is_empty() {
            return None;
        }
        self.number += 1;
        let end = self.text.iter().position(|byte| *byte == b'\n');
        let (line, rest) = match end {
            Some(end) => (&self.text[..end], &self.text[end + 1..]),
            None => (self.text, [].as_slice()),
        };
        self.text = rest;
        Some(line)
    }

    /// Parses what follows the line with a path: a link target, or the contents and mode of a file.
    fn content(&mut self) -> Result<Content> {
        let line = self.next().unwrap_or_default();
        if let Some(target) = line.strip_prefix(b"SymlinkTo: ") {
            return Ok(Content::Symlink(path_from(target)));
        }
        let count = line.strip_prefix(b"Lines: ").and_then(number::<10>);
        let Some(count) = count else {
            return Err(self.error("expected \"Lines: NUMBER\" or \"SymlinkTo: TARGET\""));
        };
        let first = self.number + 1;
        let encoded = self.text;
        for _ in 0..count {
            self.next()
                .ok_or_else(|| self.error(format!("expected {count} lines of contents")))?;
        }
        let encoded = &encoded[..encoded.len() - self.text.len()];
        let bytes = decode(encoded)
            .map_err(|line| Error::syntax(first + line, "EOF before the last line of a file"))?;
        let mode = self.mode()?;
        Ok(Content::File { bytes, mode })
    }

    fn mode(&mut self) -> Result<u32> {
        let line = self.next().unwrap_or_default();
        let mode = line.strip_prefix(b"Mode: ").and_then(number::<8>);
        mode.filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| self.error("expected \"Mode: OCTAL\""))
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        Error::syntax(self.number, reason)
    }
}

fn number<const RADIX: u32>(digits: &[u8]) -> Option<u32> {
    let digits = OsStr::from_bytes(digits).to_str()?;
    u32::from_str_radix(digits, RADIX).ok()
}

#[cfg(test)]
mod tests {
    use crate::Archive;

    #[test]
    fn output_matches_ttar() {
        let text = "\
# Archive created by ttar -c
Directory: proc
Mode: 775
# ttar - - -
Path: proc/cmdline
Lines: 1
vimNULLBYTEtest.goNULLBYTEEOF
Mode: 644
# ttar - - -
Path: proc/cwd
SymlinkTo: /usr/bin
# ttar - - -
";
        let archive = Archive::parse(text.as_bytes()).unwrap();
        let text = String::from_utf8(archive.to_text().unwrap()).unwrap();
        let separator = String::from_utf8_lossy(super::SEPARATOR);
        assert_eq!(
            text.replace(&*separator, "--\n"),
            "Directory: proc\nMode: 775\n--\n\
             Path: proc/cmdline\nLines: 1\nvimNULLBYTEtest.goNULLBYTEEOF\nMode: 644\n--\n\
             Path: proc/cwd\nSymlinkTo: /usr/bin\n--\n"
        );
    }

    #[test]
    fn errors_name_the_line() {
        for (text, error) in [
            (
                "x\n",
                "line 1: expected \"Path: \", \"Directory: \" or a comment",
            ),
            (
                "Path: a\n",
                "line 1: expected \"Lines: NUMBER\" or \"SymlinkTo: TARGET\"",
            ),
            (
                "Path: a\nLines: x\n",
                "line 2: expected \"Lines: NUMBER\" or \"SymlinkTo: TARGET\"",
            ),
            (
                "Path: a\nLines: 2\n1\n",
                "line 3: expected 2 lines of contents",
            ),
            ("Path: a\nLines: 1\n1\n", "line 3: expected \"Mode: OCTAL\""),
            (
                "Path: a\nLines: 1\n1\nMode: 648\n",
                "line 4: expected \"Mode: OCTAL\"",
            ),
            (
                "Path: a\nLines: 2\n1EOF\n2\nMode: 644\n",
                "line 3: EOF before the last line of a file",
            ),
            (
                "Directory: a\nMode: 77777\n",
                "line 2: expected \"Mode: OCTAL\"",
            ),
            (
                "# a\n\nDirectory: ..\nMode: 755\n",
                "line 3: ..: leads out of the directory",
            ),
        ] {
            let actual = Archive::parse(text.as_bytes()).unwrap_err();
            assert_eq!(actual.to_string(), error, "{text:?}");
        }
    }
}
