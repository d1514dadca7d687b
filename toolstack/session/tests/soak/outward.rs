//! The source's session, with a wire in memory.

use std::io::Read;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rxl_core::error::{Exit, Failure};
use rxl_core::io::Guarded;
use rxl_core::steering::{SaveFlags, Walker};
use rxl_core::worker::Worker;
use rxl_datapath::broken::{Broken, Cause};
use rxl_datapath::feed::feed;
use rxl_handover::Other;
use rxl_link::control::{Incoming, Message, StreamEnd};
use rxl_precopy::policy::{DEFAULT_DOWNTIME, Limits, Otherwise};
use rxl_report::timeline::Timeline;
use rxl_session::events::{Event, Events};
use rxl_session::job::HeldJob;
use rxl_session::outgoing::{
    Answer, Described, Destination, DomainSave, Leaving, Measurements, SavePlan, Timeout,
    Uncommitted, Wire, save_pipe,
};

use crate::host::ProcHost;
use crate::link::Gone;
use crate::places::{Role, Side, When};
use crate::proc::{Proc, set_drain};
use crate::recovery::asking;
use crate::truth::NAME;
use crate::world::{Flaw, World};
use crate::{guard, inward};

/// Starts the source's session. It starts the target's.
pub fn spawn(world: &Arc<World>) {
    world.spawn(Side::Source, Role::Session, |proc| {
        let host = ProcHost::new(&proc);
        let word = host.word.clone();
        let ended = proc.run(|proc| session(proc, &host));
        proc.world.link.close(Side::Source);
        if ended.is_none() {
            guard::after(&proc, &word);
        }
    });
}

fn session(proc: &Arc<Proc>, host: &ProcHost) -> Result<(), Failure> {
    let world = &proc.world;
    let node = &world.nodes[Side::Source as usize];
    let mut leaving = Leaving::to_host(host, &node.state, NAME, world.plan.live)?;
    leaving.journal = node.journal();
    let events = Rc::new(Events::default());
    let queue = events.sender();
    world.link.connect(Side::Source, move |incoming| {
        let _ = queue.send(incoming.map_or(Event::Interrupt, Event::Control));
    });
    let drained = events.clone();
    set_drain(Some(Rc::new(move || while drained.next(Instant::now()).is_some() {})));
    proc.gate("offer", When::Before);
    inward::spawn(world, leaving.config_json.clone());
    proc.gate("offer", When::After);
    accepted(&events)?;
    let mut measured = Measurements::new(Timeline::start(), DEFAULT_DOWNTIME);
    let uncommitted = begin(proc, leaving, &events, &mut measured)?;
    uncommitted.hand_over(world.plan.leave_paused, &mut measured)
}

fn accepted(events: &Events<u64>) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_millis(400);
    match events.next(deadline) {
        Some(Event::Control(Incoming::Message(Message::Accept(_)))) => Ok(()),
        _ => Err(Failure::new(Exit::NoPeer, "it does not take it")),
    }
}

fn begin<'a>(
    proc: &Arc<Proc>,
    leaving: Leaving<'a>,
    events: &'a Events<u64>,
    measured: &mut Measurements,
) -> Result<Uncommitted<'a, Outward>, Failure> {
    let world = &proc.world;
    let (from_libxl, writing) = save_pipe().unwrap();
    let (feed, _) = feed(measured.meter.clone());
    let mover = Mover::start(world, from_libxl, events);
    // Dropped before the mover, which ends when it is closed.
    let writing = writing;
    let ledger = leaving.record(Described {
        id: world.id.clone(),
        other: Other::Rxl { hosts: vec!["target".into()], ssh_command: None },
        leave_paused: world.plan.leave_paused,
        no_monitor: false,
        asking: asking(proc),
    })?;
    let limits = Limits {
        downtime: DEFAULT_DOWNTIME,
        max_iterations: 3,
        timeout: None,
        on_timeout: Otherwise::Cancel,
        when_busy: Otherwise::Force,
    };
    let flags = SaveFlags { live: world.plan.live, debug: false };
    let plan = SavePlan { flags, walker: Walker::Libxc, limits: Some(limits) };
    let job = HeldJob::none();
    let save = DomainSave::start(leaving, job, plan, ledger, (writing, feed), events, measured)?;
    let outward = Outward { proc: proc.clone(), mover: Some(mover), progress: Progress::Sending };
    Ok(Uncommitted::new(save, outward, events, Timeout::default()))
}

/// Moves libxl's stream onto the link, and reads it to its end whatever happens.
struct Mover {
    worker: Worker,
    abandoned: Arc<AtomicBool>,
}

impl Mover {
    fn start(world: &Arc<World>, mut from: Guarded, events: &Events<u64>) -> Self {
        let abandoned = Arc::new(AtomicBool::new(false));
        let (world, queue, stop) = (world.clone(), events.sender(), abandoned.clone());
        let run = move || {
            let mut moved = Ok(0);
            let mut buffer = vec![0; 1 << 16];
            while let Ok(got @ 1..) = from.read(&mut buffer) {
                moved = moved.and_then(|sum: u64| {
                    if stop.load(Ordering::SeqCst) {
                        return Err(Gone);
                    }
                    world.link.data.write(&buffer[..got]).map(|()| sum + got as u64)
                });
            }
            if moved.is_ok() {
                world.link.data.end();
            }
            let _ = queue.send(Event::Data(moved.map_err(Broken::peer)));
        };
        let stop = abandoned.clone();
        let stop = move || stop.store(true, Ordering::SeqCst);
        Self { worker: Worker::start("mover", stop, run).unwrap(), abandoned }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Sending,
    Sent,
    Ended,
    Ready,
}

struct Outward {
    proc: Arc<Proc>,
    mover: Option<Mover>,
    progress: Progress,
}

impl Outward {
    fn send(&self, message: Message) {
        self.proc.world.link.send(Side::Source, message);
    }

    fn answer(&self, events: &Events<u64>) -> Answer {
        let deadline = Instant::now() + self.proc.world.plan.patience[Side::Source as usize];
        loop {
            let message = match events.next(deadline) {
                Some(Event::Control(Incoming::Message(message))) => message,
                Some(Event::Control(Incoming::Lost(reason))) => return Answer::Unknown(reason),
                Some(_) => continue,
                None => return Answer::Unknown("no answer".into()),
            };
            match message {
                Message::Done(spans) => return Answer::Runs(Some(spans)),
                Message::GivenBack { reason } => return Answer::GivenBack(reason),
                other => return Answer::Unknown(other.name().into()),
            }
        }
    }
}

impl Destination for Outward {
    type Data = u64;

    fn name(&self) -> &str {
        "target"
    }

    fn take_data(&mut self, _: u64, _: &mut Measurements) -> Result<(), Failure> {
        self.proc.call("take-data", || self.progress = Progress::Sent);
        Ok(())
    }

    fn take_control(&mut self, incoming: Incoming, _: &mut Measurements) -> Result<(), Failure> {
        self.proc.call("take-control", || match incoming {
            Incoming::Message(Message::Ready(_)) if self.progress == Progress::Ended => {
                self.progress = Progress::Ready;
                Ok(())
            }
            other => Err(Failure::new(Exit::FailedSourceRuns, format!("{other:?}"))),
        })
    }

    fn is_sent(&self) -> bool {
        self.progress >= Progress::Sent
    }

    fn end_stream(&mut self, _: &Measurements) -> Result<(), Failure> {
        let end = StreamEnd { frames: 0, bytes: 0, digest: String::new() };
        self.proc.call("end-stream", || self.send(Message::StreamEnd(end)));
        self.progress = Progress::Ended;
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.progress == Progress::Ready
    }

    fn reason_deadline(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn path_failure(&self, broken: &Broken) -> Failure {
        Failure::new(Exit::FailedSourceRuns, broken.to_string())
    }

    fn abort(&mut self, failure: &Failure) {
        self.proc.call("abort", || self.send(Message::Abort { reason: failure.to_string() }));
    }

    fn abandon(&self) {
        let mover = self.mover.as_ref();
        self.proc
            .call("abandon", || mover.map(|mover| mover.abandoned.store(true, Ordering::SeqCst)));
    }

    fn end_data(&mut self) {
        let proc = self.proc.clone();
        proc.call("end-data", || self.mover = None);
    }

    fn wind_up(self, failure: &Failure, events: &Events<u64>) {
        self.proc.gate("wind-up", When::Before);
        self.send(Message::Abort { reason: failure.to_string() });
        let lost = self.proc.world.link.is_known_lost(Side::Source);
        let patience = if lost { Duration::ZERO } else { Duration::from_millis(20) };
        let deadline = Instant::now() + patience;
        while let Some(event) = events.next(deadline) {
            if matches!(
                event,
                Event::Control(Incoming::Lost(_) | Incoming::Message(Message::Failed { .. }))
            ) {
                break;
            }
        }
        self.proc.gate("wind-up", When::After);
    }
}

impl Wire for Outward {
    fn say_go(&mut self, agent_command: Option<String>) -> Result<(), Cause> {
        self.proc.gate("say-go", When::Before);
        if self.proc.world.link.is_known_lost(Side::Source) {
            return Err(Arc::new(Gone));
        }
        self.send(Message::Go { agent_command });
        self.proc.gate("say-go", When::After);
        Ok(())
    }

    fn await_answer(&mut self, events: &Events<u64>) -> Answer {
        let answer = self.proc.call("await-answer", || self.answer(events));
        match (answer, self.proc.world.flaw) {
            (Answer::Unknown(reason), Some(Flaw::SilenceIsNo)) => Answer::GivenBack(reason),
            (answer, _) => answer,
        }
    }

    fn say_released(&mut self) {
        self.proc.call("say-released", || self.send(Message::Released));
    }

    fn close(self, _: &Events<u64>) {
        self.proc.call("close", || ());
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.worker.stop();
    }
}
