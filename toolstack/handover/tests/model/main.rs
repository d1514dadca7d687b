//! Every way in which one handover between two hosts can go, searched exhaustively.
//!
//! What decides is the crate's own: the states, `after`, `step` and the answers to questions. The
//! model brings what they decide about:
//!
//! - on each host a copy of the domain, a record, a session with its guard, recoveries that begin
//!   at any time, and processes that answer questions;
//! - each write of a record, each rename, resume, destroy, unpause and boot is one step, and
//!   anything may happen between two steps. A process that is stopped, or a message that is late,
//!   is one whose next step comes late;
//! - a session stops waiting at any time. So a connection that is cut needs no move of its own:
//!   what was under way has arrived before that, or never does;
//! - a question that was asked once may be executed at any later time, any number of times, whether
//!   or not somebody still waits for the answer;
//! - faults in any number: a session, its guard, a recovery or an answering process is killed, also
//!   between writing a line and its being on the disk; a host loses its power, and with it such a
//!   line or not; the copy is destroyed by an administrator or ends by itself;
//! - a record that has ended is removed at any time.
//!
//! `world` has the state, `moves` the steps, `source` and `target` the two sessions, `recovery` and
//! `answers` the other processes, `properties` what has to hold, `faults` what the search has to
//! find when it is put in.
//! docs/decisions/0034-presumed-abort.md tells what it found.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod answers;
mod endings;
mod faults;
mod moves;
mod properties;
mod recovery;
mod rules;
mod source;
mod target;
mod world;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use endings::EndsWell;
use faults::FAULTS;
use moves::Action;
use rules::Rules;
use world::World;

/// Threads of the checker.
const THREADS: usize = 2;

const NEVER_TWO: &str = "at most one copy runs";
const NEVER_OLD: &str = "once a host has run it, the other never does";
const NEVER_STUCK: &str = "nobody stops before that end";
const EVENTUALLY: &str = "it comes to run on one host, and nothing is left to do";

struct Handover {
    rules: Rules,
    ends_well: EndsWell,
    /// The only property that is looked at, or none for all of them.
    only: Option<&'static str>,
}

impl Handover {
    fn by(rules: Rules) -> Self {
        Self { rules, ends_well: EndsWell::default(), only: None }
    }
}

impl Model for Handover {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::begin()]
    }

    fn actions(&self, _: &World, actions: &mut Vec<Action>) {
        moves::all(actions);
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = *last;
        (moves::apply(&self.rules, &mut world, action) && world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = properties::all();
        properties.retain(|property| self.only.is_none_or(|only| only == property.name));
        properties
    }
}

/// Everything holds in every state that can be reached, and every way to end is reached.
fn holds(rules: Rules, at_least: usize) {
    let began = Instant::now();
    let checker = Handover::by(rules).checker().threads(THREADS).spawn_bfs().join();
    println!(
        "{} states, {} transitions, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f32()
    );
    checker.assert_properties();
    assert!(checker.unique_state_count() >= at_least, "the model has lost states");
}

#[test]
fn any_number_of_faults_ends_with_one_domain() {
    holds(Rules::own(None), 164_000);
}

/// Questions that nobody waits for are answered by two processes at once.
#[test]
#[ignore = "half a minute: make soak"]
fn any_number_of_faults_and_two_late_answers_end_with_one_domain() {
    holds(Rules { stale_servers: 2, ..Rules::own(None) }, 571_000);
}

/// With one thread the search is by breadth, and finds a shortest way.
#[test]
fn each_fault_that_is_put_in_is_found() {
    for fault in FAULTS {
        let mut model = Handover::by(Rules::own(None));
        (fault.put)(&mut model.rules);
        model.only = Some(fault.breaks);
        let checker = model.checker().finish_when(HasDiscoveries::Any).spawn_bfs().join();
        let path = checker.assert_any_discovery(fault.breaks);
        let actions = path.clone().into_actions();
        println!("{}: {} steps: {actions:?}", fault.name, actions.len());
        println!("{:?}", path.last_state());
        assert_eq!(actions.len(), fault.steps, "{}", fault.name);
    }
}
