//! Fuzz targets, one for each parser of untrusted bytes: `docs/development/fuzzing.md`.
//!
//! A target takes arbitrary bytes. It panics where the parser panics, and where the parsed value
//! breaks an invariant. `fuzz/` runs the targets under libFuzzer; `seeds` runs them in
//! `cargo test` on the seeds in `fuzz/seeds` and on damaged copies of them.
//!
//! The targets are compiled for tests and with `--cfg fuzzing`, which cargo-fuzz sets. They are
//! not part of the exporter.

#![expect(
    clippy::must_use_candidate,
    reason = "to panic is how a target says that something is wrong; a fuzzer needs no more"
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

use exposed::Has;
use tree::collected;

/// A target: its name, and a function that returns how much it could parse, in any unit. A target
/// that returns 0 for all its seeds tests nothing.
#[cfg(test)]
type Target = (&'static str, fn(&[u8]) -> usize);

/// All of them.
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

/// A file of a control group's: `cpu.stat`, `memory.numa_stat` and the like.
pub fn cgroup_file(bytes: &[u8]) -> usize {
    sources::cgroup_files::file(bytes)
}

/// The certificate that a client shows.
pub fn client_certificate(bytes: &[u8]) -> usize {
    http::web_config::fuzzing::certificate(bytes)
}

/// Files below `/proc` and `/sys`, and a collector that reads them: [`Tree`].
pub fn collectors(bytes: &[u8]) -> usize {
    tree::collect(bytes)
}

/// What systemd or, behind an odd byte, logind answers.
pub fn dbus(bytes: &[u8]) -> usize {
    let Some((whom, script)) = bytes.split_first() else {
        return 0;
    };
    let socket = place();
    let said = sources::dbus::talk(script, &socket, |daemon, deadline| match whom % 2 {
        0 => systemd::collect_with(daemon, deadline),
        _ => logind::collect_with(&daemon, deadline),
    });
    std::fs::remove_file(socket).ok();
    let Some(Ok(families)) = said else {
        return 0;
    };
    // Each seat is in sixty series.
    let most = (64 << 10) + 400 * bytes.len();
    let has = Has {
        series_once: false,
        finite_values: true,
    };
    exposed::check(families, most, has)
}

/// An engine's answer, as it comes over the wire.
pub fn engine_http(bytes: &[u8]) -> usize {
    let socket = place();
    let said = sources::engine::http(bytes, &socket);
    std::fs::remove_file(socket).ok();
    said
}

/// What is in an engine's answers and events.
pub fn engine_json(bytes: &[u8]) -> usize {
    sources::engine::json(bytes)
}

/// What a network driver says.
pub fn ethtool(bytes: &[u8]) -> usize {
    sources::ethtool(bytes)
}

/// A file of targets, in JSON.
pub fn file_sd_json(bytes: &[u8]) -> usize {
    targets::fuzzing::file(bytes, true)
}

/// A file of targets, in YAML.
pub fn file_sd_yaml(bytes: &[u8]) -> usize {
    targets::fuzzing::file(bytes, false)
}

/// Headers of a request.
pub fn headers(bytes: &[u8]) -> usize {
    http::fuzzing::headers(bytes)
}

/// Messages of libvirt's.
pub fn libvirt_rpc(bytes: &[u8]) -> usize {
    sources::libvirt::rpc(bytes)
}

/// What libvirt answers from question to question, and the metrics that come of it.
pub fn libvirt_session(bytes: &[u8]) -> usize {
    let socket = place();
    let (fetched, pools, networks) = sources::libvirt::session(bytes, &socket);
    std::fs::remove_file(socket).ok();
    let beside = pools.map_or(0, |it| it.len()) + networks.map_or(0, |it| it.len());
    if fetched.domains.is_empty() {
        return beside;
    }
    let snapshot = sources::snapshot(&scratch(), Some(fetched));
    // A name stands in every series of its domain.
    let most = (64 << 10) + 300 * bytes.len() + bytes.len() * bytes.len();
    let has = Has {
        series_once: true,
        finite_values: true,
    };
    beside + exposed::check(collected("libvirt", &snapshot), most, has)
}

/// A domain's description.
pub fn libvirt_xml(bytes: &[u8]) -> usize {
    sources::libvirt::domain_xml(bytes)
}

/// `/proc/PID/mountinfo`.
pub fn mountinfo(bytes: &[u8]) -> usize {
    sources::mountinfo(bytes)
}

/// What the kernel answers over netlink.
pub fn netlink(bytes: &[u8]) -> usize {
    sources::netlink(bytes)
}

/// The path and query string of a request.
pub fn query(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    let (path, query) = text.split_once('?').unwrap_or((&text, &text));
    http::fuzzing::query(query) + api::fuzzing::request(path, query) + web_ui::fuzzing::query(query)
}

/// Files of the textfile collector's.
pub fn textfile(bytes: &[u8]) -> usize {
    let families = textfile::fuzzing::files(bytes);
    // A help is there for each family, and an escape may take two bytes for one.
    let most = (4 << 10) + 100 * bytes.len();
    exposed::check(families, most, Has::default())
}

/// What an exporter answers to `top`.
pub fn top(bytes: &[u8]) -> usize {
    let socket = place();
    let said = top::fuzzing::answers(bytes, &socket);
    std::fs::remove_file(socket).ok();
    said
}

/// The file of `--web.config.file`, and of `--http.config.file`.
pub fn web_config(bytes: &[u8]) -> usize {
    http::web_config::fuzzing::file(bytes) + top::fuzzing::settings(bytes)
}

/// Where something may be made that nobody else makes at the same time.
fn place() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    scratch().join(count.to_string())
}

/// A directory for this process; it stays.
fn scratch() -> PathBuf {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    let made = SCRATCH.get_or_init(|| {
        let name = format!("strata-fuzzing-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).ok();
        path
    });
    made.clone()
}
