//! The exporter as a library: everything except `main`, so that tests and benches can use it.
//!
//! `ARCHITECTURE.md` lists the layers of these modules, what each does, and the rule which
//! module may use which; `tests/it/layers.rs` enforces it. A scrape runs through
//! [`http`], [`scrape`], [`collectors`] and [`sources`], and its response through [`family`] and
//! [`exposition`].

#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod api;
pub mod check;
pub mod cli;
pub mod collector;
pub mod collectors;
mod config_file;
pub mod duration;
pub mod error;
pub mod exposition;
pub mod family;
#[cfg(test)]
mod fixtures;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod history;
pub mod http;
pub mod log;
pub mod metric;
pub mod pattern;
pub mod plot;
pub mod sampler;
pub mod sandbox;
pub mod scrape;
pub mod self_metrics;
pub mod size;
pub mod sources;
pub mod targets;
pub mod top;
pub mod web_ui;
