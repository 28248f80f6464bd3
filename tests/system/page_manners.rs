//! Behaviour of the status page in a browser, with containers of a real Docker: which requests it
//! sends and how often, whether it is readable, and whether it needs the script.
//!
//! Screenshots of whole pages are left in the directory that `STRATA_TEST_SHOTS` names.

use std::{env, path::Path};

use crate::support::{
    browser::Browser,
    engines::Engine,
    server_process::{ServerProcess, TempDir, wait_until},
};
use serde_json::Value;

const BUSY: &[&str] = &["sh", "-c", "while :; do :; done"];

/// Visible rows of the test's containers: name, image, state, restarts.
const ROWS: &str = "
const rows = [...document.querySelectorAll('[data-table=containers] tbody tr')];
const texts = rows.filter((row) => row.checkVisibility()).map((row) =>
    ['name', 'image', 'state', 'restarts'].map((cell) =>
        row.querySelector(`[data-cell=${cell}]`).textContent.trim()).join(' | '));
return texts.filter((text) => text.startsWith('manners-')).sort();";

/// Texts with a WCAG contrast ratio below 4.5:1.
const LOW_CONTRAST: &str = "
const parts = (color) => color.match(/[\\d.]+/g).map(Number);
const linear = (part) => part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const behind = (element) => {
    for (; element; element = element.parentElement) {
        const color = parts(getComputedStyle(element).backgroundColor);
        if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
};
const faint = new Set();
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const [one, other] = [parts(getComputedStyle(element).color), behind(element)].map(light);
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) faint.add(`${contrast.toFixed(1)}: ${texts.currentNode.data.trim()}`);
}
return [...faint];";

/// Elements beyond the right edge of the page, except inside scrollable ones.
const TOO_WIDE: &str = "
const edge = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= edge) return [];
return [...document.querySelectorAll('body *')]
    .filter((it) => !it.closest('.scroll, pre') && it.getBoundingClientRect().right > edge + 1)
    .map((it) => it.outerHTML.slice(0, 120)).concat('the page');";

/// Records layout shifts that no recent input has caused.
const WATCH_SHIFTS: &str = "
window.shifts = [];
new PerformanceObserver((list) => {
    for (const entry of list.getEntries().filter((it) => !it.hadRecentInput)) {
        const moved = entry.sources.map(({ node }) => node?.outerHTML ?? node?.textContent);
        window.shifts.push(`${entry.value}: ${moved.map((it) => it?.slice(0, 120))}`);
    }
}).observe({ type: 'layout-shift', buffered: true });";

/// A browser, and an exporter with two containers.
struct BrowserFixture {
    browser: Browser,
    exporter: ServerProcess,
    engine: Engine,
    _dir: TempDir,
}

impl BrowserFixture {
    fn start(test: &str) -> Option<Self> {
        let browser = Browser::start(test)?;
        let engine = Engine::docker(test)?;
        engine.start_container("manners-busy", &["--cpus=0.3"], BUSY);
        engine.start_container("manners-idle", &[], &["sleep", "1000"]);
        let dir = TempDir::new(&format!("scene-{test}"));
        let flags = [
            format!("--engine.socket={}", engine.socket_url()),
            "--history.interval=1s".to_owned(),
        ];
        let exporter = ServerProcess::start_exporter(&flags, &dir.0);
        let fixture = Self {
            browser,
            exporter,
            engine,
            _dir: dir,
        };
        wait_until("a plot with two samples", || {
            let plot = "/plot/containers/manners-busy.svg?what=cpu&window=1m";
            let svg = fixture.exporter.get(plot, "").ok()?;
            svg.contains("CPU: last ").then_some(())
        });
        Some(fixture)
    }

    fn open(&self, path: &str) {
        let address = self.exporter.address;
        self.browser.navigate(&format!("http://{address}{path}"));
    }

    fn strings(&self, script: &str) -> Vec<String> {
        let value = self.browser.execute(script);
        let value = serde_json::from_value(value.clone());
        value.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Paths requested so far; all must be on this exporter.
    fn requests(&self) -> Vec<String> {
        let base = format!("http://{}", self.exporter.address);
        let all = self.browser.requested_urls().into_iter();
        let paths = all.map(|url| match url.strip_prefix(&base) {
            Some(path) => path.to_owned(),
            None => panic!("{url} is not on this exporter"),
        });
        paths.collect()
    }

    /// Saves a screenshot of the whole page if a directory is set.
    fn save_screenshot(&self, name: &str) {
        if let Some(dir) = env::var_os("STRATA_TEST_SHOTS") {
            let file = Path::new(&dir).join(format!("{name}.png"));
            self.browser.full_page_screenshot(&file);
        }
    }
}

fn polls(requests: &[String]) -> usize {
    let polls = requests.iter().filter(|it| *it == "/api/v1/containers");
    polls.count()
}

#[test]
fn new_container_appears_within_two_polls_without_shifts() {
    let Some(fixture) = BrowserFixture::start("polls") else {
        return;
    };
    fixture.open("/");
    fixture.browser.execute(WATCH_SHIFTS);
    let mut requests = fixture.requests();
    assert!(requests.iter().any(|path| path == "/"), "{requests:?}");
    wait_until("three polls", || {
        requests.extend(fixture.requests());
        (polls(&requests) >= 3).then_some(())
    });
    let none = [""; 0];
    assert_eq!(fixture.strings("return window.shifts"), none);

    let engine = &fixture.engine;
    engine.start_container("manners-late", &[], &["sleep", "1000"]);
    fixture.requests();
    wait_until("a row of the new container", || {
        let rows = fixture.strings(ROWS);
        rows.iter()
            .any(|row| row.starts_with("manners-late"))
            .then_some(())
    });
    let requests = fixture.requests();
    assert!(polls(&requests) <= 2, "{requests:?}");
    assert_eq!(fixture.browser.console_errors(), none);
}

#[test]
fn filter_links_and_live_plots_work() {
    let Some(fixture) = BrowserFixture::start("clicks") else {
        return;
    };
    fixture.open("/");
    let rows = |count: usize| {
        let rows = fixture.strings(ROWS);
        (rows.len() == count).then_some(rows)
    };
    wait_until("both rows", || rows(2));
    fixture.browser.click("[data-filter=containers]");
    for key in "manners-b".chars() {
        fixture.browser.press(&key.to_string());
    }
    let found = wait_until("one row", || rows(1));
    assert!(found[0].starts_with("manners-busy | strata-box:1 | running"));

    fixture.browser.click("tr:not([hidden]) [data-cell=name] a");
    let title = fixture
        .browser
        .execute("return document.querySelector('h1').textContent");
    assert_eq!(title, "manners-busy");
    fixture.browser.click(".windows a[href='?window=1m']");
    let drawn = "const all = [...document.querySelectorAll('.plots img')];
        return all.length === 4 && all.every((it) => it.complete && it.naturalWidth > 0)";
    wait_until("four plots", || {
        (fixture.browser.execute(drawn) == true).then_some(())
    });
    fixture.browser.execute(WATCH_SHIFTS);
    // The rendered image, not only its address.
    let picture = || fixture.browser.element_screenshot(".plots img");
    let first = wait_until("a fully drawn plot", || {
        let drawn = picture();
        (picture() == drawn).then_some(drawn)
    });
    wait_until("a refreshed plot", || {
        let is_refreshed =
            "return document.querySelector('.plots img').currentSrc.includes('&at=')";
        (fixture.browser.execute(is_refreshed) == true && picture() != first).then_some(())
    });
    let none = [""; 0];
    assert_eq!(fixture.strings("return window.shifts"), none);
    fixture.requests();
    assert_eq!(fixture.browser.console_errors(), none);
}

#[test]
fn pages_are_readable_in_both_themes_on_desktop_and_phone() {
    let Some(fixture) = BrowserFixture::start("themes") else {
        return;
    };
    let none = [""; 0];
    let pages = [
        ("overview", "/"),
        ("machine", "/host?window=1m"),
        ("container", "/containers/manners-busy?window=1m"),
        ("nothing", "/containers/manners-none"),
        ("check", "/check"),
    ];
    for theme in ["light", "dark"] {
        for (kind, width, height) in [("desk", 1280, 900), ("phone", 390, 844)] {
            fixture.browser.set_viewport(width, height, theme);
            for (page, path) in pages {
                fixture.open(path);
                let which = format!("{page}-{kind}-{theme}");
                fixture.save_screenshot(&which);
                assert_eq!(fixture.strings(TOO_WIDE), none, "{which}");
                assert_eq!(fixture.strings(LOW_CONTRAST), none, "{which}");
            }
        }
    }
    // All requests went to this exporter. The 404 of the missing container is expected.
    fixture.requests();
    let complaints = fixture.browser.console_errors();
    let others = complaints.iter().filter(|it| !it.contains("manners-none"));
    assert_eq!(others.collect::<Vec<_>>(), none);
}

#[test]
fn page_without_script_has_the_same_rows_links_and_plots() {
    let Some(fixture) = BrowserFixture::start("plain") else {
        return;
    };
    fixture.open("/");
    // The rows as the script created them from the first poll.
    let mut requests = Vec::new();
    wait_until("two polls", || {
        requests.extend(fixture.requests());
        (polls(&requests) >= 2).then_some(())
    });
    let with = fixture.strings(ROWS);
    assert_eq!(with.len(), 2, "{with:?}");
    let off = serde_json::json!({"value": true});
    fixture
        .browser
        .send_cdp_command("Emulation.setScriptExecutionDisabled", &off);
    fixture.open("/");
    fixture.save_screenshot("overview-plain");
    assert_eq!(fixture.strings(ROWS), with);
    let offered = "return [...document.querySelectorAll('button, input')]
        .filter((it) => it.checkVisibility()).length";
    assert_eq!(fixture.browser.execute(offered), 0);
    let cpu = "const row = [...document.querySelectorAll('[data-table=containers] tbody tr')]
            .find((row) => row.textContent.includes('manners-busy'));
        return Number(row.querySelector('[data-cell=cpu]').dataset.sort)";
    let cpu = fixture.browser.execute(cpu);
    assert!(cpu.as_f64().is_some_and(|it| it > 1.0), "{cpu}");

    let link = "const links = [...document.querySelectorAll('[data-cell=name] a')];
        return links.find((it) => it.textContent === 'manners-busy').getAttribute('href')";
    let link = fixture.browser.execute(link);
    fixture
        .browser
        .click(&format!("a[href='{}']", link.as_str().unwrap()));
    let drawn = "return [...document.querySelectorAll('.plots img')]
        .map((it) => it.complete && it.naturalWidth > 0)";
    wait_until("four plots", || {
        let all = fixture.browser.execute(drawn);
        (all == Value::from(vec![true; 4])).then_some(())
    });
    fixture.requests();
    assert_eq!(fixture.browser.console_errors(), [""; 0]);
}
