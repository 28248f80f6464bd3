//! Which engines to ask, and what to keep of what they say.

use std::{path::PathBuf, time::Duration};

use crate::{duration, pattern::Pattern};

/// The labels that dashboards select containers by: those of Compose, of Swarm, and the
/// group of label-schema.
const DEFAULT_LABELS: &str = "com.docker.compose.project,\
                           com.docker.compose.project.working_dir,\
                           com.docker.compose.service,\
                           com.docker.swarm.node.id,\
                           com.docker.swarm.service.name,\
                           com.docker.swarm.task.name,\
                           com.docker.stack.namespace,\
                           org.label-schema.group";

/// Matches every name.
const ANY: &str = ".";

/// Where Docker and Podman listen as root, and below the directory of a user.
const SYSTEM_SOCKETS: [&str; 3] = [
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
];
const USER_SOCKETS: [&str; 2] = ["docker.sock", "podman/podman.sock"];

/// Which engines to ask.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Socket of a container engine, as `unix:///PATH`; repeatable; empty to ask none.
    /// Without it, those that exist of Docker's and Podman's, root's and the user's.
    #[arg(long = "engine.socket", value_name = "URI", value_parser = parse_socket)]
    pub engine_socket: Vec<PathBuf>,
    /// Labels of containers that are kept, by their exact names; values longer than
    /// 1024 bytes are left out.
    #[arg(
        long = "engine.label-include",
        value_name = "NAME,...",
        value_delimiter = ',',
        default_value = DEFAULT_LABELS
    )]
    pub engine_label_include: Vec<String>,
    /// Images whose names are told: a regular expression; empty to tell none. Those of
    /// others are left out.
    #[arg(long = "engine.image-include", value_name = "REGEX", default_value = ANY)]
    pub engine_image_include: Pattern,
    /// How often they are asked for room on disk, if at all: what the flags of a collector
    /// say.
    #[arg(skip)]
    pub disk_usage_interval: Option<Duration>,
}

/// How often engines are asked for what costs them much.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct SizeFlags {
    /// How often each engine is asked for sizes on disk, in the background; at least 1m,
    /// and never for more than a tenth of the time.
    #[arg(
        long = "collector.container_size.interval",
        value_name = "DURATION",
        default_value = "1h",
        value_parser = parse_interval
    )]
    pub container_size_interval: Duration,
}

/// The shortest time from one question for sizes to the next.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

impl Default for Flags {
    fn default() -> Self {
        Self {
            engine_socket: Vec::new(),
            engine_label_include: DEFAULT_LABELS.split(',').map(str::to_owned).collect(),
            engine_image_include: ANY.parse().unwrap_or_default(),
            disk_usage_interval: None,
        }
    }
}

impl Flags {
    /// The sockets to ask at, and whether they were named: those that were not named
    /// need not be there.
    pub(super) fn sockets(&self) -> (Vec<PathBuf>, bool) {
        if !self.engine_socket.is_empty() {
            let named = self.engine_socket.iter();
            let named = named.filter(|socket| !socket.as_os_str().is_empty());
            return (named.cloned().collect(), true);
        }
        let mut sockets: Vec<_> = SYSTEM_SOCKETS.iter().map(PathBuf::from).collect();
        let of_user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        if let Some(dir) = of_user.filter(|dir| dir.is_absolute()) {
            sockets.extend(USER_SOCKETS.map(|socket| dir.join(socket)));
        }
        (sockets, false)
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if interval < MIN_INTERVAL {
        return Err("shorter than 1m".to_owned());
    }
    Ok(interval)
}

/// A socket as the command line names it.
fn parse_socket(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.is_empty() && !text.is_empty() || !path.is_empty() && !path.starts_with('/') {
        return Err("neither unix:///PATH nor an absolute path".to_owned());
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_uri_or_an_absolute_path() {
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
    fn nobody_asks_for_sizes_more_than_once_a_minute() {
        assert_eq!(parse_interval("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_interval("1h"), Ok(Duration::from_secs(3600)));
        for text in ["59s", "0", "1", ""] {
            assert!(parse_interval(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn who_names_an_empty_socket_asks_nobody() {
        let mut flags = Flags::default();
        assert!(!flags.sockets().0.is_empty());
        flags.engine_socket = vec![PathBuf::new()];
        assert_eq!(flags.sockets(), (vec![], true));
    }
}
