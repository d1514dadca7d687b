//! What only Xen can prove: migrations between real Xen hosts, nested in QEMU.
//!
//! Scenarios run one after the other, as two hosts fill two processors, and share a lab where that
//! hides no fault (`labs`). A failure on hosts that the emulator kept standing still is tried once
//! more (`attempts`).

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod attempts;
mod cluster;
mod compare;
mod damage;
mod deadlocks;
mod endings;
mod failures;
mod gang;
mod hpcc;
#[path = "../support/hpcc.rs"]
mod hpcc_words;
mod interop;
mod labs;
mod levels;
mod memory;
mod mpi;
mod precopy;
mod quiesce;
mod refusals;
mod savefile;
mod survival;
mod traces;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;

use attempts::Attempts;
use libtest_mimic::{Arguments, Trial};

use labs::{Needs, Scenario};

/// In the order of their runs. Those that need the same kind of lab stand together.
///
/// `make test` runs those that are not `long`: each claim of the README once, in at most half an
/// hour with all else. `make test-long` runs the others, which take longest, or show on Xen what
/// the sessions in memory show as well.
const SCENARIOS: &[Scenario] = &[
    Scenario::shared(
        "refusals::each_in_one_line_with_its_own_code",
        refusals::each_in_one_line_with_its_own_code,
    ),
    Scenario::shared("precopy::status_and_cancel", precopy::status_and_cancel),
    Scenario::shared(
        "failures::a_receiver_killed_in_precopy",
        failures::a_receiver_killed_in_precopy,
    ),
    Scenario::shared(
        "failures::ssh_cut_and_then_ctrl_c_in_precopy",
        failures::ssh_cut_and_then_ctrl_c_in_precopy,
    ),
    Scenario::shared(
        "failures::rxl_killed_while_the_domain_is_suspended",
        failures::rxl_killed_while_the_domain_is_suspended,
    ),
    Scenario::shared("failures::rxl_killed_while_it_saves", failures::rxl_killed_while_it_saves)
        .long(),
    Scenario::shared("precopy::helper_and_rxl_killed", precopy::helper_and_rxl_killed).long(),
    Scenario::shared("failures::a_link_cut_in_precopy", failures::a_link_cut_in_precopy).long(),
    Scenario::shared(
        "interop::a_stock_receiver_killed_and_a_cancel",
        interop::a_stock_receiver_killed_and_a_cancel,
    )
    .long(),
    Scenario::shared(
        "savefile::a_save_leaves_it_running_or_paused",
        savefile::a_save_leaves_it_running_or_paused,
    )
    .long(),
    Scenario::shared(
        "savefile::what_goes_wrong_leaves_the_domain_as_it_was",
        savefile::what_goes_wrong_leaves_the_domain_as_it_was,
    )
    .long(),
    Scenario::shared(
        "savefile::rxl_and_xl_take_each_others_files",
        savefile::rxl_and_xl_take_each_others_files,
    ),
    Scenario::shared(
        "survival::there_and_back_with_a_connection_open",
        survival::there_and_back_with_a_connection_open,
    ),
    Scenario::shared("precopy::rounds_are_what_was_sent", precopy::rounds_are_what_was_sent).long(),
    Scenario::shared("precopy::to_and_fro_without_a_leak", precopy::to_and_fro_without_a_leak)
        .long(),
    Scenario::shared(
        "survival::a_pv_guest_without_live_migration",
        survival::a_pv_guest_without_live_migration,
    )
    .long(),
    Scenario::shared("savefile::files_of_a_pv_guest", savefile::files_of_a_pv_guest).long(),
    Scenario::shared(
        "survival::an_hvm_guest_there_and_back",
        survival::an_hvm_guest_there_and_back,
    )
    .long(),
    Scenario::shared(
        "memory::a_balloon_that_moves_in_precopy",
        memory::a_balloon_that_moves_in_precopy,
    )
    .long(),
    Scenario::fresh(
        "memory::what_is_given_back_in_precopy_is_given_back",
        memory::what_is_given_back_in_precopy_is_given_back,
    )
    .long(),
    Scenario::fresh(
        "memory::two_that_arrive_where_one_fits",
        memory::two_that_arrive_where_one_fits,
    )
    .long(),
    Scenario::fresh(
        "memory::a_ballooned_guest_where_its_maximum_is_not_free",
        memory::a_ballooned_guest_where_its_maximum_is_not_free,
    )
    .long(),
    Scenario::anywhere("survival::options_of_xl", survival::options_of_xl),
    Scenario::anywhere("watch::a_moved_domain_reboots", watch::a_moved_domain_reboots),
    Scenario::anywhere("damage::a_flipped_bit_is_refused", damage::a_flipped_bit_is_refused),
    Scenario::fresh(
        "damage::stock_xl_restores_a_flipped_bit",
        damage::stock_xl_restores_a_flipped_bit,
    )
    .long(),
    Scenario::anywhere(
        "survival::over_parallel_tcp_connections",
        survival::over_parallel_tcp_connections,
    ),
    Scenario::anywhere("precopy::stock_xl_with_our_helper", precopy::stock_xl_with_our_helper),
    Scenario::anywhere("compare::beside_stock_xl", compare::beside_stock_xl).long(),
    Scenario::fresh("watch::what_ends_a_domain", watch::what_ends_a_domain).long(),
    Scenario::fresh("watch::a_domain_that_stayed_reboots", watch::a_domain_that_stayed_reboots)
        .long(),
    Scenario::fresh(
        "watch::without_rxl_and_without_systemd",
        watch::without_rxl_and_without_systemd,
    )
    .long(),
    Scenario::fresh("watch::an_hvm_guest_reboots", watch::an_hvm_guest_reboots).long(),
    Scenario::fresh(
        "interop::to_a_host_with_xl_alone_and_back",
        interop::to_a_host_with_xl_alone_and_back,
    ),
    Scenario::fresh("interop::stock_xl_sends_to_rxl", interop::stock_xl_sends_to_rxl).long(),
    Scenario::fresh(
        "survival::a_guest_with_two_vcpus_and_two_vifs",
        survival::a_guest_with_two_vcpus_and_two_vifs,
    )
    .long(),
    Scenario::fresh(
        "survival::a_writable_disk_on_shared_storage",
        survival::a_writable_disk_on_shared_storage,
    )
    .long(),
    Scenario::fresh(
        "precopy::a_guest_that_dirties_faster_than_the_link",
        precopy::a_guest_that_dirties_faster_than_the_link,
    )
    .long(),
    Scenario::fresh("traces::dirty_traces_at_several_rates", traces::dirty_traces_at_several_rates)
        .long(),
    Scenario::fresh(
        "mpi::a_ring_survives_the_move_of_a_rank",
        mpi::a_ring_survives_the_move_of_a_rank,
    )
    .long(),
    Scenario::fresh(
        "interop::a_ring_survives_the_way_over_xls_protocol",
        interop::a_ring_survives_the_way_over_xls_protocol,
    )
    .long(),
    Scenario::fresh(
        "quiesce::a_coordinator_killed_while_frozen",
        quiesce::a_coordinator_killed_while_frozen,
    )
    .long(),
    Scenario::fresh(
        "endings::a_link_cut_between_go_and_done",
        endings::a_link_cut_between_go_and_done,
    ),
    Scenario::fresh(
        "endings::links_cut_and_rxl_stopped_at_each_step",
        endings::links_cut_and_rxl_stopped_at_each_step,
    )
    .long(),
    Scenario::fresh("endings::power_lost_at_each_step", endings::power_lost_at_each_step).long(),
    Scenario::fresh("deadlocks::ranks_inside_mpi", deadlocks::ranks_inside_mpi).long(),
    Scenario::fresh(
        "deadlocks::what_an_agent_cannot_stop_or_flush",
        deadlocks::what_an_agent_cannot_stop_or_flush,
    )
    .long(),
    Scenario::fresh("deadlocks::who_stands_still_himself", deadlocks::who_stands_still_himself)
        .long(),
    Scenario::fresh(
        "quiesce::a_rank_saved_to_a_file_and_restored",
        quiesce::a_rank_saved_to_a_file_and_restored,
    )
    .long(),
    Scenario::fresh("hpcc::eight_ranks_in_four_domains", hpcc::eight_ranks_in_four_domains).long(),
    Scenario::fresh("levels::an_audited_job_by_level", levels::an_audited_job_by_level),
    Scenario::fresh(
        "gang::two_domains_of_a_job_move_together",
        gang::two_domains_of_a_job_move_together,
    ),
    Scenario::fresh(
        "gang::what_fails_before_go_leaves_both_at_home",
        gang::what_fails_before_go_leaves_both_at_home,
    )
    .long(),
    Scenario::of(
        "gang::two_domains_of_a_job_move_to_two_hosts",
        gang::two_domains_of_a_job_move_to_two_hosts,
        Needs::ThreeHosts,
    )
    .long(),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let attempts = Arc::new(Attempts::default());
    let trials = SCENARIOS.iter().map(|scenario| {
        let attempts = Arc::clone(&attempts);
        Trial::test(scenario.name, move || attempts.run(scenario)).with_ignored_flag(scenario.long)
    });
    let trials = trials.collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    attempts.end(&conclusion)
}
