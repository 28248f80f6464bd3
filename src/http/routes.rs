//! What is where, and how it is answered.

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
    query::{Known, Wanted},
};
use crate::{
    api::{self, Api},
    collector::Layer,
    exporter::{Exporter, Refused},
    exposition::{Format, Page},
    family::Families,
    page::{self, Pages},
    scrape::{Scraped, Scraper, Workers},
};

/// How long a scrape may take when the scraper does not say.
const DEFAULT_LIMIT: Duration = Duration::from_secs(10);
/// More than any scraper waits.
pub(super) const MAX_LIMIT: Duration = Duration::from_secs(300);
/// What the answer needs of the scraper's time once everything is collected.
const MARGIN: Duration = Duration::from_millis(500);

pub(super) type Answer = Response<Bytes>;

/// Everything that answers are made of.
#[derive(Debug)]
pub(super) struct Service {
    pub scraper: Arc<Scraper>,
    pub api: Arc<Api>,
    pub pages: Pages,
    /// Requests for JSON and pages that are being answered.
    pub api_in_flight: AtomicUsize,
    pub workers: Workers,
    pub exporter: Arc<Exporter>,
    pub known: Known,
    pub telemetry_path: String,
    /// None for no limit.
    pub max_requests: Option<NonZeroUsize>,
    /// As many as there may be requests for metrics at the same time.
    pub turns: Semaphore,
    pub own_metrics_disabled: bool,
}

impl Service {
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "Only GET and HEAD are answered here.\n".to_owned(),
            );
            let allowed = HeaderValue::from_static("GET, HEAD");
            answer.headers_mut().insert(ALLOW, allowed);
            return answer;
        }
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        match path {
            "/-/healthy" => text(StatusCode::OK, "Healthy.\n".to_owned()),
            "/-/ready" => text(StatusCode::OK, "Ready.\n".to_owned()),
            path if path == self.telemetry_path => {
                self.metrics(query, None, request.headers()).await
            }
            path if self.layer(path).is_some() => {
                self.metrics(query, self.layer(path), request.headers())
                    .await
            }
            path if Api::is_below(path) => self.api(path, query, request.headers()).await,
            path => self.page(path, query, request.headers()).await,
        }
    }

    /// The layer whose metrics are at this path: `/metrics/host` and so on.
    fn layer(&self, path: &str) -> Option<Layer> {
        let below = path.strip_prefix(self.telemetry_path.trim_end_matches('/'))?;
        let name = below.strip_prefix('/')?;
        Layer::ALL.into_iter().find(|layer| layer.name() == name)
    }

    async fn metrics(&self, query: &str, layer: Option<Layer>, headers: &HeaderMap) -> Answer {
        let _in_flight = InFlight::one_more(&self.exporter.in_flight);
        let deadline = Instant::now() + limit(headers);
        let answer = match self.known.wanted(query, layer) {
            Err(reason) => text(StatusCode::BAD_REQUEST, reason + "\n"),
            Ok(wanted) => match self.turn(deadline).await {
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
                Ok(_turn) => self.scrape(wanted, deadline, headers).await,
            },
        };
        self.exporter.answered(answer.status().as_u16());
        answer
    }

    /// Answers in JSON. Its requests have a limit of their own, so that pages which ask
    /// often do not keep the scraper out.
    async fn api(&self, path: &str, query: &str, headers: &HeaderMap) -> Answer {
        let in_flight = InFlight::one_more(&self.api_in_flight);
        let answered = match self.too_many(&in_flight) {
            Some(reason) => api::Answer::error(503, &reason),
            None => self.api.answer(path, query, limit(headers)).await,
        };
        let mut answer = self.packed(answered.status, answered.json, headers).await;
        set(&mut answer, CONTENT_TYPE, "application/json");
        set(&mut answer, CACHE_CONTROL, "no-store");
        answer
    }

    /// Answers with what is for people, within the limit of what is for programs.
    async fn page(&self, path: &str, query: &str, headers: &HeaderMap) -> Answer {
        let in_flight = InFlight::one_more(&self.api_in_flight);
        let page = match self.too_many(&in_flight) {
            Some(reason) => Some(page::Answer::text(503, &reason)),
            None => self.pages.answer(path, query).await,
        };
        let Some(page) = page else {
            return text(StatusCode::NOT_FOUND, "There is nothing here.\n".to_owned());
        };
        let mut answer = self.packed(page.status, page.body, headers).await;
        set(&mut answer, CONTENT_TYPE, page.content_type);
        set(&mut answer, CONTENT_SECURITY_POLICY, page.policy);
        set(&mut answer, X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(&mut answer, REFERRER_POLICY, "no-referrer");
        let kept = if page.is_immutable {
            "public, max-age=31536000, immutable"
        } else {
            "no-store"
        };
        set(&mut answer, CACHE_CONTROL, kept);
        answer
    }

    /// An answer, packed where who asked takes that and it is worth it.
    async fn packed(&self, status: u16, body: Vec<u8>, headers: &HeaderMap) -> Answer {
        let pack =
            gzip::accepted_by(header(headers, &ACCEPT_ENCODING)) && gzip::is_worth_it(body.len());
        let body = if pack {
            let packed = self.workers.call(move || pack_or_not(body)).await;
            packed.unwrap_or_default()
        } else {
            Body {
                bytes: body.into(),
                is_packed: false,
            }
        };
        let mut answer = Response::new(body.bytes);
        let status = StatusCode::from_u16(status);
        *answer.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        set(&mut answer, VARY, "Accept-Encoding");
        if body.is_packed {
            set(&mut answer, CONTENT_ENCODING, "gzip");
        }
        answer
    }

    /// Waits for others to be answered where there are too many: who asks often is not to
    /// keep the scraper out, whose turn comes too. Half of its time it waits.
    async fn turn(&self, deadline: Instant) -> Result<Option<SemaphorePermit<'_>>, String> {
        let Some(limit) = self.max_requests else {
            return Ok(None);
        };
        let patience = deadline.saturating_duration_since(Instant::now()) / 2;
        match time::timeout(patience, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(Some(turn)),
            _ => Err(too_many(limit)),
        }
    }

    /// Why a request is not answered, if there are too many.
    fn too_many(&self, in_flight: &InFlight<'_>) -> Option<String> {
        let limit = self.max_requests?;
        (in_flight.count > limit.get()).then(|| too_many(limit))
    }

    async fn scrape(&self, wanted: Wanted, deadline: Instant, headers: &HeaderMap) -> Answer {
        let format = Format::accepted_by(header(headers, &ACCEPT));
        let pack = gzip::accepted_by(header(headers, &ACCEPT_ENCODING));
        let scraped = self
            .scraper
            .scrape(
                &wanted.collectors,
                deadline.saturating_duration_since(Instant::now()),
            )
            .await;
        let own = self
            .exporter
            .families(self.workers.threads(), self.own_metrics_disabled);

        // On a worker, because a large page takes longer than others should wait.
        let exporter = Arc::clone(&self.exporter);
        let write = move || write(scraped, own, &wanted, format, pack, &exporter);
        let Some(Some(body)) = self.workers.call(write).await else {
            self.exporter.could_not_write();
            error!("cannot write the metrics down");
            let reason = "The metrics could not be written down.\n";
            return text(StatusCode::INTERNAL_SERVER_ERROR, reason.to_owned());
        };
        let mut answer = Response::new(body.bytes);
        set(&mut answer, CONTENT_TYPE, format.content_type());
        set(&mut answer, VARY, "Accept, Accept-Encoding");
        if body.is_packed {
            set(&mut answer, CONTENT_ENCODING, "gzip");
        }
        answer
    }
}

/// The answer to a request that the web config refuses.
pub(super) fn refusal(reason: Refused) -> Answer {
    let (status, said) = match reason {
        Refused::RateLimit => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many requests: the limit of the web config (rate_limit) is reached, try again later.\n",
        ),
        Refused::NoPassword => (
            StatusCode::UNAUTHORIZED,
            "Unauthorized: a name and a password are needed.\n",
        ),
        Refused::WrongPassword => (
            StatusCode::UNAUTHORIZED,
            "Unauthorized: this is nobody's name and password.\n",
        ),
        Refused::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many passwords are being checked, try again later.\n",
        ),
    };
    let mut answer = text(status, said.to_owned());
    set(&mut answer, X_CONTENT_TYPE_OPTIONS, "nosniff");
    match status {
        StatusCode::UNAUTHORIZED => set(&mut answer, WWW_AUTHENTICATE, "Basic"),
        _ => set(&mut answer, RETRY_AFTER, "1"),
    }
    answer
}

fn too_many(limit: NonZeroUsize) -> String {
    format!("Limit of concurrent requests reached ({limit}), try again later.")
}

/// A body as it will be sent.
#[derive(Default)]
struct Body {
    bytes: Bytes,
    is_packed: bool,
}

fn pack_or_not(plain: Vec<u8>) -> Body {
    match gzip::compress(&plain) {
        Ok(packed) => Body {
            bytes: packed.into(),
            is_packed: true,
        },
        Err(_) => Body {
            bytes: plain.into(),
            is_packed: false,
        },
    }
}

fn write(
    scraped: Scraped,
    own: Families,
    wanted: &Wanted,
    format: Format,
    pack: bool,
    exporter: &Exporter,
) -> Option<Body> {
    let started = Instant::now();
    let mut families = scraped.into_families();
    families.push(Arc::new(own));
    let page = Arc::new(Page::new(families, |name| wanted.family(name)));
    let text = page.encode(format).ok()?;
    let (len, series, clashes) = (text.len(), page.series(), page.clashes());
    // What is written down need not be there a second time while it is packed.
    drop(page);
    let is_packed = pack && gzip::is_worth_it(len);
    let bytes: Bytes = if is_packed {
        gzip::compress(text.as_bytes()).ok()?.into()
    } else {
        text.into()
    };
    exporter.wrote(series, len, bytes.len(), clashes, started.elapsed());
    exporter.settle();
    Some(Body { bytes, is_packed })
}

/// A request that is being answered.
struct InFlight<'a> {
    all: &'a AtomicUsize,
    /// Which one of those at the same time it is.
    count: usize,
}

impl<'a> InFlight<'a> {
    fn one_more(all: &'a AtomicUsize) -> Self {
        let count = all.fetch_add(1, Ordering::Relaxed) + 1;
        Self { all, count }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long collecting may take for the scraper to get an answer in time.
pub(super) fn limit(headers: &HeaderMap) -> Duration {
    let timeout = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");
    let given = header(headers, &timeout)
        .and_then(|seconds| seconds.parse().ok())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|timeout| !timeout.is_zero());
    given.map_or(DEFAULT_LIMIT, |timeout| {
        let timeout = timeout.min(MAX_LIMIT);
        timeout.saturating_sub(MARGIN.min(timeout / 4))
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn set(answer: &mut Answer, name: HeaderName, value: &'static str) {
    let value = HeaderValue::from_static(value);
    answer.headers_mut().insert(name, value);
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_TYPE, "text/plain; charset=utf-8");
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_in_time_for_who_asked() {
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
            assert_eq!(limit(&headers), Duration::from_millis(millis), "{header:?}");
        }
    }
}
