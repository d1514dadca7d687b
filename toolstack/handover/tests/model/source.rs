//! The source: its session, and how the crate's steps become plans.

use rxl_handover::questions::{SourceAnswer, SourceQuestion, TargetQuestion};
use rxl_handover::source::{SourceEvent, SourceState, SourceStep};

use crate::rules::Rules;
use crate::world::{
    Asked, Copied, Decision, Doing, Effect, Entry, Heard, Host, Message, Plan, Serving, Side,
    Source, Target, World,
};

/// What the source's session does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Session {
    Precopy,
    SayStreamEnd,
    AwaitReady,
    Commit,
    Rename,
    SayGo,
    AwaitDone,
    Destroy,
    RecordDestroyed,
    SayReleased,
    Recovers,
    Over,
}

impl Side for Source {
    type State = SourceState;
    type Event = SourceEvent;
    type Asks = TargetQuestion;
    type Says = SourceAnswer;
    type Session = Session;
    type Other = Target;

    const QUESTIONS: [TargetQuestion; 2] = [TargetQuestion::Fence, TargetQuestion::HandOver];
    const RECOVERS: Session = Session::Recovers;
    const OVER: Session = Session::Over;

    fn after(rules: &Rules, state: SourceState, event: SourceEvent) -> Option<SourceState> {
        (rules.source_after)(state, event)
    }

    fn decide(
        rules: &Rules,
        (state, copy): Entry<Self>,
        heard: Option<Heard<Self>>,
    ) -> Decision<Self> {
        use SourceStep as S;
        let plan = |first, effect, last| Decision::Do(Plan::new(first, effect, last));
        let runs_here = Some(SourceEvent::RunsHere);
        match (rules.source_step)(state, copy, heard) {
            S::Nothing => Decision::Nothing,
            S::Wait => Decision::Wait,
            S::Ask(question) => Decision::Ask(question),
            S::RunOn(event) => plan(Some(event), Some(Effect::Run), runs_here),
            S::Boot(event) => plan(Some(event), Some(Effect::Boot), runs_here),
            S::Close(event) => plan(Some(event), None, runs_here),
            S::Record(event) => plan(Some(event), None, None),
            S::Release => plan(None, Some(Effect::Destroy), Some(SourceEvent::Destroyed)),
        }
    }

    fn answer(rules: &Rules, host: &Host<Self>, question: Asked<Self>) -> Serving<Self> {
        let (state, at_work) = (host.record, host.at_work(rules));
        match question {
            SourceQuestion::Claim => {
                Serving::new((rules.answer_claim)(state, host.presence(), at_work))
            }
            SourceQuestion::Runs => {
                let (answer, destroy) = (rules.answer_runs)(state, at_work);
                let event = destroy.then_some(SourceEvent::Destroyed);
                Serving { destroy, events: [event, None], answer }
            }
        }
    }

    fn may_matter(host: &Host<Self>, question: Asked<Self>) -> bool {
        use SourceState as S;
        match (question, host.record) {
            (_, None) => false,
            (SourceQuestion::Claim, Some(state)) => matches!(state, S::Leaving | S::Committing),
            (SourceQuestion::Runs, Some(state)) => {
                matches!(state, S::Leaving | S::Committing | S::Granted)
            }
        }
    }

    fn locks(_: &Rules) -> bool {
        true
    }

    fn cannot_run() -> Option<SourceEvent> {
        None
    }

    fn ran(world: &mut World) -> &mut bool {
        &mut world.source_ran
    }

    fn host(world: &World) -> &Host<Self> {
        &world.source
    }

    fn host_mut(world: &mut World) -> &mut Host<Self> {
        &mut world.source
    }

    fn session_step(rules: &Rules, world: &mut World) -> bool {
        let Some(next) = next(rules, world) else { return false };
        world.source.session = next;
        true
    }

    fn gives_up(world: &World) -> Option<Doing<Self>> {
        use Session as P;
        let run_on = |event| {
            let last = Some(SourceEvent::RunsHere);
            Some(Doing::Does(Plan::new(Some(event), Some(Effect::Run), last)))
        };
        match world.source.session {
            P::Precopy | P::SayStreamEnd | P::AwaitReady | P::Commit => run_on(SourceEvent::Stay),
            P::Rename | P::SayGo => run_on(SourceEvent::NotSaid),
            P::AwaitDone => Some(Doing::Look),
            P::Destroy | P::RecordDestroyed | P::SayReleased => None,
            P::Recovers | P::Over => None,
        }
    }

    fn session_fails(_: &Rules, _: &mut World) -> bool {
        false
    }
}

fn next(rules: &Rules, world: &mut World) -> Option<Session> {
    use Session as P;
    let session = world.source.session;
    Some(match session {
        P::Precopy => {
            let may = world.source.copy == Copied::Running && world.hear(Message::Accept);
            may.then(|| world.source.copy = Copied::Still)?;
            P::SayStreamEnd
        }
        P::SayStreamEnd => {
            world.say(Message::StreamEnd);
            P::AwaitReady
        }
        P::AwaitReady => world.hear(Message::Ready).then_some(P::Commit)?,
        P::Commit if !rules.go_is_recorded => P::Rename,
        P::Commit => advance(rules, world, SourceEvent::Commit, P::Rename),
        P::Rename => {
            (world.source.copy == Copied::Still).then(|| world.source.copy = Copied::Aside)?;
            P::SayGo
        }
        P::SayGo => {
            world.say(Message::Go);
            P::AwaitDone
        }
        P::AwaitDone if world.hear(Message::Done) => P::Destroy,
        P::AwaitDone if world.hear(Message::GivenBack) => {
            let last = Some(SourceEvent::RunsHere);
            let plan = Plan::new(Some(SourceEvent::TargetAborted), Some(Effect::Run), last);
            world.source.actors[0] = Doing::Does(plan);
            P::Recovers
        }
        P::Destroy => {
            world.source.copy = Copied::Absent;
            P::RecordDestroyed
        }
        P::RecordDestroyed => advance(rules, world, SourceEvent::Destroyed, P::SayReleased),
        P::SayReleased => {
            world.say(Message::Released);
            P::Over
        }
        P::AwaitDone | P::Recovers | P::Over => return None,
    })
}

/// Records, and goes on; or, where somebody else has decided, does what any recovery does.
fn advance(rules: &Rules, world: &mut World, event: SourceEvent, next: Session) -> Session {
    if world.source.advance(rules, event) {
        return next;
    }
    world.source.actors[0] = Doing::Look;
    Session::Recovers
}
