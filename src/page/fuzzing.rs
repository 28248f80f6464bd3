//! Foreign bytes for what is asked of the pages: see [`crate::fuzzing`].

use super::plots::{Asked, Of, draw, window, window_text};
use crate::history::{Flags, History};

/// The query string of a plot or a page; says how long the plot is.
pub(crate) fn query(query: &str) -> usize {
    if let Ok(window) = window(query) {
        assert!(!window.is_zero() && !window_text(window).is_empty());
    }
    let Ok(asked) = Asked::parse(query) else {
        return 0;
    };
    let drawn = draw(&History::new(Flags::default()), &Of::Host, &asked);
    let svg = drawn.unwrap_or_default();
    // Whatever its size, nothing is in it; and it is drawn well.
    assert!(svg.len() <= 64 << 10 && svg.starts_with("<svg"));
    svg.len()
}
