//! The agent inside a domU: holds the ranks of MPI jobs still around a migration, when rxl in dom0
//! asks for it.
//!
//! One thread, one loop ([`run`]). It waits for xenstore to say that something has changed, for a
//! signal, or for the lease to end, and then lets the [`engine`] take one step. The engine is the
//! state machine of [`rxl_agent_protocol`]. It knows Linux and xenstore only as the traits
//! [`guest::Guest`] and [`store::Store`]:
//!
//! ```text
//!   run ---> engine ---> store::Store <--- store::Xenstore    xenstore, through the kernel
//!                |               ^-------- store::Directory   files, for tests and trials
//!                '-----> guest::Guest <--- linux              /proc, cgroup v2, sock_diag
//! ```
//! Nothing here uses the network that is being quiesced: sock_diag and xenstore go to kernels.
//! Every wait has a deadline ([`deadlines`]), and whatever fails ends with the ranks running.

#![forbid(unsafe_code)]

pub mod deadlines;
pub mod engine;
pub mod guest;
pub mod linux;
pub mod run;
pub mod status;
pub mod store;
