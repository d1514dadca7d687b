//! A domain on its way out: to another host over rxl's wire or xl's, or into a file.
//!
//! ```text
//!  Leaving       found, checked, locked; nothing begun
//!  DomainSave    libxl saves it or has saved it; a guard runs it on here if rxl is killed
//!  Uncommitted   the save, and the destination that takes its stream: whatever fails, the domain
//!                runs on here
//!  ===================================== Commit =====================================
//!  Committed     the other host was told GO; the domain is renamed and stands still here. It runs
//!                here again only when that host has given it back
//!  Stored        the file is in place; the domain becomes what the user asked for
//! ```
//! What differs between the three ways is behind two traits: [`Destination`] says how the stream is
//! carried, how readiness is learnt and how a broken path is explained; [`Wire`], for the two that
//! end on another host, says GO and hears the answer.
//!
//! # The order at Commit
//!
//! 1. The queue is emptied: a connection that is known to be lost, or a cancel, ends the migration
//!    before anything is recorded.
//! 2. *Committing* is recorded. From here on nobody, the guard neither, runs the domain on before
//!    it is known that GO was not said, or that the other host will never run it.
//! 3. The domain is renamed to `NAME--migratedaway`.
//! 4. The queue is emptied again: the disk and libxl take their time.
//! 5. GO is written, with a deadline. Where not one byte of it has left it was not said: that is
//!    recorded, the name is taken back, and the domain runs on.
//!
//! Where the answer does not come, the migrating process itself asks the other host over a fresh
//! connection ([`rxl_recover`]); where that is not reached either, `rxl recover` goes on.

mod committed;
mod departure;
mod ledger;
mod measurements;
mod questions;
mod returning;
mod save;
mod timeout;
mod uncommitted;

pub use committed::{Away, Committed};
pub use departure::Leaving;
pub use ledger::{Described, Ledger};
pub use measurements::{Measurements, Observer};
pub use save::{DomainSave, SavePlan, Stored};
pub use timeout::Timeout;
pub use uncommitted::Uncommitted;

use std::os::fd::OwnedFd;
use std::time::Duration;

use rxl_core::deadlines;
use rxl_core::error::Failure;
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::target_spans::TargetSpans;
use rxl_datapath::broken::{Broken, Cause};
use rxl_link::control::Incoming;

use crate::events::Events;

/// Where a domain's stream goes.
pub trait Destination {
    /// What its end of the data path yields, and whatever else it hears there.
    type Data: Send + 'static;

    /// For messages: the other host as the user named it, or the file.
    fn name(&self) -> &str;

    /// Takes what the data path yields.
    fn take_data(&mut self, data: Self::Data, measured: &mut Measurements) -> Result<(), Failure>;

    /// Takes what came over a control channel, where there is one.
    fn take_control(
        &mut self,
        _incoming: Incoming,
        _measured: &mut Measurements,
    ) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether all of libxl's stream has been written.
    fn is_sent(&self) -> bool;

    /// Says that the stream is complete, where that has to be said.
    fn end_stream(&mut self, _measured: &Measurements) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether the domain is whole there.
    fn is_ready(&self) -> bool;

    /// How long its own reason behind a broken data path may take to come.
    fn reason_deadline(&self) -> Duration {
        deadlines::PEER_REASON
    }

    /// What a broken data path is to the user, when no better reason came.
    fn path_failure(&self, broken: &Broken) -> Failure;

    /// Tells the other side at once that the domain stays, where that can be told.
    fn abort(&mut self, _failure: &Failure) {}

    /// Nothing more is written; libxl's stream is still read to its end, as its save helper has to
    /// clean up.
    fn abandon(&self);

    /// Ends the data path, once libxl's operation has ended.
    fn end_data(&mut self);

    /// The domain stays here: ends the connection, once the other side has cleaned up.
    fn wind_up(self, failure: &Failure, events: &Events<Self::Data>);
}

/// A destination that is another host.
pub trait Wire: Destination {
    /// Says that the copy there is to run. An error says that not one byte of it has left: it was
    /// not said. `agent_command` is for the domain's agent, before it runs.
    fn say_go(&mut self, agent_command: Option<String>) -> Result<(), Cause>;

    /// Waits, after GO, for what became of the copy there.
    fn await_answer(&mut self, events: &Events<Self::Data>) -> Answer;

    /// Says that the copy here is destroyed, where that can be said: nobody will ask again.
    fn say_released(&mut self) {}

    /// Ends the connection when the domain does not run there, or may not.
    fn close(self, events: &Events<Self::Data>);
}

/// What the other host said after GO.
pub enum Answer {
    /// The domain runs there. What was measured, where that is told.
    Runs(Option<TargetSpans>),
    /// It does not run there, and its copy is destroyed. One line, with the host's name.
    GivenBack(String),
    /// Nobody knows. One line.
    Unknown(String),
}

/// The pipe that libxl saves into: the end that rxl reads, and libxl's. A guest may take both of
/// libxl's suspend steps before a byte comes.
pub fn save_pipe() -> std::io::Result<(Guarded, OwnedFd)> {
    let (reading, writing) = pipe()?;
    Ok((Guarded::new(reading, Cancel::new()?, Some(deadlines::STALL))?, writing))
}
