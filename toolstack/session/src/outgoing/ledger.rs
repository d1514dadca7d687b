//! The source's record, as a session keeps it.

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
        Ok(Self { id, asking, journal, record })
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
        let committed = self.record.advance(SourceEvent::Commit);
        committed.map(drop).map_err(|error| Failure::from(error).with_exit(Exit::FailedSourceRuns))
    }

    /// The domain stays, and GO was not said. An error means that the target has it by now: it
    /// asked for it. A disk that fails does not keep the domain from running on.
    pub fn stay(&self) -> Result<(), Failure> {
        let event = match self.record.state() {
            Ok(SourceState::Committing) => SourceEvent::NotSaid,
            _ => SourceEvent::Stay,
        };
        match self.record.advance(event) {
            Err(error @ JournalError::OutOfOrder(_)) => {
                Err(Failure::from(error).with_exit(Exit::Undecided))
            }
            Err(error) => {
                tracing::error!("{error}");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
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
