//! Every deadline of rxl, and how they relate.
//!
//! A wait that is nested in another, or that counts on a wait of the other host, has to end in the
//! right order. Each such relation is asserted below, at compile time, so that a deadline cannot be
//! changed without its relations. Pauses between two looks at something stand beside the loops that
//! make them.
//!
//! ```text
//!  leader       |-- GANG_PREPARE 80 --|
//!  member       |-------- BEGIN 150 --------|-- CONNECT 60 --|
//!  target       |------------------ DATA_CONNECTIONS 240 ------------------|
//!
//!  leader       |-- GANG_READY 90 --|
//!  member       |---- GANG_GO 100 ----|
//!  target       |------- GO 120 -------|
//! ```

use std::time::Duration;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

// libxl and the guest.

/// How long libxl gives a guest to acknowledge a suspend, and again to carry it out
/// (libxl_dom_suspend.c).
pub const LIBXL_SUSPEND_STEP: Duration = seconds(60);

/// How long Linux tries to freeze its processes before it gives a suspend up and runs on
/// (kernel/power/process.c).
pub const LINUX_FREEZE: Duration = seconds(20);

/// How long a suspend that was asked for by a process which is gone may still take effect.
pub const ABANDONED_SUSPEND: Duration = seconds(30);

/// How long an abort waits until libxl has forked its save helper: until then libxl writes or reads
/// two headers and talks to xenstore.
pub const HELPER_FORK: Duration = seconds(30);

/// How long an aborted operation of libxl's may take to end: libxl lets its save helper clean up.
pub const ABORT: Duration = seconds(90);

/// Time for dom0 to give memory back; waits with progress are not counted (xl_vmcontrol.c:
/// freemem).
pub const BALLOON: Duration = seconds(30);

/// How long a target may take, after the offer, to make the domain and claim its memory. It may
/// wait for xl's lock, and for dom0 to give memory back.
pub const CLAIM: Duration = seconds(50);

/// How long the helper of a restore waits for the special pages: until the source has begun, once
/// its domain is made.
pub const HELPER_RESTORE: Duration = seconds(600);

/// How long libxl may take to start its save helper.
pub const HELPER_START: Duration = seconds(30);

/// How long the save helper may take to answer the session. It waits for the guest's suspend, of
/// two steps of libxl's.
pub const HELPER_ANSWER: Duration = seconds(150);

/// How long the session may take to answer the save helper. The session may be quiescing an MPI job
/// first.
pub const HELPER_QUESTION: Duration = seconds(120);

/// How long a session may take to answer its save: an MPI job may have to be quiesced first.
pub const SESSION_ANSWER: Duration = seconds(100);

/// How long libxl may take to tell why, once it has stopped reading or writing its stream.
pub const LIBXL_REASON: Duration = seconds(20);

/// From the end of a restored stream to libxl's last word: devices are attached.
pub const DEVICES: Duration = seconds(300);

/// Longest time in which no byte moves on a data connection or to or from libxl, while the control
/// connection is alive. A guest may take both of libxl's suspend steps in it.
pub const STALL: Duration = seconds(180);

/// How long a record of the journal may be locked by another process, which reads it, writes a line
/// and waits for the disk.
pub const RECORD_LOCK: Duration = seconds(5);

/// How long the other host may take to answer a question about a migration, once it is reached: it
/// destroys or starts a domain first.
pub const RECOVER_ANSWER: Duration = seconds(120);

/// Pause before the other host is asked again.
pub const RECOVER_PAUSE: Duration = seconds(2);

/// How long whoever gives up still tries to have its migration's end decided.
pub const RECOVER_TRY: Duration = seconds(60);

/// How long a domain is tried to be put right, before that is tried again later.
pub const RECOVER_LIMIT: Duration = seconds(90);

/// How long a watcher may take until it watches: systemd starts it, and it talks to libxl.
pub const WATCH_START: Duration = seconds(60);

/// How long xl's own watcher may take to end once its guest has been suspended.
pub const XL_WATCHER_END: Duration = seconds(10);

/// From the end of a domain to its next boot. xl waits as long, as making it again has failed
/// without (xl_vmcontrol.c: create_domain).
pub const REBOOT_PAUSE: Duration = seconds(2);

/// How long xenstored may take over one request. It has one thread, and a host that is busy, or
/// itself emulated, makes it wait for seconds.
pub const XENSTORE: Duration = seconds(10);

// The connections between the two hosts.

/// How long the other side may be silent before it counts as lost, unless the user says otherwise
/// (`--peer-timeout`). The source's value holds at both ends: its offer brings it.
pub const SILENCE: Duration = seconds(30);

/// Least `--peer-timeout` that may be asked for.
pub const SHORTEST_SILENCE: Duration = seconds(5);

/// Largest `--peer-timeout` that may be asked for.
pub const LONGEST_SILENCE: Duration = seconds(3600);

/// Longest time in which no byte moves on a data connection, where the other side may be silent for
/// so long: who bears a host that stands still bears that its data stands still.
pub const fn stall(silence: Duration) -> Duration {
    if before(STALL, silence) { silence } else { STALL }
}

/// Longest silence of a living side on the control connection.
pub const HEARTBEAT: Duration = seconds(2);

/// How long a connection of any kind may take until the other side has answered over it. ssh to a
/// busy host is slow.
pub const CONNECT: Duration = seconds(60);

/// How long a connection may take to say who it is.
pub const PREAMBLE: Duration = seconds(3);

/// From the target's Accept until all data connections are there. A member of a gang begins only
/// when all others are prepared.
pub const DATA_CONNECTIONS: Duration = seconds(240);

/// How long a child whose pipes have been closed may take to end by itself.
pub const SSH_EXIT: Duration = seconds(5);

/// How long a child that has said all may take until its exit status is there.
pub const SSH_STATUS: Duration = seconds(3);

/// How long what a child has written to its standard error may still take to be read, once it has
/// ended. A process that it left behind may hold the other end for ever.
pub const LAST_WORDS: Duration = millis(300);

/// How long one TCP connection may take to be made.
pub const TCP_CONNECT: Duration = seconds(15);

/// How long the target may take to clean up after an abort.
pub const PEER_ABORT: Duration = seconds(30);

/// How long a receiver over xl's protocol may take to clean up once its input has ended.
pub const XL_CLEAN_UP: Duration = seconds(30);

/// How long the target waits, at its end, until the source has read what was said and closes.
pub const PEER_READS: Duration = seconds(10);

/// How long the peer's or libxl's reason behind a broken data path may take to come.
pub const PEER_REASON: Duration = seconds(3);

// The handover.

/// From the end of the stream to READY: libxl's restore ends, devices are attached.
pub const READY: Duration = seconds(300);

/// From READY to GO, at the target. The source has only to rename its domain; a member of a gang
/// also waits for its leader.
pub const GO: Duration = seconds(120);

/// How long writing GO may take; after that it counts as said, as nobody knows.
pub const SAY_GO: Duration = seconds(10);

/// From GO to the target's word that the domain runs.
pub const DONE: Duration = seconds(120);

/// How long a guard may take to put right what it guards, when its session lets it.
pub const GUARD: Duration = seconds(90);

/// How long an interface may take to forward: the guest's frontend connects to it first.
pub const ANNOUNCE: Duration = seconds(15);

// Several domains at once.

/// From the first member that could begin to the last, at the leader: the job has to be found.
pub const GANG_PREPARE: Duration = seconds(80);

/// How long a member waits until its leader lets it begin.
pub const BEGIN: Duration = seconds(150);

/// From the first member that could stop to the last: the job runs, and domains differ in size.
pub const GANG_STOP: Duration = seconds(3600);

/// From the freeze to the last live iteration of the last member: the job stands still.
pub const GANG_FLUSH: Duration = seconds(90);

/// From the first READY to the last, at the leader: guests stand still.
pub const GANG_READY: Duration = seconds(90);

/// From a member's READY to its leader's Go.
pub const GANG_GO: Duration = seconds(100);

/// From GO until each member has had its target's answer, or none.
pub const GANG_SETTLE: Duration = seconds(200);

/// From the last barrier that is to be kept to the members' own ends.
pub const GANG_END: Duration = seconds(600);

/// How long either end of the line between leader and member may leave a message unread: it may be
/// in the middle of libxl's call.
pub const GANG_MESSAGE: Duration = seconds(30);

/// How long the leader may take over the last figures: the others' answers to GO, and their
/// agents'.
pub const GANG_CLOSE: Duration = seconds(400);

/// How long a member may take from its last message to its end.
pub const MEMBER_EXIT: Duration = seconds(10);

/// How long either side of `rxl status` and `rxl cancel` may take over its line.
pub const MONITOR: Duration = seconds(5);

// The MPI job and its agents.

/// How long agents may take to name their ranks.
pub const SURVEY: Duration = seconds(30);

/// How long another's survey of the same host is waited for: two of them one after the other, each
/// with an agent that does not answer.
pub const SURVEY_TURN: Duration = seconds(70);

/// How long another host may take over its part of a survey: its turn, and its agents' answers.
pub const SURVEY_ELSEWHERE: Duration = seconds(40);

/// How long another host's `rxl agent serve` may take to answer, beside what it was asked to wait
/// for.
pub const AGENT_SERVER: Duration = seconds(30);

/// How long `rxl agent serve` waits for a request. A coordinator that lives asks or greets several
/// times in that; the locks of one whose host is gone are given back.
pub const AGENT_SERVER_IDLE: Duration = seconds(120);

/// How long ranks stay frozen without a word of the coordinator's.
pub const LEASE: Duration = seconds(30);

/// How often leases are renewed.
pub const LEASE_RENEWAL: Duration = seconds(3);

/// How long a domain that moves may be away: its agent counts only the time that its guest runs.
pub const HOLD_LEASE: Duration = seconds(60);

/// What every connection of a job must bear, or nothing is frozen: longer than domains were seen to
/// be away, and shorter than the least that was seen to be borne, UCX's 27 s. Connections that bear
/// more are asked again right before GO.
pub const ANNOUNCED_PAUSE: Duration = seconds(20);

/// What an agent is given to prepare. Nothing is frozen yet; finding the ranks means reading all of
/// a guest's /proc.
pub const PREPARE: Duration = seconds(10);

/// How long the answer to it may take.
pub const PREPARE_ANSWER: Duration = seconds(30);

/// What an agent is given to freeze. A rank is stopped when it next enters the kernel, which takes
/// it milliseconds once its virtual processor runs; with three busy ones on one processor more than
/// a second was seen.
pub const FREEZE: Duration = seconds(5);

/// What an agent is given to flush. What a full receiver has dropped comes with its sender's next
/// retransmission, and a timer that doubles is at most 0.2 s more away than the receiver's rank has
/// already stood still: freezing and the barrier may take more than 1 s where ranks spin. A cut
/// that is clean sooner does not wait.
pub const FLUSH: Duration = seconds(2);

/// How much longer is waited for what is sent again, as often as less was left than before: a long
/// queue takes a slow network or processor more than the deadline.
pub const FLUSH_STEP: Duration = millis(500);

/// The end of all flushing: what is left is carried by TCP.
pub const LONGEST_FLUSH: Duration = seconds(5);

/// What is enough for a flush where nothing has to be sent again.
pub const SHORTEST_FLUSH: Duration = millis(200);

/// From unpause to the agent's word: its guest thaws its own tasks first.
pub const RESUME: Duration = seconds(60);

/// From the agent's word until its host's network forwards to it: its backend connects, and the
/// kernel tells the bridge of a carrier once a second at most (linkwatch). 1.5 s were seen after
/// the word, on a busy host 5 s. All domains that moved together have this time in common.
pub const NETWORK: Duration = seconds(10);

/// What an agent may need beside its own deadline: its poll loop, xenstore, and a guest whose ranks
/// spin on its processors.
pub const AGENT_SLACK: Duration = seconds(5);

/// How long retransmissions are watched after the thaw.
pub const AFTERMATH: Duration = seconds(1);

/// Whether `first` ends before `second` does.
const fn before(first: Duration, second: Duration) -> bool {
    first.as_millis() < second.as_millis()
}

/// Both, one after the other.
const fn both(first: Duration, second: Duration) -> Duration {
    first.saturating_add(second)
}

const LIBXL_SUSPEND: Duration = both(LIBXL_SUSPEND_STEP, LIBXL_SUSPEND_STEP);

// A watcher talks to xenstored before it watches.
const _: () = assert!(before(XENSTORE, WATCH_START));
// A guest may use all of libxl's time to suspend without being taken for stalled.
const _: () = assert!(before(LIBXL_SUSPEND, HELPER_ANSWER));
const _: () = assert!(before(LIBXL_SUSPEND, STALL));
// A guest that gives a suspend up has done so before nobody waits for it any more.
const _: () = assert!(before(LINUX_FREEZE, ABANDONED_SUSPEND));
// What is put right waits for a suspend that may still take effect.
const _: () = assert!(before(ABANDONED_SUSPEND, RECOVER_LIMIT));
// An answer puts a domain right first.
const _: () = assert!(before(RECOVER_LIMIT, RECOVER_ANSWER));
// The session refuses a suspend before its save helper takes it for lost.
const _: () = assert!(before(SESSION_ANSWER, HELPER_QUESTION));
// An abort holds back until the helper is there, and then still has time.
const _: () = assert!(before(HELPER_FORK, ABORT));
// READY counts on devices that are attached within their own time.
const _: () = assert!(!before(READY, DEVICES));
// Each side pings several times before the other takes it for dead.
const _: () = assert!(before(both(HEARTBEAT, HEARTBEAT), SHORTEST_SILENCE));
const _: () = assert!(before(SHORTEST_SILENCE, SILENCE) && before(SILENCE, LONGEST_SILENCE));
// What the user bears of the other host is borne of its data, and never less than by default.
const _: () = assert!(!before(stall(LONGEST_SILENCE), LONGEST_SILENCE));
const _: () = assert!(!before(stall(SILENCE), STALL) && before(SILENCE, STALL));
// A stranger that says nothing leaves time for the connections that belong here.
const _: () = assert!(before(PREAMBLE, CONNECT));
// TCP connections are made, all at once, within the time for connections of any kind.
const _: () = assert!(before(TCP_CONNECT, CONNECT));
// The source waits for Accept as long as the claim may take, and so does the gang's leader.
const _: () = assert!(before(BALLOON, CLAIM) && before(CLAIM, CONNECT));
const _: () = assert!(before(CLAIM, GANG_PREPARE));
// The helper waits until the data connections are there, and one stall long after that.
const _: () = assert!(before(both(DATA_CONNECTIONS, STALL), HELPER_RESTORE));
// The leader gives up first, then the members, then the targets that wait for their data.
const _: () = assert!(before(GANG_PREPARE, BEGIN));
const _: () = assert!(before(both(BEGIN, CONNECT), DATA_CONNECTIONS));
// The survey, and a turn before it, end before the members stop waiting to begin.
const _: () = assert!(before(both(both(SURVEY, SURVEY_TURN), SURVEY_ELSEWHERE), BEGIN));
const _: () = assert!(before(both(SURVEY, AGENT_SLACK), SURVEY_ELSEWHERE));
const _: () = assert!(before(both(SURVEY, SURVEY), SURVEY_TURN));
// A member waits for Go longer than its leader waits for the others, and its target longer still.
const _: () = assert!(before(GANG_READY, GANG_GO));
const _: () = assert!(before(GANG_GO, GO));
const _: () = assert!(before(both(GANG_GO, SAY_GO), GO));
// The leader waits for what its members wait for: the answer to GO, and the agents after it.
const _: () = assert!(before(DONE, GANG_SETTLE));
const _: () = assert!(before(both(both(GANG_SETTLE, RESUME), NETWORK), GANG_CLOSE));
const _: () = assert!(before(GANG_CLOSE, GANG_END));
// A job is frozen and flushed, with all barriers, while the session may still answer its save.
const _: () = assert!(before(both(FREEZE, LONGEST_FLUSH), SESSION_ANSWER));
const _: () = assert!(before(GANG_FLUSH, SESSION_ANSWER));
// A lease is renewed several times before it ends, and outlasts a command with all its slack.
const _: () = assert!(before(both(both(LEASE_RENEWAL, LEASE_RENEWAL), LEASE_RENEWAL), LEASE));
const _: () = assert!(before(both(FREEZE, AGENT_SLACK), LEASE));
// A renewal that xenstored delays to its deadline still comes in time, and its failure is told.
const _: () = assert!(before(both(LEASE_RENEWAL, XENSTORE), LEASE));
const _: () = assert!(before(XENSTORE, AGENT_SERVER));
const _: () = assert!(before(both(LONGEST_FLUSH, AGENT_SLACK), LEASE));
// An agent answers before its coordinator, and the coordinator's server there, stop listening.
const _: () = assert!(before(both(PREPARE, AGENT_SLACK), PREPARE_ANSWER));
const _: () = assert!(before(both(SURVEY, AGENT_SLACK), both(AGENT_SERVER, AGENT_SERVER)));
const _: () = assert!(before(both(LEASE_RENEWAL, LEASE), AGENT_SERVER_IDLE));
// Flushing: from the least to the most.
const _: () = assert!(before(SHORTEST_FLUSH, FLUSH) && before(FLUSH, LONGEST_FLUSH));
// The domain that moves keeps its ranks frozen until the longest announced pause is over.
const _: () = assert!(before(ANNOUNCED_PAUSE, HOLD_LEASE));
