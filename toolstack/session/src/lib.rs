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
//! [`source::Uncommitted`] and [`source::Committed`], so that the code above cannot do what only
//! the code below may, and the other way round. At the target they are [`target::Receiving`] and
//! [`target::Holding`].
//!
//! Everything a session waits for comes as an [`Event`] through one queue, so every wait is one
//! call with a deadline.

#![forbid(unsafe_code)]

pub mod check;
pub mod events;
pub mod gang_member;
pub mod gang_words;
pub mod job;
mod leaving;
mod link;
pub mod monitor;
mod record;
pub mod request;
pub mod restoring;
pub mod savefile;
pub mod source;
mod steering;
pub mod target;
pub mod xl;
