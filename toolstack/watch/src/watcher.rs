//! One domain, watched over all its boots.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::clock;
use crate::decision::{Decision, Then, decide};
use rxl_core::deadlines;
use rxl_core::domain::DomId;
use rxl_core::domain_config::DomainConfig;
use rxl_core::error::{Exit, Failure};
use rxl_core::host_error::HostError;
use rxl_core::shutdown::{DomainEvent, ShutdownReason};
use rxl_core::state_dir::{DomainLock, StateDir};
use rxl_core::text::one_line;
use rxl_host::watch::WatchHost;

/// Where xl leaves the memory of crashed guests (`XEN_DUMP_DIR` of Xen's configure).
const DUMPS: &str = "/var/lib/xen/dump";

/// Between two looks whether xl's process has ended.
const INTERVAL: Duration = Duration::from_millis(200);

/// What a watcher works with.
pub struct Means<'a> {
    pub host: &'a dyn WatchHost,
    pub state: &'a StateDir,
    /// Turns a configuration in xl's syntax into libxl's JSON.
    pub xl_config: &'a dyn Fn(&[u8]) -> Result<String, Failure>,
    /// Takes lines for people.
    pub log: &'a dyn Fn(&str),
    /// How long xl's process may take to end, and from a domain's end to its next boot:
    /// [`deadlines::XL_WATCHER_END`] and [`deadlines::REBOOT_PAUSE`], except in tests.
    pub xl_end: Duration,
    pub pause: Duration,
}

impl<'a> Means<'a> {
    /// With the times of a real host.
    pub fn new(
        host: &'a dyn WatchHost,
        state: &'a StateDir,
        xl_config: &'a dyn Fn(&[u8]) -> Result<String, Failure>,
        log: &'a dyn Fn(&str),
    ) -> Self {
        let (xl_end, pause) = (deadlines::XL_WATCHER_END, deadlines::REBOOT_PAUSE);
        Self { host, state, xl_config, log, xl_end, pause }
    }
}

/// The watcher of one domain.
pub struct Watcher<'a> {
    means: Means<'a>,
    domid: DomId,
    config: DomainConfig,
    _lock: DomainLock,
}

impl<'a> Watcher<'a> {
    /// Becomes the watcher of a domain, by name or number. None where it has one of rxl's already.
    pub fn begin(means: Means<'a>, domain: &str) -> Result<Option<Self>, Failure> {
        let domid = means.host.find(domain).map_err(Failure::from)?.domid;
        let Some(lock) = means.state.watch_lock(domid)? else { return Ok(None) };
        let config = retrieve(means.host, domid)?;
        Ok(Some(Self { means, domid, config, _lock: lock }))
    }

    /// Watches until the domain leaves: moved away, destroyed, or kept as it is after its end. A
    /// guest that reboots is followed to its next domain. A domain that xl watches is left to it.
    pub fn run(mut self) -> Result<(), Failure> {
        if !self.xl_has_ended() {
            self.say("is watched by xl");
            return Ok(());
        }
        self.say("is watched");
        loop {
            let Some((reason, dump, then)) = self.wait()? else {
                self.say("is gone, and no longer watched");
                return Ok(());
            };
            self.say(&format!("has ended ({reason:?}); its configuration says: {then:?}"));
            if dump {
                self.dump_core();
            }
            if !self.act(then)? {
                return Ok(());
            }
            self.say("is booted again");
        }
    }

    /// xl's process may be about to end, as it does when its guest has been suspended.
    fn xl_has_ended(&self) -> bool {
        let deadline = Instant::now() + self.means.xl_end;
        while self.means.host.xl_watches(self.domid) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(INTERVAL);
        }
        true
    }

    /// Waits for the guest's end. None where the domain is gone.
    fn wait(&self) -> Result<Option<(ShutdownReason, bool, Then)>, Failure> {
        let mut events = self.means.host.events(self.domid, &self.config).map_err(Failure::from)?;
        loop {
            let event = events.wait().map_err(Failure::from)?;
            match (event, decide(event, &self.config.actions())) {
                (DomainEvent::Shutdown(reason), Decision::Act { dump, then }) => {
                    return Ok(Some((reason, dump, then)));
                }
                (_, Decision::End | Decision::Act { .. }) => return Ok(None),
                (_, Decision::WaitOn) => {}
            }
        }
    }

    /// Whether there is a domain to be watched after it.
    fn act(&mut self, then: Then) -> Result<bool, Failure> {
        match then {
            Then::Preserve => Ok(false),
            Then::Destroy => {
                self.destroy();
                Ok(false)
            }
            Then::Restart => {
                self.reload();
                self.destroy();
                self.boot().map(|()| true)
            }
            Then::RestartRename => {
                self.reload();
                self.set_aside()?;
                self.boot().map(|()| true)
            }
            Then::SoftReset => {
                self.reload();
                self.soft_reset().map(|()| true)
            }
        }
    }

    /// The file has the domain's name, as in xl. An older one is overwritten.
    fn dump_core(&self) {
        let file = dump_file(self.name());
        match self.means.host.dump_core(self.domid, &file) {
            Ok(()) => self.say(&format!("has its memory in {}", file.display())),
            Err(error) => self.say(&format!("has its memory in no file: {error}")),
        }
    }

    /// The configuration with which the domain is booted again: what `xl config-update` has left,
    /// or what it has now. Where neither can be had it is the one that was known before.
    fn reload(&mut self) {
        let updated = match self.means.host.take_xl_config(self.domid) {
            Ok(text) => text,
            Err(error) => {
                self.say(&format!("may have an updated configuration: {error}"));
                None
            }
        };
        let config = match updated {
            Some(text) => (self.means.xl_config)(&text).and_then(|json| parse(&json)),
            None => retrieve(self.means.host, self.domid),
        };
        match config {
            Ok(config) => self.config = config,
            Err(failure) => self.say(&format!("keeps its configuration: {failure}")),
        }
    }

    fn destroy(&self) {
        match self.means.host.destroy(self.domid) {
            Ok(()) | Err(HostError::NoSuchDomain(_)) => {}
            Err(error) => self.say(&format!("could not be destroyed: {error}")),
        }
    }

    /// Keeps the ended domain under another name.
    fn set_aside(&self) -> Result<(), Failure> {
        let suffix = clock::suffix(SystemTime::now());
        let set_aside = self.means.host.preserve(self.domid, &self.config, &suffix);
        set_aside.map_err(|error| {
            let what = format!("{} could not be renamed, and is left: {error}", self.name());
            Failure::new(Exit::DomainState, what).caused_by(error)
        })?;
        self.say(&format!("is kept as {}{suffix}", self.name()));
        Ok(())
    }

    /// A domain of the same configuration. Its number is another one: libxl refuses one that was
    /// used a minute ago (libxl_create.c: libxl__domain_make).
    fn boot(&mut self) -> Result<(), Failure> {
        self.config.forget_domid();
        std::thread::sleep(self.means.pause);
        self.domid = self.means.host.boot(&self.config).map_err(|error| {
            let what = format!("{} could not be booted again: {error}", self.name());
            Failure::new(Exit::DomainState, what).caused_by(error)
        })?;
        // It is new: nobody else can watch it.
        if let Some(lock) = self.means.state.watch_lock(self.domid)? {
            self._lock = lock;
        }
        self.unpause();
        Ok(())
    }

    /// A domain that could not be reset is destroyed, as in xl.
    fn soft_reset(&self) -> Result<(), Failure> {
        let reset = self.means.host.soft_reset(self.domid, &self.config);
        reset.map_err(|error| {
            self.destroy();
            let what = format!("{} could not be reset, and is destroyed: {error}", self.name());
            Failure::new(Exit::DomainState, what).caused_by(error)
        })?;
        self.unpause();
        Ok(())
    }

    fn unpause(&self) {
        if let Err(error) = self.means.host.unpause(self.domid) {
            self.say(&format!("does not run: {error}"));
        }
    }

    fn name(&self) -> &str {
        self.config.name().unwrap_or_default()
    }

    fn say(&self, what: &str) {
        let line = format!("{} (domain {}) {what}", self.name(), self.domid);
        (self.means.log)(&one_line(&line));
    }
}

fn retrieve(host: &dyn WatchHost, domid: DomId) -> Result<DomainConfig, Failure> {
    parse(&host.config_json(domid).map_err(Failure::from)?)
}

fn parse(json: &str) -> Result<DomainConfig, Failure> {
    DomainConfig::parse(json)
        .map_err(|error| Failure::new(Exit::Internal, format!("the configuration {error}")))
}

/// A name with a slash in it stays one file's name.
fn dump_file(name: &str) -> PathBuf {
    Path::new(DUMPS).join(name.replace('/', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_stays_in_its_directory() {
        assert_eq!(dump_file("dom3"), Path::new("/var/lib/xen/dump/dom3"));
        assert_eq!(dump_file("../../etc/x"), Path::new("/var/lib/xen/dump/.._.._etc_x"));
    }
}
