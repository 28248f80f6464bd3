//! Cgroups that are created and removed while the exporter looks for them.

use super::exporter::{Exporter, Fault, flags, wrapped_command};
use crate::support::{
    server_process::{TempDir, wait_until},
    synthetic_cgroups::SyntheticCgroups,
};

const NUMBER: usize = 10_000;
/// Number of cgroups that exist at any time.
const AT_ONCE: usize = 50;

#[test]
fn ten_thousand_short_lived_cgroups_leak_nothing() {
    let (Some(remaining_groups), Some(short_lived)) = (
        SyntheticCgroups::new("staying", 3),
        SyntheticCgroups::new("passing", 0),
    ) else {
        return;
    };
    let scratch = TempDir::new("fault-churn");
    let collectors = [
        "container_cpu",
        "container_memory",
        "container_lifecycle",
        "history",
    ];
    // With the default grace, ten thousand removed cgroups would make pages slow to parse.
    let grace = "--cgroup.grace=2s".to_owned();
    let exporter = Exporter::start(
        wrapped_command(&[]),
        &flags(
            &collectors,
            &[
                grace,
                SyntheticCgroups::exclude_others_flag(&[&remaining_groups, &short_lived]),
            ],
        ),
        &scratch.0,
    );
    let exporter = exporter
        .restrict_to(
            remaining_groups.path_prefix(),
            remaining_groups.is_own_series(),
        )
        .count_path(short_lived.path_prefix());
    let baseline = exporter.wait_until_stable("remaining groups", |metrics| {
        remaining_groups.count_sampled(metrics) == 3
    });
    let metrics = exporter.assert_fault_while(
        &baseline,
        &Fault {
            name: "10,000 control groups come and go",
            remaining: "everything; of removed cgroups `container_last_seen`, for `--cgroup.grace`",
            log_lines: 2,
            ..Fault::default()
        },
        || {
            for number in 0..NUMBER + AT_ONCE {
                if number < NUMBER {
                    short_lived.create(number);
                }
                if let Some(old) = number.checked_sub(AT_ONCE) {
                    short_lived.remove(old);
                }
            }
        },
    );
    wait_until("no short-lived cgroups", || {
        (short_lived.count_exposed(&exporter.scrape()) == 0).then_some(())
    });
    drop(metrics);
    exporter.assert_recovers(&baseline);
}
