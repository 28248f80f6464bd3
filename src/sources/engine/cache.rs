//! What becomes of the copy when an engine lists, describes or tells something. Asks
//! nobody: it says who has to be asked.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Container, Engine, Health, State,
    answers::{Event, Happened, Inspected, Listed},
};

/// Of more containers that nobody has described yet no events are kept.
const MAX_EARLY: usize = 1000;
/// Containers of one engine; more are left out.
pub(super) const MAX_CONTAINERS: usize = 20_000;

/// What is to be done after an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    #[default]
    Nothing,
    /// To ask about a container.
    Ask(String),
    /// To ask about a container, but not often: engines tell of this over and over.
    AskSeldom(String),
    /// To ask no more about a container.
    Forget(String),
    /// To list the images.
    ListImages,
    /// To begin anew with everything.
    ListAll,
}

/// What is known of containers beside what is shown.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Whether the engine starts a container again, by id.
    restarted: HashMap<String, bool>,
    /// Out-of-memory events of containers that nobody has described yet, by id.
    early_oom_events: HashMap<String, u64>,
    /// Containers that the last list had and that are not shown.
    pub(super) left_out: usize,
}

impl Cache {
    /// Takes in a list of all containers. Returns the ids of those to ask about: the new
    /// and the changed.
    pub(super) fn listed(&mut self, engine: &mut Engine, list: Vec<Listed>) -> Vec<String> {
        let ids: HashSet<&str> = list.iter().map(|listed| listed.id.as_str()).collect();
        engine.containers.retain(|id, _| ids.contains(id.as_str()));
        self.restarted.retain(|id, _| ids.contains(id.as_str()));
        drop(ids);
        self.left_out = 0;
        let mut to_ask = Vec::new();
        for listed in list {
            let id = listed.id.clone();
            match engine.containers.get(&id) {
                Some(known) => {
                    let is_same = known.name == listed.name
                        && listed.state.is_none_or(|state| state == known.state);
                    if is_same && self.restarted.contains_key(&id) {
                        continue;
                    }
                }
                None if engine.containers.len() >= MAX_CONTAINERS => {
                    self.left_out += 1;
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
    pub(super) fn inspected(&mut self, engine: &mut Engine, inspected: Inspected) {
        let Inspected {
            mut container,
            is_restarted,
        } = inspected;
        let known = engine.containers.get(&container.id);
        if known.is_none() && engine.containers.len() >= MAX_CONTAINERS {
            return;
        }
        let early = self.early_oom_events.remove(&container.id).unwrap_or(0);
        container.oom_events = known
            .map_or(0, |known| known.oom_events)
            .saturating_add(early);
        // Docker 20.10 may say of the last end of several that it was before its start.
        if !container.state.is_alive() && container.finished < container.started {
            let told = known.and_then(|known| known.finished);
            container.finished = container.finished.max(told);
        }
        self.restarted.insert(container.id.clone(), is_restarted);
        if known.is_none_or(|known| **known != container) {
            let id = container.id.clone();
            engine.containers.insert(id, Arc::new(container));
        }
    }

    /// Drops a container.
    pub(super) fn removed(&mut self, engine: &mut Engine, id: &str) {
        engine.containers.remove(id);
        self.restarted.remove(id);
        self.early_oom_events.remove(id);
    }

    /// Takes in an event.
    pub(super) fn happened(&mut self, engine: &mut Engine, event: Event) -> Next {
        let (id, what, at) = match event {
            Event::Container { id, what, at } => (id, what, at),
            Event::Image => return Next::ListImages,
            Event::Reloaded => return Next::ListAll,
            Event::Other => return Next::Nothing,
        };
        if what == Happened::Removed {
            self.removed(engine, &id);
            return Next::Forget(id);
        }
        let Some(known) = engine.containers.get_mut(&id) else {
            if what == Happened::OutOfMemory && self.early_oom_events.len() < MAX_EARLY {
                let events = self.early_oom_events.entry(id.clone()).or_default();
                *events = events.saturating_add(1);
            }
            return match engine.containers.len() {
                MAX_CONTAINERS.. => Next::Nothing,
                _ => Next::Ask(id),
            };
        };
        let mut container = Container::clone(known);
        let is_restarted = self.restarted.get(&id).copied();
        let next = container.after(what, at, is_restarted.unwrap_or(true));
        if **known != container {
            *known = Arc::new(container);
        }
        match next {
            Ask::No => Next::Nothing,
            Ask::Soon => Next::Ask(id),
            Ask::Seldom => Next::AskSeldom(id),
        }
    }
}

/// Whether to ask about a container.
enum Ask {
    No,
    Soon,
    Seldom,
}

impl Container {
    /// Changes as something happened, of which an event says less than the engine knows.
    fn after(&mut self, what: Happened, at: Option<Duration>, is_restarted: bool) -> Ask {
        match what {
            Happened::Created | Happened::Changed | Happened::Removed => Ask::Soon,
            Happened::Started => {
                self.state = State::Running;
                self.exit_code = None;
                // Until it is asked about, its process is not known.
                self.pid = None;
                self.started = at.or(self.started);
                Ask::Soon
            }
            Happened::Died { exit_code } => {
                self.state = State::Exited;
                self.pid = None;
                self.health = None;
                self.exit_code = exit_code;
                self.finished = at.or(self.finished);
                if is_restarted || exit_code.is_none() {
                    Ask::Soon
                } else {
                    Ask::No
                }
            }
            Happened::OutOfMemory => {
                self.oom_events = self.oom_events.saturating_add(1);
                Ask::No
            }
            Happened::Paused => {
                self.state = State::Paused;
                Ask::No
            }
            Happened::Unpaused => {
                self.state = State::Running;
                Ask::No
            }
            Happened::Renamed(name) => {
                self.name = name;
                Ask::No
            }
            Happened::Checked(Some(health)) => {
                self.checked(health);
                Ask::No
            }
            Happened::Checked(None) => Ask::Seldom,
        }
    }

    /// Health says something only while there is a process.
    fn checked(&mut self, health: Health) {
        self.health = Some(health).filter(|_| self.state.is_alive());
    }
}

/// A container of which only the list is known.
fn provisional(listed: Listed) -> Option<Container> {
    Some(Container {
        state: listed.state?,
        id: listed.id,
        name: listed.name,
        image: listed.image,
        image_id: listed.image_id,
        labels: listed.labels,
        pid: None,
        cgroup_parent: None,
        restarts: None,
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
    struct World {
        engine: Engine,
        cache: Cache,
    }

    impl World {
        /// With one container that runs and has been asked about.
        fn with_web() -> Self {
            let mut world = Self {
                engine: Engine::at(PathBuf::from("/run/x.sock")),
                cache: Cache::default(),
            };
            assert_eq!(world.listed(&[("web", State::Running)]), ["web"]);
            world.inspected("web", State::Running, false);
            world
        }

        fn listed(&mut self, list: &[(&str, State)]) -> Vec<String> {
            let list = list.iter().map(|(id, state)| Listed {
                id: (*id).to_owned(),
                name: (*id).to_owned(),
                image: String::new(),
                image_id: String::new(),
                labels: Vec::new(),
                state: Some(*state),
                created: None,
            });
            self.cache.listed(&mut self.engine, list.collect())
        }

        fn described(id: &str, state: State) -> Container {
            Container {
                id: id.to_owned(),
                name: id.to_owned(),
                image: "bb:1".to_owned(),
                image_id: String::new(),
                labels: Vec::new(),
                state,
                pid: state.is_alive().then_some(7),
                cgroup_parent: None,
                restarts: Some(0),
                exit_code: (state == State::Exited).then_some(0),
                oom_events: 0,
                health: None,
                created: None,
                started: Some(Duration::from_secs(10)),
                finished: None,
                memory_limit: None,
            }
        }

        fn inspected(&mut self, id: &str, state: State, is_restarted: bool) {
            let container = Self::described(id, state);
            self.describe(container, is_restarted);
        }

        fn describe(&mut self, container: Container, is_restarted: bool) {
            let inspected = Inspected {
                container,
                is_restarted,
            };
            self.cache.inspected(&mut self.engine, inspected);
        }

        fn happened(&mut self, id: &str, what: Happened) -> Next {
            let at = Some(Duration::from_secs(20));
            let id = id.to_owned();
            let event = Event::Container { id, what, at };
            self.cache.happened(&mut self.engine, event)
        }

        fn ids(&self) -> Vec<&str> {
            self.engine.containers.keys().map(String::as_str).collect()
        }

        fn web(&self) -> &Container {
            &self.engine.containers["web"]
        }
    }

    fn ask(id: &str) -> Next {
        Next::Ask(id.to_owned())
    }

    #[test]
    fn of_a_list_only_the_new_and_the_changed_are_asked_about() {
        let mut world = World::with_web();
        let running = State::Running;
        assert!(world.listed(&[("web", running)]).is_empty());
        let both = [("web", running), ("db", running)];
        assert_eq!(world.listed(&both), ["db"]);
        // Known already, but not yet described.
        assert_eq!(world.listed(&both), ["db"]);
        let paused = [("web", State::Paused), ("db", running)];
        assert_eq!(world.listed(&paused), ["web", "db"]);
    }

    #[test]
    fn what_a_list_lacks_is_gone() {
        let mut world = World::with_web();
        world.listed(&[("db", State::Running)]);
        assert_eq!(world.ids(), ["db"]);
        // Nothing of it is left: should it come back, it is new.
        let web = [("web", State::Running)];
        assert_eq!(world.listed(&web), ["web"]);
    }

    #[test]
    fn a_listed_container_is_shown_before_it_is_described_and_not_for_longer_than_it_is_true() {
        let mut world = World::with_web();
        world.listed(&[("web", State::Exited)]);
        // What the list says of a known one is not believed more than its description.
        assert_eq!(
            (world.web().state, world.web().pid),
            (State::Running, Some(7))
        );
        world.listed(&[("db", State::Paused)]);
        let db = &world.engine.containers["db"];
        assert_eq!((db.state, db.pid, db.restarts), (State::Paused, None, None));
    }

    #[test]
    fn containers_beyond_the_bound_are_left_out_and_counted() {
        let mut world = World::with_web();
        let ids: Vec<String> = (0..MAX_CONTAINERS + 5).map(|n| n.to_string()).collect();
        let list: Vec<_> = ids.iter().map(|id| (id.as_str(), State::Exited)).collect();
        assert_eq!(world.listed(&list).len(), MAX_CONTAINERS);
        assert_eq!(world.engine.containers.len(), MAX_CONTAINERS);
        assert_eq!(world.cache.left_out, 5);
        assert_eq!(world.happened("new", Happened::Created), Next::Nothing);
        world.inspected("new", State::Running, false);
        assert!(!world.engine.containers.contains_key("new"));
        world.listed(&[("web", State::Running)]);
        assert_eq!(world.cache.left_out, 0);
    }

    #[test]
    fn an_event_of_somebody_unknown_lets_it_be_asked_about() {
        let mut world = World::with_web();
        assert_eq!(world.happened("db", Happened::Started), ask("db"));
        assert_eq!(world.ids(), ["web"]);
        // Who is gone before anybody asked is not asked about.
        let gone = Next::Forget("db".to_owned());
        assert_eq!(world.happened("db", Happened::Removed), gone);
    }

    #[test]
    fn a_start_is_known_at_once_and_the_process_when_it_is_asked_about() {
        let mut world = World::with_web();
        world.inspected("web", State::Exited, false);
        assert_eq!(world.happened("web", Happened::Started), ask("web"));
        let web = world.web();
        assert_eq!(
            (web.state, web.exit_code, web.pid),
            (State::Running, None, None)
        );
        assert_eq!(web.started, Some(Duration::from_secs(20)));
    }

    #[test]
    fn an_end_says_all_unless_the_engine_starts_it_again() {
        let died = |exit_code| Happened::Died { exit_code };
        let mut world = World::with_web();
        assert_eq!(world.happened("web", died(Some(3))), Next::Nothing);
        let web = world.web();
        assert_eq!(
            (web.state, web.exit_code, web.pid),
            (State::Exited, Some(3), None)
        );
        assert_eq!(web.finished, Some(Duration::from_secs(20)));
        assert_eq!(world.happened("web", died(None)), ask("web"));
        world.inspected("web", State::Running, true);
        assert_eq!(world.happened("web", died(Some(3))), ask("web"));
        // Of whom nobody knows whether it is.
        world.listed(&[("web", State::Running), ("db", State::Running)]);
        assert_eq!(world.happened("db", died(Some(3))), ask("db"));
    }

    #[test]
    fn health_is_that_of_who_runs() {
        let mut world = World::with_web();
        let well = || Happened::Checked(Some(Health::Healthy));
        assert_eq!(world.happened("web", well()), Next::Nothing);
        assert_eq!(world.web().health, Some(Health::Healthy));
        let seldom = Next::AskSeldom("web".to_owned());
        assert_eq!(world.happened("web", Happened::Checked(None)), seldom);
        assert_eq!(world.web().health, Some(Health::Healthy));
        world.happened("web", Happened::Died { exit_code: Some(0) });
        assert_eq!(world.web().health, None);
        world.happened("web", well());
        assert_eq!(world.web().health, None);
    }

    #[test]
    fn a_lack_of_memory_is_counted_whatever_a_description_says() {
        let mut world = World::with_web();
        for _ in 0..2 {
            assert_eq!(world.happened("web", Happened::OutOfMemory), Next::Nothing);
        }
        world.inspected("web", State::Exited, false);
        assert_eq!(world.web().oom_events, 2);
        world.happened("web", Happened::Removed);
        world.inspected("web", State::Running, false);
        assert_eq!(world.web().oom_events, 0);
    }

    #[test]
    fn a_lack_of_memory_is_counted_before_the_container_is_described() {
        let mut world = World::with_web();
        assert_eq!(world.happened("db", Happened::OutOfMemory), ask("db"));
        world.inspected("db", State::Exited, false);
        world.inspected("db", State::Exited, false);
        assert_eq!(world.engine.containers["db"].oom_events, 1);
        world.happened("shop", Happened::OutOfMemory);
        world.happened("shop", Happened::Removed);
        world.inspected("shop", State::Running, false);
        assert_eq!(world.engine.containers["shop"].oom_events, 0);
    }

    #[test]
    fn pauses_and_names_are_told_in_full() {
        let mut world = World::with_web();
        assert_eq!(world.happened("web", Happened::Paused), Next::Nothing);
        assert_eq!(
            (world.web().state, world.web().pid),
            (State::Paused, Some(7))
        );
        assert_eq!(world.happened("web", Happened::Unpaused), Next::Nothing);
        assert_eq!(world.web().state, State::Running);
        let renamed = Happened::Renamed("shop".to_owned());
        assert_eq!(world.happened("web", renamed), Next::Nothing);
        assert_eq!(world.web().name, "shop");
        assert_eq!(world.happened("web", Happened::Changed), ask("web"));
    }

    #[test]
    fn an_end_before_the_start_is_not_believed() {
        let mut world = World::with_web();
        world.happened("web", Happened::Died { exit_code: Some(0) });
        let mut container = World::described("web", State::Exited);
        container.finished = Some(Duration::from_secs(5));
        world.describe(container.clone(), false);
        assert_eq!(world.web().finished, Some(Duration::from_secs(20)));
        // Of who runs it is the end of the time before.
        container.state = State::Running;
        world.describe(container, false);
        assert_eq!(world.web().finished, Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_did_not_change_stays_the_very_same() {
        let mut world = World::with_web();
        let before = Arc::clone(&world.engine.containers["web"]);
        world.inspected("web", State::Running, false);
        world.happened("web", Happened::Unpaused);
        world.listed(&[("web", State::Running)]);
        // What is rendered once for each container need not be made anew.
        assert!(Arc::ptr_eq(&before, &world.engine.containers["web"]));
    }

    #[test]
    fn what_is_not_of_a_container_changes_none() {
        let mut world = World::with_web();
        let mut tell = |event| world.cache.happened(&mut world.engine, event);
        assert_eq!(tell(Event::Image), Next::ListImages);
        assert_eq!(tell(Event::Reloaded), Next::ListAll);
        assert_eq!(tell(Event::Other), Next::Nothing);
    }
}
