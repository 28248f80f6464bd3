//! Routes and their responses.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Bytes,
    header::{
        ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY,
        CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY, RETRY_AFTER, VARY,
        WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time,
};
use tracing::error;

use super::{
    gzip,
    query::{CollectorFilter, ScrapeSelection},
};
use crate::{
    api::{self, Api},
    collector::Layer,
    exposition::{Exposition, Format},
    family::Families,
    scrape::{ScrapeResult, Scraper, Workers},
    self_metrics::{RejectReason, SelfMetrics},
    web_ui::{self, WebUi},
};

/// Timeout of a scrape without a timeout header.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any scraper waits.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(300);
/// Part of the scraper's timeout that is reserved for the response after all collectors finished.
const TIMEOUT_MARGIN: Duration = Duration::from_millis(500);

pub(super) type HttpResponse = Response<Bytes>;

/// Shared state of all routes.
#[derive(Debug)]
pub(super) struct Service {
    pub scraper: Arc<Scraper>,
    pub api: Arc<Api>,
    pub web_ui: WebUi,
    /// Requests for the JSON API and pages in progress.
    pub api_in_flight: AtomicUsize,
    pub workers: Workers,
    pub self_metrics: Arc<SelfMetrics>,
    pub collector_filter: CollectorFilter,
    pub telemetry_path: String,
    /// `None` for no limit.
    pub max_requests: Option<NonZeroUsize>,
    /// As many permits as concurrent requests for metrics are allowed.
    pub scrape_permits: Semaphore,
    pub self_metrics_disabled: bool,
}

impl Service {
    pub(super) async fn respond<B>(&self, request: Request<B>) -> HttpResponse {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text_response(
                StatusCode::METHOD_NOT_ALLOWED,
                "Method not allowed: only GET and HEAD are supported.\n".to_owned(),
            );
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        match path {
            "/-/healthy" => text_response(StatusCode::OK, "Healthy.\n".to_owned()),
            "/-/ready" => text_response(StatusCode::OK, "Ready.\n".to_owned()),
            path if path == self.telemetry_path => {
                self.respond_metrics(query, None, request.headers()).await
            }
            path if self.layer_at(path).is_some() => {
                self.respond_metrics(query, self.layer_at(path), request.headers())
                    .await
            }
            path if Api::is_api_path(path) => {
                self.respond_api(path, query, request.headers()).await
            }
            path => self.respond_page(path, query, request.headers()).await,
        }
    }

    /// The layer whose metrics are at this path: `/metrics/host` and so on.
    fn layer_at(&self, path: &str) -> Option<Layer> {
        let below = path.strip_prefix(self.telemetry_path.trim_end_matches('/'))?;
        let name = below.strip_prefix('/')?;
        Layer::ALL.into_iter().find(|layer| layer.name() == name)
    }

    async fn respond_metrics(
        &self,
        query: &str,
        layer: Option<Layer>,
        headers: &HeaderMap,
    ) -> HttpResponse {
        let _in_flight = InFlightGuard::enter(&self.self_metrics.in_flight);
        let deadline = Instant::now() + scrape_timeout(headers);
        let response = match self.collector_filter.select(query, layer) {
            Err(reason) => text_response(StatusCode::BAD_REQUEST, reason + "\n"),
            Ok(selection) => match self.acquire_permit(deadline).await {
                Err(reason) => text_response(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
                Ok(_permit) => self.scrape(selection, deadline, headers).await,
            },
        };
        self.self_metrics.count_response(response.status().as_u16());
        response
    }

    /// Responds with JSON. These requests have a limit of their own, so that pages that poll often
    /// do not displace the scraper.
    async fn respond_api(&self, path: &str, query: &str, headers: &HeaderMap) -> HttpResponse {
        let in_flight = InFlightGuard::enter(&self.api_in_flight);
        let api_response = match self.rejection_reason(&in_flight) {
            Some(reason) => api::ApiResponse::error(503, &reason),
            None => self.api.respond(path, query, scrape_timeout(headers)).await,
        };
        let mut response = self
            .encode_response(api_response.status, api_response.json, headers)
            .await;
        set_header(&mut response, CONTENT_TYPE, "application/json");
        set_header(&mut response, CACHE_CONTROL, "no-store");
        response
    }

    /// Responds with a page, within the limit of the JSON API.
    async fn respond_page(&self, path: &str, query: &str, headers: &HeaderMap) -> HttpResponse {
        let in_flight = InFlightGuard::enter(&self.api_in_flight);
        let page = match self.rejection_reason(&in_flight) {
            Some(reason) => Some(web_ui::PageResponse::from_text(503, &reason)),
            None => self.web_ui.respond(path, query).await,
        };
        let Some(page) = page else {
            return text_response(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
        };
        let mut response = self.encode_response(page.status, page.body, headers).await;
        set_header(&mut response, CONTENT_TYPE, page.content_type);
        set_header(
            &mut response,
            CONTENT_SECURITY_POLICY,
            page.content_security_policy,
        );
        set_header(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
        set_header(&mut response, REFERRER_POLICY, "no-referrer");
        let cache_control = if page.is_immutable {
            "public, max-age=31536000, immutable"
        } else {
            "no-store"
        };
        set_header(&mut response, CACHE_CONTROL, cache_control);
        response
    }

    /// Builds a response, compressed if the client accepts it and the size is worth it.
    async fn encode_response(
        &self,
        status: u16,
        body: Vec<u8>,
        headers: &HeaderMap,
    ) -> HttpResponse {
        let compress = gzip::accepted_by(header(headers, &ACCEPT_ENCODING))
            && gzip::is_worth_compressing(body.len());
        let body = if compress {
            let packed = self.workers.call(move || try_compress(body)).await;
            packed.unwrap_or_default()
        } else {
            EncodedBody {
                bytes: body.into(),
                is_compressed: false,
            }
        };
        let mut response = Response::new(body.bytes);
        let status = StatusCode::from_u16(status);
        *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        set_header(&mut response, VARY, "Accept-Encoding");
        if body.is_compressed {
            set_header(&mut response, CONTENT_ENCODING, "gzip");
        }
        response
    }

    /// Waits for a permit if there are too many requests, for at most half of the remaining time.
    /// Permits are granted in order, so frequent requests do not displace the scraper.
    async fn acquire_permit(
        &self,
        deadline: Instant,
    ) -> Result<Option<SemaphorePermit<'_>>, String> {
        let Some(limit) = self.max_requests else {
            return Ok(None);
        };
        let max_wait = deadline.saturating_duration_since(Instant::now()) / 2;
        match time::timeout(max_wait, self.scrape_permits.acquire()).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => Err(limit_reached_message(limit)),
        }
    }

    /// Why a request is rejected, if there are too many.
    fn rejection_reason(&self, in_flight: &InFlightGuard<'_>) -> Option<String> {
        let limit = self.max_requests?;
        (in_flight.count > limit.get()).then(|| limit_reached_message(limit))
    }

    async fn scrape(
        &self,
        selection: ScrapeSelection,
        deadline: Instant,
        headers: &HeaderMap,
    ) -> HttpResponse {
        let format = Format::from_accept(header(headers, &ACCEPT));
        let compress = gzip::accepted_by(header(headers, &ACCEPT_ENCODING));
        let scraped = self
            .scraper
            .scrape(
                &selection.collectors,
                deadline.saturating_duration_since(Instant::now()),
            )
            .await;
        let own = self
            .self_metrics
            .families(self.workers.threads(), self.self_metrics_disabled);

        // On a worker, because encoding a large exposition would delay other requests.
        let self_metrics = Arc::clone(&self.self_metrics);
        let write = move || encode(scraped, own, &selection, format, compress, &self_metrics);
        let Some(Some(body)) = self.workers.call(write).await else {
            self.self_metrics.count_encode_error();
            error!("cannot encode metrics");
            let reason = "Cannot encode metrics.\n";
            return text_response(StatusCode::INTERNAL_SERVER_ERROR, reason.to_owned());
        };
        let mut response = Response::new(body.bytes);
        set_header(&mut response, CONTENT_TYPE, format.content_type());
        set_header(&mut response, VARY, "Accept, Accept-Encoding");
        if body.is_compressed {
            set_header(&mut response, CONTENT_ENCODING, "gzip");
        }
        response
    }
}

/// The response to a request that the web config rejects.
pub(super) fn rejection(reason: RejectReason) -> HttpResponse {
    let (status, message) = match reason {
        RejectReason::RateLimit => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many requests: rate_limit of the web config exceeded, try again later.\n",
        ),
        RejectReason::NoPassword => (
            StatusCode::UNAUTHORIZED,
            "Unauthorized: user name and password required.\n",
        ),
        RejectReason::WrongPassword => (
            StatusCode::UNAUTHORIZED,
            "Unauthorized: wrong user name or password.\n",
        ),
        RejectReason::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many pending password checks, try again later.\n",
        ),
    };
    let mut response = text_response(status, message.to_owned());
    set_header(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    match status {
        StatusCode::UNAUTHORIZED => set_header(&mut response, WWW_AUTHENTICATE, "Basic"),
        _ => set_header(&mut response, RETRY_AFTER, "1"),
    }
    response
}

fn limit_reached_message(limit: NonZeroUsize) -> String {
    format!("Limit of concurrent requests reached ({limit}), try again later.")
}

/// A body in the form in which it is sent.
#[derive(Default)]
struct EncodedBody {
    bytes: Bytes,
    is_compressed: bool,
}

fn try_compress(plain: Vec<u8>) -> EncodedBody {
    match gzip::compress(&plain) {
        Ok(packed) => EncodedBody {
            bytes: packed.into(),
            is_compressed: true,
        },
        Err(_) => EncodedBody {
            bytes: plain.into(),
            is_compressed: false,
        },
    }
}

fn encode(
    scraped: ScrapeResult,
    own: Families,
    selection: &ScrapeSelection,
    format: Format,
    compress: bool,
    self_metrics: &SelfMetrics,
) -> Option<EncodedBody> {
    let started = Instant::now();
    let mut families = scraped.into_families();
    families.push(Arc::new(own));
    let exposition = Arc::new(Exposition::new(families, |name| {
        selection.includes_family(name)
    }));
    let text = exposition.encode(format).ok()?;
    let (len, series, conflicts) = (
        text.len(),
        exposition.series_count(),
        exposition.conflicts(),
    );
    // Freed before compressing.
    drop(exposition);
    let is_packed = compress && gzip::is_worth_compressing(len);
    let bytes: Bytes = if is_packed {
        gzip::compress(text.as_bytes()).ok()?.into()
    } else {
        text.into()
    };
    self_metrics.count_exposition(series, len, bytes.len(), conflicts, started.elapsed());
    self_metrics.trim_memory();
    Some(EncodedBody {
        bytes,
        is_compressed: is_packed,
    })
}

/// Counts a request in progress.
struct InFlightGuard<'a> {
    counter: &'a AtomicUsize,
    /// Number of requests in progress, including this one.
    count: usize,
}

impl<'a> InFlightGuard<'a> {
    fn enter(counter: &'a AtomicUsize) -> Self {
        let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
        Self { counter, count }
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Time limit for collecting, so that the response reaches the scraper before its timeout.
pub(super) fn scrape_timeout(headers: &HeaderMap) -> Duration {
    let timeout = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");
    let requested = header(headers, &timeout)
        .and_then(|seconds| seconds.parse().ok())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|timeout| !timeout.is_zero());
    requested.map_or(DEFAULT_TIMEOUT, |timeout| {
        let timeout = timeout.min(MAX_TIMEOUT);
        timeout.saturating_sub(TIMEOUT_MARGIN.min(timeout / 4))
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn set_header(response: &mut HttpResponse, name: HeaderName, value: &'static str) {
    let value = HeaderValue::from_static(value);
    response.headers_mut().insert(name, value);
}

fn text_response(status: StatusCode, body: String) -> HttpResponse {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    set_header(&mut response, CONTENT_TYPE, "text/plain; charset=utf-8");
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrape_timeout_leaves_margin_for_response() {
        for (header, millis) in [
            (None, 10_000),
            (Some("10"), 9_500),
            (Some("1.5"), 1_125),
            (Some("0"), 10_000),
            (Some("-1"), 10_000),
            (Some("NaN"), 10_000),
            (Some("1e9"), 299_500),
            (Some("soon"), 10_000),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = header {
                let value = HeaderValue::from_static(value);
                headers.insert("X-Prometheus-Scrape-Timeout-Seconds", value);
            }
            assert_eq!(
                scrape_timeout(&headers),
                Duration::from_millis(millis),
                "{header:?}"
            );
        }
    }
}
