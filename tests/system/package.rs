//! `cargo deb` packages the program, its units, its settings and its documents.
//!
//! Installing, starting and removing the package is tested in the machine of
//! `tests/system/v2_machine`.

use std::process::Command;

use crate::support::{
    deb_package,
    server_process::{self, TempDir},
};

const FILES: &[&str] = &[
    "-rwxr-xr-x ./usr/bin/strata_exporter",
    "-rw-r--r-- ./usr/lib/systemd/system/strata_exporter.service",
    "-rw-r--r-- ./usr/lib/systemd/system/strata_exporter.socket",
    "-rw-r--r-- ./etc/default/strata_exporter",
    "-rw-r--r-- ./usr/share/doc/strata-exporter/README.md",
    "-rw-r--r-- ./usr/share/doc/strata-exporter/copyright",
    "-rw-r--r-- ./usr/share/doc/strata-exporter/docs/metrics/host.md",
    "-rw-r--r-- ./usr/share/doc/strata-exporter/docs/migration/node_exporter.md",
    "-rw-r--r-- ./usr/share/doc/strata-exporter/examples/unprivileged.conf",
];

#[test]
fn package_is_complete_and_starts_the_service() {
    let dir = TempDir::new("package");
    let Some(package) = deb_package::build(&dir.0) else {
        return;
    };
    let dpkg_deb = |args: &[&str]| {
        let mut command = Command::new("dpkg-deb");
        let (args, rest) = args.split_at(1);
        command.args(args).arg(&package).args(rest);
        let (code, output) = server_process::run_with_input(&mut command, "");
        assert_eq!(code, Some(0), "{output}");
        output
    };
    let list = dpkg_deb(&["--contents"]);
    let list: Vec<_> = list
        .lines()
        .map(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            format!("{} {}", columns[0], columns[columns.len() - 1])
        })
        .collect();
    for file in FILES {
        assert!(list.iter().any(|it| it == file), "{file}: {list:#?}");
    }
    let field = |name: &str| dpkg_deb(&["--field", name]);
    assert_eq!(field("Package").trim(), "strata-exporter");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(field("Version").trim(), format!("{version}-1"));
    // The build machine's libc; libvirt's library is not a dependency.
    assert!(field("Depends").contains("libc6 (>= "));
    assert!(!field("Depends").contains("libvirt"));

    let control = dir.0.join("control");
    dpkg_deb(&["--control", control.to_str().unwrap()]);
    let script = |name: &str| std::fs::read_to_string(control.join(name)).unwrap();
    assert_eq!(script("conffiles").trim(), "/etc/default/strata_exporter");
    for unit in ["strata_exporter.service", "strata_exporter.socket"] {
        assert!(script("postinst").contains(&format!("was-enabled {unit}")));
        for name in ["postinst", "prerm", "postrm"] {
            assert!(script(name).contains(unit), "{name}: {unit}");
        }
    }
    for name in ["postinst", "prerm", "postrm"] {
        let (code, output) =
            server_process::run_with_input(Command::new("sh").arg("-n"), &script(name));
        assert_eq!(code, Some(0), "{name}: {output}");
    }
}
