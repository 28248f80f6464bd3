//! Foreign bytes for what a request says: see [`crate::fuzzing`].

use hyper::{HeaderMap, header::HeaderValue};

use super::{
    gzip,
    query::CollectorFilter,
    routes::{MAX_TIMEOUT, scrape_timeout},
};
use crate::{collector::Layer, exposition::Format};

/// The query string of a scrape; says how many collectors it asks for.
pub(crate) fn query(query: &str) -> usize {
    let all = ["cpu", "stat", "wifi", "containers"];
    let enabled = [("cpu", Layer::Host), ("stat", Layer::Host)];
    let known = CollectorFilter::new(all, enabled);
    let mut asked = 0;
    for layer in [None, Some(Layer::Host), Some(Layer::Domains)] {
        match known.select(query, layer) {
            Ok(wanted) => {
                assert!(wanted.collectors.len() <= 2);
                asked +=
                    wanted.collectors.len() + usize::from(wanted.includes_family("node_load1"));
            }
            // It is sent back: with what was asked for, in which a byte becomes three at
            // most.
            Err(reason) => assert!(reason.len() <= 3 * query.len() + 200),
        }
    }
    asked
}

/// The values of the headers that are read, one in each line; says how many ask for
/// something.
pub(crate) fn headers(bytes: &[u8]) -> usize {
    let mut asked = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            continue;
        };
        let text = value.to_str().ok();
        let format = Format::from_accept(text);
        assert!(text.is_some() || format == Format::Text);
        asked += usize::from(gzip::accepted_by(text) || format == Format::OpenMetrics);
        let mut headers = HeaderMap::new();
        headers.insert("x-prometheus-scrape-timeout-seconds", value);
        let limit = scrape_timeout(&headers);
        assert!(!limit.is_zero() && limit <= MAX_TIMEOUT);
    }
    // What is asked for packed can be unpacked.
    let packed = gzip::compress(bytes).unwrap_or_default();
    let mut plain = Vec::with_capacity(bytes.len() + 64);
    let mut gzip = flate2::Decompress::new_gzip(15);
    let done = gzip.decompress_vec(&packed, &mut plain, flate2::FlushDecompress::Finish);
    assert!(matches!(done, Ok(flate2::Status::StreamEnd)) && plain == bytes);
    asked
}
