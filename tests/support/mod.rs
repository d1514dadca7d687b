//! Two in-memory hosts: one in this process, one behind `memory-receiver`.

#![allow(dead_code, reason = "each test program needs a part of it")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use rxl_core::domain::GuestType;
use rxl_core::error::Failure;
use rxl_core::level::Level;
use rxl_core::peer::Peer;
use rxl_core::peer::Transport;
use rxl_core::state_dir::StateDir;
use rxl_core::steering::{Restorer, SaveFlags, Walker};
use rxl_datapath::packing::Packing;
use rxl_datapath::send::Sent;
use rxl_host::guard_line::Word;
use rxl_link::ssh::Route;
use rxl_precopy::policy::{Limits, Otherwise};
use rxl_recover::Asking;
use rxl_report::schema::Report;
use rxl_session::events::Events;
use rxl_session::request::MigrationRequest;
use rxl_session::rxl::source;
use rxl_testkit::memory::{Guest, MemoryHost};
use rxl_testkit::silent::Silent;

/// A source with one guest, `dom3`, and the way to a target.
pub struct Pair {
    pub host: MemoryHost,
    pub request: MigrationRequest,
    pub state: StateDir,
    pub dir: TempDir,
    pub events: Events<Sent>,
}

/// 80 MB, three quarters zero, two dirty passes.
pub fn small_guest() -> Guest {
    Guest { pages: 20_000, zero_per_256: 192, dirty: vec![2_000, 100], endless: false, seed: 1 }
}

impl Pair {
    pub fn new(guest: Guest) -> Self {
        Self::with(guest, "")
    }

    /// `at_target` is an option of memory-receiver's.
    pub fn with(guest: Guest, at_target: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = MemoryHost::new(64 << 20);
        host.start("dom3", GuestType::Pvh, guest);
        let command = format!(
            "{} {} {at_target}",
            example("memory-receiver").display(),
            dir.path().display()
        );
        let request = request("dom3", command);
        let state = StateDir::at(dir.path().join("source"));
        Self { host, request, state, dir, events: Events::default() }
    }

    /// A migration that at least begins.
    pub fn migrate(&self) -> (Result<(), Failure>, Report) {
        let (result, report) = self.run();
        (result.clone(), report.unwrap_or_else(|| panic!("no report: {result:?}")))
    }

    /// One that does not.
    pub fn migrate_refused(&self) -> Failure {
        let (result, report) = self.run();
        assert!(report.is_none());
        result.unwrap_err()
    }

    fn run(&self) -> (Result<(), Failure>, Option<Report>) {
        let host = Arc::new(self.host.clone());
        source::migrate(host, &self.state, &self.request, &self.events, &mut Silent)
    }

    /// What the target ended with.
    pub fn outcome(&self) -> serde_json::Value {
        let path = self.dir.path().join("outcome.json");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !path.exists() {
            assert!(Instant::now() < deadline, "the receiver left no outcome");
            std::thread::sleep(Duration::from_millis(10));
        }
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Sockets that are still there.
    pub fn left_files(&self) -> Vec<String> {
        let names =
            std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".sock"))
            .collect()
    }
}

/// What a guard was told, in short.
pub fn told(heard: &Receiver<Word>) -> Vec<&'static str> {
    let short = |word| match word {
        Word::Settle { asked: false, .. } => "settle",
        Word::Settle { asked: true, .. } => "settle, asked",
        Word::Done => "done",
    };
    heard.try_iter().map(short).collect()
}

/// Asks for the domain's way to a target that this command is.
pub fn request(domain: &str, command: String) -> MigrationRequest {
    MigrationRequest {
        domain: domain.into(),
        route: Route::Verbatim(command),
        config_json: None,
        flags: SaveFlags { live: true, debug: false },
        leave_paused: false,
        preserve_domid: false,
        peer: Peer::Auto,
        no_monitor: false,
        dry_run: false,
        restorer: Restorer::Rxl,
        transport: Transport::Ssh,
        connections: 1,
        data_address: None,
        packing: Packing { compress: true, level: 1, threads: 2 },
        patience: Duration::from_secs(5),
        walker: Walker::Libxc,
        quiesce: Level::Off,
        asking: Asking { peer: None, try_for: Duration::from_secs(3) },
        // The guest's own passes decide, unless a test says otherwise.
        limits: Limits {
            downtime: Duration::ZERO,
            max_iterations: u32::MAX,
            timeout: None,
            on_timeout: Otherwise::Cancel,
            when_busy: Otherwise::Force,
        },
    }
}

/// An example, built by cargo beside the tests.
pub fn example(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --examples`", path.display());
    path
}
