//! A libvirt daemon that starts late, hangs, is killed and is restarted. Only libvirt knows the
//! domains, so only they are affected.

use rustix::process::Signal;

use super::exporter::{Exporter, Fault, SANDBOXED, flags, wrapped_command};
use crate::support::{
    libvirt_daemon::LibvirtDaemon,
    server_process::TempDir,
    skip,
    text_format::{Labels, Scrape},
};

#[test]
fn libvirt_daemon_faults_are_isolated() {
    let mut daemon = match LibvirtDaemon::start("fault-libvirt") {
        Ok(daemon) => daemon,
        Err(what) => return skip(what),
    };
    for domain in ["runs", "off"] {
        daemon.define_minimal_domain(&format!("{domain}-{}", std::process::id()));
    }
    let runs = format!("runs-{}", std::process::id());
    daemon.virsh(&["start", "--paused", &runs]).unwrap();
    daemon.stop();

    let scratch = TempDir::new("fault-libvirt-exporter");
    let socket = daemon.socket("libvirt-sock-ro");
    let uri = format!("--libvirt.uri={}", socket.display());
    let exporter = Exporter::start(
        wrapped_command(&[]),
        &flags(&["libvirt"], &[uri, SANDBOXED.to_owned()]),
        &scratch.0,
    );
    let up = |metrics: &Scrape| metrics.value("libvirt_up", &[]);
    let domains = |metrics: &Scrape| metrics.value("libvirt_domains", &[]);
    let is_libvirt_series = |name: &str, labels: &Labels| {
        name.starts_with("libvirt_")
            || name.starts_with("strata_libvirt_")
            || labels.get("collector").is_some_and(|it| it == "libvirt")
    };
    let fault = |name, stays| Fault {
        name,
        remaining: stays,
        may_lose: &is_libvirt_series,
        may_fail: &["libvirt"],
        log_lines: 4,
        threads: 1,
        ..Fault::default()
    };
    let without = "everything but virtual machines; `libvirt_up` is 0";
    let assert_missing = |metrics: &Scrape| {
        assert_eq!((up(metrics), domains(metrics)), (Some(0.0), None));
        assert_eq!(metrics.series_named("libvirt_domain_state").next(), None);
    };

    let started_late = exporter.wait_until_stable("no libvirt", |metrics| up(metrics) == Some(0.0));
    assert_missing(&exporter.assert_fault(&started_late, &fault("libvirtd starts late", without)));
    daemon.restart();
    let baseline = exporter.wait_until_stable("guests", |metrics| domains(metrics) == Some(2.0));

    daemon.signal(Signal::STOP);
    assert_missing(&exporter.assert_fault(&baseline, &fault("libvirtd hangs", without)));
    daemon.signal(Signal::CONT);
    exporter.assert_recovers(&baseline);

    daemon.stop_with(Signal::KILL);
    assert_missing(&exporter.assert_fault(&baseline, &fault("libvirtd is killed", without)));
    daemon.restart();
    exporter.assert_recovers(&baseline);

    let restarted = fault(
        "libvirtd is restarted",
        "everything but virtual machines until it runs again",
    );
    exporter.assert_fault_while(&baseline, &restarted, || {
        daemon.stop();
        daemon.restart();
    });
    exporter.assert_recovers(&baseline);
}
