//! Looks at the number of a domain's pages again and again, beside whoever reads its memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::failure::Failure;
use crate::interface::Interface;
use crate::library::Library;

/// Time between two looks. A balloon that is sent down and up by two commands in dom0 takes longer.
const INTERVAL: Duration = Duration::from_millis(20);

/// Sees whether a domain is given pages, until dropped. A look that fails sees nothing: the domain
/// may be gone, which others notice.
pub struct MemoryWatch {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    has_grown: AtomicBool,
    over: AtomicBool,
}

impl MemoryWatch {
    /// Looks at once, and from then on from a thread.
    pub fn start(library: Library, domid: u32) -> Result<Self, Failure> {
        let xen = Interface::open(library, domid)?;
        let mut last = xen.info()?.tot_pages;
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        let look = move || {
            while !shared.over.load(Ordering::Relaxed) {
                if let Ok(info) = xen.info() {
                    if info.tot_pages > last {
                        shared.has_grown.store(true, Ordering::SeqCst);
                    }
                    last = info.tot_pages;
                }
                std::thread::sleep(INTERVAL);
            }
        };
        let thread = std::thread::Builder::new().name("memory".into()).spawn(look);
        let thread = thread.map_err(|error| Failure::of(format!("a thread: {error}")))?;
        Ok(Self { seen, thread: Some(thread) })
    }

    /// Whether the domain was given pages since this was last asked.
    pub fn take_growth(&self) -> bool {
        self.seen.has_grown.swap(false, Ordering::SeqCst)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}
