//! `rxl stream`: inspects or verifies a saved domain or a migration stream.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, stdin};
use std::path::Path;

use migrate_stream::{savefile, writer};

use crate::arguments::{StreamCommand, StreamInspect, StreamVerify};
use crate::standard_io::{print, print_json, refuse_terminal};
use rxl_core::error::{Exit, Failure};
use rxl_inspect::finding::Findings;
use rxl_inspect::inspect::{Options, inspect};
use rxl_inspect::savefile::frames::Frames;
use rxl_inspect::savefile::saved::rxl_head;
use rxl_inspect::verify::{Verified, verify};

/// Bytes that are read ahead of the frames of an rxl save file.
const READ_AHEAD: usize = 128 << 10;

pub fn run(command: &StreamCommand) -> Result<(), Failure> {
    match command {
        StreamCommand::Inspect(options) => run_inspect(options),
        StreamCommand::Verify(options) => run_verify(options),
    }
}

fn run_inspect(options: &StreamInspect) -> Result<(), Failure> {
    let Input { stream, name, container } = open(&options.file)?;
    let inspected = inspect(stream, Options { map: options.map, container });
    if options.json {
        print_json("summary", &inspected.summary)?;
    } else {
        print(&inspected.summary.to_text(&name));
    }
    if let Some(path) = &options.map_image {
        let written = File::create(path).and_then(|file| inspected.map.write_image(file));
        written.map_err(|e| Failure::internal(format_args!("image {}", path.display()), &e))?;
    }
    judge(&name, &inspected.findings, "`rxl stream verify` lists every violation")
}

fn run_verify(options: &StreamVerify) -> Result<(), Failure> {
    let Input { stream, name, container } = open(&options.file)?;
    let verified = Verified { container, ..verify(stream) };
    if options.json {
        print_json("verdict", &verified.json())?;
    } else {
        print(&verified.to_text(&name));
    }
    judge(&name, &verified.findings, "do not restore it")
}

struct Input {
    stream: Box<dyn Read>,
    /// The input's name in messages.
    name: String,
    /// The kind of file that the stream was taken out of; none for a stream as it is.
    container: Option<&'static str>,
}

fn open(path: &Path) -> Result<Input, Failure> {
    if path.as_os_str() != "-" {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| Failure::internal(&name, &e))?;
        return unpacked(Box::new(file), name);
    }
    refuse_terminal("stream", "give a file, or send the stream through a pipe")?;
    unpacked(Box::new(stdin()), "standard input".into())
}

/// A file in rxl's own format is turned into the stream that `rxl save --plain` would have written.
fn unpacked(mut input: Box<dyn Read>, name: String) -> Result<Input, Failure> {
    let mut mark = Vec::new();
    let read = input.by_ref().take(savefile::MAGIC.len() as u64).read_to_end(&mut mark);
    read.map_err(|e| Failure::internal(&name, &e))?;
    let rxl = mark == savefile::MAGIC;
    let mut input = Cursor::new(mark).chain(input);
    if !rxl {
        return Ok(Input { stream: Box::new(input), name, container: None });
    }
    let bad = |what: String| Failure::new(Exit::BadStream, format!("{name}: {what}"));
    let config = rxl_head(&mut input).map_err(|damage| bad(damage.to_string()))?;
    let mut head = Vec::new();
    writer::xl_header(&mut head, &config).map_err(|e| bad(e.to_string()))?;
    let offset = (savefile::HEADER_LEN + config.len()) as u64;
    let frames = Frames::new(BufReader::with_capacity(READ_AHEAD, input), offset);
    let frames = frames.map_err(|e| Failure::internal(&name, &e))?;
    Ok(Input {
        stream: Box::new(Cursor::new(head).chain(frames)),
        name,
        container: Some("rxl save file"),
    })
}

/// The failure for a stream that breaks a rule: its first violation, and the number of others.
fn judge(name: &str, findings: &Findings, next: &str) -> Result<(), Failure> {
    let Some(first) = findings.first_error() else { return Ok(()) };
    let others = match findings.errors - 1 {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    };
    Err(Failure::new(Exit::BadStream, format!("{name}: {first}{others}")).next(next))
}
