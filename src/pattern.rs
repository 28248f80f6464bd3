//! Regular expressions given by flags, and the pairs of them that choose devices.

use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};

/// A regular expression as `node_exporter` takes it: found anywhere in the text
/// unless it says `^` and `$`, with ASCII classes.
///
/// The empty one matches nothing: that is how a default is switched off.
#[derive(Debug, Clone, Default)]
pub struct Pattern(Option<Regex>);

impl Pattern {
    /// Whether the text matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0
            .as_ref()
            .is_some_and(|regex| regex.is_match(text.as_bytes()))
    }

    /// Whether it is the empty pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The same pattern, but for the whole text.
    #[must_use]
    pub fn anchored(&self) -> Self {
        let whole = |regex: &Regex| compile(&format!("^(?:{})$", regex.as_str())).ok();
        Self(self.0.as_ref().and_then(whole))
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() {
            return Ok(Self(None));
        }
        compile(pattern).map(|regex| Self(Some(regex)))
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    // Of bytes, for only there can `\d` be ASCII and `.` still be anything.
    let compiled = RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(1 << 20)
        .build();
    compiled.map_err(|error| {
        // The parser draws an arrow below the pattern; its last line says what is wrong.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default();
        format!(
            "not a regular expression: {}",
            reason.trim_start_matches("error: ")
        )
    })
}

/// Chooses devices, or whatever has a name, by one pattern or its opposite.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    include: Pattern,
    exclude: Pattern,
}

impl Filter {
    /// Makes a filter of the values of two flags, of which one may be given.
    ///
    /// `default` is what is excluded when neither is; giving `include` drops it.
    /// The flags' names are for the error.
    pub fn new(
        (include_flag, include): (&str, Option<Pattern>),
        (exclude_flag, exclude): (&str, Option<Pattern>),
        default: &str,
    ) -> Result<Self, String> {
        let include = include.unwrap_or_default();
        if include.is_empty() {
            let exclude = exclude.map_or_else(|| default.parse(), Ok)?;
            return Ok(Self { include, exclude });
        }
        let exclude = exclude.unwrap_or_default();
        if exclude.is_empty() {
            return Ok(Self { include, exclude });
        }
        Err(format!(
            "--{include_flag} and --{exclude_flag} exclude each other: give one of them"
        ))
    }

    /// Whether this one was chosen.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        !self.exclude.matches(name) && (self.include.is_empty() || self.include.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Option<Pattern> {
        text.parse().ok()
    }

    #[test]
    fn a_pattern_is_searched_for_not_anchored() {
        let veth: Pattern = "veth".parse().unwrap();
        assert!(veth.matches("myveth0"));
        assert!(!veth.anchored().matches("myveth0"));
        assert!(!Pattern::default().matches(""));
    }

    #[test]
    fn classes_are_ascii_and_a_dot_is_anything() {
        let partition: Pattern = r"^nvme\d+n\d+p\d+$".parse().unwrap();
        assert!(partition.matches("nvme0n1p2") && !partition.matches("nvme0n1p\u{662}"));
        let anything: Pattern = "^/mnt/.+[^a]\u{e9}$".parse().unwrap();
        assert!(anything.matches("/mnt/caf\u{e9}s\u{e9}"));
    }

    #[test]
    fn including_something_drops_the_default() {
        let neither = Filter::new(("i", None), ("e", None), "^loop").unwrap();
        assert!(neither.matches("sda") && !neither.matches("loop0"));
        let include = Filter::new(("i", pattern("^loop")), ("e", None), "^loop").unwrap();
        assert!(!include.matches("sda") && include.matches("loop0"));
        let nothing_excluded = Filter::new(("i", None), ("e", pattern("")), "^loop").unwrap();
        assert!(nothing_excluded.matches("loop0"));
    }

    #[test]
    fn both_flags_are_one_clear_line() {
        let error = Filter::new(("a.b", pattern("x")), ("a.c", pattern("y")), "").unwrap_err();
        assert_eq!(
            error,
            "--a.b and --a.c exclude each other: give one of them"
        );
        assert!(Filter::new(("i", pattern("x")), ("e", pattern("")), "").is_ok());
    }

    #[test]
    fn a_broken_pattern_says_so_in_one_line() {
        let error = "a(b".parse::<Pattern>().unwrap_err();
        assert_eq!(error, "not a regular expression: unclosed group");
    }
}
