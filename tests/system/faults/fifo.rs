//! A FIFO without a writer among text files: opening it would block.

use std::fs;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::exporter::{Exporter, Fault, flags, subdir, wrapped_command};
use crate::support::server_process::TempDir;

#[test]
fn fifo_among_text_files_costs_only_itself() {
    let scratch = TempDir::new("fault-fifo");
    let texts = subdir(&scratch.0, "texts");
    fs::write(texts.join("good.prom"), "good 1\n").unwrap();
    let directory = format!("--collector.textfile.directory={}", texts.display());
    let exporter = Exporter::start(
        wrapped_command(&[]),
        &flags(&["textfile"], &[directory]),
        &scratch.0,
    );
    let baseline =
        exporter.wait_until_stable("a text", |metrics| metrics.value("good", &[]) == Some(1.0));

    let fifo = texts.join("stuck.prom");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let metrics = exporter.assert_fault(
        &baseline,
        &Fault {
            name: "a FIFO among the text files",
            remaining: "everything; `node_textfile_scrape_error` is 1",
            log_lines: 1,
            ..Fault::default()
        },
    );
    assert_eq!(metrics.value("node_textfile_scrape_error", &[]), Some(1.0));
    let skipped = (
        "strata_collector_partial_errors",
        [("collector", "textfile")],
    );
    assert_eq!(metrics.value(skipped.0, &skipped.1), Some(1.0));

    fs::remove_file(fifo).unwrap();
    exporter.assert_recovers(&baseline);
    let metrics = exporter.scrape();
    assert_eq!(metrics.value("node_textfile_scrape_error", &[]), Some(0.0));
}
