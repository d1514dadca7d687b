//! The options of `rxl save` and `rxl restore`.

use std::path::PathBuf;

use clap::Args;

use super::values::choice;
use rxl_core::level::Level;

/// Arguments of `rxl save`.
#[derive(Debug, Args)]
pub struct Save {
    /// The domain, by name or domid; digits alone are a domid, as in xl
    pub domain: String,
    /// The file to write. An existing file is replaced once the domain is saved
    pub file: PathBuf,
    /// Let the domain run on after the save, instead of destroying it
    #[arg(short = 'c', conflicts_with = "paused")]
    pub checkpoint: bool,
    /// Leave the domain paused after the save, instead of destroying it
    #[arg(short = 'p', long)]
    pub paused: bool,
    /// Write the format of `xl save`, which `xl restore` reads: uncompressed and without checksums
    #[arg(long)]
    pub plain: bool,
    /// Compression level of zstd: higher is smaller and slower
    #[arg(
        long,
        value_name = "LEVEL",
        default_value_t = 1,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-7..=19),
        conflicts_with = "plain",
    )]
    pub zstd_level: i32,
    /// Freeze the domain's MPI job from before the suspend until the domain runs again (-c) or the
    /// file is written. job (the value when none is given) freezes all ranks of the job, domain
    /// only those in this domain; require fails the save if the job cannot be frozen. Needs
    /// rxl-guest-agent in the job's domains, and /etc/rxl/cluster.toml where they are on other
    /// hosts
    #[arg(
        long,
        value_parser = choice::<Level>(),
        value_name = "LEVEL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "off",
        default_missing_value = "job",
    )]
    pub mpi_quiesce: Level,
}

/// Arguments of `rxl restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// A file that `rxl save` or `xl save` wrote
    pub file: PathBuf,
    /// Leave the restored domain paused
    #[arg(short = 'p', long)]
    pub paused: bool,
    /// Leave no process that waits for the domain's end: nobody boots it again when it reboots
    #[arg(short = 'e')]
    pub no_monitor: bool,
}
