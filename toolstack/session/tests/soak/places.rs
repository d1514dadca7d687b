//! Where a fault can strike: before and after each call of a process's host and wire.

use crate::dice::Dice;

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    Source,
    Target,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Target,
            Self::Target => Self::Source,
        }
    }
}

/// Which of rxl's programs a process of a session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `rxl migrate` or `rxl receive`.
    Session,
    /// The process `rxl guard`.
    Guard,
    /// The process `rxl recover`.
    Recovery,
    /// `rxl receive`, for one question.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum When {
    Before,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub side: Side,
    pub role: Role,
    pub call: &'static str,
    pub when: When,
}

/// The calls of one kind of process. Those of the first row come before READY.
type Row = (Side, Role, &'static [&'static str]);

/// It has more to do than others, and its guard or the target is often there first.
const SOURCE_RECOVERY: Row = (
    Side::Source,
    Role::Recovery,
    &["begin", "domain", "rename", "resume", "destroy", "find", "boot", "unpause", "ask"],
);

pub const EARLY: [Row; 2] = [
    (
        Side::Source,
        Role::Session,
        &["offer", "guard", "save", "take-data", "end-stream", "abandon", "abort", "wind-up"],
    ),
    (Side::Target, Role::Session, &["accept", "guard", "restore", "take-data", "tell-failure"]),
];

pub const LATE: [Row; 8] = [
    (
        Side::Source,
        Role::Session,
        &[
            "take-control",
            "domain",
            "rename",
            "say-go",
            "await-answer",
            "end-data",
            "destroy",
            "say-released",
            "close",
            "resume",
            "logdirty",
            "tell-guard",
            "ask",
        ],
    ),
    (
        Side::Target,
        Role::Session,
        &[
            "mark",
            "say-ready",
            "await-decision",
            "rename",
            "unpause",
            "say-runs",
            "watch",
            "await-end",
            "destroy",
            "say-not-run",
            "domain",
            "tell-guard",
            "ask",
        ],
    ),
    (Side::Source, Role::Guard, &["domain", "rename", "resume", "logdirty", "destroy", "ask"]),
    (
        Side::Target,
        Role::Guard,
        &["domain", "mark-of", "rename", "unpause", "destroy", "find", "watch", "ask"],
    ),
    SOURCE_RECOVERY,
    (
        Side::Target,
        Role::Recovery,
        &["begin", "domain", "mark-of", "rename", "unpause", "destroy", "find", "boot", "ask"],
    ),
    (Side::Source, Role::Answer, &["begin", "domain", "resume", "destroy"]),
    (Side::Target, Role::Answer, &["begin", "domain", "mark-of", "rename", "unpause", "destroy"]),
];

/// All places at which a fault may strike.
pub fn all() -> impl Iterator<Item = Place> {
    EARLY.into_iter().chain(LATE).flat_map(|(side, role, calls)| {
        calls.iter().flat_map(move |call| {
            [When::Before, When::After].map(|when| Place { side, role, call, when })
        })
    })
}

/// One of them, most often after READY.
pub fn draw(dice: &mut Dice) -> Place {
    let (side, role, calls) = if dice.percent(20) {
        dice.pick(&EARLY)
    } else if dice.percent(50) {
        dice.pick(&[LATE[0], LATE[1]])
    } else {
        dice.pick(&LATE)
    };
    let when = dice.pick(&[When::Before, When::After]);
    Place { side, role, call: dice.pick(calls), when }
}

/// One of a guard, a recovery or an answer.
pub fn draw_led(dice: &mut Dice) -> Place {
    let (side, role, calls) =
        if dice.percent(30) { SOURCE_RECOVERY } else { dice.pick(&LATE[2..]) };
    let when = dice.pick(&[When::Before, When::After]);
    Place { side, role, call: dice.pick(calls), when }
}

/// One of the source's session before READY.
pub fn draw_early(dice: &mut Dice) -> Place {
    let call = dice.pick(&["save", "take-data", "end-stream"]);
    Place { side: Side::Source, role: Role::Session, call, when: When::After }
}

/// Where a session is about to go on, and whoever goes on in its place has to rename the domain.
pub fn before_rename(side: Side) -> Place {
    let (call, when) = match side {
        Side::Source => ("say-go", When::Before),
        Side::Target => ("rename", When::Before),
    };
    Place { side, role: Role::Session, call, when }
}

/// One of a session that is about to cross the line, or has crossed it.
pub fn draw_crossing(dice: &mut Dice, side: Side) -> Place {
    let calls: &[&str] = match side {
        Side::Source => &["take-control", "rename", "say-go", "await-answer", "destroy"],
        Side::Target => {
            &["say-ready", "await-decision", "rename", "unpause", "say-runs", "watch", "await-end"]
        }
    };
    let when = dice.pick(&[When::Before, When::After]);
    Place { side, role: Role::Session, call: dice.pick(calls), when }
}
