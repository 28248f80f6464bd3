//! Text files of the kernel, with errors that say where in which file.

use std::{
    borrow::Cow,
    fmt::Display,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::error::{Error, Result};

/// The contents of a file that remember which file it was.
///
/// Bytes that are not UTF-8, as in the names people give to mount points, have
/// become U+FFFD.
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

    /// Everything the file says.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// Everything the file says, without white space around it: what an attribute
    /// in sysfs means.
    #[must_use]
    pub fn trimmed(&self) -> &str {
        self.body.trim()
    }

    /// The file that was read.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file as one number.
    pub fn parse_number<T: FromStr>(&self) -> Result<T> {
        let text = self.trimmed();
        text.parse()
            .map_err(|_| self.error(1, format_args!("not a number: {text:?}")))
    }

    /// The file's lines, each split into fields at white space.
    pub fn lines(&self) -> impl Iterator<Item = Fields<'_>> {
        self.body
            .lines()
            .enumerate()
            .map(|(i, line)| Fields::new(self, i + 1, line))
    }

    /// The file's first line, split into fields at white space.
    pub fn line(&self) -> Result<Fields<'_>> {
        self.lines()
            .next()
            .ok_or_else(|| self.error(1, "the file is empty"))
    }

    /// An error about a line of this file.
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

/// What is left of one line.
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

    /// What has not been taken yet, without white space around it.
    #[must_use]
    pub fn rest(&self) -> &'a str {
        self.rest.trim_ascii()
    }

    /// The next field as it is, if there is one.
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

    /// The next field as it is.
    pub fn word(&mut self, what: &str) -> Result<&'a str> {
        self.next_word()
            .ok_or_else(|| self.error(format_args!("{what} is missing")))
    }

    /// The next field as a number.
    pub fn parse<T: FromStr>(&mut self, what: &str) -> Result<T> {
        let word = self.word(what)?;
        self.parse_word(word, what)
    }

    /// The next field as a number, or nothing where an older kernel ends the line.
    pub fn parse_opt<T: FromStr>(&mut self, what: &str) -> Result<Option<T>> {
        match self.next_word() {
            Some(word) => self.parse_word(word, what).map(Some),
            None => Ok(None),
        }
    }

    /// A word of this line as a number.
    pub fn parse_word<T: FromStr>(&self, word: &str, what: &str) -> Result<T> {
        word.parse()
            .map_err(|_| self.error(format_args!("{what} is not a number: {word:?}")))
    }

    /// A word of this line as a hexadecimal number, without a `0x` before it.
    pub fn parse_hex(&self, word: &str, what: &str) -> Result<u64> {
        u64::from_str_radix(word, 16)
            .map_err(|_| self.error(format_args!("{what} is not a hexadecimal number: {word:?}")))
    }

    /// An error about this line.
    pub fn error(&self, reason: impl Display) -> Error {
        self.text.error(self.number, reason)
    }
}

/// A path as it is, of one as the kernel writes it between white space: with white
/// space and backslashes as octal escapes, such as `\040`.
#[must_use]
pub fn unescape_octal(path: &str) -> Cow<'_, str> {
    let mut parts = path.split('\\');
    let first = parts.next().unwrap_or_default();
    if first.len() == path.len() {
        return path.into();
    }
    let mut whole = first.to_owned();
    for part in parts {
        let escaped = part.split_at_checked(3).and_then(|(digits, rest)| {
            let code = u8::from_str_radix(digits, 8).ok()?;
            code.is_ascii().then_some((char::from(code), rest))
        });
        let (c, rest) = escaped.unwrap_or(('\\', part));
        whole.push(c);
        whole.push_str(rest);
    }
    whole.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_one_by_one() {
        let text = Text::from("  a 7\tx y \n\n");
        let mut line = text.line().unwrap();
        assert_eq!(line.word("name").unwrap(), "a");
        assert_eq!(line.parse::<u64>("count").unwrap(), 7);
        assert_eq!(line.rest(), "x y");
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn an_error_names_file_and_line() {
        let text = Text::from("1\n2x 4\n");
        let mut line = text.lines().nth(1).unwrap();
        let error = line.parse::<u64>("size").unwrap_err();
        assert_eq!(error.to_string(), r#"test:2: size is not a number: "2x""#);
        let missing = Text::from("\n").line().unwrap().word("size").unwrap_err();
        assert_eq!(missing.to_string(), "test:1: size is missing");
        let empty = Text::from("").line().unwrap_err();
        assert_eq!(empty.to_string(), "test:1: the file is empty");
    }

    #[test]
    fn bytes_that_are_not_text_do_not_lose_the_rest() {
        let text = Text::new("test".into(), b"a\xff 1\n");
        assert_eq!(text.body(), "a\u{fffd} 1\n");
    }

    #[test]
    fn only_what_is_an_escape_is_taken_for_one() {
        for (written, path) in [
            ("/plain/ä", "/plain/ä"),
            (r"/my\040swap\011\134x", "/my swap\t\\x"),
            (r"\040", " "),
            (r"/odd\0x\777\", r"/odd\0x\777\"),
            (r"/ä\04ä", r"/ä\04ä"),
        ] {
            assert_eq!(unescape_octal(written), path);
        }
    }
}
