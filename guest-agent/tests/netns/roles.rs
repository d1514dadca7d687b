//! Programs in the place of ranks, for cases that need a traffic which no MPI makes on command.
//! This test plays them itself.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::world::{ADDRESSES, Domain};

const ROLE: &str = "RXL_NETNS_ROLE";
const PROGRESS: &str = "RXL_NETNS_PROGRESS";
const PORT: u16 = 7777;

/// A span longer than a test takes to freeze a role.
const LATE: Duration = Duration::from_secs(2);

/// A process that looks like a rank. To drop it kills it.
pub struct Role {
    child: Child,
    progress: PathBuf,
}

impl Role {
    /// Starts a rank, and waits until it is where its case wants it: then it writes one byte. Until
    /// it has become that program, no agent takes it for a rank.
    pub fn start(domain: &Domain, role: &str, rank: u32) -> Result<Self> {
        let mut command = domain.command(std::env::current_exe()?);
        let progress = domain.tree.join(role);
        command
            .env(ROLE, role)
            .env(PROGRESS, &progress)
            .env("PMIX_NAMESPACE", "roles")
            .env("PMIX_RANK", rank.to_string());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut started = Self { child, progress };
        let stdout = started.child.stdout.as_mut().context("no pipe")?;
        stdout.read_exact(&mut [0]).context("a role ended early")?;
        Ok(started)
    }

    /// Starts a reader in one domain and a sender in the other, and connects them.
    pub fn pair(roles: [&str; 2], reader: &Domain, sender: &Domain) -> Result<[Self; 2]> {
        let [reader_role, sender_role] = roles;
        Ok([Self::start(reader, reader_role, 0)?, Self::start(sender, sender_role, 1)?])
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Checks that the role runs. It ends when it finds something wrong.
    pub fn check(&mut self) -> Result<()> {
        ensure!(
            self.child.try_wait()?.is_none(),
            "a role has ended: it found its data damaged or its connection closed"
        );
        Ok(())
    }

    pub fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    }

    /// The number of blocks that a reader has read so far.
    pub fn blocks(&self) -> Result<u64> {
        Ok(std::fs::read_to_string(&self.progress)?.parse()?)
    }

    /// Waits until the reader has read more blocks than that.
    pub fn check_reads_on(&self, blocks: u64) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(5);
        while self.blocks()? <= blocks {
            ensure!(Instant::now() < until, "nothing is read any more");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays the role that this process was started for. False if it was started for none.
pub fn play() -> bool {
    let Some(role) = std::env::var_os(ROLE) else { return false };
    let played = match role.to_str() {
        Some("reader") => read(false),
        Some("late") => read(true),
        Some("sender") => send(None),
        Some("impatient") => send(Some(1000)),
        _ => panic!("no such role"),
    };
    // The case judges reset and refused connections, by the role's end.
    if let Err(error) = played {
        eprintln!("{role:?}: {error}");
    }
    true
}

fn ready() {
    print!(".");
    let _ = std::io::stdout().flush();
}

/// Blocks of numbers in order: whatever is lost, doubled or damaged breaks the sequence.
///
/// A late reader has less room than its window has promised, which is what a queue of small
/// segments comes to, and lets all that is sent run into it before it reads.
fn read(late: bool) -> std::io::Result<()> {
    let listener = TcpListener::bind((ADDRESSES[0], PORT))?;
    ready();
    let (mut stream, _) = listener.accept()?;
    note_progress(0)?;
    if late {
        setsockopt(&stream, sockopt::RcvBuf, &4096)?;
    }
    stream.write_all(&[0])?;
    if late {
        std::thread::sleep(LATE);
    }
    let mut expected = 0u64;
    let mut block = vec![0; 64 << 10];
    for blocks in 1u64.. {
        stream.read_exact(&mut block)?;
        for number in block.chunks_exact(8) {
            assert_eq!(number, expected.to_le_bytes(), "the sequence is broken");
            expected += 1;
        }
        note_progress(blocks)?;
    }
    Ok(())
}

fn note_progress(blocks: u64) -> std::io::Result<()> {
    let progress = std::env::var_os(PROGRESS).map(PathBuf::from).unwrap_or_default();
    let unfinished = progress.with_extension("unfinished");
    std::fs::write(&unfinished, blocks.to_string())?;
    std::fs::rename(&unfinished, &progress)
}

fn send(user_timeout_ms: Option<u32>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect((ADDRESSES[0], PORT))?;
    if let Some(ms) = user_timeout_ms {
        rustix::net::sockopt::set_tcp_user_timeout(&stream, ms)?;
    }
    // More bytes than a raised receive buffer takes.
    setsockopt(&stream, sockopt::SndBufForce, &(64 << 20))?;
    stream.read_exact(&mut [0])?;
    ready();
    let mut next = 0u64;
    loop {
        let block: Vec<u8> = (next..next + 8192).flat_map(u64::to_le_bytes).collect();
        next += 8192;
        stream.write_all(&block)?;
    }
}
