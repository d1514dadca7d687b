//! A store and a guest in memory, whose clock stands still until a test moves it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use rxl_agent_protocol::*;
use rxl_guest_agent::engine::Engine;
use rxl_guest_agent::guest::{Buffer, Cut, Guest, Held, Prepared, Refusal, Since, Stopped, Survey};
use rxl_guest_agent::store::Store;

/// A tree that both sides share, and can be told to fail.
#[derive(Clone, Default)]
pub struct Tree(pub Rc<RefCell<Inner>>);

#[derive(Default)]
pub struct Inner {
    pub nodes: BTreeMap<String, String>,
    /// The paths that were written, in order.
    pub writes: Vec<String>,
    pub broken: bool,
    /// Takes no writes, as at the quota.
    pub full: bool,
}

impl Tree {
    pub fn get(&self, path: &str) -> Option<String> {
        self.0.borrow().nodes.get(path).cloned()
    }

    pub fn put(&self, path: &str, value: impl ToString) {
        self.0.borrow_mut().nodes.insert(path.into(), value.to_string());
    }

    pub fn count(&self, under: &str) -> usize {
        self.0.borrow().nodes.keys().filter(|path| path.starts_with(under)).count()
    }

    pub fn check(&self) -> io::Result<()> {
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
        if self.0.borrow().full {
            return Err(io::Error::other("quota"));
        }
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
pub struct Ranks(pub Rc<RefCell<Condition>>);

#[derive(Default)]
pub struct Condition {
    pub now: Duration,
    pub gathered: bool,
    pub frozen: bool,
    /// What the next prepare, freeze or flush refuses with.
    pub refuse: Option<Reason>,
    /// So many thaws fail.
    pub stuck: u32,
    /// Putting back fails.
    pub stranded: bool,
    /// How often putting back was tried.
    pub finishes: u32,
    pub unclaimed: Option<Unclaimed>,
    pub connections: usize,
    pub buffers: Vec<Buffer>,
    /// The next flush is the agent's end.
    pub deadly: bool,
}

impl Ranks {
    pub fn advance(&self, ms: u64) {
        self.0.borrow_mut().now += Duration::from_millis(ms);
    }

    pub fn refusal(&self) -> Result<(), Refusal> {
        match self.0.borrow_mut().refuse.take() {
            Some(reason) => Err(Refusal::new(reason, "as the test wants")),
            None => Ok(()),
        }
    }

    pub fn frozen(&self) -> bool {
        self.0.borrow().frozen
    }

    pub fn gathered(&self) -> bool {
        self.0.borrow().gathered
    }
}

pub fn rows() -> Vec<JobRow> {
    let ranks = vec![Rank { number: 0, pid: 10 }, Rank { number: 1, pid: 11 }];
    vec![JobRow {
        id: Token::from_text("job"),
        launcher: Launcher::OpenMpi,
        size: 4,
        part: 0,
        ranks,
    }]
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

    fn survey(&mut self) -> Result<Survey, Refusal> {
        let unclaimed = self.0.borrow().unclaimed.clone();
        Ok(Survey { rows: rows(), unclaimed, explanation: vec!["10 a.out: rank 0".into()] })
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
        state.finishes += 1;
        if state.stranded {
            return Err(Refusal::new(Reason::System, "stranded"));
        }
        state.gathered = false;
        state.buffers.clear();
        Ok(Since { lost: 0, retransmits: 2, connections: 1 })
    }

    fn held(&self) -> Held {
        let groups = if self.gathered() { vec!["/group".into()] } else { Vec::new() };
        Held { groups, buffers: self.0.borrow().buffers.clone(), ..Held::default() }
    }

    fn take_over(&mut self, held: Held) -> Result<bool, Refusal> {
        assert_eq!(held, self.held());
        Ok(self.frozen())
    }
}

pub struct Bench {
    pub tree: Tree,
    pub ranks: Ranks,
    pub engine: Engine<Tree, Ranks>,
    pub directory: tempfile::TempDir,
}

pub const SECOND: Duration = Duration::from_secs(1);

impl Bench {
    pub fn new() -> Self {
        let (tree, ranks, directory) =
            (Tree::default(), Ranks::default(), tempfile::tempdir().expect("directory"));
        let engine = start(&tree, &ranks, &directory);
        Self { tree, ranks, engine, directory }
    }

    /// As when the agent was killed and started again.
    pub fn restart(&mut self) {
        self.engine = start(&self.tree, &self.ranks, &self.directory);
    }

    pub fn say(&mut self, command: &str) -> Status {
        self.tree.put(path::COMMAND, command);
        self.step()
    }

    pub fn step(&mut self) -> Status {
        self.engine.step();
        self.state().status
    }

    pub fn state(&self) -> State {
        self.tree.get(path::STATE).expect("a state").parse().expect("well-formed")
    }

    /// Up to the freeze.
    pub fn frozen() -> Self {
        let mut bench = Self::new();
        assert!(matches!(
            bench.say("7 1 prepare lease=1000 deadline=100 pause=100"),
            Status::Ready(_)
        ));
        assert!(matches!(bench.say("7 2 freeze lease=1000 deadline=100"), Status::Frozen(_)));
        assert!(bench.ranks.frozen());
        bench
    }

    pub fn runs(&self) -> bool {
        !self.ranks.frozen() && !self.ranks.gathered()
    }
}

pub fn start(tree: &Tree, ranks: &Ranks, directory: &tempfile::TempDir) -> Engine<Tree, Ranks> {
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

pub fn failed(status: &Status, why: Reason) -> bool {
    matches!(status, Status::Failed { reason, .. } if *reason == why)
}
