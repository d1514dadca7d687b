//! What the subcommands do.

pub mod stream;
