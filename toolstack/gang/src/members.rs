//! The members' processes: started, reaped, and ended where they do not end.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rxl_core::deadlines;
use rxl_core::error::Failure;

/// Pause between two looks whether a member has ended.
const EXIT_PAUSE: Duration = Duration::from_millis(10);

/// Running members. Dropping them waits for their end for a moment, then kills and reaps them.
pub struct Members(Vec<Child>);

impl Members {
    /// Starts `count` of them. Each is `program` with the same arguments, after `--gang-member N`;
    /// its line is its standard input, the one descriptor that can be passed on without every other
    /// child getting it, too. Each has a process group of its own: a Ctrl-C is the leader's to
    /// hear.
    pub fn start(
        program: &Path,
        arguments: &[OsString],
        count: usize,
    ) -> Result<(Self, Vec<UnixStream>), Failure> {
        let (mut members, mut lines) = (Self(Vec::new()), Vec::new());
        for member in 0..count {
            let broken = |e| Failure::internal(program.display(), &e);
            let (ours, theirs) = UnixStream::pair().map_err(broken)?;
            let mut command = Command::new(program);
            command.arg0("rxl").arg("--gang-member").arg(member.to_string()).args(arguments);
            command
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                .process_group(0);
            members.0.push(command.spawn().map_err(broken)?);
            lines.push(ours);
        }
        Ok((members, lines))
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        let deadline = Instant::now() + deadlines::MEMBER_EXIT;
        for child in &mut self.0 {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(EXIT_PAUSE);
            }
            // Neither fails but for one that is reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_member_has_its_line_as_its_standard_input() {
        // sh sees `--gang-member 0` as its own arguments: a script that takes any stands in.
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("member");
        std::fs::write(&script, "#!/bin/sh\nread word\necho \"$2 $3 $word\" >&0\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        let (members, mut lines) = Members::start(&script, &["migrate".into()], 2).unwrap();
        for (n, line) in lines.iter_mut().enumerate() {
            line.write_all(b"go\n").unwrap();
            let mut said = String::new();
            line.read_to_string(&mut said).unwrap();
            assert_eq!(said, format!("{n} migrate go\n"));
        }
        drop(members);
    }
}
