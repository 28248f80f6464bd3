//! Page with the report of `strata_exporter check`. The check takes as long as a whole scrape, so
//! it runs on request, one at a time, and the result is cached.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use maud::{Markup, html};
use tokio::sync::Mutex;

use super::layout::PageLayout;
use crate::{check, collector::Entry, scrape::Scraper, sources::HostState};

/// Maximum age of the cached report.
const MAX_AGE: Duration = Duration::from_secs(30);

pub(super) struct CheckCache {
    machine: Arc<HostState>,
    scraper: Arc<Scraper>,
    entries: &'static [Entry],
    last: Mutex<Option<(Instant, Arc<str>)>>,
}

impl CheckCache {
    pub(super) fn new(
        machine: Arc<HostState>,
        scraper: Arc<Scraper>,
        entries: &'static [Entry],
    ) -> Self {
        Self {
            machine,
            scraper,
            entries,
            last: Mutex::default(),
        }
    }

    /// The report, cached or new.
    pub(super) async fn report_text(&self) -> Arc<str> {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < MAX_AGE
        {
            return Arc::clone(text);
        }
        let machine = Arc::clone(&self.machine);
        let report = check::run(machine, &self.scraper, self.entries, None).await;
        let text: Arc<str> = report.plain_text().into();
        *last = Some((Instant::now(), Arc::clone(&text)));
        text
    }
}

impl fmt::Debug for CheckCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckCache").finish_non_exhaustive()
    }
}

pub(super) fn page(layout: &PageLayout, text: &str) -> Markup {
    let body = html! {
        h1 { "Missing data and errors" }
        p { "Report of " code { "strata_exporter check" } ", cached for " (MAX_AGE.as_secs()) " s." }
        pre tabindex="0" { (text) }
    };
    layout.page("check", "", &body)
}
