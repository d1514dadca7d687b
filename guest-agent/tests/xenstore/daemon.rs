//! A xenstored as small as the agent needs, on a socket or in the place of the kernel's device,
//! that can be told to misbehave.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// Types of messages, from Xen's xen/include/public/io/xs_wire.h.
const READ: u32 = 2;
const WATCH: u32 = 4;
const WRITE: u32 = 11;
const REMOVE: u32 = 13;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

#[derive(Clone, Default)]
pub struct Daemon(Arc<Mutex<Inner>>);

#[derive(Default)]
pub struct Inner {
    pub nodes: BTreeMap<String, Vec<u8>>,
    /// The open connections by number, in the order in which they came.
    pub open: HashMap<usize, File>,
    /// How many connections there were.
    pub accepted: usize,
    /// Path and token of the watch, per connection.
    watches: HashMap<usize, (String, String)>,
    /// Answers nothing on connections below this number.
    pub mute_below: usize,
    /// Events sent before each answer.
    pub flood: usize,
}

struct Request {
    kind: u32,
    id: u32,
    payload: Vec<u8>,
}

impl Daemon {
    pub fn listen(socket: &Path) -> Self {
        let (daemon, listener) = (Self::default(), UnixListener::bind(socket).expect("bind"));
        let serving = daemon.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serving.attach(stream.into());
            }
        });
        daemon
    }

    /// Serves one connection.
    pub fn attach(&self, connection: OwnedFd) {
        let (serving, stream) = (self.clone(), File::from(connection));
        let number = serving.add(&stream);
        thread::spawn(move || serving.serve(number, stream));
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic")
    }

    pub fn get(&self, path: &str) -> Option<String> {
        let value = self.inner().nodes.get(path).cloned();
        value.map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    /// Writes as dom0 does: those who watch are told.
    pub fn put(&self, path: &str, value: impl AsRef<[u8]>) {
        let mut inner = self.inner();
        inner.nodes.insert(path.into(), value.as_ref().into());
        let numbers: Vec<_> = inner.watches.keys().copied().collect();
        numbers.into_iter().for_each(|number| inner.fire(number));
    }

    fn add(&self, stream: &File) -> usize {
        let mut inner = self.inner();
        let number = inner.accepted;
        inner.accepted += 1;
        inner.open.insert(number, stream.try_clone().expect("descriptor"));
        number
    }

    fn serve(&self, number: usize, mut stream: File) {
        while let Some(request) = Request::read(&mut stream) {
            let mut inner = self.inner();
            if number < inner.mute_below {
                continue;
            }
            (0..inner.flood).for_each(|_| inner.fire(number));
            inner.answer(number, &request);
        }
        let mut inner = self.inner();
        inner.open.remove(&number);
        inner.watches.remove(&number);
    }
}

impl Request {
    fn read(stream: &mut File) -> Option<Self> {
        let mut header = [0; 16];
        stream.read_exact(&mut header).ok()?;
        let word = |n: usize| u32::from_ne_bytes(header[4 * n..4 * n + 4].try_into().expect("4"));
        let mut payload = vec![0; word(3) as usize];
        stream.read_exact(&mut payload).ok()?;
        Some(Self { kind: word(0), id: word(1), payload })
    }

    fn strings(&self) -> Vec<String> {
        let parts = self.payload.split(|byte| *byte == 0);
        parts.map(|part| String::from_utf8(part.into()).expect("text")).collect()
    }
}

impl Inner {
    fn answer(&mut self, number: usize, request: &Request) {
        let strings = request.strings();
        match request.kind {
            READ => match self.nodes.get(&strings[0]).cloned() {
                Some(value) => self.send(number, READ, request.id, &value),
                None => self.send(number, ERROR, request.id, b"ENOENT\0"),
            },
            WRITE => {
                self.nodes.insert(strings[0].clone(), strings[1].clone().into());
                self.send(number, WRITE, request.id, b"OK\0");
            }
            REMOVE => {
                let below = format!("{}/", strings[0]);
                self.nodes.retain(|path, _| *path != strings[0] && !path.starts_with(&below));
                self.send(number, REMOVE, request.id, b"OK\0");
            }
            WATCH => {
                self.watches.insert(number, (strings[0].clone(), strings[1].clone()));
                // The kernel's device answers with this id, whatever the request's was.
                self.send(number, WATCH, 0, b"OK\0");
                self.fire(number);
            }
            kind => panic!("a request of type {kind}"),
        }
    }

    /// Sends an event to the connection, if it watches.
    fn fire(&mut self, number: usize) {
        if let Some((path, token)) = self.watches.get(&number) {
            let payload = format!("{path}/command\0{token}\0");
            self.send(number, WATCH_EVENT, 0, payload.as_bytes());
        }
    }

    /// A peer that has gone is no error here: `serve` finds out.
    fn send(&mut self, number: usize, kind: u32, id: u32, payload: &[u8]) {
        let Some(stream) = self.open.get_mut(&number) else { return };
        let words = [kind, id, 0, payload.len() as u32];
        let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        message.extend(payload);
        let _ = stream.write_all(&message);
    }
}
