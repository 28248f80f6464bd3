//! The page of one thing: what it is, what it used in a window of time, and four plots.

use std::time::Duration;

use maud::{Markup, html};

use super::{
    cells::{self, UNKNOWN, age, amount, state_text},
    frame::Frame,
    missing, overview,
    plots::{self, WINDOWS, What, window_text},
    said::{Host, One},
};
use crate::{
    history::{Aggregates, History, Series, Spread},
    plot::Unit,
};

pub(super) fn host(frame: &Frame, history: &History, host: &Host, window: Duration) -> Markup {
    let name = overview::name(host);
    let body = html! {
        h1 { (name) }
        div data-fresh="facts" {
            (overview::facts(host))
            (lines(missing(&host.missing)))
        }
        (windows(window))
        div data-fresh="used" { (used(Some(history.host()), window)) }
        (pictures("host", name, window))
    };
    frame.page(name, "detail", &body)
}

pub(super) fn container(frame: &Frame, history: &History, said: &One, window: Duration) -> Markup {
    let it = &said.container;
    let series = cells::series(history, it);
    let ago = |then: Option<f64>| {
        let since = said.time.zip(then).map(|(now, then)| now - then);
        since.map(|since| format!("{} ago", age(Some(since))))
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
            it.memory_limit_bytes.map(|it| Unit::Bytes.text(it)),
        ),
        ("First process", it.pid.map(|it| it.to_string())),
        ("Id", it.id.clone()),
        ("Control group", Some(it.cgroup.clone())),
        ("No name because", it.why_unnamed()),
    ];
    let of = format!("containers/{}", cells::escaped(it.key()));
    let body = html! {
        h1 { (it.title()) }
        div data-fresh="facts" {
            dl.facts {
                @for (name, value) in &facts {
                    @if let Some(value) = value { div { dt { (name) } dd { (value) } } }
                }
            }
            (lines(missing(&said.missing)))
        }
        (windows(window))
        div data-fresh="used" { (used(series.as_deref(), window)) }
        (pictures(&of, it.title(), window))
        @if !it.labels.is_empty() {
            details {
                summary { (it.labels.len()) " labels" }
                dl.labels {
                    @for (name, value) in &it.labels { div { dt { (name) } dd { (value) } } }
                }
            }
        }
    };
    frame.page(it.title(), "detail", &body)
}

/// That there is none, or which may be meant.
pub(super) fn none(frame: &Frame, said: &One) -> Markup {
    let body = html! {
        h1 { "No such container" }
        p { (said.error) }
        @if !said.candidates.is_empty() {
            ul {
                @for it in &said.candidates {
                    @let key = it.id.as_deref().unwrap_or(&it.cgroup);
                    li { a href=(cells::href(key)) { (it.name.as_deref().unwrap_or(key)) }
                        " " small { (key) } }
                }
            }
        }
        p { a href="/" { "Everything that is there" } }
    };
    frame.page("No such container", "", &body)
}

fn lines(lines: Vec<String>) -> Markup {
    html! {
        @if !lines.is_empty() { ul.missing { @for line in lines { li { (line) } } } }
    }
}

fn windows(window: Duration) -> Markup {
    let is_known = WINDOWS.iter().any(|(_, it)| *it == window);
    html! {
        nav.windows aria-label="Window of time" {
            @for (name, it) in WINDOWS {
                a href={ "?window=" (name) } aria-current=[(it == window).then_some("true")] {
                    (name)
                }
            }
            @if !is_known { a href={ "?window=" (window_text(window)) } aria-current="true" {
                (window_text(window))
            } }
        }
    }
}

/// What was used in the window, in numbers.
fn used(series: Option<&Series>, window: Duration) -> Markup {
    let said = series.map(|series| series.window(window));
    let Some(said) = said.filter(|it| it.samples > 0) else {
        return html! { p.none { "There are no samples of the last " (window_text(window)) "." } };
    };
    let span = said.start.zip(said.end);
    let span = span.map(|(start, end)| end.saturating_sub(start).as_secs_f64());
    html! {
        div.scroll role="region" aria-label="Used" tabindex="0" {
            table.used {
                caption { (said.samples) " samples over " (age(span))
                    @if said.restarts > 0 { ", " (said.restarts) " restarts" } }
                thead { tr { th {} th scope="col" { "Average" } th scope="col" { "Peak" }
                    th scope="col" { "Least" } } }
                tbody {
                    tr { th scope="row" { "CPU" } (spread(Unit::Percent, said.cpu_percent)) }
                    tr { th scope="row" { "Memory" } (spread(Unit::Bytes, float(said.memory))) }
                    tr { th scope="row" { "Processes" } (spread(Unit::Count, float(said.pids))) }
                }
            }
            (sums(&said))
        }
    }
}

fn sums(said: &Aggregates) -> Markup {
    let rows = [
        ("Received", said.received),
        ("Sent", said.sent),
        ("Read from disks", said.read),
        ("Written to disks", said.written),
    ];
    #[expect(clippy::cast_precision_loss, reason = "it is shown by three digits")]
    let bytes = |it: Option<u64>| amount(Unit::Bytes, it.map(|it| it as f64));
    html! {
        dl.facts {
            @for (name, sum) in rows { div { dt { (name) } dd { (bytes(sum)) } } }
        }
    }
}

fn spread(unit: Unit, of: Option<Spread<f64>>) -> Markup {
    let columns = of.map(|it| [it.average, it.peak, it.minimum].map(|it| unit.text(it)));
    html! {
        @match columns {
            Some(columns) => { @for text in columns { td.number { (text) } } }
            None => { @for _ in 0..3 { td.number { (UNKNOWN) } } }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is shown by three digits")]
fn float(of: Option<Spread<u64>>) -> Option<Spread<f64>> {
    of.map(|it| Spread {
        average: it.average,
        peak: it.peak as f64,
        minimum: it.minimum as f64,
    })
}

/// The plots, each a link to itself.
fn pictures(of: &str, name: &str, window: Duration) -> Markup {
    html! {
        div.plots {
            @for what in What::ALL {
                @let src = plots::src(of, what, window);
                a href=(src) {
                    picture {
                        // On a phone text would be too small in the large one.
                        source media="(max-width: 40rem)" width="380" height="200"
                            srcset={ (src) "&width=380&height=200" };
                        img src=(src) width="640" height="220" decoding="async"
                            data-every=(window.as_secs() / 120)
                            alt={ (name) ": " (what.title()) ", the last " (window_text(window)) };
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
        history::{Flags, Moment, Sample},
        page::assets::Assets,
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn frame(history: &History) -> Frame {
        Frame::new("/metrics", &Assets::new(), history.interval())
    }

    #[test]
    fn a_container_has_its_facts_its_numbers_and_four_plots() {
        let history = History::new(Flags::default());
        let kept = history.keep([("ab", "/docker/ab")].into_iter(), Duration::ZERO);
        let series = kept.into_iter().next().unwrap().unwrap();
        let sample = Sample {
            memory: Some(8192),
            ..Sample::default()
        };
        series.push(Moment::now(), &sample);
        let said = r#"{"time": 100.0, "container": {"id": "ab", "cgroup": "/docker/ab",
            "name": "<b>web</b>", "state": "exited", "exit_code": 137, "finished": 90.0,
            "labels": {"a&b": "<i>"}}}"#;
        let said: One = serde_json::from_str(said).unwrap();
        let page = container(&frame(&history), &history, &said, HOUR).into_string();
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
    fn what_may_be_meant_is_linked() {
        let said = r#"{"error": "\"a\" may be one of 2 containers",
            "candidates": [{"id": "ab", "name": "web", "cgroup": "/x"}, {"cgroup": "/a b"}]}"#;
        let said: One = serde_json::from_str(said).unwrap();
        let history = History::new(Flags::default());
        let page = none(&frame(&history), &said).into_string();
        assert!(page.contains("href=\"/containers/ab\">web</a>"));
        assert!(page.contains("href=\"/containers/%2Fa%20b\">/a b</a>"));
    }
}
