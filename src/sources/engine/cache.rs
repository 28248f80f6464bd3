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
        container.oom_events = known.map_or(0, |known| known.oom_events);
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
