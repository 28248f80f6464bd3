//! Fuzz target for target files, see [`crate::fuzzing`].

use super::{
    document::Format,
    edit::Edit,
    target_group::{TargetLabel, TargetLabels, escape_control},
};

/// Parses a file, adds a target and removes it again; returns the number of targets in the file.
pub(crate) fn file(bytes: &[u8], is_json: bool) -> usize {
    let format = if is_json { Format::Json } else { Format::Yaml };
    let Ok(text) = String::from_utf8(bytes.to_vec()) else {
        return 0;
    };
    let Ok(document) = format.read(text) else {
        return 0;
    };
    let targets = |document: &super::document::Document| -> Vec<(String, TargetLabels)> {
        let groups = document.groups.iter();
        let each = groups.flat_map(|group| {
            let targets = group.targets.iter().cloned();
            targets.map(|target| (target, group.labels.clone()))
        });
        each.collect()
    };
    let before = targets(&document);
    for (target, labels) in &before {
        assert!(!escape_control(target).contains(char::is_control));
        drop(labels.to_string());
    }
    let label = TargetLabel {
        name: "service_id".to_owned(),
        value: "fuzzing".to_owned(),
    };
    let labels = TargetLabels(vec![label]);
    let address = "fuzzing.example:9100";
    if before.iter().any(|(target, _)| target == address) {
        return before.len();
    }
    let mut edit = Edit::new(&document.groups);
    assert!(edit.add(address, &labels, false).is_ok());
    let Ok(written) = document.write(&edit.groups) else {
        // The error is reported and the file is not changed.
        return before.len();
    };
    // It now has the old targets and the new one, in any order.
    let read = format.read(written.text);
    assert!(read.is_ok(), "cannot read the written file: {read:?}");
    let Ok(document) = read else {
        return before.len();
    };
    let mut after = targets(&document);
    let added = after.iter().position(|(target, _)| target == address);
    let added = added.map(|at| after.remove(at));
    let is_added = added.is_some_and(|(_, added)| added.have_same_labels(&labels));
    assert!(is_added, "the added target is missing");
    assert!(after == before, "other targets changed");
    // Removed again: empty groups are removed, too.
    let mut edit = Edit::new(&document.groups);
    edit.remove(|_, target| target == address);
    if let Ok(written) = document.write(&edit.groups) {
        let read = format.read(written.text);
        assert!(read.is_ok_and(|document| targets(&document) == before));
    }
    before.len()
}
