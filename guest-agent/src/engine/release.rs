//! The ends of an epoch. Each leaves the ranks running.
//!
//! A thaw that fails is tried again until it succeeds, and nothing else happens in the epoch. When
//! the ranks run, the epoch is over, even if not all could be put back: the kernel may refuse that
//! for good. What is left is tried again a few times while no epoch is under way, and at the end of
//! the next, and harms no rank.

use std::io;
use std::time::Duration;

use rxl_agent_protocol::{Finished, Reason, Status};
use tracing::{info, warn};

use super::Engine;
use super::record::Phase;
use crate::deadlines::{REST_TRIES, STOP_DEADLINE, THAW_RETRY};
use crate::guest::{Guest, Held, Refusal};
use crate::store::Store;

impl<S: Store, G: Guest> Engine<S, G> {
    /// Thaws and puts back. None if the ranks could not be thawed: then the epoch goes on.
    pub(super) fn release(&mut self) -> Option<Finished> {
        let thawed = match self.guest.thaw() {
            Ok(thawed) => thawed,
            Err(refusal) => {
                if self.thaw_again.is_none() {
                    warn!("{refusal}; tries again until the ranks run");
                }
                let now = self.guest.now();
                self.record.lease_end = now;
                self.thaw_again = Some(now + THAW_RETRY);
                return None;
            }
        };
        self.thaw_again = None;
        self.rest_tries = 0;
        let counts = self.guest.finish().unwrap_or_else(|refusal| {
            warn!("{refusal}; the ranks run, and the rest is tried again later");
            thawed
        });
        self.record.phase = Phase::Idle;
        self.record.held = self.guest.held();
        Some(Finished { retransmits: counts.retransmits, connections: counts.connections })
    }

    /// Tries again to put back what an epoch that is over has left.
    pub(super) fn put_rest_back(&mut self) {
        if self.record.held == Held::default() || self.rest_tries >= REST_TRIES {
            return;
        }
        if let Err(refusal) = self.guest.finish() {
            self.rest_tries += 1;
            if self.rest_tries == REST_TRIES {
                warn!("{refusal}; leaves it until the next epoch ends");
            }
            return;
        }
        info!("all is as it was before the last epoch");
        self.record.held = self.guest.held();
        self.save_record();
    }

    pub(super) fn fail(&mut self, refusal: Refusal) -> Status {
        warn!("{refusal}");
        self.release();
        Status::Failed { reason: refusal.reason, detail: refusal.detail }
    }

    /// Ends an epoch that dom0 has not ended.
    pub(super) fn expire(&mut self) {
        let paused = match self.record.phase {
            Phase::Frozen => self.guest.now().saturating_sub(self.record.frozen_at),
            _ => Duration::ZERO,
        };
        if self.release().is_some() {
            self.record.status = Status::Expired { paused };
        }
    }

    /// Ends what is under way and takes the agent's nodes away. Goes on trying to thaw for
    /// [`STOP_DEADLINE`], because no successor may come.
    pub fn stop(mut self) -> io::Result<()> {
        if self.record.phase != Phase::Idle {
            let detail = "the agent is being stopped";
            self.record.status = self.fail(Refusal::new(Reason::Stopping, detail));
            let tries = STOP_DEADLINE.as_millis() / THAW_RETRY.as_millis();
            for _ in 0..tries {
                if self.record.phase == Phase::Idle {
                    break;
                }
                std::thread::sleep(THAW_RETRY);
                self.release();
            }
            let published = self.publish();
            self.note_trouble(published);
        }
        self.advertisement.retire(&mut self.store)
    }
}
