//! Saved domains: written, read back, damaged, and what becomes of the domain.

mod commands;
mod damage;
mod disk;
mod files;
mod round_trip;
