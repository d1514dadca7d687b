//! What the source gathers on the way, for the progress and the report.

use crate::check::type_name;
use crate::events::Events;
use crate::monitor::{MigrationStatus, Monitor};
use crate::outgoing::{Measurements, Observer};
use crate::request::MigrationRequest;
use crate::steering::pages_per_second;
use rxl_core::domain::Domain;
use rxl_core::error::{Exit, Failure};
use rxl_core::peer::Peer;
use rxl_core::peer::Transport;
use rxl_core::state_dir::StateDir;
use rxl_core::units::ms;
use rxl_datapath::packing::Packing;
use rxl_report::progress::{Phase, Progress, Snapshot};
use rxl_report::schema::{
    ChecksumPart, CompressionPart, DomainPart, IterationPart, RamPart, Report, SCHEMA, Status,
    TransportPart,
};
use rxl_report::timeline::Timeline;

/// What is gathered for the report on the way.
pub struct Record {
    migration_id: String,
    domain: Domain,
    target_host: String,
    pub measured: Measurements,
    packing: Packing,
    transport: TransportPart,
    monitor: Monitor,
}

/// A record that is filled, and shown on the way.
pub struct Shown<'a> {
    pub record: &'a mut Record,
    pub progress: &'a mut dyn Progress,
}

impl Observer for Shown<'_> {
    fn measured(&mut self) -> &mut Measurements {
        &mut self.record.measured
    }

    fn show(&mut self, phase: Phase) {
        self.progress.show(&self.record.snapshot(phase));
    }
}

impl Record {
    /// Of a migration that is about to begin, with the monitor that answers `rxl status` and `rxl
    /// cancel` for it.
    pub fn open<D: Send + 'static>(
        migration_id: String,
        domain: &Domain,
        timeline: Timeline,
        request: &MigrationRequest,
        state: &StateDir,
        events: &Events<D>,
    ) -> Result<Self, Failure> {
        let monitor = Monitor::start(state, Self::status(domain, request), events.sender())?;
        Ok(Self::new(migration_id, domain, timeline, request, monitor))
    }

    /// What `rxl status` shows at the beginning.
    fn status(domain: &Domain, request: &MigrationRequest) -> MigrationStatus {
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
        request: &MigrationRequest,
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
            measured: Measurements::new(timeline, request.limits.downtime),
            packing: match request.peer {
                Peer::Xl => Packing { compress: false, level: 0, threads: 1 },
                _ => request.packing,
            },
            transport: TransportPart { kind: kind.into(), connections: request.connections },
            monitor,
        }
    }

    /// This moment, for the progress and for `rxl status`.
    pub fn snapshot(&self, phase: Phase) -> Snapshot {
        let (current, rate) = {
            let iterations = self.measured.meter.iterations();
            (iterations.current(), pages_per_second(&iterations.list()))
        };
        let snapshot = Snapshot {
            domain: self.domain.name.clone(),
            phase,
            current,
            wire_bytes: self.measured.meter.wire_bytes(),
            elapsed: self.measured.timeline.began.elapsed(),
        };
        self.monitor.update(|status| {
            status.state = phase.name().into();
            if let Some((iteration, total)) = &snapshot.current {
                (status.iteration, status.iteration_pages) =
                    (Some(iteration.number), Some(iteration.pfns));
                status.dirty_pages = *total;
            }
            status.pages_per_second = rate;
            status.expected_downtime = self.measured.precopy.expected_downtime;
            status.eta = snapshot.eta().map(ms);
            status.transferred = snapshot.wire_bytes;
            status.total_time = ms(snapshot.elapsed);
        });
        snapshot
    }

    /// The report of a migration that has ended so.
    pub fn report(self, result: &Result<(), Failure>) -> Report {
        let iterations = self.measured.meter.iterations().list();
        let total = self.domain.max_memory_kib * 1024;
        let (wire, raw) = (self.measured.meter.wire_bytes(), self.measured.meter.stream_bytes());
        let status = status(result);
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
            total_time: rxl_core::units::ms(self.measured.timeline.began.elapsed()),
            setup_time: self.measured.timeline.setup(),
            downtime: self.measured.timeline.downtime(),
            downtime_split: self.measured.timeline.split(),
            target: self.measured.target,
            ram: RamPart::new(&iterations, total, wire, raw),
            precopy: self.measured.precopy,
            mpi: self.measured.mpi,
            iterations: iterations.iter().map(IterationPart::new).collect(),
            compression: CompressionPart {
                codec: self.packing.codec_name().into(),
                level: self.packing.level,
                threads: self.packing.threads,
                ratio: if wire > 0 { raw as f64 / wire as f64 } else { 0.0 },
            },
            checksum: ChecksumPart {
                frames: self.measured.target.map_or(0, |target| target.frames_verified),
                errors: 0,
                digest: self.measured.sent.map(|sent| sent.digest),
            },
            transport: self.transport,
        }
    }
}

fn status(result: &Result<(), Failure>) -> Status {
    match result {
        Ok(()) => Status::Completed,
        Err(failure) => match failure.exit {
            Exit::Cancelled => Status::Cancelled,
            Exit::Undecided => Status::Undecided,
            // It runs at the target: what failed came after.
            Exit::MovedWithWarnings => Status::Completed,
            _ => Status::Failed,
        },
    }
}
