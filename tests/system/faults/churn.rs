//! Cgroups that are created and removed while the exporter looks for them.

use super::exporter::{Exporter, Fault, flags, started_by};
use crate::support::{
    server_process::{TempDir, wait_until},
    synthetic_cgroups::SyntheticCgroups,
};

const NUMBER: usize = 10_000;
/// Number of cgroups that exist at any time.
const AT_ONCE: usize = 50;

#[test]
fn ten_thousand_short_lived_cgroups_leak_nothing() {
    let (Some(staying), Some(passing)) = (
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
        started_by(&[]),
        &flags(
            &collectors,
            &[
                grace,
                SyntheticCgroups::exclude_others_flag(&[&staying, &passing]),
            ],
        ),
        &scratch.0,
    );
    let exporter = exporter
        .looking_at(staying.path_prefix(), staying.is_own_series())
        .counting(passing.path_prefix());
    let well = exporter.well("groups that stay", |page| staying.count_sampled(page) == 3);
    let page = exporter.suffers_while(
        &well,
        &Fault {
            name: "10,000 control groups come and go",
            stays: "everything; of those that went `container_last_seen`, for `--cgroup.grace`",
            log_lines: 2,
            ..Fault::default()
        },
        || {
            for number in 0..NUMBER + AT_ONCE {
                if number < NUMBER {
                    passing.create(number);
                }
                if let Some(old) = number.checked_sub(AT_ONCE) {
                    passing.remove(old);
                }
            }
        },
    );
    wait_until("the last of them gone", || {
        (passing.count_exposed(&exporter.scrape()) == 0).then_some(())
    });
    drop(page);
    exporter.recovers(&well);
}
