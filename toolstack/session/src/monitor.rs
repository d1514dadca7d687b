//! `rxl status` and `rxl cancel`: what a running migration answers from another terminal.
//!
//! Each migration listens on `/run/rxl/migration-DOMID.sock`, which root alone can reach. A client
//! says one word and a newline; `status` is answered with one line of JSON ([`MigrationStatus`]),
//! `cancel` with `ok`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::events::Event;
use rxl_core::deadlines;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::{Cancel, wait_readable};
use rxl_core::state_dir::StateDir;
use rxl_core::text::one_line;
use rxl_core::worker::Worker;

/// How often the listener looks whether it is still wanted, at the least.
const IDLE: Duration = Duration::from_secs(3600);

/// Longest line in bytes.
const MAX_LINE: u64 = 16 << 10;

/// A running migration. Times in ms, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationStatus {
    /// The domain's name.
    pub domain: String,
    /// Its number here.
    pub domid: u32,
    /// The target, as the user named it.
    pub target: String,
    /// The process that migrates it.
    pub pid: u32,
    /// `setup`, `precopy`, `last-pages`, `ready` or `resume`.
    pub state: String,
    /// The iteration under way, from 0.
    #[serde(rename = "round")]
    pub iteration: Option<u32>,
    /// Page numbers sent in it.
    #[serde(rename = "round-pages")]
    pub iteration_pages: Option<u64>,
    /// Page numbers that it is to send.
    pub dirty_pages: Option<u64>,
    /// Pages that the target restores a second, of late.
    pub pages_per_second: Option<f64>,
    /// What the pages that were dirty after the last iteration would have taken.
    pub expected_downtime: Option<f64>,
    /// Until the end of the iteration under way.
    pub eta: Option<f64>,
    /// On the wire so far.
    pub transferred: u64,
    /// Since the command began.
    pub total_time: f64,
}

impl MigrationStatus {
    /// One line for people.
    pub fn describe(&self) -> String {
        let mut line = format!(
            "{} ({}) to {}: {}",
            self.domain,
            self.domid,
            one_line(&self.target),
            self.state
        );
        if let (Some(iteration), Some(sent)) = (self.iteration, self.iteration_pages) {
            line += &format!(", round {iteration}: {sent}");
            line += &self.dirty_pages.map_or_else(String::new, |dirty| format!(" of {dirty}"));
            line += " pages";
        }
        if let Some(rate) = self.pages_per_second {
            line += &format!(", {rate:.0} pages/s");
        }
        if let Some(expected) = self.expected_downtime {
            line += &format!(", expected downtime {}", rxl_core::units::seconds(expected));
        }
        if let Some(eta) = self.eta {
            line += &format!(", {} to go in it", rxl_core::units::seconds(eta));
        }
        line + &format!(
            ", {} sent in {}",
            rxl_core::units::bytes(self.transferred),
            rxl_core::units::seconds(self.total_time)
        )
    }
}

/// A migration's end. Dropping it ends the listening and removes the socket.
pub struct Monitor {
    status: Arc<Mutex<MigrationStatus>>,
    path: PathBuf,
    _worker: Worker,
}

impl Monitor {
    /// Starts to listen. A cancel comes as [`Event::Interrupt`].
    pub fn start<D: Send + 'static>(
        state: &StateDir,
        status: MigrationStatus,
        events: Sender<Event<D>>,
    ) -> Result<Self, Failure> {
        let path = state.path()?.join(socket_name(status.domid));
        // Left by a process that was killed: the domain's lock is held here.
        let _ = std::fs::remove_file(&path);
        let broken = |e| Failure::internal(path.display(), &e);
        let listener = UnixListener::bind(&path).map_err(broken)?;
        let (status, cancel) = (Arc::new(Mutex::new(status)), Cancel::new().map_err(broken)?);
        let (shared, stop) = (status.clone(), cancel.clone());
        let work = move || {
            while let Ok(Some(_)) | Ok(None) = wait_readable(&[listener.as_fd()], &stop, IDLE) {
                if let Ok((client, _)) = listener.accept() {
                    // A client that is gone has its answer.
                    let _ = serve(client, &shared, &events);
                }
            }
        };
        let worker = Worker::with_cancel("monitor", cancel, work).map_err(broken)?;
        Ok(Self { status, path, _worker: worker })
    }

    /// Says how far it has come.
    pub fn update(&self, change: impl FnOnce(&mut MigrationStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // A client that comes now finds nobody; the thread ends when the worker is dropped, next.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn socket_name(domid: u32) -> String {
    format!("migration-{domid}.sock")
}

fn serve<D>(
    client: UnixStream,
    status: &Mutex<MigrationStatus>,
    events: &Sender<Event<D>>,
) -> std::io::Result<()> {
    client.set_read_timeout(Some(deadlines::MONITOR))?;
    client.set_write_timeout(Some(deadlines::MONITOR))?;
    let answer = match line(&client)?.as_str() {
        "status" => {
            let status = status.lock().unwrap_or_else(PoisonError::into_inner).clone();
            serde_json::to_string(&status)?
        }
        "cancel" => {
            let _ = events.send(Event::Interrupt);
            "ok".into()
        }
        _ => "unknown".into(),
    };
    (&client).write_all(format!("{answer}\n").as_bytes())
}

fn line(stream: &UnixStream) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// The migrations that run on this host.
pub fn running(state: &StateDir) -> Result<Vec<MigrationStatus>, Failure> {
    let dir = state.path()?;
    let entries = std::fs::read_dir(dir).map_err(|e| Failure::internal(dir.display(), &e))?;
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("migration-") && name.ends_with(".sock")
    };
    // One that does not answer has just ended, or was killed.
    let status = |path: PathBuf| serde_json::from_str(&ask(&path, "status").ok()?).ok();
    let mut all: Vec<MigrationStatus> =
        entries.flatten().map(|entry| entry.path()).filter(is_ours).filter_map(status).collect();
    all.sort_by_key(|status| status.domid);
    Ok(all)
}

/// The migration of one domain, by name or number.
pub fn find(state: &StateDir, domain: &str) -> Result<MigrationStatus, Failure> {
    let is_it =
        |status: &MigrationStatus| status.domain == domain || status.domid.to_string() == domain;
    let none = || {
        Failure::new(
            Exit::NoSuchDomain,
            format!("{} is not being migrated from here", one_line(domain)),
        )
    };
    running(state)?.into_iter().find(is_it).ok_or_else(none)
}

/// Asks a migration to be cancelled; it goes on alone from there.
pub fn cancel(state: &StateDir, domain: &str) -> Result<(), Failure> {
    let status = find(state, domain)?;
    let path = state.path()?.join(socket_name(status.domid));
    let told = ask(&path, "cancel").map_err(|e| Failure::internal(path.display(), &e))?;
    if told == "ok" {
        Ok(())
    } else {
        Err(Failure::new(Exit::Internal, format!("{}: {}", path.display(), one_line(&told))))
    }
}

fn ask(path: &Path, word: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(deadlines::MONITOR))?;
    stream.set_write_timeout(Some(deadlines::MONITOR))?;
    stream.write_all(format!("{word}\n").as_bytes())?;
    line(&stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_migration_tells_how_far_it_is_and_can_be_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path());
        assert_eq!(running(&state).unwrap(), []);
        let (sender, events) = channel::<Event<()>>();
        let status =
            MigrationStatus { domain: "dom3".into(), domid: 7, ..MigrationStatus::default() };
        let monitor = Monitor::start(&state, status, sender).unwrap();
        monitor.update(|status| status.iteration = Some(2));
        assert_eq!(find(&state, "dom3").unwrap().iteration, Some(2));
        assert_eq!(find(&state, "7").unwrap(), running(&state).unwrap()[0]);
        assert_eq!(find(&state, "dom4").unwrap_err().exit, Exit::NoSuchDomain);
        cancel(&state, "dom3").unwrap();
        assert!(matches!(events.recv().unwrap(), Event::Interrupt));
        assert_eq!(ask(&dir.path().join("migration-7.sock"), "explode").unwrap(), "unknown");
        drop(monitor);
        assert_eq!(running(&state).unwrap(), []);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_that_a_killed_process_left_is_no_migration() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(dir.path().join("migration-3.sock")).unwrap());
        assert_eq!(running(&StateDir::at(dir.path())).unwrap(), []);
    }
}
