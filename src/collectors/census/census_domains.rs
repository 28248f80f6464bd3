//! Virtual machines by state.

use crate::{
    collector::{Collector, NoFlags},
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{
        Snapshot,
        libvirt::{Fetched, State},
    },
};

metrics! {
    /// Virtual machines that libvirt knows, by state: running (blocked ones too), stopped (off or crashed), paused (asleep ones too), and other (about to be off, or unknown).
    DOMAINS: Gauge = "census_domains" ["state"];
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Domains;

impl Collector for Domains {
    const NAME: &'static str = "census_domains";
    const ABOUT: &'static str = "how many virtual machines there are, by state";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, machine: &Snapshot) -> Result<Families> {
        families(machine.domains()?)
    }
}

fn families(fetched: &Fetched) -> Result<Families> {
    let connection = &fetched.connection;
    if !connection.is_up {
        let why = connection.error.as_deref().unwrap_or("no answer");
        return Err(Error::api("libvirt", why));
    }
    let [mut running, mut stopped, mut paused, mut other] = [0_u64; 4];
    for domain in &fetched.domains {
        *match domain.state {
            Some(State::Running | State::Blocked) => &mut running,
            Some(State::Shutoff | State::Crashed) => &mut stopped,
            Some(State::Paused | State::PmSuspended) => &mut paused,
            Some(State::NoState | State::Shutdown) | None => &mut other,
        } += 1;
    }
    let mut out = Families::default();
    for (state, count) in [
        ("running", running),
        ("stopped", stopped),
        ("paused", paused),
        ("other", other),
    ] {
        out.add(&DOMAINS, [state], count);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::libvirt::{Connection, Domain};

    fn fetched(is_up: bool, states: &[Option<State>]) -> Fetched {
        let domains = states.iter().map(|state| Domain {
            name: "secret-name".to_owned(),
            state: *state,
            ..Domain::default()
        });
        Fetched {
            connection: Connection {
                is_up,
                ..Connection::default()
            },
            domains: domains.collect(),
        }
    }

    #[test]
    fn every_domain_is_counted_once_under_one_of_four_states() {
        let mut states: Vec<_> = State::ALL.into_iter().map(Some).collect();
        states.extend([None, Some(State::Shutoff), Some(State::Shutoff)]);
        states.extend([Some(State::Running)]);
        assert_eq!(
            families(&fetched(true, &states)).unwrap().lines(),
            [
                r#"census_domains{state="running"} 3"#,
                r#"census_domains{state="stopped"} 4"#,
                r#"census_domains{state="paused"} 2"#,
                r#"census_domains{state="other"} 3"#,
            ]
        );
    }

    #[test]
    fn a_libvirt_that_is_down_has_no_count() {
        let error = families(&fetched(false, &[])).unwrap_err();
        assert_eq!(error.to_string(), "libvirt: no answer");
    }
}
