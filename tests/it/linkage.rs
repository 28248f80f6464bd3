//! Shared libraries that the binary needs.

#![cfg(not(feature = "virt"))]

use std::process::Command;

/// Libraries of glibc and the compiler, which every machine has.
const EVERYWHERE: [&str; 5] = [
    "linux-vdso.so",
    "libc.so",
    "libm.so",
    "libgcc_s.so",
    "ld-linux",
];

#[test]
fn binary_does_not_link_libvirt() {
    let binary = env!("CARGO_BIN_EXE_strata_exporter");
    let needs = Command::new("ldd").arg(binary).output().unwrap();
    let needs = String::from_utf8(needs.stdout).unwrap();
    assert!(needs.contains("libc.so"), "{needs}");
    let is_known = |line: &&str| EVERYWHERE.iter().any(|name| line.contains(name));
    let others: Vec<_> = needs.lines().filter(|line| !is_known(line)).collect();
    assert!(others.is_empty(), "{others:?}");
}
