//! The freezer on the kernel's own cgroups.

use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::*;
use crate::linux::ranks::thread_states;

/// A process in a cgroup of its own, below which a group of ranks may be made.
struct Home {
    cgroups: Cgroups,
    home: PathBuf,
    process: Child,
}

impl Home {
    /// None without root's rights or a hierarchy.
    fn new(test: &str) -> Option<Self> {
        Self::running(test, Command::new("sleep").arg("60"))
    }

    fn running(test: &str, command: &mut Command) -> Option<Self> {
        let name = format!("rxl.ranks.test-{test}");
        let made = Cgroups::mounted(&name).and_then(|cgroups| {
            let home = cgroups.root.join(format!("rxl-test-{test}-{}", std::process::id()));
            fs::create_dir(&home).ok()?;
            let process = command.spawn().expect("a program");
            Some(Self { cgroups, home, process })
        });
        match &made {
            Some(home) => move_to(&home.home, home.pid()).expect("move"),
            None => eprintln!("SKIPPED: needs root and cgroup v2"),
        }
        made
    }

    fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    fn group(&self) -> PathBuf {
        self.home.join(&self.cgroups.name)
    }

    fn gather(&mut self) {
        self.cgroups.gather(&[(self.pid(), 0)].into()).expect("gather");
        assert!(self.cgroups.members().expect("members").contains(&self.pid()));
    }

    fn freeze(&mut self) {
        self.cgroups.stop().expect("stop");
        let in_time = self.cgroups.wait(Instant::now() + Duration::from_secs(5)).expect("wait");
        assert!(in_time, "it does not freeze");
    }

    fn thaw(&mut self) {
        self.cgroups.go().expect("go");
        self.cgroups.scatter().expect("scatter");
        assert_eq!(self.cgroups.held(), Held::default());
        assert!(!self.group().exists());
    }

    fn state(&self) -> char {
        *thread_states(self.pid()).first().expect("it is there")
    }

    /// Waits until the process is in this state.
    fn wait_for(&self, state: char) {
        let until = Instant::now() + Duration::from_secs(5);
        while self.state() != state {
            assert!(Instant::now() < until, "{} instead of {state}", self.state());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("kill");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.cgroups.scatter();
        for _ in 0..100 {
            if fs::remove_dir(&self.home).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A controller that the root gives to its children while this lives.
struct Controller {
    root: PathBuf,
    name: &'static str,
    was_given: bool,
    /// One test at a time: none can be taken from the root while a child gives it on.
    _turn: MutexGuard<'static, ()>,
}

impl Controller {
    /// None where a test may give none.
    fn given(root: &Path) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let words = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
        let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
        // Not cpu or pids: the kernel lets a process stand beside children with those.
        let offered = words("cgroup.controllers");
        let name = ["hugetlb", "memory", "io"].into_iter().find(|name| has(&offered, name))?;
        let was_given = has(&words("cgroup.subtree_control"), name);
        let controller = Self { root: root.into(), name, was_given, _turn: turn };
        controller.change(root, '+');
        Some(controller)
    }

    fn change(&self, cgroup: &Path, sign: char) {
        let change = format!("{sign}{}", self.name);
        fs::write(cgroup.join("cgroup.subtree_control"), change).expect("subtree_control");
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if !self.was_given {
            self.change(&self.root, '-');
        }
    }
}

#[test]
fn ranks_whose_home_takes_no_processes_any_more_stay_in_their_group() {
    let Some(mut home) = Home::new("settled") else { return };
    let Some(controller) = Controller::given(&home.cgroups.root) else {
        eprintln!("SKIPPED: needs a controller of cgroup v2");
        return;
    };
    let (group, pid) = (home.group(), home.pid());
    home.gather();
    controller.change(&home.home, '+');
    home.cgroups.scatter().expect("no error: nothing better is to come");
    assert_eq!(home.cgroups.held(), Held::default(), "nothing is to be tried again");
    assert_eq!(processes(&group).expect("processes"), [pid]);
    assert!(home.cgroups.members().expect("members").is_empty(), "a freeze would stop it");

    home.gather();
    assert_eq!(home.cgroups.held(), Held { groups: vec![group.clone()], ..Held::default() });
    home.freeze();
    home.cgroups.go().expect("go");
    home.cgroups.scatter().expect("still so");
    assert_eq!(processes(&group).expect("processes"), [pid]);

    home.gather();
    controller.change(&home.home, '-');
    home.thaw();
    assert_eq!(processes(&home.home).expect("processes"), [pid]);
    drop(home);
}

#[test]
fn a_group_that_ranks_stay_in_is_removed_when_they_have_ended() {
    let Some(mut home) = Home::new("ended") else { return };
    let Some(controller) = Controller::given(&home.cgroups.root) else { return };
    home.gather();
    controller.change(&home.home, '+');
    home.cgroups.scatter().expect("settled");
    home.process.kill().expect("kill");
    home.process.wait().expect("reaped");
    home.cgroups.scatter().expect("the next epoch's end");
    assert!(!home.group().exists());
    controller.change(&home.home, '-');
}

#[test]
fn what_an_agent_without_a_record_has_left_is_thawed_and_removed() {
    let Some(mut home) = Home::new("unknown") else { return };
    home.gather();
    home.freeze();
    let empty = home.cgroups.root.join(format!("rxl-test-empty-{}", std::process::id()));
    fs::create_dir_all(empty.join(&home.cgroups.name)).expect("an empty group");
    let mut next = Cgroups::mounted(&home.cgroups.name).expect("cgroups");
    assert!(!next.take_over(Held::default()).expect("take over"), "nothing is frozen");
    assert_eq!(next.held(), Held::default());
    assert_eq!(processes(&home.home).expect("processes"), [home.pid()]);
    assert!(!home.group().exists() && !empty.join(&home.cgroups.name).exists());
    home.wait_for('S');
    fs::remove_dir(&empty).expect("empty");
}

#[test]
fn what_the_record_speaks_of_stays_frozen_at_a_start() {
    let Some(mut home) = Home::new("known") else { return };
    home.gather();
    home.freeze();
    let mut next = Cgroups::mounted(&home.cgroups.name).expect("cgroups");
    assert!(next.take_over(home.cgroups.held()).expect("take over"));
    assert_eq!(next.members().expect("members"), [home.pid()]);
    home.thaw();
}

#[test]
fn a_rank_in_a_cgroup_below_another_ranks_is_put_back_there() {
    let Some(mut home) = Home::new("nested") else { return };
    let inner = home.home.join("inner");
    fs::create_dir(&inner).expect("cgroup");
    let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
    let other = child.id() as i32;
    move_to(&inner, other).expect("move");
    home.cgroups.gather(&[(home.pid(), 0), (other, 0)].into()).expect("gather");
    home.freeze();
    home.thaw();
    assert_eq!(processes(&inner).expect("processes"), [other]);
    assert_eq!(processes(&home.home).expect("processes"), [home.pid()]);
    child.kill().expect("kill");
    child.wait().expect("reaped");
    fs::remove_dir(&inner).expect("empty");
}

#[test]
fn a_group_that_somebody_removed_has_no_members_and_is_no_error() {
    let root = tempfile::tempdir().expect("directory");
    let mut cgroups = Cgroups::below(root.path().to_owned(), "rxl.ranks.test");
    cgroups.groups = vec![root.path().join("home/rxl.ranks.test")];
    assert!(cgroups.members().expect("members").is_empty());
    cgroups.go().expect("thaw");
    cgroups.scatter().expect("scatter");
    assert_eq!(cgroups.held(), Held::default());
}

#[test]
fn a_rank_that_was_stopped_before_stays_stopped() {
    let Some(mut home) = Home::new("stopped") else { return };
    home.signal(Signal::SIGSTOP);
    home.wait_for('T');
    home.gather();
    home.freeze();
    home.thaw();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(home.state(), 'T');
    home.signal(Signal::SIGCONT);
    home.wait_for('S');
}

#[test]
fn a_rank_that_somebody_else_has_frozen_stays_frozen() {
    let Some(mut home) = Home::new("frozen") else { return };
    let is_frozen = |cgroup: &Path| {
        let events = fs::read_to_string(cgroup.join("cgroup.events")).expect("events");
        events.lines().any(|line| line == "frozen 1")
    };
    fs::write(home.home.join("cgroup.freeze"), "1").expect("freeze");
    home.gather();
    home.freeze();
    home.thaw();
    wait_for_freeze(&home.home, Instant::now() + Duration::from_secs(5)).expect("wait");
    assert!(is_frozen(&home.home));
    fs::write(home.home.join("cgroup.freeze"), "0").expect("thaw");
    home.signal(Signal::SIGTERM);
    home.process.wait().expect("it runs, and ends");
}

#[test]
fn a_rank_under_a_debugger_is_frozen_and_stays_with_it() {
    let Some(mut home) = Home::new("traced") else { return };
    let pid = Pid::from_raw(home.pid());
    ptrace::seize(pid, ptrace::Options::empty()).expect("seize");
    ptrace::interrupt(pid).expect("interrupt");
    waitpid(pid, None).expect("it stops");
    assert_eq!(home.state(), 't');
    home.gather();
    home.freeze();
    home.thaw();
    assert_eq!(home.state(), 't');
    ptrace::detach(pid, None).expect("detach");
    home.wait_for('S');
}

#[test]
fn a_rank_that_is_killed_while_frozen_ends() {
    let Some(mut home) = Home::new("killed") else { return };
    home.gather();
    home.freeze();
    home.signal(Signal::SIGKILL);
    home.process.wait().expect("it ends");
    home.thaw();
}

#[test]
fn a_rank_with_a_child_that_nobody_reaps_is_frozen() {
    // exec: the child has ended by then, and sleep reaps none.
    let script = "sleep 0 & exec sleep 60";
    let Some(mut home) = Home::running("zombie", Command::new("sh").args(["-c", script])) else {
        return;
    };
    let children = format!("/proc/{0}/task/{0}/children", home.pid());
    let until = Instant::now() + Duration::from_secs(5);
    let zombie = loop {
        let list = fs::read_to_string(&children).unwrap_or_default();
        let child = list.split_whitespace().next().and_then(|word| word.parse().ok());
        if let Some(child) = child.filter(|child| thread_states(*child) == ['Z']) {
            break child;
        }
        assert!(Instant::now() < until, "no zombie");
        std::thread::sleep(Duration::from_millis(5));
    };
    home.cgroups.gather(&[(home.pid(), 0), (zombie, 0)].into()).expect("gather");
    home.freeze();
    home.thaw();
}

#[test]
fn what_a_gathered_rank_starts_is_frozen_with_it() {
    let script = "while :; do sleep 0.01; done";
    let Some(mut home) = Home::running("born", Command::new("sh").args(["-c", script])) else {
        return;
    };
    home.gather();
    for _ in 0..20 {
        home.freeze();
        let members = home.cgroups.members().expect("members");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(home.cgroups.members().expect("members"), members, "none is born or ends");
        home.cgroups.go().expect("go");
        std::thread::sleep(Duration::from_millis(7));
    }
    home.cgroups.scatter().expect("scatter");
    assert!(!home.group().exists());
}
