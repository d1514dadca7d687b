//! Bounds of the spans of time in commands. A command outside them is malformed.

use std::time::Duration;

/// Shortest lease that a command may bring.
pub const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// Longest lease that a command may bring.
pub const LONGEST_LEASE: Duration = Duration::from_secs(600);

/// Shortest deadline of a command.
pub const SHORTEST_DEADLINE: Duration = Duration::from_millis(1);

/// Longest deadline of a command. The agent hears nothing meanwhile, so it is short.
pub const LONGEST_DEADLINE: Duration = Duration::from_secs(10);

/// Longest pause that a `prepare` may announce.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Longest span that an answer tells, in microseconds. A longer one is told as this.
pub const LONGEST_SPAN: Duration = Duration::from_secs(3600);

// A lease outlives the command that brings it.
const _: () = assert!(LONGEST_DEADLINE.as_nanos() < LONGEST_LEASE.as_nanos());
const _: () = assert!(SHORTEST_DEADLINE.as_nanos() < SHORTEST_LEASE.as_nanos());
