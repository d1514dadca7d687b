//! Migrations over stock xl's protocol, from either end: every step's failure, and what is left
//! behind.

mod receiver;
mod sender;

#[path = "../support/mod.rs"]
mod support;
