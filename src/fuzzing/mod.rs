//! Fuzz targets, one for each parser of untrusted bytes: `docs/development/fuzzing.md`.
//!
//! A target takes arbitrary bytes. It panics if the parser panics, or if the parsed value breaks an
//! invariant. `fuzz/` runs the targets under libFuzzer; `seeds` runs them in `cargo test` on the
//! seeds in `fuzz/seeds` and on damaged copies of them.
//!
//! The targets are compiled for tests and with `--cfg fuzzing`, which cargo-fuzz sets. They are
//! not part of the exporter.

#![expect(
    clippy::must_use_candidate,
    reason = "targets report failures by panicking, so the fuzzer ignores their result"
)]

mod exposed;
#[cfg(test)]
mod seeds;
mod tree;

use std::{
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    api,
    collectors::host::{logind, systemd, textfile},
    http,
    sources::fuzzing as sources,
    targets, top, web_ui,
};

use exposed::Invariants;
use tree::collected;

/// A target: its name, and a function that returns how much it parsed, in any unit. A target that
/// returns 0 for all its seeds tests nothing.
#[cfg(test)]
type Target = (&'static str, fn(&[u8]) -> usize);

/// All targets.
#[cfg(test)]
const TARGETS: &[Target] = &[
    ("cgroup_file", cgroup_file),
    ("client_certificate", client_certificate),
    ("collectors", collectors),
    ("dbus", dbus),
    ("engine_http", engine_http),
    ("engine_json", engine_json),
    ("ethtool", ethtool),
    ("file_sd_json", file_sd_json),
    ("file_sd_yaml", file_sd_yaml),
    ("headers", headers),
    ("libvirt_rpc", libvirt_rpc),
    ("libvirt_session", libvirt_session),
    ("libvirt_xml", libvirt_xml),
    ("mountinfo", mountinfo),
    ("netlink", netlink),
    ("query", query),
    ("textfile", textfile),
    ("top", top),
    ("web_config", web_config),
];

/// A cgroup file: `cpu.stat`, `memory.numa_stat` and the like.
pub fn cgroup_file(bytes: &[u8]) -> usize {
    sources::cgroup_files::file(bytes)
}

/// A client certificate.
pub fn client_certificate(bytes: &[u8]) -> usize {
    http::web_config::fuzzing::certificate(bytes)
}

/// Files below `/proc` and `/sys`, and a collector that reads them: see `tree`.
pub fn collectors(bytes: &[u8]) -> usize {
    tree::collect(bytes)
}

/// Replies of systemd or, after an odd byte, of logind.
pub fn dbus(bytes: &[u8]) -> usize {
    let Some((daemon_kind, script)) = bytes.split_first() else {
        return 0;
    };
    let socket = unique_path();
    let result = sources::dbus::talk(script, &socket, |daemon, deadline| match daemon_kind % 2 {
        0 => systemd::collect_with(daemon, deadline),
        _ => logind::collect_with(&daemon, deadline),
    });
    std::fs::remove_file(socket).ok();
    let Some(Ok(families)) = result else {
        return 0;
    };
    // Each seat is in sixty series.
    let max_len = (64 << 10) + 400 * bytes.len();
    let invariants = Invariants {
        series_once: false,
        finite_values: true,
    };
    exposed::check(families, max_len, invariants)
}

/// An HTTP response of an engine.
pub fn engine_http(bytes: &[u8]) -> usize {
    let socket = unique_path();
    let result = sources::engine::http(bytes, &socket);
    std::fs::remove_file(socket).ok();
    result
}

/// JSON of an engine's responses and events.
pub fn engine_json(bytes: &[u8]) -> usize {
    sources::engine::json(bytes)
}

/// Replies of a network driver.
pub fn ethtool(bytes: &[u8]) -> usize {
    sources::ethtool(bytes)
}

/// A targets file in JSON.
pub fn file_sd_json(bytes: &[u8]) -> usize {
    targets::fuzzing::file(bytes, true)
}

/// A targets file in YAML.
pub fn file_sd_yaml(bytes: &[u8]) -> usize {
    targets::fuzzing::file(bytes, false)
}

/// Request headers.
pub fn headers(bytes: &[u8]) -> usize {
    http::fuzzing::headers(bytes)
}

/// Libvirt RPC messages.
pub fn libvirt_rpc(bytes: &[u8]) -> usize {
    sources::libvirt::rpc(bytes)
}

/// Libvirt's replies in a session, and the metrics collected from them.
pub fn libvirt_session(bytes: &[u8]) -> usize {
    let socket = unique_path();
    let (fetched, pools, networks) = sources::libvirt::session(bytes, &socket);
    std::fs::remove_file(socket).ok();
    let others = pools.map_or(0, |it| it.len()) + networks.map_or(0, |it| it.len());
    if fetched.domains.is_empty() {
        return others;
    }
    let snapshot = sources::snapshot(&scratch(), Some(fetched));
    // The name of a domain is in each of its series.
    let max_len = (64 << 10) + 300 * bytes.len() + bytes.len() * bytes.len();
    let invariants = Invariants {
        series_once: true,
        finite_values: true,
    };
    others + exposed::check(collected("libvirt", &snapshot), max_len, invariants)
}

/// The XML of a domain.
pub fn libvirt_xml(bytes: &[u8]) -> usize {
    sources::libvirt::domain_xml(bytes)
}

/// `/proc/PID/mountinfo`.
pub fn mountinfo(bytes: &[u8]) -> usize {
    sources::mountinfo(bytes)
}

/// Netlink responses of the kernel.
pub fn netlink(bytes: &[u8]) -> usize {
    sources::netlink(bytes)
}

/// The path and query string of a request.
pub fn query(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    let (path, query) = text.split_once('?').unwrap_or((&text, &text));
    http::fuzzing::query(query) + api::fuzzing::request(path, query) + web_ui::fuzzing::query(query)
}

/// Files of the `textfile` collector.
pub fn textfile(bytes: &[u8]) -> usize {
    let families = textfile::fuzzing::files(bytes);
    // Every family gets a HELP line, and an escaped byte takes two.
    let max_len = (4 << 10) + 100 * bytes.len();
    exposed::check(families, max_len, Invariants::default())
}

/// Responses of an exporter to `top`.
pub fn top(bytes: &[u8]) -> usize {
    let socket = unique_path();
    let result = top::fuzzing::answers(bytes, &socket);
    std::fs::remove_file(socket).ok();
    result
}

/// A file for `--web.config.file` and `--http.config.file`.
pub fn web_config(bytes: &[u8]) -> usize {
    http::web_config::fuzzing::file(bytes) + top::fuzzing::settings(bytes)
}

/// A path that no other target uses at the same time.
fn unique_path() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    scratch().join(count.to_string())
}

/// The scratch directory of this process; it is not removed.
fn scratch() -> PathBuf {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    let dir = SCRATCH.get_or_init(|| {
        let name = format!("strata-fuzzing-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).ok();
        path
    });
    dir.clone()
}
