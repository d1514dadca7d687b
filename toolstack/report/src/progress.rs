//! What the user sees while it runs: a line that is redrawn on a terminal, plain lines elsewhere.
//! Always on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use rxl_core::units::bytes;
use rxl_datapath::iterations::Round;

/// How often a plain line is written while nothing changes but the numbers.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where a migration is.
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
    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Precopy => "precopy",
            Self::LastPages => "last-pages",
            Self::Ready => "ready",
            Self::Resume => "resume",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Setup => "connecting",
            Self::Precopy => "copying",
            Self::LastPages => "suspended, last pages",
            Self::Ready => "restoring at the target",
            Self::Resume => "resuming at the target",
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
    fn text(&self) -> String {
        let mut text = format!("{}: {}", self.domain, self.phase.words());
        if let Some((round, total)) = &self.current {
            text += &format!(", round {}: {} pages", round.iteration, round.pfns);
            if let Some(total) = total {
                text += &format!(" of {total}");
            }
            if let Some(eta) = self.eta() {
                text += &format!(", {} s to go in it", eta.as_secs());
            }
        }
        let rate = self.wire_bytes as f64 / self.elapsed.as_secs_f64().max(0.001);
        text + &format!(", {} sent, {}/s", bytes(self.wire_bytes), bytes(rate as u64))
    }
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

/// Shows a migration's progress.
pub trait Progress {
    /// Shows a moment; called a few times a second.
    fn show(&mut self, snapshot: &Snapshot);
    /// Says something that stays.
    fn say(&mut self, text: &str);
    /// Nothing more will come.
    fn end(&mut self);
}

/// The way of showing that suits the mode and where standard error leads.
pub fn new(mode: ProgressMode) -> Box<dyn Progress> {
    match mode {
        ProgressMode::None => Box::new(Silent),
        ProgressMode::Auto if std::io::stderr().is_terminal() => Box::new(Bar(None)),
        ProgressMode::Auto | ProgressMode::Plain => Box::new(Lines(None)),
    }
}

/// Says only what stays.
pub struct Silent;

impl Progress for Silent {
    fn show(&mut self, _snapshot: &Snapshot) {}

    fn say(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn end(&mut self) {}
}

/// A line whenever the phase or the pass changes, and every few seconds.
struct Lines(Option<(Phase, Option<u32>, Instant)>);

impl Progress for Lines {
    fn show(&mut self, snapshot: &Snapshot) {
        let round = snapshot.current.as_ref().map(|(round, _)| round.iteration);
        let unchanged = |(phase, last, at): (Phase, Option<u32>, Instant)| {
            phase == snapshot.phase && last == round && at.elapsed() < LINE_EVERY
        };
        if self.0.is_some_and(unchanged) {
            return;
        }
        self.0 = Some((snapshot.phase, round, Instant::now()));
        eprintln!("{}", snapshot.text());
    }

    fn say(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn end(&mut self) {}
}

/// One line, redrawn.
struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn show(&mut self, snapshot: &Snapshot) {
        let bar = self.0.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} [{bar:24}] {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        if let Some((round, total)) = &snapshot.current {
            bar.set_length(total.unwrap_or(round.pfns).max(1));
            bar.set_position(round.pfns);
        }
        bar.set_message(snapshot.text());
        bar.tick();
    }

    fn say(&mut self, text: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

/// When to show progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar on a terminal, lines otherwise.
    Auto,
    /// Lines of text, on a terminal too.
    Plain,
    /// No progress at all.
    None,
}
