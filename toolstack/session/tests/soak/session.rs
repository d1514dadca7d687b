//! One session from its beginning to the end of all that goes wrong, and what has to be so then.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rxl_core::names::lock_key;
use rxl_handover::State;
use rxl_handover::source::SourceState;
use rxl_handover::target::TargetState;
use rxl_recover::AnyRecord;

use crate::places::{Place, Side};
use crate::plan::{AFTER_RECOVERIES, Action, HEALED};
use crate::truth::{Copied, Memory, NAME};
use crate::world::{Flaw, World};
use crate::{outward, recovery};

const SIDES: [Side; 2] = [Side::Source, Side::Target];

/// How long a session may go on by itself before recoveries begin.
const FIRST: Duration = Duration::from_millis(150);

/// How long each wait with nothing going wrong may take: a session that tries to put a domain right
/// looks every quarter of a second.
const LAST: Duration = Duration::from_secs(60);

/// Recoveries after which everything has to be settled.
const ROUNDS: u64 = 40;

/// Where the domain is at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    AtSource,
    AtTarget,
    BootedAtSource,
    BootedAtTarget,
}

/// What came of one session.
pub struct Outcome {
    pub ending: Option<Ending>,
    pub wrong: Vec<String>,
    pub hits: Vec<(Place, Action)>,
    pub told: String,
}

pub fn run(seed: u64, dir: &Path, flaw: Option<Flaw>) -> Outcome {
    let world = World::new(seed, dir, flaw);
    outward::spawn(&world);
    world.run_until_quiet(FIRST);
    recover(&world, world.plan.early_recoveries, FIRST);
    world.enter(AFTER_RECOVERIES);
    world.run_until_quiet(FIRST);
    recover(&world, world.plan.early_recoveries, FIRST);
    world.enter(HEALED);
    heal(&world);
    let mut ending = None;
    if settle(&world) {
        ending = end(&world);
        // Questions that were asked long ago are executed.
        world.enter(HEALED + 1);
        let quiet = world.run_until_quiet(LAST);
        if !quiet || end(&world) != ending {
            world.is_wrong("a late question changed the end".into());
        }
    }
    let outcome = outcome(&world, ending);
    for node in &world.nodes {
        node.sweep();
    }
    outcome
}

fn outcome(world: &World, ending: Option<Copied>) -> Outcome {
    let truth = world.truth.lock().unwrap();
    let ending = ending.map(|copied| match (truth.memory_of(copied), copied.side) {
        (Memory::Fresh, Side::Source) => Ending::BootedAtSource,
        (Memory::Fresh, Side::Target) => Ending::BootedAtTarget,
        (_, Side::Source) => Ending::AtSource,
        (_, Side::Target) => Ending::AtTarget,
    });
    let wrong = truth.wrong.clone();
    let told = if wrong.is_empty() { String::new() } else { tell(world) };
    Outcome { ending, wrong, hits: world.hits.lock().unwrap().clone(), told }
}

fn tell(world: &World) -> String {
    let faults: Vec<_> = world.plan.faults.iter().map(|fault| format!("  {fault:?}\n")).collect();
    let struck: Vec<_> =
        world.hits.lock().unwrap().iter().map(|hit| format!("  {hit:?}\n")).collect();
    let places: Vec<_> = world
        .trace
        .lock()
        .unwrap()
        .iter()
        .map(|place| {
            format!("  {:?} {:?} {} {:?}\n", place.side, place.role, place.call, place.when)
        })
        .collect();
    let states = format!(
        "{:?} {:?}",
        world.nodes[0].source_state(&world.id),
        world.nodes[1].target_state(&world.id)
    );
    let (faults, struck, places) = (faults.concat(), struck.concat(), places.concat());
    format!("records: {states}\ndrawn:\n{faults}struck:\n{struck}places:\n{places}")
}

/// Both hosts recover, one after the other or at once.
fn recover(world: &Arc<World>, rounds: u64, patience: Duration) {
    for _ in 0..rounds {
        let at_once = world.roll(|dice| dice.percent(50));
        let first = world.roll(|dice| dice.pick(&SIDES));
        recovery::spawn(world, first);
        if !at_once {
            world.run_until_quiet(patience);
        }
        recovery::spawn(world, first.other());
        world.run_until_quiet(patience);
    }
}

fn heal(world: &World) {
    for node in &world.nodes {
        node.heal();
    }
}

/// Until nothing is open, and no process is left.
fn settle(world: &Arc<World>) -> bool {
    for _ in 0..ROUNDS {
        if !world.run_until_quiet(LAST) {
            world.is_wrong("a process is left".into());
            return false;
        }
        heal(world);
        if SIDES.iter().all(|side| is_settled(world, *side)) {
            return true;
        }
        recover(world, 1, LAST);
    }
    world.is_wrong("it is not settled".into());
    world.truth.lock().unwrap().end(&world.nodes);
    false
}

fn is_settled(world: &World, side: Side) -> bool {
    let node = &world.nodes[side as usize];
    let (memory, journal) = (node.memory(), node.journal());
    let place = node.place(&memory, &journal);
    let Ok(records) = AnyRecord::all(&journal) else { return false };
    records.iter().all(|record| matches!(record.is_open(place), Ok(false)))
}

fn end(world: &World) -> Option<Copied> {
    let [source, target] = &world.nodes;
    let states = (source.source_state(&world.id), target.target_state(&world.id));
    let copied = world.truth.lock().unwrap().end(&world.nodes);
    let agree = match &states {
        (Ok(source), Ok(target)) => agree(*source, *target),
        _ => false,
    };
    if !agree {
        world.is_wrong(format!("the records say {states:?}"));
    }
    let keys = ["domain-1".to_owned(), format!("incoming-{}", lock_key(NAME))];
    for (node, key) in world.nodes.iter().flat_map(|node| keys.iter().map(move |key| (node, key))) {
        if node.state.lock(key, NAME).is_err() {
            world.is_wrong(format!("{key} is locked"));
        }
    }
    copied
}

/// Both are final, and say the same.
fn agree(source: Option<SourceState>, target: Option<TargetState>) -> bool {
    use SourceState as S;
    use TargetState as T;
    source.is_none_or(State::is_final)
        && target.is_none_or(State::is_final)
        && match source {
            Some(S::Released) => matches!(target, Some(T::Settled)),
            _ => matches!(target, None | Some(T::Aborted | T::GivenBack)),
        }
}
