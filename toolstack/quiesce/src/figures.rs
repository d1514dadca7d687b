//! What a coordinator measures, for the report.

use std::time::Duration;

use crate::error::NotQuiesced;
use rxl_agent_protocol::{Connection, Finished, Flushed, Frozen, Ready, Thawed, audit};
use rxl_core::units::ms;
use rxl_report::mpi::{Direction, MpiPart};

/// The part of the least patience that may have passed at the agreement: the rest is for the target
/// to let the domain run, and for the network to find it.
const OUTAGE_SHARE: f64 = 2.0 / 3.0;

/// How another flush may find a better cut.
pub(crate) enum Better {
    /// The cut is clean: nothing is on the wire, and both ends of every connection agree.
    Not,
    /// All has been acknowledged, but a domain was written down while another was still sending to
    /// it.
    ByLooking,
    /// So many bytes are in flight or to be sent, and something is sent again in this time.
    BySending { after: Duration, left: u64 },
}

/// What all agents have answered to one flush.
#[derive(Default)]
pub(crate) struct Cut {
    ends: Vec<Connection>,
    not_clean: bool,
    not_settled: bool,
    unacked: u64,
    notsent: u64,
    unread: u64,
    resend: Option<Duration>,
}

impl Cut {
    /// Adds one agent's answer, with the connections that it has written down.
    pub(crate) fn add(&mut self, flushed: &Flushed, ends: Vec<Connection>) {
        self.not_settled |= !flushed.clean;
        self.not_clean |= !flushed.clean || flushed.left_out != 0;
        self.unacked = self.unacked.saturating_add(flushed.unacked);
        self.notsent = self.notsent.saturating_add(flushed.notsent);
        self.unread = self.unread.saturating_add(flushed.unread);
        self.resend = self.resend.max(flushed.resend);
        self.ends.extend(ends);
    }

    /// Writes the cut into the figures, and judges it.
    pub(crate) fn judge(self, figures: &mut MpiPart) -> Better {
        let audit = audit(&self.ends);
        figures.clean = Some(!self.not_clean);
        figures.connections_agreed = Some(audit.agreed);
        figures.connections_disagreed = Some(audit.disagreed.len());
        figures.connections_one_ended = Some(audit.one_ended.len());
        (figures.unacked, figures.notsent, figures.unread) =
            (Some(self.unacked), Some(self.notsent), Some(self.unread));
        figures.resend = self.resend.map(ms);
        figures.cut = Direction::all(&self.ends);
        let left = self.unacked.saturating_add(self.notsent);
        match (self.not_settled, audit.disagreed.is_empty()) {
            (true, _) => Better::BySending { after: self.resend.unwrap_or_default(), left },
            (false, false) => Better::ByLooking,
            (false, true) => Better::Not,
        }
    }
}

/// Adds what one agent has said when it was prepared.
pub(crate) fn prepared(figures: &mut MpiPart, ready: &Ready) {
    figures.processes = figures.processes.saturating_add(ready.processes);
    figures.connections = figures.connections.saturating_add(ready.connections);
    let patience = ready.patience.map(ms);
    figures.patience = [figures.patience, patience].into_iter().flatten().reduce(f64::min);
}

/// Adds what one agent has said when its ranks stood still.
pub(crate) fn frozen(figures: &mut MpiPart, frozen: &Frozen) {
    keep_longest(&mut figures.freeze_in_guest, frozen.took);
}

/// Adds what one agent has said when its ranks ran again.
pub(crate) fn thawed(figures: &mut MpiPart, thawed: &Thawed) {
    let retransmits = figures.retransmits.get_or_insert(0);
    *retransmits = retransmits.saturating_add(thawed.retransmits);
    let lost = figures.connections_lost.get_or_insert(0);
    *lost = lost.saturating_add(thawed.lost);
}

/// Adds what agents have counted from the thaw to the epoch's end.
pub(crate) fn finished(figures: &mut MpiPart, all: &[Finished]) {
    for one in all {
        let later = figures.retransmits_later.get_or_insert(0);
        *later = later.saturating_add(one.retransmits);
    }
    let at_thaw = figures.retransmits.unwrap_or(0);
    let later = figures.retransmits_later.map(|all| all.saturating_sub(at_thaw));
    figures.retransmits_later = later;
}

/// Of several domains the longest counts.
pub(crate) fn keep_longest(figure: &mut Option<f64>, took: Duration) {
    let took = ms(took);
    *figure = Some(figure.map_or(took, |longest| longest.max(took)));
}

/// Whether the job's connections will still be there when a domain runs that has been suspended for
/// so long. They last while ranks are frozen, as kernels answer for them; a domain that is
/// suspended answers nobody.
pub(crate) fn check_outage(figures: &MpiPart, away: Duration) -> Result<(), NotQuiesced> {
    let (away, Some(least)) = (ms(away), figures.patience) else { return Ok(()) };
    if away <= least * OUTAGE_SHARE {
        return Ok(());
    }
    Err(NotQuiesced::Outage { away: away / 1e3, least: least / 1e3 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rxl_core::level::Level;

    fn figures() -> MpiPart {
        MpiPart::new(Level::Job, 1, Vec::new(), "openmpi".into(), 2)
    }

    fn end(text: &str) -> Connection {
        text.parse().unwrap()
    }

    #[test]
    fn a_cut_is_judged_by_both_ends() {
        let flushed = Flushed { clean: true, connections: 1, chunks: 1, ..Flushed::default() };
        let one = end("10.0.0.3:1 10.0.0.4:2 1000 1000 0 0 0 0 -");
        let mut cut = Cut::default();
        cut.add(&flushed, vec![one.clone()]);
        cut.add(&flushed, vec![end("10.0.0.4:2 10.0.0.3:1 1000 500 0 0 0 0 -")]);
        assert!(matches!(cut.judge(&mut figures()), Better::ByLooking));
        let mut cut = Cut::default();
        let waiting = Flushed { clean: false, unacked: 3, notsent: 4, ..flushed.clone() };
        cut.add(&waiting, vec![one]);
        let mut figures = figures();
        let Better::BySending { left, .. } = cut.judge(&mut figures) else { panic!() };
        assert_eq!((left, figures.clean), (7, Some(false)));
    }

    #[test]
    fn the_least_patience_bounds_the_outage() {
        let mut figures = figures();
        figures.patience = Some(900.0);
        assert!(check_outage(&figures, Duration::from_millis(600)).is_ok());
        let problem = check_outage(&figures, Duration::from_millis(601)).unwrap_err();
        assert!(problem.to_string().contains("gives up after 1 s"), "{problem}");
        figures.patience = None;
        assert!(check_outage(&figures, Duration::from_secs(900)).is_ok(), "nobody minds");
    }
}
