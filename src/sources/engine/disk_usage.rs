//! Disk usage as reported by an engine's `/system/df`.
//!
//! For this the engine walks all files written by containers and all volumes, which may take
//! minutes and block other requests, so it is requested rarely. Docker responds with items up to
//! API version 1.51, as does Podman, and with sums since 1.52.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::is_container_id;

/// Last reported disk usage of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineDiskUsage {
    /// Time of the request: later writes are not included.
    pub requested_at: Instant,
    /// Duration of the request.
    pub duration: Duration,
    /// Bytes written to each container's own layer, by ID.
    pub containers: BTreeMap<String, u64>,
    /// Usage by kind.
    pub by_kind: [(StorageKind, StorageUsage); 4],
}

/// Kinds of storage used by engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageKind {
    /// Image layers, shared ones counted once.
    Images,
    /// Writable layers of containers.
    Containers,
    /// Volumes.
    Volumes,
    /// Build cache.
    BuildCache,
}

impl StorageKind {
    /// Its name in labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Containers => "containers",
            Self::Volumes => "volumes",
            Self::BuildCache => "build_cache",
        }
    }
}

/// Disk usage in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StorageUsage {
    /// Used.
    pub used: Option<u64>,
    /// Part of it that is not in use.
    pub reclaimable: Option<u64>,
}

/// Response: items, or sums with or without items.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SystemDfResponse<'a> {
    layers_size: Option<i64>,
    #[serde(borrow)]
    images: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    containers: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    volumes: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    build_cache: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    image_usage: Option<CategoryUsage<'a>>,
    #[serde(borrow)]
    container_usage: Option<CategoryUsage<'a>>,
    #[serde(borrow)]
    volume_usage: Option<CategoryUsage<'a>>,
    #[serde(borrow)]
    build_cache_usage: Option<CategoryUsage<'a>>,
}

/// A missing field is 0: Docker omits zeros.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CategoryUsage<'a> {
    total_size: Option<i64>,
    reclaimable: Option<i64>,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DfContainer {
    id: String,
    state: Option<String>,
    size_rw: Option<i64>,
    size_root_fs: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DfVolume {
    usage_data: DfVolumeUsage,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DfVolumeUsage {
    ref_count: i64,
    size: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DfBuildRecord {
    size: i64,
    in_use: bool,
    shared: bool,
}

impl EngineDiskUsage {
    /// Parses the response of a request sent at that time.
    pub(super) fn parse(response: &[u8], requested_at: Instant) -> serde_json::Result<Self> {
        let response: SystemDfResponse<'_> = serde_json::from_slice(response)?;
        let duration = requested_at.elapsed();
        let mut containers = BTreeMap::new();
        let category_usage =
            |sum: &Option<CategoryUsage<'_>>| sum.as_ref().map(StorageUsage::from_category);
        let items = match &response.container_usage {
            Some(sum) => sum.items.as_ref(),
            None => response.containers.as_ref(),
        };
        let written = parse_items(items).filter_map(|container: DfContainer| {
            let bytes = container.written_bytes()?;
            let is_used = container.is_used();
            if is_container_id(&container.id) {
                containers.insert(container.id, bytes);
            }
            Some((bytes, is_used))
        });
        let written = StorageUsage::sum(written, response.containers.is_some());
        let images = StorageUsage {
            used: response
                .layers_size
                .and_then(non_negative)
                // Podman reports 0 whatever the size of its images.
                .filter(|bytes| *bytes > 0 || response.images.as_ref().is_none_or(Vec::is_empty)),
            // The layers shared by used images are not reported.
            reclaimable: None,
        };
        let volumes = parse_items(response.volumes.as_ref()).filter_map(|volume: DfVolume| {
            let usage = volume.usage_data;
            Some((non_negative(usage.size)?, usage.ref_count != 0))
        });
        let volumes = StorageUsage::sum(volumes, response.volumes.is_some());
        let records = parse_items(response.build_cache.as_ref())
            // Shared records are counted with the images.
            .filter(|record: &DfBuildRecord| !record.shared)
            .filter_map(|record| Some((non_negative(record.size)?, record.in_use)));
        // Docker omits the build cache where there is no builder.
        let build_cache = StorageUsage::sum(records, response.build_cache.is_some());
        Ok(Self {
            requested_at,
            duration,
            containers,
            by_kind: [
                (
                    StorageKind::Images,
                    category_usage(&response.image_usage).unwrap_or(images),
                ),
                (
                    StorageKind::Containers,
                    category_usage(&response.container_usage).unwrap_or(written),
                ),
                (
                    StorageKind::Volumes,
                    category_usage(&response.volume_usage).unwrap_or(volumes),
                ),
                (
                    StorageKind::BuildCache,
                    category_usage(&response.build_cache_usage).unwrap_or(build_cache),
                ),
            ],
        })
    }
}

impl StorageUsage {
    fn from_category(category: &CategoryUsage<'_>) -> Self {
        Self {
            used: non_negative(category.total_size.unwrap_or_default()),
            reclaimable: non_negative(category.reclaimable.unwrap_or_default()),
        }
    }

    /// Sums items of bytes and whether they are in use.
    fn sum(items: impl Iterator<Item = (u64, bool)>, is_reported: bool) -> Self {
        let (mut used, mut reclaimable) = (0_u64, 0_u64);
        for (bytes, is_used) in items {
            used = used.saturating_add(bytes);
            if !is_used {
                reclaimable = reclaimable.saturating_add(bytes);
            }
        }
        Self {
            used: is_reported.then_some(used),
            reclaimable: is_reported.then_some(reclaimable),
        }
    }
}

impl DfContainer {
    /// Docker omits zeros, and all sizes if it does not know them.
    fn written_bytes(&self) -> Option<u64> {
        match (self.size_rw, self.size_root_fs) {
            (Some(written), _) => non_negative(written),
            (None, Some(1..)) => Some(0),
            (None, _) => None,
        }
    }

    /// As in Docker's own sum.
    fn is_used(&self) -> bool {
        let state = self.state.as_deref().unwrap_or_default();
        matches!(state, "running" | "paused" | "restarting")
    }
}

/// Parses the items that are valid.
fn parse_items<'a, T: Deserialize<'a>>(
    items: Option<&'a Vec<&'a RawValue>>,
) -> impl Iterator<Item = T> + 'a {
    let items = items.into_iter().flatten();
    items.filter_map(|item| serde_json::from_str(item.get()).ok())
}

/// Engines write -1 for an unknown size.
fn non_negative(number: i64) -> Option<u64> {
    u64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(response: &Value) -> EngineDiskUsage {
        let sizes = EngineDiskUsage::parse(response.to_string().as_bytes(), Instant::now());
        sizes.unwrap_or_else(|error| panic!("{error}"))
    }

    fn kinds(response: &Value) -> [(&'static str, Option<u64>, Option<u64>); 4] {
        let kinds = parse(response).by_kind;
        kinds.map(|(kind, usage)| (kind.name(), usage.used, usage.reclaimable))
    }

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    /// Response of Docker 20.10, without unused fields.
    fn docker() -> Value {
        json!({
            "LayersSize": 1_982_284,
            "Images": [{"Id": "sha256:cd", "Containers": 3, "SharedSize": 0, "Size": 1_982_284}],
            "Containers": [
                {"Id": id('a'), "Names": ["/ex"], "SizeRootFs": 1_982_284, "State": "exited"},
                {"Id": id('b'), "SizeRw": 512_002, "SizeRootFs": 2_494_286, "State": "paused"},
                {"Id": id('c'), "SizeRw": 7, "SizeRootFs": 1_982_291, "State": "exited"},
                {"Id": id('d'), "SizeRw": -1, "SizeRootFs": -1, "State": "running"},
                {"Id": id('e'), "State": "dead"},
            ],
            "Volumes": [
                {"Name": "v1", "UsageData": {"RefCount": 0, "Size": 307_200}},
                {"Name": "v2", "UsageData": {"RefCount": 2, "Size": 1000}},
                {"Name": "far", "UsageData": {"RefCount": 1, "Size": -1}},
                {"Name": "odd", "UsageData": null},
            ],
            "BuildCache": null, "BuilderSize": 0,
        })
    }

    #[test]
    fn parses_item_lists_of_docker_up_to_28() {
        assert_eq!(
            kinds(&docker()),
            [
                ("images", Some(1_982_284), None),
                ("containers", Some(512_009), Some(7)),
                ("volumes", Some(308_200), Some(307_200)),
                ("build_cache", None, None),
            ]
        );
        let written = [(id('a'), 0), (id('b'), 512_002), (id('c'), 7)];
        assert_eq!(parse(&docker()).containers, written.into());
    }

    #[test]
    fn shared_build_records_are_not_counted() {
        let mut docker = docker();
        docker["BuildCache"] = json!([
            {"ID": "1", "InUse": true, "Shared": false, "Size": 10},
            {"ID": "2", "InUse": false, "Shared": false, "Size": 20},
            {"ID": "3", "InUse": false, "Shared": true, "Size": 40},
        ]);
        assert_eq!(kinds(&docker)[3], ("build_cache", Some(30), Some(20)));
    }

    #[test]
    fn parses_sums_of_docker_since_29() {
        let docker = json!({
            "ImageUsage": {"TotalCount": 2, "TotalSize": 500, "Reclaimable": 40},
            "ContainerUsage": {
                "TotalCount": 1, "TotalSize": 12,
                "Items": [{"Id": id('a'), "SizeRw": 12, "SizeRootFs": 50, "State": "running"}],
            },
            "VolumeUsage": {},
            "BuildCacheUsage": {"TotalSize": 9, "Reclaimable": 9},
        });
        assert_eq!(
            kinds(&docker),
            [
                ("images", Some(500), Some(40)),
                ("containers", Some(12), Some(0)),
                ("volumes", Some(0), Some(0)),
                ("build_cache", Some(9), Some(9)),
            ]
        );
        assert_eq!(parse(&docker).containers, [(id('a'), 12)].into());
    }

    #[test]
    fn podman_image_size_of_zero_is_unknown() {
        let podman = json!({
            "LayersSize": 0,
            "Images": [{"Id": "11", "Containers": 1, "SharedSize": 0, "Size": 1_997_895}],
            "Containers": [
                {"Id": id('a'), "SizeRw": 12, "SizeRootFs": 1_982_284, "State": "running"},
            ],
            "Volumes": [{"Name": "v1", "UsageData": {"RefCount": 0, "Size": 307_200}}],
            "BuildCache": [], "BuilderSize": 0,
        });
        assert_eq!(
            kinds(&podman),
            [
                ("images", None, None),
                ("containers", Some(12), Some(0)),
                ("volumes", Some(307_200), Some(307_200)),
                ("build_cache", Some(0), Some(0)),
            ]
        );
    }

    #[test]
    fn missing_sizes_are_unknown() {
        let empty = kinds(&json!({}));
        assert!(empty.iter().all(|kind| (kind.1, kind.2) == (None, None)));
        let malformed = json!({"Containers": [7, {"Id": "x", "SizeRw": 5}, {}], "Volumes": [null]});
        assert_eq!(kinds(&malformed)[1], ("containers", Some(5), Some(5)));
        assert!(parse(&malformed).containers.is_empty());
        for text in ["", "[]", "7", "{\"Images\":7}", "{\"Images\":[}"] {
            assert!(
                EngineDiskUsage::parse(text.as_bytes(), Instant::now()).is_err(),
                "{text}"
            );
        }
    }
}
