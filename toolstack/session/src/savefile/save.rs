//! `rxl save`: a domain into a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::events::{Event, Events};
use crate::job::{HERE, HeldJob};
use crate::outgoing::{
    Described, Destination, DomainSave, Leaving, Measurements, SavePlan, Stored, Timeout,
    Uncommitted, save_pipe,
};
use crate::savefile::file::Unfinished;
use crate::savefile::writer::{Writer, Written};
use rxl_core::domain::Domain;
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::level::Level;
use rxl_core::save_format::Format;
use rxl_core::state_dir::StateDir;
use rxl_core::steering::{SaveFlags, Walker};
use rxl_datapath::broken::Broken;
use rxl_datapath::feed::feed;
use rxl_datapath::packing::Packing;
use rxl_handover::Other;
use rxl_handover::record::AfterSave;
use rxl_host::host::Host;
use rxl_host::watch;
use rxl_link::transport::Ticket;
use rxl_quiesce::cluster::Agents;
use rxl_recover::Asking;
use rxl_report::mpi::MpiPart;
use rxl_report::timeline::Timeline;

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

/// What the user of `rxl save` asked for.
#[derive(Clone, Debug)]
pub struct SaveRequest {
    /// Name or number.
    pub domain: String,
    /// The file to write.
    pub path: PathBuf,
    pub format: Format,
    pub after: After,
    /// How pages are packed in rxl's format.
    pub packing: Packing,
    /// Who of the domain's MPI job stands still meanwhile.
    pub quiesce: Level,
}

/// A domain that was saved.
#[derive(Clone, Debug)]
pub struct Saved {
    /// As it was before.
    pub domain: Domain,
    pub written: Written,
    /// Its MPI job, where that was asked for.
    pub mpi: Option<MpiPart>,
}

/// Saves a domain. `agents`: the hosts of the cluster, from [`crate::job::reach_agents`].
pub fn save(
    host: &dyn Host,
    state: &StateDir,
    request: &SaveRequest,
    agents: Option<Agents>,
    events: &Events<Written>,
) -> Result<Saved, Failure> {
    let leaving = Leaving::to_file(host, state, &request.domain)?;
    let mut file = Unfinished::create(&request.path)?;
    file.write_head(request.format, &without_domid(&leaving.config_json)?)?;
    let job = hold_still(HeldJob::find(request.quiesce, agents, &leaving.domain, HERE)?)?;
    let mut measured = Measurements::new(Timeline::start(), Duration::ZERO);
    let mut uncommitted = begin(leaving, job, request, &file, events, &mut measured)?;
    let transferred = uncommitted.transfer(&mut measured);
    let written = transferred.and_then(|()| put_in_place(file, &uncommitted));
    match written {
        Ok(written) => settle(uncommitted.into_stored(), request, written),
        Err(failure) => Err(uncommitted.give_up(failure, &mut measured)),
    }
}

/// The whole save is made while the domain stands still, so its job does so from before it.
fn hold_still(mut job: HeldJob) -> Result<HeldJob, Failure> {
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

/// A file that may grow no further would end the process by SIGXFSZ, with the domain suspended:
/// blocked, writing fails in its place.
fn block_size_signal() -> std::io::Result<()> {
    let mut size = SigSet::empty();
    size.add(Signal::SIGXFSZ);
    Ok(size.thread_block()?)
}

fn begin<'a>(
    leaving: Leaving<'a>,
    job: HeldJob,
    request: &SaveRequest,
    file: &Unfinished,
    events: &'a Events<Written>,
    measured: &mut Measurements,
) -> Result<Uncommitted<'a, FileDestination>, Failure> {
    let broken = |e| Failure::internal("data path", &e);
    block_size_signal().map_err(broken)?;
    let (from_libxl, writing) = save_pipe().map_err(broken)?;
    let queue = events.sender();
    let on_end = move |written| {
        let _ = queue.send(Event::Data(written));
    };
    let writer = Writer::start(request.format, request.packing, from_libxl, file, on_end)?;
    // Dropped before the thread that reads from it, which ends when it is closed.
    let writing = writing;
    let plan = SavePlan {
        flags: SaveFlags { live: false, debug: false },
        walker: Walker::Stock,
        limits: None,
    };
    let (feed, _) = feed(Arc::default());
    let ledger = leaving.record(described(request, file)?)?;
    let save = DomainSave::start(leaving, job, plan, ledger, (writing, feed), events, measured)?;
    let path = request.path.display().to_string();
    let destination = FileDestination { path, writer: Some(writer), written: None };
    Ok(Uncommitted::new(save, destination, events, Timeout::default()))
}

/// What the save's record says from its beginning on.
fn described(request: &SaveRequest, file: &Unfinished) -> Result<Described, Failure> {
    let ticket = Ticket::random().map_err(|e| Failure::internal("random numbers", &e))?;
    let after = match request.after {
        After::Destroy => AfterSave::Destroy,
        After::Run => AfterSave::Run,
        After::Pause => AfterSave::Pause,
    };
    let other = Other::File {
        path: file.path().to_owned(),
        unfinished: Some(file.unfinished_path().to_owned()),
        after,
    };
    Ok(Described {
        id: ticket.id.to_string(),
        other,
        leave_paused: false,
        no_monitor: false,
        asking: Asking::default(),
    })
}

/// The file as the destination of a domain. It is ready when all of it has been written.
struct FileDestination {
    path: String,
    /// None once the data path has been ended.
    writer: Option<Writer>,
    written: Option<Written>,
}

impl Destination for FileDestination {
    type Data = Written;

    fn name(&self) -> &str {
        &self.path
    }

    fn take_data(&mut self, written: Written, _: &mut Measurements) -> Result<(), Failure> {
        self.written = Some(written);
        Ok(())
    }

    fn is_sent(&self) -> bool {
        self.written.is_some()
    }

    fn is_ready(&self) -> bool {
        self.written.is_some()
    }

    /// A file gives its reason at once.
    fn reason_deadline(&self) -> Duration {
        Duration::ZERO
    }

    fn path_failure(&self, broken: &Broken) -> Failure {
        // The file is what the frames are written to in place of a connection.
        let what = match broken {
            Broken::Connection(error) => format!("{}: {error}", self.path),
            other => format!("{}: {other}", self.path),
        };
        Failure::new(Exit::FailedSourceRuns, what).caused_by(broken.clone())
    }

    fn abandon(&self) {
        if let Some(writer) = &self.writer {
            writer.abandon();
        }
    }

    fn end_data(&mut self) {
        self.writer = None;
    }

    /// The file is gone already, or goes with its handle.
    fn wind_up(self, _failure: &Failure, _events: &Events<Written>) {}
}

/// Commit: from here on the domain is in its file.
fn put_in_place(
    file: Unfinished,
    uncommitted: &Uncommitted<'_, FileDestination>,
) -> Result<Written, Failure> {
    let failed = |e: Failure| e.with_exit(Exit::FailedSourceRuns);
    let Some(written) = &uncommitted.destination.written else {
        return Err(Failure::new(Exit::FailedSourceRuns, "the file has not been written"));
    };
    let file_bytes = file.length().map_err(failed)?;
    file.flush().map_err(failed)?;
    uncommitted.record_commit()?;
    file.put_in_place().map_err(failed)?;
    Ok(Written { file_bytes, ..written.clone() })
}

/// The domain becomes what the user asked for. Where it does not run, the rest of its job does.
fn settle(stored: Stored<'_>, request: &SaveRequest, written: Written) -> Result<Saved, Failure> {
    let mut stored = stored;
    let released = release(stored.host, &stored.domain, request.after);
    match (&released, request.after) {
        (Ok(()), After::Run) => stored.job.runs_on(),
        _ => stored.job.abort(),
    }
    if request.after != After::Destroy {
        watch::again(stored.host, stored.domain.domid);
    }
    let (domain, mpi) = (stored.domain.clone(), stored.job.figures());
    stored.settled();
    match released {
        Ok(()) => Ok(Saved { domain, written, mpi }),
        Err(error) => Err(not_released(&error, &domain, request)),
    }
}

fn release(host: &dyn Host, domain: &Domain, after: After) -> Result<(), HostError> {
    match after {
        After::Destroy => host.destroy(domain.domid),
        After::Run => host.resume(domain.domid),
        // In this order, as xl does it: it must not run in between.
        After::Pause => host.pause(domain.domid).and_then(|()| host.resume(domain.domid)),
    }
}

fn not_released(error: &HostError, domain: &Domain, request: &SaveRequest) -> Failure {
    let what = format!("{} is saved in {}, but: {error}", domain.name, request.path.display());
    let next = match request.after {
        After::Destroy => format!("`xl destroy {}`", domain.name),
        After::Run | After::Pause => format!("`xl resume {}`", domain.name),
    };
    Failure::new(Exit::MovedWithWarnings, what).next(next)
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
