//! The target's session, with a wire in memory.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rxl_core::domain::RestoreAs;
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, Guarded};
use rxl_core::names::{INCOMING, lock_key};
use rxl_core::steering::Restorer;
use rxl_core::target_spans::TargetSpans;
use rxl_datapath::broken::{At, Broken, Cause};
use rxl_handover::Other;
use rxl_handover::target::TargetState;
use rxl_host::host::Host;
use rxl_link::control::{Incoming, Message};
use rxl_session::check::{Arrival, at_target};
use rxl_session::events::{Event, Events};
use rxl_session::incoming::{
    Arriving, Built, Decision, Feeder, Holding, NotRun, Origin, Receiving, TargetLedger, Wire,
    restore_from,
};

use crate::guard;
use crate::host::ProcHost;
use crate::places::{Role, Side, When};
use crate::proc::Proc;
use crate::recovery::asking;
use crate::truth::{Copied, NAME};
use crate::world::{Flaw, World};

/// Starts the target's session, for a domain of this configuration.
pub fn spawn(world: &Arc<World>, config_json: String) {
    world.spawn(Side::Target, Role::Session, move |proc| {
        let host = ProcHost::new(&proc);
        let word = host.word.clone();
        let key = format!("incoming-{}", lock_key(NAME));
        let world = proc.world.clone();
        let lock = world.nodes[Side::Target as usize].state.lock(&key, NAME);
        let ended = proc.run(|proc| session(proc, &host, &config_json, lock));
        world.link.close(Side::Target);
        if ended.is_none() {
            leave_half_built(&proc, &config_json);
            guard::after(&proc, &word);
        }
    });
}

/// What libxl was building when it was killed is left, as often as not.
fn leave_half_built(proc: &Proc, config_json: &str) {
    let world = &proc.world;
    let node = &world.nodes[Side::Target as usize];
    let mut truth = world.truth.lock().unwrap();
    let is_receiving = matches!(node.target_state(&world.id), Ok(Some(TargetState::Receiving)));
    let Some(boot) = node.power().filter(|_| is_receiving && proc.has_power()) else { return };
    let mut config = DomainConfig::parse(config_json).unwrap();
    let name = format!("{NAME}{INCOMING}");
    config.restore_as(&RestoreAs { name: name.clone(), domid: None }).unwrap();
    if node.memory().find(&name).is_err()
        && world.roll(|dice| dice.percent(50))
        && let Ok(domid) = node.memory().boot(&config)
    {
        truth.half_built.push(Copied { side: Side::Target, boot, domid });
    }
}

fn session(
    proc: &Arc<Proc>,
    host: &ProcHost,
    config_json: &str,
    lock: Result<rxl_core::state_dir::DomainLock, Failure>,
) -> Result<(), Failure> {
    let (world, lock) = (&proc.world, lock?);
    let events = Events::default();
    let queue = events.sender();
    world.link.connect(Side::Target, move |incoming| {
        let _ = queue.send(incoming.map_or(Event::Interrupt, Event::Control));
    });
    let arrival = Arrival { name: NAME, config_json, xen_version: None };
    let refused = |refusal: rxl_link::control::Refusal| Failure::new(Exit::Refused, refusal.what);
    let accept = at_target(host, &arrival).map_err(refused)?;
    proc.call("accept", || world.link.send(Side::Target, Message::Accept(accept)));
    let node = &world.nodes[Side::Target as usize];
    let ledger = TargetLedger::begin(&node.state, arriving(proc, config_json))?;
    let name = format!("{NAME}{INCOMING}");
    let inward = Inward { proc: proc.clone(), feeder: None, received: false, ended: false };
    let restore_as = RestoreAs { name: name.clone(), domid: None };
    let begin = |inward: &mut Inward| {
        let (world, cancel) = (world.clone(), Cancel::new().unwrap());
        let stop = cancel.clone();
        let give = move |to| give(&world, to, &stop);
        let (operation, feeder) =
            restore_from(host, config_json, &restore_as, &events, cancel, give)?;
        inward.feeder = Some(feeder);
        Ok(operation)
    };
    let receiving = Receiving::begin(host, &name, (&lock, ledger), inward, &events, begin)?;
    let (built, wire) = receiving.run(&events)?;
    let leave_paused = world.plan.leave_paused;
    let name = NAME.into();
    Holding { built, wire, name, leave_paused, no_monitor: false, events: &events }.run()
}

fn arriving(proc: &Arc<Proc>, config_json: &str) -> Arriving {
    Arriving {
        id: proc.world.id.clone(),
        name: NAME.into(),
        config_json: config_json.into(),
        other: Other::Rxl { hosts: vec!["source".into()], ssh_command: None },
        leave_paused: proc.world.plan.leave_paused,
        no_monitor: false,
        asking: asking(proc),
    }
}

/// Gives libxl what comes over the link.
fn give(world: &World, mut to: Guarded, cancel: &Cancel) -> Result<u64, Broken> {
    let mut bytes = 0;
    while let Some(chunk) = world.link.data.read(cancel).map_err(Broken::peer)? {
        to.write_all(&chunk).map_err(|error| Broken::LibxlWrite(Arc::new(error)))?;
        bytes += chunk.len() as u64;
    }
    Ok(bytes)
}

struct Inward {
    proc: Arc<Proc>,
    feeder: Option<Feeder>,
    received: bool,
    ended: bool,
}

fn spans(built: Option<&Built<'_>>) -> TargetSpans {
    TargetSpans {
        domid: built.map_or(0, |built| built.domid.0),
        restorer: Restorer::Libxc,
        restore_total: 0.0,
        restore_after_stream: 0.0,
        resume: 0.0,
        frames_verified: 0,
    }
}

impl Inward {
    fn send(&self, message: Message) {
        self.proc.world.link.send(Side::Target, message);
    }

    fn decision(&self, events: &Events<u64>) -> Decision {
        let deadline = Instant::now() + self.proc.world.plan.patience[Side::Target as usize];
        loop {
            let message = match events.next(deadline) {
                Some(Event::Control(Incoming::Message(message))) => message,
                Some(Event::Control(Incoming::Lost(reason))) => return Decision::Unknown(reason),
                Some(_) => continue,
                None => return Decision::Unknown("no word".into()),
            };
            return match message {
                Message::Go { agent_command } => Decision::Run { agent_command },
                Message::Abort { .. } => Decision::GivenUp,
                other => Decision::Unknown(other.name().into()),
            };
        }
    }
}

/// True where the source says that its copy is destroyed.
fn parted(events: &Events<u64>) -> bool {
    let deadline = Instant::now() + Duration::from_millis(50);
    while let Some(event) = events.next(deadline) {
        match event {
            Event::Control(Incoming::Message(Message::Released)) => return true,
            Event::Control(Incoming::Lost(_) | Incoming::Message(Message::Abort { .. })) => {
                return false;
            }
            _ => {}
        }
    }
    false
}

impl Origin for Inward {
    type Data = u64;

    fn take_data(&mut self, _: u64) -> Result<(), Failure> {
        self.proc.call("take-data", || self.received = true);
        Ok(())
    }

    fn take_control(&mut self, incoming: Incoming) -> Result<(), Failure> {
        self.proc.call("take-control", || match incoming {
            Incoming::Message(Message::StreamEnd(_)) => {
                self.ended = true;
                Ok(())
            }
            other => Err(Failure::new(Exit::Cancelled, format!("{other:?}"))),
        })
    }

    fn is_complete(&self) -> bool {
        self.received && self.ended
    }

    fn exit(&self, _at: At) -> Exit {
        Exit::FailedSourceRuns
    }

    fn end_data(&mut self) {
        self.feeder = None;
    }

    fn tell_failure(&mut self, failure: &Failure, events: &Events<u64>) {
        self.proc.gate("tell-failure", When::Before);
        self.send(Message::Failed { reason: failure.to_string() });
        parted(events);
        self.proc.gate("tell-failure", When::After);
    }
}

impl Wire for Inward {
    const KEEPS_UNDECIDED: bool = true;

    fn say_ready(&mut self, built: &Built<'_>) -> Result<(), Cause> {
        self.proc.world.is_ready();
        self.proc.call("say-ready", || self.send(Message::Ready(spans(Some(built)))));
        Ok(())
    }

    fn await_decision(&mut self, events: &Events<u64>) -> Decision {
        let decision = self.proc.call("await-decision", || self.decision(events));
        match (decision, self.proc.world.flaw) {
            (Decision::Unknown(_), Some(Flaw::SilenceIsGo)) => {
                Decision::Run { agent_command: None }
            }
            (decision, _) => decision,
        }
    }

    fn say_runs(&mut self, _took: Duration) -> Result<(), Cause> {
        self.proc.call("say-runs", || self.send(Message::Done(spans(None))));
        Ok(())
    }

    fn say_not_run(&mut self, end: NotRun, reason: &str, destroyed: bool) {
        let reason = reason.to_owned();
        self.proc.call("say-not-run", || match (end, destroyed) {
            (NotRun::NotTold, _) => self.send(Message::Failed { reason }),
            (NotRun::NotStarted, true) => self.send(Message::GivenBack { reason }),
            (NotRun::NotStarted, false) => {}
        });
    }

    fn await_end(&mut self, events: &Events<u64>) -> bool {
        self.proc.call("await-end", || parted(events))
    }
}
