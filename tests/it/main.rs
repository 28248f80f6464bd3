//! Tests that need neither root nor a container engine or libvirt: the exporter's library and
//! command line, on fixtures, with fakes, and with programs that validate its files. A test is
//! skipped if a program that it runs is not installed.
//!
//! Tests on real daemons are in `tests/system`.

#![allow(
    clippy::disallowed_methods,
    reason = "tests read and write files directly"
)]

mod api;
mod boards;
mod check;
mod cli;
mod configs;
mod contract;
mod dbus_hangs;
mod docs;
mod engine;
mod examples;
mod golden;
mod history;
mod http;
mod isolation;
mod layers;
mod linkage;
mod migration;
mod oracle;
mod privacy;
mod reference;
mod robustness;
mod rules;
#[path = "../support/mod.rs"]
mod support;
mod targets;
mod textfile;
mod top;
mod web_config;
