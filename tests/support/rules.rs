//! Parses the rule files in `prometheus/rules`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// The files, and the prefix of the alerts' names in each.
pub const LAYERS: &[(&str, &str)] = &[
    ("host", "Host"),
    ("containers", "Container"),
    ("domains", "Domain"),
    ("exporter", "Exporter"),
];

#[derive(Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    pub rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub record: Option<String>,
    pub alert: Option<String>,
    pub expr: String,
    #[serde(rename = "for")]
    _for: Option<String>,
    #[serde(rename = "keep_firing_for")]
    _keep_firing_for: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

pub fn repo_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn rules_dir() -> PathBuf {
    repo_root().join("prometheus/rules")
}

pub fn read_yaml<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn rule_file(layer: &str) -> PathBuf {
    rules_dir().join(format!("{layer}.yml"))
}

pub fn rule_files() -> Vec<PathBuf> {
    LAYERS.iter().map(|(layer, _)| rule_file(layer)).collect()
}

pub fn read_groups(name: &str) -> Vec<Group> {
    read_yaml::<RuleFile>(&rule_file(name)).groups
}

pub fn all_rules() -> Vec<Rule> {
    let groups = LAYERS.iter().flat_map(|(name, _)| read_groups(name));
    groups.flat_map(|group| group.rules).collect()
}

/// Names of all recording rules.
pub fn recorded_names() -> BTreeSet<String> {
    all_rules()
        .into_iter()
        .filter_map(|rule| rule.record)
        .collect()
}
