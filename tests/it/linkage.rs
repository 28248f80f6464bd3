//! What the binary needs of the machine that it starts on.

#![cfg(not(feature = "virt"))]

use std::process::Command;

/// glibc's and the compiler's, which every machine has.
const EVERYWHERE: [&str; 5] = [
    "linux-vdso.so",
    "libc.so",
    "libm.so",
    "libgcc_s.so",
    "ld-linux",
];

#[test]
fn it_starts_where_there_is_no_library_of_libvirts() {
    let binary = env!("CARGO_BIN_EXE_strata_exporter");
    let needs = Command::new("ldd").arg(binary).output().unwrap();
    let needs = String::from_utf8(needs.stdout).unwrap();
    assert!(needs.contains("libc.so"), "{needs}");
    let is_known = |line: &&str| EVERYWHERE.iter().any(|name| line.contains(name));
    let others: Vec<_> = needs.lines().filter(|line| !is_known(line)).collect();
    assert!(others.is_empty(), "{others:?}");
}
