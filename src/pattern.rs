//! Regular expressions in flags, and pairs of them that select devices.

use std::str::FromStr;

use regex::bytes::{Regex, RegexBuilder};

/// A regular expression with `node_exporter`'s semantics: not anchored unless it contains `^` and
/// `$`, with ASCII character classes.
///
/// The empty pattern matches nothing, so that it disables a default.
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

    /// The same pattern, anchored to match the whole text.
    #[must_use]
    pub fn anchored(&self) -> Self {
        let anchored = |regex: &Regex| compile(&format!("^(?:{})$", regex.as_str())).ok();
        Self(self.0.as_ref().and_then(anchored))
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
    // On bytes: only there can `\d` be ASCII while `.` matches any character.
    let compiled = RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(1 << 20)
        .build();
    compiled.map_err(|error| {
        // The parser draws an arrow below the pattern; the last line has the reason.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default();
        format!(
            "invalid regular expression: {}",
            reason.trim_start_matches("error: ")
        )
    })
}

/// Selects devices or other names by an include or an exclude pattern.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    include: Pattern,
    exclude: Pattern,
}

impl Filter {
    /// Creates a filter from the values of two flags, of which at most one may be set.
    ///
    /// `default` is excluded if neither is set; setting `include` disables it. The names of the
    /// flags are used in the error.
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
            "--{include_flag} and --{exclude_flag} are mutually exclusive"
        ))
    }

    /// Whether this name is selected.
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
    fn pattern_is_not_anchored() {
        let veth: Pattern = "veth".parse().unwrap();
        assert!(veth.matches("myveth0"));
        assert!(!veth.anchored().matches("myveth0"));
        assert!(!Pattern::default().matches(""));
    }

    #[test]
    fn classes_are_ascii_and_dot_matches_any_character() {
        let partition: Pattern = r"^nvme\d+n\d+p\d+$".parse().unwrap();
        assert!(partition.matches("nvme0n1p2") && !partition.matches("nvme0n1p\u{662}"));
        let anything: Pattern = "^/mnt/.+[^a]\u{e9}$".parse().unwrap();
        assert!(anything.matches("/mnt/caf\u{e9}s\u{e9}"));
    }

    #[test]
    fn include_disables_default_exclude() {
        let neither = Filter::new(("i", None), ("e", None), "^loop").unwrap();
        assert!(neither.matches("sda") && !neither.matches("loop0"));
        let include = Filter::new(("i", pattern("^loop")), ("e", None), "^loop").unwrap();
        assert!(!include.matches("sda") && include.matches("loop0"));
        let nothing_excluded = Filter::new(("i", None), ("e", pattern("")), "^loop").unwrap();
        assert!(nothing_excluded.matches("loop0"));
    }

    #[test]
    fn include_and_exclude_conflict() {
        let error = Filter::new(("a.b", pattern("x")), ("a.c", pattern("y")), "").unwrap_err();
        assert_eq!(error, "--a.b and --a.c are mutually exclusive");
        assert!(Filter::new(("i", pattern("x")), ("e", pattern("")), "").is_ok());
    }

    #[test]
    fn error_of_invalid_pattern_is_one_line() {
        let error = "a(b".parse::<Pattern>().unwrap_err();
        assert_eq!(error, "invalid regular expression: unclosed group");
    }
}
