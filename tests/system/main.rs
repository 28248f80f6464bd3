//! Tests on the real system: Docker, Podman, libvirt with domains, Chromium, Prometheus, a cgroup
//! v2 machine in QEMU, faults and load. Most need root.

#![allow(
    clippy::disallowed_methods,
    reason = "tests read and write files directly"
)]

mod compare;
mod container_boards;
mod containers;
mod domains;
mod e2e;
mod faults;
mod history_live;
mod image;
mod libvirt_virt;
mod load;
mod package;
mod page;
mod page_manners;
mod rights;
mod stack;
mod stuck_mount;
#[path = "../support/mod.rs"]
mod support;
mod v2_machine;
