//! Flags of container engines: sockets, and which labels and image names are kept.

use std::{path::PathBuf, time::Duration};

use crate::{duration, pattern::Pattern};

/// Labels that dashboards commonly select containers by: those of Compose and Swarm, and
/// label-schema's group.
const DEFAULT_LABELS: &str = "com.docker.compose.project,\
                           com.docker.compose.project.working_dir,\
                           com.docker.compose.service,\
                           com.docker.swarm.node.id,\
                           com.docker.swarm.service.name,\
                           com.docker.swarm.task.name,\
                           com.docker.stack.namespace,\
                           org.label-schema.group";

/// Regular expression that matches every name.
const ANY: &str = ".";

/// Default sockets of Docker and Podman, as root and below a user's runtime directory.
const SYSTEM_SOCKETS: [&str; 3] = [
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
];
const USER_SOCKETS: [&str; 2] = ["docker.sock", "podman/podman.sock"];

/// Which engines to connect to, and what to keep of their responses.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct EngineFlags {
    /// Socket of a container engine, as `unix:///PATH`; repeatable; empty to use none. Default:
    /// the existing sockets of Docker and Podman, of root and of the current user.
    #[arg(long = "engine.socket", value_name = "URI", value_parser = parse_socket)]
    pub engine_socket: Vec<PathBuf>,
    /// Container labels to keep, by exact name; values longer than 1024 bytes are dropped.
    #[arg(
        long = "engine.label-include",
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = DEFAULT_LABELS
    )]
    pub engine_label_include: Vec<String>,
    /// Images whose names are exposed, as a regular expression; empty to expose none. Other image
    /// names are hidden.
    #[arg(long = "engine.image-include", value_name = "REGEX", default_value = ANY)]
    pub engine_image_include: Pattern,
    /// Interval of disk usage requests, if enabled; set from a collector's flags.
    #[arg(skip)]
    pub disk_usage_interval: Option<Duration>,
}

/// Flags of the expensive requests to engines.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct SizeFlags {
    /// Interval of disk usage requests to each engine, in the background; at least 1m. They never
    /// take more than a tenth of the time.
    #[arg(
        long = "collector.container_size.interval",
        value_name = "DURATION",
        default_value = "1h",
        value_parser = parse_interval
    )]
    pub container_size_interval: Duration,
}

/// Minimum interval of disk usage requests.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

impl Default for EngineFlags {
    fn default() -> Self {
        Self {
            engine_socket: Vec::new(),
            engine_label_include: DEFAULT_LABELS.split(',').map(str::to_owned).collect(),
            engine_image_include: ANY.parse().unwrap_or_default(),
            disk_usage_interval: None,
        }
    }
}

impl EngineFlags {
    /// Returns the sockets, and whether flags name them. Default sockets may be missing.
    pub(super) fn sockets(&self) -> (Vec<PathBuf>, bool) {
        if !self.engine_socket.is_empty() {
            let configured = self.engine_socket.iter();
            let configured = configured.filter(|socket| !socket.as_os_str().is_empty());
            return (configured.cloned().collect(), true);
        }
        let mut sockets: Vec<_> = SYSTEM_SOCKETS.iter().map(PathBuf::from).collect();
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        if let Some(dir) = runtime_dir.filter(|dir| dir.is_absolute()) {
            sockets.extend(USER_SOCKETS.map(|socket| dir.join(socket)));
        }
        (sockets, false)
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if interval < MIN_INTERVAL {
        return Err("must be at least 1m".to_owned());
    }
    Ok(interval)
}

/// Parses a socket from the command line.
fn parse_socket(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.is_empty() && !text.is_empty() || !path.is_empty() && !path.starts_with('/') {
        return Err("expected unix:///PATH or an absolute path".to_owned());
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_is_a_uri_or_an_absolute_path() {
        for (text, path) in [
            ("unix:///run/x.sock", "/run/x.sock"),
            ("/run/x.sock", "/run/x.sock"),
            ("", ""),
        ] {
            assert_eq!(parse_socket(text), Ok(PathBuf::from(path)), "{text:?}");
        }
        for text in [
            "unix://",
            "unix://x.sock",
            "x.sock",
            "tcp://127.0.0.1:2375",
            "http://x",
        ] {
            assert!(parse_socket(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn disk_usage_interval_is_at_least_one_minute() {
        assert_eq!(parse_interval("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_interval("1h"), Ok(Duration::from_secs(3600)));
        for text in ["59s", "0", "1", ""] {
            assert!(parse_interval(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn empty_socket_disables_engines() {
        let mut flags = EngineFlags::default();
        assert!(!flags.sockets().0.is_empty());
        flags.engine_socket = vec![PathBuf::new()];
        assert_eq!(flags.sockets(), (vec![], true));
    }
}
