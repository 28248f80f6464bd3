//! Fuzz targets for the parts of a request: see [`crate::fuzzing`].

use hyper::{HeaderMap, header::HeaderValue};

use super::{
    gzip,
    query::CollectorFilter,
    routes::{MAX_TIMEOUT, scrape_timeout},
};
use crate::{collector::Layer, exposition::Format};

/// Parses the query string of a scrape and returns how many collectors it selects.
pub(crate) fn query(query: &str) -> usize {
    let all = ["cpu", "stat", "wifi", "containers"];
    let enabled = [("cpu", Layer::Host), ("stat", Layer::Host)];
    let filter = CollectorFilter::new(all, enabled);
    let mut count = 0;
    for layer in [None, Some(Layer::Host), Some(Layer::Domains)] {
        match filter.select(query, layer) {
            Ok(selection) => {
                assert!(selection.collectors.len() <= 2);
                count += selection.collectors.len()
                    + usize::from(selection.includes_family("node_load1"));
            }
            // The error is sent to the client and includes the query, in which a byte may expand
            // to three.
            Err(reason) => assert!(reason.len() <= 3 * query.len() + 200),
        }
    }
    count
}

/// Parses header values, one per line, and returns how many request something.
pub(crate) fn headers(bytes: &[u8]) -> usize {
    let mut count = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            continue;
        };
        let text = value.to_str().ok();
        let format = Format::from_accept(text);
        assert!(text.is_some() || format == Format::Text);
        count += usize::from(gzip::accepted_by(text) || format == Format::OpenMetrics);
        let mut headers = HeaderMap::new();
        headers.insert("x-prometheus-scrape-timeout-seconds", value);
        let limit = scrape_timeout(&headers);
        assert!(!limit.is_zero() && limit <= MAX_TIMEOUT);
    }
    // Compressed data can be decompressed.
    let compressed = gzip::compress(bytes).unwrap_or_default();
    let mut plain = Vec::with_capacity(bytes.len() + 64);
    let mut gzip = flate2::Decompress::new_gzip(15);
    let result = gzip.decompress_vec(&compressed, &mut plain, flate2::FlushDecompress::Finish);
    assert!(matches!(result, Ok(flate2::Status::StreamEnd)) && plain == bytes);
    count
}
