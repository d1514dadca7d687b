//! The conditions under which a quiesce could hang, each one forced on Xen: ranks in a rendezvous,
//! in a collective that half of them have entered, before a closed window, in uninterruptible
//! sleep; an agent killed while its ranks are frozen; two migrations of one job; a window that
//! opens while the sender is away; rxl, or an agent, that stands still itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::{COMMAND, Cluster, MIGRATION, failed, number};
use crate::quiesce::{check_cut, figures, prepare, start_job, summary, wait_for_state};
use rxl_lab::{Node, RemoteProcess};

/// What the last rank waits for, in its own domain.
const GO: &str = "/run/mpi-hold.go";

/// mpi-hold: rank 0 waits in MPI for the last rank, which stays out of it.
struct Held<'a> {
    cluster: &'a Cluster,
    job: RemoteProcess,
    last: &'static str,
}

impl<'a> Held<'a> {
    /// `first` has rank 0, `last` the one that keeps it waiting. Started in dom4, through the host
    /// that it does not leave.
    fn start(
        cluster: &'a Cluster,
        operation: &str,
        first: &str,
        last: &'static str,
    ) -> Result<Self> {
        cluster.lab.guest(last)?.check(&format!("rm -f {GO}"), COMMAND * 2)?;
        let launcher = cluster.lab.guest_via("dom4", Node::B)?;
        let mut job = launcher
            .spawn(&format!("mpirun --host {first},{last} -np 2 mpi-hold {operation} {GO}"))?;
        job.wait_for_stdout("held", COMMAND * 2)
            .with_context(|| format!("{operation}: the job does not start"))?;
        Ok(Self { cluster, job, last })
    }

    /// Rank 0 has not left the operation: whoever had waited for that would still wait.
    fn check_held(&mut self) -> Result<()> {
        ensure!(
            self.job.is_running()? && !self.job.stdout().contains("good"),
            "not held: {}",
            self.job.stdout()
        );
        Ok(())
    }

    fn let_go(&self) -> Result<()> {
        self.cluster.lab.guest(self.last)?.check(&format!("touch {GO}"), COMMAND * 2).map(drop)
    }

    /// It ends normally, and all that it sent has arrived undamaged. Tells how long that took.
    fn end(mut self) -> Result<Duration> {
        let begun = Instant::now();
        let output = self.job.wait(MIGRATION)?;
        ensure!(
            output.success() && output.stdout.contains("\"good\":1"),
            "{} {}",
            output.stdout,
            output.stderr
        );
        Ok(begun.elapsed())
    }
}

/// Both moves find rank 0 inside MPI, and leave it there.
pub fn ranks_inside_mpi(cluster: &Cluster) -> Result<()> {
    prepare(cluster)?;
    rendezvous_and_two_migrations_of_one_job(cluster)?;
    collective_and_an_agent_killed(cluster)
}

pub fn what_an_agent_cannot_stop_or_flush(cluster: &Cluster) -> Result<()> {
    prepare(cluster)?;
    uninterruptible(cluster)?;
    closed_window(cluster)?;
    window_that_opens_while_the_sender_is_away(cluster)
}

/// Neither is dead, so nobody gives anything back for them: rxl stopped until the leases of its job
/// have ended, then an agent whose ranks are frozen.
pub fn who_stands_still_himself(cluster: &Cluster) -> Result<()> {
    prepare(cluster)?;
    let job = start_job(cluster, Node::B)?;
    a_coordinator_stopped(cluster)?;
    an_agent_stopped(cluster)?;
    summary(cluster, job).map(drop)
}

fn rendezvous_and_two_migrations_of_one_job(cluster: &Cluster) -> Result<()> {
    let mut held = Held::start(cluster, "rendezvous", "dom4", "dom3")?;
    let migration = cluster.lab.node(Node::A).spawn(&migration(Node::B))?;
    cluster.wait_until(Node::A, "rxl status dom3 2>/dev/null | grep -q 'round 0'")?;
    cluster.name_hosts(Node::B)?;
    let begun = Instant::now();
    let (code, said) = cluster.migrate_fails(Node::B, "--mpi-quiesce=require dom4 nodeA")?;
    println!(
        "  a second migration of the job: {code} after {:.1} s: {said}",
        begun.elapsed().as_secs_f64()
    );
    ensure!(code == 7 && said.contains("another migration"), "{code}: {said}");
    let mpi = moved(migration)?;
    println!("  in a rendezvous: {}", figures(&mpi));
    held.check_held()?;
    held.let_go()?;
    held.end()?;
    cluster.check_clean("dom3", Node::B)
}

fn collective_and_an_agent_killed(cluster: &Cluster) -> Result<()> {
    let mut held = Held::start(cluster, "collective", "dom4", "dom3")?;
    let dom4 = cluster.lab.guest("dom4")?;
    dom4.check("true", COMMAND)?;
    let migration = cluster.lab.node(Node::B).spawn(&migration(Node::A))?;
    wait_for_state(cluster, Node::B, "dom4", "frozen|flushed").context("the job is not frozen")?;
    dom4.check("pkill -KILL -x rxl-guest-agent", COMMAND)?;
    let mpi = moved(migration)?;
    println!("  in a collective, an agent killed while frozen: {}", figures(&mpi));
    let restarts =
        dom4.check("systemctl show --property NRestarts --value rxl-guest-agent", COMMAND)?.stdout;
    ensure!(restarts.trim() != "0", "the agent was not killed");
    held.check_held()?;
    held.let_go()?;
    held.end()?;
    cluster.check_clean("dom3", Node::A)
}

fn uninterruptible(cluster: &Cluster) -> Result<()> {
    let held = Held::start(cluster, "uninterruptible", "dom4", "dom3")?;
    let (code, said) = cluster.migrate_fails(Node::A, "--mpi-quiesce=require dom3 nodeB")?;
    println!("  in state D: {code}: {said}");
    ensure!(code == 11 && said.contains("uninterruptible"), "{code}: {said}");
    held.let_go()?;
    held.end()?;
    cluster.check_clean("dom3", Node::A)
}

/// The sender's queue must not be waited for: nobody reads. What is in it finds room in the
/// reader's, which its agent has raised (its timer may be too far away for that to be awaited), and
/// is read when all are thawed.
fn closed_window(cluster: &Cluster) -> Result<()> {
    let held = Held::start(cluster, "window", "dom4", "dom3")?;
    let send_queue =
        "ss -Htn state established dst 10.77.0.13 | awk '$2 > 0 {found = 1} END {exit !found}'";
    cluster
        .lab
        .guest("dom4")?
        .check(&format!("sleep 2; {send_queue}"), COMMAND)
        .context("the window never closed")?;
    let migration = cluster.lab.node(Node::A).spawn(&migration(Node::B))?;
    wait_for_state(cluster, Node::B, "dom4", "frozen|flushed").context("the job is not frozen")?;
    held.let_go()?;
    let mpi = moved(migration)?;
    println!(
        "  before a closed window: {} unread, {} not sent; {}",
        mpi["unread"],
        mpi["notsent"],
        figures(&mpi)
    );
    ensure!(number(&mpi, "/unread")? > 0.0, "somebody has read: {mpi}");
    println!("  read to the end {:.1} s after the migration", held.end()?.as_secs_f64());
    cluster.check_clean("dom3", Node::B)
}

/// At level domain nobody keeps the reader from opening its window while the sender is away: the
/// update is lost, and the sender's persist timer has to find out.
fn window_that_opens_while_the_sender_is_away(cluster: &Cluster) -> Result<()> {
    const FILE: &str = "/var/tmp/dom3.save";
    let mut held = Held::start(cluster, "window", "dom3", "dom4")?;
    let source = cluster.lab.node(Node::B);
    source.check(&format!("rxl save --mpi-quiesce=domain dom3 {FILE}"), MIGRATION)?;
    held.check_held()?;
    held.let_go()?;
    std::thread::sleep(Duration::from_secs(2));
    held.check_held()?;
    source.check(&format!("rxl restore {FILE} && rm {FILE}"), MIGRATION)?;
    let took = held.end()?;
    println!(
        "  opened while the sender was in a file: all was read {:.1} s after it was back",
        took.as_secs_f64()
    );
    cluster.check_clean("dom3", Node::B)
}

fn a_coordinator_stopped(cluster: &Cluster) -> Result<()> {
    let source = cluster.lab.node(Node::A);
    let domid = cluster.domid(Node::A, "dom3")?.context("dom3 is not on nodeA")?;
    // On its host, and in one command: two seconds later dom3 is suspended, and its agent too.
    let stop = format!(
        "until xenstore-read /local/domain/{domid}/data/rxl/state | grep -qE ' (frozen|flushed) '; \
         do sleep 0.1; done; pkill -STOP -x rxl"
    );
    let mut stop = source.spawn(&stop)?;
    let mut migration = source.spawn(&migration(Node::B))?;
    ensure!(stop.wait(MIGRATION)?.success(), "rxl was not stopped");
    let stopped = Instant::now();
    for (node, guest) in [(Node::A, "dom3"), (Node::B, "dom4")] {
        wait_for_state(cluster, node, guest, "expired")?;
    }
    println!("  rxl stopped: both ranks ran again {:.1} s later", stopped.elapsed().as_secs_f64());
    source.check("pkill -CONT -x rxl", COMMAND)?;
    let (code, said) = failed(&migration.wait(MIGRATION)?)?;
    println!("  rxl goes on: {code}: {said}");
    ensure!(code == 11, "{code}: {said}");
    cluster.wait_until(Node::B, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    cluster.check_clean("dom3", Node::A)
}

/// Stopped in its own guest as soon as its ranks are frozen. Before its flush, nobody moves; after
/// it, only the thaw misses it. In both cases its watchdog ends it, and the next agent finds the
/// record and lets the ranks run.
fn an_agent_stopped(cluster: &Cluster) -> Result<()> {
    const STOP: &str = "agent=$(systemctl show --property MainPID --value rxl-guest-agent); until \
                        find /sys/fs/cgroup -path '*rxl.ranks*/cgroup.events' | xargs -r grep -qs \
                        'frozen 1'; do sleep 0.2; done; kill -STOP $agent";
    let dom4 = cluster.lab.guest("dom4")?;
    let mut stop = dom4.spawn(STOP)?;
    let mut migration = cluster.lab.node(Node::A).spawn(&migration(Node::B))?;
    ensure!(stop.wait(MIGRATION)?.success(), "the agent was not stopped");
    let stopped = Instant::now();
    let output = migration.wait(MIGRATION)?;
    let home = if output.success() { Node::B } else { Node::A };
    println!("  an agent stopped: dom3 on {home}; {}", output.stderr.trim());
    cluster.wait_until(Node::A, "! pgrep -x 'rxl|rxl-guard' >/dev/null")?;
    cluster.check_clean("dom3", home)?;
    let restarted = "for i in $(seq 100); do systemctl show --property NRestarts --value \
                     rxl-guest-agent | grep -qv '^0' && exit; sleep 1; done; exit 1";
    dom4.check(restarted, MIGRATION).context("the watchdog did nothing")?;
    wait_for_state(cluster, Node::B, "dom4", "expired|finished|thawed")?;
    println!(
        "  its ranks ran again {:.1} s after it was stopped, at the latest",
        stopped.elapsed().as_secs_f64()
    );
    Ok(())
}

fn migration(to: Node) -> String {
    format!("exec rxl migrate --json --progress none --mpi-quiesce=require dom3 {to}")
}

/// The `mpi` part of a migration's report; the job was frozen and thawed as it should be.
fn moved(mut migration: RemoteProcess) -> Result<Value> {
    let output = migration.wait(MIGRATION)?;
    ensure!(output.success(), "{:?}", failed(&output));
    let report: Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("not a report: {}", output.stdout))?;
    let mpi = report["mpi"].clone();
    ensure!(mpi["problem"].is_null(), "{mpi}");
    check_cut(&mpi)?;
    Ok(mpi)
}
