//! What a virtual machine is doing and why, what became of it, and how well it could be
//! asked.
//!
//! Reasons are numbered within their state; libvirt's header `libvirt-domain.h` has them.

use std::time::Duration;

use super::labels::{DOMAIN, DOMAIN_UUID, Labelled};
use crate::{family::Families, metrics, sources::libvirt::State};

metrics! {
    /// What the domain is doing, as libvirt's number, and that in words: 0 nothing known, 1 running, 2 blocked, 3 paused, 4 about to be off, 5 off, 6 crashed, 7 asleep.
    DESCRIBED: Gauge = "libvirt_domain_info_state" of DOMAIN ["state_desc"];
    /// What the domain is doing, as libvirt's number: 0 nothing known, 1 running, 2 blocked, 3 paused, 4 about to be off, 5 off, 6 crashed, 7 asleep.
    VSTATE: Gauge = "libvirt_domain_info_vstate" of DOMAIN [];
    /// What the domain is doing, as libvirt's number: 0 nothing known, 1 running, 2 blocked, 3 paused, 4 about to be off, 5 off, 6 crashed, 7 asleep. With --collector.libvirt.compat=kumina.
    CODE: Gauge = "libvirt_domain_state_code" of DOMAIN_UUID [];
    /// Whether the domain is in this state: 1 for one of the eight, else 0.
    STATE: Gauge = "libvirt_domain_state" of DOMAIN ["state"];
    /// Why the domain is in its state, as libvirt's number, whose meaning depends on the state, and in words: a disk with an I/O error is state paused and reason ioerror.
    REASON: Gauge = "libvirt_domain_info_state_reason" of DOMAIN ["state", "reason"];
    /// Times that the domain was started since this exporter listens to libvirt.
    STARTS: Counter = "libvirt_domain_starts_total" of DOMAIN [];
    /// Times that the domain stopped, for whatever reason, since this exporter listens to libvirt.
    STOPS: Counter = "libvirt_domain_stops_total" of DOMAIN [];
    /// Times that the domain crashed since this exporter listens to libvirt.
    CRASHES: Counter = "libvirt_domain_crashes_total" of DOMAIN [];
    /// When the domain was started, in seconds since 1970, by its control group. Absent where this is not seen.
    START_TIME: Gauge = "libvirt_domain_start_time_seconds" of DOMAIN [];
    /// Time since the domain was started, by its control group, pauses included. Absent where this is not seen.
    UPTIME: Gauge = "libvirt_domain_uptime_seconds" of DOMAIN [];
    /// Whether libvirt left out what it could not get without waiting, because the domain is busy or hangs: what is missing is absent.
    PARTIAL: Gauge = "libvirt_domain_stats_partial" of DOMAIN [];
    /// Whether an earlier question about the domain has no answer yet: the guest, or what it depends on, hangs.
    STUCK: Gauge = "libvirt_domain_stuck" of DOMAIN [];
    /// Whether the domain did not answer in time: what is missing is absent.
    TIMED_OUT: Gauge = "libvirt_domain_timed_out" of DOMAIN [];
    /// Time that libvirt took to answer about the domain in this scrape. Absent where it did not.
    DURATION: Gauge = "libvirt_domain_scrape_duration_seconds" of DOMAIN [];
}

/// `now` is what the clock shows, from 1970 on.
pub(super) fn families(out: &mut Families, of: &Labelled<'_>, now: Option<Duration>) {
    let domain = of.domain;
    if let Some(state) = domain.state {
        let number = state as u64;
        if of.names.kumina {
            of.add_shared(out, &CODE, number);
        }
        if of.names.inovex {
            out.add_of(&DESCRIBED, &of.own, [description(state)], number);
        }
        if of.names.tinkoff {
            out.add_of(&VSTATE, &of.own, [], number);
        }
        for each in State::ALL {
            out.add_of(&STATE, &of.own, [name(each)], each == state);
        }
        if let Some(number) = domain.reason {
            let labels = [name(state), reason(state, number)];
            out.add_of(&REASON, &of.own, labels, i64::from(number));
        }
    }
    if let Some(life) = &domain.lifecycle {
        out.add_of(&STARTS, &of.own, [], life.starts);
        out.add_of(&STOPS, &of.own, [], life.stops);
        out.add_of(&CRASHES, &of.own, [], life.crashes);
    }
    if let Some(started) = domain.started {
        out.add_of(&START_TIME, &of.own, [], started);
        // By a clock that was set back it may have been started in the future.
        if let Some(uptime) = now.and_then(|now| now.checked_sub(started)) {
            out.add_of(&UPTIME, &of.own, [], uptime);
        }
    }
    out.add_of(&PARTIAL, &of.own, [], domain.is_partial);
    out.add_of(&STUCK, &of.own, [], domain.is_stuck);
    // Of those that are off many are asked about at once: nobody knows how long one took.
    let timed_out = domain.is_stuck || domain.took.is_none() && domain.state.is_none();
    out.add_of(&TIMED_OUT, &of.own, [], timed_out);
    if let Some(took) = domain.took {
        out.add_of(&DURATION, &of.own, [], took);
    }
}

/// As libvirt's constants are called.
fn name(state: State) -> &'static str {
    match state {
        State::NoState => "nostate",
        State::Running => "running",
        State::Blocked => "blocked",
        State::Paused => "paused",
        State::Shutdown => "shutdown",
        State::Shutoff => "shutoff",
        State::Crashed => "crashed",
        State::PmSuspended => "pmsuspended",
    }
}

/// As inovex's exporter describes them, whoever paused it.
fn description(state: State) -> &'static str {
    match state {
        State::NoState => "no state",
        State::Running => "the domain is running",
        State::Blocked => "the domain is blocked on resource",
        State::Paused => "the domain is paused by user",
        State::Shutdown => "the domain is being shut down",
        State::Shutoff => "the domain is shut off",
        State::Crashed => "the domain is crashed",
        State::PmSuspended => "the domain is suspended by guest power management",
    }
}

/// As libvirt's constants are called; `unknown` also where they are newer than this.
fn reason(state: State, number: i32) -> &'static str {
    let names: &[&str] = match state {
        State::Running => &[
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
        State::Paused => &[
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
        State::Shutdown => &["unknown", "user"],
        State::Shutoff => &[
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
        State::Crashed => &["unknown", "panicked"],
        State::NoState | State::Blocked | State::PmSuspended => &[],
    };
    let name = usize::try_from(number).ok().and_then(|at| names.get(at));
    name.copied().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::{super::testing, *};
    use crate::sources::libvirt::{Domain, Lifecycle};

    fn paused() -> Domain {
        Domain {
            state: Some(State::Paused),
            reason: Some(5),
            took: Some(Duration::from_millis(250)),
            started: Some(Duration::from_secs(1000)),
            lifecycle: Some(Lifecycle {
                starts: 3,
                stops: 2,
                crashes: 1,
                ..Lifecycle::default()
            }),
            ..testing::domain("web")
        }
    }

    fn lines(domain: &Domain, names: &str) -> Vec<String> {
        let now = Some(Duration::from_secs(1060));
        testing::lines(domain, names, |out, of| families(out, of, now))
    }

    #[test]
    fn a_domain_that_an_io_error_paused_says_so_under_both_names() {
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
    fn a_domain_that_is_off_answered_although_nobody_knows_how_fast() {
        let domain = Domain {
            state: Some(State::Shutoff),
            ..testing::domain("web")
        };
        let lines = lines(&domain, "inovex");
        let last = lines.last().map(String::as_str);
        assert_eq!(last, Some(r#"libvirt_domain_timed_out{domain="web"} 0"#));
    }

    #[test]
    fn kuminas_name_has_the_uuid() {
        let lines = lines(&paused(), "kumina");
        let uuid = testing::UUID;
        let code = format!(r#"libvirt_domain_state_code{{domain="web",uuid="{uuid}"}} 3"#);
        assert_eq!(lines[0], code);
        assert!(!lines.iter().any(|line| line.contains("vstate")));
    }

    #[test]
    fn a_domain_that_hangs_has_no_duration_and_what_is_unknown_is_absent() {
        let domain = Domain {
            is_partial: true,
            is_stuck: true,
            ..testing::domain("web")
        };
        let lines = testing::lines(&domain, "inovex", |out, of| families(out, of, None));
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
    fn reasons_are_numbered_within_their_state() {
        for (state, number, text) in [
            (State::Running, 1, "booted"),
            (State::Running, 9, "crashed"),
            (State::Paused, 12, "postcopy"),
            (State::Shutdown, 1, "user"),
            (State::Shutoff, 3, "crashed"),
            (State::Shutoff, 8, "daemon"),
            (State::Crashed, 1, "panicked"),
            (State::Blocked, 0, "unknown"),
            (State::Running, 99, "unknown"),
            (State::Running, -1, "unknown"),
        ] {
            assert_eq!(reason(state, number), text, "{state:?} {number}");
        }
    }
}
