//! A saved domain's file, in rxl's or xl's format.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use migrate_stream::libvirt;
use migrate_stream::savefile;
use migrate_stream::xl;

use crate::finding::{Finding, Problem};
use crate::savefile::damage::{Damage, DamageKind};
use crate::savefile::frames::Frames;
use crate::verify::verify;
use rxl_core::error::{Exit, Failure};
use rxl_core::save_format::Format;

/// Number of bytes that are read at once.
const READ_AHEAD: usize = 256 << 10;

/// An open file whose head has been read. What is renamed to its path later does not matter: the
/// file that was opened is read.
pub struct Saved {
    /// The path, for messages.
    name: String,
    file: Arc<File>,
    format: Format,
    config_json: String,
    /// First byte of the stream in the file.
    stream_at: u64,
}

impl Saved {
    /// Opens a file and reads its head. Neither configuration nor stream are checked here: see
    /// [`Saved::check`].
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
        let mut input = PositionedReader { file: file.clone(), offset: 0 };
        let mut mark = [0; savefile::MAGIC.len()];
        let damaged = |damage: Damage| damaged(&name, &damage.to_string()).caused_by(damage);
        input.read_exact(&mut mark).map_err(|e| damaged(DamageKind::of_head(e).at(0)))?;
        input.offset = 0;
        let (format, head) = match mark {
            savefile::MAGIC => (Format::Rxl, rxl_head(&mut input)),
            _ if xl::MAGIC.starts_with(&mark) => (Format::Plain, xl_head(&mut input)),
            _ if libvirt::MAGIC.starts_with(&mark) => return Err(libvirts(&name)),
            _ => return Err(damaged(DamageKind::Format.at(0))),
        };
        let config_json = head.map_err(damaged)?;
        Ok(Self { name, file, format, config_json, stream_at: input.offset })
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The domain's configuration, libxl's JSON.
    pub fn config_json(&self) -> &str {
        &self.config_json
    }

    /// The domain's libxl stream, from its beginning. Reading checks it, as far as the format has
    /// checksums.
    pub fn stream(&self) -> io::Result<Box<dyn Read + Send>> {
        let input = BufReader::with_capacity(
            READ_AHEAD,
            PositionedReader { file: self.file.clone(), offset: self.stream_at },
        );
        Ok(match self.format {
            Format::Rxl => Box::new(Frames::new(input, self.stream_at)?),
            Format::Plain => Box::new(input),
        })
    }

    /// Reads and checks the whole file: checksums and digest where the format has them, and in
    /// either format every rule of the stream. Returns the length of the stream in bytes.
    pub fn check(&self) -> Result<u64, Failure> {
        let whole: Box<dyn Read> = match self.format {
            Format::Rxl => self.stream().map_err(|e| Failure::internal(&self.name, &e))?,
            // From the file's header on, so that offsets are the file's.
            Format::Plain => Box::new(PositionedReader { file: self.file.clone(), offset: 0 }),
        };
        let verified = verify(whole);
        match verified.findings.first_error() {
            None => Ok(verified.bytes),
            // A damage has its own offset, in the file. The finding's offset is one in the stream.
            Some(Finding { problem: Problem::Unreadable(damage), .. }) => {
                Err(damaged(&self.name, &damage.to_string()))
            }
            Some(finding) => Err(damaged(&self.name, &finding.to_string())),
        }
    }
}

/// Only libvirt makes libxl's configuration of its own XML.
fn libvirts(name: &str) -> Failure {
    let what = format!("{name} was saved by libvirt, whose XML rxl does not read");
    Failure::new(Exit::Usage, what).next(format!("`virsh restore {name}` restores it"))
}

fn damaged(name: &str, what: &str) -> Failure {
    Failure::new(Exit::BadStream, format!("{name}: {what}")).next("nothing was restored")
}

/// Reads the head of rxl's format, and returns the configuration.
pub fn rxl_head(input: &mut impl Read) -> Result<String, Damage> {
    let mut header = [0; savefile::HEADER_LEN];
    input.read_exact(&mut header).map_err(|e| DamageKind::of_head(e).at(0))?;
    let header = savefile::Header::parse(&header).map_err(|e| DamageKind::Head(e).at(0))?;
    let offset = savefile::HEADER_LEN as u64;
    let mut config = vec![0; header.config_len as usize];
    input.read_exact(&mut config).map_err(|e| DamageKind::of_head(e).at(offset))?;
    let config = header.config(&config).map_err(|e| DamageKind::Head(e).at(offset))?;
    Ok(config.to_owned())
}

/// Reads the head of xl's format, and returns the configuration.
fn xl_head(input: &mut impl Read) -> Result<String, Damage> {
    let mut header = [0; xl::HEADER_LEN];
    input.read_exact(&mut header).map_err(|e| DamageKind::of_head(e).at(0))?;
    let header = xl::Header::parse(&header).map_err(|e| DamageKind::XlHead(e).at(0))?;
    let offset = xl::HEADER_LEN as u64;
    let mut optional = vec![0; header.optional_data_len as usize];
    input.read_exact(&mut optional).map_err(|e| DamageKind::of_head(e).at(offset))?;
    let json = xl::OptionalData::parse(&optional).and_then(|optional| optional.json());
    let json = json.map_err(|e| DamageKind::XlHead(e).at(offset))?;
    match json {
        Some(json) if header.mandatory_flags & xl::FLAG_JSON != 0 => Ok(json.to_owned()),
        _ => Err(DamageKind::NoConfig.at(offset)),
    }
}

/// Reads a file without moving its position, which all handles of it share.
struct PositionedReader {
    file: Arc<File>,
    offset: u64,
}

impl Read for PositionedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(into, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}
