//! `--mpi-quiesce` with a real job: two ranks in two domUs on two hosts, an agent in each, every
//! message audited.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{COMMAND, Cluster, MIGRATION, number};
use rxl_lab::{Node, RemoteProcess};

const GUESTS: [&str; 2] = ["dom3", "dom4"];

/// The file in rank 0's guest that ends the job.
const STOP: &str = "/run/mpi-audit.stop";

/// When a job ends that nobody has ended, in seconds: later than any scenario, however slow its
/// hosts. The lab's end ends it, too.
const LAST_SECOND: u32 = 4 * 3600;

/// Installs the agents' package, on hosts that may have served other ranks. The busy guest that no
/// test here needs gives its processor back.
pub fn prepare(cluster: &Cluster) -> Result<()> {
    cluster.lab.bind_processors()?;
    // Ranks spin; with two on one host dom0 would get a third of its only processor, and all takes
    // twice as long.
    cluster.weigh_dom0(2048)?;
    cluster.lab.on_each(|node| {
        let host = cluster.lab.node(node);
        host.run("xl destroy small 2>/dev/null; rm -f /etc/rxl/cluster.toml", COMMAND)?;
        let mut here = cluster
            .lab
            .domains(node)?
            .into_iter()
            .filter(|domain| GUESTS.contains(&domain.name.as_str()));
        here.try_for_each(|domain| {
            cluster.install_agent(&domain.name)?;
            let shown = host.check("rxl jobs", COMMAND)?.stdout;
            ensure!(shown.contains(&domain.name) && shown.contains("idle"), "{shown}");
            Ok(())
        })
    })
}

/// The report's `mpi` part, in a line.
pub fn figures(mpi: &Value) -> String {
    format!(
        "prepare {} ms, freeze {} ms, flush {} ms, resume {} ms, network {} ms, thaw {} ms, pause \
         {} ms, {} in flight, {} agree, {} retransmits, {} later",
        mpi["prepare"],
        mpi["freeze"],
        mpi["flush"],
        mpi["resume"],
        mpi["network"],
        mpi["thaw"],
        mpi["application-pause"],
        mpi["unacked"],
        mpi["connections-agreed"],
        mpi["retransmits"],
        mpi["retransmits-later"],
    )
}

/// All ranks stood still, so each connection was seen from both its ends. What a full receive queue
/// has dropped, and found no room for in time, makes the cut unclean, and the report has to say so
/// in every figure.
pub fn check_cut(mpi: &Value) -> Result<()> {
    let (agreed, disagreed) =
        (number(mpi, "/connections-agreed")?, number(mpi, "/connections-disagreed")?);
    ensure!(agreed + disagreed > 0.0 && mpi["connections-one-ended"] == 0, "{mpi}");
    check_directions(mpi, 2.0 * (agreed + disagreed))?;
    if mpi["clean"] == true {
        ensure!(disagreed == 0.0 && mpi["unacked"] == 0, "{mpi}");
        ensure!(mpi["retransmits"] == 0, "retransmitted between cut and thaw: {mpi}");
        return Ok(());
    }
    println!(
        "  the cut is unclean: {} bytes in flight, {} unread, sent again in {} ms",
        mpi["unacked"], mpi["unread"], mpi["resend"]
    );
    let directions = mpi["cut"].as_array().into_iter().flatten();
    directions
        .filter(|direction| direction["agrees"] == false)
        .for_each(|direction| println!("  {direction}"));
    ensure!(number(mpi, "/unacked")? + number(mpi, "/notsent")? > 0.0, "{mpi}");
    Ok(())
}

/// What the report says of each direction of a connection.
fn check_directions(mpi: &Value, count: f64) -> Result<()> {
    let all = mpi["cut"].as_array().context("cut")?;
    ensure!(all.len() as f64 == count, "{mpi}");
    for direction in all {
        let (acked, received) = (number(direction, "/acked")?, number(direction, "/received")?);
        ensure!(received > 0.0, "{direction}");
        ensure!(
            direction["agrees"] == false || (0.0..=1.0).contains(&(acked - received)),
            "{direction}"
        );
    }
    Ok(())
}

/// Rank 0 in dom4, reached through one of the hosts; its progress says that messages flow.
pub fn start_job(cluster: &Cluster, via: Node) -> Result<RemoteProcess> {
    let launcher = cluster.lab.guest_via("dom4", via)?;
    launcher.check(&format!("rm -f {STOP}"), COMMAND)?;
    let mut job = launcher
        .spawn(&format!("mpirun --host dom4,dom3 -np 2 mpi-audit {LAST_SECOND} --until {STOP}"))?;
    job.wait_for_stdout("progress", Duration::from_secs(180)).context("the job does not start")?;
    Ok(job)
}

/// Ends the job: nothing was lost, doubled, reordered or damaged.
pub fn summary(cluster: &Cluster, mut job: RemoteProcess) -> Result<Value> {
    cluster.lab.guest("dom4")?.check(&format!("touch {STOP}"), COMMAND)?;
    let output = job.wait(MIGRATION * 3)?;
    ensure!(output.success(), "the job failed: {} {}", output.stdout, output.stderr);
    let last = output.stdout.lines().last().context("the job said nothing")?;
    let saw: Value =
        serde_json::from_str(last).with_context(|| format!("not a summary: {last}"))?;
    println!(
        "  job: {} messages received of {} sent, {} lost, {} duplicated, {} reordered, {} corrupt, \
         {} iterations",
        saw["received"],
        saw["sent"],
        saw["lost"],
        saw["duplicated"],
        saw["reordered"],
        saw["corrupt"],
        saw["iterations"]
    );
    let sum: u64 = ["lost", "duplicated", "reordered", "corrupt"]
        .iter()
        .filter_map(|what| saw[*what].as_u64())
        .sum();
    ensure!(sum == 0 && saw["received"].as_u64() > Some(0), "{last}");
    Ok(saw)
}

/// Up to 3 s, so that migrations meet the job in any of its phases.
pub fn some_moment() -> Duration {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    Duration::from_millis(u64::from(nanos / 1000) % 3000)
}

/// The agent of a domain says one of these words.
pub fn wait_for_state(cluster: &Cluster, node: Node, guest: &str, states: &str) -> Result<()> {
    let domid = cluster.domid(node, guest)?.with_context(|| format!("{guest} is not on {node}"))?;
    let read = format!("xenstore-read /local/domain/{domid}/data/rxl/state");
    let poll = format!(
        "for i in $(seq 2000); do {read} | grep -qE ' ({states}) ' && exit 0; sleep 0.1; done; \
         {read}; exit 1"
    );
    cluster.lab.node(node).check(&poll, MIGRATION).map(drop)
}

/// rxl dies while the ranks stand still: they run again when their lease ends, and nobody has lost
/// anything.
pub fn a_coordinator_killed_while_frozen(cluster: &Cluster) -> Result<()> {
    prepare(cluster)?;
    let job = start_job(cluster, Node::B)?;
    let source = cluster.lab.node(Node::A);

    // Without the agent of the rank that stays, `require` begins nothing.
    cluster.lab.guest("dom4")?.check("systemctl stop rxl-guest-agent", COMMAND)?;
    let (code, said) = cluster.migrate_fails(Node::A, "--mpi-quiesce=require dom3 nodeB")?;
    println!("  {code}: {said}");
    ensure!(
        code == 11 && said.contains("2 ranks") && said.contains("cluster.toml"),
        "{code}: {said}"
    );
    cluster.check_clean("dom3", Node::A)?;
    cluster.lab.guest("dom4")?.check("systemctl start rxl-guest-agent", COMMAND)?;

    let mut migration =
        source.spawn("exec rxl migrate --progress none --mpi-quiesce dom3 nodeB")?;
    wait_for_state(cluster, Node::B, "dom4", "frozen|flushed").context("the job is not frozen")?;
    source.check("pkill -KILL -x rxl", COMMAND)?;
    let killed = Instant::now();
    migration.wait(MIGRATION)?;
    for (node, guest) in [(Node::A, "dom3"), (Node::B, "dom4")] {
        wait_for_state(cluster, node, guest, "expired")?;
    }
    println!(
        "  both ranks ran again {:.1} s after the coordinator was killed",
        killed.elapsed().as_secs_f64()
    );
    cluster.wait_until(Node::B, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    source.check("rxl status", COMMAND)?;
    cluster.check_clean("dom3", Node::A)?;
    summary(cluster, job).map(drop)
}

/// A rank's domain is saved while its job stands still, first to run on and then to come back from
/// its file. The job runs on over all of it.
pub fn a_rank_saved_to_a_file_and_restored(cluster: &Cluster) -> Result<()> {
    const FILE: &str = "/var/tmp/dom3.save";
    prepare(cluster)?;
    cluster.name_hosts(Node::A)?;
    let job = start_job(cluster, Node::B)?;
    let source = cluster.lab.node(Node::A);
    for then in ["-c", ""] {
        let begun = Instant::now();
        let said = source
            .check(&format!("rxl save {then} --mpi-quiesce=require dom3 {FILE}"), MIGRATION)?
            .stdout;
        println!("  save {then}: {:.1} s: {}", begun.elapsed().as_secs_f64(), said.trim());
        ensure!(
            said.contains("connections agree at both ends") && said.contains("application pause"),
            "{said}"
        );
        ensure!(cluster.domid(Node::A, "dom3")?.is_some() == (then == "-c"), "{then}: dom3");
    }
    let begun = Instant::now();
    source.check(&format!("rxl restore {FILE} && rm {FILE}"), MIGRATION)?;
    wait_for_state(cluster, Node::A, "dom3", "finished")?;
    println!("  restored, and its ranks ran again: {:.1} s", begun.elapsed().as_secs_f64());
    summary(cluster, job)?;
    cluster.check_clean("dom3", Node::A)
}
