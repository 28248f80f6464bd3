//! Foreign bytes for what is asked of the pages: see [`crate::fuzzing`].

use super::plots::{PlotRequest, PlotTarget, format_window, parse_window_query, render};
use crate::history::{History, HistoryFlags};

/// The query string of a plot or a page; says how long the plot is.
pub(crate) fn query(query: &str) -> usize {
    if let Ok(window) = parse_window_query(query) {
        assert!(!window.is_zero() && !format_window(window).is_empty());
    }
    let Ok(asked) = PlotRequest::parse(query) else {
        return 0;
    };
    let drawn = render(
        &History::new(HistoryFlags::default()),
        &PlotTarget::Host,
        &asked,
    );
    let svg = drawn.unwrap_or_default();
    // Whatever its size, nothing is in it; and it is drawn well.
    assert!(svg.len() <= 64 << 10 && svg.starts_with("<svg"));
    svg.len()
}
