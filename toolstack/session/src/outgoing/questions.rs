//! What a save asks on its way: whether pre-copy goes on, and whether the guest may be suspended.
//! The answers are the policy's, and those of the MPI job, which has to stand still first.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use crate::events::Question;
use crate::gang_words::ToMember;
use crate::job::Stop;
use crate::outgoing::measurements::Measurements;
use crate::outgoing::save::{DomainSave, Waiting};
use crate::steering::pages_per_second;
use rxl_core::error::{Exit, Failure};
use rxl_core::steering::{Decision, PrecopyStats, SuspendRefused};
use rxl_precopy::policy::{Measured, Verdict};

/// How long a save rests between two live iterations while other domains have not come so far.
/// Without a rest a guest that writes little would make thousands of them.
const REST: Duration = Duration::from_secs(3);

impl DomainSave<'_> {
    /// Answers a question, at once or when others have come so far. The save waits for it.
    pub fn answer(
        &mut self,
        question: Question,
        measured: &mut Measurements,
    ) -> Result<(), Failure> {
        match question {
            Question::Precopy(stats, reply) => {
                let decided = self.decide(&stats, measured);
                self.reply(reply, decided)
            }
            Question::Suspend(reply) => self.suspend(reply, measured),
        }
    }

    /// The gang's leader has said something, which may be what a question waits for.
    pub fn heard(&mut self, word: ToMember, measured: &mut Measurements) -> Result<(), Failure> {
        self.job.heard(word)?;
        match self.waiting.take() {
            None => Ok(()),
            Some(Waiting::Suspend(reply)) => self.suspend(reply, measured),
            Some(Waiting::Iteration(reply, since)) => match self.stop()? {
                None => {
                    self.waiting = Some(Waiting::Iteration(reply, since));
                    Ok(())
                }
                decided => self.reply(reply, Ok(decided)),
            },
        }
    }

    /// While others have not come so far, a live iteration now and then keeps the rest small.
    pub fn rest(&mut self) {
        let is_over = |waiting: &mut Waiting| match waiting {
            Waiting::Iteration(_, since) => since.elapsed() >= REST,
            Waiting::Suspend(_) => false,
        };
        if let Some(Waiting::Iteration(reply, _)) = self.waiting.take_if(is_over) {
            let _ = reply.send(Decision::Continue);
        }
    }

    fn decide(
        &mut self,
        stats: &PrecopyStats,
        measurements: &mut Measurements,
    ) -> Result<Option<Decision>, Failure> {
        let measured = Measured {
            iterations: stats.iteration,
            dirty: stats.dirty,
            pages_per_second: pages_per_second(&measurements.meter.iterations().list()),
            elapsed: measurements.timeline.began.elapsed(),
        };
        // A job that stands still is not kept waiting for anything better, and its last live
        // iteration is not judged again.
        if self.job.is_stopping() {
            return self.stop();
        }
        let Some(policy) = &mut self.policy else { return self.stop() };
        let verdict = policy.decide(&measured);
        tracing::debug!(?measured, ?verdict, "pre-copy");
        measurements.judged(&measured, verdict);
        match verdict {
            Verdict::Continue => Ok(Some(Decision::Continue)),
            Verdict::Stop(_) => self.stop(),
            Verdict::Cancel(why) => {
                Err(Failure::new(Exit::Cancelled, format!("cancelled: {}", why.describe())).next(
                    "a longer --downtime-limit, or --on-timeout force, moves it all the same",
                ))
            }
        }
    }

    /// With the job frozen, one more live iteration fetches what it has dirtied until now; what is
    /// left then is small. None while that cannot be said.
    fn stop(&mut self) -> Result<Option<Decision>, Failure> {
        Ok(match self.job.stop()? {
            Stop::OneIteration => Some(Decision::Continue),
            Stop::Now => Some(Decision::StopAndCopy),
            Stop::NotYet => None,
        })
    }

    /// A save that has stopped waiting fails by itself.
    fn reply(
        &mut self,
        reply: SyncSender<Decision>,
        decided: Result<Option<Decision>, Failure>,
    ) -> Result<(), Failure> {
        match decided {
            Ok(Some(decision)) => drop(reply.send(decision)),
            Ok(None) => self.waiting = Some(Waiting::Iteration(reply, Instant::now())),
            Err(failure) => {
                let _ = reply.send(Decision::Abort);
                return Err(failure);
            }
        }
        Ok(())
    }

    fn suspend(
        &mut self,
        reply: SyncSender<Result<(), SuspendRefused>>,
        measured: &mut Measurements,
    ) -> Result<(), Failure> {
        let ready = self.job.may_suspend();
        measured.mpi = self.job.figures();
        match &ready {
            Ok(true) => {
                self.may_be_asked();
                drop(reply.send(Ok(())));
            }
            Ok(false) => self.waiting = Some(Waiting::Suspend(reply)),
            Err(failure) => drop(reply.send(Err(SuspendRefused::Session(failure.clone())))),
        }
        ready.map(drop)
    }
}
