//! `rxl save --mpi-quiesce`: a job over two domains, of which one is saved.

use crate::agents::Agents;
use crate::commands::Setting;
use rxl_agent_protocol::{Command, Verb};
use rxl_core::domain::RunState;
use rxl_core::error::{Exit, Failure};
use rxl_core::level::Level;
use rxl_core::save_format::Format;
use rxl_quiesce::cluster;
use rxl_quiesce::owners::Owners;
use rxl_session::events::Events;
use rxl_session::savefile::save::{After, SaveRequest, Saved, save};
use rxl_testkit::memory::Faults;

/// dom3 is the host's first domain.
const DOM3: u32 = 1;
const DOM4: u32 = 4;

fn agents(vetoes: bool) -> Agents {
    Agents::at_source(&[(DOM3, "dom3"), (DOM4, "dom4")], vetoes)
}

fn quiesced(
    setting: &Setting,
    agents: &Agents,
    level: Level,
    after: After,
) -> Result<Saved, Failure> {
    let request = SaveRequest { quiesce: level, ..setting.request(Format::Rxl, after) };
    save(
        &setting.host,
        &setting.state(),
        &request,
        Some(cluster::Agents { hosts: vec![agents.host("nodeA")], owners: Owners::default() }),
        &Events::default(),
    )
}

#[test]
fn a_checkpoint_holds_the_job_still_and_thaws_it() {
    let (setting, agents) = (Setting::new(), agents(false));
    let saved = quiesced(&setting, &agents, Level::Job, After::Run).unwrap();
    for domid in [DOM3, DOM4] {
        assert_eq!(agents.heard(domid), "survey prepare freeze flush flush thaw finish");
        assert!(!agents.is_frozen(domid));
    }
    let mpi = saved.mpi.unwrap();
    assert!(mpi.problem.is_none() && mpi.is_cut_clean(), "{mpi:?}");
    assert!(mpi.thaw.is_some() && mpi.application_pause >= mpi.flush, "{mpi:?}");
    assert_eq!(setting.only_domain().domain.state, RunState::Running);
}

#[test]
fn the_others_run_on_when_it_lives_in_its_file_or_is_paused() {
    for after in [After::Destroy, After::Pause] {
        let (setting, agents) = (Setting::new(), agents(false));
        let saved = quiesced(&setting, &agents, Level::Require, after).unwrap();
        // What is in the file stands still, and nobody waits for its answer.
        assert_eq!(agents.heard(DOM3), "survey prepare freeze flush flush");
        assert_eq!(agents.heard(DOM4), "survey prepare freeze flush flush abort");
        assert!(saved.mpi.unwrap().problem.is_none());
    }
}

#[test]
fn the_ranks_of_this_domain_alone() {
    let (setting, agents) = (Setting::new(), agents(false));
    quiesced(&setting, &agents, Level::Domain, After::Run).unwrap();
    assert_eq!(agents.heard(DOM3), "survey prepare freeze flush flush thaw finish");
    assert_eq!(agents.heard(DOM4), "");
}

#[test]
fn a_veto_ends_the_save_where_the_job_is_required_to_stand_still() {
    let (setting, vetoing) = (Setting::new(), agents(true));
    let failure = quiesced(&setting, &vetoing, Level::Require, After::Run).unwrap_err();
    assert_eq!(failure.exit, Exit::FailedSourceRuns);
    assert!(failure.what.contains("pid 7"), "{failure}");
    setting.assert_untouched(None);
    let saved = quiesced(&setting, &vetoing, Level::Job, After::Run).unwrap();
    assert!(saved.mpi.unwrap().problem.unwrap().contains("pid 7"));
}

#[test]
fn a_save_that_fails_lets_the_job_run() {
    let (setting, agents) = (Setting::new(), agents(false));
    setting.host.set_faults(Faults { save_after_suspend: true, ..Faults::default() });
    quiesced(&setting, &agents, Level::Job, After::Destroy).unwrap_err();
    for domid in [DOM3, DOM4] {
        assert!(agents.heard(domid).ends_with("flush abort"), "{}", agents.heard(domid));
        assert!(!agents.is_frozen(domid));
    }
    setting.assert_untouched(None);
}

#[test]
fn whoever_comes_back_from_a_file_is_told_that_its_epoch_is_over() {
    let (setting, agents) = (Setting::new(), agents(false));
    quiesced(&setting, &agents, Level::Job, After::Destroy).unwrap();
    setting.restore(false).unwrap();
    let told: Command = setting.only_domain().agent_command.unwrap().parse().unwrap();
    assert_eq!(told.verb, Verb::Abort);
    assert!(told.stamp.epoch > 1_700_000_000_000, "later than any: {told}");
}
