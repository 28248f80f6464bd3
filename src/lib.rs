//! Everything but `main`.
//!
//! Data walks one way through these modules:
//!
//! ```text
//! history    remembers samples
//! sources    read files and ask daemons        -> Snapshot
//! sampler    fills the history from the sources
//! collectors turn a snapshot into samples      -> Families
//! sandbox    gives up what is not needed
//! scrape     runs the collectors side by side  -> Families
//! exporter   adds what it knows of itself      -> Families
//! exposition writes the samples down           -> text
//! api        says what is here, as JSON
//! check      says what a scrape would bring
//! page       shows to people what api and check say
//! http       hands text, JSON and pages to who asks
//! plot       draws values over time
//! top        shows in a terminal what an exporter says as JSON
//! targets    changes the files that tell Prometheus whom to scrape
//! fuzzing    gives foreign bytes to each parser, for tests; no part of the program
//! ```
//!
//! A module may use those above it and the vocabulary they share ([`error`],
//! [`metric`], [`family`], [`pattern`], [`duration`], [`size`], [`collector`],
//! [`config_file`]); never one below.
//! `tests/layers.rs` holds them to it.

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
pub mod exporter;
pub mod exposition;
pub mod family;
#[doc(hidden)]
pub mod fuzzing;
pub mod history;
pub mod http;
pub mod log;
pub mod metric;
pub mod page;
pub mod pattern;
pub mod plot;
pub mod reference;
pub mod sampler;
pub mod sandbox;
pub mod scrape;
pub mod size;
pub mod sources;
pub mod targets;
pub mod top;
