//! Why a container goes by its id only.

use super::{Kind, Runtime, Seen, Workload};

/// Why no engine's name is known for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unnamed {
    /// An engine of its kind is followed and does not know it: another one made it.
    NotKnown(Kind),
    /// The engine of its kind does not answer, and what is known of that.
    Down(Kind, Option<String>),
    /// No engine of its kind is asked.
    NotAsked(Kind),
    /// Who made it is not asked for names.
    NoNames(Runtime),
    /// Its path does not tell who made it.
    Unknown,
}

impl Seen {
    /// Why no name is known of the container in this group. Nothing where one is, and of
    /// what is no container.
    #[must_use]
    pub fn why_unnamed(&self, workload: &Workload) -> Option<Unnamed> {
        if workload.container.is_some() {
            return None;
        }
        let kind = match workload.handle.as_ref()?.runtime {
            Runtime::Docker => Kind::Docker,
            Runtime::Podman => Kind::Podman,
            runtime @ (Runtime::Containerd | Runtime::CriO) => {
                return Some(Unnamed::NoNames(runtime));
            }
            // The path has its name.
            Runtime::Lxc => return None,
            Runtime::Unknown => return Some(Unnamed::Unknown),
        };
        let mut engines = self.engines.iter();
        if engines.any(|engine| engine.kind == Some(kind) && engine.up) {
            return Some(Unnamed::NotKnown(kind));
        }
        // One that never said what it is may be the one.
        let mut engines = self.engines.iter();
        let down = engines.find(|engine| !engine.up && engine.kind.is_none_or(|it| it == kind));
        Some(match down {
            Some(engine) => Unnamed::Down(kind, engine.error.clone()),
            None => Unnamed::NotAsked(kind),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sources::workloads::engine;

    #[test]
    fn the_reason_is_that_of_the_engine_that_should_know() {
        let id = "3f4e5d6c7b8a9988".repeat(4);
        let why = |path: &str, engines: &[(Option<Kind>, bool)]| {
            let engines = engines.iter().map(|(kind, up)| {
                let mut engine = engine([]);
                (engine.kind, engine.up) = (*kind, *up);
                engine.error = Some("refused".to_owned());
                Arc::new(engine)
            });
            let seen = Seen {
                engines: Arc::new(engines.collect()),
                ..Seen::default()
            };
            seen.why_unnamed(&Workload::of_parts(path, None, None))
        };
        let (docker, podman) = (Some(Kind::Docker), Some(Kind::Podman));
        let of_docker = format!("/docker/{id}");
        let refused = || Some("refused".to_owned());
        assert_eq!(
            why(&of_docker, &[(docker, true)]),
            Some(Unnamed::NotKnown(Kind::Docker))
        );
        assert_eq!(
            why(&of_docker, &[(podman, true), (docker, false)]),
            Some(Unnamed::Down(Kind::Docker, refused()))
        );
        assert_eq!(
            why(&of_docker, &[(None, false)]),
            Some(Unnamed::Down(Kind::Docker, refused()))
        );
        assert_eq!(
            why(&of_docker, &[(podman, false)]),
            Some(Unnamed::NotAsked(Kind::Docker))
        );
        let crio = format!("/kubepods.slice/crio-{id}.scope");
        assert_eq!(
            why(&crio, &[(docker, true)]),
            Some(Unnamed::NoNames(Runtime::CriO))
        );
        assert_eq!(
            why(&format!("/kubepods/pod1/{id}"), &[]),
            Some(Unnamed::Unknown)
        );
        for path in ["/lxc/web", "/system.slice/ssh.service"] {
            assert_eq!(why(path, &[]), None, "{path}");
        }
    }
}
