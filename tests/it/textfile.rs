//! Hostile files in a text file directory neither delay nor affect valid ones.
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, FileType, Mode};
use strata_exporter::{
    cli, collectors,
    exposition::{Exposition, Format},
    scrape::{Scraper, Workers},
};

/// A temporary directory, removed at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("strata-textfile-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, body: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Result of a scrape of these directories, and the number of clashing series.
async fn scrape(directories: &[&Path]) -> (String, usize) {
    let mut line = vec![
        "strata_exporter".to_owned(),
        "--collector.disable-defaults".to_owned(),
        "--collector.textfile".to_owned(),
    ];
    for directory in directories {
        let directory = directory.display();
        line.push(format!("--collector.textfile.directory={directory}"));
    }
    let settings =
        cli::parse_server(collectors::ALL, line).unwrap_or_else(|error| panic!("{error}"));
    let scraper = Scraper::new(
        settings.flags.roots,
        settings.collectors,
        Workers::default(),
    );
    let families = crate::support::scrape_all(&scraper).await;
    let exposition = Arc::new(Exposition::new(families, |_| true));
    (
        exposition.encode(Format::Text).unwrap(),
        exposition.conflicts(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_files_cost_only_themselves_and_no_time() {
    let scratch = Scratch::new("hostile");
    let dir = scratch.0.as_path();
    rustix::fs::mknodat(CWD, dir.join("a.prom"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    rustix::fs::mknodat(CWD, dir.join("b.prom"), FileType::Socket, Mode::RUSR, 0).unwrap();
    symlink("loop.prom", dir.join("loop.prom")).unwrap();
    symlink("/dev/zero", dir.join("device.prom")).unwrap();
    fs::create_dir(dir.join("directory.prom")).unwrap();
    scratch.file("broken.prom", "bad 1\nbad 2 x\n");
    scratch.file("unreadable.prom", "unreadable 1");
    let no_access = fs::Permissions::from_mode(0o000);
    fs::set_permissions(dir.join("unreadable.prom"), no_access).unwrap();
    scratch.file("z.prom", "good 1\n");
    scratch.file("z.prom.tmp", "temporary 1\n");

    let started = Instant::now();
    let (body, clashes) = scrape(&[dir]).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(clashes, 0);
    assert!(body.contains("\ngood 1\n"), "{body}");
    assert!(body.contains("\nnode_textfile_scrape_error 1\n"), "{body}");
    let skipped = r#"strata_collector_partial_errors{collector="textfile"} 7"#;
    assert!(body.contains(skipped), "{body}");
    for name in ["bad", "temporary", "unreadable"] {
        assert!(!body.contains(&format!("\n{name} ")), "{body}");
    }
    let times = body.matches("\nnode_textfile_mtime_seconds{").count();
    assert_eq!(times, 1, "{body}");
    let file = format!("file=\"{}/z.prom\"", dir.display());
    assert!(body.contains(&file), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_may_be_several_and_patterns() {
    let scratch = Scratch::new("patterns");
    scratch.file("one/x.prom", "x{of=\"one\"} 1\n");
    scratch.file("two/x.prom", "x{of=\"two\"} 2\nx{of=\"one\"} 3\n");
    scratch.file("[odd]/x.prom", "x{of=\"odd\"} 4\n");
    let (odd, some) = (scratch.0.join("[odd]"), scratch.0.join("*o*"));
    // A directory that matches two patterns is read once.
    let (body, clashes) = scrape(&[&odd, &some, &scratch.0.join("[o]ne"), Path::new("")]).await;
    assert!(body.contains("\nnode_textfile_scrape_error 0\n"), "{body}");
    for sample in ["x{of=\"one\"} 1", "x{of=\"two\"} 2", "x{of=\"odd\"} 4"] {
        assert!(body.contains(sample), "{sample} in {body}");
    }
    assert_eq!(clashes, 1, "{body}");

    let (body, _) = scrape(&[&scratch.0.join("none*"), &odd]).await;
    assert!(body.contains("\nnode_textfile_scrape_error 1\n"), "{body}");
    assert!(body.contains("x{of=\"odd\"} 4"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_directory_is_no_error() {
    for directories in [&[][..], &[Path::new("")]] {
        let (body, _) = scrape(directories).await;
        assert!(body.contains("\nnode_textfile_scrape_error 0\n"), "{body}");
        let success = r#"node_scrape_collector_success{collector="textfile"} 1"#;
        assert!(body.contains(success), "{body}");
    }
}
