//! Kernel parameters selected by flags, from `/proc/sys`, documented in `proc_sys(5)`.
//!
//! Keys are written as for `sysctl(8)`: the first of `.` and `/` in a key is the separator, and
//! the other one is literal, as in `net.ipv4.conf.eth0/1.forwarding`.

use std::str::FromStr;

use crate::{
    collector::Collector,
    error::Result,
    family::{Families, Value},
    metric::Desc,
    metrics,
    sources::{Snapshot, Text},
};

use super::sanitize::sanitize_name;

metrics! {
    /// Kernel parameter *.
    NUMBER: Unknown = "node_sysctl_*" [];
    /// Kernel parameter * with several numeric values, by index.
    NUMBERS: Unknown = "node_sysctl_*" ["index"];
    /// Kernel parameter with a text value; each word is a series.
    WORD: Info = "node_sysctl_info" ["name", "value", "index"];
}

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct SysctlFlags {
    /// Kernel parameter with one or more numeric values, which NAMES distinguish; can be repeated.
    #[arg(long = "collector.sysctl.include", value_name = "KEY[:NAMES]")]
    sysctl_include: Vec<SysctlKey>,
    /// Kernel parameter with a text value; can be repeated.
    #[arg(long = "collector.sysctl.include-info", value_name = "KEY")]
    sysctl_include_info: Vec<SysctlKey>,
}

#[derive(Debug)]
pub(super) struct Sysctl {
    numbers: Vec<SysctlKey>,
    texts: Vec<SysctlKey>,
}

impl Collector for Sysctl {
    const NAME: &'static str = "sysctl";
    const ABOUT: &'static str = "kernel parameters selected by flags";
    const ENABLED: bool = false;
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = SysctlFlags;

    fn new(flags: SysctlFlags) -> Result<Self, String> {
        if let Some(key) = flags
            .sysctl_include_info
            .iter()
            .find(|k| !k.value_names.is_empty())
        {
            return Err(format!(
                "--collector.sysctl.include-info: value names are not supported: {}:{}",
                key.name,
                key.value_names.join(",")
            ));
        }
        Ok(Self {
            numbers: dedup_keys(flags.sysctl_include),
            texts: dedup_keys(flags.sysctl_include_info),
        })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        // A missing key is reported, because the user named it explicitly.
        for key in &self.numbers {
            let read = snapshot.read_proc(&key.path);
            if let Err(error) = read.and_then(|text| add_numbers(&mut out, key, &text)) {
                out.record_error(error);
            }
        }
        for key in &self.texts {
            match snapshot.read_proc(&key.path) {
                Ok(text) => add_words(&mut out, key, &text),
                Err(error) => out.record_error(error),
            }
        }
        Ok(out)
    }
}

/// Removes duplicates; a repeated key would yield duplicate series.
fn dedup_keys(keys: Vec<SysctlKey>) -> Vec<SysctlKey> {
    let mut unique = Vec::new();
    for key in keys {
        if !unique.contains(&key) {
            unique.push(key);
        }
    }
    unique
}

/// A kernel parameter named by a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SysctlKey {
    /// Name in the exposition, separated by dots.
    name: String,
    /// Path relative to the procfs mount.
    path: String,
    /// Names of the values; empty if the flag has none.
    value_names: Vec<String>,
}

impl FromStr for SysctlKey {
    type Err = &'static str;

    fn from_str(flag: &str) -> Result<Self, Self::Err> {
        let (key, value_names) = match flag.split_once(':') {
            Some((key, words)) => (key, words.split(',').map(str::to_owned).collect()),
            None => (flag, Vec::new()),
        };
        let swap = |c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        };
        let path: String = match key.chars().find(|c| matches!(c, '.' | '/')) {
            Some('.') => key.chars().map(swap).collect(),
            _ => key.to_owned(),
        };
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("invalid key (expected a name such as kernel.threads-max)");
        }
        let is_word = |word: &String| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if !value_names.iter().all(is_word) {
            return Err("invalid value name (only letters, digits and _ are allowed)");
        }
        if (1..value_names.len()).any(|i| value_names[i..].contains(&value_names[i - 1])) {
            return Err("duplicate value name");
        }
        Ok(Self {
            name: key.replace('/', "."),
            path: format!("sys/{path}"),
            value_names,
        })
    }
}

fn add_numbers(out: &mut Families, key: &SysctlKey, text: &Text) -> Result<()> {
    let mut values = Vec::new();
    for (number, line) in (1..).zip(text.body().lines()) {
        for word in line.split_ascii_whitespace() {
            let value: Value = word
                .parse()
                .map_err(|_| text.error(number, format_args!("invalid number {word:?}")))?;
            values.push(value);
        }
    }
    if !key.value_names.is_empty() {
        if key.value_names.len() != values.len() {
            let (names, values) = (key.value_names.len(), values.len());
            let reason =
                format_args!("expected {names} values as named by the flag, found {values}");
            return Err(text.error(1, reason));
        }
        for (word, value) in key.value_names.iter().zip(values) {
            out.add_named(
                &NUMBER,
                &sanitize_name(&format!("{}.{word}", key.name)),
                [],
                value,
            );
        }
        return Ok(());
    }
    let name = sanitize_name(&key.name);
    match values[..] {
        [value] => out.add_named(&NUMBER, &name, [], value),
        _ => {
            for (index, value) in values.into_iter().enumerate() {
                out.add_named(&NUMBERS, &name, [&index.to_string()], value);
            }
        }
    }
    Ok(())
}

fn add_words(out: &mut Families, key: &SysctlKey, text: &Text) {
    for (index, word) in text.body().split_whitespace().enumerate() {
        out.add(&WORD, [&key.name, word, &index.to_string()], true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(flag: &str) -> SysctlKey {
        flag.parse().unwrap()
    }

    fn numbers(flag: &str, body: &str) -> Result<Vec<String>, String> {
        let mut out = Families::default();
        add_numbers(&mut out, &key(flag), &Text::from(body)).map_err(|e| e.to_string())?;
        Ok(out.lines())
    }

    #[test]
    fn first_separator_determines_key_syntax() {
        for (flag, path) in [
            ("kernel.threads-max", "sys/kernel/threads-max"),
            ("kernel/threads-max", "sys/kernel/threads-max"),
            ("net.ipv4.conf.eth0/1.mtu", "sys/net/ipv4/conf/eth0.1/mtu"),
            ("net/ipv4/conf/eth0.1/mtu", "sys/net/ipv4/conf/eth0.1/mtu"),
            ("solo", "sys/solo"),
        ] {
            assert_eq!(key(flag).path, path);
        }
        assert_eq!(key("fs/file-nr").name, "fs.file-nr");
        assert_eq!(key("fs.file-nr:a,b").value_names, ["a", "b"]);
    }

    #[test]
    fn rejects_invalid_flags() {
        for flag in [
            "",
            ":a",
            "a:",
            "a:b,",
            "a:b:c",
            "a..b",
            ".a",
            "a.",
            "/etc/passwd",
            "a/../b",
            "a:b,c,b",
            "a:b-c",
        ] {
            assert!(flag.parse::<SysctlKey>().is_err(), "{flag}");
        }
        let flags = SysctlFlags {
            sysctl_include: vec![key("a"), key("b"), key("a")],
            sysctl_include_info: vec![key("a.b:c,d")],
        };
        let error = Sysctl::new(flags).unwrap_err();
        assert_eq!(
            error,
            "--collector.sysctl.include-info: value names are not supported: a.b:c,d"
        );
        assert_eq!(dedup_keys(vec![key("a.b"), key("c"), key("a.b")]).len(), 2);
    }

    #[test]
    fn several_numbers_have_an_index_or_a_name() {
        assert_eq!(
            numbers("kernel.threads-max", "192730\n").unwrap(),
            ["node_sysctl_kernel_threads_max 192730"]
        );
        assert_eq!(
            numbers("fs.file-nr", "1024\t-1\t18446744073709551615\n").unwrap(),
            [
                r#"node_sysctl_fs_file_nr{index="0"} 1024"#,
                r#"node_sysctl_fs_file_nr{index="1"} -1"#,
                r#"node_sysctl_fs_file_nr{index="2"} 18446744073709551615"#,
            ]
        );
        assert_eq!(
            numbers("fs.file-nr:total,max", "1024\t7\n").unwrap(),
            [
                "node_sysctl_fs_file_nr_total 1024",
                "node_sysctl_fs_file_nr_max 7"
            ]
        );
        assert_eq!(numbers("a.b", "\n").unwrap(), [""; 0]);
    }

    #[test]
    fn parameter_not_matching_flag_is_dropped() {
        let error = numbers("a.b", "1\n2 x\n").unwrap_err();
        assert_eq!(error, r#"test:2: invalid number "x""#);
        let error = numbers("a.b:c,d", "1 2 3\n").unwrap_err();
        assert_eq!(
            error,
            "test:1: expected 2 values as named by the flag, found 3"
        );
    }

    #[test]
    fn every_word_of_a_text_is_a_series() {
        let mut out = Families::default();
        add_words(
            &mut out,
            &key("kernel/seccomp/actions_avail"),
            &Text::from("kill trap\n"),
        );
        assert_eq!(
            out.lines(),
            [
                r#"node_sysctl_info{name="kernel.seccomp.actions_avail",value="kill",index="0"} 1"#,
                r#"node_sysctl_info{name="kernel.seccomp.actions_avail",value="trap",index="1"} 1"#,
            ]
        );
    }
}
