//! The running program's own executable, for starting it again as a helper process.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The kernel's link to the executable of the process that follows it. It leads to the inode that
/// runs, also after a package upgrade has removed or replaced the file: `std::env::current_exe`
/// then names a file that is gone (`/usr/bin/rxl (deleted)`) or another version.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// A command that runs this same executable. `ps` shows it as `rxl`; the kernel's name of the
/// process is `exe` until it sets another (`prctl(PR_SET_NAME)`).
pub fn command() -> Command {
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0("rxl");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_runs_this_executable() {
        let output = command().arg("--list").output().unwrap();
        let tests = String::from_utf8(output.stdout).unwrap();
        assert!(tests.contains("own_program::tests::the_command_runs_this_executable"), "{tests}");
    }
}
