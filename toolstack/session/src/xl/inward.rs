//! The sender as the origin of a domain, over xl's wire.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use migrate_stream::xl::{GO, READY, REPORT};

use crate::events::Events;
use crate::incoming::{Built, Decision, Feeder, NotRun, Origin, Wire};
use crate::xl::wire::{WireError, read_go, say};
use rxl_core::deadlines;
use rxl_core::domain::DomId;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::operation::Operation;
use rxl_datapath::broken::{At, Cause};

/// The status byte of success.
const RUNS: u8 = 0;

/// xl's status byte when it has not read GO: -1 of its `migrate_read_fixedmessage`'s 1.
const NOT_TOLD: u8 = 0xff;

/// xl's status byte when the domain could not be renamed or unpaused: ERROR_FAIL is -3.
const NOT_STARTED: u8 = 3;

/// The connection to the sender.
pub struct Connection {
    pub input: Guarded,
    output: Guarded,
}

impl Connection {
    pub fn new(input: OwnedFd, output: OwnedFd) -> std::io::Result<Self> {
        let cancel = Cancel::new()?;
        let input = Guarded::new(input, cancel.clone(), Some(deadlines::GO))?;
        let output = Guarded::new(output, cancel, Some(deadlines::GO))?;
        Ok(Self { input, output })
    }

    pub fn say(&mut self, word: &[u8]) -> Result<(), WireError> {
        say(&mut self.output, word)
    }
}

/// The sender, with libxl's stream that comes from it.
pub struct XlOrigin {
    connection: Connection,
    /// None before the data path has begun, and once it has been ended.
    feeder: Option<Feeder>,
    /// libxl has been given all of the stream, each record of which was judged on its way.
    given: bool,
}

impl XlOrigin {
    pub fn new(connection: Connection) -> Self {
        Self { connection, feeder: None, given: false }
    }

    /// A second handle to read the stream from, and what ends its reading.
    pub fn stream(&self) -> std::io::Result<(Guarded, Cancel)> {
        let cancel = Cancel::new()?;
        Ok((self.connection.input.with(cancel.clone(), deadlines::STALL)?, cancel))
    }

    /// The stream is being read.
    pub fn feed(&mut self, operation: Operation<DomId>, feeder: Feeder) -> Operation<DomId> {
        self.feeder = Some(feeder);
        operation
    }
}

impl Origin for XlOrigin {
    type Data = u64;

    fn take_data(&mut self, _bytes: u64) -> Result<(), Failure> {
        self.given = true;
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.given
    }

    /// The sender learns of it by the end of its connection.
    fn exit(&self, _at: At) -> Exit {
        Exit::FailedSourceRuns
    }

    fn end_data(&mut self) {
        self.feeder = None;
    }
}

impl Wire for XlOrigin {
    /// No good report was said, so the sender has its copy.
    const KEEPS_UNDECIDED: bool = false;

    fn say_ready(&mut self, _built: &Built<'_>) -> Result<(), Cause> {
        self.connection.say(READY).map_err(|error| Arc::new(error) as Cause)
    }

    /// Only all of GO makes a `wire::Go`. No event is looked for: the sender decides, within a
    /// deadline.
    fn await_decision(&mut self, _events: &Events<u64>) -> Decision {
        match read_go(&mut self.connection.input) {
            Ok(_) => Decision::Run { agent_command: None },
            Err(error) => Decision::Unknown(error.to_string()),
        }
    }

    fn say_runs(&mut self, _took: Duration) -> Result<(), Cause> {
        let said = self.connection.say(&[&REPORT[..], &[RUNS]].concat());
        said.map_err(|error| Arc::new(error) as Cause)
    }

    /// A sender that does not hear it keeps its copy.
    fn say_not_run(&mut self, end: NotRun, _reason: &str, destroyed: bool) {
        let status = match end {
            NotRun::NotTold => NOT_TOLD,
            NotRun::NotStarted => NOT_STARTED,
        };
        let mut words = [&REPORT[..], &[status]].concat();
        if destroyed {
            words.extend_from_slice(GO);
        }
        if let Err(error) = self.connection.say(&words) {
            tracing::info!("the sender is gone: {error}");
        }
    }
}
