//! What becomes of the copy when an engine lists, describes or tells something. Asks
//! nobody: it says who has to be asked.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Container, ContainerState, Engine, Health,
    api_types::{ContainerEvent, EngineEvent, InspectedContainer, ListedContainer},
};

/// Of more containers that nobody has described yet no events are kept.
const MAX_PENDING_OOM: usize = 1000;
/// Containers of one engine; more are left out.
pub(super) const MAX_CONTAINERS: usize = 20_000;

/// What is to be done after an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum NextAction {
    /// Nothing.
    #[default]
    Nothing,
    /// To ask about a container.
    Inspect(String),
    /// To ask about a container, but not often: engines tell of this over and over.
    InspectThrottled(String),
    /// To ask no more about a container.
    CancelInspect(String),
    /// To list the images.
    ListImages,
    /// To begin anew with everything.
    Resync,
}

/// What is known of containers beside what is shown.
#[derive(Debug, Default)]
pub(super) struct ContainerCache {
    /// Whether the engine starts a container again, by id.
    restart_policies: HashMap<String, bool>,
    /// Out-of-memory events of containers that nobody has described yet, by id.
    pending_oom_events: HashMap<String, u64>,
    /// Containers that the last list had and that are not shown.
    pub(super) dropped: usize,
}

impl ContainerCache {
    /// Takes in a list of all containers. Returns the ids of those to ask about: the new
    /// and the changed.
    pub(super) fn apply_list(
        &mut self,
        engine: &mut Engine,
        list: Vec<ListedContainer>,
    ) -> Vec<String> {
        let ids: HashSet<&str> = list.iter().map(|listed| listed.id.as_str()).collect();
        engine.containers.retain(|id, _| ids.contains(id.as_str()));
        self.restart_policies
            .retain(|id, _| ids.contains(id.as_str()));
        drop(ids);
        self.dropped = 0;
        let mut to_ask = Vec::new();
        for listed in list {
            let id = listed.id.clone();
            match engine.containers.get(&id) {
                Some(known) => {
                    let is_same = known.name == listed.name
                        && listed.state.is_none_or(|state| state == known.state);
                    if is_same && self.restart_policies.contains_key(&id) {
                        continue;
                    }
                }
                None if engine.containers.len() >= MAX_CONTAINERS => {
                    self.dropped += 1;
                    continue;
                }
                None => {
                    if let Some(container) = provisional(listed) {
                        engine.containers.insert(id.clone(), Arc::new(container));
                    }
                }
            }
            to_ask.push(id);
        }
        to_ask
    }

    /// Takes in a description.
    pub(super) fn apply_inspect(&mut self, engine: &mut Engine, inspected: InspectedContainer) {
        let InspectedContainer {
            mut container,
            has_restart_policy: is_restarted,
        } = inspected;
        let known = engine.containers.get(&container.id);
        if known.is_none() && engine.containers.len() >= MAX_CONTAINERS {
            return;
        }
        let early = self.pending_oom_events.remove(&container.id).unwrap_or(0);
        container.oom_events = known
            .map_or(0, |known| known.oom_events)
            .saturating_add(early);
        // Docker 20.10 may say of the last end of several that it was before its start.
        if !container.state.is_alive() && container.finished < container.started {
            let told = known.and_then(|known| known.finished);
            container.finished = container.finished.max(told);
        }
        self.restart_policies
            .insert(container.id.clone(), is_restarted);
        if known.is_none_or(|known| **known != container) {
            let id = container.id.clone();
            engine.containers.insert(id, Arc::new(container));
        }
    }

    /// Drops a container.
    pub(super) fn remove(&mut self, engine: &mut Engine, id: &str) {
        engine.containers.remove(id);
        self.restart_policies.remove(id);
        self.pending_oom_events.remove(id);
    }

    /// Takes in an event.
    pub(super) fn apply_event(&mut self, engine: &mut Engine, event: EngineEvent) -> NextAction {
        let (id, what, at) = match event {
            EngineEvent::Container {
                id,
                event: what,
                time: at,
            } => (id, what, at),
            EngineEvent::Image => return NextAction::ListImages,
            EngineEvent::Reloaded => return NextAction::Resync,
            EngineEvent::Other => return NextAction::Nothing,
        };
        if what == ContainerEvent::Removed {
            self.remove(engine, &id);
            return NextAction::CancelInspect(id);
        }
        let Some(known) = engine.containers.get_mut(&id) else {
            if what == ContainerEvent::OutOfMemory
                && self.pending_oom_events.len() < MAX_PENDING_OOM
            {
                let events = self.pending_oom_events.entry(id.clone()).or_default();
                *events = events.saturating_add(1);
            }
            return match engine.containers.len() {
                MAX_CONTAINERS.. => NextAction::Nothing,
                _ => NextAction::Inspect(id),
            };
        };
        let mut container = Container::clone(known);
        let is_restarted = self.restart_policies.get(&id).copied();
        let next = container.apply_event(what, at, is_restarted.unwrap_or(true));
        if **known != container {
            *known = Arc::new(container);
        }
        match next {
            InspectDecision::Skip => NextAction::Nothing,
            InspectDecision::Immediate => NextAction::Inspect(id),
            InspectDecision::Throttled => NextAction::InspectThrottled(id),
        }
    }
}

/// Whether to ask about a container.
enum InspectDecision {
    Skip,
    Immediate,
    Throttled,
}

impl Container {
    /// Changes as something happened, of which an event says less than the engine knows.
    fn apply_event(
        &mut self,
        event: ContainerEvent,
        at: Option<Duration>,
        has_restart_policy: bool,
    ) -> InspectDecision {
        match event {
            ContainerEvent::Created | ContainerEvent::Changed | ContainerEvent::Removed => {
                InspectDecision::Immediate
            }
            ContainerEvent::Started => {
                self.state = ContainerState::Running;
                self.exit_code = None;
                // Until it is asked about, its process is not known.
                self.pid = None;
                self.started = at.or(self.started);
                InspectDecision::Immediate
            }
            ContainerEvent::Died { exit_code } => {
                self.state = ContainerState::Exited;
                self.pid = None;
                self.health = None;
                self.exit_code = exit_code;
                self.finished = at.or(self.finished);
                if has_restart_policy || exit_code.is_none() {
                    InspectDecision::Immediate
                } else {
                    InspectDecision::Skip
                }
            }
            ContainerEvent::OutOfMemory => {
                self.oom_events = self.oom_events.saturating_add(1);
                InspectDecision::Skip
            }
            ContainerEvent::Paused => {
                self.state = ContainerState::Paused;
                InspectDecision::Skip
            }
            ContainerEvent::Unpaused => {
                self.state = ContainerState::Running;
                InspectDecision::Skip
            }
            ContainerEvent::Renamed(name) => {
                self.name = name;
                InspectDecision::Skip
            }
            ContainerEvent::HealthChecked(Some(health)) => {
                self.set_health(health);
                InspectDecision::Skip
            }
            ContainerEvent::HealthChecked(None) => InspectDecision::Throttled,
        }
    }

    /// Health says something only while there is a process.
    fn set_health(&mut self, health: Health) {
        self.health = Some(health).filter(|_| self.state.is_alive());
    }
}

/// A container of which only the list is known.
fn provisional(listed: ListedContainer) -> Option<Container> {
    Some(Container {
        state: listed.state?,
        id: listed.id,
        name: listed.name,
        image: listed.image,
        image_id: listed.image_id,
        labels: listed.labels,
        pid: None,
        cgroup_parent: None,
        restart_count: None,
        exit_code: None,
        oom_events: 0,
        health: None,
        created: listed.created,
        started: None,
        finished: None,
        memory_limit: None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// An engine, and what is known beside it.
    struct CacheFixture {
        engine: Engine,
        cache: ContainerCache,
    }

    impl CacheFixture {
        /// With one container that runs and has been asked about.
        fn with_web() -> Self {
            let mut world = Self {
                engine: Engine::new(PathBuf::from("/run/x.sock")),
                cache: ContainerCache::default(),
            };
            assert_eq!(
                world.apply_list(&[("web", ContainerState::Running)]),
                ["web"]
            );
            world.inspect("web", ContainerState::Running, false);
            world
        }

        fn apply_list(&mut self, list: &[(&str, ContainerState)]) -> Vec<String> {
            let list = list.iter().map(|(id, state)| ListedContainer {
                id: (*id).to_owned(),
                name: (*id).to_owned(),
                image: String::new(),
                image_id: String::new(),
                labels: Vec::new(),
                state: Some(*state),
                created: None,
            });
            self.cache.apply_list(&mut self.engine, list.collect())
        }

        fn container(id: &str, state: ContainerState) -> Container {
            Container {
                id: id.to_owned(),
                name: id.to_owned(),
                image: "bb:1".to_owned(),
                image_id: String::new(),
                labels: Vec::new(),
                state,
                pid: state.is_alive().then_some(7),
                cgroup_parent: None,
                restart_count: Some(0),
                exit_code: (state == ContainerState::Exited).then_some(0),
                oom_events: 0,
                health: None,
                created: None,
                started: Some(Duration::from_secs(10)),
                finished: None,
                memory_limit: None,
            }
        }

        fn inspect(&mut self, id: &str, state: ContainerState, has_restart_policy: bool) {
            let container = Self::container(id, state);
            self.apply_inspect(container, has_restart_policy);
        }

        fn apply_inspect(&mut self, container: Container, has_restart_policy: bool) {
            let inspected = InspectedContainer {
                container,
                has_restart_policy,
            };
            self.cache.apply_inspect(&mut self.engine, inspected);
        }

        fn apply_event(&mut self, id: &str, event: ContainerEvent) -> NextAction {
            let at = Some(Duration::from_secs(20));
            let id = id.to_owned();
            let event = EngineEvent::Container {
                id,
                event,
                time: at,
            };
            self.cache.apply_event(&mut self.engine, event)
        }

        fn ids(&self) -> Vec<&str> {
            self.engine.containers.keys().map(String::as_str).collect()
        }

        fn web(&self) -> &Container {
            &self.engine.containers["web"]
        }
    }

    fn inspect_action(id: &str) -> NextAction {
        NextAction::Inspect(id.to_owned())
    }

    #[test]
    fn of_a_list_only_the_new_and_the_changed_are_asked_about() {
        let mut world = CacheFixture::with_web();
        let running = ContainerState::Running;
        assert!(world.apply_list(&[("web", running)]).is_empty());
        let both = [("web", running), ("db", running)];
        assert_eq!(world.apply_list(&both), ["db"]);
        // Known already, but not yet described.
        assert_eq!(world.apply_list(&both), ["db"]);
        let paused = [("web", ContainerState::Paused), ("db", running)];
        assert_eq!(world.apply_list(&paused), ["web", "db"]);
    }

    #[test]
    fn what_a_list_lacks_is_gone() {
        let mut world = CacheFixture::with_web();
        world.apply_list(&[("db", ContainerState::Running)]);
        assert_eq!(world.ids(), ["db"]);
        // Nothing of it is left: should it come back, it is new.
        let web = [("web", ContainerState::Running)];
        assert_eq!(world.apply_list(&web), ["web"]);
    }

    #[test]
    fn a_listed_container_is_shown_before_it_is_described_and_not_for_longer_than_it_is_true() {
        let mut world = CacheFixture::with_web();
        world.apply_list(&[("web", ContainerState::Exited)]);
        // What the list says of a known one is not believed more than its description.
        assert_eq!(
            (world.web().state, world.web().pid),
            (ContainerState::Running, Some(7))
        );
        world.apply_list(&[("db", ContainerState::Paused)]);
        let db = &world.engine.containers["db"];
        assert_eq!(
            (db.state, db.pid, db.restart_count),
            (ContainerState::Paused, None, None)
        );
    }

    #[test]
    fn containers_beyond_the_bound_are_left_out_and_counted() {
        let mut world = CacheFixture::with_web();
        let ids: Vec<String> = (0..MAX_CONTAINERS + 5).map(|n| n.to_string()).collect();
        let list: Vec<_> = ids
            .iter()
            .map(|id| (id.as_str(), ContainerState::Exited))
            .collect();
        assert_eq!(world.apply_list(&list).len(), MAX_CONTAINERS);
        assert_eq!(world.engine.containers.len(), MAX_CONTAINERS);
        assert_eq!(world.cache.dropped, 5);
        assert_eq!(
            world.apply_event("new", ContainerEvent::Created),
            NextAction::Nothing
        );
        world.inspect("new", ContainerState::Running, false);
        assert!(!world.engine.containers.contains_key("new"));
        world.apply_list(&[("web", ContainerState::Running)]);
        assert_eq!(world.cache.dropped, 0);
    }

    #[test]
    fn an_event_of_somebody_unknown_lets_it_be_asked_about() {
        let mut world = CacheFixture::with_web();
        assert_eq!(
            world.apply_event("db", ContainerEvent::Started),
            inspect_action("db")
        );
        assert_eq!(world.ids(), ["web"]);
        // Who is gone before anybody asked is not asked about.
        let gone = NextAction::CancelInspect("db".to_owned());
        assert_eq!(world.apply_event("db", ContainerEvent::Removed), gone);
    }

    #[test]
    fn a_start_is_known_at_once_and_the_process_when_it_is_asked_about() {
        let mut world = CacheFixture::with_web();
        world.inspect("web", ContainerState::Exited, false);
        assert_eq!(
            world.apply_event("web", ContainerEvent::Started),
            inspect_action("web")
        );
        let web = world.web();
        assert_eq!(
            (web.state, web.exit_code, web.pid),
            (ContainerState::Running, None, None)
        );
        assert_eq!(web.started, Some(Duration::from_secs(20)));
    }

    #[test]
    fn an_end_says_all_unless_the_engine_starts_it_again() {
        let died = |exit_code| ContainerEvent::Died { exit_code };
        let mut world = CacheFixture::with_web();
        assert_eq!(world.apply_event("web", died(Some(3))), NextAction::Nothing);
        let web = world.web();
        assert_eq!(
            (web.state, web.exit_code, web.pid),
            (ContainerState::Exited, Some(3), None)
        );
        assert_eq!(web.finished, Some(Duration::from_secs(20)));
        assert_eq!(world.apply_event("web", died(None)), inspect_action("web"));
        world.inspect("web", ContainerState::Running, true);
        assert_eq!(
            world.apply_event("web", died(Some(3))),
            inspect_action("web")
        );
        // Of whom nobody knows whether it is.
        world.apply_list(&[
            ("web", ContainerState::Running),
            ("db", ContainerState::Running),
        ]);
        assert_eq!(world.apply_event("db", died(Some(3))), inspect_action("db"));
    }

    #[test]
    fn health_is_that_of_who_runs() {
        let mut world = CacheFixture::with_web();
        let well = || ContainerEvent::HealthChecked(Some(Health::Healthy));
        assert_eq!(world.apply_event("web", well()), NextAction::Nothing);
        assert_eq!(world.web().health, Some(Health::Healthy));
        let seldom = NextAction::InspectThrottled("web".to_owned());
        assert_eq!(
            world.apply_event("web", ContainerEvent::HealthChecked(None)),
            seldom
        );
        assert_eq!(world.web().health, Some(Health::Healthy));
        world.apply_event("web", ContainerEvent::Died { exit_code: Some(0) });
        assert_eq!(world.web().health, None);
        world.apply_event("web", well());
        assert_eq!(world.web().health, None);
    }

    #[test]
    fn a_lack_of_memory_is_counted_whatever_a_description_says() {
        let mut world = CacheFixture::with_web();
        for _ in 0..2 {
            assert_eq!(
                world.apply_event("web", ContainerEvent::OutOfMemory),
                NextAction::Nothing
            );
        }
        world.inspect("web", ContainerState::Exited, false);
        assert_eq!(world.web().oom_events, 2);
        world.apply_event("web", ContainerEvent::Removed);
        world.inspect("web", ContainerState::Running, false);
        assert_eq!(world.web().oom_events, 0);
    }

    #[test]
    fn a_lack_of_memory_is_counted_before_the_container_is_described() {
        let mut world = CacheFixture::with_web();
        assert_eq!(
            world.apply_event("db", ContainerEvent::OutOfMemory),
            inspect_action("db")
        );
        world.inspect("db", ContainerState::Exited, false);
        world.inspect("db", ContainerState::Exited, false);
        assert_eq!(world.engine.containers["db"].oom_events, 1);
        world.apply_event("shop", ContainerEvent::OutOfMemory);
        world.apply_event("shop", ContainerEvent::Removed);
        world.inspect("shop", ContainerState::Running, false);
        assert_eq!(world.engine.containers["shop"].oom_events, 0);
    }

    #[test]
    fn pauses_and_names_are_told_in_full() {
        let mut world = CacheFixture::with_web();
        assert_eq!(
            world.apply_event("web", ContainerEvent::Paused),
            NextAction::Nothing
        );
        assert_eq!(
            (world.web().state, world.web().pid),
            (ContainerState::Paused, Some(7))
        );
        assert_eq!(
            world.apply_event("web", ContainerEvent::Unpaused),
            NextAction::Nothing
        );
        assert_eq!(world.web().state, ContainerState::Running);
        let renamed = ContainerEvent::Renamed("shop".to_owned());
        assert_eq!(world.apply_event("web", renamed), NextAction::Nothing);
        assert_eq!(world.web().name, "shop");
        assert_eq!(
            world.apply_event("web", ContainerEvent::Changed),
            inspect_action("web")
        );
    }

    #[test]
    fn an_end_before_the_start_is_not_believed() {
        let mut world = CacheFixture::with_web();
        world.apply_event("web", ContainerEvent::Died { exit_code: Some(0) });
        let mut container = CacheFixture::container("web", ContainerState::Exited);
        container.finished = Some(Duration::from_secs(5));
        world.apply_inspect(container.clone(), false);
        assert_eq!(world.web().finished, Some(Duration::from_secs(20)));
        // Of who runs it is the end of the time before.
        container.state = ContainerState::Running;
        world.apply_inspect(container, false);
        assert_eq!(world.web().finished, Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_did_not_change_stays_the_very_same() {
        let mut world = CacheFixture::with_web();
        let before = Arc::clone(&world.engine.containers["web"]);
        world.inspect("web", ContainerState::Running, false);
        world.apply_event("web", ContainerEvent::Unpaused);
        world.apply_list(&[("web", ContainerState::Running)]);
        // What is rendered once for each container need not be made anew.
        assert!(Arc::ptr_eq(&before, &world.engine.containers["web"]));
    }

    #[test]
    fn what_is_not_of_a_container_changes_none() {
        let mut world = CacheFixture::with_web();
        let mut tell = |event| world.cache.apply_event(&mut world.engine, event);
        assert_eq!(tell(EngineEvent::Image), NextAction::ListImages);
        assert_eq!(tell(EngineEvent::Reloaded), NextAction::Resync);
        assert_eq!(tell(EngineEvent::Other), NextAction::Nothing);
    }
}
