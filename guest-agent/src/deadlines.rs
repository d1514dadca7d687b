//! All the agent's spans of time, and what they must be to each other.
//!
//! The bounds of leases and deadlines in commands are the protocol's:
//! [`rxl_agent_protocol::deadlines`].

use std::time::Duration;

use rxl_agent_protocol::deadlines::{LONGEST_DEADLINE, LONGEST_LEASE, SHORTEST_LEASE};

/// Longest time without a look at the store while an epoch is under way. Commands, leases and a
/// fresh tree fire watches. A look takes tens of milliseconds of a slow host's processor, which
/// the other processes of the job need.
pub const BUSY_PACE: Duration = Duration::from_secs(1);

/// Longest time without a look at the store while no epoch is under way.
pub const IDLE_PACE: Duration = Duration::from_secs(5);

/// Pause after a step, so that a store with a change at every look leaves the ranks a processor.
pub const BREATH: Duration = Duration::from_micros(200);

/// Longest wait for xenstored's answer to a request. It answers in less than a millisecond, unless
/// dom0 is in trouble.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Pause before ranks that could not be thawed are tried again.
pub const THAW_RETRY: Duration = Duration::from_millis(100);

/// So often the agent tries again, between epochs, to put back what an epoch has left. It does so
/// at each look, and the kernel's refusals mostly last.
pub const REST_TRIES: u32 = 12;

/// How long an agent that is being stopped goes on trying to thaw.
pub const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// `WatchdogSec=` of the unit: systemd kills an agent that has not taken a step for so long. Its
/// successor thaws what is frozen.
pub const WATCHDOG: Duration = Duration::from_secs(30);

/// `TimeoutStopSec=` of the unit: systemd kills an agent that has not stopped after so long, and
/// starts no successor.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for the kernel's answer to a sock_diag request. It answers at once.
pub const SOCK_DIAG_SECONDS: i64 = 1;

/// Pause between two looks at something that settles by itself soon.
pub const SETTLE_PACE: Duration = Duration::from_micros(500);

/// Pause between two looks at processes that a signal is stopping.
pub const SIGNAL_PACE: Duration = Duration::from_micros(200);

/// Pause between two looks at retransmission timers, which take long, while the ranks need the
/// processor.
pub const TIMER_PACE: Duration = Duration::from_millis(20);

/// TCP's first retransmission timeout on a fast network (TCP_RTO_MIN in Linux's
/// include/net/tcp.h).
pub const TCP_RTO_MIN: Duration = Duration::from_millis(200);

/// A retransmission that is due later than this after a freeze may be too late for the flush.
pub const SOON: Duration = Duration::from_millis(500);

/// Longest wait, before a freeze, for retransmissions that are due later than [`SOON`].
pub const TIMER_DEADLINE: Duration = Duration::from_secs(4);

/// What is on its way, or waits for a delayed acknowledgement (40 ms in Linux), arrives in this
/// time. After it only a retransmission can.
pub const ARRIVAL: Duration = Duration::from_millis(200);

/// Shortest time without new data after which a raised receive buffer is at rest.
pub const SHORTEST_REST: Duration = Duration::from_millis(10);

/// Longest such time, whatever the round trip.
pub const LONGEST_REST: Duration = Duration::from_millis(100);

const fn sum(spans: &[Duration]) -> Duration {
    let mut rest = spans;
    let mut sum = Duration::ZERO;
    while let [first, others @ ..] = rest {
        sum = sum.saturating_add(*first);
        rest = others;
    }
    sum
}

const fn is_less(left: Duration, right: Duration) -> bool {
    left.as_nanos() < right.as_nanos()
}

// From one sign of life to the next: a wait, a command with the longest deadline, and one request
// without an answer, after which a step asks the store for nothing more.
const _: () = assert!(is_less(sum(&[IDLE_PACE, LONGEST_DEADLINE, ANSWER_DEADLINE]), WATCHDOG));

// A signal that comes in the middle of a step is heard after it. Then the ranks are thawed, before
// the store is told.
const _: () =
    assert!(is_less(sum(&[LONGEST_DEADLINE, ANSWER_DEADLINE, STOP_DEADLINE]), STOP_TIMEOUT));

// A killed agent's successor starts before the longest lease has ended, and goes on.
const _: () = assert!(is_less(WATCHDOG, LONGEST_LEASE));

// A thaw is tried again no later than a lease could have ended.
const _: () = assert!(!is_less(SHORTEST_LEASE, THAW_RETRY));

// While an epoch is under way the agent looks more often than while none is.
const _: () = assert!(is_less(BUSY_PACE, IDLE_PACE));

// `prepare` ends in its deadline even if it waits for timers.
const _: () = assert!(is_less(TIMER_DEADLINE, LONGEST_DEADLINE));

// A first retransmission is soon.
const _: () = assert!(is_less(TCP_RTO_MIN, SOON));

// A flush waits until a raised buffer has come to rest before it says that waiting is in vain.
const _: () = assert!(is_less(SHORTEST_REST, LONGEST_REST) && is_less(LONGEST_REST, ARRIVAL));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_says_the_same() {
        let unit = include_str!("../debian/rxl-guest-agent.service");
        for (key, span) in [("WatchdogSec", WATCHDOG), ("TimeoutStopSec", STOP_TIMEOUT)] {
            let line = format!("{key}={}s", span.as_secs());
            assert!(unit.lines().any(|of_unit| of_unit == line), "no {line}");
        }
    }
}
