//! Wakes a QEMU that sits on an interrupt.
//!
//! QEMU under TCG (7.2, with nested SVM) now and then keeps a pending interrupt to itself while the
//! nested guest runs on: the local APIC has Xen's timer in its request register, its counter stands
//! at zero, and nothing is delivered until something else makes the virtual processor leave the
//! guest. With guests that spin, as MPI ranks do, that was seen to take minutes, in which dom0 and
//! the other guests stood still ("Platform timer appears to have unexpectedly wrapped 5 times").
//! Stopping and continuing the machine makes QEMU look again; it costs a millisecond.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::monitor::Monitor;
use crate::topology::Node;

/// Between two looks. Xen's timers are due every few milliseconds: one that is pending twice is
/// stuck.
const GLANCE: Duration = Duration::from_millis(200);

/// How often the end is looked for meanwhile.
const STEP: Duration = Duration::from_millis(50);

const MONITOR_LIMIT: Duration = Duration::from_secs(30);

/// Looks after the machines of a lab, on a thread each, until dropped.
pub(crate) struct Watchdog {
    ended: Arc<AtomicBool>,
    woken: Vec<Arc<AtomicU32>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watchdog {
    /// `monitors` are the sockets in the order of the nodes' numbers.
    pub(crate) fn start(monitors: Vec<PathBuf>) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let woken: Vec<_> = monitors.iter().map(|_| Arc::new(AtomicU32::new(0))).collect();
        let watch = |(path, woken): (PathBuf, &Arc<AtomicU32>)| {
            let (ended, woken) = (ended.clone(), woken.clone());
            std::thread::spawn(move || watch(&path, &ended, &woken))
        };
        let threads = monitors.into_iter().zip(&woken).map(watch).collect();
        Self { ended, woken, threads }
    }

    /// How often a machine had to be woken.
    pub(crate) fn woken(&self, node: Node) -> u32 {
        self.woken.get(node.index()).map_or(0, |woken| woken.load(Ordering::Relaxed))
    }

    /// Waits until a machine has ended.
    pub(crate) fn wait(mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Ends with the watchdog, or with the QEMU.
fn watch(monitor: &std::path::Path, ended: &AtomicBool, woken: &AtomicU32) {
    let mut before = None;
    while !ended.load(Ordering::Relaxed) {
        match look(monitor, before.as_ref()) {
            Ok(Look { pending, was_woken }) => {
                before = pending;
                woken.fetch_add(was_woken.into(), Ordering::Relaxed);
            }
            Err(_) if !monitor.exists() => return,
            Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(is_gone) => return,
            // Someone else talks to it at length: a snapshot is being made.
            Err(_) => {}
        }
        for _ in 0..GLANCE.as_millis() / STEP.as_millis() {
            if ended.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(STEP);
        }
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound)
}

struct Look {
    pending: Option<Pending>,
    was_woken: bool,
}

fn look(path: &std::path::Path, before: Option<&Pending>) -> Result<Look> {
    let mut monitor = Monitor::connect(path, MONITOR_LIMIT)?;
    let pending = Pending::read(&monitor.human("info lapic")?);
    let stuck = pending.is_some() && pending.as_ref() == before;
    // One that was stopped on purpose stays stopped.
    if !stuck || monitor.execute("query-status", &Value::Null)?["running"] != true {
        return Ok(Look { pending, was_woken: false });
    }
    monitor.execute("stop", &Value::Null)?;
    monitor.execute("cont", &Value::Null)?;
    Ok(Look { pending: None, was_woken: true })
}

/// A local APIC whose timer has run out and has an interrupt waiting.
#[derive(Debug, PartialEq, Eq)]
struct Pending {
    initial_count: String,
    requested: String,
}

impl Pending {
    /// From the monitor's `info lapic`.
    fn read(lapic: &str) -> Option<Self> {
        let timer = lapic.lines().find(|line| line.starts_with("Timer"))?;
        let count = |name: &str| {
            Some(timer.split_once(name)?.1.trim_start_matches([' ', '=']).split(' ').next()?.trim())
        };
        let requested = lapic.lines().find_map(|line| line.strip_prefix("IRR"))?.trim();
        let idle = requested.is_empty() || requested == "(none)";
        let due = count("current_count")? == "0" && count("initial_count")? != "0";
        (due && !idle).then(|| {
            Some(Self {
                initial_count: count("initial_count")?.into(),
                requested: requested.into(),
            })
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lapic(current: u32, irr: &str) -> String {
        format!(
            "dumping local APIC state for CPU 0\n\n\
             LVTT\t 0x000000fa active-hi edge  one-shot  Fixed  (vec 250)\n\
             Timer\t DCR=0xb (divide by 1) initial_count = 1031730 current_count = {current}\n\
             ISR\t (none)\nIRR\t {irr}\n\nAPR 0x00 TPR 0x10\n"
        )
    }

    #[test]
    fn a_timer_that_is_due_and_not_delivered_is_seen() {
        let stuck = Pending { initial_count: "1031730".into(), requested: "250".into() };
        assert_eq!(Pending::read(&lapic(0, "250 ")), Some(stuck));
        assert_eq!(Pending::read(&lapic(5, "250 ")), None, "it runs");
        assert_eq!(Pending::read(&lapic(0, "(none)")), None, "nothing waits");
        assert_eq!(Pending::read(""), None);
    }
}
