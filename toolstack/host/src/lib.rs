//! What a session needs of a Xen host: the trait in [`host`], and its implementation over libxl in
//! [`libxl`].
//!
//! [`guard`] is the process that puts a domain right when rxl is killed. [`save_helper`] is the
//! program that libxl runs in place of its own helper. [`watch`] starts the process that boots a
//! domain again. [`announce`] tells the network where a guest
//! is.

#![forbid(unsafe_code)]

pub mod announce;
mod growth;
pub mod guard;
pub mod guard_line;
pub mod host;
pub mod libxl;
pub mod save_helper;
pub mod watch;
pub mod watcher;
