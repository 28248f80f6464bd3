//! What a request asks for: `collect[]`, `exclude[]` and `name[]`, with
//! `node_exporter`'s answers to wrong ones.

use std::collections::{BTreeMap, BTreeSet};

use crate::collector::Layer;

/// Which collectors are there to be asked for.
#[derive(Debug)]
pub(super) struct Known {
    /// Every collector there is, and whether it is on.
    all: BTreeMap<&'static str, bool>,
    /// Those that are on, and the layer that each is of.
    enabled: Vec<(&'static str, Layer)>,
}

/// What was asked for.
#[derive(Debug, PartialEq)]
pub(super) struct Wanted {
    pub collectors: BTreeSet<&'static str>,
    /// The names of the only families to show; all of them if there is none.
    names: BTreeSet<String>,
}

impl Wanted {
    pub(super) fn family(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.contains(name)
    }
}

impl Known {
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

    /// What a query string asks for, of one layer or of all; or what is wrong with it.
    pub(super) fn wanted(&self, query: &str, layer: Option<Layer>) -> Result<Wanted, String> {
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
                "Couldn't create filtered metrics handler: couldn't create collector: {state} collector: {name}"
            ));
        }
        let is_wanted = |&(name, of): &(&str, Layer)| {
            layer.is_none_or(|layer| layer == of)
                && (collect.is_empty() || collect.contains(name))
                && !exclude.contains(name)
        };
        let wanted = self.enabled.iter().filter(|entry| is_wanted(entry));
        Ok(Wanted {
            collectors: wanted.map(|(name, _)| *name).collect(),
            names,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(query: &str) -> Result<Vec<&'static str>, String> {
        let known = Known::new(
            ["cpu", "stat", "wifi"],
            [("cpu", Layer::Host), ("stat", Layer::Host)],
        );
        let wanted = known.wanted(query, Some(Layer::Host))?;
        Ok(wanted.collectors.into_iter().collect())
    }

    #[test]
    fn collectors_are_asked_for_and_excluded() {
        assert_eq!(wanted("").unwrap(), ["cpu", "stat"]);
        assert_eq!(wanted("collect[]=cpu").unwrap(), ["cpu"]);
        assert_eq!(wanted("collect%5B%5D=cpu&collect[]=stat").unwrap().len(), 2);
        assert_eq!(
            wanted("exclude[]=cpu&exclude[]=nonsense").unwrap(),
            ["stat"]
        );
        assert!(wanted("exclude[]=cpu&exclude[]=stat").unwrap().is_empty());
        assert_eq!(wanted("other=1&collect=cpu").unwrap().len(), 2);
    }

    #[test]
    fn a_wrong_query_is_answered_as_node_exporter_does() {
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
            assert_eq!(wanted(query), Err(reason), "{query}");
        }
    }

    #[test]
    fn families_are_asked_for_by_name() {
        let known = Known::new([], []);
        let wanted = known.wanted("name[]=node_load1&name[]=b", None).unwrap();
        assert!(wanted.family("node_load1") && !wanted.family("node_load15"));
        assert!(known.wanted("", None).unwrap().family("anything"));
    }
}
