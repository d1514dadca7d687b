//! What is to be done about an event of a domain's.

use rxl_core::shutdown::{Action, Actions, DomainEvent};

/// What the watcher does about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The guest may run on, as it is being saved: its next event is waited for. xl of Xen 4.17 to
    /// 4.19 ends here; from 4.20 on it waits, too.
    WaitOn,
    /// The domain is gone, destroyed by somebody else: there is nothing more to watch.
    End,
    /// The guest has ended.
    Act {
        /// Its memory is written to a file first.
        dump: bool,
        then: Then,
    },
}

/// What becomes of a domain whose guest has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is destroyed.
    Destroy,
    /// It is destroyed, and booted again.
    Restart,
    /// It stays under another name, and a new one is booted under its own.
    RestartRename,
    /// It stays as it is.
    Preserve,
    /// The kernel that it has loaded is started in it.
    SoftReset,
}

/// Decides as xl does (xl_vmcontrol.c: handle_domain_death).
pub fn decide(event: DomainEvent, actions: &Actions) -> Decision {
    let DomainEvent::Shutdown(reason) = event else { return Decision::End };
    let Some(action) = actions.on(reason) else { return Decision::WaitOn };
    let (dump, then) = match action {
        Action::Destroy => (false, Then::Destroy),
        Action::Restart => (false, Then::Restart),
        Action::RestartRename => (false, Then::RestartRename),
        Action::Preserve => (false, Then::Preserve),
        Action::CoredumpDestroy => (true, Then::Destroy),
        Action::CoredumpRestart => (true, Then::Restart),
        Action::SoftReset => (false, Then::SoftReset),
    };
    Decision::Act { dump, then }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rxl_core::shutdown::ShutdownReason;

    /// What xl 4.17 does for each action, read from handle_domain_death and what follows it in
    /// create_domain.
    const XL: [(Action, bool, Then); 7] = [
        (Action::Destroy, false, Then::Destroy),
        (Action::Restart, false, Then::Restart),
        (Action::RestartRename, false, Then::RestartRename),
        (Action::Preserve, false, Then::Preserve),
        (Action::CoredumpDestroy, true, Then::Destroy),
        (Action::CoredumpRestart, true, Then::Restart),
        (Action::SoftReset, false, Then::SoftReset),
    ];

    /// Actions that differ for each reason, so that one taken for another shows: `action` for the
    /// one that is asked about, something else for the others.
    fn only(reason: ShutdownReason, action: Action) -> Actions {
        let other = if action == Action::Preserve { Action::Destroy } else { Action::Preserve };
        let of = |its| if its == reason { action } else { other };
        Actions {
            on_poweroff: of(ShutdownReason::Poweroff),
            on_reboot: of(ShutdownReason::Reboot),
            on_crash: of(ShutdownReason::Crash),
            on_watchdog: of(ShutdownReason::Watchdog),
            on_soft_reset: of(ShutdownReason::SoftReset),
        }
    }

    #[test]
    fn every_reason_takes_its_own_action_as_in_xl() {
        let reasons = [
            ShutdownReason::Poweroff,
            ShutdownReason::Reboot,
            ShutdownReason::Crash,
            ShutdownReason::Watchdog,
            ShutdownReason::SoftReset,
        ];
        for reason in reasons {
            for (action, dump, then) in XL {
                let event = DomainEvent::Shutdown(reason);
                let decision = decide(event, &only(reason, action));
                assert_eq!(decision, Decision::Act { dump, then }, "{reason:?} {action:?}");
            }
        }
    }

    #[test]
    fn what_has_no_action_in_a_configuration() {
        let preserve = only(ShutdownReason::Suspend, Action::Destroy);
        let decided = |event| decide(event, &preserve);
        assert_eq!(decided(DomainEvent::Shutdown(ShutdownReason::Suspend)), Decision::WaitOn);
        assert_eq!(decided(DomainEvent::Death), Decision::End);
        assert_eq!(
            decided(DomainEvent::Shutdown(ShutdownReason::Other(77))),
            Decision::Act { dump: false, then: Then::Destroy }
        );
    }
}
