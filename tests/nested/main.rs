//! What only Xen can prove: migrations between real Xen hosts, nested in QEMU.
//!
//! Each scenario starts from the golden snapshot. They run one after the other: two hosts fill two
//! processors.

mod cluster;
mod compare;
mod damage;
mod deadlocks;
mod failures;
mod gang;
mod interop;
mod levels;
mod mpi;
mod precopy;
mod quiesce;
mod refusals;
mod savefile;
mod survival;
mod traces;

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use cluster::Cluster;
use libtest_mimic::{Arguments, Failed, Trial};
use rxl_lab::Node;

type Scenario = fn(&Cluster) -> Result<()>;

const SCENARIOS: &[(&str, Scenario)] = &[
    (
        "survival::there_and_back_with_a_connection_open",
        survival::there_and_back_with_a_connection_open,
    ),
    ("survival::over_parallel_tcp_connections", survival::over_parallel_tcp_connections),
    (
        "survival::a_guest_with_two_vcpus_and_two_vifs",
        survival::a_guest_with_two_vcpus_and_two_vifs,
    ),
    ("survival::a_pv_guest_without_live_migration", survival::a_pv_guest_without_live_migration),
    ("survival::an_hvm_guest_there_and_back", survival::an_hvm_guest_there_and_back),
    ("survival::a_writable_disk_on_shared_storage", survival::a_writable_disk_on_shared_storage),
    ("survival::options_of_xl", survival::options_of_xl),
    ("mpi::a_ring_survives_the_move_of_a_rank", mpi::a_ring_survives_the_move_of_a_rank),
    (
        "damage::a_flipped_bit_is_refused_where_xl_restores_it",
        damage::a_flipped_bit_is_refused_where_xl_restores_it,
    ),
    ("failures::a_receiver_killed_in_precopy", failures::a_receiver_killed_in_precopy),
    (
        "failures::rxl_killed_while_the_domain_is_suspended",
        failures::rxl_killed_while_the_domain_is_suspended,
    ),
    ("failures::ssh_cut_and_then_ctrl_c_in_precopy", failures::ssh_cut_and_then_ctrl_c_in_precopy),
    ("failures::a_link_cut_in_precopy", failures::a_link_cut_in_precopy),
    ("precopy::rounds_are_what_was_sent", precopy::rounds_are_what_was_sent),
    (
        "precopy::a_guest_that_dirties_faster_than_the_link",
        precopy::a_guest_that_dirties_faster_than_the_link,
    ),
    ("precopy::stock_xl_with_our_helper", precopy::stock_xl_with_our_helper),
    ("precopy::helper_and_rxl_killed", precopy::helper_and_rxl_killed),
    ("precopy::status_and_cancel", precopy::status_and_cancel),
    ("precopy::to_and_fro_without_a_leak", precopy::to_and_fro_without_a_leak),
    ("levels::an_audited_job_by_level", levels::an_audited_job_by_level),
    ("quiesce::a_coordinator_killed_while_frozen", quiesce::a_coordinator_killed_while_frozen),
    ("quiesce::a_rank_saved_to_a_file_and_restored", quiesce::a_rank_saved_to_a_file_and_restored),
    ("deadlocks::ranks_inside_mpi", deadlocks::ranks_inside_mpi),
    (
        "deadlocks::what_an_agent_cannot_stop_or_flush",
        deadlocks::what_an_agent_cannot_stop_or_flush,
    ),
    ("deadlocks::who_stands_still_himself", deadlocks::who_stands_still_himself),
    ("gang::two_domains_of_a_job_move_together", gang::two_domains_of_a_job_move_together),
    (TO_THREE_HOSTS, gang::two_domains_of_a_job_move_to_two_hosts),
    (
        "gang::what_fails_before_go_leaves_both_at_home",
        gang::what_fails_before_go_leaves_both_at_home,
    ),
    ("interop::stock_xl_sends_to_rxl", interop::stock_xl_sends_to_rxl),
    ("interop::to_a_host_with_xl_alone_and_back", interop::to_a_host_with_xl_alone_and_back),
    (
        "interop::a_ring_survives_the_way_over_xls_protocol",
        interop::a_ring_survives_the_way_over_xls_protocol,
    ),
    (
        "interop::a_stock_receiver_killed_and_a_cancel",
        interop::a_stock_receiver_killed_and_a_cancel,
    ),
    ("refusals::each_in_one_line_with_its_own_code", refusals::each_in_one_line_with_its_own_code),
    ("savefile::rxl_and_xl_take_each_others_files", savefile::rxl_and_xl_take_each_others_files),
    ("savefile::files_of_a_pv_guest", savefile::files_of_a_pv_guest),
    (
        "savefile::what_goes_wrong_leaves_the_domain_as_it_was",
        savefile::what_goes_wrong_leaves_the_domain_as_it_was,
    ),
    ("traces::dirty_traces_at_several_rates", traces::dirty_traces_at_several_rates),
    ("compare::beside_stock_xl", compare::beside_stock_xl),
];

/// The scenario that has the third host.
const TO_THREE_HOSTS: &str = "gang::two_domains_of_a_job_move_to_two_hosts";

/// Run by `make test-long`. Under emulation a migration takes half a minute, and all scenarios take
/// two hours: these are the longest, or show more of what a shorter one, or the sessions in memory,
/// show as well.
const LONG: &[&str] = &[
    TO_THREE_HOSTS,
    "deadlocks::what_an_agent_cannot_stop_or_flush",
    "deadlocks::who_stands_still_himself",
    "failures::a_link_cut_in_precopy",
    "gang::what_fails_before_go_leaves_both_at_home",
    "interop::a_stock_receiver_killed_and_a_cancel",
    "interop::a_ring_survives_the_way_over_xls_protocol",
    "interop::stock_xl_sends_to_rxl",
    "mpi::a_ring_survives_the_move_of_a_rank",
    "precopy::a_guest_that_dirties_faster_than_the_link",
    "precopy::helper_and_rxl_killed",
    "precopy::to_and_fro_without_a_leak",
    "quiesce::a_rank_saved_to_a_file_and_restored",
    "savefile::files_of_a_pv_guest",
    "survival::a_guest_with_two_vcpus_and_two_vifs",
    "survival::a_writable_disk_on_shared_storage",
    "survival::an_hvm_guest_there_and_back",
    "traces::dirty_traces_at_several_rates",
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = SCENARIOS.iter().map(|(name, scenario)| {
        Trial::test(*name, move || run(name, *scenario)).with_ignored_flag(LONG.contains(name))
    });
    let trials = trials.collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// The emulator's own fault (see the lab's watchdog): a host that had to be woken so often stood
/// still for most of the time, and no deadline holds there.
const STANDS_STILL: u32 = 20;

/// Each in a lab of its own, which is up in seconds. A failure on hosts that stood still says
/// nothing of rxl: one more try.
fn run(name: &str, scenario: Scenario) -> Result<(), Failed> {
    twice_at_most(name, scenario).map_err(|error| Failed::from(format!("{error:#}")))
}

fn twice_at_most(name: &str, scenario: Scenario) -> Result<()> {
    match attempt(name, scenario)? {
        Attempt { result: Err(error), woken } if woken >= STANDS_STILL => {
            println!(
                "  [{name}] the emulator stood still {woken} times; once more after: {error:#}"
            );
            attempt(name, scenario)?.result
        }
        Attempt { result, .. } => result,
    }
}

struct Attempt {
    result: Result<()>,
    /// How often the hosts' QEMUs sat on an interrupt.
    woken: u32,
}

fn attempt(name: &str, scenario: Scenario) -> Result<Attempt> {
    let begun = Instant::now();
    let nodes: &[Node] = if name == TO_THREE_HOSTS { &Node::THREE } else { &Node::PAIR };
    let programs =
        [Path::new(env!("CARGO_BIN_EXE_rxl")), Path::new(env!("CARGO_BIN_EXE_rxl-save-helper"))];
    let cluster = Cluster::up(nodes, &programs)?;
    let ready = begun.elapsed();
    let result = scenario(&cluster);
    let mut woken = 0;
    for node in nodes.iter().copied() {
        match cluster.lab.woken(node) {
            0 => {}
            times => println!("  {node}'s QEMU sat on an interrupt {times} times, and was woken"),
        }
        woken += cluster.lab.woken(node);
    }
    println!(
        "  [{name}] lab ready in {:.1} s, done in {:.1} s",
        ready.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    if let Err(error) = &result {
        println!("  {error:#}");
        let logs = std::env::temp_dir().join(format!("rxl-nested-{}", name.replace("::", "-")));
        match cluster.lab.collect_logs(&logs) {
            Ok(()) => println!("  logs of the hosts: {}", logs.display()),
            Err(error) => println!("  no logs: {error:#}"),
        }
    }
    Ok(Attempt { result, woken })
}
