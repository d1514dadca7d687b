//! Processes that have a library of MPI's in memory although nothing calls them ranks: started by a
//! launcher that the agent does not know, or by none.
//!
//! A program that MPI was linked into statically has no such library, and is not noticed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use rxl_agent_protocol::{Token, Unclaimed};

use super::judge::Processes;

/// Most bytes of one process's `/proc/PID/maps` that are read: ten thousand mappings and more.
pub const MOST_MAPS: u64 = 2 << 20;

/// Most bytes of such files that one survey reads.
const MOST_OF_ALL: u64 = 64 << 20;

/// A process with a library of MPI's in memory.
pub struct Library {
    /// The process that has it.
    pub pid: i32,
    /// The library's file name.
    pub name: String,
}

/// Looks for such processes among these.
pub fn among(pids: impl Iterator<Item = i32>) -> Vec<Library> {
    let mut left = MOST_OF_ALL;
    pids.filter_map(|pid| Some(Library { pid, name: library_of(pid, &mut left)? })).collect()
}

/// What dom0 is told of them.
pub fn summary(all: &[Library], processes: &impl Processes) -> Option<Unclaimed> {
    let first = all.first()?;
    Some(Unclaimed {
        count: u32::try_from(all.len()).unwrap_or(u32::MAX),
        pid: first.pid.unsigned_abs(),
        comm: Token::from_text(processes.name(first.pid).unwrap_or_default()),
        library: Token::from_text(&first.name),
    })
}

/// The first library of MPI's that the process has mapped. Takes what is read from `left`.
pub fn library_of(pid: i32, left: &mut u64) -> Option<String> {
    let maps = File::open(format!("/proc/{pid}/maps")).ok()?;
    let mut lines = BufReader::new(maps.take(MOST_MAPS.min(*left)));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).ok().filter(|bytes| *bytes > 0)?;
        *left = left.saturating_sub(read as u64);
        if let Some(library) = library_in(&String::from_utf8_lossy(&line)) {
            return Some(library.to_owned());
        }
    }
}

/// The name of the library that a line of `/proc/PID/maps` maps, if it is one of MPI's.
fn library_in(line: &str) -> Option<&str> {
    let (_, name) = line.trim_end().trim_end_matches(" (deleted)").rsplit_once('/')?;
    is_of_mpi(name).then_some(name)
}

/// Libraries of MPI, of OpenSHMEM, of PMI and PMIx, and UCX, which carries all of them. libmpir is
/// a library for long integers.
fn is_of_mpi(name: &str) -> bool {
    let starts = ["libmpi", "libpmi", "libucp.", "libucp-", "liboshmem", "libsma."];
    name.contains(".so")
        && starts.iter().any(|start| name.starts_with(start))
        && !name.starts_with("libmpir.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_mpi_are_known_by_their_files() {
        let maps = |file: &str| format!("7f00-7f01 r-xp 00000000 08:01 4242    /usr/lib/{file}\n");
        for file in [
            "libmpi.so.40.30.4",
            "libmpich.so.12",
            "libmpi_ilp64.so",
            "libmpifort.so.12.0",
            "libmpi-1b2c.so.40",
            "libpmi2.so.0",
            "libpmix.so.2",
            "libucp.so.0 (deleted)",
            "liboshmem.so.40",
        ] {
            let name = file.trim_end_matches(" (deleted)");
            assert_eq!(library_in(&maps(file)), Some(name), "{file}");
        }
        for file in ["libmpir.so.23", "libmpfr.so.6", "libm.so.6", "libmpi.txt", "libipmi.so"] {
            assert_eq!(library_in(&maps(file)), None, "{file}");
        }
        assert_eq!(library_in("7ffe-7fff rw-p 00000000 00:00 0    [stack]\n"), None);
        assert_eq!(library_in("7ffe-7fff rw-p 00000000 00:00 0\n"), None);
    }

    #[test]
    fn no_more_is_read_than_allowed() {
        let own = std::process::id() as i32;
        let mut left = 100;
        assert_eq!(library_of(own, &mut left), None);
        assert_eq!(left, 0);
        assert_eq!(library_of(own, &mut left), None, "nothing is left to be read");
    }
}
