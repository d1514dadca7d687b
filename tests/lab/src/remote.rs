//! Commands that run on while a test does something else.

use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::host::{Host, quote};
use crate::process::{Collected, Output, Reaped, status_number, wait_for};

const START_LIMIT: Duration = Duration::from_secs(60);
const SIGNAL_LIMIT: Duration = Duration::from_secs(60);

/// How long output is awaited after the command's end.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

/// A command on a host. It is killed when dropped, with all processes of its group.
pub struct RemoteProcess {
    host: Host,
    command: String,
    ssh: Reaped,
    stdout: Collected,
    stderr: Collected,
    readers: Vec<JoinHandle<()>>,
    finished: Option<i32>,
}

impl RemoteProcess {
    pub(crate) fn start(host: Host, command: &str) -> Result<Self> {
        // The first line tells the process group; sshd has made the shell a group's leader. A
        // single command replaces the inner shell.
        let remote = format!("echo $$; exec bash -c {}", quote(command));
        let mut ssh = Reaped::spawn(
            host.ssh()
                .arg(remote)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        )?;
        let (stdout, stderr) = (Collected::default(), Collected::default());
        let child = ssh.child();
        let readers = [
            child.stdout.take().map(|pipe| stdout.start(pipe)),
            child.stderr.take().map(|pipe| stderr.start(pipe)),
        ];
        let readers = readers.into_iter().flatten().collect();
        Ok(Self { host, command: command.to_owned(), ssh, stdout, stderr, readers, finished: None })
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout
            .text()
            .split_once('\n')
            .map_or_else(String::new, |(_group, output)| output.to_owned())
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Whether the command has not ended yet.
    ///
    /// # Errors
    /// The state of ssh cannot be read.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.poll(Instant::now())?.is_none())
    }

    /// Waits until the standard output holds `text`.
    ///
    /// # Errors
    /// The command ended, or the deadline came, before that.
    pub fn wait_for_stdout(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let what = format!("{}: `{}` printing {text:?}", self.host.name(), self.command);
        wait_for(&what, deadline, || {
            let ended = !self.is_running()?;
            if self.stdout().contains(text) {
                return Ok(Some(()));
            }
            if ended {
                bail!("{what}: it ended; stdout: {}; stderr: {}", self.stdout(), self.stderr());
            }
            Ok(None)
        })
    }

    /// Sends a signal to the command and the processes of its group, as a terminal's Ctrl-C does.
    ///
    /// # Errors
    /// The command did not start, or its host cannot be reached. A command that has ended already
    /// is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let group = wait_for("the remote process group", START_LIMIT, || Ok(self.group()))?;
        let name = signal.as_str().trim_start_matches("SIG");
        self.host.run(&format!("kill -s {name} -- -{group}"), SIGNAL_LIMIT).map(drop)
    }

    /// Waits for the end and returns all that was written.
    ///
    /// # Errors
    /// The command does not end before the deadline; it goes on then.
    pub fn wait(&mut self, deadline: Duration) -> Result<Output> {
        let status = self.poll(Instant::now() + deadline)?.with_context(|| {
            format!(
                "{}: `{}` did not end within {deadline:?}; stdout: {}; stderr: {}",
                self.host.name(),
                self.command,
                self.stdout(),
                self.stderr()
            )
        })?;
        Ok(Output { status, stdout: self.stdout(), stderr: self.stderr() })
    }

    fn poll(&mut self, until: Instant) -> Result<Option<i32>> {
        if self.finished.is_none() {
            self.finished = self.ssh.wait_until(until)?.map(status_number);
            if self.finished.is_some() {
                self.await_output();
            }
        }
        Ok(self.finished)
    }

    fn await_output(&self) {
        // Past the limit, something else holds the pipes open: what came until then is the output.
        let _ = wait_for("the last output", LAST_OUTPUT, || {
            Ok(self.readers.iter().all(JoinHandle::is_finished).then_some(()))
        });
    }

    fn group(&self) -> Option<u32> {
        self.stdout.text().split_once('\n')?.0.parse().ok()
    }
}

impl Drop for RemoteProcess {
    fn drop(&mut self) {
        if self.finished.is_none() && self.group().is_some() {
            // A host that is down or frozen has nothing left to kill.
            let _ = self.signal(Signal::SIGKILL);
        }
    }
}
