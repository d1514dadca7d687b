//! `rxl ssh-gate`: the forced command of a key in authorized_keys (sshd(8)). It starts what rxl on
//! other hosts starts here, and nothing else.

use clap::Parser;
use clap::error::ErrorKind;

use crate::arguments::{Cli, Command};
use rxl_core::error::{Exit, Failure};
use rxl_core::text::one_line;

/// What the client asked for, as sshd passes it to a forced command.
const ASKED: &str = "SSH_ORIGINAL_COMMAND";

/// The command that was asked for, where this key may start it. None where it was help, which has
/// been printed.
pub fn admitted() -> Result<Option<Cli>, Failure> {
    let asked = std::env::var(ASKED).unwrap_or_default();
    match parse(&asked) {
        Ok(cli) => Ok(Some(cli)),
        Err(NotAdmitted::Help(text)) => text
            .print()
            .map(|()| None)
            .map_err(|error| Failure::internal("standard output", &error)),
        Err(NotAdmitted::Refused) => {
            let what = format!("this key does not start '{}' here", one_line(&asked));
            let next = "its forced command is `rxl ssh-gate`: `rxl receive`, `rxl agent serve` and \
                        `rxl migrate-receive` are all that it starts";
            Err(Failure::new(Exit::Usage, what).next(next))
        }
    }
}

enum NotAdmitted {
    Refused,
    Help(clap::Error),
}

/// Words are taken as they are: no shell sees them, and rxl alone is run.
fn parse(asked: &str) -> Result<Cli, NotAdmitted> {
    let words: Vec<&str> = asked.split_ascii_whitespace().collect();
    if words.first() != Some(&"rxl") {
        return Err(NotAdmitted::Refused);
    }
    let cli = Cli::try_parse_from(words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => NotAdmitted::Help(error),
        _ => NotAdmitted::Refused,
    })?;
    match cli.command {
        Command::Receive(_) | Command::Agent(_) | Command::MigrateReceive(_) => Ok(cli),
        _ => Err(NotAdmitted::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rxl_link::ssh::{AGENT_SERVER, RECEIVER};

    #[test]
    fn what_rxl_starts_elsewhere_is_admitted() {
        for asked in [RECEIVER, AGENT_SERVER, "rxl -t -T migrate-receive -e -p"] {
            assert!(parse(asked).is_ok(), "{asked}");
        }
        assert!(matches!(parse("rxl --version"), Err(NotAdmitted::Help(_))));
    }

    #[test]
    fn nothing_else_is() {
        for asked in [
            "",
            "sh",
            "rxl",
            "rxl migrate dom3 nodeC",
            "rxl save dom3 /etc/passwd",
            "rxl receive; sh",
            "rxl ssh-gate",
            "/tmp/rxl receive",
            "xl migrate-receive",
        ] {
            assert!(matches!(parse(asked), Err(NotAdmitted::Refused)), "{asked}");
        }
    }
}
