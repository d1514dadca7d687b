//! The log on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The variable that replaces what `-v` asks for by a filter of `tracing`.
const VARIABLE: &str = "RXL_LOG";

/// Starts the log. `verbose` is the number of `-v` on the command line.
pub fn start(verbose: u8) {
    let (filter, problem) = match std::env::var(VARIABLE).map(|text| EnvFilter::try_new(&text)) {
        Ok(Ok(filter)) => (filter, None),
        Ok(Err(error)) => (EnvFilter::new(default_filter(verbose)), Some(error)),
        Err(_) => (EnvFilter::new(default_filter(verbose)), None),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    if let Some(problem) = problem {
        tracing::warn!("{VARIABLE} is ignored: {problem}");
    }
}

fn default_filter(verbose: u8) -> &'static str {
    match verbose {
        // rxl's one line for a failure holds what libxl said about it.
        0 => "warn,libxl=off",
        1 => "info,libxl=warn",
        2 => "debug",
        _ => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The man pages name this filter for all of rxl's crates.
    #[test]
    fn the_filter_rxl_takes_every_crate_of_rxl_and_nothing_of_libxl() {
        let log = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::try_new("rxl=debug").unwrap())
            .with_writer(std::io::sink)
            .finish();
        tracing::subscriber::with_default(log, || {
            assert!(tracing::enabled!(target: "rxl_session::rxl::source", tracing::Level::DEBUG));
            assert!(tracing::enabled!(target: "rxl", tracing::Level::DEBUG));
            assert!(!tracing::enabled!(target: "rxl_session", tracing::Level::TRACE));
            assert!(!tracing::enabled!(target: "libxl", tracing::Level::ERROR));
        });
    }
}
