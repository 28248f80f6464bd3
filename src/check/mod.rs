//! `strata_exporter check`: says for this machine what will be collected, and for what is
//! not, why and how to mend it.
//!
//! Every collector that is on runs once, as in a scrape; then what usually goes wrong with
//! containers and virtual machines is looked at: control groups, engines, names, libvirt,
//! rights.

mod diagnosis;
mod libvirt;
mod rights;
mod sandboxed;

use std::{
    collections::BTreeSet,
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task, time};

use crate::{
    collector::{Entry, Layer},
    family::Family,
    scrape::{Outcome, Report, Scraper},
    sources::{Machine, Snapshot},
};
use diagnosis::{Finding, Mark};
use rights::Collected;

/// How long engines may take to say what they have.
const ENGINES_ANSWER: Duration = Duration::from_secs(5);
/// How long the collectors may take, and then the diagnosis.
const DEADLINE: Duration = Duration::from_secs(10);
/// How wide text may become.
const WIDTH: usize = 100;

/// What was found.
#[derive(Debug)]
pub struct Checked {
    /// The whole text.
    pub text: String,
    /// Whether everything that is on works.
    pub is_well: bool,
}

/// Looks at everything once. `all` are the collectors there are, of which the scraper has
/// those that are on; `web_config` is what was found out about that file, if there is one.
pub async fn run(
    machine: Arc<Machine>,
    scraper: &Scraper,
    all: &[Entry],
    web_config: Option<Result<String, String>>,
) -> Checked {
    if scraper.collectors().any(|(_, layer)| layer.asks_libvirt()) {
        machine.libvirt().watch();
    }
    let containers = scraper.collectors().any(|(_, layer)| layer.asks_engines());
    if containers {
        machine.engines().watch();
        machine.engines_answered(ENGINES_ANSWER).await;
    }
    let on: BTreeSet<&str> = scraper.collectors().map(|(name, _)| name).collect();
    let result = scraper.scrape(&on, DEADLINE).await;

    let reports: Vec<_> = result.reports().collect();
    let collected = Collected::of(&reports, all);
    let names: BTreeSet<String> = on.iter().map(|name| (*name).to_owned()).collect();
    let looked = task::spawn_blocking(move || {
        let machine = Snapshot::begin(machine, Instant::now() + DEADLINE);
        let is_on = |name: &str| names.contains(name);
        let mut found = diagnosis::all(&machine, &is_on, containers);
        found.push(("RIGHTS", rights::findings(&machine, &collected)));
        found.push(("SANDBOX", sandboxed::findings()));
        (diagnosis::user(&machine), found)
    });
    let instead = |said: &str| {
        let found = vec![("DIAGNOSIS", vec![Finding::wrong(said)])];
        ("an unknown user".to_owned(), found)
    };
    let (user, mut findings) = match time::timeout(DEADLINE, looked).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => instead("failed by a bug, please report it"),
        Err(_) => instead("the machine did not answer in time: something hangs in the kernel"),
    };

    if let Some(web_config) = web_config {
        let found = match web_config {
            Ok(said) => Finding::fine(said),
            Err(said) => Finding::wrong(said).mend("the exporter does not start with this file"),
        };
        findings.push(("WEB CONFIG", vec![found]));
    }

    let mut text = String::new();
    let version = env!("CARGO_PKG_VERSION");
    let head = format!(
        "strata_exporter {version}, checked as {user}. This holds for a server that runs as the \
         same user, with the same flags."
    );
    line(&mut text, 0, &head);
    let mut wrong = collectors(&mut text, &reports);
    not_run(&mut text, &on, all);
    for (title, findings) in &findings {
        text += &format!("\n{title}\n");
        for finding in findings {
            show(&mut text, finding);
            wrong += usize::from(finding.mark == Mark::Wrong);
        }
    }
    text += "\n";
    text += &match wrong {
        0 => "Everything that is on works.\n".to_owned(),
        1 => "1 thing is wrong.\n".to_owned(),
        many => format!("{many} things are wrong.\n"),
    };
    Checked {
        text,
        is_well: wrong == 0,
    }
}

/// What became of each collector, and how many failed.
fn collectors(text: &mut String, reports: &[(&'static str, Layer, &Report)]) -> usize {
    let mut failed = 0;
    let widest = reports.iter().map(|(name, ..)| name.len()).max();
    let width = widest.unwrap_or_default();
    for layer in Layer::ALL {
        let of_layer = reports.iter().filter(|(_, of, report)| {
            *of == layer && !matches!(report.outcome, Outcome::Unsupported)
        });
        let mut of_layer = of_layer.peekable();
        if of_layer.peek().is_none() {
            continue;
        }
        *text += &format!("\n{}\n", layer.name().to_uppercase());
        for (name, _, report) in of_layer {
            let mut found = outcome(report);
            found.text = format!("{name:width$}  {}", found.text);
            failed += usize::from(found.mark == Mark::Wrong);
            show(text, &found);
        }
    }
    failed
}

fn outcome(report: &Report) -> Finding {
    let refused = "run as root, or turn the collector off with --no-collector.NAME";
    match &report.outcome {
        Outcome::Collected => {
            let series: usize = report.families.iter().map(Family::len).sum();
            let collected = match series {
                0 => "nothing to show here".to_owned(),
                many => format!("{many} series"),
            };
            match report.families.skipped() {
                (skipped, Some(why)) => {
                    let parts = if skipped == 1 { "part" } else { "parts" };
                    let said = format!("{collected}; {skipped} {parts} left out: {why}");
                    let note = Finding::note(said);
                    if why.is_refused() {
                        note.mend("run as root")
                    } else {
                        note
                    }
                }
                _ if series == 0 => Finding::nothing(collected),
                _ => Finding::fine(collected),
            }
        }
        Outcome::Absent(why) => Finding::nothing(format!("nothing here: {why}")),
        Outcome::Unsupported => Finding::nothing("not built yet"),
        Outcome::Failed(why) => {
            let wrong = Finding::wrong(format!("failed: {why}"));
            if why.is_refused() {
                wrong.mend(refused)
            } else {
                wrong
            }
        }
        Outcome::Panicked(why) => {
            Finding::wrong(format!("failed by a bug, please report it: {why}"))
        }
        Outcome::TimedOut | Outcome::StillRunning => {
            let seconds = report.duration.as_secs_f64();
            let said = format!("did not end within {seconds:.0} s: what it reads hangs");
            Finding::wrong(said)
        }
    }
}

/// The collectors that are off, and those that there will be.
fn not_run(text: &mut String, on: &BTreeSet<&str>, all: &[Entry]) {
    let (to_come, built): (Vec<&Entry>, Vec<&Entry>) =
        all.iter().partition(|entry| entry.is_to_come());
    let off = built.into_iter().filter(|entry| !on.contains(entry.name));
    let names = |entries: Vec<&Entry>| {
        let names: Vec<_> = entries.iter().map(|entry| entry.name).collect();
        names.join(", ")
    };
    let off = names(off.collect());
    if !off.is_empty() {
        *text += "\nOFF\n";
        let said = format!("{off}. Turn one on with --collector.NAME.");
        line(text, 2, &said);
    }
    let to_come = names(to_come);
    if !to_come.is_empty() {
        *text += "\nNOT BUILT YET\n";
        line(text, 2, &to_come);
    }
}

fn show(text: &mut String, finding: &Finding) {
    item(text, finding.mark, &finding.text);
    if let Some(mend) = &finding.mend {
        line(text, 8, &format!("To mend it: {mend}"));
    }
}

fn item(text: &mut String, mark: Mark, said: &str) {
    let mark = match mark {
        Mark::Fine => "ok",
        Mark::Nothing => "-",
        Mark::Note => "note",
        Mark::Wrong => "WRONG",
    };
    let start = text.len();
    line(text, 8, said);
    // The mark takes the place of the first blanks.
    let head = format!("  {mark:<6}");
    text.replace_range(start..start + head.len(), &head);
}

/// Writes text in lines that are not too wide, unless a word is.
fn line(text: &mut String, indent: usize, said: &str) {
    let mut column = 0;
    // Blanks within a table's row stay.
    for word in said.split_inclusive(' ') {
        // What somebody else wrote may have control characters.
        let word = word.replace(char::is_control, " ");
        let length = word.trim_end().chars().count();
        if column > indent && column + length > WIDTH && length > 0 {
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
            column = 0;
        }
        if column == 0 {
            write!(text, "{:indent$}", "").ok();
            column = indent;
        }
        *text += &word;
        column += word.chars().count();
    }
    text.truncate(text.trim_end_matches(' ').len());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_goes_on_below_and_its_mark_stands_before_it() {
        let mut text = String::new();
        item(&mut text, Mark::Wrong, &"word ".repeat(30));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("  WRONG word word"), "{text}");
        assert!(lines[1].starts_with("        word"), "{text}");
        assert!(
            lines
                .iter()
                .all(|line| line.len() <= WIDTH && !line.ends_with(' '))
        );
    }

    #[test]
    fn what_others_wrote_cannot_draw_on_the_terminal() {
        let mut text = String::new();
        line(&mut text, 0, "a\u{1b}[31mb\nc");
        assert_eq!(text, "a [31mb c\n");
    }
}
