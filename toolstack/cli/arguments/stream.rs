//! The options of `rxl stream`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::exit_codes;

/// The operations of `rxl stream`.
#[derive(Debug, Subcommand)]
pub enum StreamCommand {
    /// Show what a stream holds: headers, records, pages, iterations over memory
    #[command(after_help = exit_codes())]
    Inspect(StreamInspect),
    /// Check a stream against every rule of its formats and locate each violation
    #[command(after_help = exit_codes())]
    Verify(StreamVerify),
}

/// Arguments of `rxl stream inspect`.
#[derive(Debug, Args)]
pub struct StreamInspect {
    /// A file that `rxl save` or `xl save` wrote, or a bare libxl or libxc stream; - is standard
    /// input
    pub file: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Add a map of guest memory in characters
    #[arg(long)]
    pub map: bool,
    /// Write that map to this file as a PPM image
    #[arg(long, value_name = "IMAGE")]
    pub map_image: Option<PathBuf>,
}

/// Arguments of `rxl stream verify`.
#[derive(Debug, Args)]
pub struct StreamVerify {
    /// A file that `rxl save` or `xl save` wrote, or a bare libxl or libxc stream; - is standard
    /// input
    pub file: PathBuf,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}
