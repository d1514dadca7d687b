//! What a process that answers a question does, step by step.

use crate::recovery::read;
use crate::rules::Rules;
use crate::world::{Copied, Serving, Side, World};

/// How far an answering process has come.
pub enum Served<S: Side> {
    Answered,
    Goes(Serving<S>),
    Refused,
}

/// The answering process destroys, and records each event, one after the other.
pub fn serve<S: Side>(rules: &Rules, world: &mut World, serving: Serving<S>) -> Served<S> {
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

pub fn stale_question<S: Side>(rules: &Rules, world: &mut World, number: usize) -> bool {
    let host = S::host(world);
    let free = host.stale[..rules.stale_servers].iter().position(Option::is_none);
    let Some(free) = free.filter(|_| host.asked[number]) else { return false };
    let serving = S::answer(rules, read::<S>(rules, world), S::Other::QUESTIONS[number]);
    S::host_mut(world).stale[free] = serving.that_matters();
    serving.that_matters().is_some()
}

pub fn stale_serves<S: Side>(rules: &Rules, world: &mut World, number: usize) -> bool {
    let Some(serving) = S::host_mut(world).stale[number].take() else { return false };
    if let Served::Goes(left) = serve(rules, world, serving) {
        S::host_mut(world).stale[number] = left.that_matters();
    }
    true
}
