//! Files that `rxl save` and `xl save` wrote, checked as they are read.

pub mod damage;
pub mod frames;
pub mod saved;
