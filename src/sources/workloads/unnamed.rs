//! Reasons why a container is identified by its ID only.

use super::{EngineKind, Inventory, Runtime, Workload};

/// Why a container has no name from an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnnamedCause {
    /// An engine of its kind is up and does not know it: another engine created it.
    UnknownToEngine(EngineKind),
    /// The engine of its kind is unavailable, with the last error.
    EngineDown(EngineKind, Option<String>),
    /// No engine of its kind is configured.
    EngineNotConfigured(EngineKind),
    /// Its runtime is not queried for names.
    UnsupportedRuntime(Runtime),
    /// The path does not identify its runtime.
    UnknownRuntime,
}

impl Inventory {
    /// Returns why the container in this cgroup has no name; `None` if it has one or is not a
    /// container.
    #[must_use]
    pub fn unnamed_cause(&self, workload: &Workload) -> Option<UnnamedCause> {
        if workload.container.is_some() {
            return None;
        }
        let kind = match workload.runtime_id.as_ref()?.runtime {
            Runtime::Docker => EngineKind::Docker,
            Runtime::Podman => EngineKind::Podman,
            runtime @ (Runtime::Containerd | Runtime::CriO) => {
                return Some(UnnamedCause::UnsupportedRuntime(runtime));
            }
            // The path contains its name.
            Runtime::Lxc => return None,
            Runtime::Unknown => return Some(UnnamedCause::UnknownRuntime),
        };
        let mut engines = self.engines.iter();
        if engines.any(|engine| engine.kind == Some(kind) && engine.up) {
            return Some(UnnamedCause::UnknownToEngine(kind));
        }
        // An engine of unknown kind may be the one.
        let mut engines = self.engines.iter();
        let down =
            engines.find(|engine| !engine.up && engine.kind.is_none_or(|other| other == kind));
        Some(match down {
            Some(engine) => UnnamedCause::EngineDown(kind, engine.error.clone()),
            None => UnnamedCause::EngineNotConfigured(kind),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sources::workloads::engine;

    #[test]
    fn cause_is_that_of_the_responsible_engine() {
        let id = "3f4e5d6c7b8a9988".repeat(4);
        let cause = |path: &str, engines: &[(Option<EngineKind>, bool)]| {
            let engines = engines.iter().map(|(kind, up)| {
                let mut engine = engine([]);
                (engine.kind, engine.up) = (*kind, *up);
                engine.error = Some("refused".to_owned());
                Arc::new(engine)
            });
            let inventory = Inventory {
                engines: Arc::new(engines.collect()),
                ..Inventory::default()
            };
            inventory.unnamed_cause(&Workload::from_parts(path, None, None))
        };
        let (docker, podman) = (Some(EngineKind::Docker), Some(EngineKind::Podman));
        let docker_path = format!("/docker/{id}");
        let error = || Some("refused".to_owned());
        assert_eq!(
            cause(&docker_path, &[(docker, true)]),
            Some(UnnamedCause::UnknownToEngine(EngineKind::Docker))
        );
        assert_eq!(
            cause(&docker_path, &[(podman, true), (docker, false)]),
            Some(UnnamedCause::EngineDown(EngineKind::Docker, error()))
        );
        assert_eq!(
            cause(&docker_path, &[(None, false)]),
            Some(UnnamedCause::EngineDown(EngineKind::Docker, error()))
        );
        assert_eq!(
            cause(&docker_path, &[(podman, false)]),
            Some(UnnamedCause::EngineNotConfigured(EngineKind::Docker))
        );
        let crio = format!("/kubepods.slice/crio-{id}.scope");
        assert_eq!(
            cause(&crio, &[(docker, true)]),
            Some(UnnamedCause::UnsupportedRuntime(Runtime::CriO))
        );
        assert_eq!(
            cause(&format!("/kubepods/pod1/{id}"), &[]),
            Some(UnnamedCause::UnknownRuntime)
        );
        for path in ["/lxc/web", "/system.slice/ssh.service"] {
            assert_eq!(cause(path, &[]), None, "{path}");
        }
    }
}
