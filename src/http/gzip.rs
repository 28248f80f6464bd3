//! Gzip compression, if the client accepts it.
//!
//! Level 1 of zlib-rs: level 6 takes three times as long and saves a third more, which does not
//! pay off inside a data centre. No zstd, because Prometheus does not accept it.

use std::{cell::RefCell, io};

use flate2::{Compress, Compression, FlushCompress, Status};

/// Smaller bodies are not worth a header.
const MIN_SIZE: usize = 1024;
const LEVEL: u32 = 1;
/// Size of the sliding window, as a power of two.
const WINDOW_BITS: u8 = 15;

/// Whether a client with this `Accept-Encoding` header accepts gzip.
pub(super) fn accepted_by(header: Option<&str>) -> bool {
    let offers = header.unwrap_or_default().split(',');
    let mut best = None;
    for offer in offers {
        let mut parts = offer.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let q = parts.find_map(|part| part.strip_prefix("q="));
        let q: f32 = q.map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
        if coding.eq_ignore_ascii_case("gzip") {
            return q > 0.0;
        }
        if coding == "*" {
            best = Some(q > 0.0);
        }
    }
    best.unwrap_or(false)
}

pub(super) fn is_worth_compressing(len: usize) -> bool {
    len >= MIN_SIZE
}

/// Compresses a body.
pub(super) fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    thread_local! {
        // Its tables take 300 kB; resetting them is cheaper than allocating them again.
        static STATE: RefCell<Option<Compress>> = const { RefCell::new(None) };
    }
    STATE.with_borrow_mut(|state| {
        let gzip =
            state.get_or_insert_with(|| Compress::new_gzip(Compression::new(LEVEL), WINDOW_BITS));
        gzip.reset();
        let mut out = Vec::with_capacity(body.len() / 4 + MIN_SIZE);
        loop {
            let read = usize::try_from(gzip.total_in()).unwrap_or(usize::MAX);
            let rest = body.get(read..).unwrap_or_default();
            match gzip.compress_vec(rest, &mut out, FlushCompress::Finish)? {
                Status::StreamEnd => return Ok(out),
                Status::Ok | Status::BufError => out.reserve(out.capacity() / 2),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Decompress;

    #[test]
    fn compresses_only_if_client_accepts_gzip() {
        for (header, expected) in [
            (None, false),
            (Some("gzip"), true),
            (Some("deflate, gzip;q=0.5"), true),
            (Some("gzip;q=0"), false),
            (Some("*"), true),
            (Some("gzip;q=0, *"), false),
            (Some("identity, br, zstd"), false),
        ] {
            assert_eq!(accepted_by(header), expected, "{header:?}");
        }
    }

    #[test]
    fn repeated_compression_round_trips() {
        for n in [1, 10, 100_000] {
            let body: Vec<_> = (0..n).map(|i| format!("x{{n=\"{i}\"}} {i}\n")).collect();
            let body = body.concat();
            let compressed = compress(body.as_bytes()).unwrap();
            let mut decompressed = Vec::with_capacity(body.len() + 1);
            let mut gunzip = Decompress::new_gzip(WINDOW_BITS);
            let finish = flate2::FlushDecompress::Finish;
            gunzip
                .decompress_vec(&compressed, &mut decompressed, finish)
                .unwrap();
            assert_eq!(decompressed, body.as_bytes());
        }
    }
}
