//! The report as text.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::schema::{DomainPart, DowntimeSplit, PrecopyPart, Report, Status};
use rxl_core::steering::Walker;
use rxl_core::units::{bytes, seconds};
use rxl_precopy::policy::Why;

impl Report {
    /// The report as text of several lines.
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
        let _ = writeln!(text, "  {}", describe_precopy(&self.precopy));
        if let Some(mpi) = &self.mpi {
            let _ = writeln!(text, "  {}", mpi.describe());
        }
        if let Some(split) = &self.downtime_split {
            let _ = writeln!(text, "  {}", describe_downtime(split));
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

fn describe_precopy(precopy: &PrecopyPart) -> String {
    let walker = match precopy.walker {
        Walker::Rxl => "rxl walked",
        Walker::Libxc => "libxc walked",
        Walker::Stock => {
            return "libxl's stock helper walked, and decided when to suspend".into();
        }
    };
    let stopped = precopy.stopped.map_or("not live", Why::describe);
    let expected = precopy.expected_downtime.map_or_else(|| "?".into(), seconds);
    let limit = seconds(precopy.downtime_limit);
    format!(
        "{walker}; pre-copy ended: {stopped} (last pages expected to take {expected}, limit \
         {limit})"
    )
}

fn describe_downtime(split: &DowntimeSplit) -> String {
    format!(
        "downtime: final pages {}, state {}, restore {}, handover {}, resume {} (suspend took {} \
         before it)",
        seconds(split.final_iteration),
        seconds(split.state),
        seconds(split.restore),
        seconds(split.handover),
        seconds(split.resume),
        seconds(split.suspend),
    )
}
