//! Run directories: what a lab has on disk and who it belongs to.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cache::remove;
use crate::process::ProcessId;

const KILL_LIMIT: Duration = Duration::from_secs(30);

/// A directory without a state is one whose lab is about to write it, unless it is older than this.
const STATELESS_LIMIT: Duration = Duration::from_secs(600);

/// Room for the longest socket name within the 108 bytes of a Unix socket's address, ssh's
/// temporary suffix included.
const LONGEST_PATH: usize = 70;

/// Which processes a lab consists of, in `state.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The process that ends the lab; none for one that `lab down` ends.
    pub(crate) owner: Option<ProcessId>,
    /// The QEMUs in the order of their nodes, as far as they were started.
    pub(crate) qemus: Vec<ProcessId>,
}

impl State {
    /// Reads the state of a lab.
    pub(crate) fn read(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join("state.json");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))
    }

    /// Writes the state in one step.
    pub(crate) fn write(&self, run_dir: &Path) -> Result<()> {
        let unfinished = run_dir.join("state.json.unfinished");
        fs::write(&unfinished, serde_json::to_string(self)?)?;
        fs::rename(&unfinished, run_dir.join("state.json")).context("writing the lab's state")
    }

    fn is_stale(&self) -> bool {
        match self.owner {
            Some(owner) => !owner.is_alive(),
            None => !self.qemus.iter().any(|qemu| qemu.is_alive()),
        }
    }
}

/// The directory that holds all run directories: `rxl-lab` in `RXL_LAB_RUN`, or in `/tmp`.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("RXL_LAB_RUN")
        .map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
        .join("rxl-lab")
}

/// Creates a run directory, under a name of its own where none is given.
pub(crate) fn create(name: Option<&str>) -> Result<PathBuf> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let own_name = || format!("{}.{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let dir = path(&name.map_or_else(own_name, str::to_owned))?;
    fs::create_dir_all(root()).with_context(|| format!("creating {}", root().display()))?;
    remove_stale()?;
    fs::create_dir(&dir)
        .with_context(|| format!("creating {}: is a lab of this name up?", dir.display()))?;
    Ok(dir)
}

/// The run directory of a name.
pub(crate) fn path(name: &str) -> Result<PathBuf> {
    if name.is_empty()
        || !name.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char))
    {
        bail!("{name:?} is no name for a lab: use letters, digits and -_.");
    }
    let dir = root().join(name);
    if dir.as_os_str().len() > LONGEST_PATH {
        bail!(
            "{} is too long for Unix sockets in it: set RXL_LAB_RUN to a shorter path",
            dir.display()
        );
    }
    Ok(dir)
}

/// The names of the labs that are up.
pub(crate) fn names() -> Result<Vec<String>> {
    let mut names: Vec<String> = entries()?
        .into_iter()
        .filter(|dir| State::read(dir).is_ok_and(|state| !state.is_stale()))
        .filter_map(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Ends what is left of labs whose owner is gone, and removes their directories.
pub(crate) fn remove_stale() -> Result<()> {
    for dir in entries()? {
        let stale = match State::read(&dir) {
            Ok(state) => state.is_stale(),
            Err(_) => is_old(&dir),
        };
        if stale {
            destroy(&dir)?;
        }
    }
    Ok(())
}

/// Ends a lab's QEMUs, if any still run, and removes its directory.
pub(crate) fn destroy(dir: &Path) -> Result<()> {
    for qemu in State::read(dir).unwrap_or_default().qemus {
        qemu.kill(KILL_LIMIT)?;
    }
    remove(dir)
}

fn is_old(dir: &Path) -> bool {
    fs::metadata(dir)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > STATELESS_LIMIT))
}

fn entries() -> Result<Vec<PathBuf>> {
    match fs::read_dir(root()) {
        Ok(entries) => {
            Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("listing {}", root().display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_stale_once_its_owner_is_gone() {
        let own = ProcessId::own();
        let gone: ProcessId = serde_json::from_str(r#"{"pid":2147483647,"start":1}"#).unwrap();
        let state = |owner, qemus: &[ProcessId]| State { owner, qemus: qemus.to_vec() };
        assert!(!state(own, &[gone]).is_stale());
        assert!(state(Some(gone), &[own.unwrap()]).is_stale());
        assert!(!state(None, &[gone, own.unwrap()]).is_stale());
        assert!(state(None, &[gone]).is_stale());
    }

    #[test]
    fn names_stay_in_the_directory_and_fit_a_socket() {
        for name in ["", "a/b", "a b", &"x".repeat(100)] {
            assert!(path(name).is_err(), "{name}");
        }
        assert!(path("test-1").unwrap().starts_with(root()));
    }
}
