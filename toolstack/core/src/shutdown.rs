//! How a domain's guest ends, and what its configuration wants done then.

use serde::Deserialize;
use serde_json::Value;

/// Why a guest has shut down (`libxl_shutdown_reason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownReason {
    Poweroff,
    Reboot,
    /// It stands still for a save, and may run on.
    Suspend,
    Crash,
    /// Its watchdog has run out.
    Watchdog,
    /// It has loaded another kernel (kexec) that is to start in the same domain.
    SoftReset,
    /// A code that Xen does not name, or none.
    Other(i32),
}

impl ShutdownReason {
    /// The reason of this code (xen/include/public/sched.h: `SHUTDOWN_*`).
    pub fn of_code(code: i32) -> Self {
        match code {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            code => Self::Other(code),
        }
    }
}

/// What became of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainEvent {
    /// Its guest has ended, or stands still.
    Shutdown(ShutdownReason),
    /// It is being destroyed, or gone.
    Death,
}

/// What is to be done when a guest has ended (`libxl_action_on_shutdown`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    #[default]
    Destroy,
    Restart,
    /// Keep the old domain under another name, and start a new one.
    RestartRename,
    Preserve,
    CoredumpDestroy,
    CoredumpRestart,
    SoftReset,
}

impl Action {
    /// All, with libxl's words for them.
    pub const ALL: [(&'static str, Self); 7] = [
        ("destroy", Self::Destroy),
        ("restart", Self::Restart),
        ("restart_rename", Self::RestartRename),
        ("preserve", Self::Preserve),
        ("coredump_destroy", Self::CoredumpDestroy),
        ("coredump_restart", Self::CoredumpRestart),
        ("soft_reset", Self::SoftReset),
    ];

    /// libxl's word for it.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, action)| *action == self).map_or("", |(word, _)| word)
    }
}

/// libxl reads the same words in any case. One that it does not know it refuses when the domain is
/// built, so none arrives here from a domain: such a configuration counts as if it said nothing.
impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let word = value.as_str().unwrap_or_default();
        let found = Self::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
        Ok(found.map(|(_, action)| *action).unwrap_or_default())
    }
}

/// The actions of a domain's configuration. What is missing is `destroy`, libxl's default, which
/// libxl leaves out when it writes JSON; xl's own defaults stand in the JSON (xl_parse.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Actions {
    pub on_poweroff: Action,
    pub on_reboot: Action,
    pub on_crash: Action,
    pub on_watchdog: Action,
    pub on_soft_reset: Action,
}

impl Actions {
    /// What is to be done about a guest that ended for this reason. None where it may run on.
    pub fn on(&self, reason: ShutdownReason) -> Option<Action> {
        match reason {
            ShutdownReason::Poweroff => Some(self.on_poweroff),
            ShutdownReason::Reboot => Some(self.on_reboot),
            ShutdownReason::Suspend => None,
            ShutdownReason::Crash => Some(self.on_crash),
            ShutdownReason::Watchdog => Some(self.on_watchdog),
            ShutdownReason::SoftReset => Some(self.on_soft_reset),
            // As xl (xl_vmcontrol.c: handle_domain_death).
            ShutdownReason::Other(_) => Some(Action::Destroy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_xens() {
        let named = [
            ShutdownReason::Poweroff,
            ShutdownReason::Reboot,
            ShutdownReason::Suspend,
            ShutdownReason::Crash,
            ShutdownReason::Watchdog,
            ShutdownReason::SoftReset,
        ];
        for (code, reason) in (0..).zip(named) {
            assert_eq!(ShutdownReason::of_code(code), reason);
        }
        assert_eq!(ShutdownReason::of_code(-1), ShutdownReason::Other(-1));
    }

    #[test]
    fn what_is_missing_or_unknown_is_libxls_default() {
        let json = r#"{"on_reboot":"restart","on_crash":"RESTART_RENAME","on_watchdog":null,
            "on_soft_reset":"explode","c_info":{}}"#;
        let actions: Actions = serde_json::from_str(json).unwrap();
        let wanted = Actions {
            on_reboot: Action::Restart,
            on_crash: Action::RestartRename,
            ..Actions::default()
        };
        assert_eq!(actions, wanted);
        assert_eq!(actions.on(ShutdownReason::Poweroff), Some(Action::Destroy));
        assert_eq!(actions.on(ShutdownReason::Other(9)), Some(Action::Destroy));
        assert_eq!(actions.on(ShutdownReason::Suspend), None);
    }

    #[test]
    fn every_word_is_read_as_it_is_written() {
        for (word, action) in Action::ALL {
            assert_eq!(serde_json::from_value::<Action>(word.into()).unwrap(), action);
            assert_eq!(action.word(), word);
        }
    }
}
