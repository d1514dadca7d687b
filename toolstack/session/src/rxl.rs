//! Migrations between two hosts that both run rxl: a control channel ([`rxl_link::control`]), and
//! frames on data connections beside it.

mod begin;
mod inward;
mod link;
mod outward;
pub mod source;
pub mod target;
