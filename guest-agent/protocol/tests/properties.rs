//! What is written is read back the same; what is not well-formed is refused, never a panic.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

use std::fmt::{Debug, Display};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use proptest::prelude::*;
use rxl_agent_protocol::*;

fn stamp() -> impl Strategy<Value = Stamp> {
    (1..=u64::MAX, 1..=u32::MAX).prop_map(|(epoch, sequence)| Stamp { epoch, sequence })
}

fn token() -> impl Strategy<Value = Token> {
    "[A-Za-z0-9.:@/+_-]{1,128}".prop_map(|text| text.parse().expect("a token"))
}

fn ms(bounds: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    bounds.prop_map(Duration::from_millis)
}

fn us() -> impl Strategy<Value = Duration> {
    (0..=3_600_000_000u64).prop_map(Duration::from_micros)
}

fn lease() -> impl Strategy<Value = Duration> {
    ms(100..=600_000)
}

fn deadline() -> impl Strategy<Value = Duration> {
    ms(1..=10_000)
}

fn verb() -> impl Strategy<Value = Verb> {
    let prepare = (lease(), deadline(), ms(0..=3_600_000), proptest::option::of(token()));
    prop_oneof![
        Just(Verb::Survey),
        prepare.prop_map(|(lease, deadline, pause, job)| Verb::Prepare(Prepare {
            lease,
            deadline,
            pause,
            job
        })),
        (lease(), deadline()).prop_map(|(lease, deadline)| Verb::Freeze { lease, deadline }),
        (lease(), deadline(), any::<bool>()).prop_map(|(lease, deadline, room)| Verb::Flush {
            lease,
            deadline,
            room
        }),
        lease().prop_map(|lease| Verb::Hold { lease }),
        lease().prop_map(|lease| Verb::Thaw { lease }),
        Just(Verb::Finish),
        Just(Verb::Abort),
    ]
}

fn how() -> impl Strategy<Value = Freezer> {
    prop_oneof![Just(Freezer::Cgroup), Just(Freezer::Sigstop)]
}

fn reason() -> impl Strategy<Value = Reason> {
    prop_oneof![
        Just(Reason::Uninterruptible),
        Just(Reason::Connecting),
        Just(Reason::ImpatientConnection),
        Just(Reason::ForeignNamespace),
        Just(Reason::TooMany),
        Just(Reason::FreezeDeadline),
        Just(Reason::WrongState),
        Just(Reason::Malformed),
        Just(Reason::System),
        Just(Reason::Stopping),
    ]
}

fn ready() -> impl Strategy<Value = Ready> {
    let patience = proptest::option::of(ms(0..=u64::from(u32::MAX)));
    (any::<[u32; 3]>(), how(), patience, us()).prop_map(|(n, how, patience, took)| Ready {
        ranks: n[0],
        processes: n[1],
        connections: n[2],
        how,
        patience,
        took,
    })
}

fn flushed() -> impl Strategy<Value = Flushed> {
    let resend = proptest::option::of(ms(0..=u64::from(u32::MAX)));
    (any::<bool>(), any::<[u32; 3]>(), any::<[u64; 3]>(), resend, us()).prop_map(
        |(clean, n, bytes, resend, took)| Flushed {
            clean,
            connections: n[0],
            chunks: n[1],
            left_out: n[2],
            unacked: bytes[0],
            notsent: bytes[1],
            unread: bytes[2],
            resend,
            took,
        },
    )
}

fn status() -> impl Strategy<Value = Status> {
    let detail = || "[ -~]{0,200}";
    prop_oneof![
        Just(Status::Idle),
        any::<u32>().prop_map(|ranks| Status::Surveyed { ranks }),
        ready().prop_map(Status::Ready),
        (reason(), detail()).prop_map(|(reason, detail)| Status::Nack { reason, detail }),
        (how(), any::<u32>(), us()).prop_map(|(how, processes, took)| Status::Frozen(Frozen {
            how,
            processes,
            took
        })),
        flushed().prop_map(Status::Flushed),
        any::<bool>().prop_map(|frozen| Status::Resumed { frozen }),
        (us(), us(), any::<(u32, u64)>()).prop_map(|(took, paused, (lost, retransmits))| {
            Status::Thawed(Thawed { took, paused, lost, retransmits })
        }),
        us().prop_map(|paused| Status::Expired { paused }),
        any::<(u64, u32)>().prop_map(|(retransmits, connections)| Status::Finished(Finished {
            retransmits,
            connections
        })),
        (reason(), detail()).prop_map(|(reason, detail)| Status::Failed { reason, detail }),
    ]
}

fn unclaimed() -> impl Strategy<Value = Unclaimed> {
    let counts = (1..=u32::MAX, any::<u32>());
    (counts, token(), token()).prop_map(|((count, pid), comm, library)| Unclaimed {
        count,
        pid,
        comm,
        library,
    })
}

fn row() -> impl Strategy<Value = JobRow> {
    let launcher = prop_oneof![
        Just(Launcher::OpenMpi),
        Just(Launcher::Pmix),
        Just(Launcher::Hydra),
        Just(Launcher::Slurm)
    ];
    let ranks = proptest::collection::vec(any::<(u32, u32)>(), 1..=MAX_ROW_RANKS);
    let numbers = any::<(u32, u32)>();
    (token(), launcher, numbers, ranks).prop_map(|(id, launcher, (size, part), ranks)| JobRow {
        id,
        launcher,
        size,
        part,
        ranks: ranks.into_iter().map(|(number, pid)| Rank { number, pid }).collect(),
    })
}

fn address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(SocketAddr::from)
}

fn connection() -> impl Strategy<Value = Connection> {
    let figures = (any::<[u64; 2]>(), any::<[u32; 4]>(), any::<Option<u32>>());
    (address(), address(), figures).prop_map(|(local, remote, (bytes, n, window))| Connection {
        local,
        remote,
        acked: bytes[0],
        received: bytes[1],
        unacked: n[0],
        notsent: n[1],
        unread: n[2],
        retransmits: n[3],
        window,
    })
}

fn agent_info() -> impl Strategy<Value = AgentInfo> {
    (token(), any::<u32>(), any::<u32>(), token(), how()).prop_map(
        |(version, protocol, pid, boot, freezer)| AgentInfo {
            version,
            protocol,
            pid,
            boot,
            freezer,
        },
    )
}

/// A value of each kind.
fn well_formed() -> impl Strategy<Value = [String; 4]> {
    let stamp = Stamp { epoch: 7, sequence: 1 };
    (verb(), status(), row(), connection()).prop_map(move |(verb, status, row, connection)| {
        [
            Command { stamp, verb }.to_string(),
            State { stamp, status }.to_string(),
            row.to_string(),
            connection.to_string(),
        ]
    })
}

fn round_trip<T>(value: &T) -> Result<(), TestCaseError>
where
    T: FromStr<Err = Malformed> + Display + PartialEq + Debug,
{
    let text = value.to_string();
    prop_assert!(text.len() <= MAX_VALUE, "{} bytes: {}", text.len(), text);
    prop_assert_eq!(
        &text.parse::<T>(),
        &Ok(text.parse::<T>().expect("what was written is well-formed"))
    );
    prop_assert_eq!(&text.parse::<T>().expect("as above"), value);
    Ok(())
}

fn parse_all(text: &str) {
    let _ = text.parse::<Command>();
    let _ = Command::stamp_of(text);
    let _ = text.parse::<Lease>();
    let _ = text.parse::<AgentInfo>();
    let _ = text.parse::<State>();
    let _ = text.parse::<JobRow>();
    let _ = text.parse::<Unclaimed>();
    let _ = text.parse::<Connection>();
    let _ = unpack(text);
    let _ = unpack_explanation(text);
}

proptest! {
    #[test]
    fn commands(stamp in stamp(), verb in verb()) {
        let command = Command { stamp, verb };
        prop_assert_eq!(Command::stamp_of(&command.to_string()), Some(stamp));
        round_trip(&command)?;
    }

    #[test]
    fn leases(epoch in any::<u64>(), count in any::<u64>()) {
        round_trip(&Lease { epoch, count })?;
    }

    #[test]
    fn states(epoch in any::<u64>(), sequence in any::<u32>(), status in status()) {
        round_trip(&State { stamp: Stamp { epoch, sequence }, status })?;
    }

    #[test]
    fn agents(info in agent_info()) {
        round_trip(&info)?;
    }

    #[test]
    fn rows(row in row()) {
        round_trip(&row)?;
    }

    #[test]
    fn what_is_unclaimed(unclaimed in unclaimed()) {
        round_trip(&unclaimed)?;
    }

    #[test]
    fn connections(connection in connection()) {
        round_trip(&connection)?;
    }

    #[test]
    fn cuts(connections in proptest::collection::vec(connection(), 0..60)) {
        let (chunks, left_out) = pack(&connections);
        prop_assert_eq!(left_out, 0);
        prop_assert!(chunks.iter().all(|chunk| chunk.len() <= MAX_VALUE));
        let read: Vec<_> = chunks.iter().flat_map(|chunk| unpack(chunk).expect("packed")).collect();
        prop_assert_eq!(read, connections);
    }

    #[test]
    fn explanations(lines in proptest::collection::vec("[ -~]{1,255}", 0..=MAX_EXPLANATION)) {
        let chunks = pack_explanation(&lines);
        prop_assert!(chunks.len() <= MAX_EXPLANATION_CHUNKS);
        prop_assert!(chunks.iter().all(|chunk| chunk.len() <= MAX_VALUE));
        let read = chunks.iter().flat_map(|chunk| unpack_explanation(chunk).expect("packed"));
        prop_assert_eq!(read.collect::<Vec<_>>(), lines);
    }

    #[test]
    fn any_explanation_can_be_sent(lines in proptest::collection::vec(any::<String>(), 0..40)) {
        let chunks = pack_explanation(&lines);
        prop_assert!(chunks.iter().all(|chunk| unpack_explanation(chunk).is_ok()));
    }

    #[test]
    fn any_text_becomes_a_token(text in any::<String>()) {
        let token = Token::from_text(&text);
        prop_assert_eq!(token.as_str().parse(), Ok(token.clone()));
    }

    #[test]
    fn any_detail_can_be_sent(detail in any::<String>(), stamp in stamp()) {
        let state = State { stamp, status: Status::Failed { reason: Reason::System, detail } };
        prop_assert!(state.to_string().parse::<State>().is_ok());
    }

    #[test]
    fn nothing_panics(text in any::<String>()) {
        parse_all(&text);
    }

    /// Near the truth, where mistakes hide: a good value with one character replaced, removed or
    /// doubled.
    #[test]
    fn nothing_panics_near_the_truth(
        good in well_formed(),
        at in any::<prop::sample::Index>(),
        with in any::<char>(),
        how in 0..3,
    ) {
        for text in good {
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len());
            match how {
                0 => chars[at] = with,
                1 => { chars.remove(at); }
                _ => chars.insert(at, chars[at]),
            }
            parse_all(&chars.into_iter().collect::<String>());
        }
    }
}

#[track_caller]
fn refused<T: FromStr<Err = Malformed> + Debug>(text: &str, why: Malformed) {
    assert_eq!(text.parse::<T>().unwrap_err(), why, "{text:?}");
}

#[test]
fn commands_that_are_refused() {
    refused::<Command>("", Malformed::NotText);
    refused::<Command>("7", Malformed::Missing("sequence number"));
    refused::<Command>("7 1", Malformed::Missing("verb"));
    refused::<Command>("7 1 dance", Malformed::Bad("verb"));
    refused::<Command>("7  1 thaw lease=1000", Malformed::NotText);
    refused::<Command>("7 1 thaw lease=1000\n", Malformed::NotText);
    refused::<Command>("7 1 th\u{e4}w lease=1000", Malformed::NotText);
    refused::<Command>("0 1 finish", Malformed::Bad("stamp"));
    refused::<Command>("7 0 finish", Malformed::Bad("stamp"));
    refused::<Command>("+7 1 finish", Malformed::Bad("epoch"));
    refused::<Command>("07 1 finish", Malformed::Bad("epoch"));
    refused::<Command>("18446744073709551616 1 finish", Malformed::Bad("epoch"));
    refused::<Command>("7 4294967296 finish", Malformed::Bad("sequence number"));
    refused::<Command>("7 1 finish now", Malformed::Surplus);
    refused::<Command>("7 1 thaw", Malformed::Missing("lease"));
    refused::<Command>("7 1 thaw lease=99", Malformed::Bad("lease"));
    refused::<Command>("7 1 thaw lease=600001", Malformed::Bad("lease"));
    refused::<Command>("7 1 thaw lease=-1", Malformed::Bad("lease"));
    refused::<Command>("7 1 thaw lease=1000 lease=2000", Malformed::Surplus);
    refused::<Command>("7 1 freeze lease=1000 deadline=10001", Malformed::Bad("deadline"));
    refused::<Command>("7 1 freeze lease=1000 deadline=0", Malformed::Bad("deadline"));
    refused::<Command>("7 1 prepare lease=1000 deadline=1 pause=1 job=", Malformed::Bad("name"));
    refused::<Command>("7 1 prepare lease=1000 deadline=1 pause=1 job=a$b", Malformed::Bad("name"));
    refused::<Command>(&"7".repeat(MAX_VALUE + 1), Malformed::TooLong);
}

#[test]
fn states_that_are_refused() {
    refused::<State>("7 1 failed reason=system", Malformed::Missing("detail"));
    refused::<State>("7 1 failed reason=mood detail=", Malformed::Bad("reason"));
    refused::<State>("7 1 idle detail=x", Malformed::Surplus);
    refused::<State>("7 1 resumed frozen=2", Malformed::Bad("frozen"));
    refused::<State>("7 1 surveyed ranks=-1", Malformed::Bad("ranks"));
    refused::<State>("7 1 expired paused=3600000001", Malformed::Bad("paused"));
    refused::<State>(
        &format!("7 1 nack reason=system detail={}", "x".repeat(MAX_DETAIL + 1)),
        Malformed::Bad("detail"),
    );
    refused::<State>("7 1 nack reason=system detail=a\tb", Malformed::Bad("detail"));
}

#[test]
fn rows_that_are_refused() {
    let ranks = |n: usize| vec!["1:1"; n].join(",");
    assert!(
        format!("id=a launcher=slurm size=4 ranks={}", ranks(MAX_ROW_RANKS))
            .parse::<JobRow>()
            .is_ok()
    );
    refused::<JobRow>(
        &format!("id=a launcher=slurm size=4 ranks={}", ranks(MAX_ROW_RANKS + 1)),
        Malformed::Bad("ranks"),
    );
    refused::<JobRow>("id=a launcher=slurm size=4 ranks=", Malformed::Bad("ranks"));
    refused::<JobRow>("id=a launcher=slurm size=4 ranks=1", Malformed::Bad("ranks"));
    refused::<JobRow>("id=a launcher=lam size=4 ranks=1:1", Malformed::Bad("launcher"));
    refused::<JobRow>("id=a launcher=slurm size=4 part=0 ranks=1:1", Malformed::Bad("part"));
    refused::<JobRow>("id=a launcher=slurm size=4 part=x ranks=1:1", Malformed::Bad("part"));
    refused::<JobRow>("launcher=slurm size=4 ranks=1:1", Malformed::Missing("id"));
    refused::<Connection>("10.0.0.1 10.0.0.2:1 0 0 0 0 0 0 -", Malformed::Bad("local address"));
    refused::<Connection>("10.0.0.1:1 10.0.0.2:1 0 0 0 0 0 0", Malformed::Missing("window"));
}

#[test]
fn what_is_unclaimed_must_be_something() {
    refused::<Unclaimed>("count=0 pid=1 comm=a library=libmpi.so", Malformed::Bad("count"));
    refused::<Unclaimed>("count=1 pid=1 comm=a b library=libmpi.so", Malformed::Surplus);
    refused::<Unclaimed>("count=1 pid=1 comm=a", Malformed::Missing("library"));
}

#[test]
fn an_agent_of_a_later_version_can_still_be_told() {
    let info: AgentInfo =
        "version=9.9 protocol=2 pid=1 boot=x freezer=cgroup colour=blue".parse().expect("lenient");
    assert_eq!(info.protocol, 2);
}
