//! A domain on its way in: from another host over rxl's wire or xl's, or out of a file.
//!
//! ```text
//!  Receiving   libxl restores from the stream of an origin. Whatever fails, nothing is left here;
//!              a guard destroys what is built if rxl is killed
//!  Built       the domain is complete and paused, and every byte of it was found right. One that
//!              came out of a file may run
//!  ============================== READY is said ==============================
//!  Holding     whether it is to run is the other host's to say
//! ```
//! What differs between the three origins is behind two traits: [`Origin`] says when the stream is
//! complete and right, and what a broken one means; [`Wire`], for the two on another host, says
//! READY, hears GO and answers it.
//!
//! # When GO does not come
//!
//! Over rxl's wire the source may have said GO and lost the connection: the copy is kept, paused,
//! and the source is asked over a fresh connection ([`rxl_recover`]), by this process first, then
//! by `rxl recover`. Over xl's the sender has its copy until it has read a good report,
//! which is not said before GO has come: the copy here is destroyed ([`crate::xl`]).

mod built;
mod feeder;
mod holding;
mod ledger;
mod receiving;

pub use built::Built;
pub use feeder::{Feeder, restore_from};
pub use holding::Holding;
pub use ledger::{Arriving, TargetLedger};
pub use receiving::Receiving;

use std::time::Duration;

use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_datapath::broken::{At, Cause};
use rxl_link::control::Incoming;

use crate::events::Events;

/// Where a domain's stream comes from.
pub trait Origin {
    /// What its end of the data path yields.
    type Data: Send + 'static;

    /// Takes what the data path yields.
    fn take_data(&mut self, data: Self::Data) -> Result<(), Failure>;

    /// Takes what came over a control channel, where there is one.
    fn take_control(&mut self, _incoming: Incoming) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether libxl has been given all of the stream, and all is known that proves it right.
    fn is_complete(&self) -> bool;

    /// Whether the complete stream is right.
    fn verify(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Longest time in which nothing comes of the stream.
    fn stall(&self) -> Duration {
        deadlines::STALL
    }

    /// How rxl ends because of a failure there.
    fn exit(&self, at: At) -> Exit;

    /// Ends the data path.
    fn end_data(&mut self);

    /// Tells the other side that it failed, when what was built is gone.
    fn tell_failure(&mut self, _failure: &Failure, _events: &Events<Self::Data>) {}
}

/// An origin that is another host.
pub trait Wire: Origin + Sized {
    /// Whether a copy that the other host has not decided about is kept; else it is destroyed.
    const KEEPS_UNDECIDED: bool;

    /// Says that a paused copy stands here.
    fn say_ready(&mut self, built: &Built<'_>) -> Result<(), Cause>;

    /// Waits for the other host's decision. An interrupt is too late here.
    fn await_decision(&mut self, events: &Events<Self::Data>) -> Decision;

    /// Says that the domain runs here, and how long it took from GO.
    fn say_runs(&mut self, took: Duration) -> Result<(), Cause>;

    /// Says that the copy does not run and will not, and whether it is destroyed.
    fn say_not_run(&mut self, end: NotRun, reason: &str, destroyed: bool);

    /// Waits until the other side has read what was said, where ending earlier could lose it. True
    /// where it says that its copy is destroyed, or where nobody will ask about it.
    fn await_end(&mut self, _events: &Events<Self::Data>) -> bool {
        true
    }
}

/// What the other host has decided.
pub enum Decision {
    /// The copy here is to run.
    Run {
        /// To be written for the domain's agent before it runs.
        agent_command: Option<String>,
    },
    /// The domain stays there.
    GivenUp,
    /// Not known. One line.
    Unknown(String),
}

/// Why a copy that was held does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRun {
    /// The other host did not say that it is to.
    NotTold,
    /// It could not be started.
    NotStarted,
}
