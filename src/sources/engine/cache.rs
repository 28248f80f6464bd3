//! Updates the cached containers from lists, inspect responses and events. Makes no requests: it
//! returns what the watcher has to request.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Container, ContainerState, Engine, Health,
    api_types::{ContainerEvent, EngineEvent, InspectedContainer, ListedContainer},
};

/// Maximum number of containers not yet inspected whose out-of-memory events are counted.
const MAX_PENDING_OOM: usize = 1000;
/// Maximum number of containers of one engine; the rest are dropped.
pub(super) const MAX_CONTAINERS: usize = 20_000;

/// What the watcher has to do after an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum NextAction {
    /// Nothing.
    #[default]
    Nothing,
    /// Inspect the container.
    Inspect(String),
    /// Inspect the container, at a limited rate, because engines repeat this event often.
    InspectThrottled(String),
    /// Cancel pending inspects of the container.
    CancelInspect(String),
    /// List the images.
    ListImages,
    /// List and inspect everything again.
    Resync,
}

/// What is needed besides [`Engine::containers`] to keep these up to date.
#[derive(Debug, Default)]
pub(super) struct ContainerCache {
    /// Whether an inspected container has a restart policy, by ID; others are not in the map.
    restart_policies: HashMap<String, bool>,
    /// Out-of-memory events of containers not yet inspected, by ID.
    pending_oom_events: HashMap<String, u64>,
    /// Number of containers in the last list that were dropped.
    pub(super) dropped: usize,
}

impl ContainerCache {
    /// Applies a list of all containers. Returns the IDs to inspect: new and changed ones.
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
        let mut to_inspect = Vec::new();
        for listed in list {
            let id = listed.id.clone();
            match engine.containers.get(&id) {
                Some(cached) => {
                    let is_same = cached.name == listed.name
                        && listed.state.is_none_or(|state| state == cached.state);
                    if is_same && self.restart_policies.contains_key(&id) {
                        continue;
                    }
                }
                None if engine.containers.len() >= MAX_CONTAINERS => {
                    self.dropped += 1;
                    continue;
                }
                None => {
                    if let Some(container) = container_from_list(listed) {
                        engine.containers.insert(id.clone(), Arc::new(container));
                    }
                }
            }
            to_inspect.push(id);
        }
        to_inspect
    }

    /// Applies an inspect response.
    pub(super) fn apply_inspect(&mut self, engine: &mut Engine, inspected: InspectedContainer) {
        let InspectedContainer {
            mut container,
            has_restart_policy,
        } = inspected;
        let cached = engine.containers.get(&container.id);
        if cached.is_none() && engine.containers.len() >= MAX_CONTAINERS {
            return;
        }
        let pending = self.pending_oom_events.remove(&container.id).unwrap_or(0);
        container.oom_events = cached
            .map_or(0, |cached| cached.oom_events)
            .saturating_add(pending);
        // After several runs, Docker 20.10 may report a last exit earlier than the last start.
        if !container.state.is_alive() && container.finished < container.started {
            let finished = cached.and_then(|cached| cached.finished);
            container.finished = container.finished.max(finished);
        }
        self.restart_policies
            .insert(container.id.clone(), has_restart_policy);
        if cached.is_none_or(|cached| **cached != container) {
            let id = container.id.clone();
            engine.containers.insert(id, Arc::new(container));
        }
    }

    /// Removes a container.
    pub(super) fn remove(&mut self, engine: &mut Engine, id: &str) {
        engine.containers.remove(id);
        self.restart_policies.remove(id);
        self.pending_oom_events.remove(id);
    }

    /// Applies an event.
    pub(super) fn apply_event(&mut self, engine: &mut Engine, event: EngineEvent) -> NextAction {
        let (id, event, time) = match event {
            EngineEvent::Container { id, event, time } => (id, event, time),
            EngineEvent::Image => return NextAction::ListImages,
            EngineEvent::Reloaded => return NextAction::Resync,
            EngineEvent::Other => return NextAction::Nothing,
        };
        if event == ContainerEvent::Removed {
            self.remove(engine, &id);
            return NextAction::CancelInspect(id);
        }
        let Some(cached) = engine.containers.get_mut(&id) else {
            if event == ContainerEvent::OutOfMemory
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
        let mut container = Container::clone(cached);
        let has_restart_policy = self.restart_policies.get(&id).copied();
        let decision = container.apply_event(event, time, has_restart_policy.unwrap_or(true));
        if **cached != container {
            *cached = Arc::new(container);
        }
        match decision {
            InspectDecision::Skip => NextAction::Nothing,
            InspectDecision::Immediate => NextAction::Inspect(id),
            InspectDecision::Throttled => NextAction::InspectThrottled(id),
        }
    }
}

/// Whether, and how soon, to inspect a container.
enum InspectDecision {
    Skip,
    Immediate,
    Throttled,
}

impl Container {
    /// Applies an event. Returns whether to inspect the container for fields that events
    /// lack.
    fn apply_event(
        &mut self,
        event: ContainerEvent,
        time: Option<Duration>,
        has_restart_policy: bool,
    ) -> InspectDecision {
        match event {
            ContainerEvent::Created | ContainerEvent::Changed | ContainerEvent::Removed => {
                InspectDecision::Immediate
            }
            ContainerEvent::Started => {
                self.state = ContainerState::Running;
                self.exit_code = None;
                // Unknown until the container is inspected.
                self.pid = None;
                self.started = time.or(self.started);
                InspectDecision::Immediate
            }
            ContainerEvent::Died { exit_code } => {
                self.state = ContainerState::Exited;
                self.pid = None;
                self.health = None;
                self.exit_code = exit_code;
                self.finished = time.or(self.finished);
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

    /// Sets the health; it applies only while the container has a process.
    fn set_health(&mut self, health: Health) {
        self.health = Some(health).filter(|_| self.state.is_alive());
    }
}

/// Creates a container from its list item; `None` if its state is unknown.
fn container_from_list(listed: ListedContainer) -> Option<Container> {
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

    /// An engine and its cache.
    struct CacheFixture {
        engine: Engine,
        cache: ContainerCache,
    }

    impl CacheFixture {
        /// Creates a fixture with one running, inspected container.
        fn with_running_web() -> Self {
            let mut fixture = Self {
                engine: Engine::new(PathBuf::from("/run/x.sock")),
                cache: ContainerCache::default(),
            };
            assert_eq!(
                fixture.apply_list(&[("web", ContainerState::Running)]),
                ["web"]
            );
            fixture.inspect("web", ContainerState::Running, false);
            fixture
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
            let time = Some(Duration::from_secs(20));
            let id = id.to_owned();
            let event = EngineEvent::Container { id, event, time };
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
    fn list_requests_inspects_of_new_and_changed_only() {
        let mut fixture = CacheFixture::with_running_web();
        let running = ContainerState::Running;
        assert!(fixture.apply_list(&[("web", running)]).is_empty());
        let both = [("web", running), ("db", running)];
        assert_eq!(fixture.apply_list(&both), ["db"]);
        // Listed before, but not inspected yet.
        assert_eq!(fixture.apply_list(&both), ["db"]);
        let paused = [("web", ContainerState::Paused), ("db", running)];
        assert_eq!(fixture.apply_list(&paused), ["web", "db"]);
    }

    #[test]
    fn containers_missing_from_list_are_removed() {
        let mut fixture = CacheFixture::with_running_web();
        fixture.apply_list(&[("db", ContainerState::Running)]);
        assert_eq!(fixture.ids(), ["db"]);
        // All its state is removed, so it is inspected again when it is listed again.
        let web = [("web", ContainerState::Running)];
        assert_eq!(fixture.apply_list(&web), ["web"]);
    }

    #[test]
    fn listed_container_is_exposed_until_inspect_contradicts() {
        let mut fixture = CacheFixture::with_running_web();
        fixture.apply_list(&[("web", ContainerState::Exited)]);
        // The list does not overwrite the state of an inspected container.
        assert_eq!(
            (fixture.web().state, fixture.web().pid),
            (ContainerState::Running, Some(7))
        );
        fixture.apply_list(&[("db", ContainerState::Paused)]);
        let db = &fixture.engine.containers["db"];
        assert_eq!(
            (db.state, db.pid, db.restart_count),
            (ContainerState::Paused, None, None)
        );
    }

    #[test]
    fn containers_beyond_limit_are_dropped_and_counted() {
        let mut fixture = CacheFixture::with_running_web();
        let ids: Vec<String> = (0..MAX_CONTAINERS + 5).map(|n| n.to_string()).collect();
        let list: Vec<_> = ids
            .iter()
            .map(|id| (id.as_str(), ContainerState::Exited))
            .collect();
        assert_eq!(fixture.apply_list(&list).len(), MAX_CONTAINERS);
        assert_eq!(fixture.engine.containers.len(), MAX_CONTAINERS);
        assert_eq!(fixture.cache.dropped, 5);
        assert_eq!(
            fixture.apply_event("new", ContainerEvent::Created),
            NextAction::Nothing
        );
        fixture.inspect("new", ContainerState::Running, false);
        assert!(!fixture.engine.containers.contains_key("new"));
        fixture.apply_list(&[("web", ContainerState::Running)]);
        assert_eq!(fixture.cache.dropped, 0);
    }

    #[test]
    fn event_of_unknown_container_requests_inspect() {
        let mut fixture = CacheFixture::with_running_web();
        assert_eq!(
            fixture.apply_event("db", ContainerEvent::Started),
            inspect_action("db")
        );
        assert_eq!(fixture.ids(), ["web"]);
        // A container that is removed before its inspect is not inspected.
        let gone = NextAction::CancelInspect("db".to_owned());
        assert_eq!(fixture.apply_event("db", ContainerEvent::Removed), gone);
    }

    #[test]
    fn start_applies_at_once_and_pid_after_inspect() {
        let mut fixture = CacheFixture::with_running_web();
        fixture.inspect("web", ContainerState::Exited, false);
        assert_eq!(
            fixture.apply_event("web", ContainerEvent::Started),
            inspect_action("web")
        );
        let web = fixture.web();
        assert_eq!(
            (web.state, web.exit_code, web.pid),
            (ContainerState::Running, None, None)
        );
        assert_eq!(web.started, Some(Duration::from_secs(20)));
    }

    #[test]
    fn exit_needs_inspect_only_with_restart_policy() {
        let died = |exit_code| ContainerEvent::Died { exit_code };
        let mut fixture = CacheFixture::with_running_web();
        assert_eq!(
            fixture.apply_event("web", died(Some(3))),
            NextAction::Nothing
        );
        let web = fixture.web();
        assert_eq!(
            (web.state, web.exit_code, web.pid),
            (ContainerState::Exited, Some(3), None)
        );
        assert_eq!(web.finished, Some(Duration::from_secs(20)));
        assert_eq!(
            fixture.apply_event("web", died(None)),
            inspect_action("web")
        );
        fixture.inspect("web", ContainerState::Running, true);
        assert_eq!(
            fixture.apply_event("web", died(Some(3))),
            inspect_action("web")
        );
        // With an unknown restart policy.
        fixture.apply_list(&[
            ("web", ContainerState::Running),
            ("db", ContainerState::Running),
        ]);
        assert_eq!(
            fixture.apply_event("db", died(Some(3))),
            inspect_action("db")
        );
    }

    #[test]
    fn health_applies_only_to_running_containers() {
        let mut fixture = CacheFixture::with_running_web();
        let healthy = || ContainerEvent::HealthChecked(Some(Health::Healthy));
        assert_eq!(fixture.apply_event("web", healthy()), NextAction::Nothing);
        assert_eq!(fixture.web().health, Some(Health::Healthy));
        let throttled = NextAction::InspectThrottled("web".to_owned());
        assert_eq!(
            fixture.apply_event("web", ContainerEvent::HealthChecked(None)),
            throttled
        );
        assert_eq!(fixture.web().health, Some(Health::Healthy));
        fixture.apply_event("web", ContainerEvent::Died { exit_code: Some(0) });
        assert_eq!(fixture.web().health, None);
        fixture.apply_event("web", healthy());
        assert_eq!(fixture.web().health, None);
    }

    #[test]
    fn inspect_keeps_the_count_of_oom_events() {
        let mut fixture = CacheFixture::with_running_web();
        for _ in 0..2 {
            assert_eq!(
                fixture.apply_event("web", ContainerEvent::OutOfMemory),
                NextAction::Nothing
            );
        }
        fixture.inspect("web", ContainerState::Exited, false);
        assert_eq!(fixture.web().oom_events, 2);
        fixture.apply_event("web", ContainerEvent::Removed);
        fixture.inspect("web", ContainerState::Running, false);
        assert_eq!(fixture.web().oom_events, 0);
    }

    #[test]
    fn oom_events_before_first_inspect_are_counted() {
        let mut fixture = CacheFixture::with_running_web();
        assert_eq!(
            fixture.apply_event("db", ContainerEvent::OutOfMemory),
            inspect_action("db")
        );
        fixture.inspect("db", ContainerState::Exited, false);
        fixture.inspect("db", ContainerState::Exited, false);
        assert_eq!(fixture.engine.containers["db"].oom_events, 1);
        fixture.apply_event("shop", ContainerEvent::OutOfMemory);
        fixture.apply_event("shop", ContainerEvent::Removed);
        fixture.inspect("shop", ContainerState::Running, false);
        assert_eq!(fixture.engine.containers["shop"].oom_events, 0);
    }

    #[test]
    fn pause_and_rename_need_no_inspect() {
        let mut fixture = CacheFixture::with_running_web();
        assert_eq!(
            fixture.apply_event("web", ContainerEvent::Paused),
            NextAction::Nothing
        );
        assert_eq!(
            (fixture.web().state, fixture.web().pid),
            (ContainerState::Paused, Some(7))
        );
        assert_eq!(
            fixture.apply_event("web", ContainerEvent::Unpaused),
            NextAction::Nothing
        );
        assert_eq!(fixture.web().state, ContainerState::Running);
        let renamed = ContainerEvent::Renamed("shop".to_owned());
        assert_eq!(fixture.apply_event("web", renamed), NextAction::Nothing);
        assert_eq!(fixture.web().name, "shop");
        assert_eq!(
            fixture.apply_event("web", ContainerEvent::Changed),
            inspect_action("web")
        );
    }

    #[test]
    fn exit_time_before_start_is_replaced() {
        let mut fixture = CacheFixture::with_running_web();
        fixture.apply_event("web", ContainerEvent::Died { exit_code: Some(0) });
        let mut container = CacheFixture::container("web", ContainerState::Exited);
        container.finished = Some(Duration::from_secs(5));
        fixture.apply_inspect(container.clone(), false);
        assert_eq!(fixture.web().finished, Some(Duration::from_secs(20)));
        // For a running container this is when its previous run exited.
        container.state = ContainerState::Running;
        fixture.apply_inspect(container, false);
        assert_eq!(fixture.web().finished, Some(Duration::from_secs(5)));
    }

    #[test]
    fn unchanged_container_keeps_its_arc() {
        let mut fixture = CacheFixture::with_running_web();
        let before = Arc::clone(&fixture.engine.containers["web"]);
        fixture.inspect("web", ContainerState::Running, false);
        fixture.apply_event("web", ContainerEvent::Unpaused);
        fixture.apply_list(&[("web", ContainerState::Running)]);
        // Labels cached per container stay valid.
        assert!(Arc::ptr_eq(&before, &fixture.engine.containers["web"]));
    }

    #[test]
    fn events_of_other_objects_change_no_container() {
        let mut fixture = CacheFixture::with_running_web();
        let mut apply = |event| fixture.cache.apply_event(&mut fixture.engine, event);
        assert_eq!(apply(EngineEvent::Image), NextAction::ListImages);
        assert_eq!(apply(EngineEvent::Reloaded), NextAction::Resync);
        assert_eq!(apply(EngineEvent::Other), NextAction::Nothing);
    }
}
