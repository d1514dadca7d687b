//! What a guard or a recovery does, step by step.

use crate::answers::{Served, serve};
use crate::rules::Rules;
use crate::world::{Copied, Decision, Doing, Effect, Heard, Host, Plan, Side, World};

/// A step of a guard or a recovery.
pub fn actor<S: Side>(rules: &Rules, world: &mut World, number: usize) -> bool {
    let next = match S::host(world).actors[number] {
        Doing::Idle => {
            let host = S::host(world);
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
            let serving = S::Other::answer(rules, read::<S::Other>(rules, world), question);
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

/// Whoever reads a record first sees to it that what it says is on the disk.
pub fn read<'a, S: Side>(rules: &Rules, world: &'a mut World) -> &'a Host<S> {
    let host = S::host_mut(world);
    if rules.reads_sync {
        host.on_disk = None;
    }
    host
}

/// Reads the record and looks at the copy, and decides by the crate's `step`.
fn decide<S: Side>(rules: &Rules, world: &mut World, heard: Option<Heard<S>>) -> Doing<S> {
    let host = read::<S>(rules, world);
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
        (Effect::Boot, Copied::Absent) => (Copied::Made, false),
        (Effect::Boot, Copied::Made) => (Copied::Booted, true),
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
pub fn actor_fails<S: Side>(rules: &Rules, world: &mut World, number: usize) -> bool {
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

/// Only what runs the domain on does, by a fault that is put in.
pub fn goes_on_unrecorded<S: Side>(rules: &Rules, world: &mut World, number: usize) -> bool {
    let actor = &mut S::host_mut(world).actors[number];
    let Doing::Does(plan) = *actor else { return false };
    let wrong =
        rules.runs_on_unrecorded && plan.first.is_some() && plan.effect == Some(Effect::Run);
    if wrong {
        *actor = Doing::Does(Plan { first: None, ..plan });
    }
    wrong
}
