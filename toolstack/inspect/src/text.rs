//! The text form of what `rxl stream inspect` found.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::content::Compression;
use crate::map::Picture;
use crate::summary::{IterationPart, PagesPart, Run, Summary};
use rxl_core::units::bytes;

/// Most runs of records that are shown.
const MOST_RUNS: usize = 40;

/// Most iterations that are shown.
const MOST_ITERATIONS: usize = 40;

impl Summary {
    /// The summary as text of several lines. `name` is the input's.
    pub fn to_text(&self, name: &str) -> String {
        let format = self.format.unwrap_or("of no known format");
        let mut text = match self.container {
            None => format!("{name}: {format}, {}\n", bytes(self.bytes)),
            Some(container) => {
                format!("{name}: {container}, {} when unpacked to an {format}\n", bytes(self.bytes))
            }
        };
        self.write_headers(&mut text);
        if !self.runs.is_empty() {
            let _ = writeln!(text, "\n{}", run_table(&self.runs));
            let not_shown = self.runs.len().saturating_sub(MOST_RUNS) as u64;
            left_out(&mut text, not_shown + self.runs_left_out, "runs of records");
            self.write_totals(&mut text);
        }
        if self.pages.named > 0 {
            write_pages(&mut text, &self.pages);
            let _ = writeln!(text, "\n{}", iteration_table(&self.iterations));
            let not_shown = self.iterations.len().saturating_sub(MOST_ITERATIONS) as u64;
            left_out(&mut text, not_shown + self.iterations_left_out, "iterations");
        }
        if let Some(compression) = &self.compression {
            let Compression { codec, level, ratio, sampled_pages, frame_bytes } = compression;
            let size = bytes(*frame_bytes);
            let _ = writeln!(
                text,
                "compression: {codec} level {level} would make {size} of it (x {ratio:.1}), \
                 estimated from {sampled_pages} of its pages",
            );
        }
        if let Some(picture) = &self.map {
            write_picture(&mut text, picture);
        }
        text
    }

    fn write_headers(&self, text: &mut String) {
        if let Some(config) = &self.config {
            let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "?".into());
            let _ = write!(text, "domain {} ({})", word(&config.name), word(&config.guest_type));
            if let Some(kib) = config.max_memory_kib {
                let _ = write!(text, ", {} of memory", bytes(kib.saturating_mul(1024)));
            }
            if let Some(vcpus) = config.max_vcpus {
                let _ = write!(text, ", {vcpus} vCPUs");
            }
            let _ = writeln!(text, ", UUID {}", word(&config.uuid));
        }
        if let Some(xl) = &self.xl {
            let _ = writeln!(
                text,
                "xl header: flags {:#x}, {} of configuration",
                xl.mandatory_flags,
                bytes(xl.optional_data.into())
            );
        }
        if let Some(libxl) = &self.libxl {
            let converted =
                if libxl.legacy { ", converted from the format of Xen 4.5 and before" } else { "" };
            let _ = writeln!(text, "libxl stream: version {}{converted}", libxl.version);
        }
        if let Some(version) = self.libxc.version {
            let _ = write!(text, "libxc stream: version {version}");
            if let (Some(domain_type), Some(xen)) =
                (self.libxc.domain_type, &self.libxc.xen_version)
            {
                let _ = write!(text, ", {domain_type} guest, saved by Xen {xen}");
            }
            text.push('\n');
        }
    }

    fn write_totals(&self, text: &mut String) {
        let (records, size) = self
            .totals
            .iter()
            .fold((0, 0), |(records, size), total| (records + total.records, size + total.bytes));
        let _ =
            writeln!(text, "records: {records} of {} types, {}", self.totals.len(), bytes(size));
    }
}

fn left_out(text: &mut String, count: u64, what: &str) {
    if count > 0 {
        let _ = writeln!(text, "and {count} more {what}");
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    table
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

fn run_table(runs: &[Run]) -> Table {
    let mut table = table(&["offset", "stream", "record", "records", "bytes", "body"]);
    for run in runs.iter().take(MOST_RUNS) {
        let body = if run.shortest == run.longest {
            run.longest.to_string()
        } else {
            format!("{} to {}", run.shortest, run.longest)
        };
        table.add_row([
            right(run.offset),
            Cell::new(run.stream),
            Cell::new(&run.record_type),
            right(run.records),
            right(run.bytes),
            right(body),
        ]);
    }
    table
}

fn write_pages(text: &mut String, pages: &PagesPart) {
    let types: Vec<String> =
        pages.types.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let _ = writeln!(
        text,
        "pages: {} named ({}), {} with contents",
        pages.named,
        types.join(", "),
        pages.with_contents
    );
    let share = |count: u64| count as f64 * 100.0 / pages.with_contents.max(1) as f64;
    let _ = write!(text, "  all zero: {} ({:.1} %)", pages.zero, share(pages.zero));
    if let Some(repeated) = pages.repeated {
        let about = if repeated.exact { "" } else { "about " };
        let _ = write!(
            text,
            "; not zero, but like an earlier one: {about}{} ({:.1} %)",
            repeated.pages,
            share(repeated.pages)
        );
    }
    text.push('\n');
}

fn iteration_table(iterations: &[IterationPart]) -> Table {
    let mut table = table(&["iteration", "records", "named", "with contents", "zero", "bytes"]);
    for part in iterations.iter().take(MOST_ITERATIONS) {
        let verify = if part.verify { " (verify)" } else { "" };
        let cells = [
            format!("{}{verify}", part.iteration),
            part.records.to_string(),
            part.named.to_string(),
            part.with_contents.to_string(),
            part.zero.to_string(),
            bytes(part.bytes),
        ];
        table.add_row(cells.map(right));
    }
    table
}

/// Writes the picture. Lines that equal the one before are replaced by one star, as in hexdump.
fn write_picture(text: &mut String, picture: &Picture) {
    let legend: Vec<String> = picture
        .legend
        .iter()
        .map(|(character, meaning)| format!("{character} {meaning}"))
        .collect();
    let _ = writeln!(
        text,
        "\nmemory, {} a character: {}",
        bytes(picture.pages_per_character.saturating_mul(4096)),
        legend.join(", ")
    );
    let mut before: Option<&String> = None;
    let mut folded = false;
    for (line, number) in picture.lines.iter().zip(0_u64..) {
        if before == Some(line) && number as usize + 1 < picture.lines.len() {
            if !std::mem::replace(&mut folded, true) {
                text.push_str("*\n");
            }
            continue;
        }
        (before, folded) = (Some(line), false);
        let _ = writeln!(
            text,
            "{:>13x} {}",
            number.saturating_mul(picture.pages_per_line),
            line.trim_end()
        );
    }
}
