//! Commands on the lab's hosts and guests, over ssh.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{self, Output};
use crate::remote::RemoteProcess;
use crate::topology::{GUESTS, Node};

/// How long a command's remote side may outlive the deadline before it is ended there.
const REMOTE_GRACE: Duration = Duration::from_secs(1);

const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// A nested host, or a guest that runs sshd. Cheap to clone; the commands of all clones share one
/// connection.
#[derive(Clone, Debug)]
pub struct Host {
    /// The host's alias in the lab's ssh configuration.
    alias: String,
    config: PathBuf,
}

impl Host {
    pub(crate) fn new(run_dir: &Path, alias: &str) -> Self {
        Self { alias: alias.to_owned(), config: config_path(run_dir) }
    }

    /// What the lab's ssh configuration calls it.
    pub fn name(&self) -> &str {
        &self.alias
    }

    /// An `ssh` command for this host, to be completed with options and a remote command.
    pub fn ssh(&self) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(&self.config).arg(&self.alias);
        command
    }

    /// Runs a bash command line to its end. It has no input.
    ///
    /// # Errors
    /// It does not end before `deadline`, counted from now; it is ended then. A status other than 0
    /// is no error here.
    pub fn run(&self, command: &str, deadline: Duration) -> Result<Output> {
        self.run_with_input(command, Vec::new(), deadline)
    }

    /// Like [`Host::run`], with `input` as standard input.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn run_with_input(
        &self,
        command: &str,
        input: Vec<u8>,
        deadline: Duration,
    ) -> Result<Output> {
        let limit = (deadline + REMOTE_GRACE).as_secs() + 1;
        let remote = format!("timeout --kill-after=5 {limit} bash -c {}", quote(command));
        process::run(self.ssh().arg(remote), input, deadline)
            .with_context(|| format!("{}: {command}", self.alias))
    }

    /// Like [`Host::run`], but a status other than 0 is an error that holds the command and its
    /// output.
    ///
    /// # Errors
    /// The command failed or did not end before the deadline.
    pub fn check(&self, command: &str, deadline: Duration) -> Result<Output> {
        let output = self.run(command, deadline)?;
        if !output.success() {
            bail!(
                "{}: `{command}` ended with {}\nstdout: {}\nstderr: {}",
                self.alias,
                output.status,
                output.stdout.trim_end(),
                output.stderr.trim_end()
            );
        }
        Ok(output)
    }

    /// Starts a bash command line and returns at once.
    ///
    /// # Errors
    /// ssh cannot be started.
    pub fn spawn(&self, command: &str) -> Result<RemoteProcess> {
        RemoteProcess::start(self.clone(), command)
    }

    /// Copies a local file here, with its permissions; an existing one is replaced in one step, so
    /// that a program may be replaced while it runs.
    ///
    /// # Errors
    /// The local file cannot be read, or the remote one not be written before the deadline.
    pub fn put(&self, local: &Path, remote: &str, deadline: Duration) -> Result<()> {
        let bytes = fs::read(local).with_context(|| format!("reading {}", local.display()))?;
        let mode = fs::metadata(local)?.permissions().mode() & 0o777;
        self.store(remote, bytes, mode, deadline)
    }

    /// Writes a file of mode 644.
    ///
    /// # Errors
    /// As [`Host::put`].
    pub fn write(&self, remote: &str, bytes: &[u8], deadline: Duration) -> Result<()> {
        self.store(remote, bytes.to_vec(), 0o644, deadline)
    }

    fn store(&self, remote: &str, bytes: Vec<u8>, mode: u32, deadline: Duration) -> Result<()> {
        let (target, unfinished) = (quote(remote), quote(&format!("{remote}.unfinished")));
        let expected = bytes.len();
        // The size is compared because the end of the input looks alike whether all was sent or the
        // connection was lost.
        let command = format!(
            "set -e; mkdir -p \"$(dirname {target})\"; cat > {unfinished}; test \"$(stat -c %s \
             {unfinished})\" = {expected}; chmod {mode:o} {unfinished}; mv -T {unfinished} {target}"
        );
        let output = self.run_with_input(&command, bytes, deadline)?;
        if !output.success() {
            bail!("{}: cannot write {remote}: {}", self.alias, output.stderr.trim_end());
        }
        Ok(())
    }

    /// Copies a file from here to a local path, whose directory must exist.
    ///
    /// # Errors
    /// The file cannot be read before the deadline, or not be written locally.
    pub fn get(&self, remote: &str, local: &Path, deadline: Duration) -> Result<()> {
        let file =
            fs::File::create(local).with_context(|| format!("creating {}", local.display()))?;
        let limit = (deadline + REMOTE_GRACE).as_secs() + 1;
        let mut command = self.ssh();
        command.arg(format!("timeout --kill-after=5 {limit} cat {}", quote(remote)));
        let (status, stderr) = process::run_into(&mut command, file, deadline)?;
        if status != 0 {
            bail!("{}: cannot read {remote}: {}", self.alias, stderr.trim_end());
        }
        Ok(())
    }

    /// Ends the shared connection, if there is one. The next command opens another.
    pub(crate) fn close(&self) {
        // Without a connection ssh fails, which is as well.
        let _ = process::run(self.ssh().args(["-O", "exit"]), Vec::new(), CLOSE_LIMIT);
    }
}

/// Quotes a word for a POSIX shell.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn config_path(run_dir: &Path) -> PathBuf {
    run_dir.join("ssh_config")
}

/// The alias of a guest as reached through a node.
pub(crate) fn guest_alias(guest: &str, via: Node) -> String {
    format!("{guest}.{via}")
}

/// Writes the ssh configuration for hosts whose sshd is behind the given local ports.
pub(crate) fn write_ssh_config(run_dir: &Path, key: &Path, ports: &[(Node, u16)]) -> Result<()> {
    let config = config_path(run_dir);
    let mut text = String::new();
    for (node, port) in ports {
        text += &format!("Host {node}\n    HostName 127.0.0.1\n    Port {port}\n");
    }
    for guest in GUESTS.iter().filter(|guest| guest.ssh) {
        for (via, _) in ports {
            text += &format!(
                "Host {}\n    HostName {}\n    ProxyCommand ssh -F {} -W %h:%p {via}\n",
                guest_alias(guest.name, *via),
                guest.ip,
                config.display()
            );
        }
    }
    text += &format!(
        "Host *\n    User root\n    IdentityFile {}\n    IdentitiesOnly yes\n    BatchMode \
         yes\n    StrictHostKeyChecking no\n    UserKnownHostsFile \
         /dev/null\n    GlobalKnownHostsFile /dev/null\n    KexAlgorithms \
         curve25519-sha256\n    LogLevel ERROR\n    ConnectTimeout \
         60\n    ControlMaster auto\n    ControlPersist 3600\n    ControlPath {}/%n.ssh\n",
        key.display(),
        run_dir.display()
    );
    fs::write(&config, text).with_context(|| format!("writing {}", config.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_survive_a_shell() {
        for word in ["plain", "it's", "a b", "$HOME \"`x`\\", "'"] {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("printf %s {}", quote(word))]);
            let output = process::run(&mut command, Vec::new(), Duration::from_secs(10)).unwrap();
            assert_eq!(output.stdout, word);
        }
    }
}
