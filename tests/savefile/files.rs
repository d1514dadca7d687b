//! Streams of real guests, and files made of them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use migrate_stream::xl;

use rxl_core::io::{Cancel, Guarded, pipe};
use rxl_core::save_format::Format;
use rxl_datapath::broken::Broken;
use rxl_datapath::packing::Packing;
use rxl_session::savefile::file::Unfinished;
use rxl_session::savefile::writer::{Writer, Written};

pub const PACKING: Packing = Packing { compress: true, level: 1, threads: 2 };

/// A file that `xl save` wrote.
pub struct Captured {
    /// All of it.
    pub file: Vec<u8>,
    pub config: String,
    /// Where the libxl stream begins.
    pub stream_at: usize,
}

impl Captured {
    pub fn stream(&self) -> &[u8] {
        &self.file[self.stream_at..]
    }
}

/// Those that the repository carries, not none.
pub fn captured() -> Vec<Captured> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrate-stream/tests/streams");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> =
        paths.filter(|path| path.to_string_lossy().ends_with(".xlsave.zst")).collect();
    assert!(!files.is_empty());
    files.iter().map(|path| take_apart(unpack(path))).collect()
}

fn unpack(path: &Path) -> Vec<u8> {
    let mut decoder = zstd::Decoder::new(std::fs::File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut bytes = Vec::new();
    std::io::copy(&mut decoder, &mut bytes).unwrap();
    bytes
}

fn take_apart(file: Vec<u8>) -> Captured {
    let (head, rest) = file.split_first_chunk::<{ xl::HEADER_LEN }>().unwrap();
    let length = xl::Header::parse(head).unwrap().optional_data_len as usize;
    let config =
        xl::OptionalData::parse(&rest[..length]).unwrap().json().unwrap().unwrap().to_owned();
    Captured { config, stream_at: xl::HEADER_LEN + length, file }
}

/// Writes a stream into a file that is not in place yet.
pub fn written(file: &Unfinished, format: Format, stream: &[u8]) -> Result<Written, Broken> {
    let (reading, writing) = pipe().unwrap();
    let from = Guarded::new(reading, Cancel::new().unwrap(), None).unwrap();
    let (sender, end) = channel();
    let writer =
        Writer::start(format, PACKING, from, file, move |written| sender.send(written).unwrap())
            .unwrap();
    // As libxl's helper: a closed pipe would be an error here.
    std::fs::File::from(writing).write_all(stream).unwrap();
    let written = end.recv().unwrap();
    drop(writer);
    written
}

/// Saves a stream in a directory.
pub fn save(directory: &Path, format: Format, config: &str, stream: &[u8]) -> PathBuf {
    let path = directory.join("dom.save");
    let mut file = Unfinished::create(&path).unwrap();
    file.write_head(format, config).unwrap();
    let written = written(&file, format, stream).unwrap();
    assert_eq!(written.stream_bytes, stream.len() as u64);
    file.put_in_place().unwrap();
    path
}

/// Names in a directory.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
