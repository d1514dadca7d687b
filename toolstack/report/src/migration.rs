//! The report of one migration: what it cost, in numbers whose meaning is written down.
//!
//! Names follow QEMU's `query-migrate` and libvirt's job fields where those have one. Times are
//! milliseconds on the source's monotonic clock, those under `target` on the target's: no two
//! hosts' clocks are ever subtracted. Sizes are bytes. The JSON form is versioned by `schema`;
//! docs/report.md describes every field.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::mpi::MpiPart;
use rxl_core::steering::Walker;
use rxl_core::target_spans::TargetSpans;
use rxl_core::units::{bytes, ms, seconds};
use rxl_datapath::iterations::Iteration;
use rxl_precopy::policy::{Measured, Why};

/// Name and version of the JSON form. A field that changes its meaning changes the number.
pub const SCHEMA: &str = "rxl-migration-report/1";

/// The same of the reports of several domains that were moved together.
pub const GANG_SCHEMA: &str = "rxl-gang-report/1";

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The domain runs at the target (or stands paused there as asked).
    Completed,
    /// Failed before Commit: the domain runs at the source.
    Failed,
    /// Cancelled before Commit: the domain runs at the source.
    Cancelled,
    /// Lost contact while deciding.
    Undecided,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// How it ended.
    pub status: Status,
    /// Why it did not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The migration's id, 32 hexadecimal digits: in both hosts' logs.
    pub migration_id: String,
    /// What was moved.
    pub domain: DomainPart,
    /// From the command's start to its end.
    pub total_time: f64,
    /// From the start until libxl was asked to save.
    pub setup_time: f64,
    /// VM blackout: from libxl's "guest has suspended" to the target's word that it runs, on the
    /// source's clock. Late by the time that libxl took to notice at its start, and by one
    /// message's way at its end.
    pub downtime: Option<f64>,
    /// Its parts, in order; they add up to it.
    pub downtime_split: Option<DowntimeSplit>,
    /// Spans measured on the target.
    pub target: Option<TargetSpans>,
    /// Memory.
    pub ram: RamPart,
    /// How pre-copy was steered.
    pub precopy: PrecopyPart,
    /// The MPI job, where --mpi-quiesce was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mpi: Option<MpiPart>,
    /// Iterations over memory.
    #[serde(rename = "rounds")]
    pub iterations: Vec<IterationPart>,
    /// What compression did.
    pub compression: CompressionPart,
    /// What the checksums saw.
    pub checksum: ChecksumPart,
    /// How the data went.
    pub transport: TransportPart,
}

/// The domain.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DomainPart {
    /// Its name.
    pub name: String,
    /// `pv`, `pvh` or `hvm`.
    #[serde(rename = "type")]
    pub guest_type: String,
    /// Its number at the source.
    pub source_domid: u32,
    /// The target as the user named it.
    pub target_host: String,
}

/// Parts of the blackout, ms, on the source's clock. `suspend` comes before it: the guest still
/// runs, its tasks are frozen from its acknowledgement on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DowntimeSplit {
    /// Suspend asked to guest suspended. Not part of `downtime`.
    pub suspend: f64,
    /// The part of `suspend` until the guest acknowledged the request: from then on its tasks are
    /// being frozen.
    pub acknowledge: Option<f64>,
    /// Guest suspended to the last page read from libxl.
    pub final_iteration: f64,
    /// Last page to the end of libxl's stream: vCPU and platform state, and libxl's own end of the
    /// save.
    pub state: f64,
    /// End of the stream to READY: the rest of the wire, the target's restore and its devices.
    pub restore: f64,
    /// READY to GO: the commit.
    pub handover: f64,
    /// GO to the target's word that the domain runs.
    pub resume: f64,
}

/// Memory figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RamPart {
    /// Bytes on the wire, all frames with their headers.
    pub transferred: u64,
    /// Bytes of libxl's stream that they stand for.
    pub stream_bytes: u64,
    /// The guest's memory.
    pub total: u64,
    /// Pages of zeroes sent (as one bit each; whole to stock xl).
    pub duplicate: u64,
    /// Pages sent with contents.
    pub normal: u64,
    /// Their bytes before compression.
    pub normal_bytes: u64,
    /// Wire rate over the time of all iterations, in 10^6 bits/s.
    pub mbps: f64,
    /// Pages over the same time.
    pub pages_per_second: f64,
    /// Number of iterations.
    pub dirty_sync_count: u64,
    /// Wire bytes of the iterations made while the guest ran.
    pub precopy_bytes: u64,
    /// Wire bytes of the last iteration, made while it stood still.
    pub downtime_bytes: u64,
}

/// How pre-copy was steered.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PrecopyPart {
    /// Who walked over the memory. `stock` means that libxl's own helper did, with its own policy.
    pub walker: Walker,
    /// The limit, ms.
    pub downtime_limit: f64,
    /// What the pages that were dirty after the last live iteration were expected to take, ms.
    pub expected_downtime: Option<f64>,
    /// Why it ended; null where libxl's own policy decided, and in a save that is not live.
    pub stopped: Option<Why>,
    /// What it was decided by, one for each time that the policy was asked.
    pub judged: Vec<JudgedPart>,
}

/// What the policy was told after a live iteration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct JudgedPart {
    /// Live iterations made.
    #[serde(rename = "rounds")]
    pub iterations: u32,
    /// Pages dirty then.
    pub dirty_pages: u64,
    /// Pages a second that the target had restored of late. None while nothing had been sent.
    pub pages_per_second: Option<f64>,
    /// Since the migration began, ms.
    pub elapsed: f64,
}

impl JudgedPart {
    /// As the policy was told.
    pub fn new(measured: &Measured) -> Self {
        Self {
            iterations: measured.iterations,
            dirty_pages: measured.dirty,
            pages_per_second: measured.pages_per_second,
            elapsed: ms(measured.elapsed),
        }
    }
}

impl PrecopyPart {
    /// One line for people.
    fn describe(&self) -> String {
        let walker = match self.walker {
            Walker::Rxl => "rxl walked",
            Walker::Libxc => "libxc walked",
            Walker::Stock => {
                return "libxl's stock helper walked, and decided when to suspend".into();
            }
        };
        let stopped = self.stopped.map_or("not live", Why::describe);
        let expected = self.expected_downtime.map_or_else(|| "?".into(), seconds);
        let limit = seconds(self.downtime_limit);
        format!(
            "{walker}; pre-copy ended: {stopped} (last pages expected to take {expected}, limit \
             {limit})"
        )
    }

    /// Before anything is known.
    pub fn new(limit: Duration) -> Self {
        Self {
            walker: Walker::Stock,
            downtime_limit: ms(limit),
            expected_downtime: None,
            stopped: None,
            judged: Vec::new(),
        }
    }
}

/// One iteration.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IterationPart {
    /// From 0.
    pub iteration: u32,
    /// Made while the guest stood still.
    pub suspended: bool,
    /// libxl's count for the iteration: all page numbers in the first, dirty ones later; null where
    /// libxl's count and the stream could not be matched.
    pub dirty_pages: Option<u64>,
    /// Page numbers in the stream, holes among them.
    pub pfns: u64,
    /// Pages with contents in the stream.
    pub pages: u64,
    /// Pages of zeroes among them.
    pub zero_pages: u64,
    /// Bytes of libxl's stream.
    pub raw_bytes: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// First to last batch read from libxl, ms.
    pub duration: f64,
}

/// Compression figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CompressionPart {
    /// `zstd` or `none`.
    pub codec: String,
    /// zstd's level.
    pub level: i32,
    /// Worker threads.
    pub threads: usize,
    /// Stream bytes over wire bytes.
    pub ratio: f64,
}

/// Checksum figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChecksumPart {
    /// Frames, each with a CRC-32 of its decoded bytes.
    pub frames: u64,
    /// Frames that the target refused. Any is the end of a migration, so in a completed one this is
    /// 0.
    pub errors: u64,
    /// SHA-256 over the ordered list of all frames' numbers, lengths and CRCs (hex); equal on both
    /// sides.
    pub digest: Option<String>,
}

/// How the data went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TransportPart {
    /// `ssh`, `tcp`, or `xl`: stock xl's own protocol, over one ssh connection.
    pub kind: String,
    /// Connections.
    pub connections: u16,
}

/// The moments of a migration on the source's clock, as far as it got.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    /// The command began.
    pub began: Instant,
    /// libxl was asked to save.
    pub saving: Option<Instant>,
    /// libxl asked the guest to suspend.
    pub suspend_asked: Option<Instant>,
    /// The guest acknowledged.
    pub acknowledged: Option<Instant>,
    /// The guest's vCPUs stopped.
    pub suspended: Option<Instant>,
    /// The last page was read from libxl.
    pub last_page: Option<Instant>,
    /// The stream's last byte was.
    pub stream_end: Option<Instant>,
    /// READY came.
    pub ready: Option<Instant>,
    /// GO was sent.
    pub go: Option<Instant>,
    /// The target said that it runs.
    pub done: Option<Instant>,
}

impl Timeline {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
            saving: None,
            suspend_asked: None,
            acknowledged: None,
            suspended: None,
            last_page: None,
            stream_end: None,
            ready: None,
            go: None,
            done: None,
        }
    }

    /// From the start until libxl was asked to save.
    pub fn setup(&self) -> f64 {
        self.saving.map_or(0.0, |saving| ms(saving - self.began))
    }

    /// The blackout, when it is over.
    pub fn downtime(&self) -> Option<f64> {
        Some(ms(self.done? - self.suspended?))
    }

    /// The blackout's parts, when it is over. A guest's last page may have been read before it was
    /// seen to be suspended (nothing was dirty): that part is then 0.
    pub fn split(&self) -> Option<DowntimeSplit> {
        let (suspended, end) = (self.suspended?, self.stream_end?);
        let last_page = self.last_page?.clamp(suspended, end.max(suspended));
        let (ready, go, done) = (self.ready?, self.go?, self.done?);
        Some(DowntimeSplit {
            suspend: self.suspend_asked.map_or(0.0, |asked| ms(suspended - asked)),
            acknowledge: self
                .suspend_asked
                .zip(self.acknowledged)
                .map(|(asked, acknowledged)| ms(acknowledged - asked)),
            final_iteration: ms(last_page - suspended),
            state: ms(end - last_page),
            restore: ms(ready - end),
            handover: ms(go - ready),
            resume: ms(done - go),
        })
    }
}

impl IterationPart {
    /// As counted.
    pub fn new(iteration: &Iteration) -> Self {
        Self {
            iteration: iteration.number,
            suspended: iteration.suspended,
            dirty_pages: iteration.dirty,
            pfns: iteration.pfns,
            pages: iteration.pages,
            zero_pages: iteration.zero_pages,
            raw_bytes: iteration.raw_bytes,
            wire_bytes: iteration.wire_bytes,
            duration: ms(iteration.ended - iteration.began),
        }
    }
}

impl RamPart {
    /// Adds up the iterations; `transferred` and `stream_bytes` are the whole stream's, headers and
    /// state included.
    pub fn new(iterations: &[Iteration], total: u64, transferred: u64, stream_bytes: u64) -> Self {
        let sum = |of: fn(&Iteration) -> u64| iterations.iter().map(of).sum::<u64>();
        let (pages, zero) = (sum(|r| r.pages), sum(|r| r.zero_pages));
        let seconds = match (iterations.first(), iterations.last()) {
            (Some(first), Some(last)) => (last.ended - first.began).as_secs_f64(),
            _ => 0.0,
        };
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let wire_while = |suspended: bool| {
            iterations.iter().filter(|r| r.suspended == suspended).map(|r| r.wire_bytes).sum()
        };
        Self {
            transferred,
            stream_bytes,
            total,
            duplicate: zero,
            normal: pages - zero,
            normal_bytes: (pages - zero) * 4096,
            mbps: per_second(sum(|r| r.wire_bytes) as f64 * 8.0 / 1e6),
            pages_per_second: per_second(pages as f64),
            dirty_sync_count: iterations.len() as u64,
            precopy_bytes: wire_while(false),
            downtime_bytes: wire_while(true),
        }
    }
}

impl Report {
    /// The JSON form, indented, with a line's end.
    pub fn to_json(&self) -> String {
        // Only maps with keys that are not strings could fail, and there are none.
        serde_json::to_string_pretty(self).map(|json| json + "\n").unwrap_or_default()
    }

    /// The form for people.
    pub fn to_table(&self) -> String {
        let mut text = self.headline();
        if !self.iterations.is_empty() {
            let _ = writeln!(text, "{}", self.iteration_table());
        }
        self.write_figures(&mut text);
        text
    }

    fn headline(&self) -> String {
        let DomainPart { name, guest_type, target_host, .. } = &self.domain;
        let outcome = match self.status {
            Status::Completed => "migrated to",
            Status::Failed => "not migrated to",
            Status::Cancelled => "not migrated (cancelled) to",
            Status::Undecided => "UNDECIDED, on its way to",
        };
        let mut text =
            format!("{name} ({guest_type}) {outcome} {target_host}: {}", seconds(self.total_time));
        if let Some(downtime) = self.downtime {
            let _ = write!(text, ", downtime {}", seconds(downtime));
        }
        text.push('\n');
        text
    }

    fn iteration_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["round", "dirty", "pages", "zero", "raw", "wire", "time"]);
        for iteration in &self.iterations {
            let label = if iteration.suspended {
                format!("{} (suspended)", iteration.iteration)
            } else {
                iteration.iteration.to_string()
            };
            let dirty = iteration.dirty_pages.map_or_else(|| "?".into(), |n| n.to_string());
            let cells = [
                label,
                dirty,
                iteration.pages.to_string(),
                iteration.zero_pages.to_string(),
                bytes(iteration.raw_bytes),
                bytes(iteration.wire_bytes),
                seconds(iteration.duration),
            ];
            table.add_row(cells.map(|cell| Cell::new(cell).set_alignment(CellAlignment::Right)));
        }
        table
    }

    fn write_figures(&self, text: &mut String) {
        let (ram, compression, checksum) = (&self.ram, &self.compression, &self.checksum);
        let _ = writeln!(
            text,
            "  stream {}, wire {} ({} x {:.1}, {} {}), setup {}",
            bytes(ram.stream_bytes),
            bytes(ram.transferred),
            compression.codec,
            compression.ratio,
            self.transport.connections,
            self.transport.kind,
            seconds(self.setup_time),
        );
        let _ = writeln!(text, "  {}", self.precopy.describe());
        if let Some(mpi) = &self.mpi {
            let _ = writeln!(text, "  {}", mpi.describe());
        }
        if let Some(split) = &self.downtime_split {
            let _ = writeln!(
                text,
                "  downtime: final pages {}, state {}, restore {}, handover {}, resume {} (suspend \
                 took {} before it)",
                seconds(split.final_iteration),
                seconds(split.state),
                seconds(split.restore),
                seconds(split.handover),
                seconds(split.resume),
                seconds(split.suspend),
            );
        }
        if let Some(digest) = &checksum.digest {
            let _ =
                writeln!(text, "  checksums: {} frames verified, digest {digest}", checksum.frames);
        }
        if let Some(error) = &self.error {
            let _ = writeln!(text, "  {error}");
        }
    }
}

/// Several reports in their JSON form as one, indented, with a line's end.
pub fn gang_json<'a>(reports: impl Iterator<Item = &'a serde_json::Value>) -> String {
    let all = serde_json::json!({"schema": GANG_SCHEMA, "migrations": reports.collect::<Vec<_>>()});
    format!("{all:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        let began = Instant::now();
        let at = |millis| Some(began + Duration::from_millis(millis));
        Timeline {
            began,
            saving: at(100),
            suspend_asked: at(900),
            acknowledged: at(950),
            suspended: at(1000),
            last_page: at(1040),
            stream_end: at(1060),
            ready: at(1200),
            go: at(1210),
            done: at(1250),
        }
    }

    #[test]
    fn the_parts_add_up_to_the_downtime() {
        let timeline = timeline();
        let split = timeline.split().unwrap();
        let sum =
            split.final_iteration + split.state + split.restore + split.handover + split.resume;
        assert!((sum - timeline.downtime().unwrap()).abs() < 0.01, "{split:?}");
        assert_eq!((split.suspend, split.acknowledge), (100.0, Some(50.0)));
    }

    #[test]
    fn a_last_page_before_the_suspend_was_noticed_costs_nothing() {
        let mut timeline = timeline();
        timeline.last_page = Some(timeline.began);
        let split = timeline.split().unwrap();
        assert_eq!(split.final_iteration, 0.0);
        assert_eq!(split.state, 60.0);
    }

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(35 << 20), "35.0 MiB");
        assert_eq!(seconds(12.4), "12 ms");
        assert_eq!(seconds(12_400.0), "12.4 s");
    }
}
