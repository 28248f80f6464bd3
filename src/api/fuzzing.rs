//! Fuzz target for API requests: see [`crate::fuzzing`].

use super::{
    containers,
    history::{HistoryQuery, POINTS_PARAMETERS, WINDOW_PARAMETERS},
    match_route,
    query::QueryParams,
};

/// Parses a request's path and query string; returns 1 if the path exists.
pub(crate) fn request(path: &str, query: &str) -> usize {
    let max_len = 3 * (path.len() + query.len()) + 500;
    let routed = match_route(path);
    if let Ok((_, segment)) = &routed {
        // A path segment, percent-decoded.
        assert!(segment.len() <= 3 * path.len());
    }
    for allowed in [containers::PARAMETERS, WINDOW_PARAMETERS, POINTS_PARAMETERS] {
        let query = match QueryParams::parse(query, allowed) {
            Ok(query) => query,
            Err(error) => {
                // The error quotes the request, escaped for JSON.
                assert!(super::ApiResponse::from(error).json.len() <= 6 * max_len);
                continue;
            }
        };
        query.parse_bool("all").ok();
        if let Ok(HistoryQuery::Points(points)) = HistoryQuery::from_points_parameter(&query) {
            assert!((1..=10_000).contains(&points));
        }
        HistoryQuery::from_window_parameter(&query).ok();
    }
    routed.is_ok().into()
}
