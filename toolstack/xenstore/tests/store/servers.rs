//! Whom the cases talk to.
//!
//! Xen's own daemons cannot stand here: without a hypervisor xenstored 4.17 ends at the first
//! request of a socket (it looks for dom0's domain), and oxenstored does not start.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// Types of messages (`xsd_sockmsg_type` in Xen's xs_wire.h).
const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const UNWATCH: u32 = 5;
const WRITE: u32 = 11;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

#[derive(Clone, Copy)]
pub enum Server {
    /// Nobody listens on the socket.
    Nobody,
    /// Does what docs/misc/xenstore.txt asks for.
    Sound,
    /// Reads requests and never answers.
    Mute,
    /// Ends the connection at the first request.
    Leaves,
    /// Answers each request with a message of its type and this payload.
    Answers(fn() -> Vec<u8>),
}

/// Serves until this process ends.
pub fn serve(socket: &Path, server: Server) -> io::Result<()> {
    if matches!(server, Server::Nobody) {
        return Ok(());
    }
    let listener = UnixListener::bind(socket)?;
    let tree = Arc::new(Mutex::new(Tree::default()));
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let connection = Connection { number, stream, tree: tree.clone() };
            std::thread::spawn(move || connection.converse(server));
        }
    });
    Ok(())
}

#[derive(Default)]
struct Tree {
    nodes: BTreeMap<String, Vec<u8>>,
    watches: Vec<Watch>,
}

struct Watch {
    connection: usize,
    path: String,
    token: String,
    events: UnixStream,
}

struct Connection {
    number: usize,
    stream: UnixStream,
    tree: Arc<Mutex<Tree>>,
}

impl Connection {
    fn converse(mut self, server: Server) -> Option<()> {
        loop {
            // `struct xsd_sockmsg`: type, request, transaction, length.
            let mut header = [0; 16];
            self.stream.read_exact(&mut header).ok()?;
            let word = |n: usize| u32::from_ne_bytes(header[4 * n..4 * n + 4].try_into().unwrap());
            let (kind, id) = (word(0), word(1));
            let mut payload = vec![0; word(3) as usize];
            self.stream.read_exact(&mut payload).ok()?;
            match server {
                Server::Nobody | Server::Mute => {}
                Server::Leaves => return None,
                Server::Answers(answer) => send(&mut self.stream, kind, id, &answer())?,
                Server::Sound => self.answer(kind, id, &payload)?,
            }
        }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap()
    }

    fn answer(&mut self, kind: u32, id: u32, payload: &[u8]) -> Option<()> {
        let mut parts = payload.splitn(2, |byte| *byte == 0);
        let path = String::from_utf8(parts.next()?.to_vec()).ok()?;
        let rest = parts.next()?.to_vec();
        // Held until the answer is sent: an event of another connection's must not come between.
        let tree = self.tree.clone();
        let mut tree = tree.lock().unwrap();
        let answer =
            if path.contains("//") { Err("EINVAL") } else { tree.carry_out(kind, &path, &rest) };
        match answer {
            Ok(answer) => send(&mut self.stream, kind, id, &answer)?,
            Err(code) => send(&mut self.stream, ERROR, id, format!("{code}\0").as_bytes())?,
        }
        match kind {
            WRITE => tree.fire(&path),
            WATCH => {
                let token = String::from_utf8(rest).ok()?.trim_end_matches('\0').to_owned();
                let events = self.stream.try_clone().ok()?;
                let mut watch = Watch { connection: self.number, path, token, events };
                let at = watch.path.clone();
                watch.fire(&at)?;
                tree.watches.push(watch);
            }
            UNWATCH => {
                let number = self.number;
                tree.watches.retain(|watch| {
                    watch.connection != number || !rest.starts_with(watch.token.as_bytes())
                });
            }
            _ => {}
        }
        Some(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let number = self.number;
        self.tree().watches.retain(|watch| watch.connection != number);
    }
}

impl Tree {
    fn carry_out(&mut self, kind: u32, path: &str, value: &[u8]) -> Result<Vec<u8>, &'static str> {
        let below = format!("{path}/");
        match kind {
            READ => self.nodes.get(path).cloned().ok_or("ENOENT"),
            WRITE => {
                self.nodes.insert(path.into(), value.into());
                Ok(b"OK\0".into())
            }
            DIRECTORY => {
                let inside = self.nodes.keys().filter_map(|node| node.strip_prefix(&below));
                let names: BTreeSet<_> = inside.filter_map(|rest| rest.split('/').next()).collect();
                if names.is_empty() && !self.nodes.contains_key(path) {
                    return Err("ENOENT");
                }
                Ok(names.iter().flat_map(|name| format!("{name}\0").into_bytes()).collect())
            }
            WATCH | UNWATCH => Ok(b"OK\0".into()),
            _ => Err("ENOSYS"),
        }
    }

    fn fire(&mut self, path: &str) {
        let concerned = |watch: &&mut Watch| {
            path.strip_prefix(&watch.path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // One whose connection has gone is removed by that connection.
        for watch in self.watches.iter_mut().filter(concerned) {
            let _ = watch.fire(path);
        }
    }
}

impl Watch {
    fn fire(&mut self, path: &str) -> Option<()> {
        let payload = format!("{path}\0{}\0", self.token);
        send(&mut self.events, WATCH_EVENT, 0, payload.as_bytes())
    }
}

/// None when the other end has gone.
fn send(stream: &mut UnixStream, kind: u32, id: u32, payload: &[u8]) -> Option<()> {
    let words = [kind, id, 0, payload.len() as u32].map(u32::to_ne_bytes);
    stream.write_all(&[&words.concat(), payload].concat()).ok()
}
