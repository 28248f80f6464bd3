//! Images from the last list of each engine. An image that several engines have, or that has
//! several names, counts once.
//!
//! An image is exposed under the first of its names. Images without a name, left when a newer
//! image took it, are counted together as `<none>`, Docker's word. Images beyond the limit, or
//! with names that are hidden, are counted as `<other>`, so sums over the images stay right.

use std::collections::BTreeMap;

use crate::{
    collector::Collector,
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{
        Snapshot,
        engine::{Engine, Image, dedup_by_id},
    },
};

metrics! {
    /// Images on the machine, including untagged ones.
    IMAGES: Gauge = "census_images" [];
    /// Sum of the sizes of all images; shared layers count for each image.
    BYTES: Gauge = "census_image_bytes" [];
    /// First name and id of an image: always 1; absent for untagged images, beyond
    /// --collector.census_images.max, and for names not in --engine.image-include.
    IMAGE_INFO: Info = "census_image_info" ["image", "image_id"];
    /// Containers created from the image, running or not; untagged images are <none>, those beyond
    /// --collector.census_images.max or not in --engine.image-include are <other>.
    IMAGE_CONTAINERS: Gauge = "census_image_containers" ["image"];
    /// Size of the image in bytes, including shared layers; untagged images are <none>, those
    /// beyond --collector.census_images.max or not in --engine.image-include are <other>.
    IMAGE_SIZE: Gauge = "census_image_size_bytes" ["image"];
}

/// The flags of this collector.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct CensusImagesFlags {
    /// Maximum number of images exposed by name.
    #[arg(
        long = "collector.census_images.max",
        value_name = "N",
        default_value_t = 500
    )]
    census_images_max: usize,
}

#[derive(Debug)]
pub(super) struct CensusImages {
    max_named: usize,
}

impl Collector for CensusImages {
    const NAME: &'static str = "census_images";
    const ABOUT: &'static str = "number, size and use of container images";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = CensusImagesFlags;

    fn new(flags: CensusImagesFlags) -> Result<Self, String> {
        let max = flags.census_images_max;
        Ok(Self { max_named: max })
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let engines = snapshot.engines();
        // The images of an engine that never listed them are unknown.
        let has_images = |engine: &&Engine| engine.confirmed.is_some() && engine.images.is_some();
        let engines = engines.iter().map(|engine| &**engine);
        let with_images: Vec<&Engine> = engines.filter(has_images).collect();
        if with_images.is_empty() {
            return Err(Error::NotFound(
                "container engine with an image list".into(),
            ));
        }
        Ok(families(&with_images, self.max_named))
    }
}

/// The images exposed under one name.
#[derive(Debug, Default)]
struct ImageGroup<'a> {
    ids: Vec<&'a str>,
    containers: u64,
    /// Sum over the images of known size; `None` if no size is known.
    size: Option<u64>,
}

fn families(engines: &[&Engine], max: usize) -> Families {
    let mut images: BTreeMap<&str, &Image> = BTreeMap::new();
    for engine in engines {
        for image in engine.images.iter().flat_map(|images| images.iter()) {
            // If two engines have the image, the entry with a name wins.
            let existing = images.entry(strip_algorithm(&image.id)).or_insert(image);
            if existing.tags.is_empty() {
                *existing = image;
            }
        }
    }
    let mut users: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, container) in dedup_by_id(engines.iter().copied()).into_values() {
        *users
            .entry(strip_algorithm(&container.image_id))
            .or_default() += 1;
    }

    let mut groups: BTreeMap<&str, ImageGroup<'_>> = BTreeMap::new();
    let mut bytes: Option<u64> = None;
    let mut named_images = 0;
    for (id, image) in &images {
        let sum = |sum: &mut Option<u64>| {
            if let Some(size) = image.size {
                *sum = Some(sum.unwrap_or_default().saturating_add(size));
            }
        };
        sum(&mut bytes);
        let name = image.tags.iter().map(String::as_str).min();
        let name = name.filter(|name| !name.is_empty());
        let name = match name {
            Some(name) if groups.contains_key(name) => name,
            Some(name) if named_images < max => {
                named_images += 1;
                name
            }
            Some(_) => "<other>",
            None if image.has_hidden_tags => "<other>",
            None => "<none>",
        };
        let it = groups.entry(name).or_default();
        sum(&mut it.size);
        it.ids.push(&image.id);
        it.containers += users.get(id).copied().unwrap_or_default();
    }

    let mut out = Families::default();
    out.add(&IMAGES, [], images.len());
    // Without images the size is 0, not unknown.
    if let Some(bytes) = bytes.or(images.is_empty().then_some(0)) {
        out.add(&BYTES, [], bytes);
    }
    for (name, it) in groups {
        if !matches!(name, "<none>" | "<other>") {
            for id in it.ids {
                out.add(&IMAGE_INFO, [name, id], true);
            }
        }
        out.add(&IMAGE_CONTAINERS, [name], it.containers);
        if let Some(size) = it.size {
            out.add(&IMAGE_SIZE, [name], size);
        }
    }
    out
}

/// The id without its algorithm prefix, which Podman omits in some places.
fn strip_algorithm(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sources::workloads::{container, engine};

    fn image(id: &str, tags: &[&str], size: u64) -> Image {
        Image {
            id: id.to_owned(),
            tags: tags.iter().map(ToString::to_string).collect(),
            has_hidden_tags: false,
            size: Some(size),
            created: None,
        }
    }

    /// An engine with these images and one container for each of these image ids.
    fn with(images: Vec<Image>, used: &[&str]) -> Engine {
        let containers = used.iter().enumerate().map(|(at, image_id)| {
            let mut container = container(&format!("{at}-of-{}", images.len()), "secret-name");
            container.image_id = (*image_id).to_owned();
            container
        });
        let mut engine = engine(containers);
        engine.images = Some(Arc::new(images));
        engine
    }

    #[test]
    fn image_with_two_names_or_engines_counts_once() {
        let nginx = image("sha256:11", &["nginx:latest", "nginx:1.27"], 100);
        let docker = with(
            vec![nginx, image("sha256:22", &[], 7)],
            &["sha256:11", "sha256:22"],
        );
        let same = image("11", &[], 100);
        let podman = with(
            vec![same, image("33", &["bb"], 5), image("44", &[], 1)],
            &["11", "gone"],
        );
        assert_eq!(
            families(&[&docker, &podman], 500).lines(),
            [
                "census_images 4",
                "census_image_bytes 113",
                r#"census_image_containers{image="<none>"} 1"#,
                r#"census_image_containers{image="bb"} 0"#,
                r#"census_image_containers{image="nginx:1.27"} 2"#,
                r#"census_image_size_bytes{image="<none>"} 8"#,
                r#"census_image_size_bytes{image="bb"} 5"#,
                r#"census_image_size_bytes{image="nginx:1.27"} 100"#,
                r#"census_image_info{image="bb",image_id="33"} 1"#,
                r#"census_image_info{image="nginx:1.27",image_id="sha256:11"} 1"#,
            ]
        );
    }

    #[test]
    fn images_beyond_the_limit_are_grouped_as_other() {
        let names = ["a", "b", "c"];
        let mut images = vec![image("0", &[], 0)];
        images.extend(names.map(|name| image(name, &[name], 10)));
        let lines = families(&[&with(images, &["c"])], 1).lines();
        assert_eq!(
            lines,
            [
                "census_images 4",
                "census_image_bytes 30",
                r#"census_image_containers{image="<none>"} 0"#,
                r#"census_image_containers{image="<other>"} 1"#,
                r#"census_image_containers{image="a"} 0"#,
                r#"census_image_size_bytes{image="<none>"} 0"#,
                r#"census_image_size_bytes{image="<other>"} 20"#,
                r#"census_image_size_bytes{image="a"} 10"#,
                r#"census_image_info{image="a",image_id="a"} 1"#,
            ]
        );
    }

    #[test]
    fn hidden_images_are_grouped_as_other() {
        let mut hidden = image("1", &[], 10);
        hidden.has_hidden_tags = true;
        let lines = families(&[&with(vec![hidden, image("2", &[], 5)], &["1"])], 9).lines();
        assert_eq!(
            lines,
            [
                "census_images 2",
                "census_image_bytes 15",
                r#"census_image_containers{image="<none>"} 0"#,
                r#"census_image_containers{image="<other>"} 1"#,
                r#"census_image_size_bytes{image="<none>"} 5"#,
                r#"census_image_size_bytes{image="<other>"} 10"#,
            ]
        );
    }

    #[test]
    fn no_sizes_if_engine_reports_none() {
        let mut unknown = image("a", &["a"], 0);
        unknown.size = None;
        let lines = families(&[&with(vec![unknown], &[])], 9).lines();
        assert!(
            !lines.iter().any(|line| line.contains("bytes")),
            "{lines:#?}"
        );
        let lines = families(&[&with(Vec::new(), &[])], 9).lines();
        assert_eq!(lines, ["census_images 0", "census_image_bytes 0"]);
    }
}
