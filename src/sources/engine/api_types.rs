//! Parses responses of container engines. No text in them is assumed to be short.
//!
//! Responses are Docker's, or Podman's in its Docker-compatible form:
//! <https://docs.docker.com/reference/api/engine/>. Containers, images and settings are not parsed
//! with bollard's models: these reject a whole list for one unknown word, such as Podman's
//! `stopped`, or one field that an older API lacks.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use bollard::models::{EventMessage, EventMessageTypeEnum as EventType, SystemVersion};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{Container, ContainerState, EngineKind, Health, Image, is_container_id, rfc3339};
use crate::pattern::Pattern;

/// Longer names, references and label values are dropped.
const MAX_TEXT_LEN: usize = 1024;
/// Maximum number of tags per image; the rest are dropped.
const MAX_TAGS: usize = 100;
/// The newest API version known to have the fields that are parsed here.
const MAX_API_VERSION: (u32, u32) = (1, 53);

/// Which user-defined names are kept of an engine's responses. Everything else is dropped while
/// parsing, so it cannot be exposed.
#[derive(Debug, Clone, Default)]
pub(super) struct LabelFilter {
    /// Exact names of container labels.
    pub(super) labels: BTreeSet<String>,
    /// Image names.
    pub(super) images: Pattern,
}

impl LabelFilter {
    fn labels(&self, labels: Option<HashMap<String, String>>) -> Vec<(String, String)> {
        let mut labels: Vec<_> = labels.unwrap_or_default().into_iter().collect();
        labels.retain(|(name, value)| self.labels.contains(name) && value.len() <= MAX_TEXT_LEN);
        labels.sort_unstable();
        labels
    }

    fn image(&self, name: Option<String>) -> String {
        empty_if_too_long(name.filter(|name| self.images.matches(name)))
    }
}

/// Kind and version of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EngineVersion {
    pub(super) kind: EngineKind,
    pub(super) version: Option<String>,
    /// API version to use.
    pub(super) api_version: Option<String>,
}

impl EngineVersion {
    pub(super) fn from_response(response: SystemVersion) -> Self {
        let mut components = response.components.into_iter().flatten();
        let is_podman = components.any(|component| component.name.contains("Podman"));
        let number = |text: Option<String>| {
            let text = text?;
            let (major, minor) = text.split_once('.')?;
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        };
        let oldest = number(response.min_api_version).unwrap_or_default();
        let api_version =
            number(response.api_version).map(|newest| newest.min(MAX_API_VERSION).max(oldest));
        Self {
            kind: if is_podman {
                EngineKind::Podman
            } else {
                EngineKind::Docker
            },
            version: response
                .version
                .filter(|version| version.len() <= MAX_TEXT_LEN),
            api_version: api_version.map(|(major, minor)| format!("{major}.{minor}")),
        }
    }
}

/// Response of `/info`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InfoResponse {
    cgroup_driver: Option<String>,
}

/// Returns the cgroup driver, if it is a known one.
pub(super) fn parse_cgroup_driver(response: &[u8]) -> serde_json::Result<Option<String>> {
    let InfoResponse { cgroup_driver } = serde_json::from_slice(response)?;
    Ok(cgroup_driver.filter(|driver| matches!(driver.as_str(), "systemd" | "cgroupfs")))
}

/// A container as returned by the list of all containers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ListedContainer {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) image_id: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) state: Option<ContainerState>,
    pub(super) created: Option<Duration>,
}

/// One item of the list as serialized.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerSummary {
    id: Option<String>,
    names: Option<Vec<String>>,
    image: Option<String>,
    #[serde(rename = "ImageID")]
    image_id: Option<String>,
    labels: Option<HashMap<String, String>>,
    state: Option<String>,
    created: Option<i64>,
}

impl ListedContainer {
    /// Parses the list of containers.
    pub(super) fn parse_list(
        response: &[u8],
        filter: &LabelFilter,
    ) -> serde_json::Result<Vec<Self>> {
        Ok(parse_items(response)?
            .filter_map(|summary| Self::from_summary(summary, filter))
            .collect())
    }

    fn from_summary(summary: ContainerSummary, filter: &LabelFilter) -> Option<Self> {
        let names = summary.names.unwrap_or_default();
        // `/other/alias` is the alias that another, linked container uses for it.
        let is_unlinked = |name: &&String| !name.trim_start_matches('/').contains('/');
        let name = names.iter().find(is_unlinked).cloned();
        Some(Self {
            id: summary.id.filter(|id| is_container_id(id))?,
            name: container_name(name),
            image: filter.image(summary.image),
            image_id: empty_if_too_long(summary.image_id),
            labels: filter.labels(summary.labels),
            state: summary.state.and_then(|state| parse_state(&state)),
            created: summary.created.and_then(from_unix_seconds),
        })
    }
}

/// Parses the items of a list. An invalid item is skipped; the others are kept.
fn parse_items<T: DeserializeOwned>(
    response: &[u8],
) -> serde_json::Result<impl Iterator<Item = T>> {
    let items: Option<Vec<&RawValue>> = serde_json::from_slice(response)?;
    let items = items.unwrap_or_default().into_iter();
    Ok(items.filter_map(|item| serde_json::from_str(item.get()).ok()))
}

/// A container as returned by inspect.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InspectedContainer {
    /// Without out-of-memory events, which the response does not contain.
    pub(super) container: Container,
    /// Whether the engine restarts it when it exits.
    pub(super) has_restart_policy: bool,
}

/// Response of `/containers/ID/json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectResponse {
    id: Option<String>,
    name: Option<String>,
    image: Option<String>,
    created: Option<String>,
    restart_count: Option<i64>,
    state: Option<InspectState>,
    config: Option<InspectConfig>,
    host_config: Option<HostConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectState {
    status: Option<String>,
    pid: Option<i64>,
    exit_code: Option<i64>,
    started_at: Option<String>,
    finished_at: Option<String>,
    health: Option<InspectHealth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectHealth {
    status: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectConfig {
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

impl InspectedContainer {
    /// Parses the response; `None` if it describes no container.
    pub(super) fn parse(response: &[u8], filter: &LabelFilter) -> serde_json::Result<Option<Self>> {
        Ok(Self::from_response(
            serde_json::from_slice(response)?,
            filter,
        ))
    }

    fn from_response(response: InspectResponse, filter: &LabelFilter) -> Option<Self> {
        let process = response.state?;
        let state = parse_state(&process.status?)?;
        let health = process.health.and_then(|health| health.status);
        let health = health.and_then(|word| self::parse_health(&word));
        let exit_code = process.exit_code.filter(|code| match state {
            ContainerState::Running | ContainerState::Paused => false,
            // The code is 0 before the first start, and not 0 if the start failed.
            ContainerState::Created => *code != 0,
            _ => true,
        });
        let config = response.config.unwrap_or_default();
        let host_config = response.host_config.unwrap_or_default();
        let parent = empty_if_too_long(host_config.cgroup_parent);
        let policy = host_config.restart_policy.and_then(|policy| policy.name);
        let pid = process.pid.and_then(|pid| u32::try_from(pid).ok());
        let timestamp = |text: Option<String>| rfc3339::parse(&text?);
        Some(Self {
            has_restart_policy: matches!(
                policy.as_deref(),
                Some("always" | "unless-stopped" | "on-failure")
            ),
            container: Container {
                id: response.id.filter(|id| is_container_id(id))?,
                name: container_name(response.name),
                image: filter.image(config.image),
                image_id: empty_if_too_long(response.image),
                labels: filter.labels(config.labels),
                state,
                pid: pid.filter(|pid| *pid > 0 && state.is_alive()),
                cgroup_parent: Some(parent).filter(|parent| !parent.is_empty()),
                restart_count: response.restart_count.and_then(|n| u64::try_from(n).ok()),
                exit_code,
                oom_events: 0,
                health: health.filter(|_| state.is_alive()),
                created: timestamp(response.created),
                started: timestamp(process.started_at),
                finished: timestamp(process.finished_at),
                memory_limit: host_config
                    .memory
                    .and_then(|limit| u64::try_from(limit).ok())
                    .filter(|limit| *limit > 0),
            },
        })
    }
}

/// An event from an engine's event stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum EngineEvent {
    /// Event of a container.
    Container {
        id: String,
        event: ContainerEvent,
        /// Time since the Unix epoch.
        time: Option<Duration>,
    },
    /// Event of an image.
    Image,
    /// The engine reloaded its configuration.
    Reloaded,
    /// Any other event; ignored.
    Other,
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ContainerEvent {
    Created,
    Started,
    Died {
        exit_code: Option<i64>,
    },
    OutOfMemory,
    Paused,
    Unpaused,
    Renamed(String),
    /// A health check ended, with its result if the event contains it.
    HealthChecked(Option<Health>),
    Removed,
    /// A change whose details require an inspect.
    Changed,
}

impl EngineEvent {
    pub(super) fn from_message(response: EventMessage) -> Self {
        let actor = response.actor.unwrap_or_default();
        let action = response.action.unwrap_or_default();
        match response.typ {
            Some(EventType::IMAGE) => return Self::Image,
            Some(EventType::DAEMON) if action == "reload" => return Self::Reloaded,
            Some(EventType::CONTAINER) => {}
            _ => return Self::Other,
        }
        if action == "commit" {
            return Self::Image;
        }
        let Some(id) = actor.id.filter(|id| is_container_id(id)) else {
            return Self::Other;
        };
        let attributes = actor.attributes.unwrap_or_default();
        let event = match action.as_str() {
            "create" => ContainerEvent::Created,
            "start" => ContainerEvent::Started,
            "die" | "died" => ContainerEvent::Died {
                exit_code: attributes
                    .get("exitCode")
                    .and_then(|code| code.parse().ok()),
            },
            "oom" => ContainerEvent::OutOfMemory,
            "pause" => ContainerEvent::Paused,
            "unpause" => ContainerEvent::Unpaused,
            "rename" => match container_name(attributes.get("name").cloned()) {
                name if name.is_empty() => ContainerEvent::Changed,
                name => ContainerEvent::Renamed(name),
            },
            "destroy" | "remove" => ContainerEvent::Removed,
            "update" | "restart" | "cleanup" | "sync" => ContainerEvent::Changed,
            _ => match action.strip_prefix("health_status") {
                Some("") => ContainerEvent::HealthChecked(
                    attributes
                        .get("health_status")
                        .and_then(|h| parse_health(h)),
                ),
                Some(word) => {
                    ContainerEvent::HealthChecked(parse_health(word.trim_start_matches([':', ' '])))
                }
                None => return Self::Other,
            },
        };
        let time = response
            .time_nano
            .and_then(|nanos| u64::try_from(nanos).ok());
        let time = time.filter(|nanos| *nanos > 0).map(Duration::from_nanos);
        let time = time.or_else(|| response.time.and_then(from_unix_seconds));
        Self::Container { id, event, time }
    }
}

/// One item of the list of images as serialized.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageSummary {
    id: Option<String>,
    repo_tags: Option<Vec<String>>,
    size: Option<i64>,
    created: Option<i64>,
}

/// Parses a list of images; at most `max_images` are returned.
pub(super) fn parse_images(
    response: &[u8],
    max_images: usize,
    filter: &LabelFilter,
) -> serde_json::Result<Vec<Image>> {
    let images = parse_items(response)?.filter_map(|summary| image_from_summary(summary, filter));
    Ok(images.take(max_images).collect())
}

fn image_from_summary(summary: ImageSummary, filter: &LabelFilter) -> Option<Image> {
    let mut tags = summary.repo_tags.unwrap_or_default();
    // Docker before 25 lists an untagged image under this tag.
    tags.retain(|tag| tag != "<none>:<none>" && tag.len() <= MAX_TEXT_LEN);
    let has_name = !tags.is_empty();
    tags.retain(|tag| filter.images.matches(tag));
    tags.truncate(MAX_TAGS);
    Some(Image {
        id: Some(empty_if_too_long(summary.id)).filter(|id| !id.is_empty())?,
        has_hidden_tags: has_name && tags.is_empty(),
        tags,
        size: summary.size.and_then(|size| u64::try_from(size).ok()),
        created: summary.created.and_then(from_unix_seconds),
    })
}

/// Parses a state by Docker's name, or by one of Podman's additional names.
fn parse_state(word: &str) -> Option<ContainerState> {
    match word {
        "created" | "configured" | "initialized" => Some(ContainerState::Created),
        "running" | "stopping" => Some(ContainerState::Running),
        "paused" => Some(ContainerState::Paused),
        "restarting" => Some(ContainerState::Restarting),
        "removing" => Some(ContainerState::Removing),
        // Podman's `stopped`: the process exited, but the container is not cleaned up yet.
        "exited" | "stopped" => Some(ContainerState::Exited),
        "dead" => Some(ContainerState::Dead),
        _ => None,
    }
}

fn parse_health(word: &str) -> Option<Health> {
    match word {
        "starting" => Some(Health::Starting),
        "healthy" => Some(Health::Healthy),
        "unhealthy" => Some(Health::Unhealthy),
        _ => None,
    }
}

/// Converts Unix seconds; `None` unless positive, as other values mean never.
fn from_unix_seconds(seconds: i64) -> Option<Duration> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs)
}

fn container_name(name: Option<String>) -> String {
    let name = empty_if_too_long(name);
    match name.strip_prefix('/') {
        Some(stripped) => stripped.to_owned(),
        None => name,
    }
}

/// Returns the text, empty if it is too long.
fn empty_if_too_long(text: Option<String>) -> String {
    text.filter(|text| text.len() <= MAX_TEXT_LEN)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "3f4e5d6c7b8a99887766554433221100ffeeddccbbaa00112233445566778899";

    fn filter(names: &[&str]) -> LabelFilter {
        LabelFilter {
            labels: names.iter().map(ToString::to_string).collect(),
            images: "^bb:".parse().unwrap_or_else(|e| panic!("{e}")),
        }
    }

    fn listed(list: &Value) -> Vec<ListedContainer> {
        let filter = filter(&["com.docker.compose.project"]);
        ListedContainer::parse_list(list.to_string().as_bytes(), &filter)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    fn inspected(response: &Value) -> Option<InspectedContainer> {
        let filter = filter(&["com.docker.compose.project"]);
        let inspected = InspectedContainer::parse(response.to_string().as_bytes(), &filter);
        inspected.unwrap_or_else(|e| panic!("{e}"))
    }

    fn listed_images(list: &Value) -> Vec<Image> {
        parse_images(list.to_string().as_bytes(), 3, &filter(&[])).unwrap_or_else(|e| panic!("{e}"))
    }

    fn version(response: Value) -> EngineVersion {
        EngineVersion::from_response(
            serde_json::from_value(response).unwrap_or_else(|e| panic!("{e}")),
        )
    }

    fn event(response: Value) -> EngineEvent {
        EngineEvent::from_message(
            serde_json::from_value(response).unwrap_or_else(|e| panic!("{e}")),
        )
    }

    /// Returns the event of a container from its action and attributes.
    fn container_event(action: &str, attributes: &Value) -> Option<ContainerEvent> {
        let event = event(json!({
            "Type": "container", "Action": action,
            "Actor": {"ID": ID, "Attributes": attributes}, "time": 7, "timeNano": 7_000_000_001_i64,
        }));
        match event {
            EngineEvent::Container { id, event, time } => {
                assert_eq!((id.as_str(), time), (ID, Some(Duration::new(7, 1))));
                Some(event)
            }
            _ => None,
        }
    }

    /// Inspect response of Docker 20.10 for a running container, without unused fields.
    fn inspect_response() -> Value {
        json!({
            "Id": ID, "Created": "2026-11-21T07:49:23.156801646Z", "Name": "/web",
            "State": {
                "Status": "running", "Running": true, "Paused": false, "Restarting": false,
                "OOMKilled": false, "Dead": false, "Pid": 15666, "ExitCode": 0, "Error": "",
                "StartedAt": "2026-11-21T07:49:23.5Z", "FinishedAt": "0001-01-01T00:00:00Z",
            },
            "Image": "sha256:cd218d06", "RestartCount": 2,
            "HostConfig": {
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
                "Memory": 67_108_864, "CgroupParent": "",
            },
            "GraphDriver": null,
            "Config": {
                "Image": "bb:1", "Labels": {"com.docker.compose.project": "p", "other": "o"},
            },
        })
    }

    #[test]
    fn newest_common_api_version_is_used() {
        let docker = version(json!({
            "Components": [{"Name": "Engine", "Version": "20.10.24+dfsg1"}],
            "Version": "20.10.24+dfsg1", "ApiVersion": "1.41", "MinAPIVersion": "1.12",
        }));
        let expected = EngineVersion {
            kind: EngineKind::Docker,
            version: Some("20.10.24+dfsg1".to_owned()),
            api_version: Some("1.41".to_owned()),
        };
        assert_eq!(docker, expected);
        let podman = version(json!({
            "Components": [{"Name": "Podman Engine", "Version": "4.3.1"}, {"Name": "Conmon", "Version": "2"}],
            "Version": "4.3.1", "ApiVersion": "1.41", "MinAPIVersion": "1.24",
        }));
        assert_eq!(
            (podman.kind, podman.api_version.as_deref()),
            (EngineKind::Podman, Some("1.41"))
        );
        for (newest, oldest, used) in [
            (json!("1.99"), json!("1.40"), Some("1.53")),
            (json!("2.1"), json!("2.0"), Some("2.0")),
            (json!("1.9"), json!(null), Some("1.9")),
            (json!("latest"), json!("1.24"), None),
            (json!(null), json!("1.24"), None),
        ] {
            let response = json!({"ApiVersion": newest, "MinAPIVersion": oldest});
            assert_eq!(
                version(response).api_version.as_deref(),
                used,
                "{newest} {oldest}"
            );
        }
    }

    #[test]
    fn only_known_cgroup_drivers_are_returned() {
        for (response, driver) in [
            (
                json!({"CgroupDriver": "systemd", "CgroupVersion": "2"}),
                Some("systemd"),
            ),
            (
                json!({"CgroupDriver": "cgroupfs", "Swarm": {"LocalNodeState": "odd"}}),
                Some("cgroupfs"),
            ),
            (json!({"CgroupDriver": "none"}), None),
            (json!({}), None),
        ] {
            let parsed = parse_cgroup_driver(response.to_string().as_bytes())
                .ok()
                .flatten();
            assert_eq!(parsed.as_deref(), driver, "{response}");
        }
        assert!(parse_cgroup_driver(b"[]").is_err());
    }

    #[test]
    fn parses_lists_of_docker_and_podman() {
        let list = json!([
            {
                "Id": ID, "Names": ["/other/alias", "/web"], "Image": "bb:1",
                "ImageID": "sha256:cd218d06", "Command": "sleep 1000", "Created": 1_795_247_363,
                "Ports": [], "Labels": {"com.docker.compose.project": "p", "other": "o"},
                "State": "running", "Status": "Up 4 seconds (healthy)", "Mounts": [],
            },
            {
                "Id": "b".repeat(64), "Names": null, "Labels": null, "State": "stopped",
                "NetworkSettings": {"Networks": null}, "Created": -62_135_596_800_i64,
            },
        ]);
        let web = ListedContainer {
            id: ID.to_owned(),
            name: "web".to_owned(),
            image: "bb:1".to_owned(),
            image_id: "sha256:cd218d06".to_owned(),
            labels: vec![("com.docker.compose.project".to_owned(), "p".to_owned())],
            state: Some(ContainerState::Running),
            created: Some(Duration::from_secs(1_795_247_363)),
        };
        let minimal = ListedContainer {
            id: "b".repeat(64),
            name: String::new(),
            image: String::new(),
            image_id: String::new(),
            labels: Vec::new(),
            state: Some(ContainerState::Exited),
            created: None,
        };
        assert_eq!(listed(&list), [web, minimal]);
        assert_eq!(listed(&Value::Null), []);
    }

    #[test]
    fn invalid_list_item_skips_only_itself() {
        let list = json!([
            {"Id": ID, "Names": "web"}, 7, null, {}, {"Id": "short"}, {"Id": 5},
            {"Id": ID, "State": "hibernating"},
        ]);
        let states: Vec<_> = listed(&list)
            .into_iter()
            .map(|container| container.state)
            .collect();
        assert_eq!(states, [None]);
        for text in ["", "{}", "[{]", "7", "[{}"] {
            assert!(
                ListedContainer::parse_list(text.as_bytes(), &LabelFilter::default()).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn parses_inspect_response_of_docker() {
        let Some(inspected) = inspected(&inspect_response()) else {
            panic!("not parsed");
        };
        assert!(!inspected.has_restart_policy);
        let second = |nanoseconds| Some(Duration::new(1_795_247_363, nanoseconds));
        let expected = Container {
            id: ID.to_owned(),
            name: "web".to_owned(),
            image: "bb:1".to_owned(),
            image_id: "sha256:cd218d06".to_owned(),
            labels: vec![("com.docker.compose.project".to_owned(), "p".to_owned())],
            state: ContainerState::Running,
            pid: Some(15_666),
            cgroup_parent: None,
            restart_count: Some(2),
            exit_code: None,
            oom_events: 0,
            health: None,
            created: second(156_801_646),
            started: second(500_000_000),
            finished: None,
            memory_limit: Some(67_108_864),
        };
        assert_eq!(inspected.container, expected);
    }

    #[test]
    fn inspect_fields_depend_on_state() {
        let fields = |status: &str, exit_code: i64, health: &str| {
            let mut inspect_response = inspect_response();
            inspect_response["State"]["Status"] = status.into();
            inspect_response["State"]["ExitCode"] = exit_code.into();
            inspect_response["State"]["Health"] = json!({"Status": health, "Log": null});
            let container = inspected(&inspect_response)?.container;
            Some((
                container.state,
                container.pid.is_some(),
                container.exit_code,
                container.health,
            ))
        };
        let (running, exited) = (ContainerState::Running, ContainerState::Exited);
        // Podman returns an empty status for a container without a health check.
        assert_eq!(fields("running", 5, ""), Some((running, true, None, None)));
        assert_eq!(
            fields("running", 0, "none"),
            Some((running, true, None, None))
        );
        let healthy = Some(Health::Healthy);
        assert_eq!(
            fields("running", 0, "healthy"),
            Some((running, true, None, healthy))
        );
        assert_eq!(
            fields("paused", 0, "healthy"),
            Some((ContainerState::Paused, true, None, healthy))
        );
        assert_eq!(
            fields("stopping", 0, "healthy"),
            Some((running, true, None, healthy))
        );
        // A state that is not known yet.
        assert_eq!(
            fields("running", 0, "stopped"),
            Some((running, true, None, None))
        );
        // Of an exited container, Docker still returns the last health.
        assert_eq!(
            fields("exited", 0, "unhealthy"),
            Some((exited, false, Some(0), None))
        );
        assert_eq!(
            fields("stopped", 3, ""),
            Some((exited, false, Some(3), None))
        );
        assert_eq!(
            fields("created", 0, ""),
            Some((ContainerState::Created, false, None, None))
        );
        assert_eq!(
            fields("created", 127, ""),
            Some((ContainerState::Created, false, Some(127), None))
        );
        assert_eq!(fields("", 0, ""), None);
        assert_eq!(fields("hibernating", 0, ""), None);
    }

    #[test]
    fn impossible_numbers_are_dropped() {
        let mut inspect_response = inspect_response();
        inspect_response["State"]["Pid"] = (-1).into();
        inspect_response["RestartCount"] = (-1).into();
        inspect_response["HostConfig"]["Memory"] = (-1).into();
        inspect_response["HostConfig"]["CgroupParent"] = "x".repeat(MAX_TEXT_LEN + 1).into();
        inspect_response["Name"] = "x".repeat(MAX_TEXT_LEN + 1).into();
        let container = inspected(&inspect_response).map(|container| container.container);
        let container = container.map(|container| {
            (
                container.pid,
                container.restart_count,
                container.memory_limit,
                container.cgroup_parent,
                container.name,
            )
        });
        assert_eq!(container, Some((None, None, None, None, String::new())));
    }

    #[test]
    fn restart_policy_predicts_restart() {
        for (policy, expected) in [
            (json!({"Name": "always"}), true),
            (json!({"Name": "unless-stopped"}), true),
            (json!({"Name": "on-failure", "MaximumRetryCount": 3}), true),
            (json!({"Name": "no"}), false),
            (json!({"Name": ""}), false),
            (json!({"Name": "sometimes"}), false),
            (Value::Null, false),
        ] {
            let mut inspect_response = inspect_response();
            inspect_response["HostConfig"]["RestartPolicy"] = policy.clone();
            let actual = inspected(&inspect_response).map(|inspected| inspected.has_restart_policy);
            assert_eq!(actual, Some(expected), "{policy}");
        }
    }

    #[test]
    fn labels_are_kept_by_exact_name() {
        let labels = [
            ("a", "1"),
            ("ab", "2"),
            ("A", "3"),
            ("long", &"x".repeat(MAX_TEXT_LEN + 1)),
        ];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let selected = filter(&["ab", "a", "long", "absent"]).labels(Some(labels.into()));
        let expected = [("a", "1"), ("ab", "2")];
        assert_eq!(
            selected,
            expected.map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
    }

    #[test]
    fn parses_events_of_docker_and_podman() {
        let none = || json!({});
        for (action, attributes, expected) in [
            ("create", none(), ContainerEvent::Created),
            ("start", none(), ContainerEvent::Started),
            (
                "die",
                json!({"exitCode": "137"}),
                ContainerEvent::Died {
                    exit_code: Some(137),
                },
            ),
            (
                "died",
                json!({"exitCode": "3", "containerExitCode": "0"}),
                ContainerEvent::Died { exit_code: Some(3) },
            ),
            ("die", none(), ContainerEvent::Died { exit_code: None }),
            ("oom", none(), ContainerEvent::OutOfMemory),
            ("pause", none(), ContainerEvent::Paused),
            ("unpause", none(), ContainerEvent::Unpaused),
            (
                "rename",
                json!({"name": "w3", "oldName": "/w2"}),
                ContainerEvent::Renamed("w3".to_owned()),
            ),
            ("rename", none(), ContainerEvent::Changed),
            ("destroy", none(), ContainerEvent::Removed),
            ("remove", none(), ContainerEvent::Removed),
            ("update", none(), ContainerEvent::Changed),
            ("restart", none(), ContainerEvent::Changed),
            ("cleanup", none(), ContainerEvent::Changed),
            (
                "health_status: healthy",
                none(),
                ContainerEvent::HealthChecked(Some(Health::Healthy)),
            ),
            (
                "health_status: unhealthy",
                none(),
                ContainerEvent::HealthChecked(Some(Health::Unhealthy)),
            ),
            (
                "health_status: asleep",
                none(),
                ContainerEvent::HealthChecked(None),
            ),
            ("health_status", none(), ContainerEvent::HealthChecked(None)),
            (
                "health_status",
                json!({"health_status": "starting"}),
                ContainerEvent::HealthChecked(Some(Health::Starting)),
            ),
        ] {
            assert_eq!(
                container_event(action, &attributes),
                Some(expected),
                "{action}"
            );
        }
        for action in [
            "exec_start: /bin/sh -c true",
            "exec_died",
            "attach",
            "init",
            "",
        ] {
            assert_eq!(container_event(action, &none()), None, "{action}");
        }
    }

    #[test]
    fn other_events_are_of_images_or_ignored() {
        for (message, expected) in [
            (
                json!({"Type": "image", "Action": "tag"}),
                EngineEvent::Image,
            ),
            (
                json!({"Type": "container", "Action": "commit"}),
                EngineEvent::Image,
            ),
            (
                json!({"Type": "daemon", "Action": "reload"}),
                EngineEvent::Reloaded,
            ),
            (
                json!({"Type": "daemon", "Action": "other"}),
                EngineEvent::Other,
            ),
            (
                json!({"Type": "network", "Action": "connect"}),
                EngineEvent::Other,
            ),
            (
                json!({"Type": "container", "Action": "start"}),
                EngineEvent::Other,
            ),
            (
                json!({"Type": "container", "Action": "start", "Actor": {"ID": "x"}}),
                EngineEvent::Other,
            ),
            (json!({}), EngineEvent::Other),
        ] {
            assert_eq!(event(message.clone()), expected, "{message}");
        }
    }

    #[test]
    fn most_precise_event_time_is_used() {
        let event_time = |time: &Value| {
            let mut message = json!({"Type": "container", "Action": "start", "Actor": {"ID": ID}});
            for (name, value) in time.as_object().into_iter().flatten() {
                message[name] = value.clone();
            }
            match event(message) {
                EngineEvent::Container {
                    time: event_time, ..
                } => event_time,
                _ => None,
            }
        };
        let seconds = Duration::from_secs;
        assert_eq!(event_time(&json!({"time": 7})), Some(seconds(7)));
        assert_eq!(
            event_time(&json!({"time": 7, "timeNano": 0})),
            Some(seconds(7))
        );
        assert_eq!(
            event_time(&json!({"time": 7, "timeNano": -1})),
            Some(seconds(7))
        );
        assert_eq!(
            event_time(&json!({"timeNano": 8_000_000_000_i64})),
            Some(seconds(8))
        );
        assert_eq!(event_time(&json!({"time": -7})), None);
    }

    #[test]
    fn untagged_image_has_no_tags() {
        let tags_and_size = |tags: Value, size: i64| {
            let response = json!([{
                "Id": "sha256:11", "ParentId": "", "RepoTags": tags, "RepoDigests": null,
                "Created": 1_795_247_362, "Size": size, "SharedSize": -1, "Labels": null,
                "Containers": -1,
            }]);
            listed_images(&response)
                .pop()
                .map(|image| (image.tags, image.size))
        };
        let expected = vec!["bb:1".to_owned(), "bb:2".to_owned()];
        assert_eq!(
            tags_and_size(json!(["bb:1", "bb:2"]), 5),
            Some((expected, Some(5)))
        );
        assert_eq!(
            tags_and_size(json!(["<none>:<none>"]), 5),
            Some((vec![], Some(5)))
        );
        assert_eq!(tags_and_size(Value::Null, -1), Some((vec![], None)));
        let many: Vec<String> = (0..1000).map(|n| format!("bb:{n}")).collect();
        assert_eq!(
            tags_and_size(json!(many), 5).map(|(tags, _)| tags.len()),
            Some(MAX_TAGS)
        );
    }

    #[test]
    fn excluded_image_names_are_hidden() {
        let list = json!([{"Id": ID, "Image": "registry.example/bb:1", "State": "running"}]);
        let image = listed(&list).pop().map(|container| container.image);
        assert_eq!(image.as_deref(), Some(""));
        let mut inspect_response = inspect_response();
        inspect_response["Config"]["Image"] = json!("registry.example/bb:1");
        let image = inspected(&inspect_response).map(|container| container.container.image);
        assert_eq!(image.as_deref(), Some(""));
        let tags_of = |tags: Value| {
            let response = json!([{"Id": "sha256:11", "RepoTags": tags}]);
            let image = listed_images(&response).pop();
            image.map(|image| (image.tags, image.has_hidden_tags))
        };
        let bb = vec!["bb:1".to_owned()];
        assert_eq!(tags_of(json!(["secret:1", "bb:1"])), Some((bb, false)));
        assert_eq!(tags_of(json!(["secret:1"])), Some((vec![], true)));
        assert_eq!(tags_of(json!([])), Some((vec![], false)));
    }

    #[test]
    fn invalid_image_skips_only_itself() {
        // As in API version 1.24, with fewer fields.
        let old = json!({"Id": "a", "RepoTags": ["bb:1"], "Created": 7, "Size": 5});
        let list = json!([
            {"Id": "b", "RepoTags": "bb:1"}, 7, null, {}, {"Id": ""}, old, {"Id": "c"}, {"Id": "d"},
            {"Id": "e"},
        ]);
        let images = listed_images(&list);
        let ids: Vec<_> = images.iter().map(|image| image.id.as_str()).collect();
        assert_eq!(ids, ["a", "c", "d"]);
        assert_eq!(images[0].created, Some(Duration::from_secs(7)));
        assert_eq!((images[1].size, images[1].created), (None, None));
    }
}
