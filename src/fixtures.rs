//! Access to the files in `tests/fixtures` and `fuzz/seeds` in unit tests.

#![allow(clippy::disallowed_methods, reason = "tests read files as they are")]

use std::{
    env,
    path::{Path, PathBuf},
};

/// Returns the unpacked fixture files of a machine. All tests share them.
pub(crate) fn fixture(machine: &str) -> PathBuf {
    let archives = ttar::archive_files(&manifest_dir().join("tests/fixtures").join(machine));
    // Unit tests have no CARGO_TARGET_TMPDIR. They run in target/PROFILE/deps.
    let program = env::current_exe().unwrap();
    let target = program.ancestors().nth(3).map(|target| target.join("tmp"));
    let parent = target.filter(|_| program.parent().is_some_and(|it| it.ends_with("deps")));
    let parent = parent.unwrap_or_else(env::temp_dir).join("fixtures");
    ttar::unpacked(machine, &archives.unwrap(), &parent).unwrap()
}

/// Returns a reply or an event that libvirt sent, without the message header.
pub(crate) fn libvirt_body(name: &str) -> Vec<u8> {
    /// The length and the six numbers that `remote_protocol.x` defines before each body.
    const HEADER: usize = 28;
    let path = format!("fuzz/seeds/libvirt_rpc/{name}.hex");
    let text = std::fs::read_to_string(manifest_dir().join(&path));
    let mut message = from_hex(&text.unwrap_or_else(|error| panic!("{path}: {error}")));
    message.split_off(HEADER)
}

/// Decodes hexadecimal digits, with white space between them and comments after `#`.
pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let digits: String = lines.collect::<String>().split_whitespace().collect();
    let digits = digits.as_bytes();
    assert!(digits.len().is_multiple_of(2), "odd number of digits");
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The root of the repository.
pub(crate) fn manifest_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
