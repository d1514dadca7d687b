//! Guards, as `rxl guard` acts.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rxl_core::state_dir::DomainLock;
use rxl_host::guard_line::{Listener, Side as End, Word};
use rxl_recover::AnyRecord;

use crate::host::ProcHost;
use crate::places::{Role, Side};
use crate::proc::Proc;
use crate::recovery::asking;
use crate::world::World;

/// A session's line to its guard.
pub struct Line {
    pub proc: Arc<Proc>,
    pub word: Arc<Mutex<Option<Word>>>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl Listener for Line {
    fn tell(&self, word: &Word) -> io::Result<()> {
        self.proc.call("tell-guard", || *self.word.lock().unwrap() = Some(word.clone()));
        Ok(())
    }
}

/// A session that goes on without its guard lets it act, and waits. The guard of one that was
/// killed begins once the kernel has closed all that was its session's: [`after`].
impl Drop for Line {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            act(&self.proc.world, self.proc.side, &self.word, Lock::Shared);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    /// The session lives, and has it.
    Shared,
    /// The session was killed: in truth its guard has had it all the time.
    Alone,
}

/// The session was killed: its guard acts.
pub fn after(proc: &Proc, word: &Mutex<Option<Word>>) {
    if proc.leaves_guard() {
        act(&proc.world, proc.side, word, Lock::Alone);
    }
}

fn act(world: &Arc<World>, side: Side, word: &Mutex<Option<Word>>, lock: Lock) {
    let word = word.lock().unwrap().take();
    let Some(Word::Settle { side: end, id, .. }) = word else { return };
    let Some(proc) = Proc::start(world, side, Role::Guard) else { return };
    proc.run(|proc| settle(proc, end, &id, lock));
}

fn settle(proc: &Arc<Proc>, end: End, id: &str, lock: Lock) {
    let world = &proc.world;
    let node = &world.nodes[proc.side as usize];
    let journal = node.journal();
    let found = match end {
        End::Source => journal.find(id).map(|found| found.map(AnyRecord::Source)),
        End::Target => journal.find(id).map(|found| found.map(AnyRecord::Target)),
    };
    let Ok(Some(record)) = found else { return };
    let Some(_lock) = locked(proc, &record, lock) else { return };
    let host = ProcHost::new(proc);
    // What cannot be done is left to a recovery.
    let _ = asking(proc).settle(node.place(&host, &journal), &record);
}

/// What keeps others out while the guard acts. None where somebody else was first.
fn locked(proc: &Arc<Proc>, record: &AnyRecord, lock: Lock) -> Option<Option<DomainLock>> {
    let world = &proc.world;
    let state = &world.nodes[proc.side as usize].state;
    let header = record.header().ok()?;
    if lock == Lock::Shared {
        if record.lock(state, &header).is_some() {
            world.is_wrong("a guard acts without its session's lock".into());
        }
        return Some(None);
    }
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        proc.check();
        if let Some(lock) = record.lock(state, &header) {
            return Some(Some(lock));
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    None
}
