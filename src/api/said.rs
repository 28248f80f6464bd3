//! Responses of the API as its clients parse them: the status page and `top`. These have no other
//! source, so that the page without the script has the same content as the script's updates, and
//! `top` works remotely.

use serde::Deserialize;

/// `/api/v1/host`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Host {
    pub time: Option<f64>,
    pub name: String,
    pub kernel: Kernel,
    pub os: Option<String>,
    pub boot_time: Option<f64>,
    pub cpus_online: Option<u64>,
    pub load: Option<Load>,
    pub memory: Memory,
    pub latest: Latest,
    pub missing: Vec<Missing>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Kernel {
    pub release: String,
    pub machine: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Load {
    #[serde(rename = "1m")]
    pub one: f64,
    #[serde(rename = "5m")]
    pub five: f64,
    #[serde(rename = "15m")]
    pub fifteen: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    pub total_bytes: Option<f64>,
    pub available_bytes: Option<f64>,
}

/// The last sample.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Latest {
    pub cpu_percent: Option<f64>,
    pub memory_bytes: Option<f64>,
    pub received_bytes_per_second: Option<f64>,
    pub sent_bytes_per_second: Option<f64>,
    pub read_bytes_per_second: Option<f64>,
    pub written_bytes_per_second: Option<f64>,
    pub pids: Option<f64>,
}

/// A part that could not be read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Missing {
    pub part: String,
    pub reason: String,
}

/// `/api/v1/containers`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Containers {
    pub time: Option<f64>,
    pub engines: Vec<Engine>,
    pub containers: Option<Vec<Container>>,
    pub missing: Vec<Missing>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Engine {
    pub socket: String,
    pub engine: Option<String>,
    pub version: Option<String>,
    pub is_up: bool,
    pub error: Option<String>,
    pub containers: Option<u64>,
}

/// `/api/v1/containers/{container}`, or the error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct One {
    pub time: Option<f64>,
    pub container: Container,
    pub missing: Vec<Missing>,
    pub error: String,
    pub candidates: Vec<Candidate>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Candidate {
    pub id: Option<String>,
    pub name: Option<String>,
    pub cgroup: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Container {
    pub kind: String,
    pub id: Option<String>,
    pub name: Option<String>,
    pub engine: Option<String>,
    pub runtime: Option<String>,
    pub image: Option<String>,
    pub state: Option<String>,
    pub health: Option<String>,
    pub restarts: Option<u64>,
    pub exit_code: Option<i64>,
    pub created: Option<f64>,
    pub started: Option<f64>,
    pub finished: Option<f64>,
    pub memory_limit_bytes: Option<f64>,
    pub cgroup: String,
    pub has_cgroup: Option<bool>,
    pub is_current: Option<bool>,
    pub unnamed: Option<Unnamed>,
    pub domain: Option<OfDomain>,
    pub latest: Latest,
    pub labels: std::collections::BTreeMap<String, String>,
    pub pid: Option<u32>,
    pub oom_events: Option<u64>,
}

/// Why the name is unknown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Unnamed {
    pub reason: String,
    pub detail: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OfDomain {
    pub name: String,
}

/// `/api/v1/domains`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Domains {
    pub time: Option<f64>,
    pub domains: Option<Vec<Domain>>,
    pub missing: Vec<Missing>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Domain {
    pub name: String,
    pub uuid: String,
    pub title: Option<String>,
    pub state: Option<String>,
    pub started: Option<f64>,
    pub is_partial: bool,
    pub is_stuck: bool,
    pub vcpus: Option<u64>,
    pub memory: Balloon,
    pub interfaces: Vec<Named>,
    pub disks: Vec<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Balloon {
    pub current_bytes: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Named {
    pub name: String,
}

/// `/api/v1/collectors`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Collectors {
    pub collectors: Vec<Collector>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Collector {
    pub name: String,
    pub about: String,
    pub layer: String,
    pub enabled: bool,
    pub last: Option<Run>,
}

/// A collector's last run.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Run {
    pub outcome: String,
    pub duration_seconds: f64,
    pub error: Option<String>,
    pub skipped_parts: u64,
}

impl Container {
    /// Identifies the container in paths and in the table.
    pub(crate) fn key(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.cgroup)
    }

    /// Display name.
    pub(crate) fn title(&self) -> &str {
        let of_domain = self.domain.as_ref().map(|domain| domain.name.as_str());
        let name = self.name.as_deref().or(of_domain);
        name.unwrap_or_else(|| short(self.key()))
    }

    /// Why the display name is only an ID or path.
    pub(crate) fn why_unnamed(&self) -> Option<String> {
        let unnamed = self.unnamed.as_ref()?;
        let why = match unnamed.reason.as_str() {
            "not_known" => "unknown to the configured engines",
            "engine_down" => "the engine does not respond",
            "not_asked" => "no engine of this kind is configured",
            "runtime_not_asked" => "the runtime's API is not supported",
            "unknown_runtime" => "the cgroup path does not identify the runtime",
            other => other,
        };
        Some(match &unnamed.detail {
            Some(detail) => format!("{why}: {detail}"),
            None => why.to_owned(),
        })
    }
}

/// Shortens a full ID; the script does the same.
fn short(key: &str) -> &str {
    let is_id = key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id {
        key.get(..12).unwrap_or(key)
    } else {
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_name_goes_by_its_id_or_path_and_says_why() {
        let said = r#"{"cgroup": "/docker/ab", "id": "ab", "unnamed":
            {"reason": "engine_down", "detail": "docker: refused"}, "new": 1}"#;
        let container: Container = serde_json::from_str(said).unwrap();
        assert_eq!((container.key(), container.title()), ("ab", "ab"));
        let why = "the engine does not respond: docker: refused";
        assert_eq!(container.why_unnamed().as_deref(), Some(why));
        let said = r#"{"cgroup": "/machine.slice/x", "domain": {"name": "web"}}"#;
        let guest: Container = serde_json::from_str(said).unwrap();
        assert_eq!((guest.key(), guest.title()), ("/machine.slice/x", "web"));
        assert_eq!(guest.why_unnamed(), None);
        assert_eq!(short(&"0af1".repeat(16)), "0af10af10af1");
        assert_eq!(short("/docker/0af1"), "/docker/0af1");
    }
}
