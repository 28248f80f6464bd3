//! Words and phrases that the project does not use, each with the term that it does use.

use std::{fs, path::Path, process::Command};

/// Paths that are checked.
const CHECKED: &[&str] = &[
    "src",
    "tests",
    "benches",
    "docs",
    "prometheus",
    "dashboards",
    "examples",
    "crates",
    "fuzz",
    "*.md",
];
/// Paths below them whose text is input or output, not prose.
const NOT_PROSE: &[&str] = &[
    ":!tests/fixtures",
    ":!tests/golden",
    ":!fuzz/seeds",
    ":!dashboards/*.json",
    ":!**/Cargo.lock",
];
/// File with the exceptions: `PATH WORD: reason`, where the word `*` is every word.
const EXCEPTIONS: &str = "xtask/prose_exceptions.txt";

/// Words and phrases, in lower case, and what to write instead.
const PHRASES: &[(&str, &str)] = &[
    (
        "whoever",
        "the component: the scraper, the client, the caller",
    ),
    ("nobody", "no client, no caller, or the passive voice"),
    ("somebody", "a client, another process"),
    ("who may not", "clients without permission"),
    ("anew", "again"),
    ("at hand", "available"),
    ("for want of", "without"),
    ("what is no", "the noun: non-numeric text, an invalid id"),
    ("of those that", "of the"),
    ("kept back", "hidden, dropped"),
    ("mend", "fix"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("told", "reported, returned"),
    ("heard", "received"),
    ("said", "reported, returned, printed"),
    ("asked", "queried, requested"),
    (
        "see the module's documentation",
        "one sentence about the item itself",
    ),
];
/// Type names that are metaphors, and standard terms.
const TYPES: &[(&str, &str)] = &[
    ("Desk", "WorkQueue"),
    ("Looker", "Discovery"),
    ("Crew", "WorkerPool"),
    ("Heard", "events, received state"),
    ("Said", "Response, Message"),
    ("Kept", "Cached, the thing itself"),
    ("Place", "Endpoint, Location, Slot"),
    ("Known", "the thing itself"),
    ("Asked", "Query, Request"),
    ("Room", "Budget, Capacity"),
    ("Moment", "Timestamp, Instant"),
];

/// An accepted use of a word.
struct Exception<'a> {
    path: &'a str,
    word: &'a str,
    line: usize,
}

/// Checks all files that git tracks; the error lists every finding.
#[allow(clippy::disallowed_methods, reason = "files of the repository")]
pub(crate) fn check() -> Result<(), String> {
    let listed = Command::new("git")
        .arg("ls-files")
        .args(["-z", "--"])
        .args(CHECKED)
        .args(NOT_PROSE)
        .output()
        .map_err(|error| format!("git ls-files: {error}"))?;
    if !listed.status.success() {
        return Err(String::from_utf8_lossy(&listed.stderr).into_owned());
    }
    let list = fs::read_to_string(EXCEPTIONS).map_err(|error| format!("{EXCEPTIONS}: {error}"))?;
    let exceptions = parse_exceptions(&list)?;
    let mut used = vec![false; exceptions.len()];
    let mut findings = Vec::new();
    let paths = String::from_utf8_lossy(&listed.stdout).into_owned();
    for path in paths.split_terminator('\0') {
        // Binary files, and files that are deleted but still tracked.
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        for (line, word, suggestion) in find(Path::new(path), &text) {
            let accepted = exceptions
                .iter()
                .position(|it| it.path == path && (it.word == "*" || it.word == word));
            match accepted {
                Some(at) => used[at] = true,
                None => findings.push(format!("{path}:{line}: \"{word}\": write {suggestion}")),
            }
        }
    }
    let unused = exceptions.iter().zip(used).filter(|(_, used)| !used);
    findings.extend(unused.map(|(it, _)| {
        let Exception { path, word, line } = it;
        format!("{EXCEPTIONS}:{line}: {path} does not contain \"{word}\": remove the line")
    }));
    if findings.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{} findings\n{}",
            findings.len(),
            findings.join("\n")
        ))
    }
}

fn parse_exceptions(list: &str) -> Result<Vec<Exception<'_>>, String> {
    let lines = list.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let parsed = lines.map(|(at, line)| {
        let parts = line.split_once(": ").and_then(|(what, reason)| {
            let (path, word) = what.split_once(' ')?;
            (!reason.trim().is_empty()).then_some((path, word))
        });
        let (path, word) =
            parts.ok_or_else(|| format!("{EXCEPTIONS}:{}: expected PATH WORD: reason", at + 1))?;
        let line = at + 1;
        Ok(Exception { path, word, line })
    });
    parsed.collect()
}

/// The line number, the word and the suggestion of each finding.
fn find(path: &Path, text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let is_rust = path.extension().is_some_and(|it| it == "rs");
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let lower = line.to_lowercase();
        let phrases = PHRASES
            .iter()
            .filter(|(word, _)| contains_word(&lower, word));
        found.extend(phrases.map(|(word, suggestion)| (at + 1, *word, *suggestion)));
        if is_rust {
            let types = TYPES.iter().filter(|(name, _)| declares(line, name));
            found.extend(types.map(|(name, suggestion)| (at + 1, *name, *suggestion)));
        }
    }
    found
}

/// Whether this line declares a type of this name.
fn declares(line: &str, name: &str) -> bool {
    ["struct", "enum", "trait", "type"]
        .iter()
        .any(|keyword| contains_word(line, &format!("{keyword} {name}")))
}

/// Whether a text contains a phrase that neither a letter, a digit nor an underscore extends.
fn contains_word(text: &str, phrase: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(phrase).any(|(start, _)| {
        let before = text.get(..start).and_then(|it| it.chars().next_back());
        let after = text
            .get(start + phrase.len()..)
            .and_then(|it| it.chars().next());
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::{find, parse_exceptions};
    use std::path::Path;

    fn words(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        let found = find(Path::new(path), text);
        found
            .into_iter()
            .map(|(line, word, _)| (line, word))
            .collect()
    }

    #[test]
    fn phrases_are_found_as_whole_words() {
        assert_eq!(
            words(
                "a.md",
                "Whoever\nis told. Untold recommendations, for_want of a renewal."
            ),
            [(1, "whoever"), (2, "told")]
        );
    }

    #[test]
    fn type_names_are_found_where_declared_in_rust() {
        let text = "pub struct Place {\nlet place: Place;\nstruct Places;";
        assert_eq!(words("a.rs", text), [(1, "Place")]);
        assert_eq!(words("a.py", text), []);
    }

    #[test]
    fn exceptions_need_a_reason() {
        let list = "# comment\n\nsrc/a.rs told: text of an API\n";
        let parsed = parse_exceptions(list).ok().unwrap();
        assert_eq!(
            (parsed[0].path, parsed[0].word, parsed[0].line),
            ("src/a.rs", "told", 3)
        );
        for invalid in ["src/a.rs told", "src/a.rs: reason", "src/a.rs told: "] {
            assert!(parse_exceptions(invalid).is_err(), "{invalid}");
        }
    }
}
