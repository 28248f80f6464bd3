//! Page of the host or of one container: facts, usage over a window, and four plots.

use std::time::Duration;

use maud::{Markup, html};

use super::{
    layout::PageLayout,
    missing_lines, overview,
    plots::{self, PlotMetric, WINDOWS, format_window},
    said::{Host, One},
    table::{self, UNKNOWN, format_age, format_value, state_text},
};
use crate::{
    history::{Aggregates, History, MinAvgMax, Series},
    plot::PlotUnit,
};

pub(super) fn host(
    layout: &PageLayout,
    history: &History,
    host: &Host,
    window: Duration,
) -> Markup {
    let name = overview::host_title(host);
    let body = html! {
        h1 { (name) }
        div data-fresh="facts" {
            (overview::host_facts(host))
            (missing_list(missing_lines(&host.missing)))
        }
        (window_nav(window))
        div data-fresh="used" { (usage_table(Some(history.host()), window)) }
        (plot_images("host", name, window))
    };
    layout.page(name, "detail", &body)
}

pub(super) fn container(
    layout: &PageLayout,
    history: &History,
    response: &One,
    window: Duration,
) -> Markup {
    let it = &response.container;
    let series = table::container_series(history, it);
    let ago = |then: Option<f64>| {
        let since = response.time.zip(then).map(|(now, then)| now - then);
        since.map(|since| format!("{} ago", format_age(Some(since))))
    };
    let state = it.state.as_deref();
    let facts = [
        (
            "State",
            state.map(|state| state_text(state, it.health.as_deref())),
        ),
        ("Image", it.image.clone()),
        ("Engine", it.engine.clone().or_else(|| it.runtime.clone())),
        ("Created", ago(it.created)),
        ("Started", ago(it.started)),
        ("Ended", ago(it.finished)),
        ("Exit code", it.exit_code.map(|it| it.to_string())),
        ("Restarts", it.restarts.map(|it| it.to_string())),
        (
            "Out of memory",
            it.oom_events.map(|it| format!("{it} times")),
        ),
        (
            "Memory limit",
            it.memory_limit_bytes.map(|it| PlotUnit::Bytes.format(it)),
        ),
        ("Main process", it.pid.map(|it| it.to_string())),
        ("ID", it.id.clone()),
        ("Cgroup", Some(it.cgroup.clone())),
        ("Unnamed", it.why_unnamed()),
    ];
    let target = format!("containers/{}", table::percent_encode(it.key()));
    let body = html! {
        h1 { (it.title()) }
        div data-fresh="facts" {
            dl.facts {
                @for (name, value) in &facts {
                    @if let Some(value) = value { div { dt { (name) } dd { (value) } } }
                }
            }
            (missing_list(missing_lines(&response.missing)))
        }
        (window_nav(window))
        div data-fresh="used" { (usage_table(series.as_deref(), window)) }
        (plot_images(&target, it.title(), window))
        @if !it.labels.is_empty() {
            details {
                summary { (it.labels.len()) " labels" }
                dl.labels {
                    @for (name, value) in &it.labels { div { dt { (name) } dd { (value) } } }
                }
            }
        }
    };
    layout.page(it.title(), "detail", &body)
}

/// Page for an unknown container, or with the candidates of an ambiguous name.
pub(super) fn not_found(layout: &PageLayout, response: &One) -> Markup {
    let body = html! {
        h1 { "No such container" }
        p { (response.error) }
        @if !response.candidates.is_empty() {
            ul {
                @for it in &response.candidates {
                    @let key = it.id.as_deref().unwrap_or(&it.cgroup);
                    li { a href=(table::container_href(key)) { (it.name.as_deref().unwrap_or(key)) }
                        " " small { (key) } }
                }
            }
        }
        p { a href="/" { "Overview" } }
    };
    layout.page("No such container", "", &body)
}

fn missing_list(lines: Vec<String>) -> Markup {
    html! {
        @if !lines.is_empty() { ul.missing { @for line in lines { li { (line) } } } }
    }
}

fn window_nav(window: Duration) -> Markup {
    let is_listed = WINDOWS.iter().any(|(_, it)| *it == window);
    html! {
        nav.windows aria-label="Time window" {
            @for (name, it) in WINDOWS {
                a href={ "?window=" (name) } aria-current=[(it == window).then_some("true")] {
                    (name)
                }
            }
            @if !is_listed { a href={ "?window=" (format_window(window)) } aria-current="true" {
                (format_window(window))
            } }
        }
    }
}

/// Usage over the window, in numbers.
fn usage_table(series: Option<&Series>, window: Duration) -> Markup {
    let stats = series.map(|series| series.window(window));
    let Some(stats) = stats.filter(|it| it.samples > 0) else {
        return html! { p.none { "No samples in the last " (format_window(window)) "." } };
    };
    let span = stats.start.zip(stats.end);
    let span = span.map(|(start, end)| end.saturating_sub(start).as_secs_f64());
    html! {
        div.scroll role="region" aria-label="Usage" tabindex="0" {
            table.used {
                caption { (stats.samples) " samples over " (format_age(span))
                    @if stats.restarts > 0 { ", " (stats.restarts) " restarts" } }
                thead { tr { th {} th scope="col" { "Average" } th scope="col" { "Peak" }
                    th scope="col" { "Minimum" } } }
                tbody {
                    tr { th scope="row" { "CPU" } (range_cells(PlotUnit::Percent, stats.cpu_percent)) }
                    tr { th scope="row" { "Memory" } (range_cells(PlotUnit::Bytes, range_as_f64(stats.memory))) }
                    tr { th scope="row" { "Processes" } (range_cells(PlotUnit::Count, range_as_f64(stats.pids))) }
                }
            }
            (totals_list(&stats))
        }
    }
}

fn totals_list(totals: &Aggregates) -> Markup {
    let rows = [
        ("Received", totals.received),
        ("Sent", totals.sent),
        ("Read from disks", totals.read),
        ("Written to disks", totals.written),
    ];
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let bytes = |it: Option<u64>| format_value(PlotUnit::Bytes, it.map(|it| it as f64));
    html! {
        dl.facts {
            @for (name, sum) in rows { div { dt { (name) } dd { (bytes(sum)) } } }
        }
    }
}

fn range_cells(unit: PlotUnit, range: Option<MinAvgMax<f64>>) -> Markup {
    let columns = range.map(|it| [it.average, it.peak, it.minimum].map(|it| unit.format(it)));
    html! {
        @match columns {
            Some(columns) => { @for text in columns { td.number { (text) } } }
            None => { @for _ in 0..3 { td.number { (UNKNOWN) } } }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn range_as_f64(range: Option<MinAvgMax<u64>>) -> Option<MinAvgMax<f64>> {
    range.map(|it| MinAvgMax {
        average: it.average,
        peak: it.peak as f64,
        minimum: it.minimum as f64,
    })
}

/// The plots, each with a link to itself.
fn plot_images(target: &str, name: &str, window: Duration) -> Markup {
    html! {
        div.plots {
            @for metric in PlotMetric::ALL {
                @let src = plots::plot_path(target, metric, window);
                a href=(src) {
                    picture {
                        // On a phone the text of the large plot would be too small.
                        source media="(max-width: 40rem)" width="380" height="200"
                            srcset={ (src) "&width=380&height=200" };
                        img src=(src) width="640" height="220" decoding="async"
                            data-every=(window.as_secs() / 120)
                            alt={ (name) ": " (metric.title()) ", the last " (format_window(window)) };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::{BootInstant, HistoryFlags, Sample},
        web_ui::assets::Assets,
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn layout(history: &History) -> PageLayout {
        PageLayout::new("/metrics", &Assets::new(), history.interval())
    }

    #[test]
    fn container_page_has_facts_usage_and_plots() {
        let history = History::new(HistoryFlags::default());
        let added = history.update_containers([("ab", "/docker/ab")].into_iter(), Duration::ZERO);
        let series = added.into_iter().next().unwrap().unwrap();
        let sample = Sample {
            memory: Some(8192),
            ..Sample::default()
        };
        series.push(BootInstant::now(), &sample);
        let response = r#"{"time": 100.0, "container": {"id": "ab", "cgroup": "/docker/ab",
            "name": "<b>web</b>", "state": "exited", "exit_code": 137, "finished": 90.0,
            "labels": {"a&b": "<i>"}}}"#;
        let response: One = serde_json::from_str(response).unwrap();
        let page = container(&layout(&history), &history, &response, HOUR).into_string();
        for text in [
            "<h1>&lt;b&gt;web&lt;/b&gt;</h1>",
            "<dd>137</dd>",
            "<dd>10 s ago</dd>",
            "<td class=\"number\">8 KiB</td>",
            "1 samples over 0 s",
            "src=\"/plot/containers/ab.svg?what=disk&amp;window=1h\"",
            "<dt>a&amp;b</dt><dd>&lt;i&gt;</dd>",
        ] {
            assert!(page.contains(text), "{text} in {page}");
        }
        assert_eq!(page.matches("<img").count(), 4);
        assert_eq!(page.matches("aria-current=\"true\"").count(), 1);
    }

    #[test]
    fn ambiguous_candidates_are_linked() {
        let response = r#"{"error": "ambiguous container \"a\": 2 matches",
            "candidates": [{"id": "ab", "name": "web", "cgroup": "/x"}, {"cgroup": "/a b"}]}"#;
        let response: One = serde_json::from_str(response).unwrap();
        let history = History::new(HistoryFlags::default());
        let page = not_found(&layout(&history), &response).into_string();
        assert!(page.contains("href=\"/containers/ab\">web</a>"));
        assert!(page.contains("href=\"/containers/%2Fa%20b\">/a b</a>"));
    }
}
