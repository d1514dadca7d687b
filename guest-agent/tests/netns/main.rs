//! MPI jobs quiesced on plain Linux. Network namespaces take the place of domUs, a directory in
//! each that of xenstore, a link that goes down that of a migration, and a few lines of coordinator
//! that of rxl. There is no Xen, so the tests prove nothing about a domain's suspend. All that
//! happens before and after it is real.
//!
//! Needs root, iproute2, util-linux, Open MPI, MPICH and hpcc (`make deps`).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod cases;
mod coordinator;
mod deadlocks;
mod full_queues;
mod hpcc;
#[path = "../../../tests/support/hpcc.rs"]
mod hpcc_words;
mod mpi;
mod roles;
mod world;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    if roles::play() {
        return;
    }
    let mut arguments = Arguments::from_args();
    // One at a time: the trials measure times, and freeze what they find.
    arguments.test_threads = Some(1);
    let possible = nix::unistd::geteuid().is_root();
    if !possible {
        eprintln!("netns: SKIPPED: making network namespaces needs root; run this test as root");
    }
    let trial = |name: &str, run: fn() -> anyhow::Result<()>| {
        Trial::test(name, move || run().map_err(|error| Failed::from(format!("{error:?}"))))
            .with_ignored_flag(!possible)
    };
    let trials = vec![
        trial("a_job_is_moved_without_a_retransmission", cases::moved),
        trial("a_job_of_mpich_is_moved_without_a_retransmission", cases::moved_on_mpich),
        trial("eight_ranks_of_hpcc_in_four_domains_are_moved", cases::moved_under_hpcc),
        trial("freezing_and_flushing_are_quick", cases::quick),
        trial("without_protection_the_job_stalls_and_retransmits", cases::unprotected),
        trial("the_audit_notices_each_kind_of_damage", cases::injected),
        trial("domains_are_frozen_and_thawed_at_different_times", deadlocks::staggered),
        trial("a_closed_window_does_not_hold_up_the_flush", deadlocks::zero_window),
        trial("what_a_full_queue_has_dropped_arrives_before_the_cut", full_queues::dropped),
        trial("autotuning_goes_on_after_the_thaw", full_queues::autotuned),
        trial("an_agent_that_dies_has_its_buffers_put_back", full_queues::agent_dies),
        trial("a_dead_coordinator_leaves_nothing_frozen", deadlocks::coordinator_dies),
        trial("an_agent_killed_while_frozen_is_taken_over", deadlocks::agent_dies),
        trial("an_agent_killed_for_too_long_thaws_at_its_start", deadlocks::agent_dies_for_long),
        trial("a_terminated_agent_thaws", deadlocks::agent_terminated),
        trial("a_task_in_uninterruptible_sleep_is_a_veto", deadlocks::uninterruptible),
        trial("an_impatient_connection_is_a_veto", deadlocks::impatient),
        trial("a_rank_that_is_started_after_prepare_is_frozen_too", deadlocks::born),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
