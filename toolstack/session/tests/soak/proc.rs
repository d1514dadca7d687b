//! A process: a thread that comes to boundaries, at each of which it may be killed or stopped, or
//! something else may happen.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::places::{Place, Role, Side, When};
use crate::plan::Action;
use crate::world::World;

/// What a killed process unwinds with. The panic hook does not see it, so nothing is printed.
struct Killed;

pub struct Proc {
    pub world: Arc<World>,
    pub side: Side,
    role: Role,
    power: usize,
    dead: AtomicBool,
    guard_too: AtomicBool,
    /// Questions of its save that it has not answered yet.
    pub asking: AtomicUsize,
}

/// Empties the queue of events of the session on this thread, so that nobody waits for a dead one.
type Drain = Rc<dyn Fn()>;

thread_local! {
    static DRAIN: RefCell<Option<Drain>> = const { RefCell::new(None) };
}

/// The session on this thread has this queue from now on, or none.
pub fn set_drain(drain: Option<Drain>) {
    DRAIN.set(drain);
}

impl Proc {
    /// None where its host is off.
    pub fn start(world: &Arc<World>, side: Side, role: Role) -> Option<Arc<Self>> {
        let node = &world.nodes[side as usize];
        node.active().fetch_add(1, Ordering::SeqCst);
        let Some(power) = node.power() else {
            node.active().fetch_sub(1, Ordering::SeqCst);
            return None;
        };
        Some(Arc::new(Self {
            world: world.clone(),
            side,
            role,
            power,
            dead: AtomicBool::new(false),
            guard_too: AtomicBool::new(false),
            asking: AtomicUsize::new(0),
        }))
    }

    /// Runs it to its end. None where it was killed.
    pub fn run<T>(self: &Arc<Self>, work: impl FnOnce(&Arc<Self>) -> T) -> Option<T> {
        let ended = catch_unwind(AssertUnwindSafe(|| work(self)));
        set_drain(None);
        self.world.nodes[self.side as usize].active().fetch_sub(1, Ordering::SeqCst);
        self.world.notify();
        match ended {
            Ok(value) => Some(value),
            Err(payload) if payload.is::<Killed>() => None,
            Err(payload) => {
                self.world.is_wrong(format!("{:?} panicked: {}", self.role, text(&*payload)));
                None
            }
        }
    }

    pub fn has_power(&self) -> bool {
        self.world.nodes[self.side as usize].power() == Some(self.power)
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst) || !self.has_power()
    }

    /// Whether its guard outlives it.
    pub fn leaves_guard(&self) -> bool {
        self.has_power() && !self.guard_too.load(Ordering::SeqCst)
    }

    /// Ends here where it is dead.
    pub fn check(&self) {
        self.check_at("");
    }

    fn check_at(&self, call: &str) {
        if self.is_dead() && !std::thread::panicking() {
            // The guard is told before the save is allowed to go on.
            self.die(call == "tell-guard");
        }
    }

    /// Whoever waits for its answers is told that none will come. `in_hand`: it was about to answer
    /// one, which unwinding tells.
    fn die(&self, in_hand: bool) -> ! {
        self.dead.store(true, Ordering::SeqCst);
        loop {
            DRAIN.with_borrow(|drain| drain.as_ref().inspect(|drain| drain()).is_some());
            if in_hand || self.asking.load(Ordering::SeqCst) == 0 {
                resume_unwind(Box::new(Killed));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// It comes to a boundary.
    pub fn gate(&self, call: &'static str, when: When) {
        // What is dropped after its death is the kernel's to clean up.
        if std::thread::panicking() {
            return;
        }
        self.check_at(call);
        let place = Place { side: self.side, role: self.role, call, when };
        for action in self.world.strikes(place) {
            self.suffer(action);
        }
        self.check_at(call);
    }

    /// A call with both its boundaries.
    pub fn call<T>(&self, call: &'static str, act: impl FnOnce() -> T) -> T {
        self.gate(call, When::Before);
        let done = act();
        self.gate(call, When::After);
        done
    }

    fn suffer(&self, action: Action) {
        match action {
            Action::Kill { guard_too } => {
                self.guard_too.store(guard_too, Ordering::SeqCst);
                self.dead.store(true, Ordering::SeqCst);
            }
            Action::Stop { until } => self.world.stop(until, || self.is_dead()),
            other => self.world.strike(other),
        }
    }
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}
