//! What there is: two hosts with a record, a copy, processes; and what was said between them.

use std::fmt::Debug;
use std::hash::Hash;

use rxl_handover::questions::Reply;
use rxl_handover::source::SourceState;
use rxl_handover::{Presence, State};

use crate::rules::Rules;
use crate::{source, target};

/// One host's copy of the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Copied {
    /// Nothing of it is there.
    Absent,
    /// libxl is building it.
    Building,
    /// It stands still, as NAME--incoming or NAME--migratedaway.
    Aside,
    /// It stands still under its own name.
    Still,
    /// It runs, with the memory that was moved.
    Running,
    /// It was made from its configuration, and has not run yet.
    Made,
    /// It runs, and began at its boot.
    Booted,
}

impl Copied {
    pub fn runs(self) -> bool {
        matches!(self, Self::Running | Self::Booted)
    }
}

/// What differs between the two ends.
pub trait Side: Copy + Debug + Eq + Hash + Ord {
    type State: State<Event = Self::Event> + Eq + Hash;
    type Event: Copy + Debug + Eq + Hash;
    /// What this end asks the other.
    type Asks: Copy + Debug + Eq + Hash;
    /// What this end answers the other.
    type Says: Copy + Debug + Eq + Hash;
    /// Where its session is.
    type Session: Copy + Debug + Eq + Hash;
    type Other: Side<Other = Self>;

    const QUESTIONS: [Self::Asks; 2];
    /// It has ended, but for its own recovery or its guard, which has its lock.
    const RECOVERS: Self::Session;
    const OVER: Self::Session;

    fn after(rules: &Rules, state: Self::State, event: Self::Event) -> Option<Self::State>;
    fn decide(rules: &Rules, entry: Entry<Self>, heard: Option<Heard<Self>>) -> Decision<Self>;
    fn answer(rules: &Rules, host: &Host<Self>, question: Asked<Self>) -> Serving<Self>;
    /// Whether a question that was asked once may still change the record.
    fn may_matter(host: &Host<Self>, question: Asked<Self>) -> bool;
    /// Whether a recovery has the domain's lock.
    fn locks(rules: &Rules) -> bool;
    fn cannot_run() -> Option<Self::Event>;
    fn ran(world: &mut World) -> &mut bool;
    fn host(world: &World) -> &Host<Self>;
    fn host_mut(world: &mut World) -> &mut Host<Self>;
    /// One step of its session. False where it has to wait.
    fn session_step(rules: &Rules, world: &mut World) -> bool;
    /// Its session waits no longer. None where it would not stop waiting there.
    fn gives_up(world: &World) -> Option<Doing<Self>>;
    /// It could not let the domain run. False where that cannot be.
    fn session_fails(rules: &Rules, world: &mut World) -> bool;
}

/// What an end hears when it asks.
pub type Heard<S> = <<S as Side>::Other as Side>::Says;
/// What an end is asked.
pub type Asked<S> = <<S as Side>::Other as Side>::Asks;

/// What a record and the look at the copy say, where there is a record.
pub type Entry<S> = (<S as Side>::State, Presence);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source;
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target;

/// What an actor does to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Its own name, and let it run: two steps.
    Run,
    /// Make it, and let it run: two steps.
    Boot,
    Destroy,
}

/// A step of recovery: an event, an effect, an event, each of them on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan<E> {
    pub first: Option<E>,
    pub effect: Option<Effect>,
    pub last: Option<E>,
    /// The last event brings the domain's new number.
    pub numbered: bool,
}

impl<E> Plan<E> {
    pub fn new(first: Option<E>, effect: Option<Effect>, last: Option<E>) -> Self {
        Self { first, effect, last, numbered: effect == Some(Effect::Boot) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision<S: Side> {
    Nothing,
    Wait,
    Ask(S::Asks),
    Do(Plan<S::Event>),
}

/// A process that answers a question: what is left of it to do before it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Serving<S: Side> {
    pub destroy: bool,
    pub events: [Option<S::Event>; 2],
    pub answer: S::Says,
}

impl<S: Side> Serving<S> {
    pub fn new(reply: Reply<S::Event, S::Says>) -> Self {
        Self { destroy: false, events: reply.events, answer: reply.answer }
    }

    /// Nobody waits for the answer: what is left has to change something.
    pub fn that_matters(self) -> Option<Self> {
        Some(self).filter(|serving| serving.destroy || serving.events != [None, None])
    }
}

/// A guard, a recovery, or a session's own recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doing<S: Side> {
    /// It is not there.
    Idle,
    /// About to read the record.
    Look,
    Does(Plan<S::Event>),
    Asks(S::Asks),
    /// The other host is answering it.
    Served(S::Asks, Serving<S::Other>),
    /// It has the answer in hand, and has not looked at it yet.
    Hears(Heard<S>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Host<S: Side> {
    pub on: bool,
    pub copy: Copied,
    pub record: Option<S::State>,
    /// What it said before, where the last line is not known to be on the disk: its writer was
    /// killed before it had waited for that.
    pub on_disk: Option<S::State>,
    /// The host was off since the record told the domain's number last.
    pub was_off: bool,
    pub session: S::Session,
    pub actors: [Doing<S>; 2],
    /// Questions that were asked once, and may still be executed any number of times.
    pub asked: [bool; 2],
    /// Processes that answer one of those, with nobody waiting for them.
    pub stale: [Option<Serving<S>>; 2],
}

impl<S: Side> Host<S> {
    pub fn new(copy: Copied, record: Option<S::State>, session: S::Session) -> Self {
        let (on, was_off, asked, stale) = (true, false, [false; 2], [None; 2]);
        let actors = [Doing::Idle; 2];
        let on_disk = None;
        Self { on, copy, record, on_disk, was_off, session, actors, asked, stale }
    }

    pub fn presence(&self) -> Presence {
        match (self.was_off, self.copy) {
            (true, _) => Presence::PowerLost,
            (false, Copied::Absent) => Presence::Gone,
            (false, _) => Presence::There,
        }
    }

    pub fn has_session(&self) -> bool {
        self.session != S::OVER
    }

    /// Whether its session reads what the other one says.
    pub fn listens(&self) -> bool {
        self.has_session() && self.session != S::RECOVERS
    }

    /// Whether no guard and no recovery is there.
    pub fn is_idle(&self) -> bool {
        self.actors == [Doing::Idle; 2]
    }

    /// Whether somebody has the domain's lock.
    pub fn at_work(&self, rules: &Rules) -> bool {
        self.has_session() || (S::locks(rules) && !self.is_idle())
    }

    /// Compares and sets the record. False where that is refused.
    pub fn advance(&mut self, rules: &Rules, event: S::Event) -> bool {
        let next = self.record.and_then(|state| S::after(rules, state, event));
        if next.is_some() {
            (self.record, self.on_disk) = (next, None);
        }
        next.is_some()
    }
}

/// What a session says to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Message {
    Accept = 1,
    StreamEnd = 2,
    Ready = 4,
    Go = 8,
    Done = 16,
    GivenBack = 32,
    Released = 64,
}

pub const TO_SOURCE: [Message; 4] =
    [Message::Accept, Message::Ready, Message::Done, Message::GivenBack];

/// Both hosts. Each message is said once, in the order of [`Message`], so what is under way is a
/// set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub source: Host<Source>,
    pub target: Host<Target>,
    pub under_way: u8,
    /// The source has run it since it was suspended.
    pub source_ran: bool,
    /// The target has run it.
    pub target_ran: bool,
    /// An administrator destroyed it, the guest ended by itself, or the host that it runs on lost
    /// its power after the migration was over there.
    pub ended: bool,
    pub faults: u8,
}

impl World {
    pub fn begin() -> Self {
        Self {
            source: Host::new(Copied::Running, Some(SourceState::FIRST), source::Session::Precopy),
            target: Host::new(Copied::Absent, None, target::Session::Begin),
            under_way: 0,
            source_ran: false,
            target_ran: false,
            ended: false,
            faults: 0,
        }
    }

    pub fn say(&mut self, message: Message) {
        self.under_way |= message as u8;
    }

    /// Whether it was said, and has arrived now.
    pub fn hear(&mut self, message: Message) -> bool {
        let has_come = self.under_way & message as u8 != 0;
        self.under_way &= !(message as u8);
        has_come
    }

    /// States that nobody can tell apart become one.
    pub fn normalize(&mut self, rules: &Rules) {
        normalize(rules, &mut self.source);
        normalize(rules, &mut self.target);
        let to_source = TO_SOURCE.iter().fold(0, |all, message| all | *message as u8);
        if !self.source.listens() {
            self.under_way &= !to_source;
        }
        if !self.target.listens() {
            self.under_way &= to_source;
        }
    }
}

fn normalize<S: Side>(rules: &Rules, host: &mut Host<S>) {
    // Where every recovery has the lock, a session's own is like any other.
    if host.session == S::RECOVERS && (S::locks(rules) || host.is_idle()) {
        host.session = S::OVER;
    }
    for (question, asked) in S::Other::QUESTIONS.into_iter().zip(0..) {
        let asked: usize = asked;
        host.asked[asked] &= S::may_matter(host, question);
    }
    // Processes of a kind are alike: whichever is idle is the second.
    if host.actors[0] == Doing::Idle {
        host.actors.swap(0, 1);
    }
    if host.stale[0].is_none() {
        host.stale.swap(0, 1);
    }
}
