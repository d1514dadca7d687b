//! Two domains of one job moved together: every end that can have, and where the domains are then.
//! Leader and members are threads of this process, the targets processes of their own.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

#[path = "support/agents.rs"]
mod agents;

use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agents::Agents as Scripted;
use rxl_core::domain::{DomId, GuestType, RunState};
use rxl_core::error::{Exit, Failure};
use rxl_core::level::Level;
use rxl_core::state_dir::StateDir;
use rxl_core::steering::Walker;
use rxl_datapath::send::Sent;
use rxl_gang::barriers::{GangOutcome, Quiesce};
use rxl_gang::leader::{Heard, lead};
use rxl_quiesce::cluster::Agents;
use rxl_quiesce::owners::Owners;
use rxl_session::events::{Event, Events};
use rxl_session::gang_member as member;
use rxl_session::gang_member::GangMember;
use rxl_session::gang_words::{Ended, FromMember, Place, ToMember, Told, hear, say};
use rxl_session::request::MigrationRequest;
use rxl_session::rxl::source;
use rxl_testkit::memory::{Guest, MemoryHost};
use rxl_testkit::silent::Silent;
use support::{example, request, small_guest};
use tempfile::TempDir;

const DOMAINS: [(u32, &str); 2] = [(1, "dom3"), (2, "dom4")];

/// dom3 and dom4 with a rank each, on their way to two other hosts.
struct Scene {
    host: MemoryHost,
    dir: TempDir,
    at_target: [String; 2],
    here: Scripted,
    there: [Scripted; 2],
    events: Events<Heard>,
}

/// Half as large as the other: it has to wait.
fn smaller() -> Guest {
    Guest { pages: 10_000, dirty: vec![500, 50], seed: 2, ..small_guest() }
}

impl Scene {
    fn new() -> Self {
        Self::with([small_guest(), smaller()], ["", ""], false)
    }

    /// `at_target` are options of memory-receiver's.
    fn with(guests: [Guest; 2], at_target: [&str; 2], vetoes: bool) -> Self {
        let host = MemoryHost::new(64 << 20);
        for ((domid, name), guest) in DOMAINS.into_iter().zip(guests) {
            assert_eq!(host.start(name, GuestType::Pvh, guest), DomId(domid));
        }
        Self {
            host,
            dir: tempfile::tempdir().unwrap(),
            at_target: at_target.map(str::to_owned),
            here: Scripted::at_source(&DOMAINS, vetoes),
            there: [Scripted::at_target(), Scripted::at_target()],
            events: Events::default(),
        }
    }

    fn state(&self) -> StateDir {
        StateDir::at(self.dir.path().join("source"))
    }

    fn target_dir(&self, member: usize) -> PathBuf {
        self.dir.path().join(DOMAINS[member].1)
    }

    fn request(&self, member: usize) -> MigrationRequest {
        let dir = self.target_dir(member);
        std::fs::create_dir_all(&dir).unwrap();
        let receiver = example("memory-receiver");
        let command =
            format!("{} {} {}", receiver.display(), dir.display(), self.at_target[member]);
        let mut request = request(DOMAINS[member].1, command);
        request.walker = Walker::Rxl;
        request
    }

    /// A member as its own process would be.
    fn member(&self, member: usize, line: UnixStream) -> JoinHandle<()> {
        let (host, state, request) = (self.host.clone(), self.state(), self.request(member));
        std::thread::spawn(move || follow(&host, &state, &request, line))
    }

    fn quiesce(&self, level: Level) -> Quiesce {
        let hosts =
            vec![self.here.host("nodeA"), self.there[0].host("nodeB"), self.there[1].host("nodeC")];
        let owners = Owners::default();
        let agents = (level != Level::Off).then_some(Agents { hosts, owners });
        Quiesce { level, dry_run: false, agents, targets: vec![1, 2] }
    }

    fn run(&self, level: Level) -> GangOutcome {
        let (ours, theirs): (Vec<_>, Vec<_>) =
            DOMAINS.iter().map(|_| UnixStream::pair().unwrap()).unzip();
        let members: Vec<_> =
            theirs.into_iter().enumerate().map(|(n, line)| self.member(n, line)).collect();
        let outcome = lead(
            &DOMAINS.map(|(_, name)| name.to_owned()),
            ours,
            self.quiesce(level),
            &self.events,
        )
        .unwrap();
        members.into_iter().for_each(|member| member.join().unwrap());
        outcome
    }

    /// Where a domain runs, with its ranks.
    fn assert_at_source(&self, member: usize) {
        let (domid, name) = DOMAINS[member];
        let kept = self.host.domains().into_iter().find(|kept| kept.domain.name == name).unwrap();
        assert_eq!((kept.domain.state, kept.log_dirty), (RunState::Running, false), "{name}");
        assert!(!self.here.is_frozen(domid), "{name}: {}", self.here.heard(domid));
    }

    fn assert_at_target(&self, member: usize) {
        let (_, name) = DOMAINS[member];
        assert!(
            !self.host.domains().iter().any(|kept| kept.domain.name.starts_with(name)),
            "{name} is still here"
        );
        let outcome = outcome(&self.target_dir(member));
        assert_eq!(
            (&outcome["domains"][0]["name"], &outcome["domains"][0]["state"]),
            (&name.into(), &"Running".into())
        );
        assert!(!self.there[member].is_frozen(1), "{name}");
    }

    fn assert_nobody_moved(&self) {
        for member in 0..2 {
            self.assert_at_source(member);
        }
        assert_eq!(self.host.domains().len(), 2);
    }
}

fn follow(host: &MemoryHost, state: &StateDir, request: &MigrationRequest, line: UnixStream) {
    let events: Events<Sent> = Events::default();
    let member = GangMember::new(line.try_clone().unwrap(), events.sender()).unwrap();
    let host = Arc::new(host.clone());
    let (result, report) =
        source::migrate_in_gang(host, state, request, Some(member), &events, &mut Silent);
    let ended = Ended {
        failure: result.as_ref().err().map(Told::from),
        table: report.as_ref().map(rxl_report::schema::Report::to_table).unwrap_or_default(),
        report: report.map(|report| serde_json::to_value(report).unwrap()),
    };
    let _ = member::end(line, ended);
}

fn outcome(dir: &std::path::Path) -> serde_json::Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !dir.join("outcome.json").exists() {
        assert!(Instant::now() < deadline, "the receiver left no outcome");
        std::thread::sleep(Duration::from_millis(10));
    }
    serde_json::from_str(&std::fs::read_to_string(dir.join("outcome.json")).unwrap()).unwrap()
}

fn failure(outcome: &GangOutcome, member: usize) -> Failure {
    outcome.members[member]
        .failure
        .as_ref()
        .map(Failure::from)
        .unwrap_or_else(|| panic!("{} moved", DOMAINS[member].1))
}

#[test]
fn both_arrive_in_one_epoch() {
    let scene = Scene::new();
    let ended = scene.run(Level::Job);
    assert!(ended.failure.is_none() && ended.first.is_none());
    let reports: Vec<_> =
        ended.members.iter().map(|member| member.report.as_ref().unwrap()).collect();
    for (member, report) in reports.iter().enumerate() {
        scene.assert_at_target(member);
        let mpi = &report["mpi"];
        assert_eq!(
            (&report["status"], &mpi["problem"]),
            (&"completed".into(), &serde_json::Value::Null),
            "{report}"
        );
        assert_eq!(mpi["gang"], serde_json::json!(["dom3", "dom4"]));
        assert_eq!((&mpi["clean"], &mpi["connections-agreed"]), (&true.into(), &1.into()), "{mpi}");
        assert!(mpi["application-pause"].as_f64() > report["downtime"].as_f64(), "{report}");
        assert!(ended.members[member].table.contains("moved together: dom3, dom4"));
        assert_eq!(scene.here.heard(DOMAINS[member].0), "survey prepare freeze flush flush");
        assert_eq!(scene.there[member].heard(1), "thaw finish");
        // All of it, until the policy has had enough; one with the job frozen; the last.
        assert!(report["rounds"].as_array().unwrap().len() >= 4, "{report}");
    }
    assert_eq!(reports[0]["mpi"], reports[1]["mpi"], "the same epoch, the same figures");
}

#[test]
fn one_that_fails_before_ready_keeps_all_at_home() {
    // In the first pass; and with the job frozen and this guest suspended, at the very end.
    for (fault, is_late) in [("restore", false), ("restore-end", true)] {
        let scene = Scene::with([small_guest(), smaller()], ["", &format!("fault={fault}")], false);
        let ended = scene.run(Level::Job);
        assert_eq!(ended.first, Some(1), "{fault}");
        assert_eq!(failure(&ended, 1).exit, Exit::FailedSourceRuns);
        let other = failure(&ended, 0);
        assert!(other.exit == Exit::Cancelled && other.what.contains("as dom4: "), "{other}");
        assert!(other.what.contains("dom3 runs on here"), "{other}");
        scene.assert_nobody_moved();
        let frozen = scene.here.heard(1).contains("freeze");
        assert_eq!(frozen, is_late, "{}", scene.here.heard(1));
    }
}

#[test]
fn one_that_fails_after_go_stays_alone() {
    let scene = Scene::with([small_guest(), smaller()], ["", "fault=unpause"], false);
    let ended = scene.run(Level::Job);
    assert!(ended.members[0].failure.is_none());
    scene.assert_at_target(0);
    assert_eq!(failure(&ended, 1).exit, Exit::FailedSourceRuns);
    scene.assert_at_source(1);
    assert_eq!(
        scene.here.heard(2),
        "survey prepare freeze flush flush thaw finish",
        "thawed with the others, where it is"
    );
}

#[test]
fn a_refusal_stops_all_before_anything_begins() {
    let scene = Scene::with([small_guest(), smaller()], ["", "free-kib=1000"], false);
    let ended = scene.run(Level::Job);
    assert_eq!(
        (failure(&ended, 0).exit, failure(&ended, 1).exit),
        (Exit::Cancelled, Exit::Refused)
    );
    assert!(ended.members.iter().all(|member| member.report.is_none()));
    scene.assert_nobody_moved();
    assert_eq!(scene.here.heard(1), "");
}

#[test]
fn a_cancel_is_for_all() {
    let endless = || Guest { endless: true, ..small_guest() };
    let mut scene = Scene::with([endless(), smaller()], ["", ""], false);
    // One would go on for ever, the other waits for it.
    scene.at_target = ["hang=100000".into(), String::new()];
    let cancel = scene.events.sender();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        cancel.send(Event::Interrupt).unwrap();
    });
    let ended = scene.run(Level::Job);
    canceller.join().unwrap();
    for member in 0..2 {
        assert_eq!(failure(&ended, member).exit, Exit::Cancelled);
    }
    scene.assert_nobody_moved();
    assert!(!scene.here.heard(1).contains("freeze"));
}

#[test]
fn a_veto_lets_each_go_alone_or_none_at_all() {
    let scene = Scene::with([small_guest(), smaller()], ["", ""], true);
    let ended = scene.run(Level::Job);
    for member in 0..2 {
        scene.assert_at_target(member);
        let problem = ended.members[member].report.as_ref().unwrap()["mpi"]["problem"].clone();
        assert!(problem.as_str().unwrap().contains("uninterruptible"), "{problem}");
    }
    let scene = Scene::with([small_guest(), smaller()], ["", ""], true);
    let ended = scene.run(Level::Require);
    assert!(ended.failure.unwrap().what.contains("cannot be quiesced"));
    scene.assert_nobody_moved();
}

#[test]
fn without_a_job_each_is_on_its_own() {
    let scene = Scene::with([small_guest(), smaller()], ["", "fault=restore"], false);
    let ended = scene.run(Level::Off);
    assert!(
        ended.members[0].failure.is_none()
            && ended.members[0].report.as_ref().unwrap().get("mpi").is_none()
    );
    scene.assert_at_target(0);
    assert_eq!(failure(&ended, 1).exit, Exit::FailedSourceRuns);
    scene.assert_at_source(1);
    assert_eq!(scene.here.heard(1), "");
}

/// A member that dies has its guest run on by its save helper; the others do not wait for it.
#[test]
fn a_member_that_dies_fails_for_all() {
    let scene = Scene::new();
    let (ours, mut theirs): (Vec<_>, Vec<_>) =
        DOMAINS.iter().map(|_| UnixStream::pair().unwrap()).unzip();
    let mut dying = theirs.pop().unwrap();
    let member = scene.member(0, theirs.pop().unwrap());
    let died = std::thread::spawn(move || {
        say(&mut dying, &FromMember::Prepared { name: "dom4".into(), domid: 2 }).unwrap();
        let mut from = BufReader::new(dying.try_clone().unwrap());
        assert!(matches!(hear(&mut from).unwrap(), Some(ToMember::Begin { together: true, .. })));
        say(&mut dying, &FromMember::Stop).unwrap();
        assert_eq!(hear(&mut from).unwrap(), Some(ToMember::Frozen));
    });
    let ended =
        lead(&DOMAINS.map(|(_, name)| name.into()), ours, scene.quiesce(Level::Job), &scene.events)
            .unwrap();
    died.join().unwrap();
    member.join().unwrap();
    assert_eq!((ended.first, failure(&ended, 0).exit), (Some(1), Exit::Cancelled));
    assert!(failure(&ended, 1).what.contains("died"));
    scene.assert_nobody_moved();
}

/// A leader that is killed: what is above the line cancels, what is below it finishes.
#[test]
fn a_leader_that_dies_is_not_waited_for() {
    let scene = Scene::new();
    for last in [FromMember::Stop, FromMember::Suspend, FromMember::Ready] {
        let (mut leader, line) = UnixStream::pair().unwrap();
        let member = scene.member(0, line);
        lead_until(&mut leader, &last);
        drop(leader);
        member.join().unwrap();
        scene.assert_nobody_moved();
    }
    let (mut leader, line) = UnixStream::pair().unwrap();
    let member = scene.member(0, line);
    lead_until(&mut leader, &FromMember::Ready);
    say(&mut leader, &ToMember::Go { agent_command: "1 9 hold lease=1".into() }).unwrap();
    drop(leader);
    member.join().unwrap();
    assert!(outcome(&scene.target_dir(0))["domains"][0]["state"] == "Running");
    assert_eq!(scene.host.domains().len(), 1, "its old copy is gone");
}

/// Says what a leader would, until the member has said this.
fn lead_until(leader: &mut UnixStream, last: &FromMember) {
    let mut from = BufReader::new(leader.try_clone().unwrap());
    let figures = || Box::new(rxl_report::mpi::MpiPart::none(Level::Job, String::new()));
    loop {
        let word: FromMember = hear(&mut from).unwrap().expect("the member has not ended");
        if word == *last {
            return;
        }
        let answer = match word {
            FromMember::Prepared { .. } => ToMember::Begin { figures: None, together: true },
            FromMember::Stop => ToMember::Frozen,
            FromMember::Suspend => ToMember::Flushed { figures: figures() },
            FromMember::Suspended => continue,
            other => panic!("{other:?}"),
        };
        say(leader, &answer).unwrap();
    }
}

/// A cancel of a member that is ready is the leader's to grant: the others may have gone.
#[test]
fn a_member_that_is_ready_does_not_cancel_by_itself() {
    let scene = Scene::new();
    let (mut leader, line) = UnixStream::pair().unwrap();
    let events: Events<Sent> = Events::default();
    let interrupt = events.sender();
    let member = GangMember::new(line.try_clone().unwrap(), events.sender()).unwrap();
    let (host, state, request) = (Arc::new(scene.host.clone()), scene.state(), scene.request(0));
    let session = std::thread::spawn(move || {
        source::migrate_in_gang(host, &state, &request, Some(member), &events, &mut Silent).0
    });
    lead_until(&mut leader, &FromMember::Ready);
    interrupt.send(Event::Interrupt).unwrap();
    let mut from = BufReader::new(leader.try_clone().unwrap());
    assert_eq!(hear(&mut from).unwrap(), Some(FromMember::Cancel));
    say(&mut leader, &ToMember::Go { agent_command: String::new() }).unwrap();
    assert_eq!(hear(&mut from).unwrap(), Some(FromMember::Settled(Place::Target { domid: 1 })));
    say(
        &mut leader,
        &ToMember::Closed {
            figures: Box::new(rxl_report::mpi::MpiPart::none(Level::Job, String::new())),
        },
    )
    .unwrap();
    session.join().unwrap().unwrap();
}

/// libxl's stock helper suspends when it wants to: then nobody can be waited for.
#[test]
fn a_guest_that_was_suspended_unasked_ends_the_epoch() {
    let scene = Scene::new();
    let (ours, theirs): (Vec<_>, Vec<_>) =
        DOMAINS.iter().map(|_| UnixStream::pair().unwrap()).unzip();
    let scripted = |(member, mut line): (usize, UnixStream)| {
        std::thread::spawn(move || {
            let (domid, name) = DOMAINS[member];
            say(&mut line, &FromMember::Prepared { name: name.into(), domid }).unwrap();
            let mut from = BufReader::new(line.try_clone().unwrap());
            assert!(matches!(
                hear(&mut from).unwrap(),
                Some(ToMember::Begin { together: true, .. })
            ));
            say(&mut line, &FromMember::Stop).unwrap();
            assert_eq!(hear(&mut from).unwrap(), Some(ToMember::Frozen));
            if member == 0 {
                say(&mut line, &FromMember::Unasked).unwrap();
            }
            let Some(ToMember::Alone { figures }) = hear(&mut from).unwrap() else { panic!() };
            assert!(figures.problem.unwrap().contains("does not ask"));
            say(&mut line, &FromMember::Settled(Place::Target { domid: 9 })).unwrap();
            say(&mut line, &FromMember::Ended(Box::default())).unwrap();
        })
    };
    let members: Vec<_> = theirs.into_iter().enumerate().map(scripted).collect();
    let ended =
        lead(&DOMAINS.map(|(_, name)| name.into()), ours, scene.quiesce(Level::Job), &scene.events)
            .unwrap();
    members.into_iter().for_each(|member| member.join().unwrap());
    assert!(ended.failure.is_none() && ended.first.is_none());
    assert!(DOMAINS.iter().all(|(domid, _)| !scene.here.is_frozen(*domid)));
}
