//! What may happen next. Each is one step, and anything may happen before the following one.

use rxl_handover::State;

use crate::answers::{stale_question, stale_serves};
use crate::recovery::{actor, actor_fails, goes_on_unrecorded};
use crate::rules::Rules;
use crate::world::{Copied, Decision, Doing, Side, Source, Target, World};

/// One step of one process, or a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    Session,
    /// Its deadline passes, its connection is lost, or it is cancelled. What is under way to it may
    /// have arrived or not.
    SessionGivesUp,
    /// The domain cannot be started.
    SessionFails,
    /// A recovery begins, or goes on.
    Actor(usize),
    /// The answer does not come, or too late.
    ActorGivesUp(usize),
    /// The domain cannot be started.
    ActorFails(usize),
    /// Its line cannot be written: the disk fails, or the record's lock is not to be had. Otherwise
    /// it goes no further, and that is as if it were killed.
    ActorWritesNot(usize),
    /// A question that was asked once is read now.
    StaleQuestion(usize),
    /// The process that answers it goes on.
    StaleServes(usize),
    PowerReturns,
    /// The record is removed, as it has been final for long.
    Prunes,
    // Faults, of which there are only so many.
    /// Its guard takes the lock over, or was killed too.
    SessionKilled {
        guarded: bool,
    },
    ActorKilled(usize),
    /// It is killed when it has written a line, and before that is on the disk.
    SessionKilledWriting {
        guarded: bool,
    },
    ActorKilledWriting(usize),
    StaleKilledWriting(usize),
    /// Whoever answers this actor, on the other host.
    ServerKilledWriting(usize),
    /// A line that was not known to be on the disk is lost, or is not.
    PowerLost {
        forgets: bool,
    },
    /// An administrator destroys the copy, or the guest ends.
    CopyEnds,
}

const MOVES: [Move; 32] = [
    Move::Session,
    Move::SessionGivesUp,
    Move::SessionFails,
    Move::Actor(0),
    Move::Actor(1),
    Move::ActorGivesUp(0),
    Move::ActorGivesUp(1),
    Move::ActorFails(0),
    Move::ActorFails(1),
    Move::ActorWritesNot(0),
    Move::ActorWritesNot(1),
    Move::StaleQuestion(0),
    Move::StaleQuestion(1),
    Move::StaleServes(0),
    Move::StaleServes(1),
    Move::PowerReturns,
    Move::Prunes,
    Move::SessionKilled { guarded: true },
    Move::SessionKilled { guarded: false },
    Move::ActorKilled(0),
    Move::ActorKilled(1),
    Move::SessionKilledWriting { guarded: true },
    Move::SessionKilledWriting { guarded: false },
    Move::ActorKilledWriting(0),
    Move::ActorKilledWriting(1),
    Move::StaleKilledWriting(0),
    Move::StaleKilledWriting(1),
    Move::ServerKilledWriting(0),
    Move::ServerKilledWriting(1),
    Move::PowerLost { forgets: true },
    Move::PowerLost { forgets: false },
    Move::CopyEnds,
];

/// A move of the source or of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Source(Move),
    Target(Move),
}

pub fn all(actions: &mut Vec<Action>) {
    actions.extend(MOVES.map(Action::Source));
    actions.extend(MOVES.map(Action::Target));
}

/// False where it cannot happen.
pub fn apply(rules: &Rules, world: &mut World, action: Action) -> bool {
    let happened = match action {
        Action::Source(what) => happens::<Source>(rules, world, what),
        Action::Target(what) => happens::<Target>(rules, world, what),
    };
    world.normalize(rules);
    happened
}

fn happens<S: Side>(rules: &Rules, world: &mut World, what: Move) -> bool {
    match what {
        Move::PowerReturns => return !std::mem::replace(&mut S::host_mut(world).on, true),
        _ if !S::host(world).on => return false,
        _ => {}
    }
    match what {
        Move::Session => S::session_step(rules, world),
        Move::SessionGivesUp => S::gives_up(world).is_some_and(|goes_on| {
            end_session::<S>(world, goes_on);
            true
        }),
        Move::SessionFails => S::session_fails(rules, world),
        Move::Actor(number) => actor::<S>(rules, world, number),
        Move::ActorGivesUp(number) => {
            let actor = &mut S::host_mut(world).actors[number];
            let waits = matches!(actor, Doing::Asks(_) | Doing::Served(..));
            if waits {
                *actor = Doing::Idle;
            }
            waits
        }
        Move::ActorFails(number) => actor_fails::<S>(rules, world, number),
        Move::ActorWritesNot(number) => goes_on_unrecorded::<S>(rules, world, number),
        Move::StaleQuestion(number) => stale_question::<S>(rules, world, number),
        Move::StaleServes(number) => stale_serves::<S>(rules, world, number),
        Move::PowerReturns => false,
        Move::Prunes => prunes::<S>(rules, world),
        _ => fault::<S>(rules, world, what),
    }
}

fn fault<S: Side>(rules: &Rules, world: &mut World, what: Move) -> bool {
    if let Some(most) = rules.faults {
        if world.faults >= most {
            return false;
        }
        world.faults += 1;
    }
    match what {
        Move::SessionKilled { guarded } => {
            let was_there = S::host(world).listens();
            end_session::<S>(world, if guarded { Doing::Look } else { Doing::Idle });
            was_there
        }
        Move::ActorKilled(number) => {
            let actor = &mut S::host_mut(world).actors[number];
            std::mem::replace(actor, Doing::Idle) != Doing::Idle
        }
        Move::SessionKilledWriting { guarded } => {
            let killed = was_writing::<S, S>(rules, world, Move::Session);
            end_session::<S>(world, if guarded { Doing::Look } else { Doing::Idle });
            killed
        }
        Move::ActorKilledWriting(number) => {
            let killed = was_writing::<S, S>(rules, world, Move::Actor(number));
            S::host_mut(world).actors[number] = Doing::Idle;
            killed
        }
        Move::StaleKilledWriting(number) => {
            let killed = was_writing::<S, S>(rules, world, Move::StaleServes(number));
            S::host_mut(world).stale[number] = None;
            killed
        }
        Move::ServerKilledWriting(number) => server_killed_writing::<S>(rules, world, number),
        Move::PowerLost { forgets } => power_lost::<S>(world, forgets),
        Move::CopyEnds => {
            world.ended = true;
            std::mem::replace(&mut S::host_mut(world).copy, Copied::Absent) != Copied::Absent
        }
        _ => false,
    }
}

/// Whether this step of a process on host P wrote a line into host S's record. That line is then
/// not known to be on the disk.
fn was_writing<S: Side, P: Side>(rules: &Rules, world: &mut World, step: Move) -> bool {
    let before = S::host(world).record;
    let happened = happens::<P>(rules, world, step);
    let host = S::host_mut(world);
    if before.is_none() || host.record.is_none() || host.record == before {
        return false;
    }
    host.on_disk = before;
    happened
}

fn server_killed_writing<S: Side>(rules: &Rules, world: &mut World, number: usize) -> bool {
    let Doing::Served(question, _) = S::host(world).actors[number] else { return false };
    let killed = was_writing::<S::Other, S>(rules, world, Move::Actor(number));
    S::host_mut(world).actors[number] = Doing::Asks(question);
    killed
}

fn power_lost<S: Side>(world: &mut World, forgets: bool) -> bool {
    let host = S::host_mut(world);
    match (forgets, host.on_disk.take()) {
        (true, None) => return false,
        (true, before) => host.record = before,
        (false, _) => {}
    }
    let is_over = host.record.is_none_or(State::is_final);
    let ends = is_over && host.copy.runs();
    host.on = false;
    host.was_off = true;
    host.copy = Copied::Absent;
    host.session = S::OVER;
    host.actors = [Doing::Idle; 2];
    host.stale = [None; 2];
    world.ended |= ends;
    // Who was being answered there still waits.
    for actor in &mut S::Other::host_mut(world).actors {
        if let Doing::Served(question, _) = *actor {
            *actor = Doing::Asks(question);
        }
    }
    true
}

fn end_session<S: Side>(world: &mut World, goes_on: Doing<S>) {
    let host = S::host_mut(world);
    host.session = S::RECOVERS;
    if goes_on != Doing::Idle {
        host.actors[0] = goes_on;
    }
}

/// Records are kept for a week: nobody is at work any more, and nothing is left to do.
fn prunes<S: Side>(rules: &Rules, world: &mut World) -> bool {
    let host = S::host_mut(world);
    let Some(state) = host.record.filter(|state| state.is_final()) else { return false };
    let nothing = S::decide(rules, (state, host.presence()), None) == Decision::Nothing;
    let may = nothing && !host.at_work(rules);
    if may {
        host.record = None;
    }
    may
}
