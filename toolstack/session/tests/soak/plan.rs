//! What goes wrong in one session, and where.

use std::time::Duration;

use crate::dice::Dice;
use crate::places::{Place, Role, Side, before_rename, draw, draw_crossing, draw_early, draw_led};

/// Recoveries have run once, and what waited for that goes on.
pub const AFTER_RECOVERIES: u8 = 1;

/// Nothing goes wrong any more.
pub const HEALED: u8 = 2;

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The first time that a process comes to this place.
    At(Place),
    /// At the boundary of this number that a process of this kind comes to, after READY where so
    /// said.
    Nth { side: Side, role: Role, left: u64, after_ready: bool },
}

/// How often a call of the host's fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    pub call: &'static str,
    /// So often; then it works.
    pub times: u64,
    /// It does what was asked, and says that it failed.
    pub though_done: bool,
}

/// When an end notices that the link is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    After(Duration),
    /// By nothing but its own deadline.
    Never,
}

/// A lost link, by the end that is told or not: of what is on its way to it, and when it notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub arrives: [bool; 2],
    pub notice: [Notice; 2],
}

/// What goes wrong at a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Kill {
        guard_too: bool,
    },
    /// SIGSTOP, and SIGCONT at this stage.
    Stop {
        until: u8,
    },
    PowerLoss {
        side: Side,
        off_for: Duration,
    },
    Cut(Cut),
    /// What is on its way to this side arrives at this stage, in order.
    Stall {
        to: Side,
        until: u8,
    },
    HostFails {
        side: Side,
        failing: Failing,
    },
    Recover {
        side: Side,
    },
    Interrupt {
        side: Side,
    },
    /// The file system of the journal is not there.
    NoDisk {
        side: Side,
    },
}

/// What becomes of a question over a fresh connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Answered,
    Lost,
    AnswerLost,
    /// It is executed at this stage, when nobody waits for it any more. The last is after the end.
    Late(u8),
}

/// Everything that is drawn for one session.
pub struct Plan {
    pub faults: Vec<(Trigger, Action)>,
    pub leave_paused: bool,
    pub live: bool,
    /// How long each end waits for the other's word after READY.
    pub patience: [Duration; 2],
    /// How long each end tries to have its record settled.
    pub try_for: Duration,
    pub save_breaks: bool,
    pub restore_breaks: bool,
    /// Rounds of recoveries before what was stopped goes on.
    pub early_recoveries: u64,
}

impl Plan {
    pub fn draw(dice: &mut Dice) -> Self {
        let is_led = dice.percent(40);
        let mut faults = if is_led { led(dice) } else { Vec::new() };
        let count = 1 + dice.below(3) + u64::from(dice.percent(20)) - u64::from(is_led);
        faults.extend((0..count).map(|_| fault(dice)));
        Self {
            faults,
            leave_paused: dice.percent(6),
            live: dice.percent(70),
            patience: [patience(dice), patience(dice)],
            try_for: dice.micros(6000),
            save_breaks: dice.percent(2),
            restore_breaks: dice.percent(2),
            early_recoveries: dice.below(3) + u64::from(is_led),
        }
    }
}

fn patience(dice: &mut Dice) -> Duration {
    if dice.percent(25) { dice.micros(6000) } else { Duration::from_millis(400) }
}

fn side(dice: &mut Dice) -> Side {
    dice.pick(&[Side::Source, Side::Target])
}

fn fault(dice: &mut Dice) -> (Trigger, Action) {
    let trigger = match dice.below(10) {
        0..6 => Trigger::At(draw(dice)),
        6..9 => nth(dice, true),
        _ => nth(dice, false),
    };
    (trigger, action(dice))
}

/// A fault that strikes a guard, a recovery or an answer, and what makes that begin.
fn led(dice: &mut Dice) -> Vec<(Trigger, Action)> {
    let place = draw_led(dice);
    let side = place.side;
    let off = |dice: &mut Dice, side| Action::PowerLoss { side, off_for: dice.micros(2000) };
    let mut faults = vec![(Trigger::At(place), action(dice))];
    let kill = Action::Kill { guard_too: place.role != Role::Guard };
    let boots = matches!(place.call, "boot" | "find" | "unpause") && dice.percent(60);
    let first = if place.role == Role::Recovery && boots { off(dice, side) } else { kill };
    // What is booted or run on at the source was not handed over.
    let early = (side, place.role) == (Side::Source, Role::Recovery) && dice.percent(60);
    let leads = if early {
        draw_early(dice)
    } else if place.call == "rename" && dice.percent(60) {
        // It has not been renamed yet, or not back.
        before_rename(side)
    } else {
        draw_crossing(dice, side)
    };
    faults.push((Trigger::At(leads), first));
    if place.role == Role::Answer {
        let (kill, off) = (Action::Kill { guard_too: dice.percent(50) }, off(dice, side.other()));
        let second = dice.pick(&[kill, off]);
        faults.push((Trigger::At(draw_crossing(dice, side.other())), second));
    }
    faults
}

fn nth(dice: &mut Dice, after_ready: bool) -> Trigger {
    let role = if dice.percent(70) {
        Role::Session
    } else {
        dice.pick(&[Role::Guard, Role::Recovery, Role::Answer])
    };
    Trigger::Nth { side: side(dice), role, left: dice.below(24), after_ready }
}

fn action(dice: &mut Dice) -> Action {
    match dice.below(100) {
        0..22 => Action::Kill { guard_too: false },
        22..36 => Action::Kill { guard_too: true },
        36..50 => Action::Stop { until: stage(dice) },
        50..61 => Action::PowerLoss { side: side(dice), off_for: dice.micros(4000) },
        61..76 => Action::Cut(cut(dice)),
        76..82 => Action::Stall { to: side(dice), until: stage(dice) },
        82..92 => Action::HostFails { side: side(dice), failing: failing(dice) },
        92..96 => Action::Recover { side: side(dice) },
        96..98 => Action::Interrupt { side: side(dice) },
        _ => Action::NoDisk { side: side(dice) },
    }
}

fn stage(dice: &mut Dice) -> u8 {
    dice.pick(&[AFTER_RECOVERIES, HEALED])
}

fn cut(dice: &mut Dice) -> Cut {
    let mut notice = || match dice.below(4) {
        0 => Notice::After(Duration::ZERO),
        1 => Notice::After(dice.micros(500)),
        2 => Notice::After(dice.micros(8000)),
        _ => Notice::Never,
    };
    let notice = [notice(), notice()];
    Cut { arrives: [dice.percent(50), dice.percent(50)], notice }
}

fn failing(dice: &mut Dice) -> Failing {
    const CALLS: [&str; 9] = [
        "rename", "rename", "unpause", "unpause", "resume", "destroy", "destroy", "boot", "domain",
    ];
    let call = dice.pick(&CALLS);
    Failing {
        call,
        times: if dice.percent(90) { 1 } else { u64::MAX },
        though_done: matches!(call, "unpause" | "resume" | "destroy") && dice.percent(30),
    }
}

/// The fate of the next question.
pub fn question(dice: &mut Dice) -> Asked {
    match dice.below(100) {
        0..60 => Asked::Answered,
        60..72 => Asked::Lost,
        72..86 => Asked::AnswerLost,
        _ => Asked::Late(dice.pick(&[0, AFTER_RECOVERIES, HEALED, HEALED + 1])),
    }
}
