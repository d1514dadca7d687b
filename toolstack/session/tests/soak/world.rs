//! Two hosts, one migration between them, and all that goes wrong on the way.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rxl_core::domain::GuestType;
use rxl_handover::source::SourceState;
use rxl_handover::target::TargetState;
use rxl_testkit::memory::{Faults, Guest};

use crate::dice::Dice;
use crate::link::Link;
use crate::node::Node;
use crate::places::{Place, Role, Side};
use crate::plan::{Action, Asked, Cut, HEALED, Notice, Plan, Trigger, question};
use crate::proc::Proc;
use crate::truth::{Copied, NAME, Truth};

/// What a test puts in, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A fence is answered, and not recorded.
    FenceNotRecorded,
    /// A source that has said GO takes silence for a no.
    SilenceIsNo,
    /// A target that holds a copy asks nobody about it.
    NobodyAsks,
    /// A target that was not told anything takes silence for GO.
    SilenceIsGo,
}

type Job = Box<dyn FnOnce(&Arc<World>) + Send>;

enum Due {
    At(Instant),
    Stage(u8),
}

#[derive(Default)]
struct Clock {
    stage: u8,
    jobs: Vec<(Due, Job)>,
    /// Threads of processes.
    active: usize,
    /// Until which stages some of them are stopped.
    stopped: Vec<u8>,
}

pub struct World {
    pub id: String,
    pub plan: Plan,
    pub nodes: [Node; 2],
    pub link: Link,
    pub truth: Mutex<Truth>,
    pub flaw: Option<Flaw>,
    pub hits: Mutex<Vec<(Place, Action)>>,
    pub trace: Mutex<Vec<Place>>,
    faults: Mutex<Vec<(Trigger, Action)>>,
    dice: Mutex<Dice>,
    clock: Mutex<Clock>,
    changed: Condvar,
    ready: AtomicBool,
}

fn guest(dice: &mut Dice) -> Guest {
    Guest {
        pages: 4,
        zero_per_256: 0,
        dirty: vec![1; dice.below(3) as usize],
        endless: false,
        seed: 1,
    }
}

impl World {
    pub fn new(seed: u64, dir: &Path, flaw: Option<Flaw>) -> Arc<Self> {
        let mut dice = Dice::new(seed);
        let plan = Plan::draw(&mut dice);
        let nodes = ["source", "target"].map(|name| Node::new(&dir.join(name)));
        let domid = nodes[0].memory().start(NAME, GuestType::Pvh, guest(&mut dice));
        let breaks = Faults { save_after_suspend: plan.save_breaks, ..Faults::default() };
        nodes[0].memory().set_faults(breaks);
        let breaks = Faults { restore_at_end: plan.restore_breaks, ..Faults::default() };
        nodes[1].memory().set_faults(breaks);
        let original = Some(Copied { side: Side::Source, boot: 1, domid });
        let truth = Truth::new(original, plan.leave_paused);
        Arc::new(Self {
            id: format!("{seed:032x}"),
            faults: Mutex::new(plan.faults.clone()),
            plan,
            nodes,
            link: Link::default(),
            truth: Mutex::new(truth),
            flaw,
            hits: Mutex::default(),
            trace: Mutex::default(),
            dice: Mutex::new(dice),
            clock: Mutex::default(),
            changed: Condvar::new(),
            ready: AtomicBool::new(false),
        })
    }

    pub fn is_wrong(&self, what: String) {
        self.truth.lock().unwrap().wrong.push(what);
    }

    pub fn roll<T>(&self, roll: impl FnOnce(&mut Dice) -> T) -> T {
        roll(&mut self.dice.lock().unwrap())
    }

    pub fn stage(&self) -> u8 {
        self.clock.lock().unwrap().stage
    }

    /// READY is about to be said.
    pub fn is_ready(&self) {
        self.ready.store(true, Ordering::SeqCst);
    }

    /// What becomes of the next question.
    pub fn next_question(&self) -> Asked {
        if self.stage() >= HEALED { Asked::Answered } else { self.roll(question) }
    }

    /// What strikes a process at this place.
    pub fn strikes(&self, place: Place) -> Vec<Action> {
        self.trace.lock().unwrap().push(place);
        if self.stage() >= HEALED {
            return Vec::new();
        }
        let mut faults = self.faults.lock().unwrap();
        let mut struck = Vec::new();
        faults.retain_mut(|(trigger, action)| {
            let strikes = self.is_pulled(trigger, place);
            if strikes {
                struck.push(*action);
            }
            !strikes
        });
        let mut hits = self.hits.lock().unwrap();
        hits.extend(struck.iter().map(|action| (place, *action)));
        struck
    }

    fn is_pulled(&self, trigger: &mut Trigger, place: Place) -> bool {
        match trigger {
            Trigger::At(at) => *at == place,
            Trigger::Nth { side, role, left, after_ready } => {
                let counts = (*side, *role) == (place.side, place.role)
                    && (!*after_ready || self.ready.load(Ordering::SeqCst));
                if counts && *left > 0 {
                    *left -= 1;
                    return false;
                }
                counts
            }
        }
    }

    /// Something happens that is not the death or the stop of who comes to a boundary.
    pub fn strike(self: &Arc<Self>, action: Action) {
        match action {
            Action::PowerLoss { side, off_for } => self.lose_power(side, off_for),
            Action::Cut(cut) => self.cut(&cut),
            Action::Stall { to, until } => {
                self.link.stall(to, true);
                self.at(Due::Stage(until), move |world| world.link.stall(to, false));
            }
            Action::HostFails { side, failing } => self.nodes[side as usize].fail(failing),
            Action::Recover { side } => crate::recovery::spawn(self, side),
            Action::Interrupt { side } => self.link.interrupt(side),
            Action::NoDisk { side } => self.nodes[side as usize].lose_disk(),
            Action::Kill { .. } | Action::Stop { .. } => {}
        }
    }

    fn cut(self: &Arc<Self>, cut: &Cut) {
        if !self.link.cut(cut) {
            return;
        }
        for side in [Side::Source, Side::Target] {
            let due = match cut.notice[side as usize] {
                Notice::After(Duration::ZERO) => {
                    self.link.notice(side);
                    continue;
                }
                Notice::After(delay) => Due::At(Instant::now() + delay),
                Notice::Never => Due::Stage(HEALED),
            };
            self.at(due, move |world| world.link.notice(side));
        }
    }

    /// Everything on it is gone but its disk. The other end notices that some time.
    fn lose_power(self: &Arc<Self>, side: Side, off_for: Duration) {
        {
            let _nobody_runs_anything = self.truth.lock().unwrap();
            if !self.nodes[side as usize].power_off() {
                return;
            }
        }
        let delay = self.roll(|dice| dice.micros(4000));
        let notice = match self.roll(|dice| dice.percent(70)) {
            true => Notice::After(delay),
            false => Notice::Never,
        };
        let arrives = self.roll(|dice| dice.percent(50));
        self.cut(&Cut { arrives: [arrives; 2], notice: [notice; 2] });
        self.link.wake(side);
        self.notify();
        self.at(Due::At(Instant::now() + off_for), move |world| world.return_power(side));
    }

    fn return_power(self: &Arc<Self>, side: Side) {
        let node = &self.nodes[side as usize];
        if node.active().load(Ordering::SeqCst) > 0 {
            self.link.wake(side);
            let soon = Instant::now() + Duration::from_micros(200);
            return self.at(Due::At(soon), move |world| world.return_power(side));
        }
        node.bring_disk();
        let mut truth = self.truth.lock().unwrap();
        truth.ended_by_itself |= match side {
            Side::Source => {
                matches!(node.source_state(&self.id), Ok(None | Some(SourceState::Returned)))
            }
            Side::Target => matches!(node.target_state(&self.id), Ok(Some(TargetState::Settled))),
        };
        node.power_on();
    }

    fn at(&self, due: Due, job: impl FnOnce(&Arc<Self>) + Send + 'static) {
        self.clock.lock().unwrap().jobs.push((due, Box::new(job)));
        self.notify();
    }

    /// Runs this at a stage, or now if it has come.
    pub fn at_stage(&self, stage: u8, job: impl FnOnce(&Arc<Self>) + Send + 'static) {
        self.at(Due::Stage(stage), job);
    }

    pub fn notify(&self) {
        let _ordered = self.clock.lock().unwrap();
        self.changed.notify_all();
    }

    /// A process stands still until this stage, or until it is dead.
    pub fn stop(&self, until: u8, is_dead: impl Fn() -> bool) {
        let mut clock = self.clock.lock().unwrap();
        clock.stopped.push(until);
        self.changed.notify_all();
        while clock.stage < until && !is_dead() {
            clock = self.changed.wait(clock).unwrap();
        }
        let index = clock.stopped.iter().position(|stopped| *stopped == until);
        clock.stopped.swap_remove(index.unwrap());
    }

    /// Starts a process on a thread. Not where its host is off.
    pub fn spawn(
        self: &Arc<Self>,
        side: Side,
        role: Role,
        work: impl FnOnce(Arc<Proc>) + Send + 'static,
    ) {
        let Some(proc) = Proc::start(self, side, role) else { return };
        let world = self.clone();
        self.clock.lock().unwrap().active += 1;
        let run = move || {
            work(proc);
            world.clock.lock().unwrap().active -= 1;
            world.notify();
        };
        std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap();
    }

    /// Goes on to a stage.
    pub fn enter(&self, stage: u8) {
        self.clock.lock().unwrap().stage = stage;
        self.notify();
    }

    /// Lets everything go on for so long, or until `enough` processes are left that are not
    /// stopped. True where that came.
    pub fn run_until_quiet(self: &Arc<Self>, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let now = Instant::now();
            let mut clock = self.clock.lock().unwrap();
            let stage = clock.stage;
            let is_due = |due: &Due| match due {
                Due::At(at) => *at <= now,
                Due::Stage(at) => *at <= stage,
            };
            if let Some(index) = clock.jobs.iter().position(|(due, _)| is_due(due)) {
                let (_, job) = clock.jobs.swap_remove(index);
                drop(clock);
                job(self);
                continue;
            }
            let timed = clock.jobs.iter().filter_map(|(due, _)| match due {
                Due::At(at) => Some(*at),
                Due::Stage(_) => None,
            });
            let next = timed.min();
            let stopped = clock.stopped.iter().filter(|until| **until > stage).count();
            if clock.active == stopped && next.is_none() {
                return true;
            }
            if now >= until {
                return false;
            }
            let wait = next.map_or(until, |next| next.min(until)) - now;
            drop(self.changed.wait_timeout(clock, wait).unwrap());
        }
    }
}
