//! How a target is reached, and the command that reaches it.

use std::process::Command;
use std::time::Duration;

use super::{RECEIVER, XL_RECEIVER};
use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;

/// ssh asks a silent host for an answer after so many seconds.
const SSH_ALIVE_SECONDS: u64 = 5;

/// What `scp` gives to ssh, too: nothing of the user's ssh_config(5) that is for a login may stand
/// in the way. A forwarding whose port is bound by the first connection ends the second
/// (`ExitOnForwardFailure`), a `LocalCommand` writes to our standard output, and a `RemoteCommand`
/// would be run in place of ours.
const FOR_A_PROGRAM: [&str; 10] = [
    "-T",
    "-x",
    "-a",
    "-oClearAllForwardings=yes",
    "-oPermitLocalCommand=no",
    "-oRemoteCommand=none",
    "-o",
    "ConnectTimeout=30",
    "-o",
    "ServerAliveInterval=5",
];

/// How a target is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `ssh HOST rxl receive`.
    Ssh {
        /// The destination as ssh knows it: a host, `USER@HOST` or `ssh://[USER@]HOST[:PORT]`. An
        /// IPv6 address may stand in brackets.
        host: String,
    },
    /// `-s COMMAND`: `sh -c "exec COMMAND HOST rxl receive"`, as xl does it.
    Command {
        /// What takes ssh's place; a string for sh.
        command: String,
        /// The first argument of the command.
        host: String,
    },
    /// `-s ''`: the host argument is the whole command, for sh. It must end up in the receiver.
    Verbatim(String),
}

impl Route {
    /// The route that xl's option `-s` and the host argument name.
    pub fn new(ssh_command: Option<&str>, host: &str) -> Result<Self, Failure> {
        if host.is_empty() || host.starts_with('-') {
            let what = format!("'{}' is not a host", one_line(host));
            return Err(Failure::new(Exit::Usage, what).next("name the target as ssh knows it"));
        }
        Ok(match ssh_command {
            None => Self::Ssh { host: host.into() },
            Some("") => Self::Verbatim(host.into()),
            Some(command) => Self::Command { command: command.into(), host: host.into() },
        })
    }

    /// The target as the user named it.
    pub fn host(&self) -> &str {
        match self {
            Self::Ssh { host } | Self::Command { host, .. } => host,
            Self::Verbatim(command) => command,
        }
    }

    /// The target's name as ssh would connect to it, without user, port and brackets; none where
    /// the whole command was given.
    pub fn address(&self) -> Option<&str> {
        match self {
            Self::Ssh { host } | Self::Command { host, .. } => Some(Named::parse(host).address),
            Self::Verbatim(_) => None,
        }
    }

    /// The command that runs a program there. None where the user's own command line leaves no
    /// room for another one. ssh itself gives a host up that has been silent for longer than
    /// `silence`: whoever uses the connection has given it up then.
    pub(super) fn command(&self, program: &str, silence: Duration) -> Option<Command> {
        Some(match self {
            Self::Ssh { host } => {
                let mut ssh = Command::new("ssh");
                let questions = silence.as_secs().div_ceil(SSH_ALIVE_SECONDS).max(3);
                ssh.args(FOR_A_PROGRAM).arg(format!("-oServerAliveCountMax={questions}"));
                let named = Named::parse(host);
                match named.in_brackets {
                    // ssh takes no brackets, and no ssh:// with an address in them (ssh 9.2).
                    true => ssh.args(named.port.map(|port| format!("-p{port}"))),
                    false => &mut ssh,
                };
                ssh.args(["--", &named.for_ssh(host), program]);
                ssh
            }
            Self::Command { command, host } => shell(&format!("exec {command} {host} {program}")),
            Self::Verbatim(command) if [RECEIVER, XL_RECEIVER].contains(&program) => {
                shell(&format!("exec {command}"))
            }
            Self::Verbatim(_) => return None,
        })
    }
}

fn shell(script: &str) -> Command {
    let mut sh = Command::new("sh");
    sh.args(["-c", script]);
    sh
}

/// A destination, taken apart: `[USER@]HOST` or `ssh://[USER@]HOST[:PORT][/]`.
struct Named<'a> {
    user: Option<&'a str>,
    /// The host's name or address, without brackets.
    address: &'a str,
    port: Option<&'a str>,
    in_brackets: bool,
}

impl<'a> Named<'a> {
    fn parse(text: &'a str) -> Self {
        let (is_uri, rest) = match text.strip_prefix("ssh://") {
            Some(rest) => (true, rest.trim_end_matches('/')),
            None => (false, text),
        };
        let (user, place) =
            rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let bracketed = place.strip_prefix('[').and_then(|place| place.split_once(']'));
        if let Some((address, after)) = bracketed
            && (after.is_empty() || (is_uri && after.starts_with(':')))
        {
            return Self { user, address, port: after.strip_prefix(':'), in_brackets: true };
        }
        let (address, port) = match place.rsplit_once(':').filter(|_| is_uri) {
            Some((address, port)) => (address, Some(port)),
            None => (place, None),
        };
        Self { user, address, port, in_brackets: false }
    }

    /// What ssh is given: the text as it is, but for an address in brackets. In a URI its zone
    /// follows `%25` (RFC 6874).
    fn for_ssh(&self, text: &str) -> String {
        if !self.in_brackets {
            return text.into();
        }
        let address = self.address.replacen("%25", "%", 1);
        self.user.map_or_else(|| address.clone(), |user| format!("{user}@{address}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(host: &str) -> Vec<String> {
        let route = Route::new(None, host).unwrap();
        let command = route.command(RECEIVER, Duration::from_secs(120)).unwrap();
        command.get_args().map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn an_option_is_not_a_host() {
        assert_eq!(Route::new(None, "-oProxyCommand=true").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_host_is_named_in_all_of_sshs_ways() {
        for (host, address, given) in [
            ("nodeB", "nodeB", "-- nodeB"),
            ("root@nodeB", "nodeB", "-- root@nodeB"),
            ("fe80::1%eth0", "fe80::1%eth0", "-- fe80::1%eth0"),
            ("[::1]", "::1", "-- ::1"),
            ("root@[fe80::1%eth0]", "fe80::1%eth0", "-- root@fe80::1%eth0"),
            ("ssh://root@nodeB:2222", "nodeB", "-- ssh://root@nodeB:2222"),
            ("ssh://nodeB/", "nodeB", "-- ssh://nodeB/"),
            ("ssh://root@[::1]:2222", "::1", "-p2222 -- root@::1"),
            ("ssh://[fe80::1%25eth0]", "fe80::1%25eth0", "-- fe80::1%eth0"),
        ] {
            assert_eq!(Route::new(None, host).unwrap().address(), Some(address), "{host}");
            let words = arguments(host).join(" ");
            assert!(words.ends_with(&format!("{given} rxl receive")), "{host}: {words}");
            assert_eq!(words.contains("-p"), given.starts_with("-p"), "{host}: {words}");
        }
        assert_eq!(Route::new(Some(""), "ssh nodeB rxl receive").unwrap().address(), None);
    }

    /// ssh would end a connection that rxl still waits for.
    #[test]
    fn ssh_is_more_patient_than_the_session() {
        let words = arguments("nodeB");
        assert!(words.contains(&"-oServerAliveCountMax=24".to_owned()), "{words:?}");
    }
}
