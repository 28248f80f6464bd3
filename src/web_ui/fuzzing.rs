//! Fuzz target for the web pages' requests: see [`crate::fuzzing`].

use super::plots::{PlotRequest, PlotTarget, format_window, parse_window_query, render};
use crate::history::{History, HistoryFlags};

/// Parses the query string of a plot or a page; returns the length of the plot.
pub(crate) fn query(query: &str) -> usize {
    if let Ok(window) = parse_window_query(query) {
        assert!(!window.is_zero() && !format_window(window).is_empty());
    }
    let Ok(request) = PlotRequest::parse(query) else {
        return 0;
    };
    let plot = render(
        &History::new(HistoryFlags::default()),
        &PlotTarget::Host,
        &request,
    );
    let svg = plot.unwrap_or_default();
    // A plot without data is small at any size, and is valid.
    assert!(svg.len() <= 64 << 10 && svg.starts_with("<svg"));
    svg.len()
}
