//! What each command does, and in which states.

use std::time::Duration;

use rxl_agent_protocol::{
    Connection, Flushed, Frozen, JobRow, Prepare, Ready, Reason, Status, Thawed, Verb, pack,
    pack_explanation,
};

use super::Engine;
use super::record::Phase;
use crate::guest::{Guest, Refusal, Since, Survey};
use crate::store::Store;

impl<S: Store, G: Guest> Engine<S, G> {
    pub(super) fn perform(&mut self, verb: &Verb) -> Result<Status, Refusal> {
        match (verb, self.record.phase) {
            (Verb::Survey, Phase::Idle) => self.survey(),
            (Verb::Prepare(how), Phase::Idle) => Ok(self.prepare(how)),
            (Verb::Freeze { deadline, .. }, Phase::Prepared) => self.freeze(*deadline),
            (Verb::Flush { deadline, room, .. }, Phase::Frozen) => self.flush(*deadline, *room),
            (Verb::Hold { .. }, phase) => Ok(Status::Resumed { frozen: phase == Phase::Frozen }),
            (Verb::Thaw { .. }, Phase::Frozen) => self.thaw().map(Status::Thawed),
            (Verb::Thaw { .. }, _) => Ok(Status::Thawed(Thawed::default())),
            (Verb::Finish, Phase::Idle | Phase::Prepared | Phase::Thawed) | (Verb::Abort, _) => {
                Ok(self.finish())
            }
            (verb, phase) => {
                Err(Refusal::new(Reason::WrongState, format!("{verb} in state {phase}")))
            }
        }
    }

    fn survey(&mut self) -> Result<Status, Refusal> {
        let Survey { rows, unclaimed, explanation } = self.guest.survey()?;
        self.record.set_rows(&rows);
        self.record.unclaimed = unclaimed.map(|unclaimed| unclaimed.to_string());
        self.record.explanation = pack_explanation(&explanation);
        Ok(Status::Surveyed { ranks: count_ranks(&rows) })
    }

    /// Writes the record before anything is frozen: an agent that starts after this one's death
    /// must know what to thaw.
    fn prepare(&mut self, how: &Prepare) -> Status {
        let start = self.guest.now();
        self.record.phase = Phase::Prepared;
        let prepared = self.guest.prepare(how).and_then(|prepared| {
            self.record.lease_end = self.guest.now() + how.lease;
            self.write_held()?;
            Ok(prepared)
        });
        match prepared {
            Ok(prepared) => {
                self.record.set_rows(&prepared.rows);
                self.record.cut_chunks.clear();
                // A domain that has moved writes all its nodes anew while the job waits.
                self.record.explanation.clear();
                Status::Ready(Ready {
                    ranks: count_ranks(&prepared.rows),
                    processes: prepared.processes,
                    connections: prepared.connections,
                    how: self.guest.freezer(),
                    patience: prepared.patience,
                    took: self.guest.now() - start,
                })
            }
            Err(Refusal { reason, detail }) => {
                self.release();
                Status::Nack { reason, detail }
            }
        }
    }

    fn freeze(&mut self, deadline: Duration) -> Result<Status, Refusal> {
        self.record.frozen_at = self.guest.now();
        self.record.phase = Phase::Frozen;
        let stopped = self.guest.freeze(deadline)?;
        Ok(Status::Frozen(Frozen {
            how: self.guest.freezer(),
            processes: stopped.processes,
            took: stopped.took,
        }))
    }

    fn flush(&mut self, deadline: Duration, room: bool) -> Result<Status, Refusal> {
        let start = self.guest.now();
        if room {
            self.note_buffers()?;
        }
        let cut = self.guest.flush(deadline)?;
        let took = self.guest.now() - start;
        let (chunks, left_out) = pack(&cut.connections);
        let sum =
            |bytes: fn(&Connection) -> u32| cut.connections.iter().map(bytes).map(u64::from).sum();
        let flushed = Flushed {
            clean: cut.clean,
            connections: cut.connections.len() as u32,
            chunks: chunks.len() as u32,
            left_out: left_out as u32,
            unacked: sum(|end| end.unacked),
            notsent: sum(|end| end.notsent),
            unread: sum(|end| end.unread),
            resend: cut.resend,
            took,
        };
        self.record.cut_chunks = chunks;
        Ok(Status::Flushed(flushed))
    }

    /// Writes the record before a buffer is raised, for the same reason as [`Self::prepare`].
    fn note_buffers(&mut self) -> Result<(), Refusal> {
        self.guest.note_buffers()?;
        if self.guest.held() == self.record.held {
            return Ok(());
        }
        self.write_held()
    }

    fn write_held(&mut self) -> Result<(), Refusal> {
        self.record.held = self.guest.held();
        self.record.save(&self.record_file).map_err(Refusal::system("write the agent's record"))
    }

    fn thaw(&mut self) -> Result<Thawed, Refusal> {
        let start = self.guest.now();
        let Since { lost, retransmits, .. } = self.guest.thaw()?;
        let now = self.guest.now();
        self.record.phase = Phase::Thawed;
        Ok(Thawed {
            took: now - start,
            paused: now.saturating_sub(self.record.frozen_at),
            lost,
            retransmits,
        })
    }

    fn finish(&mut self) -> Status {
        Status::Finished(self.release().unwrap_or_default())
    }
}

fn count_ranks(rows: &[JobRow]) -> u32 {
    rows.iter().map(|row| row.ranks.len() as u32).sum()
}
