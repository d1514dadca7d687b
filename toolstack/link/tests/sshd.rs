//! Data connections through sshd itself, with its limit on those that are not authenticated yet.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rxl_core::deadlines::STALL;
use rxl_core::error::{Exit, Failure};
use rxl_core::io::Cancel;
use rxl_core::peer::Transport;
use rxl_link::control::Accept;
use rxl_link::ssh::Route;
use rxl_link::transport::{Connections, Destination, Ticket};
use tempfile::TempDir;

/// Greets as `rxl receive` does, after a shell that prints, and takes what comes.
const RECEIVER: &str = "#!/bin/sh
echo 'Welcome to this host'
printf '\\nrxl receive: ready\\n'
exec cat >/dev/null
";

/// An sshd on a port of its own, with keys of its own, in which every command is [`RECEIVER`].
struct Sshd {
    dir: TempDir,
    daemon: Child,
}

impl Sshd {
    fn start(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        for key in ["host", "user"] {
            let file = format!("{path}/{key}");
            let made = ["-q", "-t", "ed25519", "-N", "", "-f", &file];
            assert!(Command::new("ssh-keygen").args(made).status().unwrap().success());
        }
        let write = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
        write("receiver", RECEIVER.into());
        let key = fs::read_to_string(dir.path().join("user.pub")).unwrap();
        write("authorized", format!("restrict,command=\"sh {path}/receiver\" {key}"));
        let port = free_port();
        write(
            "sshd_config",
            format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {path}/host\nStrictModes no\n\
                 AuthorizedKeysFile {path}/authorized\nPidFile none\nUsePAM yes\n{config}\n"
            ),
        );
        write(
            "ssh_config",
            format!(
                "Port {port}\nIdentityFile {path}/user\nIdentitiesOnly yes\nBatchMode yes\n\
                 StrictHostKeyChecking no\nUserKnownHostsFile {path}/known\n"
            ),
        );
        // sshd's separated process lives there; a service manager makes it otherwise.
        let _ = fs::create_dir("/run/sshd");
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-f", &format!("{path}/sshd_config")]).stdin(Stdio::null());
        let daemon = sshd.stderr(Stdio::null()).spawn().expect("openssh-server is installed");
        wait_for(port);
        Self { dir, daemon }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn open(&self, count: u16) -> Result<Connections, Failure> {
        let command = format!("ssh -F {}/ssh_config", self.path().display());
        let route = Route::new(Some(&command), "127.0.0.1").unwrap();
        let to = Destination { route: &route, transport: Transport::Ssh, count, stall: STALL };
        let accept = Accept { port: None, address: None, free_memory_kib: 0 };
        let ticket = Ticket::random().unwrap();
        Connections::open(&to, &accept, &ticket, &Cancel::new().unwrap(), || None)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "sshd does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn sixteen_connections_come_through_an_sshd_as_debian_configures_it() {
    let sshd = Sshd::start("");
    let open = sshd.open(16).unwrap();
    assert_eq!((open.streams.len(), open.children.len()), (16, 16));
}

/// One of two that come at once is turned away for certain.
#[test]
fn who_is_turned_away_comes_again() {
    let sshd = Sshd::start("MaxStartups 1:100:1");
    let open = sshd.open(6).unwrap();
    assert_eq!(open.streams.len(), 6);
}

#[test]
fn who_may_not_come_in_is_not_tried_again() {
    let sshd = Sshd::start("");
    fs::write(sshd.path().join("authorized"), "").unwrap();
    let begun = Instant::now();
    let failure = sshd.open(4).err().unwrap();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.what.contains("Permission denied"), "{failure}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
