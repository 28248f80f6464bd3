//! Common layout of all pages.

use std::time::Duration;

use maud::{DOCTYPE, Markup, html};

use super::assets::Assets;

#[derive(Debug)]
pub(super) struct PageLayout {
    telemetry_path: String,
    /// Sampling interval: how often new values exist.
    interval: Duration,
    style: String,
    script: String,
    icon: String,
}

impl PageLayout {
    pub(super) fn new(telemetry_path: &str, assets: &Assets, interval: Duration) -> Self {
        Self {
            telemetry_path: telemetry_path.trim_end_matches('/').to_owned(),
            interval,
            style: assets.path("style.css"),
            script: assets.path("page.js"),
            icon: assets.path("icon.svg"),
        }
    }

    /// Renders a page; `live` selects how the script refreshes it.
    pub(super) fn page(&self, title: &str, live: &str, body: &Markup) -> Markup {
        // Updating more often than every 5 s does not help readers.
        let seconds = self.interval.as_secs().max(5);
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · strata_exporter" }
                    link rel="icon" type="image/svg+xml" href=(self.icon);
                    link rel="stylesheet" href=(self.style);
                    script src=(self.script) defer {}
                }
                body data-live=(live) data-seconds=(seconds) {
                    a.skip href="#main" { "Skip to content" }
                    header.top {
                        a.home href="/" { "strata_exporter" }
                        nav aria-label="Pages" {
                            a href="/" { "Overview" }
                            a href="/host" { "Host" }
                            a href="/check" rel="nofollow" { "Check" }
                            a href=(self.metrics_path()) { "Metrics" }
                        }
                        p #status role="status" { }
                    }
                    main #main { (body) }
                    footer {
                        p { "strata_exporter " (env!("CARGO_PKG_VERSION"))
                            ": Prometheus exporter for hosts, containers and libvirt domains." }
                    }
                }
            }
        }
    }

    /// The path of the metrics.
    pub(super) fn metrics_path(&self) -> &str {
        match self.telemetry_path.as_str() {
            "" => "/",
            path => path,
        }
    }
}
