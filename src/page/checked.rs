//! What `strata_exporter check` says, on a page. It takes a whole scrape, hence it is made
//! when it is asked for, by one at a time, and shown again for a while.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use maud::{Markup, html};
use tokio::sync::Mutex;

use super::frame::Frame;
use crate::{check, collector::Entry, scrape::Scraper, sources::Machine};

/// How long it is shown again.
const FRESH: Duration = Duration::from_secs(30);

pub(super) struct Checks {
    machine: Arc<Machine>,
    scraper: Arc<Scraper>,
    entries: &'static [Entry],
    last: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Checks {
    pub(super) fn new(
        machine: Arc<Machine>,
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
    pub(super) async fn text(&self) -> Arc<str> {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < FRESH
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

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checks").finish_non_exhaustive()
    }
}

pub(super) fn page(frame: &Frame, text: &str) -> Markup {
    let body = html! {
        h1 { "What is missing, and why" }
        p { "As " code { "strata_exporter check" } " says it; made anew when it is older than "
            (FRESH.as_secs()) " s." }
        pre tabindex="0" { (text) }
    };
    frame.page("check", "", &body)
}
