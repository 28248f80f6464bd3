//! The base labels of all container and cgroup metrics, under cAdvisor's names. Virtual machines
//! have the label of the libvirt exporters.
//!
//! Empty labels are left out: for `PromQL` that is equivalent.

use std::collections::BTreeSet;

use crate::{
    family::{self, BaseLabels},
    sources::workloads::{Runtime, Workload},
};

/// The label names. `name` and `image` are empty if the cgroup is not a container, `domain` if it
/// is not a virtual machine.
pub(super) const CGROUP: &[&str] = &["id", "image", "name", "domain", "container_label_*"];

/// Prefix of the labels that a container defines.
const CONTAINER_LABEL_PREFIX: &str = "container_label_";

/// The base labels of a cgroup or container, rendered once until its properties change.
pub(super) fn base_labels(workload: &Workload) -> &BaseLabels {
    workload.cached_labels(render_base_labels)
}

fn render_base_labels(workload: &Workload) -> BaseLabels {
    let mut labels = vec![("id".to_owned(), workload.path.as_str())];
    if let Some((_, container)) = &workload.container {
        labels.push(("image".to_owned(), &container.image));
        labels.push(("name".to_owned(), &container.name));
        // Two label names may be equal after sanitizing: the first one is exposed.
        let mut seen = BTreeSet::new();
        for (name, value) in &container.labels {
            let sanitize = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
            let name: String = CONTAINER_LABEL_PREFIX
                .chars()
                .chain(name.chars().map(sanitize))
                .collect();
            if seen.insert(name.clone()) {
                labels.push((name, value));
            }
        }
    } else if let Some(handle) = &workload.runtime_id {
        // Docker's and Podman's containers get their names from the engine once it is connected.
        // For other runtimes cAdvisor has only the id, too.
        if !matches!(
            handle.runtime,
            Runtime::Docker | Runtime::Podman | Runtime::Unknown
        ) {
            labels.push(("name".to_owned(), &handle.id));
        }
    }
    if let Some(guest) = &workload.domain {
        labels.push(("domain".to_owned(), &guest.name));
    }
    labels.retain(|(_, value)| !value.is_empty());
    family::render_labels(labels.iter().map(|(name, value)| (name.as_str(), *value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_cgroup_has_domain_label() {
        let path = r"/machine.slice/machine-qemu\x2d7\x2dweb\x2d1.scope";
        let workload = Workload::from_parts(path, None, None);
        let escaped = path.replace('\\', r"\\");
        let labels = format!(r#"id="{escaped}",domain="web-1""#);
        assert_eq!(&**base_labels(&workload), labels);
        let service = Workload::from_parts("/system.slice/ssh.service", None, None);
        assert_eq!(
            &**base_labels(&service),
            r#"id="/system.slice/ssh.service""#
        );
    }
}
