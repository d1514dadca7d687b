//! A migration's progress on standard error: one line that is redrawn on a terminal, lines of text
//! elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use rxl_core::units::bytes;
use rxl_report::progress::{Phase, Progress, Snapshot};

/// How often a line of text is written while only the numbers change.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// A bar if standard error is a terminal, otherwise lines of text.
    Auto,
    /// Lines of text, also on a terminal.
    Plain,
    /// No progress, only messages.
    None,
}

/// The display for the mode and for what standard error is.
pub fn display(mode: ProgressMode) -> Box<dyn Progress> {
    match mode {
        ProgressMode::None => Box::new(Messages),
        ProgressMode::Auto if std::io::stderr().is_terminal() => Box::new(Bar(None)),
        ProgressMode::Auto | ProgressMode::Plain => Box::new(Lines(None)),
    }
}

/// Shows messages and no progress.
struct Messages;

impl Progress for Messages {
    fn show(&mut self, _snapshot: &Snapshot) {}

    fn say(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn end(&mut self) {}
}

/// Writes a line when the phase or the iteration changes, and every [`LINE_INTERVAL`]. Holds what
/// the last line was about, and when it was written.
struct Lines(Option<(Phase, Option<u32>, Instant)>);

impl Progress for Lines {
    fn show(&mut self, snapshot: &Snapshot) {
        let iteration = snapshot.current.as_ref().map(|(iteration, _)| iteration.number);
        let unchanged = |(phase, last, at): (Phase, Option<u32>, Instant)| {
            phase == snapshot.phase && last == iteration && at.elapsed() < LINE_INTERVAL
        };
        if self.0.is_some_and(unchanged) {
            return;
        }
        self.0 = Some((snapshot.phase, iteration, Instant::now()));
        eprintln!("{}", text(snapshot));
    }

    fn say(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn end(&mut self) {}
}

/// Redraws one line of the terminal.
struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn show(&mut self, snapshot: &Snapshot) {
        let bar = self.0.get_or_insert_with(new_bar);
        if let Some((iteration, total)) = &snapshot.current {
            bar.set_length(total.unwrap_or(iteration.pfns).max(1));
            bar.set_position(iteration.pfns);
        }
        bar.set_message(text(snapshot));
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

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
    // Only a wrong template fails; the default bar serves as well.
    match ProgressStyle::with_template("{spinner} [{bar:24}] {wide_msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn text(snapshot: &Snapshot) -> String {
    let mut text = format!("{}: {}", snapshot.domain, phase_words(snapshot.phase));
    if let Some((iteration, total)) = &snapshot.current {
        text += &format!(", iteration {}: {} pages", iteration.number, iteration.pfns);
        if let Some(total) = total {
            text += &format!(" of {total}");
        }
        if let Some(left) = snapshot.eta() {
            text += &format!(", {} s left in it", left.as_secs());
        }
    }
    let rate = snapshot.wire_bytes as f64 / snapshot.elapsed.as_secs_f64().max(0.001);
    text + &format!(", {} sent, {}/s", bytes(snapshot.wire_bytes), bytes(rate as u64))
}

fn phase_words(phase: Phase) -> &'static str {
    match phase {
        Phase::Setup => "connecting",
        Phase::Precopy => "copying",
        Phase::LastPages => "suspended, last pages",
        Phase::Ready => "restoring at the target",
        Phase::Resume => "resuming at the target",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_domain_phase_and_rate() {
        let snapshot = Snapshot {
            domain: "dom3".into(),
            phase: Phase::Setup,
            current: None,
            wire_bytes: 4096,
            elapsed: Duration::from_secs(2),
        };
        assert_eq!(text(&snapshot), "dom3: connecting, 4.0 KiB sent, 2.0 KiB/s");
    }
}
