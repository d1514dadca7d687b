//! SIGSTOP and SIGCONT, where there is no cgroup v2. The processes' parents see it (a shell may say
//! so). A process that was stopped before is left alone.

use std::collections::BTreeMap;
use std::io;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::Process;
use rxl_agent_protocol::Freezer;

use super::ranks::thread_states;
use super::stopper::Stopper;
use crate::deadlines::SIGNAL_PACE;
use crate::guest::Held;

/// Processes to be stopped by signal: pid, and start time in clock ticks since boot.
#[derive(Default)]
pub struct Signals {
    processes: BTreeMap<i32, u64>,
}

impl Signals {
    fn send(&self, signal: Signal) -> io::Result<()> {
        // A process that is gone needs no signal, and its pid may be another's by now.
        for (&pid, _) in self.processes.iter().filter(|&(&pid, &started)| is_same(pid, started)) {
            match kill(Pid::from_raw(pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Adds the children that were started before their parents stopped. Tells whether there were
    /// any.
    fn add_children(&mut self) -> io::Result<bool> {
        let before = self.processes.len();
        for process in procfs::process::all_processes().map_err(io::Error::other)?.flatten() {
            if let Ok(stat) = process.stat()
                && self.processes.contains_key(&stat.ppid)
            {
                self.processes.insert(stat.pid, stat.starttime);
            }
        }
        Ok(self.processes.len() > before)
    }

    fn all_stopped(&self) -> bool {
        self.processes.keys().all(|&pid| thread_states(pid).iter().all(|state| is_still(*state)))
    }
}

fn is_same(pid: i32, started: u64) -> bool {
    Process::new(pid).and_then(|process| process.stat()).is_ok_and(|stat| stat.starttime == started)
}

/// Whether a thread runs no more: stopped, stopped by a tracer, or dead.
fn is_still(state: char) -> bool {
    matches!(state, 'T' | 't' | 'Z' | 'X')
}

impl Stopper for Signals {
    fn kind(&self) -> Freezer {
        Freezer::Sigstop
    }

    fn gather(&mut self, processes: &BTreeMap<i32, u64>) -> io::Result<()> {
        let running = |pid: &i32| thread_states(*pid).iter().any(|state| !is_still(*state));
        self.processes.extend(processes.iter().filter(|(pid, _)| running(pid)));
        Ok(())
    }

    fn stop(&mut self) -> io::Result<()> {
        self.send(Signal::SIGSTOP)?;
        while self.add_children()? {
            self.send(Signal::SIGSTOP)?;
        }
        Ok(())
    }

    fn wait(&mut self, until: Instant) -> io::Result<bool> {
        while !self.all_stopped() {
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(SIGNAL_PACE);
        }
        Ok(true)
    }

    fn go(&mut self) -> io::Result<()> {
        self.send(Signal::SIGCONT)
    }

    fn scatter(&mut self) -> io::Result<()> {
        self.processes.clear();
        Ok(())
    }

    fn members(&self) -> io::Result<Vec<i32>> {
        Ok(self.processes.keys().copied().collect())
    }

    fn held(&self) -> Held {
        Held {
            processes: self.processes.iter().map(|(&pid, &started)| (pid, started)).collect(),
            ..Held::default()
        }
    }

    fn take_over(&mut self, held: Held) -> io::Result<bool> {
        self.processes =
            held.processes.into_iter().filter(|&(pid, started)| is_same(pid, started)).collect();
        Ok(self.processes.keys().any(|&pid| thread_states(pid).contains(&'T')))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_process_and_its_child_stop_and_go_on() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().expect("sh");
        let pid = child.id() as i32;
        let started =
            Process::new(pid).and_then(|process| process.stat()).expect("it runs").starttime;
        let mut signals = Signals::default();
        signals.gather(&[(pid, started)].into()).expect("gather");
        std::thread::sleep(Duration::from_millis(50));
        signals.stop().expect("stop");
        assert!(signals.wait(Instant::now() + Duration::from_secs(5)).expect("wait"));
        assert_eq!(signals.members().expect("members").len(), 2, "the child too");
        let mut later = Signals::default();
        assert!(later.take_over(signals.held()).expect("take over"));
        later.go().expect("go");
        std::thread::sleep(Duration::from_millis(50));
        assert!(!thread_states(pid).contains(&'T'));
        later.send(Signal::SIGKILL).expect("kill");
        child.wait().expect("reaped");
    }

    #[test]
    fn a_process_that_somebody_else_has_stopped_stays_so() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = child.id() as i32;
        let send = |signal| kill(Pid::from_raw(pid), signal).expect("kill");
        send(Signal::SIGSTOP);
        while !thread_states(pid).contains(&'T') {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut signals = Signals::default();
        signals.gather(&[(pid, 0)].into()).expect("gather");
        signals.stop().expect("stop");
        assert!(signals.wait(Instant::now() + Duration::from_secs(5)).expect("wait"));
        signals.go().expect("go");
        std::thread::sleep(Duration::from_millis(50));
        assert!(thread_states(pid).contains(&'T'));
        send(Signal::SIGKILL);
        child.wait().expect("reaped");
    }
}
