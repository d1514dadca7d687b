//! What the host in memory does where a session asks it for something.

use std::fs::File;
use std::os::fd::OwnedFd;

use rxl_core::domain::{DomId, Domain, GuestType, HostFacts, RunState, Vif};
use rxl_core::domain_config::DomainConfig;
use rxl_core::host_error::HostError;
use rxl_core::operation::Operation;
use rxl_core::state_dir::DomainLock;
use rxl_core::steering::Walker;
use rxl_host::guard_line::Guard;
use rxl_host::host::{Host, RestoreRequest, Save};
use rxl_host::watcher::NotStarted;

use super::guard::Heard;
use super::restore::read_stream;
use super::save::SyntheticSave;
use super::{Faults, Kept, MemoryHost, Summing, abort, boot, failed};

impl Host for MemoryHost {
    fn facts(&self) -> Result<HostFacts, HostError> {
        Ok(self.lock().facts.clone())
    }

    fn memory_needed(&self, config: &DomainConfig) -> Result<u64, HostError> {
        Ok(boot::needed(config))
    }

    fn find(&self, name_or_domid: &str) -> Result<Domain, HostError> {
        let wanted = name_or_domid.parse().map(DomId).ok();
        let state = self.lock();
        let found = state.domains.values().find(|kept| match wanted {
            Some(domid) => kept.domain.domid == domid,
            None => kept.domain.name == name_or_domid,
        });
        found
            .map(|kept| kept.domain.clone())
            .ok_or_else(|| HostError::NoSuchDomain(name_or_domid.into()))
    }

    fn domain(&self, domid: DomId) -> Result<Domain, HostError> {
        self.find(&domid.to_string())
    }

    fn config_json(&self, domid: DomId) -> Result<String, HostError> {
        self.configuration(domid)
    }

    fn boot(&self, config: &DomainConfig) -> Result<DomId, HostError> {
        self.boot_paused(config)
    }

    fn save(&self, domid: DomId, save: Save) -> Result<Operation<()>, HostError> {
        let Save { stream, flags, walker, notes, steering, feed } = save;
        if self.faults().save_start {
            return Err(failed("save", "as asked, before it began"));
        }
        let guest = self.lock().domains.get(&domid).and_then(|kept| kept.guest.clone());
        let guest = guest.ok_or_else(|| HostError::NoSuchDomain(domid.to_string()))?;
        let (aborted, abort) = abort();
        let saving = SyntheticSave {
            host: self.clone(),
            domid,
            guest,
            output: Summing::new(File::from(stream)),
            notes,
            steering,
            aborted,
            generation: 0,
        };
        match walker {
            Walker::Rxl => Operation::spawn("save", abort, move || saving.walk(flags, feed)),
            Walker::Libxc | Walker::Stock => {
                Operation::spawn("save", abort, move || saving.run(flags))
            }
        }
    }

    fn restore(
        &self,
        request: RestoreRequest,
        stream: OwnedFd,
    ) -> Result<Operation<DomId>, HostError> {
        if self.faults().memory_taken {
            return Err(HostError::no_memory("another domain was faster"));
        }
        let most = request.config().max_memory_kib();
        let kib = request.config().target_memory_kib().or(most).unwrap_or(0);
        let domid = self.lock().add(request.name(), GuestType::Pvh, RunState::Paused, kib, None);
        let (aborted, abort) = abort();
        let host = self.clone();
        let Faults { restore_after: limit, restore_at_end, .. } = self.faults();
        Operation::spawn("restore", abort, move || {
            let _notes = request.notes;
            let restored = read_stream(Summing::new(File::from(stream)), &aborted, limit);
            let restored = restored.and_then(|sum| {
                if restore_at_end { Err(failed("restore", "as asked")) } else { Ok(sum) }
            });
            match restored {
                Ok(sum) => host.change(domid, |kept| kept.stream = Some(sum)).map(|()| domid),
                Err(error) => {
                    host.lock().remove(domid);
                    Err(error)
                }
            }
        })
    }

    fn resume(&self, domid: DomId) -> Result<(), HostError> {
        let resumed =
            |kept: &mut Kept| if kept.paused { RunState::Paused } else { RunState::Running };
        self.change(domid, |kept| kept.domain.state = resumed(kept))
    }

    fn guard(&self, _lock: &DomainLock) -> std::io::Result<Guard> {
        let state = self.lock();
        let (words, exit) = (state.words.clone(), state.guard_exit);
        Ok(words.map_or_else(Guard::none, |words| Guard::new(Heard { words, exit })))
    }

    fn watch(&self, domid: DomId) -> Result<(), NotStarted> {
        self.lock().watching.started.push(domid);
        Ok(())
    }

    fn note_watched(&self, domid: DomId) -> Result<(), NotStarted> {
        let mut state = self.lock();
        state.watching.noted.retain(|noted| *noted != domid);
        if state.watching.is_watched(domid) {
            state.watching.noted.push(domid);
        }
        Ok(())
    }

    fn watch_again(&self, domid: DomId) -> Result<(), NotStarted> {
        let was = self.lock().watching.noted.contains(&domid);
        if was { self.watch(domid) } else { Ok(()) }
    }

    fn rename(&self, domid: DomId, from: &str, to: &str) -> Result<(), HostError> {
        if self.faults().rename {
            return Err(failed("rename", "as asked"));
        }
        if self.find(to).is_ok() {
            return Err(HostError::NameTaken(to.into()));
        }
        let mut same = false;
        self.change(domid, |kept| {
            same = kept.domain.name == from;
            if same {
                kept.domain.name = to.into();
            }
        })?;
        if !same {
            return Err(failed("rename", format!("it is not named {from}")));
        }
        let hook = self.lock().renamed.take();
        if let Some(hook) = hook {
            hook();
        }
        Ok(())
    }

    fn pause(&self, domid: DomId) -> Result<(), HostError> {
        self.change(domid, |kept| {
            kept.paused = true;
            if kept.domain.state == RunState::Running {
                kept.domain.state = RunState::Paused;
            }
        })
    }

    fn unpause(&self, domid: DomId) -> Result<(), HostError> {
        if self.faults().unpause {
            return Err(failed("unpause", "as asked"));
        }
        self.change(domid, |kept| {
            kept.paused = false;
            kept.domain.state = RunState::Running;
        })
    }

    fn destroy(&self, domid: DomId) -> Result<(), HostError> {
        if self.faults().destroy {
            return Err(failed("destroy", "as asked"));
        }
        let removed = self.lock().remove(domid);
        removed.map(|_| ()).ok_or_else(|| HostError::NoSuchDomain(domid.to_string()))
    }

    fn vifs(&self, _domid: DomId) -> Result<Vec<Vif>, HostError> {
        Ok(Vec::new())
    }

    fn tell_agent(&self, domid: DomId, command: &str) -> Result<(), HostError> {
        self.change(domid, |kept| kept.agent_command = Some(command.into()))
    }

    fn withdraw_suspend(&self, domid: DomId) -> Result<bool, HostError> {
        let mut pending = false;
        self.change(domid, |kept| pending = std::mem::take(&mut kept.suspend_pending))?;
        Ok(pending)
    }

    fn mark(&self, domid: DomId, migration: &str) -> Result<(), HostError> {
        self.change(domid, |kept| kept.mark = Some(migration.into()))
    }

    fn mark_of(&self, domid: DomId) -> Result<Option<String>, HostError> {
        let state = self.lock();
        let kept = state.domains.get(&domid);
        let kept = kept.ok_or_else(|| HostError::NoSuchDomain(domid.to_string()))?;
        Ok(kept.mark.clone())
    }

    fn logdirty_off(&self, domid: DomId) -> Result<(), HostError> {
        if self.faults().logdirty {
            return Err(failed("log-dirty mode", "as asked"));
        }
        self.change(domid, |kept| kept.log_dirty = false)
    }
}
