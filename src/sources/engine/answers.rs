//! What engines answer, in our words. Nothing they say is believed to be short.
//!
//! An answer is Docker's, or Podman's in imitation of it: <https://docs.docker.com/reference/api/engine/>.
//! Descriptions of containers are not read into bollard's models: these refuse a whole
//! list for one word that they do not know, such as Podman's `stopped`.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use bollard::models::{
    EventMessage, EventMessageTypeEnum as EventType, ImageSummary, SystemVersion,
};
use serde::Deserialize;
use serde_json::value::RawValue;

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

/// One item of the list, as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    id: Option<String>,
    names: Option<Vec<String>>,
    image: Option<String>,
    #[serde(rename = "ImageID")]
    image_id: Option<String>,
    labels: Option<HashMap<String, String>>,
    state: Option<String>,
    created: Option<i64>,
}

impl Listed {
    /// Those in the answer. What cannot be read costs only itself.
    pub(super) fn all(answer: &[u8], kept: &Kept) -> serde_json::Result<Vec<Self>> {
        let items: Option<Vec<&RawValue>> = serde_json::from_slice(answer)?;
        let items = items.unwrap_or_default().into_iter();
        Ok(items
            .filter_map(|item| Self::of(serde_json::from_str(item.get()).ok()?, kept))
            .collect())
    }

    fn of(summary: Summary, kept: &Kept) -> Option<Self> {
        let names = summary.names.unwrap_or_default();
        // `/other/alias` is what another one calls it that was linked to it.
        let is_own = |name: &&String| !name.trim_start_matches('/').contains('/');
        let name = names.iter().find(is_own).cloned();
        Some(Self {
            id: summary.id.filter(|id| is_id(id))?,
            name: own_name(name),
            image: bounded(summary.image),
            image_id: bounded(summary.image_id),
            labels: kept.of(summary.labels),
            state: summary.state.and_then(|word| state(&word)),
            created: summary.created.and_then(since_1970),
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

/// One container, as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    id: Option<String>,
    name: Option<String>,
    image: Option<String>,
    created: Option<String>,
    restart_count: Option<i64>,
    state: Option<Process>,
    config: Option<Config>,
    host_config: Option<HostConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Process {
    status: Option<String>,
    pid: Option<i64>,
    exit_code: Option<i64>,
    started_at: Option<String>,
    finished_at: Option<String>,
    health: Option<Checks>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checks {
    status: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    image: Option<String>,
    labels: Option<HashMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    cgroup_parent: Option<String>,
    memory: Option<i64>,
    restart_policy: Option<RestartPolicy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RestartPolicy {
    name: Option<String>,
}

impl Inspected {
    /// The container that the answer describes, if it describes one.
    pub(super) fn read(answer: &[u8], kept: &Kept) -> serde_json::Result<Option<Self>> {
        Ok(Self::of(serde_json::from_slice(answer)?, kept))
    }

    fn of(description: Description, kept: &Kept) -> Option<Self> {
        let process = description.state?;
        let state = state(&process.status?)?;
        let health = process.health.and_then(|health| health.status);
        let health = health.and_then(|word| self::health(&word));
        let exit_code = process.exit_code.filter(|code| match state {
            State::Running | State::Paused => false,
            // It says 0 before it ever ran, and more if it could not be started.
            State::Created => *code != 0,
            _ => true,
        });
        let config = description.config.unwrap_or_default();
        let host_config = description.host_config.unwrap_or_default();
        let parent = bounded(host_config.cgroup_parent);
        let policy = host_config.restart_policy.and_then(|policy| policy.name);
        let pid = process.pid.and_then(|pid| u32::try_from(pid).ok());
        let at = |text: Option<String>| moment::parse(&text?);
        Some(Self {
            is_restarted: matches!(
                policy.as_deref(),
                Some("always" | "unless-stopped" | "on-failure")
            ),
            container: Container {
                id: description.id.filter(|id| is_id(id))?,
                name: own_name(description.name),
                image: bounded(config.image),
                image_id: bounded(description.image),
                labels: kept.of(config.labels),
                state,
                pid: pid.filter(|pid| *pid > 0 && state.is_alive()),
                cgroup_parent: Some(parent).filter(|parent| !parent.is_empty()),
                restarts: description
                    .restart_count
                    .and_then(|n| u64::try_from(n).ok()),
                exit_code,
                oom_events: 0,
                health: health.filter(|_| state.is_alive()),
                created: at(description.created),
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

/// A state by Docker's word for it, or by Podman's, which are a few more.
fn state(word: &str) -> Option<State> {
    match word {
        "created" | "configured" | "initialized" => Some(State::Created),
        "running" | "stopping" => Some(State::Running),
        "paused" => Some(State::Paused),
        "restarting" => Some(State::Restarting),
        "removing" => Some(State::Removing),
        // It ended, and what it leaves has not been cleaned up.
        "exited" | "stopped" => Some(State::Exited),
        "dead" => Some(State::Dead),
        _ => None,
    }
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
