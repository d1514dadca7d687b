//! The source's record, as a session keeps it.

use std::sync::atomic::{AtomicBool, Ordering};

use rxl_core::domain::Domain;
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::{Exit, Failure};
use rxl_handover::source::{SourceEvent, SourceState};
use rxl_handover::{Header, Journal, JournalError, Other, Record};
use rxl_host::guard_line::{Side, Word};
use rxl_recover::Asking;

/// The record of one migration or save, and the journal that it is in.
pub struct Ledger {
    id: String,
    asking: Asking,
    journal: Journal,
    record: Record<SourceState>,
    /// The other end can claim it, once it has all of it.
    may_ask: bool,
    /// Committing may be on the disk.
    may_commit: AtomicBool,
}

/// What a migration's record says from its beginning on, beside the domain.
pub struct Described {
    /// The migration's id.
    pub id: String,
    /// The other end.
    pub other: Other,
    /// The domain stays paused at the target.
    pub leave_paused: bool,
    /// No process is to wait for the domain's end at the target.
    pub no_monitor: bool,
    /// How the target is asked when its answer does not come.
    pub asking: Asking,
}

impl Ledger {
    /// Begins the record: from here on `rxl recover` knows of the domain.
    pub fn begin(
        journal: Journal,
        domain: &Domain,
        config_json: &str,
        described: Described,
    ) -> Result<Self, Failure> {
        let Described { id, other, leave_paused, no_monitor, asking } = described;
        let may_ask = matches!(other, Other::Rxl { .. });
        let config = DomainConfig::parse(config_json).ok();
        let header = Header {
            id: id.clone(),
            name: domain.name.clone(),
            uuid: config.and_then(|config| config.uuid().map(str::to_owned)),
            config_json: config_json.into(),
            domid: Some(domain.domid.0),
            other,
            leave_paused,
            no_monitor,
        };
        let record = journal.begin(&header)?;
        let may_commit = AtomicBool::new(false);
        Ok(Self { id, asking, journal, record, may_ask, may_commit })
    }

    /// The migration's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the guard is to do if rxl is killed. `asked`: the guest may have been asked to suspend.
    pub fn word(&self, asked: bool) -> Word {
        Word::Settle { side: Side::Source, id: self.id.clone(), asked }
    }

    /// GO is about to be said.
    pub fn commit(&self) -> Result<(), Failure> {
        self.may_commit.store(true, Ordering::Relaxed);
        let committed = self.record.advance(SourceEvent::Commit);
        committed.map(drop).map_err(|error| Failure::from(error).with_exit(Exit::FailedSourceRuns))
    }

    /// The domain stays, and GO was not said. `whole`: the other end may have all of it. An error
    /// means that the target has it by now, as it asked for it, or may still be granted it: what
    /// is not recorded does not keep a claim from that. Where nobody could claim it, a disk that
    /// fails does not keep the domain from running on.
    pub fn stay(&self, whole: bool) -> Result<(), Failure> {
        let event = match self.record.state() {
            Ok(SourceState::Committing) => SourceEvent::NotSaid,
            _ => SourceEvent::Stay,
        };
        let Err(error) = self.record.advance(event) else { return Ok(()) };
        let refused = matches!(error, JournalError::OutOfOrder(_));
        let may_be_claimed = whole && self.may_ask || self.may_commit.load(Ordering::Relaxed);
        if refused || may_be_claimed {
            return Err(Failure::from(error).with_exit(Exit::Undecided));
        }
        tracing::error!("{error}");
        Ok(())
    }

    /// The target says that it has destroyed its copy, which never ran.
    pub fn given_back(&self) -> Result<(), Failure> {
        self.record.advance(SourceEvent::TargetAborted).map(drop).map_err(Failure::from)
    }

    /// The domain runs here again, or nothing is left of it.
    pub fn runs_here(&self) {
        self.told(SourceEvent::RunsHere);
    }

    /// The domain belongs to the target or to its file, and what was to be done with it here is.
    pub fn released(&self) {
        self.told(SourceEvent::Destroyed);
    }

    /// What is not recorded now is found out later.
    fn told(&self, event: SourceEvent) {
        if let Err(error) = self.record.advance(event) {
            tracing::warn!("{error}");
        }
    }

    /// The record, where it is, and how the target is asked, for who decides about it.
    pub fn parts(&self) -> (&Journal, &Record<SourceState>, &Asking) {
        (&self.journal, &self.record, &self.asking)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{Flock, FlockArg};
    use rxl_core::domain::{DomId, GuestType, RunState};
    use rxl_core::state_dir::StateDir;

    fn ledger(state: &StateDir) -> Ledger {
        let domain = Domain {
            domid: DomId(3),
            name: "dom3".into(),
            guest_type: GuestType::Pvh,
            state: RunState::Suspended,
            max_memory_kib: 1024,
            vcpus: 1,
        };
        let described = Described {
            id: "0123456789abcdef0123456789abcdef".into(),
            other: Other::Rxl { hosts: vec!["nodeB".into()], ssh_command: None },
            leave_paused: false,
            no_monitor: false,
            asking: Asking::default(),
        };
        Ledger::begin(Journal::of(state).unwrap(), &domain, "{}", described).unwrap()
    }

    /// Somebody who answers a claim is stopped with the record's lock, about to grant it.
    #[test]
    fn what_may_be_claimed_runs_on_only_by_a_record_that_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(&StateDir::at(dir.path()));
        let stopped = || {
            let file = std::fs::File::open(ledger.record.path()).unwrap();
            Flock::lock(file, FlockArg::LockExclusive).unwrap()
        };
        let held = stopped();
        assert!(ledger.stay(false).is_ok(), "nobody could claim it");
        assert_eq!(ledger.stay(true).unwrap_err().exit, Exit::Undecided);
        drop(held);
        ledger.commit().unwrap();
        let held = stopped();
        assert_eq!(ledger.stay(false).unwrap_err().exit, Exit::Undecided);
        drop(held);
        assert!(ledger.stay(false).is_ok());
        assert_eq!(ledger.record.state().unwrap(), SourceState::Returning);
    }
}
