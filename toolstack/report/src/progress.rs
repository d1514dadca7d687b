//! What a running migration tells about its progress. How that is shown is the caller's choice.

use std::time::Duration;

use rxl_datapath::iterations::Iteration;

/// The phase of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connections and checks.
    Setup,
    /// Iterations over memory, the guest runs.
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
    /// The iteration under way, and libxl's count for it.
    pub current: Option<(Iteration, Option<u64>)>,
    /// Bytes on the wire so far.
    pub wire_bytes: u64,
    /// Since the command began.
    pub elapsed: Duration,
}

impl Snapshot {
    /// Time left in the iteration under way.
    pub fn eta(&self) -> Option<Duration> {
        let (iteration, total) = self.current.as_ref()?;
        eta(iteration, *total)
    }
}

/// Time left in an iteration at its own rate so far, once a tenth of it is done.
fn eta(iteration: &Iteration, total: Option<u64>) -> Option<Duration> {
    let total = total.filter(|total| iteration.pfns >= total / 10 && iteration.pfns > 0)?;
    let left = total.saturating_sub(iteration.pfns) as f64 / iteration.pfns as f64;
    Duration::try_from_secs_f64(
        iteration.ended.duration_since(iteration.began).as_secs_f64() * left,
    )
    .ok()
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
    fn an_iterations_rest_is_guessed_from_its_rate() {
        let began = Instant::now();
        let ended = began + Duration::from_secs(10);
        let iteration = Iteration {
            number: 1,
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
        assert_eq!(eta(&iteration, Some(1000)), Some(Duration::from_secs(10)));
        assert_eq!(eta(&iteration, Some(100_000)), None);
        assert_eq!(eta(&iteration, None), None);
    }
}
