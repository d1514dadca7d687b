//! A failure of libxl, with what it logged.

use std::fmt;

/// libxl's return code with the last lines of its own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Negative: one of libxl's `ERROR_*` (libxl_types.idl: `libxl_error`), or what libxc and
    /// xenstore report.
    pub rc: i32,
    /// The operation's last lines of level error or worse, oldest first.
    pub lines: Vec<String>,
}

impl Failure {
    /// A failure that libxl has no code for.
    pub(super) fn of(line: impl Into<String>) -> Self {
        Self { rc: libxl_sys::ERROR_FAIL, lines: vec![line.into()] }
    }

    /// The operation was to be aborted before libxl had begun it.
    pub(super) fn aborted() -> Self {
        Self { rc: libxl_sys::ERROR_ABORTED, lines: Vec::new() }
    }

    /// The domain does not exist, or no longer.
    pub fn is_not_found(&self) -> bool {
        [libxl_sys::ERROR_DOMAIN_NOTFOUND, libxl_sys::ERROR_DOMAIN_DESTROYED].contains(&self.rc)
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name(self.rc) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "return code {}", self.rc)?,
        }
        match self.lines.as_slice() {
            [] => Ok(()),
            lines => write!(f, ": {}", lines.join("; ")),
        }
    }
}

fn name(rc: i32) -> Option<&'static str> {
    Some(match rc {
        libxl_sys::ERROR_NONSPECIFIC => "ERROR_NONSPECIFIC",
        libxl_sys::ERROR_VERSION => "ERROR_VERSION",
        libxl_sys::ERROR_FAIL => "ERROR_FAIL",
        libxl_sys::ERROR_NI => "ERROR_NI",
        libxl_sys::ERROR_NOMEM => "ERROR_NOMEM",
        libxl_sys::ERROR_INVAL => "ERROR_INVAL",
        libxl_sys::ERROR_BADFAIL => "ERROR_BADFAIL",
        libxl_sys::ERROR_GUEST_TIMEDOUT => "ERROR_GUEST_TIMEDOUT",
        libxl_sys::ERROR_TIMEDOUT => "ERROR_TIMEDOUT",
        libxl_sys::ERROR_NOPARAVIRT => "ERROR_NOPARAVIRT",
        libxl_sys::ERROR_NOT_READY => "ERROR_NOT_READY",
        libxl_sys::ERROR_BUFFERFULL => "ERROR_BUFFERFULL",
        libxl_sys::ERROR_LOCK_FAIL => "ERROR_LOCK_FAIL",
        libxl_sys::ERROR_JSON_CONFIG_EMPTY => "ERROR_JSON_CONFIG_EMPTY",
        libxl_sys::ERROR_DEVICE_EXISTS => "ERROR_DEVICE_EXISTS",
        libxl_sys::ERROR_VNUMA_CONFIG_INVALID => "ERROR_VNUMA_CONFIG_INVALID",
        libxl_sys::ERROR_DOMAIN_NOTFOUND => "ERROR_DOMAIN_NOTFOUND",
        libxl_sys::ERROR_ABORTED => "ERROR_ABORTED",
        libxl_sys::ERROR_NOTFOUND => "ERROR_NOTFOUND",
        libxl_sys::ERROR_DOMAIN_DESTROYED => "ERROR_DOMAIN_DESTROYED",
        libxl_sys::ERROR_FEATURE_REMOVED => "ERROR_FEATURE_REMOVED",
        libxl_sys::ERROR_PROTOCOL_ERROR_QMP => "ERROR_PROTOCOL_ERROR_QMP",
        libxl_sys::ERROR_UNKNOWN_QMP_ERROR => "ERROR_UNKNOWN_QMP_ERROR",
        libxl_sys::ERROR_QMP_GENERIC_ERROR => "ERROR_QMP_GENERIC_ERROR",
        libxl_sys::ERROR_QEMU_API => "ERROR_QEMU_API",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_code_and_carries_the_lines() {
        let lines = vec!["saving domain: domain did not respond to suspend request".to_owned()];
        let failure = Failure { rc: libxl_sys::ERROR_GUEST_TIMEDOUT, lines };
        assert_eq!(
            failure.to_string(),
            "ERROR_GUEST_TIMEDOUT: saving domain: domain did not respond to suspend request"
        );
        assert_eq!(Failure { rc: -4711, lines: vec![] }.to_string(), "return code -4711");
    }
}
