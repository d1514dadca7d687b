//! What is measured while a domain leaves.

use std::sync::Arc;
use std::time::Duration;

use rxl_core::notes::{Note, NoteKind};
use rxl_core::target_spans::TargetSpans;
use rxl_core::units::ms;
use rxl_datapath::meter::Meter;
use rxl_datapath::plain::Copied;
use rxl_datapath::send::Sent;
use rxl_precopy::policy::{Measured, Verdict, expected_downtime};
use rxl_report::mpi::MpiPart;
use rxl_report::progress::Phase;
use rxl_report::schema::{JudgedPart, PrecopyPart};
use rxl_report::timeline::Timeline;

/// What is measured while a domain leaves.
pub struct Measurements {
    pub timeline: Timeline,
    /// What the data path counts.
    pub meter: Arc<Meter>,
    pub precopy: PrecopyPart,
    /// What became of the MPI job.
    pub mpi: Option<MpiPart>,
    /// What was sent in frames, once all of it is.
    pub sent: Option<Sent>,
    /// What the target measured, once it has said so.
    pub target: Option<TargetSpans>,
}

/// Who follows a domain on its way out.
pub trait Observer {
    fn measured(&mut self) -> &mut Measurements;

    /// Shows this moment; called a few times a second.
    fn show(&mut self, phase: Phase);
}

/// For an operation that nobody watches.
impl Observer for Measurements {
    fn measured(&mut self) -> &mut Measurements {
        self
    }

    fn show(&mut self, _phase: Phase) {}
}

impl Measurements {
    pub fn new(timeline: Timeline, downtime_limit: Duration) -> Self {
        Self {
            timeline,
            meter: Arc::new(Meter::default()),
            precopy: PrecopyPart::new(downtime_limit),
            mpi: None,
            sent: None,
            target: None,
        }
    }

    /// The policy has judged a live iteration.
    pub fn judged(&mut self, measured: &Measured, verdict: Verdict) {
        self.precopy.expected_downtime = expected_downtime(measured).map(ms);
        self.precopy.judged.push(JudgedPart::new(measured));
        match verdict {
            Verdict::Stop(why) | Verdict::Cancel(why) => self.precopy.stopped = Some(why),
            Verdict::Continue => {}
        }
    }

    /// Takes what libxl tells into account.
    pub fn note(&mut self, note: &Note) {
        self.meter.note(&note.what);
        match note.what {
            NoteKind::SuspendRequested => self.timeline.suspend_asked = Some(note.at),
            NoteKind::SuspendAcknowledged => self.timeline.acknowledged = Some(note.at),
            NoteKind::Walker(walker) => self.precopy.walker = walker,
            NoteKind::Suspended => self.timeline.suspended = Some(note.at),
            _ => {}
        }
    }

    /// The stream has been sent in frames.
    pub fn sent(&mut self, sent: Sent) {
        self.timeline.last_page = sent.last_page;
        self.timeline.stream_end = Some(sent.stream_end);
        self.sent = Some(sent);
    }

    /// The stream has been sent as libxl wrote it.
    pub fn copied(&mut self, copied: Copied) {
        self.timeline.last_page = copied.last_page;
        self.timeline.stream_end = Some(copied.stream_end);
    }
}
