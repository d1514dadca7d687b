//! The source's end of a migration.

use crate::check::type_name;
use crate::events::{Event, Events, unexpected};
use crate::gang_member::Member;
use crate::job::{Job, reach_agents};
use crate::leaving::{Away, Leaving, Saving, Timeout};
use crate::link::{Link, negotiate};
use crate::record::Record;
use rxl_core::deadlines;

pub use crate::request::Request;
use rxl_core::domain::SpecialPages;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::notes::NoteKind;
use rxl_core::state_dir::StateDir;
use rxl_core::steering::Restorer;
use rxl_core::target_spans::TargetSpans;
use rxl_core::text::one_line;
use rxl_datapath::broken::{At, Broken};
use rxl_datapath::feed::feed;
use rxl_datapath::send::{Sender, Sent};
use rxl_host::host::Host;
use rxl_link::control::{Accept, Incoming, Message, Offer, StreamEnd};
use rxl_link::transport::{Connections, Destination, Ticket};
use rxl_report::migration::{Report, Timeline};
use rxl_report::progress::{Phase, Progress};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress is shown.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// Runs a whole migration. The report tells how far it came, whatever the end.
pub fn migrate(
    host: Arc<dyn Host>,
    state: &StateDir,
    request: &Request,
    events: &Events<Sent>,
    progress: &mut dyn Progress,
) -> (Result<(), Failure>, Option<Report>) {
    migrate_in_gang(host, state, request, None, events, progress)
}

/// The same, as a member of a gang where there is one.
pub fn migrate_in_gang(
    host: Arc<dyn Host>,
    state: &StateDir,
    request: &Request,
    member: Option<Member>,
    events: &Events<Sent>,
    progress: &mut dyn Progress,
) -> (Result<(), Failure>, Option<Report>) {
    let mut record = None;
    let result = Prepared::new(host, state, request, member, events).and_then(|prepared| {
        let id = prepared.ticket.id.to_string();
        let domain = &prepared.leaving.domain;
        let record =
            record.insert(Record::open(id, domain, prepared.timeline, request, state, events)?);
        prepared.run(record, progress)
    });
    let result = result.map_err(|failure| request.peer.advise(failure));
    let report = record.map(|record| record.report(&result));
    progress.end();
    (result, report)
}

/// Connected and checked; nothing begun on either side.
struct Prepared<'a> {
    leaving: Leaving,
    request: &'a Request,
    ticket: Ticket,
    timeline: Timeline,
    events: &'a Events<Sent>,
    link: Link,
    accept: Accept,
    job: Job,
}

impl<'a> Prepared<'a> {
    fn new(
        host: Arc<dyn Host>,
        state: &StateDir,
        request: &'a Request,
        member: Option<Member>,
        events: &'a Events<Sent>,
    ) -> Result<Self, Failure> {
        let timeline = Timeline::start();
        let leaving = Leaving::check(host, state, request)?;
        let agents = match &member {
            Some(_) => None,
            None => reach_agents(request.quiesce, std::slice::from_ref(&request.route))?,
        };
        let ticket = Ticket::random().map_err(|e| Failure::internal("random numbers", &e))?;
        let mut link = Link::open(&request.route, &ticket, request.patience, events)?;
        let offer = offer(request, &leaving);
        let accept = negotiate(&mut link, offer, events)?;
        let job = match member {
            Some(member) => Job::join(member, request.quiesce, &leaving.domain, events),
            None => Job::find(request.quiesce, agents, &leaving.domain),
        };
        let job = match job {
            Ok(job) => job,
            Err(failure) => {
                link.give_up(&failure.to_string(), events);
                return Err(failure);
            }
        };
        Ok(Self { leaving, request, ticket, timeline, events, link, accept, job })
    }

    fn run(self, record: &mut Record, progress: &mut dyn Progress) -> Result<(), Failure> {
        progress.show(&record.snapshot(Phase::Setup));
        if self.request.dry_run {
            progress.say(&format!(
                "{} would be migrated to {}: every check passed ({} MiB free there)",
                self.leaving.domain.name,
                self.link.host,
                self.accept.free_memory_kib / 1024
            ));
            self.link.give_up("dry run", self.events);
            return Ok(());
        }
        let mut uncommitted = self.begin(record)?;
        let ready = uncommitted.transfer(record, progress);
        let committed = match ready.and_then(|()| uncommitted.await_go(record)) {
            Ok(()) => uncommitted.commit(record)?,
            Err(failure) => return Err(uncommitted.give_up(failure, record)),
        };
        progress.show(&record.snapshot(Phase::Resume));
        committed.settle(record)
    }

    /// Opens the data connections and asks libxl to save. ssh is started before libxl: libxl forks,
    /// and a descriptor that a child inherits would never see its end.
    fn begin(self, record: &mut Record) -> Result<Uncommitted<'a>, Failure> {
        let Self { leaving, request, ticket, events, link, accept, job, .. } = self;
        let begun = start_data(leaving, job, request, &ticket, &accept, events, record);
        match begun {
            Ok((connections, sender, saving)) => {
                Ok(Uncommitted { saving, request, events, link, sender, connections })
            }
            Err(failure) => {
                link.give_up(&failure.to_string(), events);
                Err(failure)
            }
        }
    }
}

fn offer(request: &Request, leaving: &Leaving) -> Offer {
    let Leaving { domain, config_json, xen_version, .. } = leaving;
    Offer {
        name: domain.name.clone(),
        config_json: config_json.clone(),
        guest_type: type_name(domain.guest_type).into(),
        max_memory_kib: domain.max_memory_kib,
        xen_version: xen_version.clone(),
        transport: request.transport,
        connections: request.connections,
        data_address: request.data_address.map(|address| address.to_string()),
        leave_paused: request.leave_paused,
        domid: request.preserve_domid.then_some(domain.domid.0),
        dry_run: request.dry_run,
        special_pages: special_pages(request, leaving),
    }
}

/// Libxc alone can verify a stream that was sent twice (`--debug`).
fn special_pages(request: &Request, leaving: &Leaving) -> Option<SpecialPages> {
    if request.restorer == Restorer::Libxc || request.flags.debug {
        return None;
    }
    let found = leaving.host.special_pages(leaving.domain.domid);
    found.unwrap_or_else(|error| {
        tracing::warn!("{}: {error}; libxc restores it", leaving.domain.name);
        None
    })
}

fn start_data(
    leaving: Leaving,
    job: Job,
    request: &Request,
    ticket: &Ticket,
    accept: &Accept,
    events: &Events<Sent>,
    record: &mut Record,
) -> Result<(Connections, Sender, Saving), Failure> {
    let broken = |e| Failure::internal("data path", &e);
    let cancel = Cancel::new().map_err(broken)?;
    let to = Destination {
        route: &request.route,
        transport: request.transport,
        count: request.connections,
    };
    let mut connections = Connections::open(&to, accept, ticket, &cancel)?;
    let (reading, writing) = pipe().map_err(broken)?;
    let from_libxl = Guarded::new(reading, Cancel::new().map_err(broken)?, Some(deadlines::STALL))
        .map_err(broken)?;
    let queue = events.sender();
    let on_end = move |result| {
        let _ = queue.send(Event::Data(result));
    };
    let streams = std::mem::take(&mut connections.streams);
    let (feed, fed) = feed(record.meter.clone());
    let sender = Sender::start(
        from_libxl,
        fed,
        streams,
        cancel,
        request.packing,
        record.meter.clone(),
        on_end,
    );
    let sender = sender.map_err(broken)?;
    let saving = Saving::start(leaving, job, request, (writing, feed), events, record)?;
    Ok((connections, sender, saving))
}

/// Above the line: libxl is saving or has saved; whatever fails, the domain runs on here.
pub struct Uncommitted<'a> {
    saving: Saving,
    request: &'a Request,
    events: &'a Events<Sent>,
    link: Link,
    sender: Sender,
    connections: Connections,
}

impl<'a> Uncommitted<'a> {
    /// Moves everything, until the target says READY.
    fn transfer(
        &mut self,
        record: &mut Record,
        progress: &mut dyn Progress,
    ) -> Result<(), Failure> {
        self.send_stream(record, progress)?;
        let Some(sent) = &record.sent else {
            return Err(Failure::new(
                Exit::FailedSourceRuns,
                "the data path ended without a result",
            ));
        };
        let end = StreamEnd {
            frames: sent.frames,
            bytes: sent.stream_bytes,
            digest: sent.digest.clone(),
        };
        self.link.control.send(Message::StreamEnd(end));
        progress.show(&record.snapshot(Phase::Ready));
        record.target = Some(self.await_ready(record)?);
        record.timeline.ready = Some(Instant::now());
        Ok(())
    }

    /// Until libxl has saved and the last byte is on its way.
    fn send_stream(
        &mut self,
        record: &mut Record,
        progress: &mut dyn Progress,
    ) -> Result<(), Failure> {
        let mut timeout = Timeout::new(&self.request.limits, record.timeline.began);
        let mut phase = Phase::Precopy;
        while !self.saving.is_over() || record.sent.is_none() {
            timeout.look(&self.saving)?;
            self.saving.rest();
            progress.show(&record.snapshot(phase));
            match self.events.next(Instant::now() + TICK) {
                Some(Event::Note(note)) => {
                    record.note(&note);
                    if note.what == NoteKind::Suspended {
                        phase = Phase::LastPages;
                        self.saving.job.suspended()?;
                    }
                }
                Some(Event::Data(Ok(sent))) => record.sent(sent),
                Some(Event::Data(Err(broken))) => return Err(self.data_failure(&broken)),
                Some(Event::Asked(question)) => self.saving.answer(question, record)?,
                Some(Event::OperationEnded) => self.saving.ended()?,
                Some(Event::Control(Incoming::Message(Message::Restored { frames }))) => {
                    record.meter.backlog.restored(frames);
                }
                Some(Event::Control(incoming)) => self.check_control(incoming)?,
                Some(Event::Gang(word)) => self.saving.heard(word, record)?,
                Some(Event::Interrupt) => return Err(Failure::new(Exit::Cancelled, "cancelled")),
                None => {}
            }
        }
        Ok(())
    }

    /// The reason behind a broken data path comes a moment later: from libxl, or over the control
    /// channel.
    fn data_failure(&mut self, broken: &Broken) -> Failure {
        let deadline = Instant::now() + deadlines::PEER_REASON;
        while let Some(event) = self.events.next(deadline) {
            let told = match event {
                // What a broken data path ends is not what broke it.
                Event::OperationEnded if broken.at == At::Libxl => self.saving.ended(),
                Event::Control(incoming) if broken.at == At::Peer => self.check_control(incoming),
                _ => Ok(()),
            };
            if let Err(failure) = told {
                return failure;
            }
        }
        Failure::new(Exit::FailedSourceRuns, format!("data to {}: {}", self.link.host, broken.what))
    }

    fn check_control(&self, incoming: Incoming) -> Result<(), Failure> {
        let host = &self.link.host;
        let what = match incoming {
            // Sent before it had read what makes it pointless.
            Incoming::Message(Message::Restored { .. }) => return Ok(()),
            Incoming::Message(Message::Failed { reason }) => {
                format!("{host}: {}", one_line(&reason))
            }
            Incoming::Message(other) => format!("{host}: {}", unexpected(&other)),
            Incoming::Lost(reason) => format!("the connection to {host} was lost ({reason})"),
        };
        Err(Failure::new(Exit::FailedSourceRuns, what))
    }

    fn await_ready(&mut self, record: &mut Record) -> Result<TargetSpans, Failure> {
        let timeout = Timeout::new(&self.request.limits, record.timeline.began);
        let deadline = timeout.or(Instant::now() + deadlines::READY);
        loop {
            match self.events.next(deadline) {
                Some(Event::Control(Incoming::Message(Message::Ready(spans)))) => return Ok(spans),
                Some(Event::Control(incoming)) => self.check_control(incoming)?,
                Some(Event::Gang(word)) => self.saving.heard(word, record)?,
                Some(Event::Interrupt) => return Err(Failure::new(Exit::Cancelled, "cancelled")),
                Some(_) => {}
                None if timeout.has_passed() => return Err(Timeout::failure()),
                None => {
                    let what = format!(
                        "{} was not ready in {} s",
                        self.link.host,
                        deadlines::READY.as_secs()
                    );
                    return Err(Failure::new(Exit::FailedSourceRuns, what));
                }
            }
        }
    }

    /// Until the gang's leader says that all others are ready, too. From READY on others may be
    /// told to go at any moment: who wants to cancel asks the leader, which knows.
    fn await_go(&mut self, record: &mut Record) -> Result<(), Failure> {
        self.saving.job.ready();
        let timeout = Timeout::new(&self.request.limits, record.timeline.began);
        let last = Instant::now() + deadlines::GANG_GO;
        let mut deadline = timeout.or(last);
        while !self.saving.job.may_go()? {
            match self.events.next(deadline) {
                Some(Event::Gang(word)) => self.saving.heard(word, record)?,
                Some(Event::Control(incoming)) => self.check_control(incoming)?,
                Some(Event::Interrupt) => self.saving.job.ask_cancel(),
                Some(_) => {}
                None if deadline < last => {
                    self.saving.job.ask_cancel();
                    deadline = last;
                }
                None => {
                    let what = format!(
                        "the other domains were not ready in {} s",
                        deadlines::GANG_GO.as_secs()
                    );
                    return Err(Failure::new(Exit::FailedSourceRuns, what));
                }
            }
        }
        Ok(())
    }

    /// Back to where it was: the guest runs here, log-dirty is off, nothing is left at the target.
    fn give_up(mut self, failure: Failure, record: &mut Record) -> Failure {
        tracing::info!("giving up: {failure}");
        self.saving.job.failing(&failure);
        self.link.control.send(Message::Abort { reason: failure.to_string() });
        self.saving.halt(|| self.sender.abandon());
        drop(self.sender);
        let failure = self.saving.run_on(failure, record);
        self.link.give_up(&failure.to_string(), self.events);
        drop(self.connections);
        failure
    }

    /// Crosses the line: the name goes, then the word.
    fn commit(self, record: &mut Record) -> Result<Committed<'a>, Failure> {
        let renamed = match self.saving.rename_away() {
            Ok(renamed) => renamed,
            Err(failure) => return Err(self.give_up(failure, record)),
        };
        let Self { saving, request, events, link, sender, connections } = self;
        let (away, mut job) = saving.into_away(renamed);
        // A domain that stays paused cannot be waited for.
        let agent_command = if request.leave_paused { None } else { job.hold() };
        link.control.send(Message::Go { agent_command });
        record.timeline.go = Some(Instant::now());
        let leave_paused = request.leave_paused;
        Ok(Committed { away, leave_paused, events, link, sender, job, _connections: connections })
    }
}

/// Below the line: the target has the word. The domain is not run here again unless the target
/// itself gives it back.
pub struct Committed<'a> {
    away: Away,
    leave_paused: bool,
    events: &'a Events<Sent>,
    link: Link,
    sender: Sender,
    job: Job,
    _connections: Connections,
}

impl Committed<'_> {
    fn settle(mut self, record: &mut Record) -> Result<(), Failure> {
        match self.await_answer() {
            Ok(Message::Done(spans)) => {
                record.timeline.done = Some(Instant::now());
                record.target = Some(spans);
                if self.leave_paused {
                    self.job.abort();
                } else {
                    self.job.arrived(spans.domid);
                }
                record.mpi = self.job.figures();
                self.release()
            }
            Ok(Message::GivenBack { reason }) => Err(self.take_back(&reason, record)),
            Ok(other) => Err(self.lost(&unexpected(&other), record)),
            Err(reason) => Err(self.lost(&reason, record)),
        }
    }

    /// Wherever the domain is, the rest of its job is not kept waiting for it.
    fn lost(&mut self, reason: &str, record: &mut Record) -> Failure {
        self.job.abort();
        record.mpi = self.job.figures();
        self.away.undecided(&self.link.host, reason)
    }

    /// A Ctrl-C is too late here: the answer is waited for.
    fn await_answer(&self) -> Result<Message, String> {
        let deadline = Instant::now() + deadlines::DONE;
        loop {
            match self.events.next(deadline) {
                Some(Event::Control(Incoming::Message(Message::Restored { .. }))) => {}
                Some(Event::Control(Incoming::Message(message))) => return Ok(message),
                Some(Event::Control(Incoming::Lost(reason))) => return Err(reason),
                Some(_) => {}
                None => return Err(format!("no answer in {} s", deadlines::DONE.as_secs())),
            }
        }
    }

    /// The target runs it.
    fn release(self) -> Result<(), Failure> {
        let Self { away, link, sender, .. } = self;
        drop(sender);
        away.release(&link.host)
    }

    /// The target said that it could not run the domain and has destroyed its copy: the only one is
    /// ours.
    fn take_back(mut self, reason: &str, record: &mut Record) -> Failure {
        let failure = Failure::new(
            Exit::FailedSourceRuns,
            format!("{}: {}", self.link.host, one_line(reason)),
        );
        let failure = self.away.take_back(failure);
        self.job.returned();
        record.mpi = self.job.figures();
        failure
    }
}
