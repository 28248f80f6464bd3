use super::*;

const GRACE: Duration = Duration::from_secs(300);

/// Creates a history with space for this many points in addition to those of the host.
fn history(points: usize, extra_points: usize) -> History {
    History::new(HistoryFlags {
        history_points: points,
        history_max_bytes: ((points + extra_points) * PACKED_SIZE) as u64,
        ..HistoryFlags::default()
    })
}

/// Sets the present containers and returns the capacities of their rings, 0 for none.
fn update_containers(history: &History, seconds: u64, ids: &[&str]) -> Vec<usize> {
    let now = BootInstant::from_millis(seconds * 1000);
    let series = history.update_containers_at(now, ids.iter().map(|id| (*id, *id)), GRACE);
    let capacity = |it: &Option<Arc<Series>>| it.as_ref().map_or(0, |it| it.ring().capacity());
    series.iter().map(capacity).collect()
}

fn push(history: &History, id: &str, seconds: u64) {
    let sample = Sample::default();
    let series = history.container(id).unwrap();
    series.push(BootInstant::from_millis(seconds * 1000), &sample);
}

#[test]
fn oldest_rings_shrink_first_and_evenly() {
    let history = history(100, 200);
    assert_eq!(update_containers(&history, 1, &["z"]), [100]);
    assert_eq!(update_containers(&history, 2, &["z", "y"]), [100, 100]);
    assert_eq!(history.status().truncated, 0);
    assert_eq!(
        update_containers(&history, 3, &["z", "y", "x"]),
        [50, 50, 100]
    );
    assert_eq!(
        update_containers(&history, 4, &["z", "y", "x", "w"]),
        [25, 25, 50, 100]
    );
    let status = history.status();
    assert_eq!((status.truncated, status.series), (3, 5));
    assert_eq!(status.bytes, status.max_bytes);
}

#[test]
fn shrunk_ring_regrows_when_there_is_space() {
    let history = history(100, 200);
    assert_eq!(
        update_containers(&history, 1, &["a", "b", "c"]),
        [50, 50, 100]
    );
    // Without samples, the time of creation counts.
    update_containers(&history, 301, &["a", "b"]);
    assert_eq!(update_containers(&history, 302, &["a", "b"]), [100, 100]);
    assert_eq!(history.status().truncated, 0);
}

#[test]
fn rings_of_gone_containers_are_evicted_first() {
    let history = history(24, 60);
    update_containers(&history, 1, &["a", "b"]);
    push(&history, "a", 10);
    push(&history, "b", 11);
    update_containers(&history, 12, &["a"]);
    assert!(history.container("b").unwrap().is_gone());
    // b is younger, but gone.
    assert_eq!(update_containers(&history, 13, &["a", "c"]), [24, 24]);
    assert_eq!(history.container("b").unwrap().ring().capacity(), 12);
    assert_eq!(
        update_containers(&history, 14, &["a", "c", "d", "e"]),
        [12, 12, 12, 24]
    );
    assert!(history.container("b").is_none());
    // There is nothing left to evict.
    let ids = ["a", "c", "d", "e", "f", "g"];
    assert_eq!(
        update_containers(&history, 15, &ids),
        [12, 12, 12, 12, 12, 0]
    );
    assert_eq!(history.status().dropped, 1);
    assert!(history.status().bytes <= history.status().max_bytes);
}

#[test]
fn gone_containers_are_remembered_for_the_grace_period() {
    let history = history(10, 100);
    update_containers(&history, 1, &["a"]);
    push(&history, "a", 100);
    update_containers(&history, 399, &[]);
    assert!(history.container("a").is_some_and(|it| it.is_gone()));
    update_containers(&history, 400, &[]);
    assert!(history.container("a").is_none());
}

#[test]
fn returning_container_has_its_samples() {
    let history = history(10, 100);
    update_containers(&history, 1, &["a"]);
    push(&history, "a", 100);
    update_containers(&history, 200, &[]);
    update_containers(&history, 201, &["a"]);
    let series = history.container("a").unwrap();
    assert!(!series.is_gone());
    assert_eq!(series.points(5).len(), 1);
}

#[test]
fn points_returns_the_newest_samples() {
    let history = history(10, 100);
    for n in 1..=14 {
        let sample = Sample {
            pids: Some(n),
            received: Some(n * n),
            ..Sample::default()
        };
        history
            .host()
            .push(BootInstant::from_millis(n * 1000), &sample);
    }
    let points = history.host().points(2);
    let values = |point: &Point| (point.pids, point.received.map(|it| it.amount));
    let expected = [(Some(13), Some(25)), (Some(14), Some(27))];
    assert_eq!(points.iter().map(values).collect::<Vec<_>>(), expected);
    assert_eq!(history.host().latest().unwrap().pids, Some(14));
    assert_eq!(history.host().points(1000).len(), 10);
}

#[test]
fn counts_skipped_samples_by_reason() {
    let history = history(10, 10);
    for (count, reason) in (1..).zip(SkipReason::ALL) {
        history.record_skipped(reason, count);
    }
    let skipped = history.status().skipped;
    assert_eq!(
        skipped.map(|(reason, n)| (reason.name(), n)),
        [("failed", 1), ("slow", 2), ("late", 3)]
    );
}
