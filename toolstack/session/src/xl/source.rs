//! The sender's end, with stock xl at the other: `rxl migrate --peer xl`.

use std::sync::Arc;
use std::time::Instant;

use migrate_stream::writer;

use crate::events::{Event, Events};
use crate::job::Job;
use crate::leaving::{Away, Leaving, Saving, Timeout};
use crate::record::Record;
use crate::request::Request;
use crate::source::TICK;
use crate::xl::line::{Line, Said, Word};
use rxl_core::deadlines;
use rxl_core::domain::{Domain, RestoreAs};
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::level::Level;
use rxl_core::notes::NoteKind;
use rxl_core::peer::Transport;
use rxl_core::state_dir::StateDir;
use rxl_datapath::broken::{At, Broken};
use rxl_datapath::feed::feed;
use rxl_datapath::plain::Copier;
use rxl_host::host::Host;
use rxl_link::ssh::{Route, XL_RECEIVER};
use rxl_link::transport::Ticket;
use rxl_report::migration::{Report, Timeline};
use rxl_report::progress::{Phase, Progress};

/// Runs a whole migration. The report tells how far it came, whatever the end.
pub fn migrate(
    host: Arc<dyn Host>,
    state: &StateDir,
    request: &Request,
    events: &Events<Said>,
    progress: &mut dyn Progress,
) -> (Result<(), Failure>, Option<Report>) {
    let mut record = None;
    let result = Prepared::new(host, state, request, events).and_then(|prepared| {
        let id =
            Ticket::random().map_err(|e| Failure::internal("random numbers", &e))?.id.to_string();
        let domain = &prepared.leaving.domain;
        let record =
            record.insert(Record::open(id, domain, prepared.timeline, request, state, events)?);
        prepared.run(record, progress)
    });
    let report = record.map(|record| record.report(&result));
    progress.end();
    (result, report)
}

/// What xl's protocol has no place for is refused, rather than left out.
fn check_request(request: &Request) -> Result<(), Failure> {
    let refused = |what: &str, next: &str| Err(Failure::new(Exit::Usage, what).next(next));
    if request.quiesce != Level::Off {
        return refused(
            "--peer xl cannot quiesce an MPI job",
            "without --mpi-quiesce the job stalls, and goes on over TCP",
        );
    }
    if request.transport != Transport::Ssh || request.connections != 1 {
        return refused(
            "--peer xl has one connection, over ssh",
            "leave --transport and --parallel-connections out",
        );
    }
    if request.leave_paused && matches!(request.route, Route::Verbatim(_)) {
        return refused(
            "-s '' leaves no place for -p",
            "write it into the command: `xl migrate-receive -p`",
        );
    }
    Ok(())
}

/// As xl itself asks for a receiver (xl_migrate.c: main_migrate).
fn receiver(request: &Request) -> String {
    if let Route::Verbatim(_) = request.route {
        return XL_RECEIVER.into();
    }
    let option = |asked: bool, option: &'static str| if asked { option } else { "" };
    let (e, d, p) = (
        option(request.no_monitor, " -e"),
        option(request.flags.debug, " -d"),
        option(request.leave_paused, " -p"),
    );
    format!("{XL_RECEIVER}{e}{d}{p}")
}

/// Header and configuration. The receiver takes name and number from that.
fn announcement(leaving: &Leaving, preserve_domid: bool) -> Result<Vec<u8>, Failure> {
    let wrong = |what: String| {
        Failure::new(Exit::Internal, format!("the configuration of {} {what}", leaving.domain.name))
    };
    let mut config =
        DomainConfig::parse(&leaving.config_json).map_err(|error| wrong(error.to_string()))?;
    let Domain { name, domid, .. } = &leaving.domain;
    let restore_as = RestoreAs { name: name.clone(), domid: preserve_domid.then_some(*domid) };
    config.restore_as(&restore_as).map_err(|error| wrong(error.to_string()))?;
    let mut bytes = Vec::new();
    writer::xl_header(&mut bytes, &config.to_string()).map_err(|e| wrong(e.to_string()))?;
    Ok(bytes)
}

/// Connected and checked; nothing begun on either side.
struct Prepared<'a> {
    leaving: Leaving,
    request: &'a Request,
    timeline: Timeline,
    events: &'a Events<Said>,
    announcement: Vec<u8>,
    job: Job,
    line: Line,
}

impl<'a> Prepared<'a> {
    fn new(
        host: Arc<dyn Host>,
        state: &StateDir,
        request: &'a Request,
        events: &'a Events<Said>,
    ) -> Result<Self, Failure> {
        let timeline = Timeline::start();
        check_request(request)?;
        let leaving = Leaving::check(host, state, request)?;
        let announcement = announcement(&leaving, request.preserve_domid)?;
        let job = Job::none();
        let line = Line::open(&request.route, &receiver(request), events)?;
        Ok(Self { leaving, request, timeline, events, announcement, job, line })
    }

    fn run(self, record: &mut Record, progress: &mut dyn Progress) -> Result<(), Failure> {
        progress.show(&record.snapshot(Phase::Setup));
        if self.request.dry_run {
            let (name, host) = (&self.leaving.domain.name, &self.line.host);
            progress.say(&format!(
                "{name} would be migrated to {host}: every check here passed, and xl answers there"
            ));
            self.line.wind_up(self.events);
            return Ok(());
        }
        let mut uncommitted = self.begin(record)?;
        match uncommitted.transfer(record, progress) {
            Ok(()) => {
                let committed = uncommitted.commit(record)?;
                progress.show(&record.snapshot(Phase::Resume));
                committed.settle(record)
            }
            Err(failure) => Err(uncommitted.give_up(failure, record)),
        }
    }

    fn begin(self, record: &mut Record) -> Result<Uncommitted<'a>, Failure> {
        let Self { leaving, request, events, announcement, job, mut line, .. } = self;
        line.say(&announcement)?;
        match start_data(leaving, job, request, &line, events, record) {
            Ok((copier, saving)) => {
                Ok(Uncommitted { saving, copier, request, events, line, ready: false })
            }
            Err(failure) => {
                line.wind_up(events);
                Err(failure)
            }
        }
    }
}

fn start_data(
    leaving: Leaving,
    job: Job,
    request: &Request,
    line: &Line,
    events: &Events<Said>,
    record: &mut Record,
) -> Result<(Copier, Saving), Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let cancel = Cancel::new().map_err(broken)?;
    let to = line.sending(cancel.clone()).map_err(broken)?;
    let (reading, writing) = pipe().map_err(broken)?;
    let from_libxl = Guarded::new(reading, Cancel::new().map_err(broken)?, Some(deadlines::STALL))
        .map_err(broken)?;
    let queue = events.sender();
    let on_end = move |result: Result<_, _>| {
        let _ = queue.send(Event::Data(result.map(Said::Copied)));
    };
    let (feed, fed) = feed(record.meter.clone());
    let copier =
        Copier::start(from_libxl, fed, to, cancel, record.meter.clone(), on_end).map_err(broken)?;
    let saving = Saving::start(leaving, job, request, (writing, feed), events, record)?;
    Ok((copier, saving))
}

/// Above the line: libxl is saving or has saved; whatever fails, the domain runs on here.
struct Uncommitted<'a> {
    saving: Saving,
    copier: Copier,
    request: &'a Request,
    events: &'a Events<Said>,
    line: Line,
    ready: bool,
}

impl<'a> Uncommitted<'a> {
    fn transfer(
        &mut self,
        record: &mut Record,
        progress: &mut dyn Progress,
    ) -> Result<(), Failure> {
        let mut timeout = Timeout::new(&self.request.limits, record.timeline.began);
        let mut phase = Phase::Precopy;
        while !self.saving.is_over() || record.timeline.stream_end.is_none() {
            timeout.look(&self.saving)?;
            progress.show(&record.snapshot(phase));
            match self.events.next(Instant::now() + TICK) {
                Some(Event::Note(note)) => {
                    record.note(&note);
                    if note.what == NoteKind::Suspended {
                        phase = Phase::LastPages;
                    }
                }
                Some(event) => self.take(event, record)?,
                None => {}
            }
        }
        progress.show(&record.snapshot(Phase::Ready));
        self.await_ready(&timeout, record)
    }

    fn take(&mut self, event: Event<Said>, record: &mut Record) -> Result<(), Failure> {
        match event {
            Event::Data(Ok(Said::Copied(copied))) => record.copied(copied),
            Event::Data(Ok(Said::Word(word))) => self.hear(word)?,
            Event::Data(Err(broken)) => return Err(self.data_failure(&broken)),
            Event::Asked(question) => self.saving.answer(question, record)?,
            Event::OperationEnded => self.saving.ended()?,
            Event::Interrupt => return Err(Failure::new(Exit::Cancelled, "cancelled")),
            Event::Note(_) | Event::Control(_) | Event::Gang(_) => {}
        }
        Ok(())
    }

    /// READY may overtake the data path's own word that the last byte is written.
    fn hear(&mut self, word: Word) -> Result<(), Failure> {
        let host = self.line.host.clone();
        let what = match word {
            Word::Ready if !self.ready => {
                self.ready = true;
                return Ok(());
            }
            Word::Garbled(what) => format!("{host}: {what}"),
            Word::Ended => self.line.last_words(),
            other => format!("{host}: {other:?} came out of turn"),
        };
        Err(Failure::new(Exit::FailedSourceRuns, what))
    }

    /// The reason behind a broken data path comes a moment later: from libxl, or from the receiver.
    fn data_failure(&mut self, broken: &Broken) -> Failure {
        let deadline = Instant::now() + deadlines::PEER_REASON;
        while let Some(event) = self.events.next(deadline) {
            let told = match event {
                Event::OperationEnded => self.saving.ended(),
                Event::Data(Ok(Said::Word(word))) if broken.at == At::Peer => self.hear(word),
                _ => Ok(()),
            };
            if let Err(failure) = told {
                return failure;
            }
        }
        Failure::new(Exit::FailedSourceRuns, format!("data to {}: {}", self.line.host, broken.what))
    }

    fn await_ready(&mut self, timeout: &Timeout, record: &mut Record) -> Result<(), Failure> {
        let deadline = timeout.or(Instant::now() + deadlines::READY);
        while !self.ready {
            match self.events.next(deadline) {
                Some(event) => self.take(event, record)?,
                None if timeout.has_passed() => return Err(Timeout::failure()),
                None => {
                    let what = format!(
                        "{} was not ready in {} s",
                        self.line.host,
                        deadlines::READY.as_secs()
                    );
                    return Err(Failure::new(Exit::FailedSourceRuns, what));
                }
            }
        }
        record.timeline.ready = Some(Instant::now());
        self.look_once_more(record)
    }

    /// A receiver that has ended since, or a cancel: this is the last moment to give up.
    fn look_once_more(&mut self, record: &mut Record) -> Result<(), Failure> {
        while let Some(event) = self.events.next(Instant::now()) {
            self.take(event, record)?;
        }
        Ok(())
    }

    /// Back to where it was: the guest runs here, and the receiver, whose input ends, destroys what
    /// it has.
    fn give_up(mut self, failure: Failure, record: &mut Record) -> Failure {
        tracing::info!("giving up: {failure}");
        self.saving.halt(|| self.copier.abandon());
        drop(self.copier);
        let failure = self.saving.run_on(failure, record);
        self.line.wind_up(self.events);
        failure
    }

    /// Crosses the line: the name goes, then the word.
    fn commit(self, record: &mut Record) -> Result<Committed<'a>, Failure> {
        let renamed = match self.saving.rename_away() {
            Ok(renamed) => renamed,
            Err(failure) => return Err(self.give_up(failure, record)),
        };
        let Self { saving, copier, events, mut line, .. } = self;
        let (away, _) = saving.into_away(renamed);
        drop(copier);
        if let Err(why) = line.say_go() {
            let failure = Failure::new(
                Exit::FailedSourceRuns,
                format!("{} could not be told GO: {why}", line.host),
            );
            let failure = away.take_back(failure);
            line.wind_up(events);
            return Err(failure);
        }
        record.timeline.go = Some(Instant::now());
        Ok(Committed { away, events, line })
    }
}

/// Below the line: GO has been said. The domain is not run here again unless the receiver gives it
/// back.
struct Committed<'a> {
    away: Away,
    events: &'a Events<Said>,
    line: Line,
}

impl Committed<'_> {
    fn settle(self, record: &mut Record) -> Result<(), Failure> {
        let Self { away, events, mut line } = self;
        let settled = match await_word(&mut line, events) {
            Ok(Word::Report(0)) => {
                record.timeline.done = Some(Instant::now());
                // What the receiver does now, it does without us.
                return away.release(&line.host);
            }
            Ok(Word::Report(status)) => Err(not_started(away, status, &mut line, events)),
            Ok(other) => Err(away.undecided(&line.host, &format!("{other:?} came out of turn"))),
            Err(reason) => Err(away.undecided(&line.host, &reason)),
        };
        line.wind_up(events);
        settled
    }
}

/// The receiver has not started it. Only when it says that its copy is gone may this one run.
fn not_started(away: Away, status: u8, line: &mut Line, events: &Events<Said>) -> Failure {
    let host = line.host.clone();
    let reported = format!("could not start it, status {status}{}", line.heard());
    match await_word(line, events) {
        Ok(Word::GivenBack) => {
            away.take_back(Failure::new(Exit::FailedSourceRuns, format!("{host} {reported}")))
        }
        Ok(other) => away.undecided(&host, &format!("it {reported}, and then said {other:?}")),
        Err(reason) => {
            away.undecided(&host, &format!("it {reported}, and did not give it back: {reason}"))
        }
    }
}

/// The next word after GO. A Ctrl-C is too late here.
fn await_word(line: &mut Line, events: &Events<Said>) -> Result<Word, String> {
    let deadline = Instant::now() + deadlines::DONE;
    loop {
        match events.next(deadline) {
            Some(Event::Data(Ok(Said::Word(Word::Garbled(what))))) => return Err(what),
            Some(Event::Data(Ok(Said::Word(Word::Ended)))) => return Err(line.last_words()),
            Some(Event::Data(Ok(Said::Word(word)))) => return Ok(word),
            Some(_) => {}
            None => return Err(format!("no answer in {} s", deadlines::DONE.as_secs())),
        }
    }
}
