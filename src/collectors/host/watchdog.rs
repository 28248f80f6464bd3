//! Watchdog timers, from `/sys/class/watchdog`, documented in the kernel's
//! `Documentation/ABI/testing/sysfs-class-watchdog`.
//!
//! The set of attributes depends on the driver: a missing numeric attribute has no sample, and a
//! missing text attribute is an empty label.

use crate::{
    collector::{Collector, NoFlags},
    error::Result,
    family::{Families, Value},
    metric::{Desc, Metric},
    metrics,
    sources::{Dir, Snapshot},
};

metrics! {
    /// Value of /sys/class/watchdog/<watchdog>/bootstatus: events before boot, WDIOF_* in
    /// linux/watchdog.h.
    BOOTSTATUS: Gauge = "node_watchdog_bootstatus" ["name"];
    /// Value of /sys/class/watchdog/<watchdog>/fw_version.
    FW_VERSION: Gauge = "node_watchdog_fw_version" ["name"];
    /// Whether the watchdog cannot be stopped once started (1).
    NOWAYOUT: Gauge = "node_watchdog_nowayout" ["name"];
    /// Seconds until the watchdog resets the machine unless it is pinged.
    TIMELEFT: Gauge = "node_watchdog_timeleft_seconds" ["name"];
    /// Seconds without a ping after which the watchdog resets the machine.
    TIMEOUT: Gauge = "node_watchdog_timeout_seconds" ["name"];
    /// Seconds before the timeout at which the watchdog raises a pretimeout event.
    PRETIMEOUT: Gauge = "node_watchdog_pretimeout_seconds" ["name"];
    /// Whether the machine booted from its second flash chip after a reset (0) or from its first
    /// (1).
    ACCESS_CS0: Gauge = "node_watchdog_access_cs0" ["name"];
    /// Info of the watchdog: identity, options, state and governors.
    WATCHDOG: Info = "node_watchdog_info" [
        "name", "options", "identity", "state", "status", "pretimeout_governor",
    ];
}

/// Numeric attributes.
static NUMBERS: [(&Metric<1>, &str); 7] = [
    (&BOOTSTATUS, "bootstatus"),
    (&FW_VERSION, "fw_version"),
    (&NOWAYOUT, "nowayout"),
    (&TIMELEFT, "timeleft"),
    (&TIMEOUT, "timeout"),
    (&PRETIMEOUT, "pretimeout"),
    (&ACCESS_CS0, "access_cs0"),
];

#[derive(Debug)]
pub(super) struct Watchdog;

impl Collector for Watchdog {
    const NAME: &'static str = "watchdog";
    const ABOUT: &'static str = "watchdog timers";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        let mut out = Families::default();
        for watchdog in snapshot.sys_dir("class/watchdog")?.dirs()? {
            add(&mut out, &watchdog);
        }
        Ok(out)
    }
}

fn add(out: &mut Families, watchdog: &Dir) {
    let name = watchdog.name();
    for (metric, attribute) in NUMBERS {
        if let Some(value) = out.ok_or_skip(watchdog.read_number::<Value>(attribute)) {
            out.add(metric, [&name], value);
        }
    }
    let mut word = |attribute| {
        out.ok_or_skip(watchdog.read_trimmed(attribute))
            .unwrap_or_default()
    };
    let words = [
        "options",
        "identity",
        "state",
        "status",
        "pretimeout_governor",
    ]
    .map(&mut word);
    let [options, identity, state, status, governor] = words.each_ref().map(String::as_str);
    out.add(
        &WATCHDOG,
        [&name, options, identity, state, status, governor],
        true,
    );
}
