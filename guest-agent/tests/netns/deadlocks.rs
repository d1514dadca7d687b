//! Forces each of the conditions under which a quiesce could hang or leave ranks frozen.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use rxl_agent_protocol::{Reason, Status, Verb};

use crate::coordinator::{Coordinator, LEASE, check_cut, flush_all};
use crate::mpi::Job;
use crate::roles::Role;
use crate::world::World;

/// Long against an iteration, so that the ranks of the other domain run into whatever they must
/// wait in: a rendezvous of up to 1 MiB, a collective that half of them have entered.
const AHEAD: Duration = Duration::from_millis(150);

pub fn staggered() -> Result<()> {
    let world = World::new()?;
    let job = Job::start(&world, &[])?;
    for epoch in 1..=4 {
        let mut both = Coordinator::of_all(&world, epoch)?;
        for coordinator in &mut both {
            coordinator.ready()?;
        }
        let (first, last) = if epoch % 2 == 0 { (0, 1) } else { (1, 0) };
        both[first].freeze()?;
        std::thread::sleep(AHEAD);
        if epoch == 1 {
            check_hangs(&job)?;
        }
        both[last].freeze()?;
        let (flushed, audit) = flush_all(&mut both, true)?;
        check_cut(&flushed.each_ref(), &audit)?;
        world.unplug(first)?;
        std::thread::sleep(AHEAD);
        world.plug_in(first)?;
        both[last].thaw()?;
        std::thread::sleep(AHEAD);
        both[first].thaw()?;
        both.iter_mut().try_for_each(|coordinator| coordinator.finish().map(drop))?;
    }
    job.end_well()?;
    Ok(())
}

/// Checks that not one iteration ends. An agent that waited for running ranks to leave MPI before
/// it froze them would wait for ever.
fn check_hangs(job: &Job) -> Result<()> {
    let before = job.progress()?;
    std::thread::sleep(Duration::from_millis(1200));
    ensure!(job.progress()? == before, "the ranks do not wait for those that are frozen");
    Ok(())
}

pub fn zero_window() -> Result<()> {
    let world = World::new()?;
    let [mut reader, mut sender] =
        Role::pair(["reader", "sender"], &world.domains[0], &world.domains[1])?;
    let mut both = Coordinator::of_all(&world, 1)?;
    for coordinator in &mut both {
        coordinator.ready()?;
    }
    both[0].freeze()?;
    std::thread::sleep(Duration::from_millis(300));
    both[1].freeze()?;
    let frozen_at = reader.blocks()?;
    let (flushed, audit) = flush_all(&mut both, false)?;
    check_cut(&flushed.each_ref(), &audit)?;
    let [receiving, sending] = flushed;
    ensure!(
        sending.notsent > 0 && receiving.unread > 0,
        "the window never closed: {receiving:?} {sending:?}"
    );
    still_unsent(&mut both[1])?;
    for coordinator in &mut both {
        coordinator.thaw()?;
    }
    reader.check_reads_on(frozen_at)?;
    both.iter_mut().try_for_each(|coordinator| coordinator.finish().map(drop))?;
    reader.check()?;
    sender.check()
}

/// Checks that half a second later the send queue is as full as before. So the flush would not end
/// if it did not know a closed window.
fn still_unsent(sending: &mut Coordinator) -> Result<()> {
    std::thread::sleep(Duration::from_millis(500));
    sending.begin_flush(false)?;
    let flushed = sending.flushed()?;
    ensure!(flushed.notsent > 0, "{flushed:?}");
    Ok(())
}

pub fn coordinator_dies() -> Result<()> {
    const SHORT: Duration = Duration::from_secs(1);
    let world = World::new()?;
    let job = Job::start(&world, &[])?;
    let mut both = Coordinator::of_all(&world, 1)?;
    for coordinator in &mut both {
        coordinator.ready()?;
        coordinator.freeze_for(SHORT)?;
    }
    // A renewed lease holds.
    let start = Instant::now();
    for count in 0..12 {
        std::thread::sleep(SHORT / 4);
        both.iter_mut().try_for_each(|coordinator| coordinator.renew(count))?;
    }
    for coordinator in &mut both {
        let status = coordinator.wait_for(|status| matches!(status, Status::Expired { .. }))?;
        let Status::Expired { paused } = status else { bail!("{status}") };
        ensure!(paused >= SHORT * 3 && start.elapsed() < SHORT * 10, "{paused:?}");
    }
    let verdict = job.end_well()?;
    ensure!(verdict.longest_stall_ms > 1000.0, "the job was not frozen at all: {verdict:?}");
    Ok(())
}

pub fn agent_dies() -> Result<()> {
    let mut world = World::new()?;
    let job = Job::start(&world, &[])?;
    let mut both = Coordinator::of_all(&world, 1)?;
    crate::coordinator::freeze_all(&mut both)?;
    world.domains[0].end_agent(Signal::SIGKILL)?;
    std::thread::sleep(Duration::from_millis(200));
    let before = job.progress()?;
    world.domains[0].start_agent()?;
    let resumed = both[0].ask(Verb::Hold { lease: LEASE })?;
    ensure!(resumed == Status::Resumed { frozen: true } && job.progress()? == before, "{resumed}");
    for coordinator in &mut both {
        let thawed = coordinator.thaw()?;
        ensure!(thawed.lost == 0 && thawed.retransmits == 0, "{thawed:?}");
        coordinator.finish()?;
    }
    job.end_well()?;
    Ok(())
}

pub fn agent_dies_for_long() -> Result<()> {
    let mut world = World::new()?;
    let role = Role::start(&world.domains[0], "reader", 0)?;
    let mut coordinator = Coordinator::of(&world.domains[0], 1)?;
    ensure!(coordinator.ready()?.ranks == 1);
    coordinator.freeze_for(Duration::from_millis(300))?;
    world.domains[0].end_agent(Signal::SIGKILL)?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(is_frozen(&role)?, "nobody was there to thaw it");
    world.domains[0].start_agent()?;
    coordinator.wait_for(|status| matches!(status, Status::Expired { .. }))?;
    ensure!(!is_frozen(&role)?);
    in_its_own_cgroup(&role)
}

pub fn agent_terminated() -> Result<()> {
    let mut world = World::new()?;
    let role = Role::start(&world.domains[0], "reader", 0)?;
    let mut coordinator = Coordinator::of(&world.domains[0], 1)?;
    coordinator.ready()?;
    coordinator.freeze()?;
    ensure!(is_frozen(&role)?);
    world.domains[0].end_agent(Signal::SIGTERM)?;
    ensure!(!is_frozen(&role)?);
    in_its_own_cgroup(&role)
}

/// Asks the freezer of the process's cgroup: /proc/PID/stat does not tell a frozen task from a
/// sleeping one.
fn is_frozen(role: &Role) -> Result<bool> {
    let root = procfs::mounts()?
        .into_iter()
        .find(|mount| mount.fs_vfstype == "cgroup2")
        .map(|mount| mount.fs_file);
    let Some(root) = root else { return Ok(role.state() == Some('T')) };
    let events = format!("{root}{}/cgroup.events", cgroup(role)?);
    // The root cgroup has no such file, and is never frozen.
    Ok(std::fs::read_to_string(events).is_ok_and(|text| text.contains("frozen 1")))
}

fn cgroup(role: &Role) -> Result<String> {
    let cgroups = procfs::process::Process::new(role.pid())?.cgroups()?;
    Ok(cgroups
        .into_iter()
        .find(|cgroup| cgroup.hierarchy == 0)
        .map(|cgroup| cgroup.pathname)
        .unwrap_or_default())
}

fn in_its_own_cgroup(role: &Role) -> Result<()> {
    let cgroup = cgroup(role)?;
    ensure!(!cgroup.contains("rxl.ranks"), "left in {cgroup}");
    Ok(())
}

pub fn uninterruptible() -> Result<()> {
    let world = World::new()?;
    let program = world.scratch.path().join("vfork");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netns/vfork.c");
    ensure!(Command::new("cc").arg("-o").arg(&program).arg(source).status()?.success());
    let mut command = world.domains[0].command(&program);
    let mut asleep = command.env("PMIX_NAMESPACE", "roles").env("PMIX_RANK", "0").spawn()?;
    std::thread::sleep(Duration::from_millis(200));
    let mut coordinator = Coordinator::of(&world.domains[0], 1)?;
    let refused = coordinator.prepare(Duration::ZERO);
    let vforked =
        procfs::process::Process::new(asleep.id() as i32)?.task_main_thread()?.children()?;
    vforked.iter().for_each(|pid| {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid as i32), Signal::SIGKILL);
    });
    asleep.wait()?;
    let refused = refused?;
    ensure!(matches!(refused, Status::Nack { reason: Reason::Uninterruptible, .. }), "{refused}");
    ensure!(coordinator.ready()?.ranks == 0, "an epoch that was refused is over");
    Ok(())
}

pub fn impatient() -> Result<()> {
    let world = World::new()?;
    let _roles = Role::pair(["reader", "impatient"], &world.domains[0], &world.domains[1])?;
    let mut sending = Coordinator::of(&world.domains[1], 1)?;
    let refused = sending.prepare(Duration::from_secs(2))?;
    ensure!(
        matches!(refused, Status::Nack { reason: Reason::ImpatientConnection, .. }),
        "{refused}"
    );
    let Status::Ready(ready) = sending.prepare(Duration::from_millis(500))? else {
        bail!("refused")
    };
    ensure!(ready.patience == Some(Duration::from_secs(1)), "{ready:?}");
    sending.finish()?;
    Ok(())
}

/// As a launcher does when a rank calls MPI_Comm_spawn.
pub fn born() -> Result<()> {
    let world = World::new()?;
    let domain = &world.domains[0];
    let _gathered = Role::start(domain, "reader", 0)?;
    let mut coordinator = Coordinator::of(domain, 1)?;
    coordinator.ready()?;
    let born = Role::start(domain, "sender", 1)?;
    let frozen = coordinator.freeze()?;
    ensure!(frozen.processes == 2, "{frozen:?}");
    ensure!(cgroup(&born)?.contains("rxl.ranks"), "it runs");
    coordinator.thaw()?;
    coordinator.finish()?;
    in_its_own_cgroup(&born)
}
