//! Positions of dashboard panels.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{boards, panels};

#[test]
fn panels_neither_overlap_nor_repeat() {
    for (name, board) in boards() {
        let mut ids = BTreeSet::new();
        let mut names = Vec::new();
        let top = board["panels"].as_array().unwrap();
        assert_no_overlap(&name, top);
        for panel in top {
            let inner = panel["panels"].as_array().map_or(&[][..], Vec::as_slice);
            assert_no_overlap(&name, inner);
            if panel["type"] == "row" {
                let is_closed = panel["collapsed"] == true;
                assert_eq!(is_closed, !inner.is_empty(), "{name}: {}", panel["title"]);
            }
            for panel in [panel].into_iter().chain(inner) {
                let id = panel["id"].as_u64().expect("a panel has an id");
                assert!(ids.insert(id), "{name}: {id} twice");
            }
        }
        for named_panel in panels(&name, &board) {
            names.push(named_panel.name);
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(
            names.len(),
            all,
            "{name}: two panels of a row have one title"
        );
        assert_eq!(top[0]["title"], "State", "{name}: the state comes first");
        assert_eq!(top[0]["collapsed"], false, "{name}: and is open");
    }
}

fn assert_no_overlap(name: &str, panels: &[Value]) {
    let mut occupied = BTreeMap::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|it| panel["gridPos"][it].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "{name}: {}", panel["title"]);
        for cell in (y..y + h).flat_map(|y| (x..x + w).map(move |x| (x, y))) {
            if let Some(other) = occupied.insert(cell, &panel["title"]) {
                panic!("{name}: {} lies over {other}", panel["title"]);
            }
        }
    }
}
