//! No damaged byte of rxl's file goes unnoticed, and each is told with its place.

use std::io::Read;
use std::path::Path;

use migrate_stream::frame::crc::hash;
use migrate_stream::frame::{Codec, FRAME_HEADER_LEN, FrameHeader, FrameKind};
use migrate_stream::savefile;
use tempfile::TempDir;

use crate::files::PACKING;
use rxl_core::domain::GuestType;
use rxl_core::error::{Exit, Failure};
use rxl_core::level::Level;
use rxl_core::save_format::Format;
use rxl_core::state_dir::StateDir;
use rxl_inspect::savefile::saved::Saved;
use rxl_session::events::Events;
use rxl_session::savefile::{restore, save};
use rxl_testkit::memory::{Guest, MemoryHost};

/// A small domain in rxl's format.
struct Sound {
    directory: TempDir,
    bytes: Vec<u8>,
    /// Where each frame begins, and the end.
    frames: Vec<usize>,
}

fn sound() -> Sound {
    let directory = tempfile::tempdir().unwrap();
    let host = MemoryHost::new(1 << 20);
    host.start(
        "dom3",
        GuestType::Pvh,
        Guest { pages: 1500, zero_per_256: 240, dirty: vec![], endless: false, seed: 4 },
    );
    let path = directory.path().join("dom3.save");
    let request = save::SaveRequest {
        domain: "dom3".into(),
        path: path.clone(),
        format: Format::Rxl,
        after: save::After::Destroy,
        packing: PACKING,
        quiesce: Level::Off,
    };
    save::save(
        &host,
        &StateDir::at(directory.path().join("state")),
        &request,
        None,
        &Events::default(),
    )
    .unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let head = bytes.first_chunk().unwrap();
    let mut at = savefile::HEADER_LEN + savefile::Header::parse(head).unwrap().config_len as usize;
    let mut frames = vec![at];
    while at < bytes.len() {
        let header = FrameHeader::parse(bytes[at..].first_chunk().unwrap()).unwrap();
        at += FRAME_HEADER_LEN + header.wire_len as usize;
        frames.push(at);
    }
    assert!(frames.len() >= 4, "{frames:?}");
    Sound { directory, bytes, frames }
}

impl Sound {
    /// What is said of these bytes in place of the file's.
    fn judged(&self, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.directory.path().join("damaged.save");
        std::fs::write(&path, bytes).unwrap();
        Saved::open(&path).and_then(|saved| saved.check()).map(drop)
    }

    fn refused(&self, bytes: &[u8], at: usize, what: &str) {
        let failure = self.judged(bytes).expect_err(what);
        assert_eq!(failure.exit, Exit::BadStream, "{what}: {failure}");
        let wanted = format!("damaged at byte {at} of the file");
        assert!(failure.to_string().contains(&wanted), "{what}: {failure}, not {wanted}");
        assert_eq!(failure.to_string().lines().count(), 1);
    }

    /// First byte of the part of the file that this one belongs to.
    fn part(&self, byte: usize) -> usize {
        match byte {
            _ if byte < savefile::HEADER_LEN => 0,
            _ if byte < self.frames[0] => savefile::HEADER_LEN,
            _ => *self.frames.iter().rev().find(|&&frame| frame <= byte).unwrap(),
        }
    }
}

#[test]
fn a_flipped_bit_is_told_wherever_it_is() {
    let sound = sound();
    sound.judged(&sound.bytes).unwrap();
    // All of the headers, and some of what is between them.
    let headers = sound.frames.iter().flat_map(|&frame| frame..(frame + 44).min(sound.bytes.len()));
    for byte in (0..sound.frames[0] + 40).chain(headers).chain((0..sound.bytes.len()).step_by(997))
    {
        let mut damaged = sound.bytes.clone();
        damaged[byte] ^= 1 << (byte % 8);
        if byte < 8 {
            // Then it is not known for what it is.
            assert_eq!(sound.judged(&damaged).unwrap_err().exit, Exit::BadStream);
        } else {
            sound.refused(&damaged, sound.part(byte), &format!("a bit of byte {byte}"));
        }
    }
}

#[test]
fn a_file_that_was_cut_off_is_refused() {
    let sound = sound();
    let ends = sound
        .frames
        .iter()
        .flat_map(|&frame| [frame - 1, frame, frame + 1, frame + FRAME_HEADER_LEN]);
    for end in ends.chain([8, 23, 24, 30]).filter(|&end| end < sound.bytes.len()) {
        let at = if sound.frames.contains(&end) { end } else { sound.part(end) };
        sound.refused(&sound.bytes[..end], at, &format!("cut at {end}"));
    }
    for end in 0..8 {
        assert!(sound.judged(&sound.bytes[..end]).is_err());
    }
}

#[test]
fn frames_that_are_missing_doubled_or_out_of_place_are_told() {
    let sound = sound();
    let frame = |number: usize| &sound.bytes[sound.frames[number]..sound.frames[number + 1]];
    let last = sound.frames.len() - 2;
    let file = |frames: &[usize]| {
        let frames = frames.iter().flat_map(|&number| frame(number).to_vec());
        sound.bytes[..sound.frames[0]].iter().copied().chain(frames).collect::<Vec<u8>>()
    };
    let all: Vec<usize> = (0..=last).collect();
    assert!(file(&all) == sound.bytes);
    let without: Vec<usize> = all.iter().copied().filter(|&number| number != 1).collect();
    sound.refused(&file(&without), sound.frames[1], "a frame is missing");
    let doubled = [&all[..2], &all[1..]].concat();
    sound.refused(&file(&doubled), sound.frames[2], "a frame is doubled");
    let mut swapped = all.clone();
    swapped.swap(1, 2);
    sound.refused(&file(&swapped), sound.frames[1], "two frames are swapped");
    let short = [&all[..last - 1], &all[last..]].concat();
    sound.refused(&file(&short), sound.frames[last - 1], "the last frame is missing");
    let more = [&sound.bytes[..], b"x"].concat();
    sound.refused(&more, sound.frames[last], "a byte too many");
}

/// Other contents with checksums of their own, as a file put together of two would have them.
#[test]
fn a_good_frame_that_does_not_belong_is_told_by_the_digest() {
    let sound = sound();
    let (begin, end) = (sound.frames[1], sound.frames[2]);
    let header =
        |frame: usize| FrameHeader::parse(sound.bytes[frame..].first_chunk().unwrap()).unwrap();
    let before = header(sound.frames[0]).decoded_len as usize;
    let mut contents = Vec::new();
    Saved::open(&sound.directory.path().join("dom3.save"))
        .unwrap()
        .stream()
        .unwrap()
        .read_to_end(&mut contents)
        .unwrap();
    let old = header(begin);
    let mut contents = contents[before..before + old.decoded_len as usize].to_vec();
    *contents.last_mut().unwrap() ^= 1;
    let new = FrameHeader {
        kind: FrameKind::Bytes,
        codec: Codec::None,
        packed_len: old.decoded_len,
        wire_len: old.decoded_len,
        crc32: hash(&contents),
        wire_crc32: hash(&contents),
        ..old
    };
    let file = [&sound.bytes[..begin], &new.to_bytes(), &contents, &sound.bytes[end..]].concat();
    let failure = sound.judged(&file).unwrap_err().to_string();
    let last =
        file.len() - (sound.frames[sound.frames.len() - 1] - sound.frames[sound.frames.len() - 2]);
    assert!(
        failure.contains(&format!("damaged at byte {last} of the file: digest mismatch")),
        "{failure}"
    );
}

#[test]
fn what_changes_after_the_check_is_refused_when_it_is_read() {
    let sound = sound();
    let path = sound.directory.path().join("dom3.save");
    let saved = Saved::open(&path).unwrap();
    saved.check().unwrap();
    let mut damaged = sound.bytes.clone();
    let byte = sound.frames[2] + 100;
    damaged[byte] ^= 1;
    // In place: another file under the name would not be seen.
    std::fs::write(&path, &damaged).unwrap();
    let error = saved.stream().unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert!(
        error.to_string().contains(&format!("damaged at byte {} of the file", sound.frames[2])),
        "{error}"
    );
}

#[test]
fn a_damaged_file_is_refused_before_anything_is_done() {
    let sound = sound();
    let path = sound.directory.path().join("damaged.save");
    let mut damaged = sound.bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let host = MemoryHost::new(1 << 20);
    let failure = restored(&host, &path, sound.directory.path()).unwrap_err();
    assert_eq!(failure.exit, Exit::BadStream, "{failure}");
    assert!(host.domains().is_empty());
    restored(&host, &sound.directory.path().join("dom3.save"), sound.directory.path()).unwrap();
    assert_eq!(host.domains().len(), 1);
}

fn restored(host: &MemoryHost, path: &Path, state: &Path) -> Result<restore::Restored, Failure> {
    let request =
        restore::RestoreRequest { path: path.into(), leave_paused: false, no_monitor: false };
    restore::restore(host, &StateDir::at(state.join("state")), &request, &Events::default())
}

#[test]
fn damage_to_a_plain_file_is_told_as_far_as_it_shows() {
    for captured in crate::files::captured() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xl.save");
        let judged = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Saved::open(&path).and_then(|saved| saved.check())
        };
        judged(&captured.file).unwrap();
        let end = captured.file.len();
        for cut in [0, 5, 40, 100, captured.stream_at + 3, end / 2, end - 1] {
            assert_eq!(
                judged(&captured.file[..cut]).unwrap_err().exit,
                Exit::BadStream,
                "cut at {cut}"
            );
        }
        for byte in [3, 33, 49, 60, captured.stream_at + 2, captured.stream_at + 30, end - 7] {
            let mut damaged = captured.file.clone();
            damaged[byte] ^= 0x80;
            let failure = judged(&damaged).unwrap_err();
            assert_eq!(failure.exit, Exit::BadStream, "byte {byte}: {failure}");
        }
    }
}
