//! Query parameters of a scrape: `collect[]`, `exclude[]` and `name[]`, with `node_exporter`'s
//! error responses.

use std::collections::{BTreeMap, BTreeSet};

use crate::collector::Layer;

/// The collectors that a request can select.
#[derive(Debug)]
pub(super) struct CollectorFilter {
    /// All collectors, and whether each is enabled.
    all: BTreeMap<&'static str, bool>,
    /// The enabled collectors with their layers.
    enabled: Vec<(&'static str, Layer)>,
}

/// The collectors and families selected by a request.
#[derive(Debug, PartialEq)]
pub(super) struct ScrapeSelection {
    pub collectors: BTreeSet<&'static str>,
    /// Names of the families to expose; empty for all.
    family_names: BTreeSet<String>,
}

impl ScrapeSelection {
    pub(super) fn includes_family(&self, name: &str) -> bool {
        self.family_names.is_empty() || self.family_names.contains(name)
    }
}

impl CollectorFilter {
    pub(super) fn new(
        all: impl IntoIterator<Item = &'static str>,
        enabled: impl IntoIterator<Item = (&'static str, Layer)>,
    ) -> Self {
        let enabled: Vec<_> = enabled.into_iter().collect();
        let is_enabled = |name| enabled.iter().any(|(enabled, _)| *enabled == name);
        Self {
            all: all
                .into_iter()
                .map(|name| (name, is_enabled(name)))
                .collect(),
            enabled,
        }
    }

    /// Evaluates a query string, for one layer or for all. The error is a message for the client.
    pub(super) fn select(
        &self,
        query: &str,
        layer: Option<Layer>,
    ) -> Result<ScrapeSelection, String> {
        let mut collect = BTreeSet::new();
        let mut exclude = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "collect[]" => collect.insert(value.into_owned()),
                "exclude[]" => exclude.insert(value.into_owned()),
                "name[]" => names.insert(value.into_owned()),
                _ => continue,
            };
        }
        if !collect.is_empty() && !exclude.is_empty() {
            return Err("Combined collect and exclude queries are not allowed.".to_owned());
        }
        for name in &collect {
            let state = match self.all.get(name.as_str()) {
                Some(true) => continue,
                Some(false) => "disabled",
                None => "missing",
            };
            return Err(format!(
                "Couldn't create filtered metrics handler: couldn't create collector: {state} \
                 collector: {name}"
            ));
        }
        let is_selected = |&(name, its_layer): &(&str, Layer)| {
            layer.is_none_or(|layer| layer == its_layer)
                && (collect.is_empty() || collect.contains(name))
                && !exclude.contains(name)
        };
        let selected = self.enabled.iter().filter(|entry| is_selected(entry));
        Ok(ScrapeSelection {
            collectors: selected.map(|(name, _)| *name).collect(),
            family_names: names,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(query: &str) -> Result<Vec<&'static str>, String> {
        let filter = CollectorFilter::new(
            ["cpu", "stat", "wifi"],
            [("cpu", Layer::Host), ("stat", Layer::Host)],
        );
        let selection = filter.select(query, Some(Layer::Host))?;
        Ok(selection.collectors.into_iter().collect())
    }

    #[test]
    fn collect_and_exclude_select_collectors() {
        assert_eq!(selected("").unwrap(), ["cpu", "stat"]);
        assert_eq!(selected("collect[]=cpu").unwrap(), ["cpu"]);
        assert_eq!(
            selected("collect%5B%5D=cpu&collect[]=stat").unwrap().len(),
            2
        );
        assert_eq!(
            selected("exclude[]=cpu&exclude[]=nonsense").unwrap(),
            ["stat"]
        );
        assert!(selected("exclude[]=cpu&exclude[]=stat").unwrap().is_empty());
        assert_eq!(selected("other=1&collect=cpu").unwrap().len(), 2);
    }

    #[test]
    fn query_errors_match_node_exporter() {
        let prefix = "Couldn't create filtered metrics handler: couldn't create collector: ";
        for (query, reason) in [
            (
                "collect[]=nonsense",
                format!("{prefix}missing collector: nonsense"),
            ),
            (
                "collect[]=wifi",
                format!("{prefix}disabled collector: wifi"),
            ),
            ("collect[]=", format!("{prefix}missing collector: ")),
            (
                "collect[]=cpu&exclude[]=stat",
                "Combined collect and exclude queries are not allowed.".to_owned(),
            ),
        ] {
            assert_eq!(selected(query), Err(reason), "{query}");
        }
    }

    #[test]
    fn name_parameter_filters_families() {
        let filter = CollectorFilter::new([], []);
        let selection = filter.select("name[]=node_load1&name[]=b", None).unwrap();
        assert!(
            selection.includes_family("node_load1") && !selection.includes_family("node_load15")
        );
        assert!(filter.select("", None).unwrap().includes_family("anything"));
    }
}
