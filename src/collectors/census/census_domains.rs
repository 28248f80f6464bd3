//! Virtual machines by state.

use crate::{
    collector::{Collector, NoFlags},
    error::{Error, Result},
    family::Families,
    metric::Desc,
    metrics,
    sources::{
        Snapshot,
        libvirt::{DomainState, FetchResult},
    },
};

metrics! {
    /// Domains by state: running (or blocked), stopped (shut off or crashed), paused (or
    /// suspended), other (shutting down or unknown).
    DOMAINS: Gauge = "census_domains" ["state"];
}

#[derive(Debug)]
pub(super) struct CensusDomains;

impl Collector for CensusDomains {
    const NAME: &'static str = "census_domains";
    const ABOUT: &'static str = "libvirt domain counts by state";
    const METRICS: &'static [&'static Desc] = METRICS;
    type Flags = NoFlags;

    fn new(NoFlags {}: NoFlags) -> Result<Self, String> {
        Ok(Self)
    }

    fn collect(&self, snapshot: &Snapshot) -> Result<Families> {
        families(snapshot.domains()?)
    }
}

fn families(fetched: &FetchResult) -> Result<Families> {
    let connection = &fetched.connection;
    if !connection.is_up {
        let error = connection.error.as_deref().unwrap_or("no response");
        return Err(Error::api("libvirt", error));
    }
    let [mut running, mut stopped, mut paused, mut other] = [0_u64; 4];
    for domain in &fetched.domains {
        *match domain.state {
            Some(DomainState::Running | DomainState::Blocked) => &mut running,
            Some(DomainState::Shutoff | DomainState::Crashed) => &mut stopped,
            Some(DomainState::Paused | DomainState::PmSuspended) => &mut paused,
            Some(DomainState::NoState | DomainState::Shutdown) | None => &mut other,
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
    use crate::sources::libvirt::{ConnectionInfo, Domain};

    fn fetched(is_up: bool, states: &[Option<DomainState>]) -> FetchResult {
        let domains = states.iter().map(|state| Domain {
            name: "secret-name".to_owned(),
            state: *state,
            ..Domain::default()
        });
        FetchResult {
            connection: ConnectionInfo {
                is_up,
                ..ConnectionInfo::default()
            },
            domains: domains.collect(),
        }
    }

    #[test]
    fn each_domain_is_counted_in_exactly_one_state() {
        let mut states: Vec<_> = DomainState::ALL.into_iter().map(Some).collect();
        states.extend([None, Some(DomainState::Shutoff), Some(DomainState::Shutoff)]);
        states.extend([Some(DomainState::Running)]);
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
    fn no_count_while_libvirt_is_down() {
        let error = families(&fetched(false, &[])).unwrap_err();
        assert_eq!(error.to_string(), "libvirt: no response");
    }
}
