//! The MPI job of the domain that moves, as the session sees it: held still, or the reason why not.

use std::path::Path;

use crate::error::{Exit, Failure};
use crate::quiesce::cluster::{AgentHost, CLUSTER_FILE, agent_hosts};
use crate::quiesce::coordinator::{Coordinator, Level, NotQuiesced};
use crate::remote::Route;
use crate::report::MpiPart;
use crate::state_dir::{DomainLock, StateDir};

/// See the module.
pub struct Job {
    level: Level,
    coordinator: Option<Coordinator>,
    figures: Option<MpiPart>,
    _lock: Option<DomainLock>,
}

/// The hosts of the cluster, being connected to. None where nothing is to be quiesced.
pub fn reach_agents(level: Level, route: &Route) -> Result<Option<Vec<AgentHost>>, Failure> {
    if level == Level::Off {
        return Ok(None);
    }
    match agent_hosts(Some(route), Path::new(CLUSTER_FILE)) {
        Ok(hosts) => Ok(Some(hosts)),
        // A file that is wrong is the user's to mend, whatever the level.
        Err(failure) if level == Level::Require || failure.exit == Exit::Usage => Err(failure),
        Err(failure) => {
            tracing::warn!("{failure}: the job is not quiesced");
            Ok(None)
        }
    }
}

impl Job {
    /// Finds the domain's job, and locks it. With `require` what stands in the way ends the migration here.
    pub fn find(level: Level, hosts: Option<Vec<AgentHost>>, domid: u32, state: &StateDir) -> Result<Self, Failure> {
        let mut job = Self { level, coordinator: None, figures: None, _lock: None };
        let Some(hosts) = hosts else { return Ok(job) };
        match Coordinator::survey(hosts, domid, level) {
            Ok(Some(coordinator)) => {
                let name: Vec<String> = coordinator.figures().jobs;
                let key: String =
                    name.concat().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                job._lock = Some(state.lock(&format!("job-{key}"), &format!("a domain of job {}", name.join(", ")))?);
                job.coordinator = Some(coordinator);
            }
            Ok(None) => job.figures = Some(MpiPart { problem: None, ..MpiPart::none(level, String::new()) }),
            Err(problem) => job.without(problem)?,
        }
        Ok(job)
    }

    /// Goes on without, or not at all.
    fn without(&mut self, problem: NotQuiesced) -> Result<(), Failure> {
        let mut figures = self.coordinator.take().map(|coordinator| coordinator.figures());
        let figures = figures.get_or_insert_with(|| MpiPart::none(self.level, String::new()));
        figures.problem = Some(problem.0.clone());
        self.figures = Some(figures.clone());
        if self.level == Level::Require {
            let failure = Failure::new(Exit::FailedSourceRuns, format!("the MPI job cannot be quiesced: {problem}"));
            return Err(failure.next("--mpi-quiesce=job moves the domain without, if need be"));
        }
        tracing::warn!("the MPI job is not quiesced: {problem}");
        Ok(())
    }

    /// Whether it stands still.
    pub fn is_frozen(&self) -> bool {
        self.coordinator.as_ref().is_some_and(Coordinator::is_frozen)
    }

    /// Holds the job still, if that has not been done. Tells whether it was done now: then another live pass is worth while.
    pub fn freeze(&mut self) -> Result<bool, Failure> {
        let Some(coordinator) = self.coordinator.as_mut().filter(|coordinator| !coordinator.is_frozen()) else {
            return Ok(false);
        };
        match coordinator.freeze() {
            Ok(()) => Ok(true),
            Err(problem) => self.without(problem).map(|()| false),
        }
    }

    /// Waits until nothing of the job is on the wire.
    pub fn flush(&mut self) -> Result<(), Failure> {
        let flushed = self.coordinator.as_mut().map_or(Ok(()), Coordinator::flush);
        flushed.or_else(|problem| self.without(problem))
    }

    /// The domain that moves stands still, whichever way it came to that.
    pub fn suspended(&mut self) -> Result<(), Failure> {
        let Some(coordinator) = self.coordinator.as_mut() else { return Ok(()) };
        if coordinator.is_frozen() {
            coordinator.suspended();
            return Ok(());
        }
        self.without(NotQuiesced("libxl's stock save helper does not ask before it suspends".into()))
    }

    /// For the target: what the domain's agent is to find when it runs again.
    pub fn hold(&mut self) -> Option<String> {
        self.coordinator.as_mut().map(Coordinator::hold)
    }

    /// The domain runs on the target, under this number: thaws the job.
    pub fn arrived(&mut self, domid: u32) {
        let arrived = self.coordinator.as_mut().map_or(Ok(()), |coordinator| coordinator.arrived(domid));
        self.close(arrived);
    }

    /// The domain runs here, or nobody knows where: the job runs.
    pub fn abort(&mut self) {
        if let Some(coordinator) = self.coordinator.as_mut() {
            coordinator.abort();
        }
        self.close(Ok(()));
    }

    fn close(&mut self, end: Result<(), NotQuiesced>) {
        if let Some(coordinator) = self.coordinator.take() {
            let problem = end.err().map(|problem| problem.0);
            if let Some(problem) = &problem {
                tracing::warn!("{problem}");
            }
            self.figures = Some(MpiPart { problem, ..coordinator.figures() });
        }
    }

    /// For the report.
    pub fn figures(&self) -> Option<MpiPart> {
        self.coordinator.as_ref().map(Coordinator::figures).or_else(|| self.figures.clone())
    }
}
