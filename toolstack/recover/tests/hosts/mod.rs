//! Two hosts in memory, with their records, that can ask each other.

#![allow(dead_code, reason = "each test program needs a part of it")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rxl_core::boot::BootId;
use rxl_core::domain::{DomId, GuestType, RunState};
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_handover::record::AfterSave;
use rxl_handover::source::{SourceEvent, SourceState};
use rxl_handover::target::{TargetEvent, TargetState};
use rxl_handover::{Header, Journal, Other, Record};
use rxl_host::host::Host;
use rxl_recover::{
    Answer, AnyRecord, End, Peer, Place, Question, RecoverError, Settling, Unreachable, answer,
};
use rxl_testkit::memory::{Guest, MemoryHost};
use tempfile::TempDir;

pub const ID: &str = "0123456789abcdef0123456789abcdef";

pub const SOON: Settling = Settling {
    suspended: Duration::from_millis(1),
    settled: Duration::from_millis(20),
    asked: Duration::from_millis(20),
    limit: Duration::from_millis(200),
    interval: Duration::from_millis(1),
};

/// A host with its records.
pub struct Node {
    pub host: MemoryHost,
    pub state: StateDir,
    journal: Journal,
    dir: TempDir,
    cut: AtomicBool,
    /// How long its domains are watched.
    pub settling: Settling,
}

/// The source and the target of one migration.
pub struct Hosts {
    pub source: Node,
    pub target: Node,
}

fn guest() -> Guest {
    Guest { pages: 16, zero_per_256: 0, dirty: vec![], endless: false, seed: 1 }
}

fn header(domid: Option<u32>, leave_paused: bool) -> Header {
    Header {
        id: ID.into(),
        name: "dom3".into(),
        uuid: None,
        config_json: r#"{"c_info":{"name":"dom3"},"b_info":{"max_memkb":64}}"#.into(),
        domid,
        other: Other::Rxl { hosts: vec!["other".into()], ssh_command: None },
        leave_paused,
        no_monitor: leave_paused,
    }
}

impl Hosts {
    /// The domain is being saved and restored.
    pub fn leaving() -> Self {
        Self::begun(false)
    }

    /// The same, of a domain that is to stay paused.
    pub fn leaving_paused() -> Self {
        Self::begun(true)
    }

    fn begun(leave_paused: bool) -> Self {
        let (source, target) = (Node::new(), Node::new());
        let domid = source.host.start("dom3", GuestType::Pvh, guest());
        source.journal.begin::<SourceState>(&header(Some(domid.0), leave_paused)).unwrap();
        target.journal.begin::<TargetState>(&header(None, leave_paused)).unwrap();
        Self { source, target }
    }

    /// The domain is being saved into a file.
    pub fn saving(after: AfterSave) -> Self {
        let (source, target) = (Node::new(), Node::new());
        let domid = source.host.start("dom3", GuestType::Pvh, guest());
        let (path, unfinished) = source.save_paths();
        let other = Other::File { path, unfinished: Some(unfinished), after };
        let header = Header { other, ..header(Some(domid.0), false) };
        source.journal.begin::<SourceState>(&header).unwrap();
        Self { source, target }
    }

    /// GO may have been said.
    pub fn committing() -> Self {
        Self::committed(false)
    }

    /// The same, of a domain that is to stay paused.
    pub fn committing_paused() -> Self {
        Self::committed(true)
    }

    fn committed(leave_paused: bool) -> Self {
        let hosts = Self::begun(leave_paused);
        hosts.source.suspend();
        let domid = hosts.source.domid();
        hosts.source.source_record().advance(SourceEvent::Commit).unwrap();
        hosts.source.host.rename(domid, "dom3", "dom3--migratedaway").unwrap();
        hosts
    }

    pub fn source_lost_power(self, boot: BootId) -> Self {
        Self { source: self.source.lost_power(boot), ..self }
    }

    pub fn target_lost_power(self, boot: BootId) -> Self {
        Self { target: self.target.lost_power(boot), ..self }
    }
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path());
        let journal = Journal::of(&state).unwrap();
        let (host, cut) = (MemoryHost::new(1 << 20), AtomicBool::new(false));
        Self { host, state, journal, dir, cut, settling: SOON }
    }

    fn lost_power(self, boot: BootId) -> Self {
        let (host, journal) = (MemoryHost::new(1 << 20), self.journal.in_boot(boot));
        Self { host, journal, ..self }
    }

    /// The file that its domain is saved into, and what that is called until it is complete.
    pub fn save_paths(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("dom3.save"), self.dir.path().join(".dom3.save.part"))
    }

    /// Its only domain's number.
    pub fn domid(&self) -> DomId {
        self.host.domains()[0].domain.domid
    }

    pub fn domains(&self) -> Vec<(String, RunState)> {
        let domains = self.host.domains().into_iter();
        domains.map(|kept| (kept.domain.name, kept.domain.state)).collect()
    }

    pub fn start(&self, name: &str) {
        let domid = self.host.start(name, GuestType::Pvh, guest());
        self.host.set_state(domid, RunState::Paused);
    }

    pub fn suspend(&self) {
        self.host.set_state(self.domid(), RunState::Suspended);
    }

    /// A complete copy is here, and READY was said.
    pub fn held(&self) {
        self.start("dom3--incoming");
        self.host.mark(self.domid(), ID).unwrap();
        let held = self.target_record().advance_with(TargetEvent::Hold, Some(self.domid().0));
        held.unwrap();
    }

    /// It is not reached any more.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    pub fn source_record(&self) -> Record<SourceState> {
        self.journal.find(ID).unwrap().unwrap()
    }

    pub fn target_record(&self) -> Record<TargetState> {
        self.journal.find(ID).unwrap().unwrap()
    }

    pub fn source_state(&self) -> SourceState {
        self.source_record().state().unwrap()
    }

    pub fn target_state(&self) -> TargetState {
        self.target_record().state().unwrap()
    }

    fn place(&self) -> Place<'_> {
        Place { host: &self.host, journal: &self.journal, settling: self.settling }
    }

    pub fn lock_source(&self) -> DomainLock {
        let record = AnyRecord::Source(self.source_record());
        record.lock(&self.state, &record.header().unwrap()).unwrap()
    }

    pub fn lock_target(&self) -> DomainLock {
        let record = AnyRecord::Target(self.target_record());
        record.lock(&self.state, &record.header().unwrap()).unwrap()
    }

    /// As `rxl recover` does it on the source.
    pub fn settle_source(&self, peer: &Self) -> Result<End, RecoverError> {
        self.settle_source_with(peer)
    }

    pub fn settle_source_with(&self, peer: &dyn Peer) -> Result<End, RecoverError> {
        self.settle(&AnyRecord::Source(self.source_record()), peer)
    }

    /// As `rxl recover` does it on the target.
    pub fn settle_target(&self, peer: &Self) -> Result<End, RecoverError> {
        self.settle_target_with(peer)
    }

    pub fn settle_target_with(&self, peer: &dyn Peer) -> Result<End, RecoverError> {
        self.settle(&AnyRecord::Target(self.target_record()), peer)
    }

    fn settle(&self, record: &AnyRecord, peer: &dyn Peer) -> Result<End, RecoverError> {
        let Some(_lock) = record.lock(&self.state, &record.header()?) else {
            return Ok(End::Waits("locked".into()));
        };
        record.settle(self.place(), peer)
    }
}

impl Peer for Node {
    fn ask(&self, id: &str, question: Question) -> Result<Answer, Unreachable> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Unreachable("it is cut off".into()));
        }
        let answered = answer(self.place(), &self.state, id, question, &|_| {});
        answered.map_err(|error| Unreachable(error.to_string()))
    }
}
