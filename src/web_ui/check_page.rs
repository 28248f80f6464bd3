//! What `strata_exporter check` says, on a page. It takes a whole scrape, hence it is made
//! when it is asked for, by one at a time, and shown again for a while.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use maud::{Markup, html};
use tokio::sync::Mutex;

use super::layout::PageLayout;
use crate::{check, collector::Entry, scrape::Scraper, sources::HostState};

/// How long it is shown again.
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

    /// Everything that was found.
    pub(super) async fn report_text(&self) -> Arc<str> {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < MAX_AGE
        {
            return Arc::clone(text);
        }
        let machine = Arc::clone(&self.machine);
        let found = check::run(machine, &self.scraper, self.entries, None).await;
        let text: Arc<str> = found.plain_text().into();
        *last = Some((Instant::now(), Arc::clone(&text)));
        text
    }
}

impl fmt::Debug for CheckCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checks").finish_non_exhaustive()
    }
}

pub(super) fn page(layout: &PageLayout, text: &str) -> Markup {
    let body = html! {
        h1 { "What is missing, and why" }
        p { "As " code { "strata_exporter check" } " says it; made anew when it is older than "
            (MAX_AGE.as_secs()) " s." }
        pre tabindex="0" { (text) }
    };
    layout.page("check", "", &body)
}
