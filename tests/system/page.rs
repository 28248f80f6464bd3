//! The status page in a browser, with containers of a real Docker.
//!
//! Screenshots are left in `target/tmp/page`, for review.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{
    browser::Browser,
    engines::Engine,
    server_process::{ServerProcess, TempDir, wait_until},
};

const NAMES: &str = "return [...document.querySelectorAll(
    'table[data-table=containers] tbody tr:not([hidden]) [data-cell=name] a')]
    .map((link) => link.textContent)";
const BUSY: &[&str] = &["sh", "-c", "while :; do :; done"];

fn exporter(engine: &Engine, dir: &TempDir) -> ServerProcess {
    let flags = [
        format!("--engine.socket={}", engine.socket_url()),
        "--history.interval=1s".to_owned(),
    ];
    ServerProcess::start_exporter(&flags, &dir.0)
}

/// Visible names in the table of containers that have this prefix.
fn names(browser: &Browser) -> Vec<String> {
    let all = browser.execute(NAMES);
    let all = all
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap());
    let ours = all.filter(|name| name.starts_with("page-"));
    ours.map(str::to_owned).collect()
}

fn has(browser: &Browser, name: &str) -> Option<()> {
    names(browser).iter().any(|it| it == name).then_some(())
}

fn is_true(value: &Value) -> Option<()> {
    (value == &json!(true)).then_some(())
}

fn pictures() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page");
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn container_table_updates_sorts_and_filters() {
    let Some(browser) = Browser::start("live") else {
        return;
    };
    let Some(engine) = Engine::docker("page") else {
        return;
    };
    let dir = TempDir::new("page-live");
    engine.start_container("page-busy", &["--cpus=0.3"], BUSY);
    engine.start_container("page-idle", &[], &["sleep", "1000"]);
    let exporter = exporter(&engine, &dir);
    let base = format!("http://{}", exporter.address);
    wait_until("both values in the page", || {
        browser.navigate(&base);
        has(&browser, "page-busy").and(has(&browser, "page-idle"))
    });

    engine.start_container("page-later", &[], &["sleep", "1000"]);
    wait_until("one started later", || has(&browser, "page-later"));
    wait_until("a moving line", || {
        let values = "const rows = [...document.querySelectorAll('[data-table=containers] tr')];
            const row = rows.find((row) => row.textContent.includes('page-busy'));
            return row.querySelector('[data-cell=cpu] .spark').dataset.values.split(',').length > 2
                && row.querySelector('[data-cell=cpu]').dataset.sort > 5";
        is_true(&browser.execute(values))
    });

    // With the keyboard.
    browser.execute(
        "document.querySelector('[data-table=containers] [data-cell=cpu] button').focus()",
    );
    browser.press("\u{e007}");
    let order = names(&browser);
    assert_eq!(order.first().map(String::as_str), Some("page-busy"));
    let sorted = "return document.querySelector('[data-table=containers] thead [data-cell=cpu]')
        .getAttribute('aria-sort')";
    assert_eq!(browser.execute(sorted), "descending");
    browser.press("\u{e007}");
    assert_eq!(browser.execute(sorted), "ascending");
    let order = names(&browser);
    assert_eq!(order.last().map(String::as_str), Some("page-busy"));

    let filter = |text: &str| {
        browser.execute(&format!(
            "const input = document.querySelector('[data-filter=containers]');
             input.value = '{text}';
             input.dispatchEvent(new Event('input'));"
        ));
        names(&browser)
    };
    assert_eq!(filter("PAGE-L"), ["page-later"]);
    assert_eq!(filter("no match"), [""; 0]);
    assert_eq!(filter("page-").len(), 3);

    engine.run(&["rm", "--force", "page-later"]);
    wait_until("a closed connection", || {
        has(&browser, "page-later").is_none().then_some(())
    });
    let status = browser.execute("return document.getElementById('status').textContent");
    assert_eq!(status, "");
    assert_eq!(browser.console_errors(), [""; 0]);

    for theme in ["light", "dark"] {
        for (kind, width, height) in [("desktop", 1280, 900), ("phone", 390, 844)] {
            browser.set_viewport(width, height, theme);
            browser.navigate(&base);
            browser.screenshot(&pictures().join(format!("{kind}-{theme}.png")));
            let fits = "return document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(browser.execute(fits), true, "{kind}");
        }
    }
}

#[test]
fn plot_is_refreshed_while_displayed() {
    let Some(browser) = Browser::start("plot") else {
        return;
    };
    let Some(engine) = Engine::docker("plot") else {
        return;
    };
    let dir = TempDir::new("page-plot");
    engine.start_container("page-busy", &["--cpus=0.3"], BUSY);
    let exporter = exporter(&engine, &dir);
    let base = format!("http://{}", exporter.address);
    let plot = "/plot/containers/page-busy.svg?what=cpu&window=1m";
    let first_svg = wait_until("a plot of two samples", || {
        let svg = exporter.get(plot, "").ok()?;
        svg.contains("CPU: last ").then_some(svg)
    });
    browser.set_viewport(1280, 900, "dark");
    browser.navigate(&format!("{base}/containers/page-busy?window=1m"));
    let drawn = "const all = [...document.querySelectorAll('.plots img')];
        return all.length === 4 && all.every((it) => it.complete && it.naturalWidth > 0)";
    wait_until("four pictures", || is_true(&browser.execute(drawn)));
    let is_new = "return document.querySelector('.plots img').src.includes('&at=')";
    wait_until("a refreshed image", || is_true(&browser.execute(is_new)));
    assert_eq!(browser.execute(drawn), true);
    let numbers = "return Number(document.querySelector('.used caption').textContent
        .split(' ')[0]) > 5";
    wait_until("refreshed numbers", || is_true(&browser.execute(numbers)));
    wait_until("another plot", || {
        let svg = exporter.get(plot, "").ok()?;
        (svg != first_svg).then_some(())
    });
    browser.screenshot(&pictures().join("plots.png"));
    assert_eq!(browser.console_errors(), [""; 0]);
}

#[test]
fn page_is_complete_without_script() {
    let Some(browser) = Browser::start("plain") else {
        return;
    };
    let Some(engine) = Engine::docker("plain") else {
        return;
    };
    let dir = TempDir::new("page-plain");
    engine.start_container("page-busy", &["--cpus=0.3"], BUSY);
    let exporter = exporter(&engine, &dir);
    browser.send_cdp_command(
        "Emulation.setScriptExecutionDisabled",
        &json!({"value": true}),
    );
    wait_until("the container", || {
        browser.navigate(&format!("http://{}", exporter.address));
        let page = browser.send_cdp_command("DOM.getDocument", &json!({}));
        let root = &page["root"]["nodeId"];
        let html = browser.send_cdp_command("DOM.getOuterHTML", &json!({"nodeId": root}));
        let html = html["outerHTML"].as_str().unwrap();
        // Controls that need the script are absent.
        assert!(!html.contains("<button"));
        assert!(html.contains("<p class=\"filter\" hidden"));
        let row = html.contains(">page-busy</a>");
        row.then_some(())
    });
    browser.screenshot(&pictures().join("without-script.png"));
}
