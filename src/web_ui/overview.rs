//! The overview at `/`.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::{
    layout::PageLayout,
    missing_lines,
    plots::plot_path,
    said::{Collector, Collectors, Container, Containers, Domains, Engine, Host},
    table::{self, CONTAINER_COLUMNS, DOMAIN_COLUMNS, TableRow, UNKNOWN, format_age, format_value},
};
use crate::{
    collector::Layer,
    history::{History, Increase},
    plot::PlotUnit,
};

/// API responses shown on the page.
pub(super) struct Overview {
    pub host: Host,
    pub containers: Containers,
    pub domains: Domains,
    pub collectors: Collectors,
}

pub(super) fn page(layout: &PageLayout, history: &History, all: &Overview) -> Markup {
    let body = html! {
        h1 { (host_title(&all.host)) }
        (host_section(history, &all.host))
        (missing_section(history, all))
        (containers_section(history, &all.containers))
        (domains_section(history, all))
        (collectors_section(layout, &all.collectors))
        (links_section(layout))
    };
    layout.page(host_title(&all.host), "overview", &body)
}

pub(super) fn host_title(host: &Host) -> &str {
    match host.name.as_str() {
        "" => "This host",
        name => name,
    }
}

/// The host in a few numbers.
fn host_section(history: &History, host: &Host) -> Markup {
    let (latest, memory) = (&host.latest, &host.memory);
    let used = memory.total_bytes.zip(memory.available_bytes);
    let used = used.map(|(total, available)| total - available);
    let points = table::sparkline_points(history.host());
    let rate = |increase: Option<Increase>| increase.map(Increase::per_second);
    html! {
        section aria-labelledby="host" { h2 #host { a href="/host" { "Host" } }
            (host_facts(host))
            dl.tiles data-table="host" {
                div { dt { "CPU" } dd data-cell="cpu" {
                    span.value { (format_value(PlotUnit::Percent, latest.cpu_percent)) }
                    (table::sparkline_svg(&points, |it| it.cpu_percent))
                    small { @match host.cpus_online {
                        Some(cpus) => { "of " (cpus * 100) " %" } None => {}
                    } }
                } }
                div { dt { "Memory" } dd data-cell="memory" {
                    span.value { (format_value(PlotUnit::Bytes, used.or(latest.memory_bytes))) }
                    (table::sparkline_svg(&points, table::memory_bytes))
                    small { "of " (format_value(PlotUnit::Bytes, memory.total_bytes)) }
                } }
                div { dt { "Received" } dd data-cell="received" {
                    span.value { (format_value(PlotUnit::BytesPerSecond, latest.received_bytes_per_second)) }
                    (table::sparkline_svg(&points, |it| rate(it.received)))
                } }
                div { dt { "Sent" } dd data-cell="sent" {
                    span.value { (format_value(PlotUnit::BytesPerSecond, latest.sent_bytes_per_second)) }
                    (table::sparkline_svg(&points, |it| rate(it.sent)))
                } }
                div { dt { "Read from disks" } dd data-cell="read" {
                    span.value { (format_value(PlotUnit::BytesPerSecond, latest.read_bytes_per_second)) }
                    (table::sparkline_svg(&points, |it| rate(it.read)))
                } }
                div { dt { "Written to disks" } dd data-cell="written" {
                    span.value { (format_value(PlotUnit::BytesPerSecond, latest.written_bytes_per_second)) }
                    (table::sparkline_svg(&points, |it| rate(it.written)))
                } }
            }
        }
    }
}

/// Facts about the host.
pub(super) fn host_facts(host: &Host) -> Markup {
    let up = host.time.zip(host.boot_time).map(|(now, boot)| now - boot);
    html! {
        dl.facts data-table="facts" {
            div { dt { "System" } dd { (host.os.as_deref().unwrap_or(UNKNOWN)) } }
            div { dt { "Kernel" } dd { (host.kernel.release) " " (host.kernel.machine) } }
            div { dt { "Up" } dd data-cell="uptime" { (format_age(up)) } }
            div { dt { "CPUs" } dd {
                @match host.cpus_online { Some(cpus) => (cpus), None => (UNKNOWN) }
            } }
            div { dt { "Load average (1, 5, 15 min)" } dd data-cell="load" {
                @match &host.load {
                    Some(it) => (format!("{:.2} {:.2} {:.2}", it.one, it.five, it.fifteen)),
                    None => (UNKNOWN),
                }
            } }
        }
    }
}

/// Missing parts and their reasons.
fn missing_section(history: &History, all: &Overview) -> Markup {
    let mut lines = missing_lines(&all.host.missing);
    lines.extend(missing_lines(&all.containers.missing));
    lines.extend(missing_lines(&all.domains.missing));
    if !history.is_sampled() {
        lines.push("history: disabled, so there are no values and no plots".to_owned());
    }
    lines.extend(all.containers.engines.iter().filter_map(engine_error));
    let mut unnamed: BTreeMap<String, usize> = BTreeMap::new();
    for container in all.containers.containers.iter().flatten() {
        if let Some(why) = container.why_unnamed() {
            *unnamed.entry(why).or_default() += 1;
        }
    }
    let unnamed = unnamed.into_iter();
    lines.extend(unnamed.map(|(why, count)| format!("{count} unnamed: {why}")));
    let failed = all.collectors.collectors.iter();
    lines.extend(failed.filter_map(|it| {
        let last = it.last.as_ref()?;
        let error = last.error.as_deref()?;
        let parts = match last.skipped_parts {
            0 => String::new(),
            parts => format!(" ({parts} parts skipped)"),
        };
        (last.outcome != "no_data")
            .then(|| format!("collector {}: {}{parts}: {error}", it.name, last.outcome))
    }));
    let unique: BTreeSet<String> = lines.into_iter().collect();
    html! {
        section aria-labelledby="missing" {
            h2 #missing { "Missing data" }
            @if unique.is_empty() {
                p { "None detected. " (check_link()) }
            } @else {
                ul.missing { @for line in &unique { li { (line) } } }
                p { (check_link()) }
            }
        }
    }
}

fn check_link() -> Markup {
    html! {
        a href="/check" rel="nofollow" { "Run a full check" }
        " for causes and fixes; it takes as long as a scrape."
    }
}

fn engine_error(engine: &Engine) -> Option<String> {
    if engine.is_up {
        return None;
    }
    let reason = engine.error.as_deref().unwrap_or("no response yet");
    Some(format!("engine at {}: {reason}", engine.socket))
}

fn containers_section(history: &History, response: &Containers) -> Markup {
    let all = response.containers.iter().flatten();
    let all = all.filter(|it| it.kind != "guest");
    let rows = all.map(|it| container_row(history, it, response.time));
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|row| row.title);
    let up: Vec<_> = response
        .engines
        .iter()
        .filter(|engine| engine.is_up)
        .collect();
    html! {
        section aria-labelledby="containers" {
            h2 #containers { "Containers" }
            @for engine in up {
                p.engine { (engine.engine.as_deref().unwrap_or("engine"))
                    " " (engine.version.as_deref().unwrap_or_default())
                    " at " (engine.socket)
                    @match engine.containers { Some(count) => { ": " (count) " containers" } None => {} }
                }
            }
            (render_table("containers", "Containers", CONTAINER_COLUMNS, &rows))
            @if response.containers.is_none() {
                p.none { "Unknown: the list could not be read." }
            } @else if rows.is_empty() {
                p.none { "None." }
            }
        }
    }
}

/// The row of a container or domain.
fn container_row<'a>(
    history: &History,
    container: &'a Container,
    now: Option<f64>,
) -> TableRow<'a> {
    let state = container.state.as_deref();
    let is_running = match state {
        Some(state) => state == "running",
        None => container.has_cgroup == Some(true),
    };
    let uptime = now
        .zip(container.started)
        .map(|(now, started)| now - started);
    let note = match (&container.unnamed, container.is_current) {
        (Some(_), _) => container.why_unnamed(),
        (None, Some(false)) => Some("last known state".to_owned()),
        _ => None,
    };
    TableRow {
        key: container.key(),
        title: container.title(),
        href: Some(table::container_href(container.key())),
        note,
        image: container.image.as_deref(),
        vcpus: None,
        state,
        health: container.health.as_deref(),
        latest: Some(&container.latest),
        restarts: container.restarts,
        uptime: uptime.filter(|_| is_running),
        series: table::container_series(history, container),
    }
}

fn domains_section(history: &History, all: &Overview) -> Markup {
    let domain_containers: BTreeMap<&str, &Container> = all
        .containers
        .containers
        .iter()
        .flatten()
        .filter_map(|it| Some((it.domain.as_ref()?.name.as_str(), it)))
        .collect();
    let listed = all.domains.domains.iter().flatten();
    let mut rows: Vec<TableRow<'_>> = listed
        .map(|domain| {
            let container = domain_containers.get(domain.name.as_str());
            let row =
                container.map(|container| container_row(history, container, all.containers.time));
            let times = all.domains.time.zip(domain.started);
            let note = match (domain.is_stuck, domain.is_partial) {
                (true, _) => Some("not responding".to_owned()),
                (false, true) => Some("incomplete data".to_owned()),
                _ => domain.title.clone(),
            };
            TableRow {
                key: &domain.name,
                title: &domain.name,
                note,
                vcpus: domain.vcpus,
                state: domain.state.as_deref(),
                uptime: times.map(|(now, started)| now - started),
                ..row.unwrap_or_default()
            }
        })
        .collect();
    let named: BTreeSet<&str> = rows.iter().map(|row| row.key).collect();
    // Domains known only by their cgroups.
    let others = domain_containers
        .iter()
        .filter(|(name, _)| !named.contains(**name));
    let others: Vec<_> = others
        .map(|(name, container)| TableRow {
            key: name,
            ..container_row(history, container, all.containers.time)
        })
        .collect();
    rows.extend(others);
    html! {
        section aria-labelledby="domains" {
            h2 #domains { "Domains" } (render_table("domains", "Domains", DOMAIN_COLUMNS, &rows))
            @if rows.is_empty() {
                p.none { @if all.domains.domains.is_some() { "None." }
                    @else { "Unknown: the list could not be read." } }
            }
        }
    }
}

/// A table that the script refreshes, sorts and filters, with a template for new rows.
fn render_table(
    name: &str,
    title: &str,
    columns: &[table::TableColumn],
    rows: &[TableRow<'_>],
) -> Markup {
    html! {
        p.filter hidden {
            label { "Filter " input type="search" autocomplete="off" spellcheck="false"
                data-filter=(name); }
            " " span data-count=(name) {}
        }
        div.scroll role="region" aria-label=(title) tabindex="0" {
            table data-table=(name) {
                (table::table_head(columns))
                tbody { @for row in rows { (row.render(columns)) } }
            }
        }
        template data-row=(name) { (TableRow::default().render(columns)) }
    }
}

fn collectors_section(layout: &PageLayout, response: &Collectors) -> Markup {
    let enabled = response.collectors.iter().filter(|it| it.enabled);
    let enabled: Vec<&Collector> = enabled.collect();
    let disabled = response.collectors.iter().filter(|it| !it.enabled);
    let disabled: Vec<&str> = disabled.map(|it| it.name.as_str()).collect();
    let path = layout.metrics_path();
    html! {
        section aria-labelledby="collectors" {
            h2 #collectors { "Collectors" }
            p { "Outcome of each collector's last run." }
            div.scroll role="region" aria-label="Collectors" tabindex="0" {
                table data-table="collectors" {
                    thead { tr {
                        th scope="col" data-cell="name" { "Name" }
                        th scope="col" data-cell="layer" { "Layer" }
                        th scope="col" data-cell="outcome" { "Outcome" }
                        th scope="col" data-cell="duration" { "Duration" }
                        th scope="col" data-cell="error" { "Error" }
                    } }
                    tbody {
                        @for it in &enabled {
                            tr data-key=(it.name) {
                                th scope="row" data-cell="name" data-sort=(it.name) {
                                    a href={ (path) "?collect[]=" (it.name) } title=(it.about) {
                                        (it.name)
                                    }
                                }
                                td data-cell="layer" data-sort=(it.layer) { (it.layer) }
                                (outcome_cells(it))
                            }
                        }
                    }
                }
            }
            @if !disabled.is_empty() { p.off { "Disabled: " (disabled.join(", ")) "." } }
        }
    }
}

fn outcome_cells(collector: &Collector) -> Markup {
    let last = collector.last.as_ref();
    let outcome = last.map_or("not run yet", |last| last.outcome.as_str());
    let seconds = last.map(|last| last.duration_seconds);
    let error = last.and_then(|last| last.error.as_deref());
    html! {
        td data-cell="outcome" data-sort=(outcome) { span.state data-state=(outcome) { (outcome) } }
        td.number data-cell="duration" data-sort=[seconds] { (format_millis(seconds)) }
        td data-cell="error" data-sort=[error] { (error.unwrap_or_default()) }
    }
}

fn format_millis(seconds: Option<f64>) -> String {
    seconds.map_or_else(
        || UNKNOWN.to_owned(),
        |seconds| format!("{:.2} ms", seconds * 1000.0),
    )
}

/// Links to machine-readable data.
fn links_section(layout: &PageLayout) -> Markup {
    let path = layout.metrics_path();
    let base = path.trim_end_matches('/');
    html! {
        section aria-labelledby="links" {
            h2 #links { "Machine-readable data" }
            ul {
                li { a href=(path) { "Metrics" } ": Prometheus text format" }
                @for layer in Layer::ALL {
                    li { a href={ (base) "/" (layer.name()) } { (base) "/" (layer.name()) }
                        ": " (layer.about()) }
                }
                li { a href="/api/v1/openapi.json" { "/api/v1" } ": JSON with an OpenAPI \
                                                                  description; "
                    @for (n, resource) in ["host", "containers", "domains", "collectors", "census"].iter().enumerate() {
                        @if n > 0 { ", " }
                        a href={ "/api/v1/" (resource) } { (resource) }
                    }
                }
                li { "Plots as SVG images, such as " a href=(plot_path("host", super::plots::PlotMetric::Cpu, super::plots::WINDOWS[3].1)) { "host CPU" } }
                li { a href="/-/healthy" { "Healthy" } " and " a href="/-/ready" { "ready" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::HistoryFlags, web_ui::assets::Assets};

    fn render_text(all: &Overview) -> String {
        let history = History::new(HistoryFlags::default());
        let layout = PageLayout::new("/a\"><script>", &Assets::new(), history.interval());
        page(&layout, &history, all).into_string()
    }

    fn empty_overview() -> Overview {
        Overview {
            host: Host::default(),
            containers: Containers::default(),
            domains: Domains::default(),
            collectors: Collectors::default(),
        }
    }

    #[test]
    fn telemetry_path_is_escaped() {
        let page = render_text(&empty_overview());
        assert!(!page.contains("<script>"));
        assert!(page.contains("/containers\">"));
        assert!(
            page.contains("href=\"/a&quot;&gt;&lt;script&gt;\""),
            "{page}"
        );
    }

    #[test]
    fn page_has_no_inline_style_or_script() {
        let page = render_text(&empty_overview());
        for inline in ["style=", "<style", " onclick", "javascript:", "<script>"] {
            assert!(!page.contains(inline), "{inline}");
        }
    }

    #[test]
    fn unknown_lists_are_not_shown_as_empty() {
        let page = render_text(&empty_overview());
        assert_eq!(
            page.matches("Unknown: the list could not be read.").count(),
            2
        );
        let mut all = empty_overview();
        all.containers.containers = Some(Vec::new());
        assert_eq!(render_text(&all).matches("None.").count(), 1);
    }

    #[test]
    fn domains_are_not_listed_as_containers() {
        let mut all = empty_overview();
        let json = r#"{"time": 100.0, "containers": [
            {"kind": "guest", "cgroup": "/machine.slice/x", "domain": {"name": "vm1"},
             "latest": {"cpu_percent": 12.5}},
            {"kind": "guest", "cgroup": "/machine.slice/y", "domain": {"name": "vm2"}},
            {"kind": "container", "cgroup": "/docker/ab", "id": "ab", "name": "web",
             "state": "running", "started": 40.0}
        ]}"#;
        all.containers = serde_json::from_str(json).unwrap();
        let json = r#"{"domains": [{"name": "vm1", "uuid": "u", "state": "running", "vcpus": 2}]}"#;
        all.domains = serde_json::from_str(json).unwrap();
        let page = render_text(&all);
        let (containers, domains) = page.split_once("id=\"domains\"").unwrap();
        assert!(containers.contains("data-key=\"ab\"") && containers.contains("1 min"));
        assert!(!containers.contains("data-key=\"vm"));
        for text in ["data-key=\"vm1\"", "data-key=\"vm2\"", "12.5 %"] {
            assert!(domains.contains(text), "{text}");
        }
    }

    #[test]
    fn missing_parts_show_their_reason() {
        let mut all = empty_overview();
        let json = r#"{"engines": [{"socket": "/run/x.sock", "is_up": false, "error": "refused"}],
            "missing": [{"part": "control groups", "reason": "denied"}],
            "containers": [{"cgroup": "/docker/a", "unnamed": {"reason": "not_asked"}},
                           {"cgroup": "/docker/b", "unnamed": {"reason": "not_asked"}}]}"#;
        all.containers = serde_json::from_str(json).unwrap();
        let json = r#"{"collectors": [{"name": "cpu", "enabled": true, "last":
            {"outcome": "failed", "duration_seconds": 0.001, "error": "no stat"}}]}"#;
        all.collectors = serde_json::from_str(json).unwrap();
        let page = render_text(&all);
        for line in [
            "<li>engine at /run/x.sock: refused</li>",
            "<li>control groups: denied</li>",
            "<li>2 unnamed: no engine of this kind is configured</li>",
            "<li>collector cpu: failed: no stat</li>",
        ] {
            assert!(page.contains(line), "{line}");
        }
    }
}
