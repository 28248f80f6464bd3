//! Name and version of the operating system: the file documented in `os-release(5)`.

use super::{Snapshot, Text};
use crate::error::{Error, Result};

impl Snapshot {
    /// Returns the file of the operating system's names and versions: the administrator's, else
    /// the vendor's.
    pub fn os_release(&self) -> Result<Text> {
        match self.read_rootfs("etc/os-release") {
            Err(Error::NotFound(_)) => self.read_rootfs("usr/lib/os-release"),
            release => release,
        }
    }

    /// Returns the human-readable name and version of the operating system, if there is one.
    pub fn os_name(&self) -> Result<Option<String>> {
        let release = self.os_release()?;
        let mut lines = release.body().lines();
        let name = lines.find_map(|line| line.trim().strip_prefix("PRETTY_NAME="));
        Ok(name.and_then(unquote))
    }
}

/// Unquotes a value as a shell does; `None` if a quote is not closed.
#[must_use]
pub fn unquote(value: &str) -> Option<String> {
    let mut quote = None;
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            ('\\', Some('"')) => match chars.next()? {
                c @ ('"' | '\\' | '$' | '`') => plain.push(c),
                c => plain.extend(['\\', c]),
            },
            ('\\', None) => plain.push(chars.next()?),
            (c, _) => plain.push(c),
        }
    }
    quote.is_none().then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_unquoted_as_in_a_shell() {
        for (quoted, plain) in [
            ("debian", Some("debian")),
            ("", Some("")),
            (r#""a \"b\" \$c \\ \d""#, Some(r#"a "b" $c \ \d"#)),
            (r#"'a \ "b"'"#, Some(r#"a \ "b""#)),
            (r#"a\ b"c"'d'"#, Some("a bcd")),
            (r#""open"#, None),
            (r#""open\""#, None),
        ] {
            assert_eq!(unquote(quoted).as_deref(), plain, "{quoted}");
        }
    }
}
