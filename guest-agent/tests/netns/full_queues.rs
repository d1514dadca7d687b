//! Ranks frozen with their receive queues full, so that data in flight to them finds no room.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::getsockopt_impl;
use nix::libc::{self, SOL_SOCKET};
use nix::sys::signal::Signal;
use nix::sys::socket::sockopt::{GetStruct, RcvBuf};
use nix::sys::socket::{SockaddrStorage, getpeername, getsockopt};
use procfs::process::{FDTarget, Process};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rxl_agent_protocol::{Audit, Flushed};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::coordinator::{Coordinator, FLUSH_DEADLINE, check_cut, flush_all};
use crate::roles::Role;
use crate::world::World;

#[derive(Clone, Copy)]
struct BufLock;
getsockopt_impl!(BufLock, SOL_SOCKET, libc::SO_BUF_LOCK, u32, GetStruct<u32>);

/// SOCK_RCVBUF_LOCK of SO_BUF_LOCK: the program has set the receive buffer's size.
const SET: u32 = 2;

/// A receive buffer: its size in bytes, and whether the kernel tunes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buffer {
    size: usize,
    locks: u32,
}

/// Reads the receive buffer of a role's only connection.
fn buffer(role: &Role) -> Result<Buffer> {
    let handle = connection(role.pid())?.context("the role has no connection")?;
    Ok(Buffer { size: getsockopt(&handle, RcvBuf)?, locks: getsockopt(&handle, BufLock)? })
}

fn connection(pid: i32) -> Result<Option<OwnedFd>> {
    let process = pidfd_open(Pid::from_raw(pid).context("a pid")?, PidfdFlags::empty())?;
    for fd in Process::new(pid)?.fd()?.flatten() {
        if let FDTarget::Socket(_) = fd.target {
            let handle = pidfd_getfd(&process, fd.fd, PidfdGetfdFlags::empty())?;
            if getpeername::<SockaddrStorage>(handle.as_raw_fd()).is_ok() {
                return Ok(Some(handle));
            }
        }
    }
    Ok(None)
}

/// A reader that leaves its queue full, and a sender, both frozen.
struct Scene {
    // Dropped before the world: they write into its directory.
    roles: [Role; 2],
    world: World,
    both: [Coordinator; 2],
}

impl Scene {
    fn new(world: World, reader: &str) -> Result<Self> {
        let roles = Role::pair([reader, "sender"], &world.domains[0], &world.domains[1])?;
        let mut both = Coordinator::of_all(&world, 1)?;
        for coordinator in &mut both {
            coordinator.ready()?;
        }
        both[0].freeze()?;
        std::thread::sleep(Duration::from_millis(50));
        both[1].freeze()?;
        Ok(Self { roles, world, both })
    }

    fn flush(&mut self) -> Result<([Flushed; 2], Audit, Duration)> {
        let begun = Instant::now();
        let (flushed, audit) = flush_all(&mut self.both, true)?;
        Ok((flushed, audit, begun.elapsed()))
    }

    /// Waits for a while, in which nothing may be sent again.
    fn stand_still(&self) -> Result<()> {
        let cut = self.world.counts()?;
        std::thread::sleep(Duration::from_secs(1));
        let after = self.world.counts()?;
        ensure!(after == cut, "something was sent again while all stood still: {cut:?} {after:?}");
        Ok(())
    }

    fn thaw_and_finish(&mut self) -> Result<u64> {
        let mut retransmits = 0;
        for coordinator in &mut self.both {
            retransmits += coordinator.thaw()?.retransmits;
        }
        std::thread::sleep(Duration::from_millis(300));
        self.both.iter_mut().try_for_each(|coordinator| coordinator.finish().map(drop))?;
        Ok(retransmits)
    }

    /// Checks that the data arrives, and in order.
    fn check_roles(&mut self) -> Result<()> {
        let blocks = self.roles[0].blocks()?;
        self.roles[0].check_reads_on(blocks + 100)?;
        self.roles.iter_mut().try_for_each(Role::check)
    }
}

pub fn dropped() -> Result<()> {
    let mut powerless = World::new()?;
    powerless.domains[0].end_agent(Signal::SIGTERM)?;
    powerless.domains[0].start_powerless_agent()?;
    let mut scene = Scene::new(powerless, "late")?;
    let before = buffer(&scene.roles[0])?;
    let ([_, sending], _, took) = scene.flush()?;
    println!(
        "  without room: clean {}, {} bytes in flight after {took:?}",
        sending.clean, sending.unacked
    );
    ensure!(!sending.clean && sending.unacked > 0, "nothing was dropped: {sending:?}");
    ensure!(buffer(&scene.roles[0])? == before);
    scene.thaw_and_finish()?;
    scene.check_roles()?;
    drop(scene);

    let mut scene = Scene::new(World::new()?, "late")?;
    ensure!(buffer(&scene.roles[0])? == before && before.locks == SET, "{before:?}");
    let ([receiving, sending], audit, took) = scene.flush()?;
    check_cut(&[&receiving, &sending], &audit)?;
    let raised = buffer(&scene.roles[0])?;
    println!(
        "  with room: clean after {took:?}, {} bytes unread in a buffer of {} that was {}, {} not \
         sent",
        receiving.unread, raised.size, before.size, sending.notsent
    );
    ensure!(took < FLUSH_DEADLINE && raised.size > before.size, "{raised:?}");
    scene.stand_still()?;
    ensure!(scene.thaw_and_finish()? == 0, "sent again between cut and thaw");
    ensure!(buffer(&scene.roles[0])? == before, "not put back");
    scene.check_roles()
}

/// The kernel goes on tuning a buffer that it tuned before.
pub fn autotuned() -> Result<()> {
    let mut scene = Scene::new(World::new()?, "reader")?;
    let before = buffer(&scene.roles[0])?;
    let ([receiving, sending], audit, took) = scene.flush()?;
    check_cut(&[&receiving, &sending], &audit)?;
    let raised = buffer(&scene.roles[0])?;
    ensure!(
        before.locks == 0 && raised.locks == SET && raised.size > before.size,
        "{before:?} {raised:?}"
    );
    scene.stand_still()?;
    scene.thaw_and_finish()?;
    let after = buffer(&scene.roles[0])?;
    println!(
        "  clean after {took:?}; a tuned buffer of {} bytes was {}, and is {}",
        before.size, raised.size, after.size
    );
    // A size is set in steps of two bytes, and by now the kernel may have made more of it.
    ensure!(
        after.locks == 0 && after.size + 1 >= before.size && after.size != raised.size,
        "{after:?}"
    );
    scene.check_roles()
}

pub fn agent_dies() -> Result<()> {
    let mut scene = Scene::new(World::new()?, "late")?;
    let before = buffer(&scene.roles[0])?;
    scene.flush()?;
    ensure!(buffer(&scene.roles[0])?.size > before.size);
    scene.world.domains[0].end_agent(Signal::SIGKILL)?;
    scene.world.domains[0].start_agent()?;
    scene.thaw_and_finish()?;
    ensure!(buffer(&scene.roles[0])? == before, "not put back");
    scene.check_roles()
}
