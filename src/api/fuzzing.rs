//! Foreign bytes for what is asked of the API: see [`crate::fuzzing`].

use super::{
    containers,
    history::{Asked, POINTS_PARAMETERS, WINDOW_PARAMETERS},
    query::Query,
    routed,
};

/// The path and the query string of a request; says whether there is something there.
pub(crate) fn request(path: &str, query: &str) -> usize {
    let most = 3 * (path.len() + query.len()) + 500;
    let routed = routed(path);
    if let Ok((_, named)) = &routed {
        // A part of the path, with its escapes undone.
        assert!(named.len() <= 3 * path.len());
    }
    for known in [containers::PARAMETERS, WINDOW_PARAMETERS, POINTS_PARAMETERS] {
        let query = match Query::parse(query, known) {
            Ok(query) => query,
            Err(problem) => {
                // It is sent back with what was asked for in it, as JSON.
                assert!(super::Answer::from(problem).json.len() <= 6 * most);
                continue;
            }
        };
        query.switch("all").ok();
        if let Ok(Asked::Points(points)) = Asked::points(&query) {
            assert!((1..=10_000).contains(&points));
        }
        Asked::window(&query).ok();
    }
    routed.is_ok().into()
}
