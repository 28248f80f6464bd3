//! What engines answer, in our words. Nothing they say is believed to be short.
//!
//! An answer is Docker's, or Podman's in imitation of it: <https://docs.docker.com/reference/api/engine/>.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerSummary,
    ContainerSummaryStateEnum as ListedStatus, EventMessage, EventMessageTypeEnum as EventType,
    HealthStatusEnum, ImageSummary, RestartPolicyNameEnum, SystemVersion,
};

use super::{Container, Health, Image, Kind, State, is_id, moment};

/// Longer names, references and values of labels are left out.
const MAX_TEXT: usize = 1024;
/// An image may go by more names; the rest are left out.
const MAX_TAGS: usize = 100;
/// Versions of the API up to this one are known to have what is read here.
const NEWEST_API: (u32, u32) = (1, 53);

/// Which labels of containers are kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept(pub(super) BTreeSet<String>);

impl Kept {
    fn of(&self, labels: Option<HashMap<String, String>>) -> Vec<(String, String)> {
        let mut labels: Vec<_> = labels.unwrap_or_default().into_iter().collect();
        labels.retain(|(name, value)| self.0.contains(name) && value.len() <= MAX_TEXT);
        labels.sort_unstable();
        labels
    }
}

/// Who an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) kind: Kind,
    pub(super) version: Option<String>,
    /// The version of its API to speak.
    pub(super) api: Option<String>,
}

impl Version {
    pub(super) fn of(answer: SystemVersion) -> Self {
        let mut components = answer.components.into_iter().flatten();
        let is_podman = components.any(|component| component.name.contains("Podman"));
        let number = |text: Option<String>| {
            let text = text?;
            let (major, minor) = text.split_once('.')?;
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        };
        let least = number(answer.min_api_version).unwrap_or_default();
        let spoken = number(answer.api_version).map(|most| most.min(NEWEST_API).max(least));
        Self {
            kind: if is_podman {
                Kind::Podman
            } else {
                Kind::Docker
            },
            version: answer.version.filter(|version| version.len() <= MAX_TEXT),
            api: spoken.map(|(major, minor)| format!("{major}.{minor}")),
        }
    }
}

/// A container as it is in the list of all.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) image_id: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) state: Option<State>,
    pub(super) created: Option<Duration>,
}

impl Listed {
    pub(super) fn of(answer: ContainerSummary, kept: &Kept) -> Option<Self> {
        let names = answer.names.unwrap_or_default();
        // `/other/alias` is what another one calls it that was linked to it.
        let is_own = |name: &&String| !name.trim_start_matches('/').contains('/');
        let name = names.iter().find(is_own).cloned();
        Some(Self {
            id: answer.id.filter(|id| is_id(id))?,
            name: own_name(name),
            image: bounded(answer.image),
            image_id: bounded(answer.image_id),
            labels: kept.of(answer.labels),
            state: answer.state.and_then(|state| match state {
                ListedStatus::EMPTY => None,
                ListedStatus::CREATED => Some(State::Created),
                ListedStatus::RUNNING | ListedStatus::STOPPING => Some(State::Running),
                ListedStatus::PAUSED => Some(State::Paused),
                ListedStatus::RESTARTING => Some(State::Restarting),
                ListedStatus::REMOVING => Some(State::Removing),
                ListedStatus::EXITED => Some(State::Exited),
                ListedStatus::DEAD => Some(State::Dead),
            }),
            created: answer.created.and_then(since_1970),
        })
    }
}

/// A container as it is when asked for alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Inspected {
    /// Out-of-memory events are not in the answer.
    pub(super) container: Container,
    /// Whether the engine starts it again when it ends.
    pub(super) is_restarted: bool,
}

impl Inspected {
    pub(super) fn of(answer: ContainerInspectResponse, kept: &Kept) -> Option<Self> {
        let process = answer.state?;
        let state = match process.status? {
            Status::EMPTY => return None,
            Status::CREATED => State::Created,
            Status::RUNNING | Status::STOPPING => State::Running,
            Status::PAUSED => State::Paused,
            Status::RESTARTING => State::Restarting,
            Status::REMOVING => State::Removing,
            Status::EXITED => State::Exited,
            Status::DEAD => State::Dead,
        };
        let health = process.health.and_then(|health| health.status);
        let health = health.and_then(|status| match status {
            HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => None,
            HealthStatusEnum::STARTING => Some(Health::Starting),
            HealthStatusEnum::HEALTHY => Some(Health::Healthy),
            HealthStatusEnum::UNHEALTHY => Some(Health::Unhealthy),
        });
        let exit_code = process.exit_code.filter(|code| match state {
            State::Running | State::Paused => false,
            // It says 0 before it ever ran, and more if it could not be started.
            State::Created => *code != 0,
            _ => true,
        });
        let config = answer.config.unwrap_or_default();
        let host_config = answer.host_config.unwrap_or_default();
        let parent = bounded(host_config.cgroup_parent);
        let policy = host_config.restart_policy.and_then(|policy| policy.name);
        let pid = process.pid.and_then(|pid| u32::try_from(pid).ok());
        let at = |text: Option<String>| moment::parse(&text?);
        Some(Self {
            is_restarted: matches!(
                policy,
                Some(
                    RestartPolicyNameEnum::ALWAYS
                        | RestartPolicyNameEnum::UNLESS_STOPPED
                        | RestartPolicyNameEnum::ON_FAILURE
                )
            ),
            container: Container {
                id: answer.id.filter(|id| is_id(id))?,
                name: own_name(answer.name),
                image: bounded(config.image),
                image_id: bounded(answer.image),
                labels: kept.of(config.labels),
                state,
                pid: pid.filter(|pid| *pid > 0 && state.is_alive()),
                cgroup_parent: Some(parent).filter(|parent| !parent.is_empty()),
                restarts: answer.restart_count.and_then(|n| u64::try_from(n).ok()),
                exit_code,
                oom_events: 0,
                health: health.filter(|_| state.is_alive()),
                created: at(answer.created),
                started: at(process.started_at),
                finished: at(process.finished_at),
                memory_limit: host_config
                    .memory
                    .and_then(|limit| u64::try_from(limit).ok())
                    .filter(|limit| *limit > 0),
            },
        })
    }
}

/// What an engine told of unasked.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// Of a container.
    Container {
        id: String,
        what: Happened,
        /// When, from 1970 on.
        at: Option<Duration>,
    },
    /// Of an image.
    Image,
    /// Of the engine: it has new settings.
    Reloaded,
    /// Of no interest.
    Other,
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Happened {
    Created,
    Started,
    Died {
        exit_code: Option<i64>,
    },
    OutOfMemory,
    Paused,
    Unpaused,
    Renamed(String),
    /// A health check ended, so or somehow.
    Checked(Option<Health>),
    Removed,
    /// Something that it has to be asked about.
    Changed,
}

impl Event {
    pub(super) fn of(answer: EventMessage) -> Self {
        let actor = answer.actor.unwrap_or_default();
        let action = answer.action.unwrap_or_default();
        match answer.typ {
            Some(EventType::IMAGE) => return Self::Image,
            Some(EventType::DAEMON) if action == "reload" => return Self::Reloaded,
            Some(EventType::CONTAINER) => {}
            _ => return Self::Other,
        }
        if action == "commit" {
            return Self::Image;
        }
        let Some(id) = actor.id.filter(|id| is_id(id)) else {
            return Self::Other;
        };
        let attributes = actor.attributes.unwrap_or_default();
        let what = match action.as_str() {
            "create" => Happened::Created,
            "start" => Happened::Started,
            "die" | "died" => Happened::Died {
                exit_code: attributes
                    .get("exitCode")
                    .and_then(|code| code.parse().ok()),
            },
            "oom" => Happened::OutOfMemory,
            "pause" => Happened::Paused,
            "unpause" => Happened::Unpaused,
            "rename" => match own_name(attributes.get("name").cloned()) {
                name if name.is_empty() => Happened::Changed,
                name => Happened::Renamed(name),
            },
            "destroy" | "remove" => Happened::Removed,
            "update" | "restart" | "cleanup" | "sync" => Happened::Changed,
            _ => match action.strip_prefix("health_status") {
                Some("") => {
                    Happened::Checked(attributes.get("health_status").and_then(|h| health(h)))
                }
                Some(word) => Happened::Checked(health(word.trim_start_matches([':', ' ']))),
                None => return Self::Other,
            },
        };
        let at = answer.time_nano.and_then(|nanos| u64::try_from(nanos).ok());
        let at = at.filter(|nanos| *nanos > 0).map(Duration::from_nanos);
        let at = at.or_else(|| answer.time.and_then(since_1970));
        Self::Container { id, what, at }
    }
}

/// An image as it is in the list of all.
pub(super) fn image(answer: ImageSummary) -> Option<Image> {
    let mut tags = answer.repo_tags;
    // Docker before 25 calls what has no name so.
    tags.retain(|tag| tag != "<none>:<none>" && tag.len() <= MAX_TEXT);
    tags.truncate(MAX_TAGS);
    Some(Image {
        id: Some(answer.id).filter(|id| !id.is_empty() && id.len() <= MAX_TEXT)?,
        tags,
        size: u64::try_from(answer.size).ok(),
        created: since_1970(answer.created),
    })
}

fn health(word: &str) -> Option<Health> {
    match word {
        "starting" => Some(Health::Starting),
        "healthy" => Some(Health::Healthy),
        "unhealthy" => Some(Health::Unhealthy),
        _ => None,
    }
}

/// A time in seconds, if it ever was.
fn since_1970(seconds: i64) -> Option<Duration> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs)
}

fn own_name(name: Option<String>) -> String {
    let name = bounded(name);
    match name.strip_prefix('/') {
        Some(own) => own.to_owned(),
        None => name,
    }
}

/// A text, or nothing if it is too long to be what it should be.
fn bounded(text: Option<String>) -> String {
    text.filter(|text| text.len() <= MAX_TEXT)
        .unwrap_or_default()
}
