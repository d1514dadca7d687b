//! The JSON form of the report: its types, whose names and units are written down.
//!
//! Names follow QEMU's `query-migrate` and libvirt's job fields where those have one. Times are
//! milliseconds on the source's monotonic clock, those under `target` on the target's: two hosts'
//! clocks are never subtracted. Sizes are bytes. The form is versioned by `schema`; docs/report.md
//! describes every field.

use serde::Serialize;

use crate::mpi::MpiPart;
use rxl_core::steering::Walker;
use rxl_core::target_spans::TargetSpans;
use rxl_precopy::policy::Why;

/// Name and version of the JSON form. A field that changes its meaning changes the number.
pub const SCHEMA: &str = "rxl-migration-report/1";

/// Name and version of the JSON form for several domains that were moved together.
pub const GANG_SCHEMA: &str = "rxl-gang-report/1";

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The domain runs at the target (or stands paused there as asked).
    Completed,
    /// The migration failed before it was committed: the domain runs at the source.
    Failed,
    /// The migration was cancelled before it was committed: the domain runs at the source.
    Cancelled,
    /// The connection was lost while it was being decided: both copies are kept, suspended.
    Undecided,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The form and its version, always [`SCHEMA`].
    pub schema: &'static str,
    pub status: Status,
    /// Why it did not complete, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The migration's id, 32 hexadecimal digits: in both hosts' logs.
    pub migration_id: String,
    pub domain: DomainPart,
    /// Time from the command's start to its end, ms.
    pub total_time: f64,
    /// Time from the start until libxl was asked to save, ms.
    pub setup_time: f64,
    /// Blackout of the virtual machine, ms on the source's clock: from the moment at which libxl
    /// saw the guest suspended to the target's message that it runs. The first comes later than the
    /// suspend by the time that libxl took to notice, the last by one message's way.
    pub downtime: Option<f64>,
    /// The parts of `downtime`, in order; but for the first two they add up to it.
    pub downtime_split: Option<DowntimeSplit>,
    /// Spans that the target measured on its own clock.
    pub target: Option<TargetSpans>,
    pub ram: RamPart,
    pub precopy: PrecopyPart,
    /// The MPI job, if --mpi-quiesce was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mpi: Option<MpiPart>,
    /// The iterations over memory, in order.
    #[serde(rename = "rounds")]
    pub iterations: Vec<IterationPart>,
    pub compression: CompressionPart,
    pub checksum: ChecksumPart,
    pub transport: TransportPart,
}

/// The domain that was moved.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DomainPart {
    pub name: String,
    /// `pv`, `pvh` or `hvm`.
    #[serde(rename = "type")]
    pub guest_type: String,
    /// The domid at the source.
    pub source_domid: u32,
    /// The target as the user named it.
    pub target_host: String,
}

/// Parts of the blackout, in ms on the source's clock. `suspend` comes before it: the guest still
/// runs, and its tasks are frozen from its acknowledgement on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DowntimeSplit {
    /// From the request to suspend to the suspended guest. Not part of `downtime`.
    pub suspend: f64,
    /// The part of `suspend` until the guest acknowledged the request: from then on its tasks are
    /// being frozen.
    pub acknowledge: Option<f64>,
    /// From the suspended guest to the last page read from libxl.
    pub final_iteration: f64,
    /// From the last page to the end of libxl's stream: vCPU and platform state, and libxl's own
    /// end of the save.
    pub state: f64,
    /// From the end of the stream to READY: the rest of the transfer, the target's restore and its
    /// devices.
    pub restore: f64,
    /// From READY to GO: the commit.
    pub handover: f64,
    /// From GO to the target's message that the domain runs.
    pub resume: f64,
}

/// Figures of the memory's transfer, over all iterations.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RamPart {
    /// Bytes on the wire, all frames with their headers.
    pub transferred: u64,
    /// Bytes of libxl's stream that these frames carried.
    pub stream_bytes: u64,
    /// The memory that the guest may have, bytes.
    pub total: u64,
    /// Number of zero pages, each sent as one bit; to stock xl whole.
    pub duplicate: u64,
    /// Number of pages sent with contents.
    pub normal: u64,
    /// Bytes of the `normal` pages before compression.
    pub normal_bytes: u64,
    /// Wire rate over the time of all iterations, in 10^6 bits/s.
    pub mbps: f64,
    /// Rate of `normal` and `duplicate` pages over the same time.
    pub pages_per_second: f64,
    /// Number of iterations; the name is QEMU's.
    pub dirty_sync_count: u64,
    /// Bytes on the wire of the iterations made while the guest ran.
    pub precopy_bytes: u64,
    /// Bytes on the wire of the iterations made while it was suspended.
    pub downtime_bytes: u64,
}

/// When pre-copy ended, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PrecopyPart {
    /// What read the domain's memory. With `stock` it was libxl's own helper, by its own policy.
    pub walker: Walker,
    /// The limit that was asked for, ms.
    pub downtime_limit: f64,
    /// Time that the pages dirty after the last live iteration were expected to take, ms.
    pub expected_downtime: Option<f64>,
    /// Why pre-copy ended; null if libxl's own policy decided, and in a save that is not live.
    pub stopped: Option<Why>,
    /// The policy's inputs, one for each time that it was asked.
    pub judged: Vec<JudgedPart>,
}

/// The policy's inputs after a live iteration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct JudgedPart {
    /// Number of live iterations made.
    #[serde(rename = "rounds")]
    pub iterations: u32,
    /// Number of pages that were dirty then.
    pub dirty_pages: u64,
    /// Recent rate of the target's restore. None while nothing had been sent.
    pub pages_per_second: Option<f64>,
    /// Time since the migration began, ms.
    pub elapsed: f64,
}

/// One iteration over memory.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IterationPart {
    /// The iteration's number, from 0.
    pub iteration: u32,
    /// Whether the guest was suspended.
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
    /// Bytes of libxl's stream in this iteration.
    pub raw_bytes: u64,
    /// Bytes on the wire in this iteration.
    pub wire_bytes: u64,
    /// Time from the first to the last batch read from libxl, ms.
    pub duration: f64,
}

/// The compression that was used, and what it saved.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CompressionPart {
    /// `zstd` or `none`.
    pub codec: String,
    /// zstd's compression level.
    pub level: i32,
    /// Number of compression threads at the source.
    pub threads: usize,
    /// Bytes of libxl's stream divided by bytes on the wire.
    pub ratio: f64,
}

/// The frames that the target verified.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChecksumPart {
    /// Number of frames, each with a CRC-32 of its decoded bytes.
    pub frames: u64,
    /// Number of frames that the target refused. The first one ends a migration, so it is 0 in one
    /// that completed.
    pub errors: u64,
    /// SHA-256 over the ordered list of all frames' numbers, lengths and CRCs (hex); equal on both
    /// sides.
    pub digest: Option<String>,
}

/// The connections that carried the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TransportPart {
    /// `ssh`, `tcp`, or `xl`: stock xl's own protocol, over one ssh connection.
    pub kind: String,
    /// Number of data connections.
    pub connections: u16,
}

impl Report {
    /// The JSON form, indented, with a newline at its end.
    pub fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// One JSON object for the reports of several domains, indented, with a newline at its end.
pub fn gang_json<'a>(reports: impl Iterator<Item = &'a serde_json::Value>) -> String {
    let all = serde_json::json!({"schema": GANG_SCHEMA, "migrations": reports.collect::<Vec<_>>()});
    format!("{all:#}\n")
}
