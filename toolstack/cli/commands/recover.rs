//! `rxl recover`: decides what became of migrations that were cut short.

use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::arguments::Recover;
use crate::standard_io;
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::state_dir::StateDir;
use rxl_handover::source::SourceState;
use rxl_handover::target::TargetState;
use rxl_handover::{Header, Journal};
use rxl_host::guard_line::log;
use rxl_host::host::Host;
use rxl_host::libxl::LibxlHost;
use rxl_recover::{AnyRecord, GoneForGood, OtherHost, Place, Settling, serve};

/// Who speaks in syslog.
const PROGRAM: &str = "rxl-recover";

/// What came of a record.
enum Settled {
    Nothing,
    /// A session or a guard decides it.
    AtWork,
    Decided,
    Open {
        /// It is open for another reason than the last time.
        is_new: bool,
    },
}

/// Settles every open record of this host, or those of one domain.
pub fn run(options: &Recover) -> Result<(), Failure> {
    let state = StateDir::system();
    let journal = Journal::of(&state)?;
    let host = LibxlHost::new().map_err(Failure::from)?;
    let place = Place { host: &host, journal: &journal, settling: Settling::HOST };
    let (mut decided, mut open, mut new, mut at_work) = (0, 0, 0, 0);
    for record in AnyRecord::all(&journal)? {
        match one(options, place, &state, &record) {
            Ok(Settled::Nothing) => {}
            Ok(Settled::AtWork) => at_work += 1,
            Ok(Settled::Decided) => decided += 1,
            Ok(Settled::Open { is_new }) => {
                open += 1;
                new += u32::from(is_new);
            }
            Err(failure) => {
                eprintln!("rxl: {failure}");
                open += 1;
                new += 1;
            }
        }
    }
    journal.prune::<SourceState>()?;
    journal.prune::<TargetState>()?;
    match (open, decided, at_work) {
        (0, 0, 0) if !options.quiet => standard_io::print("nothing is left to decide\n"),
        _ => {}
    }
    if open == 0 || options.dry_run || (options.quiet && new == 0) {
        return Ok(());
    }
    let what = format!("{open} of {} cannot be decided now", open + decided);
    Err(Failure::new(Exit::Undecided, what)
        .next("rxl-recover.timer goes on by itself; `rxl recover` does it now"))
}

fn one(
    options: &Recover,
    place: Place<'_>,
    state: &StateDir,
    record: &AnyRecord,
) -> Result<Settled, Failure> {
    let header = record.header()?;
    let is_meant = options.domain.as_ref().is_none_or(|name| *name == header.name);
    if !is_meant || !record.is_open(place)? {
        return Ok(Settled::Nothing);
    }
    let Some(_lock) = record.lock(state, &header) else {
        if !options.quiet {
            say(&header, "rxl is at work on it");
        }
        return Ok(Settled::AtWork);
    };
    if options.dry_run {
        say(&header, &record.plan(place)?);
        return Ok(Settled::Open { is_new: true });
    }
    let end = match options.other_host_is_gone {
        true => record.settle(place, &GoneForGood)?,
        false => record.settle(place, &OtherHost(&header.other))?,
    };
    if end.line().is_empty() {
        return Ok(Settled::Decided);
    }
    if !end.is_open() {
        forget_told(state, &header.id);
    }
    let is_new = !end.is_open() || is_told_first(state, &header.id, &end.to_string());
    if is_new || !options.quiet {
        say(&header, &end.to_string());
    }
    if is_new {
        log(PROGRAM, &format!("migration {}: {end}", header.id));
    }
    Ok(if end.is_open() { Settled::Open { is_new } } else { Settled::Decided })
}

/// Whether this line was not the last that was told of the migration. A host that stays away would
/// fill the log, a line a minute. Where that cannot be noted it is told again.
fn is_told_first(state: &StateDir, id: &str, line: &str) -> bool {
    let Some(told) = told(state, id) else { return true };
    if std::fs::read_to_string(&told).is_ok_and(|before| before == line) {
        return false;
    }
    let _ = std::fs::write(&told, line);
    true
}

/// The last word of a migration is told once, and no other follows.
fn forget_told(state: &StateDir, id: &str) {
    if let Some(told) = told(state, id) {
        // Most have none: they were decided the first time.
        let _ = std::fs::remove_file(told);
    }
}

/// The file that holds what was last told of a migration.
fn told(state: &StateDir, id: &str) -> Option<PathBuf> {
    state.path().ok().map(|directory| directory.join(format!("told-{id}")))
}

fn say(header: &Header, line: &str) {
    standard_io::print(&format!("{} (migration {}): {line}\n", header.name, header.id));
}

/// Answers one question of the other host's, which comes after the preamble.
pub fn answer(
    host: Result<&dyn Host, Failure>,
    state: &StateDir,
    id: &str,
    input: OwnedFd,
) -> Result<(), Failure> {
    /// How long a question may take to come.
    const QUESTION: Duration = deadlines::PREAMBLE;
    let broken = |e| Failure::internal("standard input", &e);
    let journal = Journal::of(state)?;
    let cancel = Cancel::new().map_err(broken)?;
    let mut input =
        BufReader::new(Guarded::new(input, cancel.clone(), Some(QUESTION)).map_err(broken)?);
    let output = standard_io::output()?;
    let mut output = Guarded::new(output, cancel, Some(deadlines::CONNECT)).map_err(broken)?;
    // Who asks has recorded what its own end is about to do, and waits.
    let place = host.map(|host| Place { host, journal: &journal, settling: Settling::HOST });
    serve(place, state, id, &mut input, &mut output, |line| {
        log(PROGRAM, &format!("migration {id}: {line}"));
    })
}
