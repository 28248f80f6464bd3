//! `strata_exporter top`: live view of a local or remote exporter's JSON API in the terminal.
//!
//! If the output is not a terminal, one table is printed as text.

mod client;
mod encryption;
mod exporter_url;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http_config;
mod server_certificates;
mod view;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal,
    buffer::Buffer,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers},
    layout::Rect,
    style::Stylize,
    text::Line,
    widgets::TableState,
};
use tokio::{sync::mpsc, task::JoinSet, time};

use crate::duration;
pub use client::Client;
use client::Said;
pub use exporter_url::ExporterUrl;
use view::Sort;

/// Samples are seconds apart, so a shorter interval shows nothing new.
const MIN_INTERVAL: Duration = Duration::from_millis(500);
const MAX_INTERVAL: Duration = Duration::from_secs(3600);
/// Maximum filter length in bytes.
const MAX_FILTER_LEN: usize = 64;

const KEY_HELP: &str = "q quit  c CPU  m memory  n name  ↑↓ move  / filter";

/// The flags of `strata_exporter top`.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct TopFlags {
    /// Time between two requests, from 500ms to 1h.
    #[arg(long = "top.interval", value_name = "DURATION", default_value = "2s", value_parser = parse_interval)]
    pub top_interval: Duration,
    /// File with password and TLS settings for the exporter, as in prometheus.yml.
    #[arg(long = "http.config.file", value_name = "FILE")]
    pub http_config_file: Option<PathBuf>,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err("out of range, expected 500ms to 1h".to_owned())
    }
}

/// Queries the exporter once and renders a table as text.
pub async fn render_once(client: &Client) -> Result<String, String> {
    Ok(view::render_text(&client.ask().await?))
}

/// Runs the live view until the user quits or `stop` completes.
pub async fn run(
    client: Client,
    interval: Duration,
    stop: impl Future<Output = ()>,
) -> Result<(), String> {
    let (results_sender, results) = mpsc::channel(1);
    let mut polling = JoinSet::new();
    polling.spawn(async move {
        while results_sender.send(client.ask().await).await.is_ok() {
            time::sleep(interval).await;
        }
    });
    // The terminal is restored after a panic, too.
    let terminal = ratatui::try_init();
    let outcome = match terminal {
        Ok(terminal) => event_loop(terminal, results, spawn_key_reader(), stop).await,
        Err(error) => Err(error),
    };
    ratatui::restore();
    outcome.map_err(|error| format!("terminal: {error}"))
}

/// Starts a thread that reads terminal events, which blocks. It ends with the process.
fn spawn_key_reader() -> mpsc::Receiver<Event> {
    let (sender, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}

async fn event_loop(
    mut terminal: DefaultTerminal,
    mut results: mpsc::Receiver<Result<Said, String>>,
    mut keys: mpsc::Receiver<Event>,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let mut top = TopApp::default();
    let mut stop = std::pin::pin!(stop);
    // Redraws the age of the data.
    let mut second = time::interval(Duration::from_secs(1));
    loop {
        terminal.draw(|frame| top.draw(frame.area(), frame.buffer_mut()))?;
        tokio::select! {
            () = &mut stop => return Ok(()),
            _ = second.tick() => {}
            result = results.recv() => match result {
                Some(result) => top.update(result),
                None => return Err(std::io::Error::other("the polling task ended")),
            },
            event = keys.recv() => match event {
                Some(Event::Key(key)) if top.handle_key(key) => {}
                Some(Event::Key(_)) => return Ok(()),
                Some(_) => {}
                None => return Err(std::io::Error::other("cannot read keys")),
            },
        }
    }
}

/// Data and view settings.
#[derive(Debug, Default)]
struct TopApp {
    data: Said,
    /// Time of the last successful response.
    updated_at: Option<Instant>,
    /// Error of the last request.
    error: Option<String>,
    sort: Sort,
    filter: String,
    is_typing: bool,
    selected: TableState,
}

impl TopApp {
    fn update(&mut self, result: Result<Said, String>) {
        self.error = match result {
            Ok(data) => {
                (self.data, self.updated_at) = (data, Some(Instant::now()));
                None
            }
            Err(error) => Some(error),
        };
    }

    /// Returns false to quit.
    fn handle_key(&mut self, key: KeyEvent) -> bool {
        let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if with_control => return false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Backspace if self.is_typing => drop(self.filter.pop()),
            KeyCode::Char(c) if self.is_typing => {
                let fits = self.filter.len() < MAX_FILTER_LEN;
                self.filter.extend(fits.then_some(c));
            }
            KeyCode::Char('q') => return false,
            KeyCode::Char('c') => self.sort = Sort::Cpu,
            KeyCode::Char('m') => self.sort = Sort::Memory,
            KeyCode::Char('n') => self.sort = Sort::Name,
            KeyCode::Down | KeyCode::Char('j') => self.selected.select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.selected.select_previous(),
            KeyCode::Char('/') => self.is_typing = true,
            _ => {}
        }
        true
    }

    fn draw(&mut self, area: Rect, buffer: &mut Buffer) {
        let rows = view::rows(&self.data, self.sort, &self.filter);
        let last = self.status_line();
        let target = (area, buffer);
        view::draw(
            &self.data,
            &rows,
            self.sort,
            last,
            &mut self.selected,
            target,
        );
    }

    fn status_line(&self) -> Line<'static> {
        let seconds = self.updated_at.map(|at| at.elapsed().as_secs());
        match (&self.error, seconds, view::missing_message(&self.data)) {
            _ if self.is_typing => Line::from(format!("/{}_", self.filter)),
            (Some(error), Some(seconds), _) => {
                Line::from(format!("{seconds} s old: {error}")).red()
            }
            (Some(error), None, _) => Line::from(error.clone()).red(),
            (None, None, _) => Line::from("connecting …"),
            _ if !self.filter.is_empty() => {
                Line::from(format!("/{}  Esc shows all  {KEY_HELP}", self.filter))
            }
            (None, _, Some(missing)) => Line::from(missing).yellow(),
            _ => Line::from(KEY_HELP).dim(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend, buffer::Cell};

    use super::*;

    fn screen(top: &mut TopApp) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 6)).unwrap();
        let drawn = terminal.draw(|frame| top.draw(frame.area(), frame.buffer_mut()));
        let content = &drawn.unwrap().buffer.content;
        let lines = content.chunks(80).map(|line| {
            let line: String = line.iter().map(Cell::symbol).collect();
            line.trim_end().to_owned() + "\n"
        });
        lines.collect()
    }

    fn press_keys(top: &mut TopApp, keys: &str) -> bool {
        let code = |key| match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            key => KeyCode::Char(key),
        };
        let mut keys = keys.chars().map(code);
        keys.all(|key| top.handle_key(KeyEvent::from(key)))
    }

    fn sample_data() -> Said {
        let containers = r#"{"containers": [
            {"id": "1", "name": "web", "latest": {"cpu_percent": 1, "memory_bytes": 2}},
            {"id": "2", "name": "db", "latest": {"cpu_percent": 2, "memory_bytes": 1}}]}"#;
        let host = r#"{"name": "here", "latest": {"cpu_percent": 3}}"#;
        Said {
            host: serde_json::from_str(host).unwrap(),
            containers: serde_json::from_str(containers).unwrap(),
            ..Said::default()
        }
    }

    /// The names in the table, from top to bottom.
    fn names(top: &mut TopApp) -> Vec<String> {
        let screen = screen(top);
        let rows = screen.lines().skip(2).take(3);
        let names = rows.filter_map(|row| row.split_whitespace().next());
        names.map(str::to_owned).collect()
    }

    #[test]
    fn unreachable_exporter_shows_last_values_and_age() {
        let mut top = TopApp::default();
        assert!(screen(&mut top).ends_with("\nconnecting …\n"));
        top.update(Err("refused".to_owned()));
        assert!(screen(&mut top).ends_with("\nrefused\n"));
        top.update(Ok(sample_data()));
        assert!(screen(&mut top).ends_with(&format!("\n{KEY_HELP}\n")));
        top.update(Err("refused".to_owned()));
        let screen = screen(&mut top);
        assert!(screen.contains("\ndb "), "{screen}");
        let last = screen.lines().last().unwrap();
        assert!(last.ends_with(" s old: refused"), "{last}");
    }

    #[test]
    fn keys_sort_filter_and_quit() {
        let mut top = TopApp::default();
        top.update(Ok(sample_data()));
        assert_eq!(names(&mut top), ["db", "web"]);
        assert!(press_keys(&mut top, "m"));
        assert_eq!(names(&mut top), ["web", "db"]);
        assert!(press_keys(&mut top, "n"));
        assert_eq!(names(&mut top), ["db", "web"]);
        // What is typed is no command.
        assert!(press_keys(&mut top, "/qx\u{8}"));
        assert!(names(&mut top).is_empty());
        assert!(screen(&mut top).ends_with("\n/q_\n"));
        assert!(press_keys(&mut top, "\u{8}we\n"));
        assert_eq!(names(&mut top), ["web"]);
        assert!(!top.is_typing);
        assert!(press_keys(&mut top, "\u{1b}"));
        assert_eq!(names(&mut top), ["db", "web"]);
        assert!(!press_keys(&mut top, "q"));
        assert!(!top.handle_key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }

    #[test]
    fn selection_stops_at_last_row() {
        let mut top = TopApp::default();
        top.update(Ok(sample_data()));
        assert!(press_keys(&mut top, "jjjjj"));
        screen(&mut top);
        assert_eq!(top.selected.selected(), Some(1));
        assert!(press_keys(&mut top, "k"));
        assert_eq!(top.selected.selected(), Some(0));
    }
}
