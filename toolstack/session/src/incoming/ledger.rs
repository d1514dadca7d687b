//! The target's record, as a session keeps it.

use rxl_core::domain::DomId;
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::Failure;
use rxl_core::state_dir::StateDir;
use rxl_handover::target::{TargetEvent, TargetState};
use rxl_handover::{Header, Journal, JournalError, Other, Record};
use rxl_host::guard_line::{Side, Word};
use rxl_recover::Asking;

/// The record of one arrival, and the journal that it is in.
pub struct TargetLedger {
    header: Header,
    asking: Asking,
    journal: Journal,
    record: Record<TargetState>,
}

/// What an arrival's record says from its beginning on.
pub struct Arriving {
    /// The migration's id.
    pub id: String,
    /// The domain's own name.
    pub name: String,
    /// libxl's configuration of it, in JSON.
    pub config_json: String,
    /// The other end.
    pub other: Other,
    /// The domain is to stay paused.
    pub leave_paused: bool,
    /// No process is to wait for its end.
    pub no_monitor: bool,
    /// How the source is asked when its word does not come.
    pub asking: Asking,
}

impl TargetLedger {
    /// Begins the record: from here on `rxl recover` knows of the domain.
    pub fn begin(state: &StateDir, arriving: Arriving) -> Result<Self, Failure> {
        let Arriving { id, name, config_json, other, leave_paused, no_monitor, asking } = arriving;
        let journal = Journal::of(state)?;
        let config = DomainConfig::parse(&config_json).ok();
        let uuid = config.and_then(|config| config.uuid().map(str::to_owned));
        let header =
            Header { id, name, uuid, config_json, domid: None, other, leave_paused, no_monitor };
        let record = journal.begin(&header)?;
        Ok(Self { header, asking, journal, record })
    }

    /// The migration's id.
    pub fn id(&self) -> &str {
        &self.header.id
    }

    /// What the guard is to do if rxl is killed.
    pub fn word(&self) -> Word {
        Word::Settle { side: Side::Target, id: self.header.id.clone(), asked: false }
    }

    /// The copy is complete, and has this number here: READY may be said.
    pub fn hold(&self, domid: DomId) -> Result<(), Failure> {
        let held = self.record.advance_with(TargetEvent::Hold, Some(domid.0));
        held.map(drop).map_err(Failure::from)
    }

    /// GO was heard: the domain belongs here once this returns. An error means that it does not:
    /// the source has fenced it off meanwhile, or the disk does not hold the record.
    pub fn take(&self) -> Result<(), JournalError> {
        self.record.advance(TargetEvent::Take).map(drop)
    }

    /// It could not be started, and is about to be destroyed.
    pub fn cannot_run(&self) -> Result<(), Failure> {
        self.record.advance(TargetEvent::CannotRun).map(drop).map_err(Failure::from)
    }

    /// What could not be started is destroyed.
    pub fn destroyed(&self) -> Result<(), Failure> {
        self.record.advance(TargetEvent::Destroyed).map(drop).map_err(Failure::from)
    }

    /// The copy never runs. What could not be destroyed is somebody else's to destroy; where it has
    /// no number in the record yet, only an open record makes that be tried.
    pub fn abort(&self, destroyed: bool) {
        if destroyed || !matches!(self.record.state(), Ok(TargetState::Receiving)) {
            self.told(TargetEvent::Abort);
        }
    }

    /// The domain was started.
    pub fn started(&self) {
        self.told(TargetEvent::Start);
    }

    /// The source's copy is destroyed.
    pub fn settled(&self) {
        self.told(TargetEvent::Settle);
    }

    /// What is not recorded now is found out later.
    fn told(&self, event: TargetEvent) {
        if let Err(error) = self.record.advance(event) {
            tracing::warn!("{error}");
        }
    }

    /// The record, where it is, and how the source is asked, for who decides about it.
    pub fn parts(&self) -> (&Journal, &Record<TargetState>, &Asking) {
        (&self.journal, &self.record, &self.asking)
    }
}
