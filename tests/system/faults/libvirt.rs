//! A libvirt daemon that starts late, hangs, is killed and is restarted. Only libvirt knows the
//! domains, so only they are affected.

use rustix::process::Signal;

use super::exporter::{Exporter, Fault, SANDBOXED, flags, started_by};
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
    for guest in ["runs", "off"] {
        daemon.define_minimal_domain(&format!("{guest}-{}", std::process::id()));
    }
    let runs = format!("runs-{}", std::process::id());
    daemon.virsh(&["start", "--paused", &runs]).unwrap();
    daemon.stop();

    let scratch = TempDir::new("fault-libvirt-exporter");
    let socket = daemon.socket("libvirt-sock-ro");
    let uri = format!("--libvirt.uri={}", socket.display());
    let exporter = Exporter::start(
        started_by(&[]),
        &flags(&["libvirt"], &[uri, SANDBOXED.to_owned()]),
        &scratch.0,
    );
    let up = |page: &Scrape| page.value("libvirt_up", &[]);
    let domains = |page: &Scrape| page.value("libvirt_domains", &[]);
    let of_libvirt = |name: &str, labels: &Labels| {
        name.starts_with("libvirt_")
            || name.starts_with("strata_libvirt_")
            || labels.get("collector").is_some_and(|it| it == "libvirt")
    };
    let fault = |name, stays| Fault {
        name,
        stays,
        costs: &of_libvirt,
        fails: &["libvirt"],
        log_lines: 4,
        threads: 1,
        ..Fault::default()
    };
    let without = "everything but virtual machines; `libvirt_up` is 0";
    let are_missing = |page: &Scrape| {
        assert_eq!((up(page), domains(page)), (Some(0.0), None));
        assert_eq!(page.series_named("libvirt_domain_state").next(), None);
    };

    let late = exporter.well("no libvirt", |page| up(page) == Some(0.0));
    are_missing(&exporter.suffers(&late, &fault("libvirtd starts late", without)));
    daemon.restart();
    let well = exporter.well("guests", |page| domains(page) == Some(2.0));

    daemon.signal(Signal::STOP);
    are_missing(&exporter.suffers(&well, &fault("libvirtd hangs", without)));
    daemon.signal(Signal::CONT);
    exporter.recovers(&well);

    daemon.stop_with(Signal::KILL);
    are_missing(&exporter.suffers(&well, &fault("libvirtd is killed", without)));
    daemon.restart();
    exporter.recovers(&well);

    let restarted = fault(
        "libvirtd is restarted",
        "everything but virtual machines, for as long as it does not run",
    );
    exporter.suffers_while(&well, &restarted, || {
        daemon.stop();
        daemon.restart();
    });
    exporter.recovers(&well);
}
