//! What people see: the machine at a glance, its containers and virtual machines, plots.
//!
//! ```text
//! /                             everything in tables
//! /host, /containers/ID         one thing: what it is, what it used, four plots
//! /plot/host.svg                one plot: ?what=cpu|memory|network|disk&window=1h
//! /plot/containers/ID.svg       &width=640&height=220&theme=auto|light|dark
//! /check                        what is missing, why, and how to mend it
//! /page/HASH/…                  the style sheet and the script
//! ```
//!
//! Pages are whole without a script; the script only refreshes, sorts and filters, from
//! the same answers of the API that pages are made of. Nothing is collected for them but
//! what the API reads to list what is there: values come from the history.
//!
//! HTML is written by `maud`, which escapes whatever it is given and is checked when it is
//! compiled. A page's numbers are text made here and in the script, by the same rules.

mod assets;
mod cells;
mod checked;
mod detail;
mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod overview;
mod plots;

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
use checked::Checks;
use frame::Frame;
use said::{Collectors, Containers, Domains, Host, Missing, One};

/// Only what the page itself brings, from this server.
const POLICY: &str = "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";
/// Nothing but a picture's own style sheet.
const PICTURE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// People wait no longer than this for what hangs.
const PATIENCE: Duration = Duration::from_secs(3);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// What it may bring with it.
    pub policy: &'static str,
    /// Whether it never changes.
    pub is_immutable: bool,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    fn page(status: u16, page: Markup) -> Self {
        Self {
            status,
            content_type: "text/html; charset=utf-8",
            policy: POLICY,
            is_immutable: false,
            body: page.into_string().into_bytes(),
        }
    }

    /// A line of text.
    #[must_use]
    pub fn text(status: u16, reason: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            policy: POLICY,
            is_immutable: false,
            body: format!("{reason}\n").into_bytes(),
        }
    }

    fn picture(svg: String) -> Self {
        Self {
            status: 200,
            content_type: "image/svg+xml",
            policy: PICTURE_POLICY,
            is_immutable: false,
            body: svg.into_bytes(),
        }
    }
}

/// Everything that pages are made of.
#[derive(Debug)]
pub struct Pages {
    api: Arc<Api>,
    workers: Workers,
    checks: Checks,
    frame: Arc<Frame>,
    assets: Assets,
}

impl Pages {
    /// Makes those of the machine that the API reads; the metrics are at that path.
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
            checks: Checks::new(machine, scraper, entries),
            frame: Arc::new(Frame::new(telemetry_path, &assets, interval)),
            api,
            workers,
            assets,
        }
    }

    /// The answer at a path, if it is one of a page.
    pub async fn answer(&self, path: &str, query: &str) -> Option<Answer> {
        if let Some(named) = path.strip_prefix("/containers/") {
            return Some(self.container(named, query).await);
        }
        if let Some(plot) = path.strip_prefix("/plot/") {
            return Some(self.plot(plot, query).await);
        }
        if let Some(asset) = path.strip_prefix("/page/") {
            return self.assets.answer(asset);
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

    async fn overview(&self) -> Answer {
        let (host, containers, domains, collectors) = tokio::join!(
            self.said::<Host>("/api/v1/host"),
            self.said::<Containers>("/api/v1/containers"),
            self.said::<Domains>("/api/v1/domains"),
            self.said::<Collectors>("/api/v1/collectors"),
        );
        let all = overview::Overview {
            host: host.1,
            containers: containers.1,
            domains: domains.1,
            collectors: collectors.1,
        };
        let (frame, history) = (Arc::clone(&self.frame), Arc::clone(self.history()));
        self.write(move || (200, overview::page(&frame, &history, &all)))
            .await
    }

    async fn host(&self, query: &str) -> Answer {
        let window = match plots::window(query) {
            Ok(window) => window,
            Err(reason) => return Answer::text(400, &reason),
        };
        let (_, host) = self.said::<Host>("/api/v1/host").await;
        let (frame, history) = (Arc::clone(&self.frame), Arc::clone(self.history()));
        self.write(move || (200, detail::host(&frame, &history, &host, window)))
            .await
    }

    /// `named` as it stands in the path.
    async fn container(&self, named: &str, query: &str) -> Answer {
        let window = match plots::window(query) {
            Ok(window) => window,
            Err(reason) => return Answer::text(400, &reason),
        };
        let path = format!("/api/v1/containers/{named}");
        let (status, said) = self.said::<One>(&path).await;
        let (frame, history) = (Arc::clone(&self.frame), Arc::clone(self.history()));
        self.write(move || {
            let page = match status {
                200 => detail::container(&frame, &history, &said, window),
                _ => detail::none(&frame, &said),
            };
            (status, page)
        })
        .await
    }

    /// `path` as it stands behind `/plot/`.
    async fn plot(&self, path: &str, query: &str) -> Answer {
        let asked = match plots::Asked::parse(query) {
            Ok(asked) => asked,
            Err(reason) => return Answer::text(400, &reason),
        };
        let Some(of) = path.strip_suffix(".svg") else {
            return Answer::text(404, "There is no such plot.");
        };
        let of = match of.strip_prefix("containers/") {
            None if of == "host" => plots::Of::Host,
            Some(named) if !named.is_empty() => match self.series(named).await {
                Ok((title, series)) => plots::Of::Container(title, series),
                Err(answer) => return answer,
            },
            _ => return Answer::text(404, "There is no such plot."),
        };
        let history = Arc::clone(self.history());
        let drawn = self
            .workers
            .call(move || plots::draw(&history, &of, &asked));
        match drawn.await {
            Some(Ok(svg)) => Answer::picture(svg),
            Some(Err(error)) => Answer::text(500, &error.to_string()),
            None => Answer::text(500, "The plot could not be drawn."),
        }
    }

    /// What is remembered of a container that a path names, and what to call it.
    async fn series(&self, named: &str) -> Result<(String, Option<Arc<Series>>), Answer> {
        let decoded = percent_encoding::percent_decode_str(named).decode_utf8();
        let key = decoded.map_err(|_| Answer::text(400, "The path is not UTF-8."))?;
        let history = self.history();
        if let Some(series) = history.container(&key) {
            return Ok((self.title(&key), Some(series)));
        }
        let path = format!("/api/v1/containers/{named}");
        let (status, said) = self.said::<One>(&path).await;
        if status != 200 {
            return Err(Answer::text(status, &said.error));
        }
        let series = cells::series(history, &said.container);
        Ok((said.container.title().to_owned(), series))
    }

    /// The name of what is remembered by a key, from what engines said.
    fn title(&self, key: &str) -> String {
        let engines = self.api.machine().engines().known();
        let mut known = engines.iter().filter_map(|it| it.containers.get(key));
        let named = known.find(|it| !it.name.is_empty());
        named.map_or_else(|| key.to_owned(), |it| it.name.clone())
    }

    async fn check(&self) -> Answer {
        let text = self.checks.text().await;
        let frame = Arc::clone(&self.frame);
        self.write(move || (200, checked::page(&frame, &text)))
            .await
    }

    /// What the API says at a path, with the status.
    async fn said<T: DeserializeOwned + Default + Send + 'static>(&self, path: &str) -> (u16, T) {
        let answer = self.api.answer(path, "", PATIENCE).await;
        let read = self
            .workers
            .call(move || serde_json::from_slice(&answer.json).ok());
        (answer.status, read.await.flatten().unwrap_or_default())
    }

    /// Writes a page on a worker, for it may be long.
    async fn write(&self, write: impl FnOnce() -> (u16, Markup) + Send + 'static) -> Answer {
        match self.workers.call(write).await {
            Some((status, page)) => Answer::page(status, page),
            None => Answer::text(500, "The page could not be written."),
        }
    }
}

/// What is missing, one after the other.
fn missing<'a>(of: impl IntoIterator<Item = &'a Missing>) -> Vec<String> {
    let lines = of.into_iter();
    let lines = lines.map(|it| format!("{}: {}", it.part, it.reason));
    lines.collect()
}
