//! `rxl recover`, and the questions that hosts ask each other over fresh connections.

use std::sync::Arc;
use std::time::Duration;

use rxl_handover::questions::{SourceQuestion, TargetAnswer, TargetQuestion};
use rxl_recover::{
    Answer, AnyRecord, Asking, End, Peer, Question, RecoverError, Unreachable, answer,
};

use crate::host::ProcHost;
use crate::places::{Role, Side, When};
use crate::plan::Asked;
use crate::proc::Proc;
use crate::world::{Flaw, World};

/// Starts `rxl recover` on a host. Not where that is off.
pub fn spawn(world: &Arc<World>, side: Side) {
    world.spawn(side, Role::Recovery, |proc| {
        proc.run(recover);
    });
}

/// Settles every open record of its host.
fn recover(proc: &Arc<Proc>) {
    proc.gate("begin", When::Before);
    let node = &proc.world.nodes[proc.side as usize];
    let records = AnyRecord::all(&node.journal()).unwrap_or_default();
    proc.gate("begin", When::After);
    for record in records {
        // A record that cannot be settled now is looked at again.
        let _ = one(proc, &record);
    }
}

fn one(proc: &Arc<Proc>, record: &AnyRecord) -> Result<Option<End>, RecoverError> {
    let node = &proc.world.nodes[proc.side as usize];
    let (host, journal) = (ProcHost::new(proc), node.journal());
    let place = node.place(&host, &journal);
    if !record.is_open(place)? {
        return Ok(None);
    }
    let header = record.header()?;
    let Some(_lock) = record.lock(&node.state, &header) else { return Ok(None) };
    record.settle(place, &Asker(proc.clone())).map(Some)
}

/// How sessions and guards ask.
pub fn asking(proc: &Arc<Proc>) -> Asking {
    let peer = Arc::new(Asker(proc.clone()));
    let try_for = proc.world.plan.try_for;
    Asking { peer: Some(peer), try_for }
}

/// A process that asks the other host.
struct Asker(Arc<Proc>);

impl Peer for Asker {
    fn ask(&self, id: &str, question: Question) -> Result<Answer, Unreachable> {
        self.0.call("ask", || self.asked(id, question))
    }
}

impl Asker {
    fn asked(&self, id: &str, question: Question) -> Result<Answer, Unreachable> {
        let (world, other) = (&self.0.world, self.0.side.other());
        if let Some(answer) = flawed(world, question) {
            return answer;
        }
        let lost = || Err(Unreachable("lost".into()));
        match world.next_question() {
            Asked::Answered => answered(world, other, id, question),
            Asked::Lost => lost(),
            Asked::AnswerLost => {
                let _ = answered(world, other, id, question);
                lost()
            }
            Asked::Late(stage) => {
                let id = id.to_owned();
                world.at_stage(stage, move |world| late(world, other, id, question));
                lost()
            }
        }
    }
}

fn flawed(world: &World, question: Question) -> Option<Result<Answer, Unreachable>> {
    match (world.flaw?, question) {
        (Flaw::FenceNotRecorded, Question::Target(TargetQuestion::Fence)) => {
            Some(Ok(Answer::Target(TargetAnswer::Aborted)))
        }
        (Flaw::NobodyAsks, Question::Source(SourceQuestion::Claim)) => {
            Some(Err(Unreachable("it is not asked".into())))
        }
        _ => None,
    }
}

/// Somebody has asked who does not wait any more.
fn late(world: &Arc<World>, side: Side, id: String, question: Question) {
    let delay = world.roll(|dice| dice.micros(3000));
    world.spawn(side, Role::Answer, move |proc| {
        std::thread::sleep(delay.min(Duration::from_millis(3)));
        proc.run(|proc| executed(proc, &id, question));
    });
}

fn answered(
    world: &Arc<World>,
    side: Side,
    id: &str,
    question: Question,
) -> Result<Answer, Unreachable> {
    let gone = || Unreachable("it is off, or was killed".into());
    let proc = Proc::start(world, side, Role::Answer).ok_or_else(gone)?;
    proc.run(|proc| executed(proc, id, question)).ok_or_else(gone)?
}

fn executed(proc: &Arc<Proc>, id: &str, question: Question) -> Result<Answer, Unreachable> {
    proc.gate("begin", When::Before);
    let node = &proc.world.nodes[proc.side as usize];
    let (host, journal) = (ProcHost::new(proc), node.journal());
    proc.gate("begin", When::After);
    let answered = answer(node.place(&host, &journal), &node.state, id, question, &|_| {});
    answered.map_err(|error| Unreachable(error.to_string()))
}
