//! What may happen next. Each is one step, and anything may happen before the following one.

use rxl_handover::State;

use crate::rules::Rules;
use crate::world::{Copied, Decision, Doing, Effect, Plan, Serving, Side, Source, Target, World};

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
    PowerLost,
    /// An administrator destroys the copy, or the guest ends.
    CopyEnds,
}

const MOVES: [Move; 21] = [
    Move::Session,
    Move::SessionGivesUp,
    Move::SessionFails,
    Move::Actor(0),
    Move::Actor(1),
    Move::ActorGivesUp(0),
    Move::ActorGivesUp(1),
    Move::ActorFails(0),
    Move::ActorFails(1),
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
    Move::PowerLost,
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
        Move::PowerLost => power_lost::<S>(world),
        Move::CopyEnds => {
            world.ended = true;
            std::mem::replace(&mut S::host_mut(world).copy, Copied::Absent) != Copied::Absent
        }
        _ => false,
    }
}

fn power_lost<S: Side>(world: &mut World) -> bool {
    let host = S::host_mut(world);
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

/// A step of a guard or a recovery.
fn actor<S: Side>(rules: &Rules, world: &mut World, number: usize) -> bool {
    let host = S::host(world);
    let next = match host.actors[number] {
        Doing::Idle => {
            let may = !host.has_session() && !host.at_work(rules);
            match decide::<S>(rules, world, None) {
                Doing::Idle => return false,
                decided if may => decided,
                _ => return false,
            }
        }
        Doing::Look => decide::<S>(rules, world, None),
        Doing::Hears(answer) => decide::<S>(rules, world, Some(answer)),
        Doing::Does(plan) => goes_on::<S>(rules, world, plan),
        Doing::Asks(question) if S::Other::host(world).on => {
            let serving = S::Other::answer(rules, S::Other::host(world), question);
            Doing::Served(question, serving)
        }
        Doing::Asks(_) => return false,
        Doing::Served(question, serving) => match serve(rules, world, serving) {
            Served::Answered => Doing::Hears(serving.answer),
            Served::Goes(serving) => Doing::Served(question, serving),
            Served::Refused => Doing::Asks(question),
        },
    };
    if let Doing::Asks(question) = next {
        let asked = S::QUESTIONS.iter().position(|other| *other == question).unwrap();
        S::Other::host_mut(world).asked[asked] = true;
    }
    S::host_mut(world).actors[number] = next;
    true
}

/// Reads the record and looks at the copy, and decides by the crate's `step`.
fn decide<S: Side>(
    rules: &Rules,
    world: &World,
    heard: Option<crate::world::Heard<S>>,
) -> Doing<S> {
    let host = S::host(world);
    let Some(state) = host.record else { return Doing::Idle };
    match S::decide(rules, (state, host.presence()), heard) {
        Decision::Nothing | Decision::Wait => Doing::Idle,
        Decision::Ask(question) => Doing::Asks(question),
        Decision::Do(plan) => Doing::Does(plan),
    }
}

/// One event or one effect. A refused event means that somebody else has decided.
fn goes_on<S: Side>(rules: &Rules, world: &mut World, plan: Plan<S::Event>) -> Doing<S> {
    let later = |plan: Plan<S::Event>| match (plan.first, plan.effect, plan.last) {
        (None, None, None) => Doing::Look,
        _ => Doing::Does(plan),
    };
    if let Some(event) = plan.first {
        let recorded = S::host_mut(world).advance(rules, event);
        return if recorded { later(Plan { first: None, ..plan }) } else { Doing::Look };
    }
    if let Some(effect) = plan.effect {
        let done = takes_effect::<S>(world, effect);
        return if done { later(Plan { effect: None, ..plan }) } else { Doing::Does(plan) };
    }
    if let Some(event) = plan.last {
        let host = S::host_mut(world);
        if host.advance(rules, event) && plan.numbered && host.copy != Copied::Absent {
            host.was_off = false;
        }
    }
    Doing::Look
}

/// True where nothing of it is left to do.
fn takes_effect<S: Side>(world: &mut World, effect: Effect) -> bool {
    let copy = S::host(world).copy;
    let (next, done) = match (effect, copy) {
        (Effect::Destroy, _) => (Copied::Absent, true),
        (Effect::Boot, Copied::Absent) => (Copied::Booted, true),
        (Effect::Run, Copied::Aside) => (Copied::Still, false),
        (Effect::Run, Copied::Still) => (Copied::Running, true),
        // A domain of its name is here, or nothing that could be run.
        (Effect::Boot | Effect::Run, copy) => (copy, true),
    };
    S::host_mut(world).copy = next;
    *S::ran(world) |= next.runs();
    done
}

/// It cannot be started. Only who holds it paused knows that it has not run.
fn actor_fails<S: Side>(rules: &Rules, world: &mut World, number: usize) -> bool {
    let host = S::host_mut(world);
    let Doing::Does(Plan { first: None, effect: Some(effect), .. }) = host.actors[number] else {
        return false;
    };
    let fails = match effect {
        Effect::Run => matches!(host.copy, Copied::Aside | Copied::Still),
        Effect::Boot => rules.failed_boot_gives_back && host.copy == Copied::Absent,
        Effect::Destroy => false,
    };
    let Some(event) = S::cannot_run().filter(|_| fails) else { return false };
    host.actors[number] = Doing::Does(Plan::new(Some(event), None, None));
    true
}

enum Served<S: Side> {
    Answered,
    Goes(Serving<S>),
    Refused,
}

/// The answering process destroys, and records each event, one after the other.
fn serve<S: Side>(rules: &Rules, world: &mut World, serving: Serving<S>) -> Served<S> {
    let host = S::host_mut(world);
    if serving.destroy {
        host.copy = Copied::Absent;
        return Served::Goes(Serving { destroy: false, ..serving });
    }
    match serving.events {
        [None, None] => Served::Answered,
        [Some(event), then] | [None, then @ Some(event)] => {
            if !host.advance(rules, event) {
                return Served::Refused;
            }
            let then = if serving.events[0].is_some() { then } else { None };
            Served::Goes(Serving { events: [then, None], ..serving })
        }
    }
}

fn stale_question<S: Side>(rules: &Rules, world: &mut World, number: usize) -> bool {
    let host = S::host(world);
    let free = host.stale[..rules.stale_servers].iter().position(Option::is_none);
    let Some(free) = free.filter(|_| host.asked[number]) else { return false };
    let serving = S::answer(rules, host, S::Other::QUESTIONS[number]);
    S::host_mut(world).stale[free] = serving.that_matters();
    serving.that_matters().is_some()
}

fn stale_serves<S: Side>(rules: &Rules, world: &mut World, number: usize) -> bool {
    let Some(serving) = S::host_mut(world).stale[number].take() else { return false };
    if let Served::Goes(left) = serve(rules, world, serving) {
        S::host_mut(world).stale[number] = left.that_matters();
    }
    true
}
