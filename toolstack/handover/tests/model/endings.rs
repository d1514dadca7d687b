//! How it ends once no more faults happen and the hosts can talk.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Mutex;

use rxl_handover::State;

use crate::moves::{Action, Move, apply};
use crate::rules::Rules;
use crate::world::{Copied, Doing, Host, Side, World};

/// More rounds than any recovery takes.
const ROUNDS: usize = 12;

/// More steps than a session or a recovery has.
const STEPS: usize = 64;

/// One of the orders in which what is left may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// Sessions go on as far as they can, before they give up.
    pub sessions_go_on: bool,
    pub target_first: bool,
}

pub const ORDERS: [Order; 4] = [
    Order { sessions_go_on: true, target_first: false },
    Order { sessions_go_on: true, target_first: true },
    Order { sessions_go_on: false, target_first: false },
    Order { sessions_go_on: false, target_first: true },
];

/// States that are known to end well.
#[derive(Default)]
pub struct EndsWell([Mutex<HashSet<u64>>; 4]);

impl EndsWell {
    /// Whether exactly one copy is left, which runs, and nobody has anything to do any more; in
    /// whichever of the orders.
    pub fn whatever_goes_on_first(&self, rules: &Rules, world: &World) -> bool {
        let in_order =
            |(order, known): (&Order, &Mutex<HashSet<u64>>)| in_order(rules, world, *order, known);
        ORDERS.iter().zip(&self.0).all(in_order)
    }
}

fn in_order(rules: &Rules, world: &World, order: Order, known: &Mutex<HashSet<u64>>) -> bool {
    let mut seen = Vec::new();
    let mut world = *world;
    for _ in 0..ROUNDS {
        let now = hash(&world);
        if known.lock().unwrap().contains(&now) {
            known.lock().unwrap().extend(seen);
            return true;
        }
        seen.push(now);
        let before = world;
        round(rules, &mut world, order);
        if before == world {
            break;
        }
    }
    let good = is_good(&world);
    if good {
        known.lock().unwrap().extend(seen);
    }
    good
}

/// Everybody does what it can, one after the other.
pub fn round(rules: &Rules, world: &mut World, order: Order) {
    each(rules, world, order, Move::PowerReturns);
    while each(rules, world, order, Move::StaleServes(0)) {}
    while order.sessions_go_on && each(rules, world, order, Move::Session) {}
    each(rules, world, order, Move::SessionGivesUp);
    // What cannot be given up any more is done.
    while each(rules, world, order, Move::Session) || each(rules, world, order, Move::SessionFails)
    {
    }
    for side in sides(order) {
        for number in [0, 1] {
            for _ in 0..STEPS {
                if !apply(rules, world, side(Move::Actor(number))) || is_idle(world, side, number) {
                    break;
                }
            }
        }
    }
}

type Of = fn(Move) -> Action;

fn sides(order: Order) -> [Of; 2] {
    if order.target_first {
        [Action::Target, Action::Source]
    } else {
        [Action::Source, Action::Target]
    }
}

fn is_idle(world: &World, side: Of, number: usize) -> bool {
    match side(Move::Session) {
        Action::Source(_) => world.source.actors[number] == Doing::Idle,
        Action::Target(_) => world.target.actors[number] == Doing::Idle,
    }
}

/// Whether it happened on either side.
fn each(rules: &Rules, world: &mut World, order: Order, what: Move) -> bool {
    sides(order).map(|side| apply(rules, world, side(what))).contains(&true)
}

/// One copy runs and nothing else is left, on either host.
pub fn is_good(world: &World) -> bool {
    let copies = [world.source.copy, world.target.copy];
    let running = copies.iter().filter(|copy| copy.runs()).count();
    let left = copies.iter().any(|copy| !copy.runs() && *copy != Copied::Absent);
    let as_many = running == 1 || (world.ended && running == 0);
    as_many && !left && is_over(&world.source) && is_over(&world.target)
}

/// What any process can make of it next, without a fault.
pub fn followers(rules: &Rules, world: &World) -> impl Iterator<Item = World> {
    let actions = CALM.into_iter().flat_map(|what| [Action::Source(what), Action::Target(what)]);
    actions.filter_map(|action| {
        let mut next = *world;
        apply(rules, &mut next, action).then_some(next)
    })
}

const CALM: [Move; 9] = [
    Move::Session,
    Move::SessionGivesUp,
    Move::SessionFails,
    Move::Actor(0),
    Move::Actor(1),
    Move::StaleServes(0),
    Move::StaleQuestion(0),
    Move::StaleQuestion(1),
    Move::PowerReturns,
];

fn is_over<S: Side>(host: &Host<S>) -> bool {
    let is_idle = host.actors.iter().all(|actor| *actor == Doing::Idle) && host.stale == [None; 2];
    is_idle && !host.has_session() && host.record.is_none_or(State::is_final)
}

fn hash(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}
