//! What `rxl save` and `xl save` write, read and checked.

pub mod frames;
pub mod saved;
