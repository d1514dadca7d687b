//! What a store does, each case in a process of its own.

use std::time::{Duration, Instant};

use crate::servers::Server;
use rxl_xenstore::{Store, StoreError};

pub struct Case {
    pub name: &'static str,
    pub server: Server,
    pub run: fn(),
}

const fn case(name: &'static str, server: Server, run: fn()) -> Case {
    Case { name, server, run }
}

pub const CASES: &[Case] = &[
    case("values_are_written_read_and_listed", Server::Sound, values),
    case("what_is_not_there_is_none", Server::Sound, nothing_there),
    case("a_refusal_has_the_words_of_errno", Server::Sound, refusal),
    case("what_is_too_long_is_refused_and_the_store_goes_on", Server::Sound, too_long),
    case("a_watch_ends_a_wait_at_once", Server::Sound, watch),
    case("a_change_before_the_wait_is_not_lost", Server::Sound, early_change),
    case("events_that_nobody_waits_for_stop_nothing", Server::Sound, flood),
    case("a_watch_that_is_dropped_is_over", Server::Sound, dropped_watch),
    case("a_mute_xenstored_ends_each_call_in_time", Server::Mute, mute),
    case("a_lost_connection_is_told", Server::Leaves, lost),
    case("without_xenstored_one_line_says_so", Server::Nobody, nobody),
    case("values_that_are_no_text_are_none", Server::Answers(latin), no_text),
    case("long_answers_are_refused", Server::Answers(endless), long_answers),
];

fn store() -> Store {
    Store::connect().expect("connected")
}

fn values() {
    let store = store();
    store.write("/local/domain/3/name", "dom3").unwrap();
    store.write("/local/domain/3/empty", "").unwrap();
    assert_eq!(store.read("/local/domain/3/name").unwrap().as_deref(), Some("dom3"));
    assert_eq!(store.read("/local/domain/3/empty").unwrap().as_deref(), Some(""));
    let mut names = store.list("/local/domain/3").unwrap();
    names.sort();
    assert_eq!(names, ["empty", "name"]);
    assert_eq!(store.list("/local/domain/3/name").unwrap(), [""; 0]);
}

fn nothing_there() {
    let store = store();
    assert_eq!(store.read("/local/domain/4/name").unwrap(), None);
    assert_eq!(store.list("/local/domain/4").unwrap(), [""; 0]);
}

fn refusal() {
    let refused = store().write("/local//name", "x").unwrap_err().to_string();
    assert_eq!(refused, "cannot write xenstore /local//name: Invalid argument");
}

fn too_long() {
    let store = store();
    let value = "x".repeat(4096);
    assert!(matches!(store.write("/a", &value), Err(StoreError::TooLong { length: 4096, .. })));
    let path = "/a".repeat(2000);
    assert!(matches!(store.read(&path), Err(StoreError::BadPath(4000))));
    assert!(matches!(store.read("/a\0b"), Err(StoreError::BadPath(4))));
    store.write("/a", "y").unwrap();
    assert_eq!(store.read("/a").unwrap().as_deref(), Some("y"));
}

/// Far more than a change takes, and far less than `LONG`.
const SOON: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);

fn watch() {
    let store = store();
    let watch = store.watch("/local/domain/3/state").unwrap();
    // xenstored's confirmation.
    watch.wait(LONG);
    let begun = Instant::now();
    watch.wait(Duration::from_millis(50));
    assert!(begun.elapsed() >= Duration::from_millis(50), "nothing has changed");
    let writer = std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(30));
        self::store().write("/local/domain/3/state/below", "new").unwrap();
    });
    let begun = Instant::now();
    watch.wait(LONG);
    assert!(begun.elapsed() < SOON);
    assert_eq!(store.read("/local/domain/3/state/below").unwrap().as_deref(), Some("new"));
    writer.join().unwrap();
}

fn early_change() {
    let store = store();
    let watch = store.watch("/state").unwrap();
    watch.wait(LONG);
    self::store().write("/state", "new").unwrap();
    // The event arrives with the answer to this.
    store.read("/other").unwrap();
    let begun = Instant::now();
    watch.wait(LONG);
    assert!(begun.elapsed() < SOON);
}

fn flood() {
    let store = store();
    let watch = store.watch("/state").unwrap();
    let other = self::store();
    for n in 0..200 {
        other.write("/state", &n.to_string()).unwrap();
    }
    assert_eq!(store.read("/state").unwrap().as_deref(), Some("199"));
    watch.wait(LONG);
}

fn dropped_watch() {
    let store = store();
    // More than the 32 requests that xenstore-rs allows to be open.
    for _ in 0..100 {
        let watch = store.watch("/state").unwrap();
        watch.wait(LONG);
    }
    store.write("/state", "x").unwrap();
    assert_eq!(store.read("/state").unwrap().as_deref(), Some("x"));
}

fn mute() {
    let longest = Duration::from_millis(100);
    let store = Store::connect_within(longest).unwrap();
    let begun = Instant::now();
    let late = store.read("/a").unwrap_err();
    assert_eq!(late.to_string(), "cannot read xenstore /a: no answer within 0.1 s");
    assert!(matches!(store.list("/a"), Err(StoreError::Late { .. })));
    assert!(matches!(store.write("/a", ""), Err(StoreError::Late { .. })));
    assert!(matches!(store.watch("/a"), Err(StoreError::Late { .. })));
    assert!(begun.elapsed() >= 4 * longest && begun.elapsed() < SOON);
}

fn lost() {
    let store = Store::connect_within(Duration::from_millis(200)).unwrap();
    assert!(store.read("/a").is_err());
    assert!(store.read("/a").is_err());
}

fn nobody() {
    if std::path::Path::new("/dev/xen/xenbus").exists() {
        return;
    }
    let told = Store::connect().err().expect("nobody there").to_string();
    assert_eq!(told, "cannot connect to xenstore: No such file or directory");
}

fn latin() -> Vec<u8> {
    b"\xe9t\xe9".to_vec()
}

fn no_text() {
    let store = store();
    assert_eq!(store.read("/a").unwrap(), None);
    assert!(store.list("/a").is_err());
}

fn endless() -> Vec<u8> {
    b"a\0".repeat(4000)
}

fn long_answers() {
    let store = store();
    assert!(matches!(store.read("/a"), Err(StoreError::TooLong { length: 7999, .. })));
    assert!(matches!(store.list("/a"), Err(StoreError::TooMany { count: 4000, .. })));
}
