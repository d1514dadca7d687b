//! What the source gathers on the way, for the progress and the report.

use std::sync::Arc;

use crate::check::type_name;
use crate::events::Events;
use crate::monitor::{MigrationStatus, Monitor};
use crate::request::Request;
use crate::steering::pages_per_second;
use rxl_core::domain::Domain;
use rxl_core::error::{Exit, Failure};
use rxl_core::notes::{Note, NoteKind};
use rxl_core::peer::Peer;
use rxl_core::peer::Transport;
use rxl_core::state_dir::StateDir;
use rxl_core::target_spans::TargetSpans;
use rxl_core::units::ms;
use rxl_datapath::meter::Meter;
use rxl_datapath::packing::Packing;
use rxl_datapath::plain::Copied;
use rxl_datapath::send::Sent;
use rxl_precopy::policy::{Measured, Verdict, expected_downtime};
use rxl_report::migration::{
    ChecksumPart, CompressionPart, DomainPart, IterationPart, JudgedPart, PrecopyPart, RamPart,
    Report, SCHEMA, Status, Timeline, TransportPart,
};
use rxl_report::mpi::MpiPart;
use rxl_report::progress::{Phase, Snapshot};

/// What is gathered for the report on the way.
pub struct Record {
    migration_id: String,
    domain: Domain,
    target_host: String,
    /// Its moments.
    pub timeline: Timeline,
    /// What the data path counts.
    pub meter: Arc<Meter>,
    packing: Packing,
    transport: TransportPart,
    precopy: PrecopyPart,
    monitor: Monitor,
    /// What became of the MPI job.
    pub mpi: Option<MpiPart>,
    /// What was sent, once all of it is.
    pub sent: Option<Sent>,
    /// What the target measured, once it has said so.
    pub target: Option<TargetSpans>,
}

impl Record {
    /// Of a migration that is about to begin, with the monitor that answers `rxl status` and `rxl
    /// cancel` for it.
    pub fn open<D: Send + 'static>(
        migration_id: String,
        domain: &Domain,
        timeline: Timeline,
        request: &Request,
        state: &StateDir,
        events: &Events<D>,
    ) -> Result<Self, Failure> {
        let monitor = Monitor::start(state, Self::status(domain, request), events.sender())?;
        Ok(Self::new(migration_id, domain, timeline, request, monitor))
    }

    /// What `rxl status` shows at the beginning.
    fn status(domain: &Domain, request: &Request) -> MigrationStatus {
        MigrationStatus {
            domain: domain.name.clone(),
            domid: domain.domid.0,
            target: request.route.host().into(),
            pid: std::process::id(),
            state: Phase::Setup.name().into(),
            ..MigrationStatus::default()
        }
    }

    fn new(
        migration_id: String,
        domain: &Domain,
        timeline: Timeline,
        request: &Request,
        monitor: Monitor,
    ) -> Self {
        let kind = match (request.peer, request.transport) {
            (Peer::Xl, _) => "xl",
            (_, Transport::Ssh) => "ssh",
            (_, Transport::Tcp) => "tcp",
        };
        Self {
            migration_id,
            domain: domain.clone(),
            target_host: request.route.host().into(),
            timeline,
            meter: Arc::new(Meter::default()),
            packing: match request.peer {
                Peer::Xl => Packing { compress: false, level: 0, threads: 1 },
                _ => request.packing,
            },
            transport: TransportPart { kind: kind.into(), connections: request.connections },
            precopy: PrecopyPart::new(request.limits.downtime),
            monitor,
            mpi: None,
            sent: None,
            target: None,
        }
    }

    /// The policy has judged an iteration.
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

    /// The stream is complete.
    pub fn sent(&mut self, sent: Sent) {
        self.timeline.last_page = sent.last_page;
        self.timeline.stream_end = Some(sent.stream_end);
        self.sent = Some(sent);
    }

    /// The stream is complete, as it was.
    pub fn copied(&mut self, copied: Copied) {
        self.timeline.last_page = copied.last_page;
        self.timeline.stream_end = Some(copied.stream_end);
    }

    /// This moment, for the progress and for `rxl status`.
    pub fn snapshot(&self, phase: Phase) -> Snapshot {
        let (current, rate) = {
            let iterations = self.meter.iterations();
            (iterations.current(), pages_per_second(&iterations.list()))
        };
        let snapshot = Snapshot {
            domain: self.domain.name.clone(),
            phase,
            current,
            wire_bytes: self.meter.wire_bytes(),
            elapsed: self.timeline.began.elapsed(),
        };
        self.monitor.update(|status| {
            status.state = phase.name().into();
            if let Some((iteration, total)) = &snapshot.current {
                (status.iteration, status.iteration_pages) =
                    (Some(iteration.number), Some(iteration.pfns));
                status.dirty_pages = *total;
            }
            status.pages_per_second = rate;
            status.expected_downtime = self.precopy.expected_downtime;
            status.eta = snapshot.eta().map(ms);
            status.transferred = snapshot.wire_bytes;
            status.total_time = ms(snapshot.elapsed);
        });
        snapshot
    }

    /// The report of a migration that has ended so.
    pub fn report(self, result: &Result<(), Failure>) -> Report {
        let iterations = self.meter.iterations().list();
        let total = self.domain.max_memory_kib * 1024;
        let (wire, raw) = (self.meter.wire_bytes(), self.meter.stream_bytes());
        let status = match result {
            Ok(()) => Status::Completed,
            Err(failure) => match failure.exit {
                Exit::Cancelled => Status::Cancelled,
                Exit::Undecided => Status::Undecided,
                // It runs at the target: what failed came after.
                Exit::MovedWithWarnings => Status::Completed,
                _ => Status::Failed,
            },
        };
        Report {
            schema: SCHEMA,
            status,
            error: result.as_ref().err().map(ToString::to_string),
            migration_id: self.migration_id,
            domain: DomainPart {
                guest_type: type_name(self.domain.guest_type).into(),
                name: self.domain.name,
                source_domid: self.domain.domid.0,
                target_host: self.target_host,
            },
            total_time: rxl_core::units::ms(self.timeline.began.elapsed()),
            setup_time: self.timeline.setup(),
            downtime: self.timeline.downtime(),
            downtime_split: self.timeline.split(),
            target: self.target,
            ram: RamPart::new(&iterations, total, wire, raw),
            precopy: self.precopy,
            mpi: self.mpi,
            iterations: iterations.iter().map(IterationPart::new).collect(),
            compression: CompressionPart {
                codec: self.packing.codec_name().into(),
                level: self.packing.level,
                threads: self.packing.threads,
                ratio: if wire > 0 { raw as f64 / wire as f64 } else { 0.0 },
            },
            checksum: ChecksumPart {
                frames: self.target.map_or(0, |target| target.frames_verified),
                errors: 0,
                digest: self.sent.map(|sent| sent.digest),
            },
            transport: self.transport,
        }
    }
}
