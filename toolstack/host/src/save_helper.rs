//! rxl inside libxl: the save helper, and how a session steers it.
//!
//! To save a domain's memory libxl runs the program that LIBXL_SAVE_HELPER names, and talks to it
//! over its stdin and stdout ([`ipc`], libxl_save_helper.c). `rxl-save-helper` is started in place
//! of the stock helper and finds its session through a socket ([`messages`]). The session tells it
//! who walks over the guest's memory:
//!
//! | walker | in the helper | in the session |
//! | --- | --- | --- |
//! | rxl | passes on requests to libxl and their answers | [`rxl_precopy::save_memory`], policy |
//! | libxc | `xc_domain_save` with rxl's callbacks | policy |
//! | stock | becomes the stock helper | nothing: libxc's own policy |
//!
//! ```text
//!  session                              rxl-save-helper                      libxl
//!    | libxl_domain_suspend ------------------------------------------------> |
//!    |                                    | <--------------------- fork, exec |
//!    | <------------------------- Hello |                                     |
//!    | Walk{rxl} ---------------------> |                                     |
//!    |   (walks, live iterations)       |                                     |
//!    | Suspend -----------------------> | suspend (3) ----------------------> | control/shutdown
//!    | <-------------------------- Done | <-------------------------- reply 1 | guest stands still
//!    |   (last iteration, state)        |                                     |
//!    | Complete{0} -------------------> | complete (10) --------------------> |
//!    |                                  | exit 0                              | END, it ends
//! ```
//! Without a session (a stock `xl migrate` with LIBXL_SAVE_HELPER set) the helper lets libxc walk
//! and decides by itself: see [`helper`].
//!
//! libxl and libxenguest come from one release and are found by that release's names, as one
//! library loads the other; a helper that matches the one and not the other cannot exist. Where the
//! helper is not installed libxl uses its own, and the report says so.

pub mod error;
pub mod helper;
pub mod ipc;
pub mod messages;
mod orders;
pub mod session;
pub mod socket;
