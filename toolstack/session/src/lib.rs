//! One domain on its way: to another host, into a file, and back out of either.
//!
//! ```text
//!  outgoing                                        incoming
//!  Leaving      find, check, lock                  .
//!               connect, Offer                     check name, memory, Xen; Accept | Refuse
//!  DomainSave   libxl saves                        Receiving   libxl restores, as NAME--incoming
//!  Uncommitted  iterations over memory             .
//!               the guest is suspended             .
//!               last pages, state, StreamEnd       .
//!               .                   <--- READY --- Built       digest agrees; a copy stands paused
//!               look for a lost connection         Holding     nothing runs before GO
//!               rename to NAME--migratedaway       .
//!               tell the guard that it is over     .
//!  ================================== Commit ==================================
//!  Committed    .                   ---- GO ---->  rename to NAME, unpause
//!               destroy the copy here <-- Done --  .
//! ```
//! Above the line every failure leads back to the domain running at the source and nothing left at
//! the target. Below it the source never runs the domain again, unless the target itself says that
//! it could not run it and has destroyed its copy. The two sides of the line are different types,
//! [`outgoing::Uncommitted`] and [`outgoing::Committed`], so that the code above cannot do what
//! only the code below may, and the other way round. At the target they are
//! [`incoming::Receiving`] and [`incoming::Holding`].
//!
//! There is one machine for each direction, and three peers of it, each in its own module:
//! [`rxl`] (rxl on the other host), [`xl`] (stock xl there) and [`savefile`] (a file). They say how
//! a stream is carried, how readiness is learnt, how GO is said and what an end is; the order of
//! the steps is the machine's alone.
//!
//! Everything a session waits for comes as an [`events::Event`] through one queue, so every wait is
//! one call with a deadline.

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
