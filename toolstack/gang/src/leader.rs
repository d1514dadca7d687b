//! The leader's loop: lines in, words out.

use rxl_core::deadlines;
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::barriers::{Gang, Outcome, Quiesce};
use rxl_core::error::Failure;
use rxl_core::io::{Cancel, Guarded};
use rxl_session::events::{Event, Events};
use rxl_session::gang_words::{FromMember, ToMember, hear, say};

/// How often the loop comes round while nothing happens.
const IDLE: Duration = Duration::from_secs(60);

/// What a member's line yields: its place, and a word or the end.
pub type Heard = (usize, Option<FromMember>);

/// The leader's ends of all lines. Dropping it closes them.
struct Lines {
    to: Vec<Guarded>,
    cancel: Cancel,
    threads: Vec<JoinHandle<()>>,
}

/// Leads members of these names, on these lines in the same order, until all have ended. A cancel
/// comes as [`Event::Interrupt`].
pub fn lead(
    names: &[String],
    lines: Vec<UnixStream>,
    quiesce: Quiesce,
    events: &Events<Heard>,
) -> Result<Outcome, Failure> {
    let mut lines =
        Lines::new(lines, events).map_err(|e| Failure::internal("lines to the members", &e))?;
    let mut gang = Gang::new(names, quiesce, |member, word: &ToMember| lines.say(member, word));
    while !gang.is_over() {
        match events.next(gang.deadline().unwrap_or_else(|| Instant::now() + IDLE)) {
            Some(Event::Data(Ok((member, Some(word))))) => gang.heard(member, word),
            Some(Event::Data(Ok((member, None)))) => gang.lost(member),
            Some(Event::Interrupt) => gang.interrupted(),
            Some(_) => {}
            None if gang.deadline().is_some_and(|at| Instant::now() >= at) && !gang.expired() => {
                break;
            }
            None => {}
        }
    }
    Ok(gang.outcome())
}

impl Lines {
    fn new(lines: Vec<UnixStream>, events: &Events<Heard>) -> std::io::Result<Self> {
        let mut all = Self { to: Vec::new(), cancel: Cancel::new()?, threads: Vec::new() };
        for (member, line) in lines.into_iter().enumerate() {
            let from = Guarded::new(OwnedFd::from(line.try_clone()?), all.cancel.clone(), None)?;
            all.to.push(Guarded::new(
                OwnedFd::from(line),
                all.cancel.clone(),
                Some(deadlines::GANG_MESSAGE),
            )?);
            let events = events.sender();
            let listen = move || listen(member, BufReader::new(from), &events);
            all.threads.push(std::thread::Builder::new().name("member".into()).spawn(listen)?);
        }
        Ok(all)
    }

    /// A member that is gone is told of by its line's end.
    fn say(&mut self, member: usize, word: &ToMember) {
        if let Err(error) = say(&mut self.to[member], word) {
            tracing::debug!(member, "{error}");
        }
    }
}

fn listen(member: usize, mut from: BufReader<Guarded>, events: &Sender<Event<Heard>>) {
    loop {
        let heard = hear(&mut from).unwrap_or_else(|error| {
            tracing::debug!(member, "{error}");
            None
        });
        let is_end = heard.is_none();
        if events.send(Event::Data(Ok((member, heard)))).is_err() || is_end {
            return;
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.cancel.pull();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
