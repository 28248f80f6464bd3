//! Status pages: an overview of the host, its containers and domains, and plots.
//!
//! ```text
//! /                             overview tables /host, /containers/ID         facts, usage and
//! four plots /plot/host.svg                one plot: ?what=cpu|memory|network|disk&window=1h
//! /plot/containers/ID.svg       &width=640&height=220&theme=auto|light|dark /check
//! missing data, causes and fixes /page/HASH/…                  style sheet, script and icon
//! ```
//! Pages are complete without the script. The script only refreshes, sorts and filters, with the
//! API responses that pages are created from. Pages cause no collection apart from the API's
//! listings: values come from the history.
//!
//! HTML is written with `maud`, which checks templates at compile time and escapes all values. The
//! page and the script format numbers by the same rules.

mod assets;
mod check_page;
mod detail;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod layout;
mod overview;
mod plots;
mod table;

use std::{sync::Arc, time::Duration};

use maud::Markup;
use serde::de::DeserializeOwned;

use crate::{
    api::{Api, said},
    collector::Entry,
    history::{History, Series},
    scrape::{Scraper, Workers},
};
use assets::Assets;
use check_page::CheckCache;
use layout::PageLayout;
use said::{Collectors, Containers, Domains, Host, Missing, One};

/// Only the page's own files, from this server.
const PAGE_CSP: &str = "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; \
                        connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors \
                        'none'";
/// Only the image's own style sheet.
const SVG_CSP: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Timeout of the API requests behind a page.
const API_TIMEOUT: Duration = Duration::from_secs(3);

/// A response.
#[derive(Debug)]
pub struct PageResponse {
    /// The HTTP status.
    pub status: u16,
    /// The MIME type of the body.
    pub content_type: &'static str,
    /// The value of the `Content-Security-Policy` header.
    pub content_security_policy: &'static str,
    /// Whether browsers may cache it forever.
    pub is_immutable: bool,
    /// The body.
    pub body: Vec<u8>,
}

impl PageResponse {
    fn from_markup(status: u16, page: Markup) -> Self {
        Self {
            status,
            content_type: "text/html; charset=utf-8",
            content_security_policy: PAGE_CSP,
            is_immutable: false,
            body: page.into_string().into_bytes(),
        }
    }

    /// A line of plain text.
    #[must_use]
    pub fn from_text(status: u16, reason: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            content_security_policy: PAGE_CSP,
            is_immutable: false,
            body: format!("{reason}\n").into_bytes(),
        }
    }

    fn from_svg(svg: String) -> Self {
        Self {
            status: 200,
            content_type: "image/svg+xml",
            content_security_policy: SVG_CSP,
            is_immutable: false,
            body: svg.into_bytes(),
        }
    }
}

/// Everything that pages are created from.
#[derive(Debug)]
pub struct WebUi {
    api: Arc<Api>,
    workers: Workers,
    check_cache: CheckCache,
    layout: Arc<PageLayout>,
    assets: Assets,
}

impl WebUi {
    /// Creates the pages for the API's machine; `telemetry_path` is the path of the metrics.
    #[must_use]
    pub fn new(
        api: Arc<Api>,
        scraper: Arc<Scraper>,
        workers: Workers,
        entries: &'static [Entry],
        telemetry_path: &str,
    ) -> Self {
        let assets = Assets::new();
        let machine = Arc::clone(api.machine());
        let interval = machine.history().interval();
        Self {
            check_cache: CheckCache::new(machine, scraper, entries),
            layout: Arc::new(PageLayout::new(telemetry_path, &assets, interval)),
            api,
            workers,
            assets,
        }
    }

    /// The response at a path, or `None` if the path belongs to no page.
    pub async fn respond(&self, path: &str, query: &str) -> Option<PageResponse> {
        if let Some(key) = path.strip_prefix("/containers/") {
            return Some(self.container(key, query).await);
        }
        if let Some(plot) = path.strip_prefix("/plot/") {
            return Some(self.plot(plot, query).await);
        }
        if let Some(asset) = path.strip_prefix("/page/") {
            return self.assets.respond(asset);
        }
        match path {
            "/" => Some(self.overview().await),
            "/host" => Some(self.host(query).await),
            "/check" => Some(self.check().await),
            _ => None,
        }
    }

    fn history(&self) -> &Arc<History> {
        self.api.machine().history()
    }

    async fn overview(&self) -> PageResponse {
        let (host, containers, domains, collectors) = tokio::join!(
            self.fetch::<Host>("/api/v1/host"),
            self.fetch::<Containers>("/api/v1/containers"),
            self.fetch::<Domains>("/api/v1/domains"),
            self.fetch::<Collectors>("/api/v1/collectors"),
        );
        let all = overview::Overview {
            host: host.1,
            containers: containers.1,
            domains: domains.1,
            collectors: collectors.1,
        };
        let (layout, history) = (Arc::clone(&self.layout), Arc::clone(self.history()));
        self.render(move || (200, overview::page(&layout, &history, &all)))
            .await
    }

    async fn host(&self, query: &str) -> PageResponse {
        let window = match plots::parse_window_query(query) {
            Ok(window) => window,
            Err(reason) => return PageResponse::from_text(400, &reason),
        };
        let (_, host) = self.fetch::<Host>("/api/v1/host").await;
        let (layout, history) = (Arc::clone(&self.layout), Arc::clone(self.history()));
        self.render(move || (200, detail::host(&layout, &history, &host, window)))
            .await
    }

    /// `name_or_id` is percent-encoded as in the path.
    async fn container(&self, name_or_id: &str, query: &str) -> PageResponse {
        let window = match plots::parse_window_query(query) {
            Ok(window) => window,
            Err(reason) => return PageResponse::from_text(400, &reason),
        };
        let path = format!("/api/v1/containers/{name_or_id}");
        let (status, response) = self.fetch::<One>(&path).await;
        let (layout, history) = (Arc::clone(&self.layout), Arc::clone(self.history()));
        self.render(move || {
            let page = match status {
                200 => detail::container(&layout, &history, &response, window),
                _ => detail::not_found(&layout, &response),
            };
            (status, page)
        })
        .await
    }

    /// `path` is the part after `/plot/`.
    async fn plot(&self, path: &str, query: &str) -> PageResponse {
        let request = match plots::PlotRequest::parse(query) {
            Ok(request) => request,
            Err(reason) => return PageResponse::from_text(400, &reason),
        };
        let Some(name) = path.strip_suffix(".svg") else {
            return PageResponse::from_text(404, "no such plot");
        };
        let target = match name.strip_prefix("containers/") {
            None if name == "host" => plots::PlotTarget::Host,
            Some(key) if !key.is_empty() => match self.series(key).await {
                Ok((title, series)) => plots::PlotTarget::Container(title, series),
                Err(response) => return response,
            },
            _ => return PageResponse::from_text(404, "no such plot"),
        };
        let history = Arc::clone(self.history());
        let drawn = self
            .workers
            .call(move || plots::render(&history, &target, &request));
        match drawn.await {
            Some(Ok(svg)) => PageResponse::from_svg(svg),
            Some(Err(error)) => PageResponse::from_text(500, &error.to_string()),
            None => PageResponse::from_text(500, "cannot render the plot"),
        }
    }

    /// Display name and samples of the container in a path.
    async fn series(
        &self,
        name_or_id: &str,
    ) -> Result<(String, Option<Arc<Series>>), PageResponse> {
        let decoded = percent_encoding::percent_decode_str(name_or_id).decode_utf8();
        let key = decoded.map_err(|_| PageResponse::from_text(400, "path is not UTF-8"))?;
        let history = self.history();
        if let Some(series) = history.container(&key) {
            return Ok((self.container_title(&key), Some(series)));
        }
        let path = format!("/api/v1/containers/{name_or_id}");
        let (status, response) = self.fetch::<One>(&path).await;
        if status != 200 {
            return Err(PageResponse::from_text(status, &response.error));
        }
        let series = table::container_series(history, &response.container);
        Ok((response.container.title().to_owned(), series))
    }

    /// Name of the container with this key, from cached engine state.
    fn container_title(&self, key: &str) -> String {
        let engines = self.api.machine().engines().engines();
        let mut containers = engines.iter().filter_map(|it| it.containers.get(key));
        let container = containers.find(|it| !it.name.is_empty());
        container.map_or_else(|| key.to_owned(), |it| it.name.clone())
    }

    async fn check(&self) -> PageResponse {
        let text = self.check_cache.report_text().await;
        let layout = Arc::clone(&self.layout);
        self.render(move || (200, check_page::page(&layout, &text)))
            .await
    }

    /// Status and content of an API response.
    async fn fetch<T: DeserializeOwned + Default + Send + 'static>(&self, path: &str) -> (u16, T) {
        let response = self.api.respond(path, "", API_TIMEOUT).await;
        let parsed = self
            .workers
            .call(move || serde_json::from_slice(&response.json).ok());
        (response.status, parsed.await.flatten().unwrap_or_default())
    }

    /// Renders a page on a worker, because it may be large.
    async fn render(&self, write: impl FnOnce() -> (u16, Markup) + Send + 'static) -> PageResponse {
        match self.workers.call(write).await {
            Some((status, page)) => PageResponse::from_markup(status, page),
            None => PageResponse::from_text(500, "cannot render the page"),
        }
    }
}

/// Missing parts, one per line.
fn missing_lines<'a>(missing: impl IntoIterator<Item = &'a Missing>) -> Vec<String> {
    let lines = missing.into_iter();
    let lines = lines.map(|it| format!("{}: {}", it.part, it.reason));
    lines.collect()
}
