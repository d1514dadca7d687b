//! `rxl save`: a domain into a file.

use rxl_core::deadlines;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::check::{at_source, may_be_saved};
use crate::events::{Event, Events};
use crate::job::Job;
use crate::savefile::file::Unfinished;
use crate::savefile::writer::{Writer, Written};
use rxl_core::domain::{Domain, RunState};
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::level::Level;
use rxl_core::operation::Operation;
use rxl_core::save_format::Format;
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_core::steering::{SaveFlags, Unsteered, Walker};
use rxl_datapath::broken::{At, Broken};
use rxl_datapath::feed::feed;
use rxl_datapath::packing::Packing;
use rxl_host::guard;
use rxl_host::guard_line::Guard;
use rxl_host::host::{Host, Save};
use rxl_quiesce::cluster::AgentHost;
use rxl_report::mpi::MpiPart;

/// How often the deadline is looked at.
const TICK: Duration = Duration::from_secs(1);

/// What becomes of the domain when its file is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It is destroyed: it lives in the file.
    Destroy,
    /// It runs on.
    Run,
    /// It stands still until it is unpaused.
    Pause,
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name or number.
    pub domain: String,
    /// The file to write.
    pub path: PathBuf,
    /// How.
    pub format: Format,
    /// What becomes of the domain.
    pub after: After,
    /// How pages are packed in rxl's format.
    pub packing: Packing,
    /// Who of the domain's MPI job stands still meanwhile.
    pub quiesce: Level,
}

/// A domain that was saved.
#[derive(Clone, Debug)]
pub struct Saved {
    /// As it was.
    pub domain: Domain,
    /// Its file.
    pub written: Written,
    /// Its MPI job, where that was asked for.
    pub mpi: Option<MpiPart>,
}

/// Saves a domain. `agents`: the hosts of the cluster, from [`crate::job::reach_agents`].
pub fn save(
    host: &dyn Host,
    state: &StateDir,
    request: &Request,
    agents: Option<Vec<AgentHost>>,
    events: &Events<Written>,
) -> Result<Saved, Failure> {
    let domain = host.find(&request.domain).map_err(Failure::from)?;
    let facts = host.facts().map_err(Failure::from)?;
    at_source(&domain, &facts, false)?;
    let lock = state.lock(&format!("domain-{}", domain.domid), &domain.name)?;
    let config =
        host.config_json(domain.domid).map_err(|e| Failure::from(e).with_exit(Exit::Internal))?;
    may_be_saved(&domain.name, &config)?;
    let mut file = Unfinished::create(&request.path)?;
    file.write_head(request.format, &without_domid(&config)?)?;
    let job = hold_still(Job::find(request.quiesce, agents, &domain)?)?;
    let mut saving = Saving::begin(host, request, &domain, &file, events, lock, job)?;
    let written = saving.transfer(events).and_then(|written| saving.finish(file, written));
    match written {
        Ok(written) => {
            saving.guard.done();
            release(host, &domain, request)?;
            let mpi = let_go(saving.job, request.after);
            Ok(Saved { domain, written, mpi })
        }
        Err(failure) => Err(saving.give_up(failure)),
    }
}

/// The whole save is made while the domain stands still, so its job does so from before it.
fn hold_still(mut job: Job) -> Result<Job, Failure> {
    job.stop()?;
    job.may_suspend()?;
    Ok(job)
}

/// As xl does without -D: the number is not to be kept, or a restore would fail where it is taken.
fn without_domid(config_json: &str) -> Result<String, Failure> {
    let mut config = DomainConfig::parse(config_json).map_err(|error| {
        Failure::new(Exit::Internal, format!("the configuration of the domain {error}"))
    })?;
    config.forget_domid();
    Ok(config.to_string())
}

/// libxl is saving or has saved, and whatever fails, the domain runs on.
struct Saving<'a> {
    host: &'a dyn Host,
    domain: Domain,
    path: String,
    operation: Option<Operation<()>>,
    writer: Option<Writer>,
    guard: Guard,
    job: Job,
    _lock: DomainLock,
}

impl<'a> Saving<'a> {
    fn begin(
        host: &'a dyn Host,
        request: &Request,
        domain: &Domain,
        file: &Unfinished,
        events: &Events<Written>,
        lock: DomainLock,
        mut job: Job,
    ) -> Result<Self, Failure> {
        let broken = |e| Failure::internal("data path", &e);
        // Of a file that may grow no further, and would end the process with the domain suspended:
        // writing then fails.
        let mut size = SigSet::empty();
        size.add(Signal::SIGXFSZ);
        size.thread_block().map_err(|e| broken(e.into()))?;
        let (reading, writing) = pipe().map_err(broken)?;
        let from_libxl =
            Guarded::new(reading, Cancel::new().map_err(broken)?, Some(deadlines::STALL))
                .map_err(broken)?;
        let queue = events.sender();
        let on_end = move |written| {
            let _ = queue.send(Event::Data(written));
        };
        let writer = Writer::start(request.format, request.packing, from_libxl, file, on_end)?;
        let notes = events.notes().map_err(broken)?;
        let flags = SaveFlags { live: false, debug: false };
        let (feed, _) = feed(Arc::default());
        let steering = Box::new(Unsteered);
        let save = Save { stream: writing, flags, walker: Walker::Stock, notes, steering, feed };
        let guard = guard::leaving(host, domain, &lock);
        let operation = host.save(domain.domid, save);
        let operation = operation.map_err(|e| Failure::from(e).with_exit(Exit::Internal))?;
        job.suspended()?;
        let path = request.path.display().to_string();
        let (operation, writer) = (Some(operation), Some(writer));
        Ok(Self { host, domain: domain.clone(), path, operation, writer, guard, job, _lock: lock })
    }

    /// Until libxl has saved and the last byte has been written.
    fn transfer(&mut self, events: &Events<Written>) -> Result<Written, Failure> {
        let mut written = None;
        let mut deadline = None;
        loop {
            if let (None, Some(written)) = (&self.operation, &written) {
                return Ok(Written::clone(written));
            }
            // The stream has deadlines of its own; libxl has little to do when it has ended.
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Failure::new(Exit::FailedSourceRuns, "libxl did not end its save"));
            }
            match events.next(Instant::now() + TICK) {
                Some(Event::Data(Ok(data))) => {
                    written = Some(data);
                    deadline = Some(Instant::now() + deadlines::STALL);
                }
                Some(Event::Data(Err(broken))) => return Err(self.write_failure(&broken, events)),
                Some(Event::OperationEnded) => self.saved()?,
                Some(Event::Interrupt) => return Err(Failure::new(Exit::Cancelled, "cancelled")),
                Some(_) | None => {}
            }
        }
    }

    fn saved(&mut self) -> Result<(), Failure> {
        let Some(operation) = self.operation.take() else { return Ok(()) };
        operation.wait().map_err(|e| Failure::from(e).with_exit(Exit::FailedSourceRuns))?;
        // libxl's word is not enough: what was written is whole only if the guest really stands
        // still.
        match self.host.domain(self.domain.domid).map_err(Failure::from)?.state {
            RunState::Suspended => Ok(()),
            state => {
                let what = format!("libxl saved {}, yet it is {state:?}", self.domain.name);
                Err(Failure::new(Exit::FailedSourceRuns, what))
            }
        }
    }

    /// Where libxl's stream broke off, libxl says why a moment later.
    fn write_failure(&mut self, broken: &Broken, events: &Events<Written>) -> Failure {
        let deadline = Instant::now()
            + if broken.at == At::Libxl { deadlines::LIBXL_REASON } else { Duration::ZERO };
        while self.operation.is_some()
            && let Some(event) = events.next(deadline)
        {
            if matches!(event, Event::OperationEnded)
                && let Err(failure) = self.saved()
            {
                return failure;
            }
        }
        let what = broken.what.trim_start_matches("data connection: ");
        Failure::new(Exit::FailedSourceRuns, format!("{}: {what}", self.path))
    }

    fn finish(&mut self, file: Unfinished, written: Written) -> Result<Written, Failure> {
        let in_place = |e: Failure| e.with_exit(Exit::FailedSourceRuns);
        let file_bytes = file.length().map_err(in_place)?;
        file.put_in_place().map_err(in_place)?;
        Ok(Written { file_bytes, ..written })
    }

    /// Back to where it was. The file is gone already, or goes with its handle.
    fn give_up(mut self, failure: Failure) -> Failure {
        tracing::info!("giving up: {failure}");
        if let Some(writer) = &self.writer {
            writer.abandon();
        }
        if let Some(operation) = self.operation.take()
            && let Err(error) = operation.abort_and_wait()
        {
            tracing::debug!("save: {error}");
        }
        drop(self.writer.take());
        let name = &self.domain.name;
        let run_on = self.host.domain(self.domain.domid).and_then(|domain| match domain.state {
            RunState::Suspended => self.host.resume(domain.domid),
            _ => Ok(()),
        });
        match run_on {
            Ok(()) => {
                self.guard.done();
                self.job.returned();
                Failure { what: format!("{}; {name} runs on here", failure.what), ..failure }
            }
            Err(error) => Failure {
                what: format!("{}; and {name} could not be resumed: {error}", failure.what),
                ..failure
            }
            .next(format!("`xl list` shows its state; `xl resume {name}` tries again")),
        }
    }
}

/// The file is in place: the domain is what the user asked for.
fn release(host: &dyn Host, domain: &Domain, request: &Request) -> Result<(), Failure> {
    let domid = domain.domid;
    let released = match request.after {
        After::Destroy => host.destroy(domid),
        After::Run => host.resume(domid),
        // In this order, as xl does it: it must not run in between.
        After::Pause => host.pause(domid).and_then(|()| host.resume(domid)),
    };
    released.map_err(|error| {
        let what = format!("{} is saved in {}, but: {error}", domain.name, request.path.display());
        let next = match request.after {
            After::Destroy => format!("`xl destroy {}`", domain.name),
            After::Run | After::Pause => format!("`xl resume {}`", domain.name),
        };
        Failure::new(Exit::MovedWithWarnings, what).next(next)
    })
}

/// The domain is what the user asked for. Where it is not to run, the rest of its job does.
fn let_go(mut job: Job, after: After) -> Option<MpiPart> {
    match after {
        After::Run => job.runs_on(),
        After::Destroy | After::Pause => job.abort(),
    }
    job.figures()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_not_saved() {
        let saved = without_domid(
            r#"{"b_info":{"max_memkb":18446744073709551615},"c_info":{"domid":7,"name":"a"}}"#,
        );
        assert_eq!(
            saved.unwrap(),
            r#"{"b_info":{"max_memkb":18446744073709551615},"c_info":{"name":"a"}}"#
        );
        assert!(without_domid("no").is_err());
    }
}
