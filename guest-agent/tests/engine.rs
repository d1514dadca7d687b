//! The engine over a store and a guest in memory, whose clock stands still until a test moves it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use rxl_agent_protocol::*;
use rxl_guest_agent::engine::Engine;
use rxl_guest_agent::guest::{Buffer, Cut, Guest, Held, Prepared, Refusal, Since, Stopped};
use rxl_guest_agent::store::Store;

/// A tree that both sides share, and can be told to fail.
#[derive(Clone, Default)]
struct Tree(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<String, String>,
    /// The paths that were written, in order.
    writes: Vec<String>,
    broken: bool,
}

impl Tree {
    fn get(&self, path: &str) -> Option<String> {
        self.0.borrow().nodes.get(path).cloned()
    }

    fn put(&self, path: &str, value: impl ToString) {
        self.0.borrow_mut().nodes.insert(path.into(), value.to_string());
    }

    fn count(&self, under: &str) -> usize {
        self.0.borrow().nodes.keys().filter(|path| path.starts_with(under)).count()
    }

    fn check(&self) -> io::Result<()> {
        if self.0.borrow().broken { Err(io::Error::other("broken")) } else { Ok(()) }
    }
}

impl Store for Tree {
    fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        self.check()?;
        Ok(self.get(path))
    }

    fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        self.check()?;
        assert!(value.len() <= MAX_VALUE, "{path}: {} bytes", value.len());
        self.put(path, value);
        self.0.borrow_mut().writes.push(path.into());
        Ok(())
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        self.check()?;
        let below = format!("{path}/");
        self.0.borrow_mut().nodes.retain(|node, _| node != path && !node.starts_with(&below));
        Ok(())
    }

    fn wait(&mut self, _: BorrowedFd<'_>, _: Duration) -> io::Result<bool> {
        Ok(true)
    }
}

/// Ranks that do as they are told, unless a refusal is set for the next call.
#[derive(Clone, Default)]
struct Ranks(Rc<RefCell<Condition>>);

#[derive(Default)]
struct Condition {
    now: Duration,
    gathered: bool,
    frozen: bool,
    /// What the next prepare, freeze or flush refuses with.
    refuse: Option<Reason>,
    /// So many thaws fail.
    stuck: u32,
    connections: usize,
    buffers: Vec<Buffer>,
    /// The next flush is the agent's end.
    deadly: bool,
}

impl Ranks {
    fn advance(&self, ms: u64) {
        self.0.borrow_mut().now += Duration::from_millis(ms);
    }

    fn refusal(&self) -> Result<(), Refusal> {
        match self.0.borrow_mut().refuse.take() {
            Some(reason) => Err(Refusal::new(reason, "as the test wants")),
            None => Ok(()),
        }
    }

    fn frozen(&self) -> bool {
        self.0.borrow().frozen
    }

    fn gathered(&self) -> bool {
        self.0.borrow().gathered
    }
}

fn rows() -> Vec<JobRow> {
    let ranks = vec![Rank { number: 0, pid: 10 }, Rank { number: 1, pid: 11 }];
    vec![JobRow { id: Token::from_text("job"), launcher: Launcher::OpenMpi, size: 4, ranks }]
}

fn connection(port: usize) -> Connection {
    let (local, remote) = (([10, 0, 0, 1], port as u16).into(), ([10, 0, 0, 2], 1).into());
    Connection {
        local,
        remote,
        acked: 1,
        received: 1,
        unacked: 0,
        notsent: 0,
        unread: 3,
        retransmits: 0,
        window: None,
    }
}

impl Guest for Ranks {
    fn now(&self) -> Duration {
        self.0.borrow().now
    }

    fn freezer(&self) -> Freezer {
        Freezer::Cgroup
    }

    fn survey(&mut self) -> Result<Vec<JobRow>, Refusal> {
        Ok(rows())
    }

    fn prepare(&mut self, _: &Prepare) -> Result<Prepared, Refusal> {
        self.0.borrow_mut().gathered = true;
        self.refusal()?;
        Ok(Prepared { rows: rows(), processes: 2, connections: 1, patience: None })
    }

    fn freeze(&mut self, _: Duration) -> Result<Stopped, Refusal> {
        self.0.borrow_mut().frozen = true;
        self.refusal()?;
        Ok(Stopped { processes: 2, took: Duration::from_micros(5) })
    }

    fn note_buffers(&mut self) -> Result<(), Refusal> {
        self.0.borrow_mut().buffers = vec![Buffer { inode: 7, size: 4096, locks: 2, clamp: 2048 }];
        Ok(())
    }

    fn flush(&mut self, _: Duration) -> Result<Cut, Refusal> {
        assert!(!self.0.borrow().deadly, "killed");
        self.refusal()?;
        let connections = (0..self.0.borrow().connections).map(connection).collect();
        Ok(Cut { clean: true, resend: None, connections })
    }

    fn thaw(&mut self) -> Result<Since, Refusal> {
        let mut state = self.0.borrow_mut();
        if state.stuck > 0 {
            state.stuck -= 1;
            return Err(Refusal::new(Reason::System, "stuck"));
        }
        state.frozen = false;
        Ok(Since { lost: 0, retransmits: 1, connections: 1 })
    }

    fn finish(&mut self) -> Result<Since, Refusal> {
        assert!(!self.frozen(), "put back while frozen");
        let mut state = self.0.borrow_mut();
        state.gathered = false;
        state.buffers.clear();
        Ok(Since { lost: 0, retransmits: 2, connections: 1 })
    }

    fn held(&self) -> Held {
        let groups = if self.gathered() { vec!["/group".into()] } else { Vec::new() };
        Held { groups, processes: Vec::new(), buffers: self.0.borrow().buffers.clone() }
    }

    fn take_over(&mut self, held: Held) -> Result<bool, Refusal> {
        assert_eq!(held, self.held());
        Ok(self.frozen())
    }
}

struct Bench {
    tree: Tree,
    ranks: Ranks,
    engine: Engine<Tree, Ranks>,
    directory: tempfile::TempDir,
}

const SECOND: Duration = Duration::from_secs(1);

impl Bench {
    fn new() -> Self {
        let (tree, ranks, directory) =
            (Tree::default(), Ranks::default(), tempfile::tempdir().expect("directory"));
        let engine = start(&tree, &ranks, &directory);
        Self { tree, ranks, engine, directory }
    }

    /// As when the agent was killed and started again.
    fn restart(&mut self) {
        self.engine = start(&self.tree, &self.ranks, &self.directory);
    }

    fn say(&mut self, command: &str) -> Status {
        self.tree.put(path::COMMAND, command);
        self.step()
    }

    fn step(&mut self) -> Status {
        self.engine.step();
        self.state().status
    }

    fn state(&self) -> State {
        self.tree.get(path::STATE).expect("a state").parse().expect("well-formed")
    }

    /// Up to the freeze.
    fn frozen() -> Self {
        let mut bench = Self::new();
        assert!(matches!(
            bench.say("7 1 prepare lease=1000 deadline=100 pause=100"),
            Status::Ready(_)
        ));
        assert!(matches!(bench.say("7 2 freeze lease=1000 deadline=100"), Status::Frozen(_)));
        assert!(bench.ranks.frozen());
        bench
    }

    fn runs(&self) -> bool {
        !self.ranks.frozen() && !self.ranks.gathered()
    }
}

fn start(tree: &Tree, ranks: &Ranks, directory: &tempfile::TempDir) -> Engine<Tree, Ranks> {
    let info = AgentInfo {
        version: Token::from_text("1"),
        protocol: PROTOCOL_VERSION,
        pid: 1,
        boot: Token::from_text("boot"),
        freezer: Freezer::Cgroup,
    };
    Engine::start(tree.clone(), ranks.clone(), info, directory.path().join("record"))
        .expect("it starts")
}

fn failed(status: &Status, why: Reason) -> bool {
    matches!(status, Status::Failed { reason, .. } if *reason == why)
}

#[test]
fn a_whole_epoch() {
    let mut bench = Bench::new();
    assert_eq!(bench.state(), State { stamp: Stamp::default(), status: Status::Idle });
    assert_eq!(bench.say("7 1 survey"), Status::Surveyed { ranks: 2 });
    assert_eq!(bench.tree.get(&path::job(0)).expect("a row").parse(), Ok(rows().remove(0)));
    assert!(matches!(bench.say("7 2 prepare lease=1000 deadline=100 pause=100"), Status::Ready(_)));
    assert!(matches!(bench.say("7 3 freeze lease=1000 deadline=100"), Status::Frozen(_)));
    bench.ranks.0.borrow_mut().connections = 40;
    let Status::Flushed(flushed) = bench.say("7 4 flush lease=1000 deadline=100 room=1") else {
        panic!("not flushed")
    };
    assert_eq!((flushed.connections, flushed.unread), (40, 120));
    assert_eq!(bench.tree.count("data/rxl/cut/"), flushed.chunks as usize);
    bench.ranks.advance(300);
    let Status::Thawed(thawed) = bench.say("7 5 thaw lease=1000") else { panic!("not thawed") };
    assert_eq!((thawed.paused, thawed.retransmits), (Duration::from_millis(300), 1));
    assert!(!bench.ranks.frozen() && bench.ranks.gathered());
    assert_eq!(
        bench.say("7 6 finish"),
        Status::Finished(Finished { retransmits: 2, connections: 1 })
    );
    assert!(bench.runs());
}

#[test]
fn a_command_is_obeyed_once_and_only_in_order() {
    let mut bench = Bench::frozen();
    for old in [
        "7 2 freeze lease=1000 deadline=100",
        "7 1 survey",
        "6 9 abort",
        "7 2 thaw lease=1000",
        "garbage",
        "",
    ] {
        bench.say(old);
        assert!(bench.ranks.frozen(), "{old}");
        assert_eq!(bench.state().stamp, Stamp { epoch: 7, sequence: 2 }, "{old}");
    }
}

#[test]
fn what_does_not_fit_thaws() {
    for odd in ["7 3 finish", "7 3 prepare lease=1000 deadline=1 pause=1", "7 3 survey"] {
        let mut bench = Bench::frozen();
        assert!(failed(&bench.say(odd), Reason::WrongState), "{odd}");
        assert!(bench.runs(), "{odd}");
    }
    let mut bench = Bench::frozen();
    assert!(failed(&bench.say("7 3 flush lease=1000"), Reason::Malformed));
    assert!(bench.runs());
    let mut bench = Bench::new();
    assert!(failed(&bench.say("7 1 freeze lease=1000 deadline=100"), Reason::WrongState));
    assert!(bench.runs());
}

#[test]
fn a_newer_epoch_ends_an_older_one() {
    let mut bench = Bench::frozen();
    assert_eq!(bench.say("8 1 survey"), Status::Surveyed { ranks: 2 });
    assert!(bench.runs());
}

#[test]
fn refusals_are_told_and_leave_nothing_behind() {
    let mut bench = Bench::new();
    bench.ranks.0.borrow_mut().refuse = Some(Reason::Connecting);
    let nack = bench.say("7 1 prepare lease=1000 deadline=100 pause=100");
    assert!(matches!(nack, Status::Nack { reason: Reason::Connecting, .. }));
    assert!(bench.runs());
    bench.say("7 2 prepare lease=1000 deadline=100 pause=100");
    bench.ranks.0.borrow_mut().refuse = Some(Reason::FreezeDeadline);
    assert!(failed(&bench.say("7 3 freeze lease=1000 deadline=100"), Reason::FreezeDeadline));
    assert!(bench.runs());
}

#[test]
fn the_lease_ends_unless_it_is_renewed() {
    let mut bench = Bench::frozen();
    bench.ranks.advance(900);
    bench.tree.put(path::LEASE, Lease { epoch: 7, count: 1 });
    bench.step();
    bench.ranks.advance(900);
    bench.step();
    assert!(bench.ranks.frozen(), "renewed");
    bench.ranks.advance(101);
    assert_eq!(bench.step(), Status::Expired { paused: Duration::from_millis(1901) });
    assert!(bench.runs());
    assert_eq!(
        bench.say("7 3 thaw lease=1000"),
        Status::Thawed(Thawed::default()),
        "too late, and harmless"
    );
}

#[test]
fn another_epochs_lease_renews_nothing() {
    let mut bench = Bench::frozen();
    bench.ranks.advance(900);
    bench.tree.put(path::LEASE, Lease { epoch: 8, count: 1 });
    bench.step();
    bench.ranks.advance(101);
    assert!(matches!(bench.step(), Status::Expired { .. }));
}

#[test]
fn prepared_and_thawed_have_a_lease_too() {
    let mut bench = Bench::new();
    bench.say("7 1 prepare lease=1000 deadline=100 pause=100");
    bench.ranks.advance(1000);
    assert_eq!(bench.step(), Status::Expired { paused: Duration::ZERO });
    let mut bench = Bench::frozen();
    bench.say("7 3 thaw lease=1000");
    bench.ranks.advance(1000);
    assert!(matches!(bench.step(), Status::Expired { .. }));
    assert!(bench.runs());
}

#[test]
fn a_store_that_fails_keeps_nothing_frozen() {
    let mut bench = Bench::frozen();
    bench.tree.0.borrow_mut().broken = true;
    bench.ranks.advance(1000);
    bench.engine.step();
    assert!(bench.runs());
    bench.tree.0.borrow_mut().broken = false;
    assert!(matches!(bench.step(), Status::Expired { .. }), "told as soon as it can be");
}

#[test]
fn a_fresh_tree_is_filled_again() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().connections = 40;
    bench.say("7 3 flush lease=1000 deadline=100 room=1");
    let before = bench.tree.0.borrow().nodes.clone();
    bench.tree.0.borrow_mut().nodes.clear();
    // The clock may have gone on while the domain was away.
    bench.ranks.advance(5000);
    bench.tree.0.borrow_mut().writes.clear();
    assert_eq!(bench.say("7 4 hold lease=1000"), Status::Resumed { frozen: true });
    let first = bench.tree.0.borrow().writes.first().cloned();
    assert_eq!(first.as_deref(), Some(path::STATE), "a job waits for this answer");
    assert!(bench.ranks.frozen());
    let after = bench.tree.0.borrow().nodes.clone();
    assert!(before.keys().all(|path| after.contains_key(path)));
    assert!(matches!(bench.say("7 5 thaw lease=1000"), Status::Thawed(_)));
}

#[test]
fn what_stands_there_is_not_written_again() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().connections = 40;
    bench.say("7 3 flush lease=1000 deadline=100");
    bench.tree.0.borrow_mut().writes.clear();
    bench.say("7 4 thaw lease=1000");
    assert_eq!(bench.tree.0.borrow().writes, [path::STATE]);
}

#[test]
fn leftover_rows_are_removed() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().connections = 40;
    bench.say("7 3 flush lease=1000 deadline=100 room=1");
    bench.ranks.0.borrow_mut().connections = 1;
    bench.say("7 4 flush lease=1000 deadline=100 room=1");
    assert_eq!(bench.tree.count("data/rxl/cut/"), 1);
}

#[test]
fn a_successor_goes_on_while_the_lease_runs() {
    let mut bench = Bench::frozen();
    bench.restart();
    assert!(bench.ranks.frozen());
    assert_eq!(bench.state().stamp, Stamp { epoch: 7, sequence: 2 });
    assert!(matches!(bench.state().status, Status::Frozen(_)));
    assert!(matches!(bench.say("7 3 thaw lease=1000"), Status::Thawed(_)));
    assert!(!bench.ranks.frozen());
}

#[test]
fn a_successor_thaws_what_nobody_waits_for() {
    let mut late = Bench::frozen();
    late.ranks.advance(1000);
    late.restart();
    assert!(late.runs() && matches!(late.state().status, Status::Expired { .. }));
    let mut elsewhere = Bench::frozen();
    elsewhere.tree.0.borrow_mut().nodes.remove(path::COMMAND);
    elsewhere.restart();
    assert!(elsewhere.runs());
}

#[test]
fn a_death_in_the_middle_of_a_freeze_leaves_nothing_frozen() {
    let mut bench = Bench::new();
    bench.say("7 1 prepare lease=1000 deadline=100 pause=100");
    // The command was read and obeyed, and the agent died before it could say so.
    bench.tree.put(path::COMMAND, "7 2 freeze lease=1000 deadline=100");
    bench.ranks.0.borrow_mut().frozen = true;
    bench.restart();
    assert!(bench.runs());
}

#[test]
fn buffers_are_recorded_before_they_are_raised() {
    let mut bench = Bench::frozen();
    bench.say("7 3 flush lease=1000 deadline=100 room=0");
    assert!(bench.ranks.held().buffers.is_empty(), "who still sends needs no room");
    bench.ranks.0.borrow_mut().deadly = true;
    bench.tree.put(path::COMMAND, "7 4 flush lease=1000 deadline=100 room=1");
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.step()));
    assert!(killed.is_err() && bench.ranks.held().buffers.len() == 1);
    // Taking over asserts that the record says what is held.
    bench.restart();
    bench.say("7 5 abort");
    assert!(bench.runs() && bench.ranks.held().buffers.is_empty());
}

#[test]
fn without_a_record_the_last_state_keeps_old_commands_old() {
    let mut bench = Bench::new();
    bench.say("7 1 survey");
    std::fs::remove_file(bench.directory.path().join("record")).expect("there is one");
    bench.restart();
    bench.step();
    assert_eq!(
        bench.state(),
        State { stamp: Stamp { epoch: 7, sequence: 1 }, status: Status::Idle }
    );
}

#[test]
fn what_cannot_be_thawed_is_tried_again() {
    let mut bench = Bench::frozen();
    bench.ranks.0.borrow_mut().stuck = 3;
    assert!(failed(&bench.say("7 3 thaw lease=1000"), Reason::System));
    assert!(bench.ranks.frozen());
    for _ in 0..3 {
        bench.ranks.advance(1000);
        bench.step();
    }
    assert!(bench.runs());
}

#[test]
fn a_stopped_agent_leaves_its_stamp_and_nothing_frozen() {
    let bench = Bench::frozen();
    let (tree, ranks) = (bench.tree.clone(), bench.ranks.clone());
    bench.engine.stop().expect("it stops");
    assert!(!ranks.frozen() && !ranks.gathered());
    assert_eq!(tree.get(path::AGENT), None);
    let state: State = tree.get(path::STATE).expect("it stays").parse().expect("well-formed");
    assert!(failed(&state.status, Reason::Stopping) && state.stamp.epoch == 7);
}

#[test]
fn it_looks_each_second_while_an_epoch_is_under_way() {
    let mut bench = Bench::new();
    assert!(bench.engine.step() > SECOND);
    let mut bench = Bench::frozen();
    assert!(bench.engine.step() <= SECOND);
}
