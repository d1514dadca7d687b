//! `rxl stream`: the real program on streams of real guests, damaged ones, long ones and ones that
//! are none.

mod bounded;
mod differential;
mod oracle;
mod pieces;
mod program;
