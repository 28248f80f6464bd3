//! Text files of the kernel, with errors that name the file and line.

use std::{
    borrow::Cow,
    fmt::Display,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::error::{Error, Result};

/// The content of a file, with its path.
///
/// Bytes that are not UTF-8, for example in names of mount points, are replaced by U+FFFD.
#[derive(Debug)]
pub struct Text {
    path: PathBuf,
    body: String,
}

impl Text {
    pub(super) fn new(path: PathBuf, body: &[u8]) -> Self {
        Self {
            path,
            body: String::from_utf8_lossy(body).into_owned(),
        }
    }

    /// Content of the file.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// Content of the file without surrounding white space: the value of a sysfs attribute.
    #[must_use]
    pub fn trimmed(&self) -> &str {
        self.body.trim()
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Parses the whole file as one number.
    pub fn parse_number<T: FromStr>(&self) -> Result<T> {
        let text = self.trimmed();
        text.parse()
            .map_err(|_| self.error(1, format_args!("not a number: {text:?}")))
    }

    /// Iterates over the lines, each split into fields at white space.
    pub fn lines(&self) -> impl Iterator<Item = Fields<'_>> {
        self.body
            .lines()
            .enumerate()
            .map(|(i, line)| Fields::new(self, i + 1, line))
    }

    /// Returns the first line, split into fields at white space.
    pub fn line(&self) -> Result<Fields<'_>> {
        self.lines()
            .next()
            .ok_or_else(|| self.error(1, "file is empty"))
    }

    /// Creates an error about a line of this file.
    pub fn error(&self, line: usize, reason: impl Display) -> Error {
        Error::Parse {
            path: self.path.clone(),
            line,
            reason: reason.to_string(),
        }
    }
}

#[cfg(test)]
impl From<&str> for Text {
    fn from(body: &str) -> Self {
        Self::new("test".into(), body.as_bytes())
    }
}

/// The remaining fields of one line.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    text: &'a Text,
    number: usize,
    rest: &'a str,
}

impl<'a> Fields<'a> {
    fn new(text: &'a Text, number: usize, line: &'a str) -> Self {
        Self {
            text,
            number,
            rest: line,
        }
    }

    /// Returns the rest of the line without surrounding white space.
    #[must_use]
    pub fn rest(&self) -> &'a str {
        self.rest.trim_ascii()
    }

    /// Takes the next field, if there is one.
    pub fn next_word(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_ascii_start();
        if rest.is_empty() {
            return None;
        }
        let end = rest
            .bytes()
            .position(|b| b.is_ascii_whitespace())
            .unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        Some(word)
    }

    /// Takes the next field.
    pub fn word(&mut self, name: &str) -> Result<&'a str> {
        self.next_word()
            .ok_or_else(|| self.error(format_args!("{name} is missing")))
    }

    /// Parses the next field as a number.
    pub fn parse<T: FromStr>(&mut self, name: &str) -> Result<T> {
        let word = self.word(name)?;
        self.parse_word(word, name)
    }

    /// Parses the next field as a number; `None` if the line ends, as in older kernels.
    pub fn parse_opt<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        match self.next_word() {
            Some(word) => self.parse_word(word, name).map(Some),
            None => Ok(None),
        }
    }

    /// Parses a word of this line as a number.
    pub fn parse_word<T: FromStr>(&self, word: &str, name: &str) -> Result<T> {
        word.parse()
            .map_err(|_| self.error(format_args!("{name} is not a number: {word:?}")))
    }

    /// Parses a word of this line as a hexadecimal number without `0x`.
    pub fn parse_hex(&self, word: &str, name: &str) -> Result<u64> {
        u64::from_str_radix(word, 16)
            .map_err(|_| self.error(format_args!("{name} is not a hexadecimal number: {word:?}")))
    }

    /// Creates an error about this line.
    pub fn error(&self, reason: impl Display) -> Error {
        self.text.error(self.number, reason)
    }
}

/// Decodes a path from a kernel table, where white space and backslashes are octal escapes such as
/// `\040`.
#[must_use]
pub fn unescape_octal(path: &str) -> Cow<'_, str> {
    let mut parts = path.split('\\');
    let first = parts.next().unwrap_or_default();
    if first.len() == path.len() {
        return path.into();
    }
    let mut unescaped = first.to_owned();
    for part in parts {
        let escaped = part.split_at_checked(3).and_then(|(digits, rest)| {
            let code = u8::from_str_radix(digits, 8).ok()?;
            code.is_ascii().then_some((char::from(code), rest))
        });
        let (c, rest) = escaped.unwrap_or(('\\', part));
        unescaped.push(c);
        unescaped.push_str(rest);
    }
    unescaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_in_order() {
        let text = Text::from("  a 7\tx y \n\n");
        let mut line = text.line().unwrap();
        assert_eq!(line.word("name").unwrap(), "a");
        assert_eq!(line.parse::<u64>("count").unwrap(), 7);
        assert_eq!(line.rest(), "x y");
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn error_names_file_and_line() {
        let text = Text::from("1\n2x 4\n");
        let mut line = text.lines().nth(1).unwrap();
        let error = line.parse::<u64>("size").unwrap_err();
        assert_eq!(error.to_string(), r#"test:2: size is not a number: "2x""#);
        let missing = Text::from("\n").line().unwrap().word("size").unwrap_err();
        assert_eq!(missing.to_string(), "test:1: size is missing");
        let empty = Text::from("").line().unwrap_err();
        assert_eq!(empty.to_string(), "test:1: file is empty");
    }

    #[test]
    fn non_utf8_bytes_are_replaced() {
        let text = Text::new("test".into(), b"a\xff 1\n");
        assert_eq!(text.body(), "a\u{fffd} 1\n");
    }

    #[test]
    fn only_valid_escapes_are_decoded() {
        for (escaped, path) in [
            ("/plain/ä", "/plain/ä"),
            (r"/my\040swap\011\134x", "/my swap\t\\x"),
            (r"\040", " "),
            (r"/odd\0x\777\", r"/odd\0x\777\"),
            (r"/ä\04ä", r"/ä\04ä"),
        ] {
            assert_eq!(unescape_octal(escaped), path);
        }
    }
}
