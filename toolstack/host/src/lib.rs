//! What a session needs of a Xen host ([`host`]), and that over libxl ([`libxl`]).
//!
//! [`guard`] is the process that puts a domain right when rxl is killed, [`save_helper`] the program
//! that libxl runs in its own helper's place, and [`announce`] tells the network where a guest is.

#![forbid(unsafe_code)]

pub mod announce;
pub mod guard;
pub mod guard_line;
pub mod host;
pub mod libxl;
pub mod save_helper;
