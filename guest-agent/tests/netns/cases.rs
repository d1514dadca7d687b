//! A whole quiesce as it should go, and what happens without one.

use std::time::Duration;

use anyhow::{Result, ensure};
use rxl_agent_protocol::Thawed;

use crate::coordinator::{Coordinator, freeze_all};
use crate::hpcc::Hpcc;
use crate::mpi::{Job, Library};
use crate::world::World;

/// How long a domain is away from the network.
const AWAY: Duration = Duration::from_millis(500);

pub fn moved() -> Result<()> {
    moved_on(Library::OpenMpi)
}

/// Takes the first domain away while all stand still, and brings it back as a migration does.
/// Nothing is sent again meanwhile.
fn away<const N: usize>(world: &World<N>, first: &mut Coordinator) -> Result<()> {
    let cut = world.counts()?;
    world.unplug(0)?;
    std::thread::sleep(AWAY);
    world.plug_in(0)?;
    first.move_to_fresh_tree()?;
    let pause = world.counts()?;
    ensure!(pause == cut, "something was sent again while all stood still: {cut:?} {pause:?}");
    Ok(())
}

/// Moves a job whose ranks are found by Hydra's variables and talk through UCX.
pub fn moved_on_mpich() -> Result<()> {
    moved_on(Library::Mpich)
}

fn moved_on(library: Library) -> Result<()> {
    let world = World::new()?;
    let job = Job::start_on(library, &world, &[])?;
    let before = world.counts()?;
    for epoch in 1..=3 {
        let mut both = Coordinator::of_all(&world, epoch)?;
        let frost = freeze_all(&mut both)?;
        println!(
            "  {library:?}: its connections bear to hear nothing for {:?}",
            frost[0].ready.patience
        );
        away(&world, &mut both[0])?;
        let [one, two] = &mut both;
        let thawed = [one.thaw()?, two.thaw()?];
        let good =
            |thawed: &Thawed| thawed.lost == 0 && thawed.retransmits == 0 && thawed.paused >= AWAY;
        ensure!(thawed.iter().all(good), "{thawed:?}");
        std::thread::sleep(Duration::from_millis(250));
        one.finish()?;
        two.finish()?;
    }
    let timeouts = world.counts()?.timeouts - before.timeouts;
    ensure!(timeouts == 0, "{timeouts} timeouts");
    let verdict = if library == Library::Mpich { job.last_words()? } else { job.end_well()? };
    println!(
        "  {} messages, longest stall {:.0} ms with {AWAY:?} away",
        verdict.sent, verdict.longest_stall_ms
    );
    Ok(())
}

/// A job of eight ranks, two in each of four domains, which talk through shared memory within a
/// domain. The first domain moves three times. What tells whether it was harmed is hpcc's own.
pub fn moved_under_hpcc() -> Result<()> {
    let world = World::<4>::of_domains()?;
    let job = Hpcc::start(&world)?;
    for epoch in 1..=3 {
        job.await_next_section()?;
        let mut all = Coordinator::of_all(&world, epoch)?;
        let frost = freeze_all(&mut all)?;
        ensure!(frost.iter().all(|frost| frost.ready.ranks == 2), "{frost:?}");
        away(&world, &mut all[0])?;
        for one in &mut all {
            let thawed = one.thaw()?;
            ensure!(thawed.lost == 0 && thawed.retransmits == 0, "{thawed:?}");
        }
        all.iter_mut().try_for_each(|one| one.finish().map(drop))?;
    }
    println!("  {}", job.end_well()?);
    Ok(())
}

/// Freezes and flushes again and again under full load, and prints the medians. The bound is
/// generous, for machines that are busy with other things. The pause between cycles is what a
/// kernel wants between two answers to window probes.
pub fn quick() -> Result<()> {
    const CYCLES: u64 = 9;
    const PAUSE: Duration = Duration::from_millis(510);
    const BOUND: Duration = Duration::from_millis(50);
    let world = World::new()?;
    let job = Job::start(&world, &[])?;
    let (mut freezes, mut flushes, mut prepares) = (Vec::new(), Vec::new(), Vec::new());
    for epoch in 1..=CYCLES {
        let mut both = Coordinator::of_all(&world, epoch)?;
        let frost = freeze_all(&mut both)?;
        prepares.extend(frost.iter().map(|frost| frost.ready.took));
        freezes.extend(frost.iter().map(|frost| frost.frozen.took));
        flushes.extend(frost.iter().map(|frost| frost.flushed.took));
        for coordinator in &mut both {
            coordinator.thaw()?;
            coordinator.finish()?;
        }
        std::thread::sleep(PAUSE);
    }
    job.end_well()?;
    let [prepare, freeze, flush] = [prepares, freezes, flushes].map(|mut spans| {
        spans.sort_unstable();
        (spans[spans.len() / 2], spans[spans.len() - 1])
    });
    println!(
        "  median and longest of {CYCLES} cycles: prepare {prepare:?}, freeze {freeze:?}, flush \
         {flush:?}"
    );
    ensure!(freeze.0 < BOUND && flush.0 < BOUND, "slower than {BOUND:?}");
    Ok(())
}

/// Unplugs a domain with nothing frozen. TCP loses no message, but the job waits longer than the
/// absence, and segments are sent again. If that did not happen, [`moved`] would show nothing.
pub fn unprotected() -> Result<()> {
    let world = World::new()?;
    let job = Job::start(&world, &[])?;
    let before = world.counts()?;
    world.unplug(0)?;
    std::thread::sleep(AWAY);
    world.plug_in(0)?;
    let verdict = job.end_well()?;
    let timeouts = world.counts()?.timeouts - before.timeouts;
    println!(
        "  {timeouts} timeouts, longest stall {:.0} ms with {AWAY:?} away",
        verdict.longest_stall_ms
    );
    ensure!(timeouts > 0 && verdict.longest_stall_ms > AWAY.as_millis() as f64);
    Ok(())
}

pub fn injected() -> Result<()> {
    let world = World::new()?;
    for fault in ["corrupt", "drop", "duplicate", "reorder"] {
        let (verdict, good) =
            Job::start(&world, &["--inject", fault])?.end(Duration::from_secs(20))?;
        let seen = match fault {
            "corrupt" => verdict.corrupt,
            "drop" => verdict.lost,
            "duplicate" => verdict.duplicated,
            _ => verdict.reordered,
        };
        ensure!(seen == 1 && !good, "{fault}: {verdict:?}");
    }
    Ok(())
}
