//! The survey over scripted agents: hosts that are dead, slow or have two names, guests that lie,
//! and two coordinators that look for the same job.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// The other half is another test's.
#![allow(dead_code)]

mod scripted;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rxl_agent_protocol::path;
use rxl_core::level::Level;
use rxl_link::ssh::Route;
use rxl_quiesce::Mover;
use rxl_quiesce::coordinator::{Coordinator, Surveyed};
use rxl_quiesce::error::NotFound;
use rxl_quiesce::host::AgentHost;
use rxl_quiesce::owners::Owners;
use scripted::{Agent, Fake, Quirk, agent};

/// dom3 (rank 0) on nodeA, dom4 (rank 1) on nodeB.
struct Cluster {
    node_a: Fake,
    node_b: Fake,
}

impl Cluster {
    fn new() -> Self {
        let cluster = Self { node_a: Fake::default(), node_b: Fake::default() };
        cluster.add(&cluster.node_a, 3, agent("dom3", &[0], Quirk::None));
        cluster.add(&cluster.node_b, 4, agent("dom4", &[1], Quirk::None));
        cluster
    }

    fn add(&self, node: &Fake, domid: u32, agent: Agent) {
        node.agents.lock().unwrap().insert(domid, agent);
    }

    /// Another guest on nodeB, with these nodes of its own.
    fn with_guest(self, name: &'static str, ranks: &[u32], nodes: &[(&str, String)]) -> Self {
        let mut guest = agent(name, ranks, Quirk::None);
        guest.nodes.extend(nodes.iter().map(|(node, value)| ((*node).to_owned(), value.clone())));
        self.add(&self.node_b, 9, guest);
        self
    }

    /// dom3 is to move from nodeA to nodeB; these hosts are in the cluster's file, too.
    fn survey(&self, others: Vec<AgentHost>, owners: &Owners, level: Level) -> Survey {
        let mut hosts = vec![host("nodeA", &self.node_a), host("nodeB", &self.node_b)];
        hosts.extend(others);
        Coordinator::survey(hosts, owners, &[Mover { domid: 3, to: 1 }], level)
    }

    /// dom4 is to move from nodeB to nodeA.
    fn survey_from_b(&self) -> Survey {
        let hosts = vec![host("nodeB", &self.node_b), host("nodeA", &self.node_a)];
        Coordinator::survey(hosts, &Owners::default(), &[Mover { domid: 4, to: 1 }], Level::Job)
    }
}

type Survey = Result<Surveyed, NotFound>;

fn host(name: &str, nodes: &Fake) -> AgentHost {
    AgentHost::local(name, Box::new(nodes.clone())).unwrap()
}

/// A host whose server is this shell script.
fn served_by(script: &str) -> AgentHost {
    let command = format!("sh -c '{script}'");
    AgentHost::remote("nodeC", &Route::new(Some(&command), "nodeC").unwrap()).unwrap()
}

/// The domains of the job that was found and can be held still.
fn held(found: Survey) -> Vec<String> {
    let Surveyed::Job(mut job) = found.unwrap() else { panic!("no rank was found") };
    job.freeze().unwrap();
    job.flush().unwrap();
    let figures = job.figures();
    assert!(figures.is_cut_clean(), "{figures:?}");
    figures.domains.into_iter().map(|domain| domain.name).collect()
}

fn alice_and_bob() -> Owners {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let owners = [("alice".to_owned(), names(&["dom?"])), ("bob".to_owned(), names(&["bob*"]))];
    BTreeMap::from(owners).try_into().unwrap()
}

/// Its ranks, if it had any, would be missing: so it has none.
#[test]
fn a_host_that_says_nothing_delays_nobody() {
    let cluster = Cluster::new();
    let begun = Instant::now();
    let found = cluster.survey(vec![served_by("sleep 60")], &Owners::default(), Level::Require);
    assert_eq!(held(found), ["dom3", "dom4"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_host_that_is_dead_is_named_where_ranks_are_missing() {
    let cluster = Cluster::new();
    let dead = || vec![served_by("echo no route >&2; exit 255")];
    assert_eq!(held(cluster.survey(dead(), &Owners::default(), Level::Job)), ["dom3", "dom4"]);
    cluster.node_b.agents.lock().unwrap().remove(&4);
    let missing = cluster.survey(dead(), &Owners::default(), Level::Job).err().unwrap().to_string();
    assert!(missing.contains("2 ranks, and 1 of them were found"), "{missing}");
    assert!(missing.contains("nodeC") && missing.contains("no route"), "{missing}");
}

#[test]
fn a_host_with_several_names_is_asked_once() {
    let cluster = Cluster::new();
    let names = vec![
        host("10.0.0.2", &cluster.node_b),
        host("nodeA.example", &cluster.node_a),
        host("nodeB.example", &cluster.node_b),
    ];
    assert_eq!(held(cluster.survey(names, &Owners::default(), Level::Require)), ["dom3", "dom4"]);
    for (node, domid) in [(&cluster.node_a, 3), (&cluster.node_b, 4)] {
        let agents = node.agents.lock().unwrap();
        assert_eq!(agents[&domid].heard.iter().filter(|word| *word == "survey").count(), 1);
    }
}

/// What a guest of another owner says is not heard, nor is the guest.
#[test]
fn a_guest_that_names_a_job_of_another_owner_has_no_part_in_it() {
    let cluster = Cluster::new().with_guest("bob1", &[1], &[]);
    cluster.node_b.agents.lock().unwrap().get_mut(&9).unwrap().quirk = Quirk::Nack;
    assert_eq!(held(cluster.survey(vec![], &alice_and_bob(), Level::Require)), ["dom3", "dom4"]);
    assert_eq!(cluster.node_b.agents.lock().unwrap()[&9].heard, Vec::<String>::new());
    // Where nobody says whose they are it is one of the job, and may refuse.
    let Surveyed::Job(mut job) =
        cluster.survey(vec![], &Owners::default(), Level::Require).unwrap()
    else {
        panic!("no rank")
    };
    assert!(job.freeze().unwrap_err().to_string().contains("bob1"));
}

#[test]
fn a_guest_that_is_ahead_by_an_age_keeps_nobody_from_being_commanded() {
    let ahead = format!("{} 1 surveyed ranks=0", u64::MAX);
    let cluster = Cluster::new().with_guest("dom9", &[], &[(path::STATE, ahead)]);
    assert_eq!(held(cluster.survey(vec![], &Owners::default(), Level::Require)), ["dom3", "dom4"]);
}

#[test]
fn a_guest_without_words_or_sense_costs_itself_alone() {
    for quirk in [Quirk::Silent, Quirk::Malformed, Quirk::OldProtocol] {
        let cluster = Cluster::new();
        cluster.add(&cluster.node_a, 9, agent("dom9", &[7], quirk));
        let found = cluster.survey(vec![], &Owners::default(), Level::Require);
        assert_eq!(held(found), ["dom3", "dom4"], "{quirk:?}");
        cluster.node_b.agents.lock().unwrap().remove(&4);
        let missing = cluster.survey(vec![], &Owners::default(), Level::Job).err().unwrap();
        let missing = missing.to_string();
        assert!(missing.contains("dom9") || missing.contains("domain 9"), "{missing}");
    }
}

/// Each has its own domain, and finds the other's. One of them goes on.
#[test]
fn of_two_that_move_domains_of_one_job_one_goes_on() {
    for _ in 0..20 {
        let cluster = Cluster::new();
        let found = std::thread::scope(|scope| {
            let other = scope.spawn(|| cluster.survey_from_b());
            let one = cluster.survey(vec![], &Owners::default(), Level::Job);
            // They are dropped when both have ended.
            [one, other.join().unwrap()]
        });
        let won = found.iter().filter(|found| matches!(found, Ok(Surveyed::Job(_)))).count();
        let busy = found.iter().filter(|found| matches!(found, Err(NotFound::Busy(_)))).count();
        assert_eq!((won, busy), (1, 1));
    }
}

/// A rank of a launcher that its agent does not know is not frozen.
#[test]
fn what_looks_like_a_rank_and_is_none_is_told() {
    let looks = "count=3 pid=77 comm=a.out library=libmpi.so.40";
    for ranks in [&[0_u32] as &[u32], &[]] {
        let cluster = Cluster::new();
        let mut dom3 = agent("dom3", ranks, Quirk::None);
        dom3.nodes.insert(path::UNCLAIMED.into(), looks.into());
        cluster.add(&cluster.node_a, 3, dom3);
        let refused = cluster.survey(vec![], &Owners::default(), Level::Require).err().unwrap();
        let told = "dom3: process 77 (a.out) and 2 others uses libmpi.so.40";
        assert!(refused.to_string().starts_with(told), "{refused}");
        for level in [Level::Domain, Level::Job] {
            let warnings = match cluster.survey(vec![], &Owners::default(), level).unwrap() {
                Surveyed::Job(job) => job.figures().warnings,
                Surveyed::NoRank(figures) => figures.warnings,
            };
            assert!(warnings[0].starts_with(told), "{warnings:?}");
        }
    }
}

/// Whatever a guest may write into a node of its own.
fn said() -> impl Strategy<Value = String> {
    let number = || prop_oneof![Just(0), Just(1), Just(77), Just(u64::MAX), any::<u64>()];
    let took = "how=cgroup processes=1 us=1";
    prop_oneof![
        ".{0,40}",
        number().prop_map(|number| number.to_string()),
        (number(), number())
            .prop_map(|(epoch, sequence)| format!("{epoch} {sequence} surveyed ranks=1")),
        number().prop_map(move |epoch| format!("{epoch} 1 frozen {took}")),
        number()
            .prop_map(move |n| format!("1 1 ready ranks={n} connections={n} patience=1 {took}")),
        (number(), number())
            .prop_map(|(size, rank)| format!("id=77 launcher=openmpi size={size} ranks={rank}:1")),
        number().prop_map(|n| format!("version=1 protocol={n} pid=1 boot=b freezer=cgroup")),
        number().prop_map(|n| format!("10.0.0.3:1 10.0.0.4:2 {n} {n} 0 0 0 0 -")),
        number().prop_map(|n| format!("count={n} pid={n} comm=a library=b")),
    ]
}

/// What stands in its nodes when it is found, and what it says later, at each look something else.
fn ravings() -> impl Strategy<Value = (Vec<(&'static str, String)>, Vec<String>)> {
    let node = prop_oneof![
        Just(path::STATE),
        Just(path::JOBS),
        Just("data/rxl/job/0"),
        Just(path::AGENT),
        Just("data/rxl/cut/0"),
        Just(path::UNCLAIMED),
    ];
    let nodes = prop::collection::vec((node, said()), 0..8);
    (nodes, prop::collection::vec(said(), 0..20))
}

/// dom3 and dom4 with their job, and a guest on dom4's host that says anything.
fn beside(
    name: &'static str,
    ravings: (Vec<(&str, String)>, Vec<String>),
    quirk: Quirk,
) -> Cluster {
    let (nodes, raves) = ravings;
    let cluster = Cluster::new().with_guest(name, &[0], &nodes);
    let mut agents = cluster.node_b.agents.lock().unwrap();
    let guest = agents.get_mut(&9).unwrap();
    (guest.quirk, guest.raves) = (quirk, raves.into());
    drop(agents);
    cluster
}

fn quirk() -> impl Strategy<Value = Quirk> {
    prop_oneof![Just(Quirk::None), Just(Quirk::Silent), Just(Quirk::Nack)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Another owner's guest that says anything at any time keeps nobody's job from being held
    /// still, also when it names that job.
    #[test]
    fn a_hostile_guest_harms_no_other_owners_job(ravings in ravings(), quirk in quirk()) {
        let cluster = beside("bob1", ravings, quirk);
        let found = cluster.survey(vec![], &alice_and_bob(), Level::Require);
        prop_assert_eq!(held(found), ["dom3", "dom4"]);
    }

    /// Where it is of the same owner it may keep the job from being held still. What was frozen
    /// runs again.
    #[test]
    fn a_hostile_guest_leaves_nobody_frozen(ravings in ravings(), quirk in quirk()) {
        let cluster = beside("dom9", ravings, quirk);
        if let Ok(Surveyed::Job(mut job)) = cluster.survey(vec![], &Owners::default(), Level::Job) {
            let _ = job.freeze().and_then(|()| job.flush());
        }
        for (node, domid) in [(&cluster.node_a, 3), (&cluster.node_b, 4)] {
            prop_assert!(!node.agents.lock().unwrap()[&domid].frozen);
        }
    }
}
