//! In-memory edits of a file's target groups: add, remove and sync.

use std::{collections::HashSet, fmt};

use super::target_group::{TargetGroup, TargetLabels, escape_control, validate};

/// The groups of a file while they are edited, and the changes so far.
pub(super) struct Edit {
    pub(super) groups: Vec<EditedGroup>,
    pub(super) changes: Vec<Change>,
}

/// A group, and its index in the file.
pub(super) struct EditedGroup {
    pub(super) original_index: Option<usize>,
    pub(super) group: TargetGroup,
}

/// A target that was added or removed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    is_added: bool,
    address: String,
    labels: TargetLabels,
}

impl Change {
    /// Describes the change on one line.
    pub(super) fn describe(&self, is_done: bool) -> String {
        let verb = match (is_done, self.is_added) {
            (true, true) => "added",
            (true, false) => "removed",
            (false, true) => "would add",
            (false, false) => "would remove",
        };
        format!("{verb} {} {}", escape_control(&self.address), self.labels)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(true))
    }
}

impl Edit {
    pub(super) fn new(groups: &[TargetGroup]) -> Self {
        let groups = groups
            .iter()
            .enumerate()
            .map(|(number, group)| EditedGroup {
                original_index: Some(number),
                group: group.clone(),
            });
        Self {
            groups: groups.collect(),
            changes: Vec::new(),
        }
    }

    /// Adds a target to the group with exactly these labels, unless it is already there. A target
    /// with other labels is moved if `replaces`, otherwise an error.
    pub(super) fn add(
        &mut self,
        address: &str,
        labels: &TargetLabels,
        replaces: bool,
    ) -> Result<(), String> {
        validate(address, labels)?;
        let contains = |it: &&EditedGroup| it.group.targets.iter().any(|target| target == address);
        let mut containing = self.groups.iter().filter(contains);
        if containing.any(|it| it.group.labels.have_same_labels(labels)) {
            if replaces {
                self.remove(|group, it| it == address && !group.labels.have_same_labels(labels));
            }
            return Ok(());
        }
        if let Some(other) = self.groups.iter().find(contains) {
            if !replaces {
                return Err(format!(
                    "{} already exists with other labels {}: use --replace to change its labels",
                    escape_control(address),
                    other.group.labels
                ));
            }
            self.remove(|_, it| it == address);
        }
        let mut same = self.groups.iter_mut();
        if let Some(same) = same.find(|it| it.group.labels.have_same_labels(labels)) {
            same.group.targets.push(address.to_owned());
        } else {
            let group = TargetGroup {
                targets: vec![address.to_owned()],
                labels: labels.clone(),
            };
            self.groups.push(EditedGroup {
                original_index: None,
                group,
            });
        }
        self.changes.push(Change {
            is_added: true,
            address: address.to_owned(),
            labels: labels.clone(),
        });
        Ok(())
    }

    /// Removes all matching targets, and groups that become empty.
    pub(super) fn remove(&mut self, matches: impl Fn(&TargetGroup, &str) -> bool) {
        let changes = &mut self.changes;
        self.groups.retain_mut(|edited| {
            let group = &mut edited.group;
            let selected: Vec<_> = group.targets.iter().map(|it| matches(group, it)).collect();
            if !selected.contains(&true) {
                return true;
            }
            let mut selected = selected.into_iter();
            group.targets.retain(|address| {
                let is_match = selected.next().unwrap_or_default();
                if is_match {
                    changes.push(Change {
                        is_added: false,
                        address: address.clone(),
                        labels: group.labels.clone(),
                    });
                }
                !is_match
            });
            !group.targets.is_empty()
        });
    }

    /// Sets the targets of all groups that have these labels to exactly `targets`. New targets get
    /// only these labels.
    pub(super) fn sync(
        &mut self,
        targets: &[String],
        labels: &TargetLabels,
        replaces: bool,
    ) -> Result<(), String> {
        // Existing targets keep their other labels.
        let groups = self.groups.iter();
        let matching = groups.filter(|it| it.group.labels.match_all(labels));
        let existing = matching.flat_map(|it| it.group.targets.iter().cloned());
        let existing: HashSet<String> = existing.collect();
        // Added before others are removed, so that an emptied group is reused.
        for address in targets.iter().filter(|it| !existing.contains(*it)) {
            self.add(address, labels, replaces)?;
        }
        let targets: HashSet<&str> = targets.iter().map(String::as_str).collect();
        self.remove(|group, it| group.labels.match_all(labels) && !targets.contains(it));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> TargetLabels {
        let labels: Vec<_> = text
            .split_whitespace()
            .map(|label| label.parse().unwrap())
            .collect();
        TargetLabels::from_args(&labels).unwrap()
    }

    /// `a b | k=v`: targets and labels of each group.
    fn parse_groups(lines: &[&str]) -> Vec<TargetGroup> {
        let group = |line: &&str| {
            let (targets, text) = line.split_once('|').unwrap();
            TargetGroup {
                targets: targets.split_whitespace().map(str::to_owned).collect(),
                labels: labels(text),
            }
        };
        lines.iter().map(group).collect()
    }

    fn result(edit: &Edit) -> Vec<TargetGroup> {
        edit.groups.iter().map(|it| it.group.clone()).collect()
    }

    fn descriptions(edit: &Edit) -> Vec<String> {
        edit.changes.iter().map(Change::to_string).collect()
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn target_joins_matching_group_or_creates_one() {
        let mut edit = Edit::new(&parse_groups(&["a:1 | p=1 s=2", "b:1 |"]));
        edit.add("c:1", &labels("s=2 p=1"), false).unwrap();
        edit.add("d:1", &labels(""), false).unwrap();
        edit.add("e:1", &labels("p=1"), false).unwrap();
        let expected = parse_groups(&["a:1 c:1 | p=1 s=2", "b:1 d:1 |", "e:1 | p=1"]);
        assert_eq!(result(&edit), expected);
        assert_eq!(edit.groups[2].original_index, None);
        assert_eq!(
            descriptions(&edit),
            [
                "added c:1 {s=\"2\", p=\"1\"}",
                "added d:1 {}",
                "added e:1 {p=\"1\"}"
            ]
        );
    }

    #[test]
    fn existing_target_is_unchanged_or_conflicts() {
        let before = parse_groups(&["a:1 b:1 | p=1"]);
        let mut edit = Edit::new(&before);
        edit.add("a:1", &labels("p=1"), false).unwrap();
        assert_eq!(result(&edit), before);
        assert!(edit.changes.is_empty());
        let error = edit.add("a:1", &labels("p=2"), false).unwrap_err();
        let expected = "a:1 already exists with other labels {p=\"1\"}: use --replace to change \
                        its labels";
        assert_eq!(error, expected);
        assert_eq!(result(&edit), before);
        edit.add("a:1", &labels("p=2"), true).unwrap();
        assert_eq!(result(&edit), parse_groups(&["b:1 | p=1", "a:1 | p=2"]));
    }

    #[test]
    fn replace_keeps_target_once() {
        let mut edit = Edit::new(&parse_groups(&["a:1 | p=1", "a:1 b:1 | p=2"]));
        edit.add("a:1", &labels("p=1"), true).unwrap();
        assert_eq!(result(&edit), parse_groups(&["a:1 | p=1", "b:1 | p=2"]));
        assert_eq!(descriptions(&edit), ["removed a:1 {p=\"2\"}"]);
    }

    #[test]
    fn group_is_removed_with_its_last_target() {
        let mut edit = Edit::new(&parse_groups(&["a:1 b:1 a:1 | p=1", "a:1 | p=2", "| p=3"]));
        edit.remove(|_, it| it == "a:1");
        assert_eq!(result(&edit), parse_groups(&["b:1 | p=1", "| p=3"]));
        assert_eq!(edit.changes.len(), 3);
    }

    #[test]
    fn sync_changes_only_matching_groups() {
        let before = parse_groups(&["a:1 b:1 | p=1 s=1", "c:1 | p=1", "a:1 z:1 | p=2"]);
        let mut edit = Edit::new(&before);
        edit.sync(&words("b:1 d:1"), &labels("p=1"), false).unwrap();
        let expected = parse_groups(&["b:1 | p=1 s=1", "d:1 | p=1", "a:1 z:1 | p=2"]);
        assert_eq!(result(&edit), expected);
        assert_eq!(
            descriptions(&edit),
            [
                "added d:1 {p=\"1\"}",
                "removed a:1 {p=\"1\", s=\"1\"}",
                "removed c:1 {p=\"1\"}"
            ]
        );
        // A target of another group is not moved without `replaces`.
        assert!(edit.sync(&words("z:1"), &labels("p=1"), false).is_err());
        edit.sync(&words("z:1"), &labels("p=1"), true).unwrap();
        assert_eq!(result(&edit), parse_groups(&["z:1 | p=1", "a:1 | p=2"]));
    }

    #[test]
    fn sync_without_labels_covers_whole_file() {
        let mut edit = Edit::new(&parse_groups(&["a:1 b:1 | p=1", "c:1 |"]));
        edit.sync(&words("a:1 d:1"), &labels(""), false).unwrap();
        assert_eq!(result(&edit), parse_groups(&["a:1 | p=1", "d:1 |"]));
    }

    #[test]
    fn rejects_targets_prometheus_rejects() {
        let mut edit = Edit::new(&[]);
        assert!(edit.add("http://a", &labels(""), false).is_err());
        assert!(edit.add("a", &labels("__scheme__=ftp"), false).is_err());
        let invalid = labels("__scrape_interval__=5");
        assert!(edit.sync(&words("a:1"), &invalid, false).is_err());
        assert!(edit.groups.is_empty());
    }
}
