//! `rxl jobs` over scripted agents.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// The other half is another test's.
#![allow(dead_code)]

mod scripted;

use rxl_agent_protocol::{MAX_EXPLANATION, pack_explanation, path};
use rxl_core::error::Exit;
use rxl_quiesce::host::AgentHost;
use rxl_quiesce::jobs;
use scripted::{Fake, Quirk, agent};

/// dom3 on a host, whose agent has written these nodes.
fn host(nodes: &[(String, String)]) -> AgentHost {
    let node = Fake::default();
    let mut dom3 = agent("dom3", &[0], Quirk::None);
    dom3.nodes.extend(nodes.iter().cloned());
    node.agents.lock().unwrap().insert(3, dom3);
    AgentHost::local("nodeA", Box::new(node)).unwrap()
}

#[test]
fn an_agents_explanation_is_shown_by_its_domains_name_or_number() {
    let lines: Vec<_> = (0..MAX_EXPLANATION).map(|n| format!("{n} a.out: rank {n}")).collect();
    let chunks = pack_explanation(&lines).into_iter().enumerate();
    let nodes: Vec<_> = chunks.map(|(n, chunk)| (path::explain(n), chunk)).collect();
    for name in ["dom3", "3"] {
        let found = jobs::explain(&[host(&nodes)], name).unwrap();
        assert_eq!((found.len(), &found[0].lines), (1, &lines));
        let text = jobs::explanations(&found);
        assert!(text.starts_with("dom3 on nodeA:\n  0 a.out: rank 0\n"), "{text}");
    }
    let failure = jobs::explain(&[host(&nodes)], "dom4").unwrap_err();
    assert_eq!(failure.exit, Exit::NoSuchDomain);
}

#[test]
fn what_an_agent_does_not_explain_well_is_left_out() {
    let nodes = [(path::explain(0), "\u{1b}[2J".to_owned()), (path::explain(1), "good".into())];
    assert_eq!(jobs::explain(&[host(&nodes)], "dom3").unwrap()[0].lines, ["good"]);
    let text = jobs::explanations(&jobs::explain(&[host(&[])], "dom3").unwrap());
    assert!(text.contains("rxl-guest-agent explain"), "{text}");
}

#[test]
fn an_unknown_size_and_a_spawned_group_are_shown() {
    let rows =
        ["id=a launcher=hydra size=0 ranks=0:1,1:2", "id=a launcher=hydra size=2 part=1 ranks=0:3"];
    let mut nodes = vec![(path::JOBS.to_owned(), "2".to_owned())];
    nodes.extend(rows.iter().enumerate().map(|(n, row)| (path::job(n), (*row).to_owned())));
    let text = jobs::table(&jobs::list(&[host(&nodes)]).unwrap());
    assert!(text.contains("0,1 of ?") && text.contains("0 of 2 (spawned, 1)"), "{text}");
}
