//! The options of `rxl receive` and `rxl migrate-receive`.

use clap::Args;

use rxl_core::deadlines;

/// Arguments of `rxl receive`.
#[derive(Debug, Args)]
pub struct Receive {
    /// Take the source for lost after this many seconds of silence, until its offer brings its own
    /// --peer-timeout
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = deadlines::SILENCE.as_secs(),
        value_parser = clap::value_parser!(u64).range(
            deadlines::SHORTEST_SILENCE.as_secs()..=deadlines::LONGEST_SILENCE.as_secs()
        ),
    )]
    pub peer_timeout: u64,
}

/// Arguments of `rxl migrate-receive`: those that `xl migrate` gives to its receiver.
#[derive(Debug, Args)]
pub struct MigrateReceive {
    /// Leave the received domain paused
    #[arg(short = 'p')]
    pub paused: bool,
    /// Print the domain's configuration on standard error
    #[arg(short = 'd')]
    pub debug: bool,
    /// Leave no process that waits for the domain's end: nobody boots it again when it reboots
    #[arg(short = 'e')]
    pub no_monitor: bool,
    /// Accepted and ignored: xl's receiver would then stay in the foreground
    #[arg(short = 'F', hide = true)]
    pub foreground: bool,
    /// Remus, which rxl refuses
    #[arg(short = 'r', hide = true)]
    pub remus: bool,
    /// COLO, which rxl refuses
    #[arg(long, hide = true)]
    pub colo: bool,
}
