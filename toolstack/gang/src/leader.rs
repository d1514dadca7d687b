//! The leader's loop: what the members say, and the deadlines, until all have ended.
//!
//! Members are told and heard on the runtime ([`rxl_link::runtime`]): one that is in the middle of
//! libxl's call, and reads nothing, keeps the leader from telling no other.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::barriers::{Gang, GangOutcome, Quiesce};
use rxl_core::deadlines;
use rxl_core::error::Failure;
use rxl_link::descriptor::{Descriptor, LineReader};
use rxl_link::runtime::runtime;
use rxl_session::events::{Event, Events};
use rxl_session::gang_words::{FromMember, LINES, ToMember};

/// How often the loop comes round while nothing happens.
const IDLE: Duration = Duration::from_secs(60);

/// What a member's line yields: its place, and a word or the end.
pub type Heard = (usize, Option<FromMember>);

/// Leads members of these names, on these lines in the same order, until all have ended. A cancel
/// comes as [`Event::Interrupt`].
pub fn lead(
    names: &[String],
    lines: Vec<UnixStream>,
    quiesce: Quiesce,
    events: &Events<Heard>,
) -> Result<GangOutcome, Failure> {
    let lines =
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

/// The leader's ends of all lines. Dropping it sends what is still to be said, and closes them.
struct Lines {
    to: Vec<UnboundedSender<Vec<u8>>>,
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    runtime: Handle,
}

impl Lines {
    fn new(lines: Vec<UnixStream>, events: &Events<Heard>) -> io::Result<Self> {
        let runtime = runtime()?;
        let mut all = Self { to: Vec::new(), writers: Vec::new(), readers: Vec::new(), runtime };
        for (member, line) in lines.into_iter().enumerate() {
            let from = LineReader::new(Descriptor::new(&all.runtime, line.try_clone()?)?);
            let to = Descriptor::new(&all.runtime, line)?;
            let (words, queue) = unbounded_channel();
            all.to.push(words);
            all.writers.push(all.runtime.spawn(tell(member, to, queue)));
            all.readers.push(all.runtime.spawn(listen(member, from, events.sender())));
        }
        Ok(all)
    }

    /// A member that is gone is told of by its line's end.
    fn say(&self, member: usize, word: &ToMember) {
        match (self.to.get(member), LINES.encode(word)) {
            (Some(words), Ok(line)) => drop(words.send(line)),
            (None, _) => {}
            (_, Err(error)) => tracing::error!(member, "{error}"),
        }
    }
}

/// Says what is queued until there is no more to say, or the member does not read it.
async fn tell(member: usize, to: Descriptor, mut queue: UnboundedReceiver<Vec<u8>>) {
    while let Some(line) = queue.recv().await {
        if let Err(error) = to.write_all(&line, deadlines::GANG_MESSAGE).await {
            tracing::debug!(member, "{error}");
            return;
        }
    }
}

async fn listen(member: usize, mut from: LineReader, events: Sender<Event<Heard>>) {
    loop {
        let heard = from.json(LINES).await.unwrap_or_else(|error| {
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
        self.to.clear();
        let (writers, readers) = (&mut self.writers, &mut self.readers);
        self.runtime.block_on(async {
            join_all(writers).await;
            readers.iter().for_each(JoinHandle::abort);
            join_all(readers).await;
        });
    }
}
