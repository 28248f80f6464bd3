//! The census as a single report, for aggregation over many machines. It has the values of the
//! census metrics, from the same collectors with the same flags, and names no container, label,
//! address or host.
//!
//! The report's format is fixed: an unknown value is null, while other responses omit it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::ArgAction;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time;
use tracing::warn;

use super::seconds;
use crate::{
    collector::Layer,
    family::{Families, Family, Value},
    scrape::Scraper,
    sources::{HostState, installation_id},
};

/// Timeout of the first connection to the engines.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the collectors.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(10);
/// CPU use needs two readings, this far apart.
const CPU_SAMPLE_INTERVAL: Duration = Duration::from_millis(1100);

/// Flags of the census.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct CensusReportFlags {
    /// Directory to store the random installation ID in; without it, each start generates a new ID.
    #[arg(long = "census.state-directory", value_name = "DIR")]
    pub census_state_directory: Option<PathBuf>,
    /// Report images only by the SHA-256 of their names.
    #[arg(long = "census.hash-images", default_value_t = false, action = ArgAction::Set)]
    pub census_hash_images: bool,
}

/// Creates census reports.
#[derive(Debug)]
pub struct Census {
    installation_id: String,
    hash_images: bool,
}

/// The report. Consumers depend on the field names.
#[derive(Debug, Serialize)]
pub struct CensusReport {
    installation_id: String,
    version: &'static str,
    #[serde(serialize_with = "seconds")]
    timestamp: Option<Duration>,
    host_count: u64,
    total_containers: Option<u64>,
    containers_running: Option<u64>,
    containers_stopped: Option<u64>,
    containers_paused: Option<u64>,
    containers_other: Option<u64>,
    avg_cpu_percent: Option<f64>,
    avg_memory_bytes: Option<f64>,
    total_memory_limit: Option<u64>,
    avg_restarts: Option<f64>,
    high_restart_containers: Option<u64>,
    total_image_size: Option<u64>,
    unique_images: Option<u64>,
    timezone: Option<String>,
    image_stats: Option<Vec<ImageStat>>,
}

/// Number of containers of an image, and its size.
#[derive(Debug, Serialize)]
struct ImageStat {
    image: String,
    count: u64,
    size_bytes: Option<u64>,
}

impl Census {
    /// Creates the census from its flags. Fails if the installation ID cannot be stored, except on
    /// a full disk.
    pub fn new(flags: &CensusReportFlags) -> Result<Self, String> {
        let dir = flags.census_state_directory.as_deref();
        let stored = installation_id(dir);
        let stored = stored.map_err(|error| format!("--census.state-directory: {error}"))?;
        if let Some(error) = stored.persist_error {
            warn!(%error, "cannot store the installation ID: the next start generates a new one");
        }
        Ok(Self {
            installation_id: stored.id,
            hash_images: flags.census_hash_images,
        })
    }

    /// Collects the report within about this time.
    pub async fn report(&self, scraper: &Scraper, limit: Duration) -> CensusReport {
        let census_collectors = scraper
            .collectors()
            .filter(|(_, layer)| *layer == Layer::Census);
        let names: BTreeSet<&str> = census_collectors.map(|(name, _)| name).collect();
        let families = scraper.scrape(&names, limit).await.into_families();
        self.report_from_families(&families)
    }

    /// Collects a single report, for callers that have not followed the engines before.
    pub async fn report_once(&self, machine: &Arc<HostState>, scraper: &Scraper) -> CensusReport {
        machine.engines().watch();
        machine.wait_for_engines(ENGINE_TIMEOUT).await;
        self.report(scraper, COLLECT_TIMEOUT).await;
        time::sleep(CPU_SAMPLE_INTERVAL).await;
        self.report(scraper, COLLECT_TIMEOUT).await
    }

    fn report_from_families(&self, families: &[Arc<Families>]) -> CensusReport {
        let family = |name: &str| {
            let mut all = families.iter().flat_map(|families| families.iter());
            all.find(|family| family.name == name)
        };
        let float = |name| Some(float(single_value(family(name)?)?));
        let count = |name| count(single_value(family(name)?)?);
        let by_state = family("census_containers");
        let in_state = |state: &str| {
            let samples = by_state?
                .samples()
                .filter(|(_, labels, _)| labels.value("state").as_deref() == Some(state));
            let counts = samples.filter_map(|(.., value)| self::count(value));
            Some(counts.fold(0, u64::saturating_add))
        };
        let states = ["running", "stopped", "paused", "other"].map(in_state);
        let [running, stopped, paused, other] = states;
        let zone = family("census_timezone_info");
        CensusReport {
            installation_id: self.installation_id.clone(),
            version: env!("CARGO_PKG_VERSION"),
            timestamp: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .ok(),
            host_count: 1,
            total_containers: states
                .into_iter()
                .try_fold(0_u64, |sum, it| sum.checked_add(it?)),
            containers_running: running,
            containers_stopped: stopped,
            containers_paused: paused,
            containers_other: other,
            avg_cpu_percent: float("census_container_cpu_percent_avg"),
            avg_memory_bytes: float("census_container_memory_bytes_avg"),
            total_memory_limit: count("census_container_memory_limit_bytes"),
            avg_restarts: float("census_container_restarts_avg"),
            high_restart_containers: count("census_containers_high_restarts"),
            total_image_size: count("census_image_bytes"),
            unique_images: count("census_images"),
            timezone: zone.and_then(|zone| zone.samples().next()?.1.value("timezone")),
            image_stats: family("census_images").map(|_| {
                self.image_stats(
                    family("census_image_containers"),
                    family("census_image_size_bytes"),
                )
            }),
        }
    }

    fn image_stats(&self, users: Option<&Family>, sizes: Option<&Family>) -> Vec<ImageStat> {
        let by_image = |family: Option<&Family>| -> BTreeMap<String, u64> {
            let samples = family.into_iter().flat_map(Family::samples);
            let counts = samples
                .filter_map(|(_, labels, value)| Some((labels.value("image")?, count(value)?)));
            counts.collect()
        };
        let sizes = by_image(sizes);
        let users = by_image(users);
        let stats = users.into_iter().map(|(image, count)| ImageStat {
            size_bytes: sizes.get(&image).copied(),
            image: self.displayed_image(image),
            count,
        });
        stats.collect()
    }

    /// The image's name, or its hash if configured. Placeholders are not hashed.
    fn displayed_image(&self, image: String) -> String {
        if !self.hash_images || matches!(image.as_str(), "<none>" | "<other>") {
            return image;
        }
        let mut hash = "sha256:".to_owned();
        for byte in Sha256::digest(image) {
            // Writing to a String cannot fail.
            write!(hash, "{byte:02x}").ok();
        }
        hash
    }
}

impl CensusReport {
    /// The report as indented JSON.
    pub fn to_json(&self) -> Result<String, String> {
        let json = serde_json::to_string_pretty(self);
        json.map(|json| json + "\n")
            .map_err(|error| error.to_string())
    }

    /// The report as a table.
    #[must_use]
    pub fn to_table(&self) -> String {
        let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
        let count = |value: Option<u64>| or_unknown(value.map(|value| value.to_string()));
        let float = |value: Option<f64>| or_unknown(value.map(|value| format!("{value:.1}")));
        let mut text = String::new();
        for (name, value) in [
            ("installation", self.installation_id.clone()),
            ("version", self.version.to_owned()),
            ("containers", count(self.total_containers)),
            ("  running", count(self.containers_running)),
            ("  stopped", count(self.containers_stopped)),
            ("  paused", count(self.containers_paused)),
            ("  other", count(self.containers_other)),
            ("average CPU, %", float(self.avg_cpu_percent)),
            ("average memory, bytes", float(self.avg_memory_bytes)),
            ("memory limits, bytes", count(self.total_memory_limit)),
            ("average restarts", float(self.avg_restarts)),
            ("frequently restarted", count(self.high_restart_containers)),
            ("images", count(self.unique_images)),
            ("images, bytes", count(self.total_image_size)),
            ("time zone", or_unknown(self.timezone.clone())),
        ] {
            row(&mut text, &[name, &value]);
        }
        let images = self.image_stats.iter().flatten();
        for (at, stat) in images.enumerate() {
            if at == 0 {
                text += "\nCONTAINERS         BYTES  IMAGE\n";
            }
            let (count, size) = (stat.count, count(stat.size_bytes));
            let image = stat.image.replace(char::is_control, " ");
            // Writing to a String cannot fail.
            writeln!(text, "{count:>10}  {size:>12}  {image}").ok();
        }
        text
    }
}

fn row(text: &mut String, [name, value]: &[&str; 2]) {
    let value = value.replace(char::is_control, " ");
    // Writing to a String cannot fail.
    writeln!(text, "{name:<22}  {value}").ok();
}

/// Value of a family that has a single sample.
fn single_value(family: &Family) -> Option<Value> {
    family.samples().next().map(|(.., value)| value)
}

/// The value as a count; `None` if it is not one.
fn count(value: Value) -> Option<u64> {
    match value {
        Value::Unsigned(value) => Some(value),
        Value::Signed(value) => value.try_into().ok(),
        Value::Float(_) => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "JSON numbers are floats")]
fn float(value: Value) -> f64 {
    match value {
        Value::Unsigned(value) => value as f64,
        Value::Signed(value) => value as f64,
        Value::Float(value) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    metrics! {
        /// Like the metric of the census collector.
        CONTAINERS: Gauge = "census_containers" ["engine", "state"];
        /// Like the metric of the census collector.
        CPU: Gauge = "census_container_cpu_percent_avg" [];
        /// Like the metric of the images collector.
        IMAGES: Gauge = "census_images" [];
        /// Like the metric of the images collector.
        USERS: Gauge = "census_image_containers" ["image"];
        /// Like the metric of the images collector.
        SIZE: Gauge = "census_image_size_bytes" ["image"];
    }

    fn report(hash_images: bool, families: Families) -> CensusReport {
        let census = Census {
            installation_id: "1".to_owned(),
            hash_images,
        };
        census.report_from_families(&[Arc::default(), Arc::new(families)])
    }

    #[test]
    fn containers_are_summed_over_engines() {
        let mut families = Families::default();
        for (engine, state, count) in [
            ("docker", "running", 5_u64),
            ("docker", "stopped", 3),
            ("podman", "running", 20),
            ("podman", "stopped", 0),
            ("podman", "paused", 1),
            ("podman", "other", 100),
        ] {
            families.add(&CONTAINERS, [engine, state], count);
        }
        families.add(&CPU, [], 12.5);
        let report = report(false, families);
        assert_eq!(METRICS.len(), 5);
        let sums = [
            report.total_containers,
            report.containers_running,
            report.containers_stopped,
            report.containers_paused,
            report.containers_other,
        ];
        assert_eq!(sums, [129, 25, 3, 1, 100].map(Some));
        assert_eq!(report.avg_cpu_percent, Some(12.5));
        // There is no data about images.
        assert_eq!(report.unique_images, None);
        assert!(report.image_stats.is_none());
        assert!(
            report
                .to_table()
                .contains("\nimages                  unknown\n")
        );
    }

    #[test]
    fn missing_counts_are_null_not_zero() {
        let report = serde_json::to_value(report(false, Families::default())).unwrap();
        for field in ["total_containers", "containers_running", "image_stats"] {
            assert_eq!(report.get(field), Some(&serde_json::Value::Null), "{field}");
        }
    }

    #[test]
    fn image_names_are_hashed_if_configured() {
        let images = |hash_images| {
            let mut families = Families::default();
            families.add(&IMAGES, [], 2_u64);
            for (image, count) in [("nginx:1.27", 2_u64), ("<none>", 0)] {
                families.add(&USERS, [image], count);
            }
            families.add(&SIZE, ["nginx:1.27"], 100_u64);
            let report = report(hash_images, families);
            let stats = report.image_stats.unwrap();
            stats
                .into_iter()
                .map(|it| (it.image, it.count, it.size_bytes))
                .collect::<Vec<_>>()
        };
        let none = ("<none>".to_owned(), 0, None);
        let nginx = |name: &str| (name.to_owned(), 2, Some(100));
        assert_eq!(images(false), [none.clone(), nginx("nginx:1.27")]);
        let hash = "sha256:cd4495bb73de9b01bf009710b80ecf4be2d298db47492f4e9e7d0b04981c4614";
        assert_eq!(images(true), [none, nginx(hash)]);
    }
}
