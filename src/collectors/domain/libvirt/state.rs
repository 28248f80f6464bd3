//! State of a virtual machine with its reason, its lifecycle events, and how it responded to the
//! last request.
//!
//! Reason numbers are per state; they are defined in `libvirt-domain.h`.

use std::time::Duration;

use super::labels::{DOMAIN, DOMAIN_UUID, LabelledDomain};
use crate::{family::Families, metrics, sources::libvirt::DomainState};

metrics! {
    /// State of the domain as a number: 0 no state, 1 running, 2 blocked, 3 paused, 4 shutting
    /// down, 5 shut off, 6 crashed, 7 suspended by guest power management; and in words.
    INFO_STATE: Gauge = "libvirt_domain_info_state" base DOMAIN ["state_desc"];
    /// State of the domain as a number: 0 no state, 1 running, 2 blocked, 3 paused, 4 shutting
    /// down, 5 shut off, 6 crashed, 7 suspended by guest power management.
    VSTATE: Gauge = "libvirt_domain_info_vstate" base DOMAIN [];
    /// State of the domain as a number: 0 no state, 1 running, 2 blocked, 3 paused, 4 shutting
    /// down, 5 shut off, 6 crashed, 7 suspended by guest power management. With
    /// --collector.libvirt.compat=kumina.
    STATE_CODE: Gauge = "libvirt_domain_state_code" base DOMAIN_UUID [];
    /// Whether the domain is in this state: 1 for one of the eight states, 0 for the others.
    STATE: Gauge = "libvirt_domain_state" base DOMAIN ["state"];
    /// Reason of the state of the domain, as the number of libvirt, whose meaning depends on the
    /// state, and in words: state paused and reason ioerror after a disk error.
    REASON: Gauge = "libvirt_domain_info_state_reason" base DOMAIN ["state", "reason"];
    /// Starts of the domain since this exporter connected to libvirt.
    STARTS: Counter = "libvirt_domain_starts_total" base DOMAIN [];
    /// Stops of the domain for any reason since this exporter connected to libvirt.
    STOPS: Counter = "libvirt_domain_stops_total" base DOMAIN [];
    /// Crashes of the domain since this exporter connected to libvirt.
    CRASHES: Counter = "libvirt_domain_crashes_total" base DOMAIN [];
    /// Unix time of the start of the domain, from its cgroup; absent if the cgroup is not visible.
    START_TIME: Gauge = "libvirt_domain_start_time_seconds" base DOMAIN [];
    /// Time since the start of the domain, including pauses, from its cgroup; absent if the cgroup
    /// is not visible.
    UPTIME: Gauge = "libvirt_domain_uptime_seconds" base DOMAIN [];
    /// Whether libvirt left out statistics that it could not get without waiting, because the
    /// domain is busy or hangs.
    PARTIAL: Gauge = "libvirt_domain_stats_partial" base DOMAIN [];
    /// Whether an earlier request about the domain is still unanswered because the domain hangs.
    STUCK: Gauge = "libvirt_domain_stuck" base DOMAIN [];
    /// Whether the request about the domain timed out; its statistics are absent.
    TIMED_OUT: Gauge = "libvirt_domain_timed_out" base DOMAIN [];
    /// Time that libvirt took to report the domain in this scrape; absent if it did not respond.
    DURATION: Gauge = "libvirt_domain_scrape_duration_seconds" base DOMAIN [];
}

/// `now` is the time since 1970.
pub(super) fn collect_into(
    out: &mut Families,
    labelled: &LabelledDomain<'_>,
    now: Option<Duration>,
) {
    let domain = labelled.domain;
    if let Some(state) = domain.state {
        let number = state as u64;
        if labelled.compat.kumina {
            labelled.add_shared(out, &STATE_CODE, number);
        }
        if labelled.compat.inovex {
            out.add_with(
                &INFO_STATE,
                &labelled.base,
                [state_description(state)],
                number,
            );
        }
        if labelled.compat.tinkoff {
            out.add_with(&VSTATE, &labelled.base, [], number);
        }
        for each in DomainState::ALL {
            out.add_with(&STATE, &labelled.base, [state_name(each)], each == state);
        }
        if let Some(number) = domain.reason {
            let labels = [state_name(state), reason_name(state, number)];
            out.add_with(&REASON, &labelled.base, labels, i64::from(number));
        }
    }
    if let Some(lifecycle) = &domain.lifecycle {
        out.add_with(&STARTS, &labelled.base, [], lifecycle.starts);
        out.add_with(&STOPS, &labelled.base, [], lifecycle.stops);
        out.add_with(&CRASHES, &labelled.base, [], lifecycle.crashes);
    }
    if let Some(started) = domain.started {
        out.add_with(&START_TIME, &labelled.base, [], started);
        // If the clock was set back, the start time may be in the future.
        if let Some(uptime) = now.and_then(|now| now.checked_sub(started)) {
            out.add_with(&UPTIME, &labelled.base, [], uptime);
        }
    }
    out.add_with(&PARTIAL, &labelled.base, [], domain.is_partial);
    out.add_with(&STUCK, &labelled.base, [], domain.is_stuck);
    // Inactive domains are requested in batches, so their own response time is unknown.
    let timed_out = domain.is_stuck || domain.response_time.is_none() && domain.state.is_none();
    out.add_with(&TIMED_OUT, &labelled.base, [], timed_out);
    if let Some(duration) = domain.response_time {
        out.add_with(&DURATION, &labelled.base, [], duration);
    }
}

/// The name of libvirt's constant.
fn state_name(state: DomainState) -> &'static str {
    match state {
        DomainState::NoState => "nostate",
        DomainState::Running => "running",
        DomainState::Blocked => "blocked",
        DomainState::Paused => "paused",
        DomainState::Shutdown => "shutdown",
        DomainState::Shutoff => "shutoff",
        DomainState::Crashed => "crashed",
        DomainState::PmSuspended => "pmsuspended",
    }
}

/// inovex's description of the state; the real cause of a pause may differ.
fn state_description(state: DomainState) -> &'static str {
    match state {
        DomainState::NoState => "no state",
        DomainState::Running => "the domain is running",
        DomainState::Blocked => "the domain is blocked on resource",
        DomainState::Paused => "the domain is paused by user",
        DomainState::Shutdown => "the domain is being shut down",
        DomainState::Shutoff => "the domain is shut off",
        DomainState::Crashed => "the domain is crashed",
        DomainState::PmSuspended => "the domain is suspended by guest power management",
    }
}

/// The name of libvirt's constant; `unknown` also for constants newer than this list.
fn reason_name(state: DomainState, number: i32) -> &'static str {
    let names: &[&str] = match state {
        DomainState::Running => &[
            "unknown",
            "booted",
            "migrated",
            "restored",
            "from_snapshot",
            "unpaused",
            "migration_canceled",
            "save_canceled",
            "wakeup",
            "crashed",
            "postcopy",
            "postcopy_failed",
        ],
        DomainState::Paused => &[
            "unknown",
            "user",
            "migration",
            "save",
            "dump",
            "ioerror",
            "watchdog",
            "from_snapshot",
            "shutting_down",
            "snapshot",
            "crashed",
            "starting_up",
            "postcopy",
            "postcopy_failed",
            "api_error",
        ],
        DomainState::Shutdown => &["unknown", "user"],
        DomainState::Shutoff => &[
            "unknown",
            "shutdown",
            "destroyed",
            "crashed",
            "migrated",
            "saved",
            "failed",
            "from_snapshot",
            "daemon",
        ],
        DomainState::Crashed => &["unknown", "panicked"],
        DomainState::NoState | DomainState::Blocked | DomainState::PmSuspended => &[],
    };
    let name = usize::try_from(number).ok().and_then(|at| names.get(at));
    name.copied().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::{super::testing, *};
    use crate::sources::libvirt::{Domain, LifecycleCounts};

    fn paused() -> Domain {
        Domain {
            state: Some(DomainState::Paused),
            reason: Some(5),
            response_time: Some(Duration::from_millis(250)),
            started: Some(Duration::from_secs(1000)),
            lifecycle: Some(LifecycleCounts {
                starts: 3,
                stops: 2,
                crashes: 1,
                ..LifecycleCounts::default()
            }),
            ..testing::domain("web")
        }
    }

    fn lines(domain: &Domain, names: &str) -> Vec<String> {
        let now = Some(Duration::from_secs(1060));
        testing::lines(domain, names, |out, labelled| {
            collect_into(out, labelled, now);
        })
    }

    #[test]
    fn pause_by_io_error_is_exposed_under_both_names() {
        assert_eq!(
            lines(&paused(), "inovex,tinkoff"),
            [
                r#"libvirt_domain_info_state{domain="web",state_desc="the domain is paused by user"} 3"#,
                r#"libvirt_domain_info_vstate{domain="web"} 3"#,
                r#"libvirt_domain_state{domain="web",state="nostate"} 0"#,
                r#"libvirt_domain_state{domain="web",state="running"} 0"#,
                r#"libvirt_domain_state{domain="web",state="blocked"} 0"#,
                r#"libvirt_domain_state{domain="web",state="paused"} 1"#,
                r#"libvirt_domain_state{domain="web",state="shutdown"} 0"#,
                r#"libvirt_domain_state{domain="web",state="shutoff"} 0"#,
                r#"libvirt_domain_state{domain="web",state="crashed"} 0"#,
                r#"libvirt_domain_state{domain="web",state="pmsuspended"} 0"#,
                r#"libvirt_domain_info_state_reason{domain="web",state="paused",reason="ioerror"} 5"#,
                r#"libvirt_domain_starts_total{domain="web"} 3"#,
                r#"libvirt_domain_stops_total{domain="web"} 2"#,
                r#"libvirt_domain_crashes_total{domain="web"} 1"#,
                r#"libvirt_domain_start_time_seconds{domain="web"} 1000"#,
                r#"libvirt_domain_uptime_seconds{domain="web"} 60"#,
                r#"libvirt_domain_stats_partial{domain="web"} 0"#,
                r#"libvirt_domain_stuck{domain="web"} 0"#,
                r#"libvirt_domain_timed_out{domain="web"} 0"#,
                r#"libvirt_domain_scrape_duration_seconds{domain="web"} 0.25"#,
            ]
        );
    }

    #[test]
    fn shut_off_domain_has_no_duration_and_no_timeout() {
        let domain = Domain {
            state: Some(DomainState::Shutoff),
            ..testing::domain("web")
        };
        let lines = lines(&domain, "inovex");
        let last = lines.last().map(String::as_str);
        assert_eq!(last, Some(r#"libvirt_domain_timed_out{domain="web"} 0"#));
    }

    #[test]
    fn kumina_state_code_has_uuid_label() {
        let lines = lines(&paused(), "kumina");
        let uuid = testing::UUID;
        let code = format!(r#"libvirt_domain_state_code{{domain="web",uuid="{uuid}"}} 3"#);
        assert_eq!(lines[0], code);
        assert!(!lines.iter().any(|line| line.contains("vstate")));
    }

    #[test]
    fn hung_domain_has_no_duration_or_unknown_values() {
        let domain = Domain {
            is_partial: true,
            is_stuck: true,
            ..testing::domain("web")
        };
        let lines = testing::lines(&domain, "inovex", |out, labelled| {
            collect_into(out, labelled, None);
        });
        assert_eq!(
            lines,
            [
                r#"libvirt_domain_stats_partial{domain="web"} 1"#,
                r#"libvirt_domain_stuck{domain="web"} 1"#,
                r#"libvirt_domain_timed_out{domain="web"} 1"#,
            ]
        );
    }

    #[test]
    fn reason_codes_depend_on_state() {
        for (state, number, text) in [
            (DomainState::Running, 1, "booted"),
            (DomainState::Running, 9, "crashed"),
            (DomainState::Paused, 12, "postcopy"),
            (DomainState::Shutdown, 1, "user"),
            (DomainState::Shutoff, 3, "crashed"),
            (DomainState::Shutoff, 8, "daemon"),
            (DomainState::Crashed, 1, "panicked"),
            (DomainState::Blocked, 0, "unknown"),
            (DomainState::Running, 99, "unknown"),
            (DomainState::Running, -1, "unknown"),
        ] {
            assert_eq!(reason_name(state, number), text, "{state:?} {number}");
        }
    }
}
