//! A coordinator: what rxl in dom0 says to the agents, as far as these tests need it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rxl_agent_protocol::{
    Audit, Command, Connection, Finished, Flushed, Frozen, Lease, Prepare, Ready, Stamp, State,
    Status, Thawed, Verb, audit, path, unpack,
};
use rxl_guest_agent::store::{Directory, Store};

use crate::world::{Domain, World};

pub const LEASE: Duration = Duration::from_secs(20);

/// The flush deadline that rxl sends.
pub const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// Gives one agent its commands.
pub struct Coordinator {
    store: Directory,
    tree: std::path::PathBuf,
    last: Stamp,
}

/// What a domain answered in one migration.
#[derive(Debug)]
pub struct Frost {
    pub ready: Ready,
    pub frozen: Frozen,
    pub flushed: Flushed,
}

impl Coordinator {
    pub fn of(domain: &Domain, epoch: u64) -> Result<Self> {
        let store = Directory::open(&domain.tree)?;
        let mut coordinator =
            Self { store, tree: domain.tree.clone(), last: Stamp { epoch, sequence: 0 } };
        coordinator.wait("an agent", |store| Ok(store.read(path::AGENT)?))?;
        Ok(coordinator)
    }

    pub fn of_all<const N: usize>(world: &World<N>, epoch: u64) -> Result<[Self; N]> {
        each(&world.domains, |domain| Self::of(domain, epoch))
    }

    fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Directory) -> Result<Option<T>>,
    ) -> Result<T> {
        let until = Instant::now() + Duration::from_secs(15);
        while Instant::now() < until {
            if let Some(found) = look(&mut self.store)? {
                return Ok(found);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let state = self.store.read(path::STATE)?;
        bail!("{} has seen no {what}; its state is {state:?}", self.tree.display())
    }

    /// Writes a command without waiting for anything.
    pub fn write(&mut self, verb: Verb) -> Result<Stamp> {
        self.last = self.last.next();
        let command = Command { stamp: self.last, verb }.to_string();
        self.store.write(path::COMMAND, &command)?;
        Ok(self.last)
    }

    /// Waits for the answer to the last command.
    pub fn answer(&mut self) -> Result<Status> {
        let stamp = self.last;
        self.wait("answer", |store| {
            let Some(text) = store.read(path::STATE)? else { return Ok(None) };
            let state: State = text.parse().with_context(|| text.clone())?;
            Ok((state.stamp == stamp).then_some(state.status))
        })
    }

    pub fn ask(&mut self, verb: Verb) -> Result<Status> {
        self.write(verb)?;
        self.answer()
    }

    /// Waits until the agent tells such a status without having been asked.
    pub fn wait_for(&mut self, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        self.wait("such state", |store| {
            let state = store.read(path::STATE)?.and_then(|text| text.parse::<State>().ok());
            Ok(state.map(|state| state.status).filter(&wanted))
        })
    }

    pub fn ready(&mut self) -> Result<Ready> {
        match self.prepare(Duration::from_secs(2))? {
            Status::Ready(ready) => Ok(ready),
            other => bail!("not ready: {other}"),
        }
    }

    pub fn prepare(&mut self, pause: Duration) -> Result<Status> {
        let deadline = Duration::from_secs(2);
        self.ask(Verb::Prepare(Prepare { lease: LEASE, deadline, pause, job: None }))
    }

    pub fn freeze(&mut self) -> Result<Frozen> {
        self.freeze_for(LEASE)
    }

    pub fn freeze_for(&mut self, lease: Duration) -> Result<Frozen> {
        match self.ask(Verb::Freeze { lease, deadline: Duration::from_secs(1) })? {
            Status::Frozen(frozen) => Ok(frozen),
            other => bail!("not frozen: {other}"),
        }
    }

    pub fn flushed(&mut self) -> Result<Flushed> {
        match self.answer()? {
            Status::Flushed(flushed) => Ok(flushed),
            other => bail!("not flushed: {other}"),
        }
    }

    pub fn begin_flush(&mut self, room: bool) -> Result<Stamp> {
        self.write(Verb::Flush { lease: LEASE, deadline: FLUSH_DEADLINE, room })
    }

    /// Reads the cut that the agent has written.
    pub fn cut(&mut self, flushed: &Flushed) -> Result<Vec<Connection>> {
        let mut cut = Vec::new();
        for n in 0..flushed.chunks as usize {
            cut.extend(unpack(&self.store.read(&path::cut(n))?.context("a chunk is missing")?)?);
        }
        Ok(cut)
    }

    pub fn thaw(&mut self) -> Result<Thawed> {
        match self.ask(Verb::Thaw { lease: LEASE })? {
            Status::Thawed(thawed) => Ok(thawed),
            other => bail!("not thawed: {other}"),
        }
    }

    pub fn finish(&mut self) -> Result<Finished> {
        match self.ask(Verb::Finish)? {
            Status::Finished(finished) => Ok(finished),
            other => bail!("not finished: {other}"),
        }
    }

    pub fn renew(&mut self, count: u64) -> Result<()> {
        Ok(self.store.write(path::LEASE, &Lease { epoch: self.last.epoch, count }.to_string())?)
    }

    /// Gives the agent the tree of a domain that has just moved: empty but for `hold`. The agent
    /// must say that the ranks are still frozen, and then fill the tree.
    pub fn move_to_fresh_tree(&mut self) -> Result<()> {
        let before = self.store.read(path::JOBS)?;
        fs::remove_dir_all(self.tree.join(path::DATA))?;
        self.store.remove(path::LEASE)?;
        let resumed = self.ask(Verb::Hold { lease: LEASE })?;
        ensure!(resumed == Status::Resumed { frozen: true }, "{resumed}");
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.store.read(path::AGENT)?.is_none() || self.store.read(path::JOBS)? != before {
            ensure!(Instant::now() < deadline, "not advertised anew");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// One result for each, or the first error.
fn each<T, R, const N: usize>(
    all: impl IntoIterator<Item = T>,
    of: impl FnMut(T) -> Result<R>,
) -> Result<[R; N]> {
    let results: Vec<R> = all.into_iter().map(of).collect::<Result<_>>()?;
    results.try_into().map_err(|_| anyhow::anyhow!("not {N} of them"))
}

/// Flushes all domains at once, as after rxl's barrier, and audits their cuts. Does so again if the
/// ends disagree: one domain may have had nothing more to send while another still had something
/// for it.
pub fn flush_all<const N: usize>(
    coordinators: &mut [Coordinator; N],
    room: bool,
) -> Result<([Flushed; N], Audit)> {
    let until = Instant::now() + FLUSH_DEADLINE;
    loop {
        let (flushed, audit) = flush_once(coordinators, room)?;
        let good = flushed.iter().all(|flushed| flushed.clean) && audit.disagreed.is_empty();
        if good || Instant::now() >= until {
            return Ok((flushed, audit));
        }
    }
}

fn flush_once<const N: usize>(
    coordinators: &mut [Coordinator; N],
    room: bool,
) -> Result<([Flushed; N], Audit)> {
    for coordinator in &mut *coordinators {
        coordinator.begin_flush(room)?;
    }
    let flushed: [Flushed; N] = each(&mut *coordinators, Coordinator::flushed)?;
    let cuts: [_; N] = each(coordinators.iter_mut().zip(&flushed), |(one, cut)| one.cut(cut))?;
    Ok((flushed, audit(&cuts.concat())))
}

/// Freezes and flushes all domains, and checks the cut.
pub fn freeze_all<const N: usize>(coordinators: &mut [Coordinator; N]) -> Result<[Frost; N]> {
    let ready: [Ready; N] = each(&mut *coordinators, Coordinator::ready)?;
    let frozen: [Frozen; N] = each(&mut *coordinators, Coordinator::freeze)?;
    let (flushed, audit) = flush_all(coordinators, true)?;
    check_cut(&flushed.each_ref(), &audit)?;
    let parts = ready.into_iter().zip(frozen).zip(flushed);
    each(parts, |((ready, frozen), flushed)| Ok(Frost { ready, frozen, flushed }))
}

pub fn check_cut(flushed: &[&Flushed], audit: &Audit) -> Result<()> {
    ensure!(
        flushed.iter().all(|flushed| flushed.clean && flushed.unacked == 0),
        "unclean: {flushed:?}"
    );
    ensure!(
        audit.agreed > 0 && audit.disagreed.is_empty() && audit.one_ended.is_empty(),
        "{audit:?}"
    );
    Ok(())
}
