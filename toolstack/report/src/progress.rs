//! What a running migration tells about its progress. How that is shown is the caller's choice.

use std::time::Duration;

use rxl_datapath::iterations::Round;

/// The phase of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connections and checks.
    Setup,
    /// Passes over memory, the guest runs.
    Precopy,
    /// The guest stands still.
    LastPages,
    /// Everything is sent; the target restores.
    Ready,
    /// Committed; the target lets it run.
    Resume,
}

impl Phase {
    /// The phase's name in `rxl status --json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Precopy => "precopy",
            Self::LastPages => "last-pages",
            Self::Ready => "ready",
            Self::Resume => "resume",
        }
    }
}

/// A moment of a migration.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The domain's name.
    pub domain: String,
    /// Where it is.
    pub phase: Phase,
    /// The pass under way, and libxl's count for it.
    pub current: Option<(Round, Option<u64>)>,
    /// Bytes on the wire so far.
    pub wire_bytes: u64,
    /// Since the command began.
    pub elapsed: Duration,
}

impl Snapshot {
    /// Time left in the pass under way.
    pub fn eta(&self) -> Option<Duration> {
        let (round, total) = self.current.as_ref()?;
        eta(round, *total)
    }
}

/// Time left in a pass at its own rate so far, once a tenth of it is done.
fn eta(round: &Round, total: Option<u64>) -> Option<Duration> {
    let total = total.filter(|total| round.pfns >= total / 10 && round.pfns > 0)?;
    let left = total.saturating_sub(round.pfns) as f64 / round.pfns as f64;
    Duration::try_from_secs_f64(round.ended.duration_since(round.began).as_secs_f64() * left).ok()
}

/// Receives a migration's progress, on the thread of the session.
pub trait Progress {
    /// Takes the present state; called a few times a second.
    fn show(&mut self, snapshot: &Snapshot);
    /// Takes a message for the user, one line, that is to stay visible.
    fn say(&mut self, text: &str);
    /// Called once when the migration has ended: nothing more will come.
    fn end(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_passs_rest_is_guessed_from_its_rate() {
        let began = Instant::now();
        let ended = began + Duration::from_secs(10);
        let round = Round {
            iteration: 1,
            dirty: None,
            suspended: false,
            pfns: 500,
            pages: 500,
            zero_pages: 0,
            raw_bytes: 0,
            wire_bytes: 0,
            began,
            ended,
        };
        assert_eq!(eta(&round, Some(1000)), Some(Duration::from_secs(10)));
        assert_eq!(eta(&round, Some(100_000)), None);
        assert_eq!(eta(&round, None), None);
    }
}
