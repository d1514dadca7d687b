//! The captured streams of real guests, cut into headers and records, with few pages left.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use migrate_stream::libxc::{Page, PageData, RecordType};
use migrate_stream::reader::{Event, Place, Start, StreamReader};
use migrate_stream::writer;

/// A header or a record, whole with its padding.
#[derive(Clone)]
pub struct Piece {
    pub place: Place,
    pub bytes: Vec<u8>,
}

/// A stream that can be taken apart.
#[derive(Clone)]
pub struct Pieces {
    /// As verify-stream-v2 calls it.
    pub format: &'static str,
    pub list: Vec<Piece>,
}

/// The save files that the repository carries, not none.
pub fn captured() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrate-stream/tests/streams");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> =
        paths.filter(|path| path.to_string_lossy().ends_with(".xlsave.zst")).collect();
    assert!(!files.is_empty());
    files
}

/// A captured save file's bytes.
pub fn unpacked(path: &Path) -> Vec<u8> {
    let mut decoder = zstd::Decoder::new(File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut bytes = Vec::new();
    decoder.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Cuts a save file. The xl header and the configuration are one piece.
pub fn cut(bytes: &[u8]) -> Vec<Piece> {
    let (mut reader, mut rest, mut list) =
        (StreamReader::new(Start::XlFile), bytes, Vec::<Piece>::new());
    while let Some(event) = reader.next(&mut rest).unwrap() {
        let place = match event {
            Event::XlHeader(_) => Place::XlHeader,
            Event::LibxlHeader(_) => Place::LibxlHeader,
            Event::ImageHeader(_) => Place::ImageHeader,
            Event::DomainHeader(_) => Place::DomainHeader,
            Event::LibxlRecord { header, .. } => Place::Libxl(header.record_type),
            Event::LibxcRecord { header, .. } => Place::Libxc(header.record_type),
            _ => continue,
        };
        // The header's bytes have been consumed when its event comes; what follows up to the next
        // is its body.
        let header_len = if matches!(place, Place::XlHeader) { 48 } else { header_len(place) };
        list.push(Piece { place, bytes: vec![0; (reader.offset() as usize) - header_len] });
    }
    let begins: Vec<usize> =
        list.iter().map(|piece| piece.bytes.len()).chain([bytes.len()]).collect();
    for (piece, span) in list.iter_mut().zip(begins.windows(2)) {
        piece.bytes = bytes[span[0]..span[1]].to_vec();
    }
    list
}

fn header_len(place: Place) -> usize {
    match place {
        Place::LibxlHeader | Place::DomainHeader => 16,
        Place::ImageHeader => 24,
        _ => 8,
    }
}

/// Few of a stream's PAGE_DATA records, with few of their pages: everything else as it was.
pub fn shortened(bytes: &[u8]) -> Pieces {
    let list = cut(bytes);
    let is_pages = |piece: &Piece| piece.place == Place::Libxc(RecordType::PageData);
    let count = list.iter().filter(|piece| is_pages(piece)).count();
    let mut number = 0;
    let mut short = Vec::new();
    for mut piece in list {
        if is_pages(&piece) {
            number += 1;
            if ![1, count / 2, count].contains(&number) {
                continue;
            }
            piece.bytes = few_pages(&piece.bytes);
        }
        short.push(piece);
    }
    Pieces { format: "xl", list: short }
}

fn few_pages(record: &[u8]) -> Vec<u8> {
    let pages: Vec<Page<'_>> =
        PageData::parse(&record[8..]).unwrap().pages().step_by(100).collect();
    let mut short = Vec::new();
    writer::page_data(&mut short, &pages).unwrap();
    short
}

impl Pieces {
    pub fn bytes(&self) -> Vec<u8> {
        self.list.iter().flat_map(|piece| piece.bytes.iter().copied()).collect()
    }

    /// The libxl stream inside.
    pub fn libxl(&self) -> Self {
        Self { format: "libxl", list: self.list[1..].to_vec() }
    }

    /// The libxc stream inside that.
    pub fn libxc(&self) -> Self {
        let begin = self.list.iter().position(|piece| piece.place == Place::ImageHeader).unwrap();
        let end = self
            .list
            .iter()
            .position(|piece| piece.place == Place::Libxc(RecordType::End))
            .unwrap();
        Self { format: "libxc", list: self.list[begin..=end].to_vec() }
    }
}

#[test]
fn the_pieces_make_up_the_stream() {
    for path in captured() {
        let bytes = unpacked(&path);
        let whole = Pieces { format: "xl", list: cut(&bytes) };
        assert!(whole.bytes() == bytes, "{}", path.display());
        assert!(shortened(&bytes).bytes().len() < 600_000);
    }
}
