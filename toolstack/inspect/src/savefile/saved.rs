//! A saved domain, in either format.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use migrate_stream::savefile::{self, SaveFileError};
use migrate_stream::xl;

use crate::finding::{Finding, Problem};
use crate::savefile::frames::{Damage, Frames};
use crate::verify::verify;
use rxl_core::error::{Exit, Failure};
use rxl_core::save_format::Format;

/// Bytes read at once.
const READ_AHEAD: usize = 256 << 10;

/// A file whose head has been read: whatever stands in its place later, this reads the one that was
/// opened.
pub struct Saved {
    name: String,
    file: Arc<File>,
    format: Format,
    config_json: String,
    stream_at: u64,
}

impl Saved {
    /// Opens a file and reads its head. The configuration has not been looked at, nor has the
    /// stream: see [`Saved::check`].
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let failed = |e: io::Error| Failure::internal(&name, &e);
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            let what = format!("{name} is not a file: it is read twice, once to check it");
            return Err(
                Failure::new(Exit::Usage, what).next("save what comes through a pipe first")
            );
        }
        let file = Arc::new(file);
        let mut input = At { file: file.clone(), offset: 0 };
        let mut mark = [0; savefile::MAGIC.len()];
        let damaged = |damage: Damage| damaged(&name, &damage.to_string());
        input.read_exact(&mut mark).map_err(|e| damaged(unreadable(0, &e)))?;
        input.offset = 0;
        let (format, head) = match mark {
            savefile::MAGIC => (Format::Rxl, rxl_head(&mut input)),
            _ if xl::MAGIC.starts_with(&mark) => (Format::Plain, xl_head(&mut input)),
            _ => {
                return Err(damaged(Damage {
                    offset: 0,
                    what: "no saved domain begins here".into(),
                }));
            }
        };
        let config_json = head.map_err(damaged)?;
        Ok(Self { name, file, format, config_json, stream_at: input.offset })
    }

    /// How it was written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The domain's configuration, as libxl's JSON.
    pub fn config_json(&self) -> &str {
        &self.config_json
    }

    /// The domain's libxl stream, from its beginning. It is checked as it is read, as far as the
    /// format can be.
    pub fn stream(&self) -> io::Result<Box<dyn Read + Send>> {
        let input = BufReader::with_capacity(
            READ_AHEAD,
            At { file: self.file.clone(), offset: self.stream_at },
        );
        Ok(match self.format {
            Format::Rxl => Box::new(Frames::new(input, self.stream_at)?),
            Format::Plain => Box::new(input),
        })
    }

    /// Reads all of it: checksums and digest where the format has them, and in either format every
    /// rule of the stream. The length of the stream in bytes.
    pub fn check(&self) -> Result<u64, Failure> {
        let whole: Box<dyn Read> = match self.format {
            Format::Rxl => self.stream().map_err(|e| Failure::internal(&self.name, &e))?,
            // With its header, so that offsets are the file's.
            Format::Plain => Box::new(At { file: self.file.clone(), offset: 0 }),
        };
        let verified = verify(whole);
        match verified.findings.first_error() {
            None => Ok(verified.bytes),
            // Where it is in the file says more than how far the stream came.
            Some(Finding { problem: Problem::Unreadable(damage), .. }) => {
                Err(damaged(&self.name, damage))
            }
            Some(finding) => Err(damaged(&self.name, &finding.to_string())),
        }
    }
}

fn damaged(name: &str, what: &str) -> Failure {
    Failure::new(Exit::BadStream, format!("{name}: {what}")).next("nothing was restored")
}

fn unreadable(offset: u64, error: &io::Error) -> Damage {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Damage { offset, what: "the file was cut off".into() },
        _ => Damage { offset, what: error.to_string() },
    }
}

/// Reads the head of rxl's format: the configuration.
pub fn rxl_head(input: &mut impl Read) -> Result<String, Damage> {
    let mut header = [0; savefile::HEADER_LEN];
    input.read_exact(&mut header).map_err(|e| unreadable(0, &e))?;
    let wrong = |offset| move |error: SaveFileError| Damage { offset, what: error.to_string() };
    let header = savefile::Header::parse(&header).map_err(wrong(0))?;
    let offset = savefile::HEADER_LEN as u64;
    let mut config = vec![0; header.config_len as usize];
    input.read_exact(&mut config).map_err(|e| unreadable(offset, &e))?;
    header.config(&config).map(str::to_owned).map_err(wrong(offset))
}

fn xl_head(input: &mut impl Read) -> Result<String, Damage> {
    let mut header = [0; xl::HEADER_LEN];
    input.read_exact(&mut header).map_err(|e| unreadable(0, &e))?;
    let header =
        xl::Header::parse(&header).map_err(|e| Damage { offset: 0, what: e.to_string() })?;
    let offset = xl::HEADER_LEN as u64;
    let wrong = |what: String| Damage { offset, what };
    let mut optional = vec![0; header.optional_data_len as usize];
    input.read_exact(&mut optional).map_err(|e| unreadable(offset, &e))?;
    let optional = xl::OptionalData::parse(&optional).map_err(|e| wrong(e.to_string()))?;
    let json = optional.json().map_err(|e| wrong(e.to_string()))?;
    match json {
        Some(json) if header.mandatory_flags & xl::FLAG_JSON != 0 => Ok(json.to_owned()),
        _ => Err(wrong("it holds no configuration in JSON".into())),
    }
}

/// Reads a file without moving its position, which all handles of it share.
struct At {
    file: Arc<File>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(into, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}
