//! Why a program on another host is gone, and whether to try again.

use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};

use rxl_core::error::{Exit, Failure};

/// First pause before a host that turned a connection away is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause: each is twice the one before.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What ssh says where the server closed the connection before anybody was asked who comes: more
/// are not authenticated yet than its `MaxStartups` admits (sshd_config(5)), or it is too busy to
/// be in time.
const TURNED_AWAY: [&str; 6] = [
    "kex_exchange_identification",
    "ssh_exchange_identification",
    "Connection closed by",
    "Connection reset by",
    "Connection timed out during banner exchange",
    "Not allowed at this time",
];

/// What ssh says, before the connection is closed, where the server did ask.
const ASKED: [&str; 3] =
    ["Permission denied", "Too many authentication failures", "Host key verification failed"];

/// Whether these words of ssh's say that trying again may help.
pub(super) fn turned_away<'a>(mut lines: impl Iterator<Item = &'a str> + Clone) -> bool {
    let says = |line: &str, words: &[&str]| words.iter().any(|words| line.contains(words));
    lines.clone().any(|line| says(line, &TURNED_AWAY)) && !lines.any(|line| says(line, &ASKED))
}

/// The attempts to reach a host that turns connections away: with pauses that grow, and differ from
/// those of others who try at the same time.
#[derive(Debug)]
pub struct Retries {
    deadline: Instant,
    pause: Duration,
}

impl Retries {
    /// Attempts that begin before the deadline.
    pub fn until(deadline: Instant) -> Self {
        Self { deadline, pause: FIRST_PAUSE }
    }

    /// When the last attempt has to have succeeded.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The pause after an attempt that has failed; none where another would not help, or somebody
    /// has cancelled it meanwhile. `turned_away`: see [`super::Remote::was_turned_away`].
    pub fn after(&mut self, failure: &Failure, turned_away: bool) -> Option<Duration> {
        let may_help = turned_away && failure.exit != Exit::Cancelled;
        if may_help { self.pause() } else { None }
    }

    /// The pause before the next attempt; none where the deadline is nearer.
    fn pause(&mut self) -> Option<Duration> {
        let longest = self.pause;
        self.pause = longest.saturating_mul(2).min(LONGEST_PAUSE);
        let mut random = [0; 1];
        // An error leaves the pause at half.
        let _ = getrandom(&mut random, GetRandomFlags::NONBLOCK);
        let pause = longest / 2 + longest / 2 * u32::from(random[0]) / 256;
        (Instant::now() + pause < self.deadline).then_some(pause)
    }
}

/// What an exit status of ssh's, or of the shell's, means. `said` are its last words on standard
/// error; `printed` is the first line on standard output of a host whose program has not greeted.
pub(super) fn explain(
    host: &str,
    program: &str,
    code: Option<i32>,
    said: &str,
    printed: Option<&str>,
) -> Failure {
    let tool = program.split(' ').next().unwrap_or(program);
    let install = match tool {
        "rxl" => {
            "install the rxl package there, or put the rxl binary into its PATH as /usr/bin/rxl"
        }
        _ => "install Xen's tools there, or name what takes ssh's place with -s",
    };
    let unreachable = |what: String| Failure::new(Exit::Unreachable, what);
    match (code, printed) {
        (Some(127), _) => {
            Failure::new(Exit::NoPeer, format!("no {tool} on {host}{said}")).next(install)
        }
        (Some(255), _) => unreachable(format!("cannot reach {host}{said}"))
            .next(format!("check that `ssh {host} true` works as this user")),
        (_, Some(line)) => {
            let what = format!("{host} printed '{line}' where {program} was to answer{said}");
            Failure::new(Exit::NoPeer, what).next(format!(
                "`ssh {host} {tool} --version` must print the version alone: see the login \
                 shell's start-up files there, or the key's forced command"
            ))
        }
        (Some(code), None) => {
            unreachable(format!("{program} on {host} ended with status {code}{said}"))
                .next(format!("run `ssh {host} {tool} --help` to see what is there"))
        }
        (None, None) => unreachable(format!("{host} did not answer{said}"))
            .next(format!("check that `ssh {host} {tool} --help` works as this user")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_asked_was_not_turned_away() {
        let away = |words: &str| turned_away(words.split('/'));
        assert!(away("kex_exchange_identification: Connection closed by remote host"));
        assert!(away("a banner/Connection reset by 10.0.0.1 port 22"));
        assert!(!away("root@nodeB: Permission denied (publickey)./Connection closed by nodeB"));
        assert!(!away("ssh: Could not resolve hostname nodeB"));
    }

    #[test]
    fn pauses_grow_until_the_deadline() {
        let mut retries = Retries::until(Instant::now() + Duration::from_secs(60));
        let pauses: Vec<_> = (0..8).filter_map(|_| retries.pause()).collect();
        assert!(pauses[0] <= FIRST_PAUSE && pauses[0] >= FIRST_PAUSE / 2, "{pauses:?}");
        assert!(pauses[7] <= LONGEST_PAUSE && pauses[7] >= LONGEST_PAUSE / 2, "{pauses:?}");
        assert!(Retries::until(Instant::now()).pause().is_none());
    }
}
