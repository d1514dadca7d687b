//! One migration, from either end.
//!
//! ```text
//!  source                                         target
//!  Connect    ssh, Hello                          Connect
//!  Check      the domain, Offer                   Check     name, memory, Xen; Accept | Refuse
//!  Setup      data connections, libxl saves       Setup     libxl restores, as NAME--incoming
//!  Precopy    iterations over memory              Precopy
//!  Suspend    the guest stands still              .
//!  LastPages  last iteration, state, StreamEnd    Ready     digest agrees, a paused copy stands
//!  ================================ Commit ================================
//!  rename to NAME--migratedaway, Go  ---------->  Resume    rename to NAME, unpause
//!  destroy its copy                  <----------  Done
//! ```
//! Above the line every failure leads back to the domain running at the source and nothing left at
//! the target. Below it the source never runs the domain again, unless the target itself says that
//! it could not run it and has destroyed its copy. The two sides of the line are different types,
//! [`outgoing::Uncommitted`] and [`outgoing::Committed`], so that the code above cannot do what only
//! the code below may, and the other way round. At the target they are [`incoming::Receiving`] and
//! [`incoming::Holding`].
//!
//! Everything a session waits for comes as an [`Event`] through one queue, so every wait is one
//! call with a deadline.

#![forbid(unsafe_code)]

pub mod check;
pub mod events;
pub mod gang_member;
pub mod gang_words;
pub mod incoming;
pub mod job;
pub mod monitor;
pub mod outgoing;
mod record;
pub mod request;
pub mod rxl;
pub mod savefile;
mod steering;
pub mod xl;
