//! `rxl-save-helper`: what runs in the stock helper's place.
//!
//! Without a session, as under a stock `xl migrate`, it lets libxc walk and decides by the same
//! [`rxl_precopy::policy`] as a session would, with limits from the environment:
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | RXL_DOWNTIME_LIMIT | ms | 300 |
//! | RXL_MAX_ROUNDS | live iterations | 30 |
//! | RXL_TIMEOUT | s | none |
//! | RXL_ON_TIMEOUT | `cancel` or `force` | cancel |
//! | RXL_WHEN_BUSY | `cancel` or `force` | force |
//! | RXL_SAVE_REPORT | a file for its report, as JSON | none |
//!
//! A restore is left to the session where one waits for it ([`rxl_precopy::load_memory`]). Else the
//! helper replaces itself by the stock one; if it is rxl that restores, it claims the domain's
//! memory before.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::save_helper::messages::{FromHelper, HelperLine, SOCKET_VARIABLE, ToHelper, VERSION};
use rxl_core::deadlines;
use rxl_core::json_lines::JsonLineError;
use rxl_core::steering::Walker;
use rxl_xen::{Library, LibraryError};

mod alone;
mod error;
mod libxc;
mod relay;
mod restore;

use error::HelperError;

/// Where Xen's own helper may be, for this release of Xen.
fn stock_places() -> [PathBuf; 4] {
    let prefixes = [
        &format!("/usr/lib/xen-{}", libxl_sys::XEN_VERSION),
        "/usr/libexec/xen",
        "/usr/lib/xen",
        "/usr/local/libexec/xen",
    ];
    prefixes.map(|prefix| Path::new(prefix).join("bin/libxl-save-helper"))
}

/// libxl's arguments for a save (libxl_save_callout.c: libxl__xc_domain_save).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SaveArguments {
    /// The descriptor that the libxc stream goes to.
    stream: i32,
    /// The back channel of COLO, which rxl does not use.
    receive: i32,
    domid: u32,
    /// XCFLAGS_LIVE 1, XCFLAGS_DEBUG 2.
    flags: u32,
    /// Which callbacks libxl offers.
    callbacks: u32,
    /// 0 is a plain one, the others are Remus's and COLO's.
    stream_type: u32,
}

impl SaveArguments {
    fn parse(arguments: &[String]) -> Option<Self> {
        let [mode, stream, receive, domid, flags, callbacks, stream_type] = arguments else {
            return None;
        };
        (mode == "--save-domain").then_some(())?;
        Some(Self {
            stream: stream.parse().ok()?,
            receive: receive.parse().ok()?,
            domid: domid.parse().ok()?,
            flags: flags.parse().ok()?,
            callbacks: callbacks.parse().ok()?,
            stream_type: stream_type.parse().ok()?,
        })
    }

    fn live(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// The whole program, with what libxl passes after its name.
pub fn run(arguments: &[String]) -> ExitCode {
    if let Some(restore) = restore::RestoreArguments::parse(arguments) {
        if let Some(session) = restore.find_session() {
            return ended(restore.domid, restore.run(session));
        }
        if let Err(error) = restore.claim_for_rxl() {
            return ended(restore.domid, Err(error));
        }
    }
    let Some(save) = SaveArguments::parse(arguments).filter(|save| save.stream_type == 0) else {
        return become_stock(arguments);
    };
    let done = match std::env::var_os(SOCKET_VARIABLE) {
        Some(path) => steered(save, Path::new(&path), arguments),
        None => load().map_err(HelperError::from).and_then(|library| alone::save(library, save)),
    };
    ended(save.domid, done)
}

fn ended(domid: u32, result: Result<(), HelperError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rxl-save-helper: domain {domid}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load() -> Result<Library, LibraryError> {
    Library::open()
}

fn steered(save: SaveArguments, socket: &Path, arguments: &[String]) -> Result<(), HelperError> {
    let lost = |source: JsonLineError| HelperError::NoSession { socket: socket.into(), source };
    let connected = UnixStream::connect(socket)
        .and_then(|stream| HelperLine::new(stream, deadlines::HELPER_QUESTION));
    let mut session = connected.map_err(|error| lost(error.into()))?;
    session.send(&FromHelper::Hello { version: VERSION, domid: save.domid }).map_err(lost)?;
    match session.receive().map_err(lost)? {
        Some(ToHelper::Walk(Walker::Rxl)) => relay::run(load()?, save, session),
        Some(ToHelper::Walk(Walker::Libxc)) => libxc::steered(load()?, save, session),
        Some(ToHelper::Walk(Walker::Stock)) => {
            drop(session);
            become_stock(arguments);
            Err(HelperError::NoStockHelper)
        }
        other => Err(HelperError::OutOfTurn(format!("{other:?}"))),
    }
}

/// Replaces this program. It returns only when that fails.
fn become_stock(arguments: &[String]) -> ExitCode {
    let places = stock_places();
    let Some(stock) = places.iter().find(|path| path.is_file()) else {
        eprintln!("rxl-save-helper: Xen's own libxl-save-helper is not in any of {places:?}");
        return ExitCode::FAILURE;
    };
    let error = Command::new(stock).args(arguments).exec();
    eprintln!("rxl-save-helper: {}: {error}", stock.display());
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn libxls_arguments_are_read() {
        let save = SaveArguments::parse(&arguments("--save-domain 12 0 5 1 136 0")).unwrap();
        let expected = SaveArguments {
            stream: 12,
            receive: 0,
            domid: 5,
            flags: 1,
            callbacks: 136,
            stream_type: 0,
        };
        assert_eq!(save, expected);
        assert!(save.live());
        for line in [
            "--restore-domain 1 2 3 4 5 6 7 8 9",
            "--save-domain 1 2",
            "--save-domain a 0 5 1 136 0",
            "",
        ] {
            assert_eq!(SaveArguments::parse(&arguments(line)), None, "{line}");
        }
    }
}
