//! What the audit of a job's cuts makes of ends that agree and of ends that do not.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

use rxl_agent_protocol::*;

fn end(local: &str, remote: &str, acked: u64, received: u64) -> Connection {
    let (local, remote) = (local.parse().expect("address"), remote.parse().expect("address"));
    Connection {
        local,
        remote,
        acked,
        received,
        unacked: 0,
        notsent: 0,
        unread: 0,
        retransmits: 0,
        window: None,
    }
}

const A: &str = "10.0.0.1:1000";
const B: &str = "10.0.0.2:2000";

#[test]
fn ends_that_agree() {
    // A opened the connection: its SYN counts.
    assert_eq!(audit(&[end(A, B, 101, 50), end(B, A, 50, 100)]).agreed, 1);
    assert_eq!(audit(&[end(A, B, 100, 50), end(B, A, 50, 100)]).agreed, 1);
}

#[test]
fn ends_that_do_not_agree() {
    let told = |ends: &[Connection]| audit(ends).disagreed.len();
    assert_eq!(
        told(&[end(A, B, 102, 50), end(B, A, 50, 100)]),
        1,
        "acknowledged, and not received"
    );
    assert_eq!(told(&[end(A, B, 99, 50), end(B, A, 50, 100)]), 1, "received, and not acknowledged");
    assert_eq!(
        told(&[Connection { unacked: 1, ..end(A, B, 100, 50) }, end(B, A, 50, 100)]),
        1,
        "in flight"
    );
    assert_eq!(told(&[end(A, B, 100, 50), end(A, B, 100, 50)]), 1, "the same end twice");
}

#[test]
fn an_end_alone() {
    let a = end(A, B, 1, 1);
    assert_eq!(audit([&a]).one_ended, [(a.local, a.remote)]);
}

#[test]
fn a_cut_too_large_is_cut_off() {
    let many = vec![end(A, B, u64::MAX, u64::MAX); 6000];
    let (chunks, left_out) = pack(&many);
    assert_eq!(chunks.len(), MAX_CUT_CHUNKS);
    let kept: usize = chunks.iter().map(|chunk| unpack(chunk).expect("packed").len()).sum();
    assert!(left_out > 0 && kept + left_out == many.len());
}
