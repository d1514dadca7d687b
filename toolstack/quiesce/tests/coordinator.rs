//! The coordinator over scripted agents.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod scripted;

use rxl_agent_protocol::path;
use rxl_core::deadlines;
use rxl_core::level::Level;
use rxl_core::units::ms;
use rxl_quiesce::Mover;
use rxl_quiesce::coordinator::{Coordinator, Surveyed};
use rxl_quiesce::error::NotFound;
use rxl_quiesce::host::AgentHost;
use rxl_quiesce::nodes::Lock;
use rxl_quiesce::owners::Owners;
use scripted::{Fake, Quirk, agent};

/// dom3 (rank 0) on the first host, dom4 (rank 1) on the second.
struct Scene {
    here: Fake,
    there: Fake,
}

impl Scene {
    fn new(dom3: Quirk, dom4: Option<Quirk>) -> Self {
        let scene = Self { here: Fake::default(), there: Fake::default() };
        scene.here.agents.lock().unwrap().insert(3, agent("dom3", &[0], dom3));
        scene.here.agents.lock().unwrap().insert(9, agent("bystander", &[], Quirk::None));
        if let Some(quirk) = dom4 {
            scene.there.agents.lock().unwrap().insert(4, agent("dom4", &[1], quirk));
        }
        scene
    }

    fn survey(&self, level: Level) -> Result<Option<Box<Coordinator>>, NotFound> {
        let host = |name, nodes: &Fake| AgentHost::local(name, Box::new(nodes.clone())).unwrap();
        job_of(Coordinator::survey(
            vec![host("nodeA", &self.here), host("nodeB", &self.there)],
            &Owners::default(),
            &[Mover { domid: 3, to: 1 }],
            level,
        ))
    }

    fn heard(&self, nodes: &Fake, domid: u32) -> String {
        nodes
            .agents
            .lock()
            .unwrap()
            .get(&domid)
            .map_or_else(String::new, |agent| agent.heard.join(" "))
    }

    fn frozen(&self) -> bool {
        [&self.here, &self.there]
            .iter()
            .any(|nodes| nodes.agents.lock().unwrap().values().any(|agent| agent.frozen))
    }

    /// The domain and its agent's memory are on the other host, in a tree of its own.
    fn move_dom3(&self, hold: &str) {
        self.move_to(3, 12, hold);
    }

    fn move_to(&self, from: u32, to: u32, hold: &str) {
        let mut agent = self.here.agents.lock().unwrap().remove(&from).unwrap();
        agent.nodes.remove(path::STATE);
        agent.obey(hold);
        self.there.agents.lock().unwrap().insert(to, agent);
    }

    /// Both domains are on the first host, and are to leave it.
    fn gang(
        dom4_ranks: &[u32],
        level: Level,
    ) -> (Self, Result<Option<Box<Coordinator>>, NotFound>) {
        let scene = Self::new(Quirk::None, None);
        scene.here.agents.lock().unwrap().insert(4, agent("dom4", dom4_ranks, Quirk::None));
        let host = |name, nodes: &Fake| AgentHost::local(name, Box::new(nodes.clone())).unwrap();
        let hosts = vec![host("nodeA", &scene.here), host("nodeB", &scene.there)];
        // Not in the order in which xenstore has them.
        let movers = [Mover { domid: 4, to: 1 }, Mover { domid: 3, to: 1 }];
        let found = Coordinator::survey(hosts, &Owners::default(), &movers, level);
        (scene, job_of(found))
    }
}

fn job_of(found: Result<Surveyed, NotFound>) -> Result<Option<Box<Coordinator>>, NotFound> {
    Ok(match found? {
        Surveyed::Job(coordinator) => Some(coordinator),
        Surveyed::NoRank(_) => None,
    })
}

/// A job that was found, and stands still with nothing on the wire.
fn flushed(found: Result<Option<Box<Coordinator>>, NotFound>) -> Box<Coordinator> {
    let mut coordinator = found.unwrap().unwrap();
    coordinator.freeze().unwrap();
    coordinator.flush().unwrap();
    coordinator
}

#[test]
fn a_job_on_two_hosts_is_held_still_and_let_go() {
    let scene = Scene::new(Quirk::None, Some(Quirk::None));
    let mut coordinator = scene.survey(Level::Job).unwrap().unwrap();
    coordinator.freeze().unwrap();
    assert!(scene.frozen() && coordinator.is_frozen());
    coordinator.flush().unwrap();
    coordinator.suspended(0);
    let hold = coordinator.hold();
    scene.move_dom3(&hold);
    coordinator.arrived(0, 12);
    coordinator.settle().unwrap();
    assert!(!scene.frozen());
    let figures = coordinator.figures();
    assert!(figures.is_cut_clean());
    assert_eq!((figures.connections_agreed, figures.connections_one_ended), (Some(1), Some(0)));
    assert_eq!((figures.retransmits, figures.retransmits_later), (Some(0), Some(6)));
    assert_eq!(
        figures.domains.iter().map(|domain| domain.name.as_str()).collect::<Vec<_>>(),
        ["dom3", "dom4"]
    );
    drop(coordinator);
    assert_eq!(scene.heard(&scene.there, 12), "survey prepare freeze flush flush hold thaw finish");
    assert_eq!(scene.heard(&scene.there, 4), "survey prepare freeze flush flush thaw finish");
    assert_eq!(scene.heard(&scene.here, 9), "survey", "a domain without ranks is left alone");
}

#[test]
fn what_does_not_bear_the_move_is_not_frozen() {
    let scene = Scene::new(Quirk::None, Some(Quirk::Impatient));
    let mut coordinator = scene.survey(Level::Job).unwrap().unwrap();
    let problem = coordinator.freeze().unwrap_err();
    assert!(problem.to_string().contains("dom4 gives up after 0.1 s"), "{problem}");
    assert!(!scene.frozen());
    assert_eq!(scene.heard(&scene.there, 4), "survey prepare abort");
}

#[test]
fn at_level_domain_the_others_run_on() {
    let scene = Scene::new(Quirk::None, Some(Quirk::None));
    let mut coordinator = flushed(scene.survey(Level::Domain));
    coordinator.abort();
    assert_eq!(scene.heard(&scene.there, 4), "");
    assert_eq!(coordinator.figures().connections_one_ended, Some(1));
    assert!(!scene.here.agents.lock().unwrap()[&3].room, "it would only be filled");
}

#[test]
fn ends_that_disagree_are_looked_at_again() {
    let scene = Scene::new(Quirk::LateBytes, Some(Quirk::None));
    let coordinator = flushed(scene.survey(Level::Job));
    assert!(coordinator.figures().is_cut_clean());
    assert_eq!(scene.heard(&scene.there, 4), "survey prepare freeze flush flush flush flush");
    assert!(scene.there.agents.lock().unwrap()[&4].room);
}

#[test]
fn ends_that_disagree_late_are_looked_at_once_more() {
    let scene = Scene::new(Quirk::Slow, Some(Quirk::None));
    let coordinator = flushed(scene.survey(Level::Job));
    let figures = coordinator.figures();
    assert!(figures.is_cut_clean() && figures.connections_agreed == Some(1), "{figures:?}");
    assert_eq!(scene.heard(&scene.there, 4), "survey prepare freeze flush flush flush");
}

#[test]
fn what_is_sent_again_too_late_is_not_waited_for() {
    let scene = Scene::new(Quirk::None, Some(Quirk::Dropped));
    let coordinator = flushed(scene.survey(Level::Job));
    let figures = coordinator.figures();
    assert!(
        !figures.is_cut_clean() && figures.unacked == Some(7) && figures.resend == Some(60e3),
        "{figures:?}"
    );
    assert_eq!(scene.heard(&scene.there, 4), "survey prepare freeze flush flush");
}

#[test]
fn a_queue_that_gets_shorter_is_waited_for() {
    let scene = Scene::new(Quirk::None, Some(Quirk::LongQueue));
    let coordinator = flushed(scene.survey(Level::Job));
    let figures = coordinator.figures();
    assert!(figures.is_cut_clean() && figures.flush > Some(ms(deadlines::FLUSH)), "{figures:?}");
    assert_eq!(scene.heard(&scene.there, 4), "survey prepare freeze flush flush flush flush flush");
}

#[test]
fn a_queue_that_stays_as_long_is_not() {
    let scene = Scene::new(Quirk::None, Some(Quirk::StuckQueue));
    let coordinator = flushed(scene.survey(Level::Job));
    let figures = coordinator.figures();
    assert!(!figures.is_cut_clean() && figures.notsent == Some(7), "{figures:?}");
    assert!(figures.flush < Some(ms(deadlines::LONGEST_FLUSH)), "{figures:?}");
}

#[test]
fn a_veto_or_a_missed_deadline_lets_all_run() {
    for (quirk, said) in [
        (Quirk::Nack, "refused: uninterruptible (pid 7)"),
        (Quirk::DeafToFreeze, "failed: freeze-deadline"),
    ] {
        let scene = Scene::new(Quirk::None, Some(quirk));
        let mut coordinator = scene.survey(Level::Job).unwrap().unwrap();
        let problem = coordinator.freeze().unwrap_err();
        assert!(
            problem.to_string().contains("dom4") && problem.to_string().contains(said),
            "{problem}"
        );
        assert!(!scene.frozen() && !coordinator.is_frozen());
        assert!(scene.heard(&scene.here, 3).ends_with("abort"), "{}", scene.heard(&scene.here, 3));
    }
}

#[test]
fn ranks_that_ran_too_early_are_told_and_the_job_runs() {
    let scene = Scene::new(Quirk::ThawedEarly, Some(Quirk::None));
    let mut coordinator = flushed(scene.survey(Level::Job));
    coordinator.suspended(0);
    let hold = coordinator.hold();
    scene.move_dom3(&hold);
    coordinator.arrived(0, 12);
    assert!(coordinator.settle().unwrap_err().to_string().contains("ran before the thaw"));
    assert!(!scene.frozen());
}

#[test]
fn what_stands_in_the_way_is_said_before_anything_is_frozen() {
    let problem = |scene: &Scene| scene.survey(Level::Job).err().unwrap().to_string();
    assert!(problem(&Scene::new(Quirk::None, None)).contains("2 ranks, and 1 of them were found"));
    assert!(problem(&Scene::new(Quirk::OldProtocol, None)).contains("speaks protocol 7"));
    let scene = Scene::new(Quirk::None, Some(Quirk::None));
    scene.here.agents.lock().unwrap().remove(&3);
    assert!(problem(&scene).contains("no agent"));
    let scene = Scene::new(Quirk::None, Some(Quirk::None));
    let mut first = scene.survey(Level::Job).unwrap().unwrap();
    first.freeze().unwrap();
    assert!(problem(&scene).contains("by another migration"));
    let idle = Scene::new(Quirk::None, Some(Quirk::None));
    idle.here.agents.lock().unwrap().get_mut(&3).unwrap().ranks.clear();
    assert!(idle.survey(Level::Job).unwrap().is_none(), "no rank runs in it");
    let refused = idle.survey(Level::Require).err().unwrap();
    assert!(refused.to_string().contains("no rank of an MPI job was recognised in dom3"));
    for level in [Level::Domain, Level::Job, Level::Require] {
        let silent = Scene::new(Quirk::Silent, Some(Quirk::None)).survey(level).err().unwrap();
        assert!(silent.to_string().contains("the agent of dom3 did not answer"), "{silent}");
        let odd = Scene::new(Quirk::Malformed, Some(Quirk::None)).survey(level).err().unwrap();
        assert!(odd.to_string().starts_with("domain 3: data/rxl/job/0"), "{odd}");
    }
}

#[test]
fn one_coordinator_commands_an_agent() {
    let scene = Scene::new(Quirk::None, Some(Quirk::None));
    let mut first = scene.survey(Level::Job).unwrap().unwrap();
    assert_eq!(
        scene.here.locks.held(),
        [Lock::Agent(3)],
        "the bystander and the turn are given back"
    );
    assert_eq!(scene.there.locks.held(), [Lock::Agent(4)]);
    // Nothing is frozen yet, and still the first comes first: another's command would end its
    // epoch.
    let before = scene.heard(&scene.here, 3);
    let refused = scene.survey(Level::Job).err().unwrap();
    assert!(
        matches!(&refused, NotFound::Busy(by) if by.to_string().starts_with("dom3")),
        "{refused}"
    );
    assert_eq!(scene.heard(&scene.here, 3), before);
    first.freeze().unwrap();
    drop(first);
    assert_eq!((scene.here.locks.held(), scene.there.locks.held()), (Vec::new(), Vec::new()));
    let alone = scene.survey(Level::Domain).unwrap().unwrap();
    assert_eq!(
        (scene.here.locks.held().len(), scene.there.locks.held().len()),
        (1, 0),
        "its members' agents alone"
    );
    drop(alone);
}

#[test]
fn a_domain_that_another_holds_is_left_alone() {
    let scene = Scene::new(Quirk::None, Some(Quirk::None));
    let (mut other, mut others) = (scene.here.locks.clone(), scene.there.locks.clone());
    assert!(other.take(Lock::Agent(9)));
    let found = scene.survey(Level::Job).unwrap().unwrap();
    assert_eq!(scene.heard(&scene.here, 9), "", "a bystander");
    drop(found);
    assert!(others.take(Lock::Agent(4)));
    scene.there.agents.lock().unwrap().get_mut(&4).unwrap().advertise();
    let refused = scene.survey(Level::Job).err().unwrap();
    assert!(
        matches!(&refused, NotFound::Busy(by) if by.to_string().starts_with("dom4")),
        "one of its job: {refused}"
    );
    assert!(
        scene.survey(Level::Domain).unwrap().is_some(),
        "at level domain the others do not matter"
    );
}

#[test]
fn a_coordinator_that_is_dropped_leaves_nobody_frozen() {
    let scene = Scene::new(Quirk::None, Some(Quirk::None));
    let mut coordinator = scene.survey(Level::Job).unwrap().unwrap();
    coordinator.freeze().unwrap();
    drop(coordinator);
    assert!(!scene.frozen());
}

/// The others' ranks would stand still until their leases end.
#[test]
fn a_domain_that_cannot_be_told_keeps_no_other_host_from_it() {
    let scene = Scene::new(Quirk::None, Some(Quirk::None));
    let mut coordinator = flushed(scene.survey(Level::Job));
    scene.here.agents.lock().unwrap().remove(&3);
    coordinator.abort();
    assert!(scene.heard(&scene.there, 4).ends_with("abort") && !scene.frozen());
}

#[test]
fn a_gang_is_thawed_when_the_last_has_arrived() {
    let (scene, found) = Scene::gang(&[1], Level::Job);
    let mut coordinator = flushed(found);
    coordinator.suspended(0);
    coordinator.suspended(1);
    let hold = coordinator.hold();
    scene.move_to(4, 13, &hold);
    coordinator.arrived(0, 13);
    assert!(scene.frozen(), "one of two");
    scene.move_dom3(&hold);
    coordinator.arrived(1, 12);
    coordinator.settle().unwrap();
    assert!(!scene.frozen());
    let figures = coordinator.figures();
    assert!(figures.is_cut_clean() && figures.resume.is_some());
    assert_eq!(figures.gang, ["dom4", "dom3"]);
    assert_eq!(
        figures.domains.iter().map(|domain| domain.name.as_str()).collect::<Vec<_>>(),
        ["dom4", "dom3"]
    );
    for domid in [12, 13] {
        assert_eq!(
            scene.heard(&scene.there, domid),
            "survey prepare freeze flush flush hold thaw finish"
        );
    }
}

#[test]
fn one_of_a_gang_that_is_given_back_is_thawed_where_it_was() {
    let (scene, found) = Scene::gang(&[1], Level::Job);
    let mut coordinator = flushed(found);
    coordinator.suspended(0);
    coordinator.suspended(1);
    let hold = coordinator.hold();
    coordinator.returned(0);
    scene.move_dom3(&hold);
    coordinator.arrived(1, 12);
    coordinator.settle().unwrap();
    assert!(!scene.frozen());
    assert_eq!(scene.heard(&scene.here, 4), "survey prepare freeze flush flush thaw finish");
}

/// Who is suspended cannot hear of the end. When it runs again where it was, it is told.
#[test]
fn a_gang_given_up_runs_as_each_comes_back() {
    let (scene, found) = Scene::gang(&[1], Level::Job);
    let mut coordinator = flushed(found);
    coordinator.suspended(0);
    coordinator.abort();
    assert_eq!(scene.heard(&scene.here, 3), "survey prepare freeze flush flush abort");
    assert_eq!(scene.heard(&scene.here, 4), "survey prepare freeze flush flush");
    coordinator.returned(0);
    assert_eq!(scene.heard(&scene.here, 4), "survey prepare freeze flush flush abort");
    assert!(!scene.frozen());
}

#[test]
fn a_gang_is_of_one_job() {
    let (scene, found) = Scene::gang(&[], Level::Job);
    assert!(
        found.err().unwrap().to_string().contains("dom4 and dom3 do not belong to the same job")
    );
    assert!(!scene.frozen());
    let (scene, found) = Scene::gang(&[1], Level::Domain);
    let mut coordinator = flushed(found);
    coordinator.abort();
    assert!(
        scene.heard(&scene.here, 3).contains("freeze")
            && scene.heard(&scene.here, 4).contains("freeze")
    );
}
