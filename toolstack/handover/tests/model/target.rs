//! The target: its session, and how the crate's steps become plans.

use rxl_handover::State;
use rxl_handover::questions::{SourceQuestion, TargetAnswer, TargetQuestion};
use rxl_handover::target::{TargetEvent, TargetState, TargetStep};

use crate::rules::Rules;
use crate::world::{
    Asked, Copied, Decision, Doing, Effect, Entry, Heard, Host, Message, Plan, Serving, Side,
    Source, Target, World,
};

/// What the target's session does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Session {
    Begin,
    SayAccept,
    Receive,
    Hold,
    SayReady,
    AwaitGo,
    Take,
    Start,
    SayDone,
    RecordStart,
    AwaitReleased,
    Settle,
    CannotRun,
    Destroy,
    RecordDestroyed,
    SayGivenBack,
    Recovers,
    Over,
}

impl Side for Target {
    type State = TargetState;
    type Event = TargetEvent;
    type Asks = SourceQuestion;
    type Says = TargetAnswer;
    type Session = Session;
    type Other = Source;

    const QUESTIONS: [SourceQuestion; 2] = [SourceQuestion::Claim, SourceQuestion::Runs];
    const RECOVERS: Session = Session::Recovers;
    const OVER: Session = Session::Over;

    fn after(rules: &Rules, state: TargetState, event: TargetEvent) -> Option<TargetState> {
        (rules.target_after)(state, event)
    }

    fn decide(
        rules: &Rules,
        (state, copy): Entry<Self>,
        heard: Option<Heard<Self>>,
    ) -> Decision<Self> {
        use TargetEvent as E;
        use TargetStep as S;
        let plan = |first, effect, last| Decision::Do(Plan::new(first, effect, last));
        match (rules.target_step)(state, copy, heard) {
            S::Nothing => Decision::Nothing,
            S::Wait => Decision::Wait,
            S::Ask(question) => Decision::Ask(question),
            S::Discard => plan(Some(E::Abort), Some(Effect::Destroy), None),
            S::Take => plan(Some(E::Take), None, None),
            S::Run => plan(None, Some(Effect::Run), Some(E::Start)),
            S::Boot => plan(None, Some(Effect::Boot), Some(E::Start)),
            S::Ended => plan(None, None, Some(E::Start)),
            S::GiveBack => plan(None, Some(Effect::Destroy), Some(E::Destroyed)),
            S::Settle => plan(Some(E::Settle), None, None),
        }
    }

    fn answer(rules: &Rules, host: &Host<Self>, question: Asked<Self>) -> Serving<Self> {
        let (copy, at_work) = (host.presence(), host.at_work(rules));
        Serving::new((rules.answer_target)(host.record, question, copy, at_work))
    }

    fn may_matter(host: &Host<Self>, _: TargetQuestion) -> bool {
        match host.record {
            None => host.has_session(),
            Some(state) => matches!(state, TargetState::Receiving | TargetState::Held),
        }
    }

    fn locks(rules: &Rules) -> bool {
        rules.target_locks
    }

    fn cannot_run() -> Option<TargetEvent> {
        Some(TargetEvent::CannotRun)
    }

    fn ran(world: &mut World) -> &mut bool {
        &mut world.target_ran
    }

    fn host(world: &World) -> &Host<Self> {
        &world.target
    }

    fn host_mut(world: &mut World) -> &mut Host<Self> {
        &mut world.target
    }

    fn session_step(rules: &Rules, world: &mut World) -> bool {
        let Some(next) = next(rules, world) else { return false };
        world.target.session = next;
        true
    }

    fn gives_up(world: &World) -> Option<Doing<Self>> {
        use Session as P;
        match world.target.session {
            P::Begin => Some(Doing::Idle),
            P::SayAccept | P::Receive | P::AwaitGo | P::AwaitReleased => Some(Doing::Look),
            _ => None,
        }
    }

    fn session_fails(_: &Rules, world: &mut World) -> bool {
        let host = &mut world.target;
        let fails = host.session == Session::Start && !host.copy.runs();
        if fails {
            host.session = Session::CannotRun;
        }
        fails
    }
}

fn next(rules: &Rules, world: &mut World) -> Option<Session> {
    use Session as P;
    use TargetEvent as E;
    Some(match world.target.session {
        P::Begin => {
            world.target.record = Some(TargetState::FIRST);
            P::SayAccept
        }
        P::SayAccept => {
            world.target.copy = Copied::Building;
            world.say(Message::Accept);
            P::Receive
        }
        P::Receive => {
            let whole = world.target.copy == Copied::Building && world.hear(Message::StreamEnd);
            whole.then(|| world.target.copy = Copied::Aside)?;
            P::Hold
        }
        P::Hold => advance(rules, world, E::Hold, P::SayReady),
        P::SayReady => say(world, Message::Ready, P::AwaitGo),
        P::AwaitGo => world.hear(Message::Go).then_some(P::Take)?,
        P::Take => advance(rules, world, E::Take, P::Start),
        P::Start => start(world)?,
        P::SayDone => say(world, Message::Done, P::RecordStart),
        P::RecordStart => advance(rules, world, E::Start, P::AwaitReleased),
        P::AwaitReleased => world.hear(Message::Released).then_some(P::Settle)?,
        P::Settle => advance(rules, world, E::Settle, P::Over),
        P::CannotRun => advance(rules, world, E::CannotRun, P::Destroy),
        P::Destroy => {
            world.target.copy = Copied::Absent;
            P::RecordDestroyed
        }
        P::RecordDestroyed => advance(rules, world, E::Destroyed, P::SayGivenBack),
        P::SayGivenBack => say(world, Message::GivenBack, P::Over),
        P::Recovers | P::Over => return None,
    })
}

fn say(world: &mut World, message: Message, next: Session) -> Session {
    world.say(message);
    next
}

/// Its own name first, then unpaused.
fn start(world: &mut World) -> Option<Session> {
    let copy = &mut world.target.copy;
    match *copy {
        Copied::Aside => {
            *copy = Copied::Still;
            Some(Session::Start)
        }
        Copied::Still => {
            *copy = Copied::Running;
            world.target_ran = true;
            Some(Session::SayDone)
        }
        _ => None,
    }
}

/// Records, and goes on; or, where somebody else has decided, does what any recovery does.
fn advance(rules: &Rules, world: &mut World, event: TargetEvent, next: Session) -> Session {
    if world.target.advance(rules, event) {
        return next;
    }
    world.target.actors[0] = Doing::Look;
    Session::Recovers
}
