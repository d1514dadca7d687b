//! xenstore as dom0 uses it: read, list, write, watch, each with a deadline.
//!
//! The protocol is that of the crate xenstore-rs, in its tokio form: the blocking form of 0.8.0
//! knows no watches and no deadlines, and hides its descriptor. tokio stays inside: each [`Store`]
//! has a runtime on the caller's thread, without a thread of its own and without signal handlers
//! (libxl installs the only one for SIGCHLD, and asserts that).
//!
//! What xenstore-rs 0.8.0 lacks is made good here or stated:
//!
//! | lacking | consequence |
//! | --- | --- |
//! | a deadline; a lost connection leaves its request unanswered | each call ends in time here |
//! | room for more than 8 events of a watch: it then takes no answers | a task takes them here |
//! | a refusal of requests over 4096 bytes: its writer ends | they are refused here |
//! | values that are not UTF-8 | such a value counts as none: a guest may write it |
//! | a bound on an answer's length | xenstored's own bound is relied on: 4096 bytes |
//! | XS_DIRECTORY_PART: lists of more than 4096 bytes | an error, with about 800 domains |
//! | transactions, permissions | `rxl-xen` has libxl's own xenstore for its one transaction |
//!
//! The socket is found as by libxenstore: `$XENSTORED_PATH`, `/run/xenstored/socket`, or else the
//! kernel's device `/dev/xen/xenbus`, where xenstored runs in a domain of its own.

#![forbid(unsafe_code)]

mod error;
mod store;

pub use error::StoreError;
pub use store::{Store, Watch};
