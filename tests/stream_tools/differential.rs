//! `rxl stream verify` beside Xen's verify-stream-v2, on the streams of real guests and on
//! thousands of damaged ones.
//!
//! The two must agree but for what [`view`] and [`Difference`] name; docs/stream.md gives the
//! reasons.

use migrate_stream::libxc::{BodyError, HeaderError, MAX_RECORD_LEN, RecordType};
use migrate_stream::libxl;
use migrate_stream::order::OrderError;
use migrate_stream::reader::{Place, Problem as Parsing};
use migrate_stream::xl::XlError;

use crate::oracle::Oracle;
use crate::pieces::{Pieces, captured, shortened, unpacked};
use rxl_inspect::finding::{Finding, Problem, Severity};
use rxl_inspect::verify::{Verified, verify};

/// Damaged streams of each guest and format.
const DAMAGED: usize = 3000;

/// Whether verify-stream-v2 knows a rule that rxl found broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// It checks the rule.
    Checks,
    /// It does not check the rule: rxl is stricter.
    DoesNot,
    /// rxl does not go on from here, and it does.
    GoesOn,
}

/// Why verify-stream-v2 may refuse what rxl accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    /// It takes no unknown record, though the specification lets optional ones be ignored.
    OptionalRecord,
    /// On Python 3 it compares a byte with a string, and refuses every EMULATOR_XENSTORE_DATA that
    /// is not empty.
    XenstoreData,
}

fn view(finding: &Finding) -> View {
    let checks = |yes| if yes { View::Checks } else { View::DoesNot };
    match &finding.problem {
        Problem::Format | Problem::FramingLost { .. } | Problem::Unreadable(_) => View::Checks,
        Problem::Parsing(parsing) => match parsing {
            Parsing::Truncated { .. } | Parsing::Padding | Parsing::UnknownRecord => View::Checks,
            Parsing::Xl(XlError::Legacy | XlError::BigEndian) => View::GoesOn,
            Parsing::Xl(error) => checks(*error == XlError::Magic),
            Parsing::LibxlHeader(libxl::HeaderError::BigEndian) => View::GoesOn,
            // It looks at the lower 16 bits only.
            Parsing::LibxlHeader(libxl::HeaderError::Options(options)) => {
                checks(options & 0xffff != 0)
            }
            Parsing::LibxlHeader(_) => View::Checks,
            Parsing::LibxcHeader(HeaderError::BigEndian) => View::GoesOn,
            Parsing::LibxcHeader(_) => View::Checks,
            Parsing::Order(OrderError::Version2 | OrderError::Deprecated) => View::Checks,
            Parsing::Order(_) => {
                checks(finding.place == Place::Libxc(RecordType::CheckpointDirtyPfnList))
            }
            Parsing::Body(error) => checks(checks_body(finding.place, error)),
        },
        _ => View::DoesNot,
    }
}

/// Where verify-stream-v2 looks less closely at bodies than libxc's restore code does.
fn checks_body(place: Place, error: &BodyError) -> bool {
    use RecordType as T;
    if matches!(error, BodyError::TooLong { most, .. } if *most == MAX_RECORD_LEN as usize) {
        return false;
    }
    match (place, error) {
        (Place::Libxc(T::X86PvInfo), BodyError::Value { field: "pt_levels", value }) => {
            ![3, 4].contains(value)
        }
        (Place::Libxc(T::X86PvP2mFrames), BodyError::TooShort { length, .. }) => *length < 8,
        (Place::Libxc(T::X86PvP2mFrames), BodyError::Entries { .. }) => true,
        (Place::Libxc(T::X86PvP2mFrames), _) => false,
        (Place::Libxc(record_type), error) if is_vcpu(record_type) => match error {
            BodyError::TooShort { length, .. } => *length < 8,
            error => matches!(error, BodyError::Reserved { .. }),
        },
        (Place::Libxc(T::X86MsrPolicy), error) => !matches!(error, BodyError::Reserved { .. }),
        _ => true,
    }
}

fn is_vcpu(record_type: RecordType) -> bool {
    use RecordType as T;
    matches!(
        record_type,
        T::X86PvVcpuBasic | T::X86PvVcpuExtended | T::X86PvVcpuXsave | T::X86PvVcpuMsrs
    )
}

fn difference(verified: &Verified, said: &str) -> Option<Difference> {
    let optional = verified
        .findings
        .list()
        .iter()
        .any(|finding| matches!(finding.problem, Problem::UnknownOptional));
    if optional && said.contains("Unrecognised record type") {
        return Some(Difference::OptionalRecord);
    }
    said.contains("Data not NUL terminated").then_some(Difference::XenstoreData)
}

/// What a comparison came to, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    BothAccept,
    BothRefuse,
    RxlStricter,
    Known(Difference),
}

fn compare(oracle: &mut Oracle, stream: &Pieces, what: &str) -> Agreement {
    let bytes = stream.bytes();
    compare_bytes(oracle, stream.format, &bytes, what)
}

fn compare_bytes(oracle: &mut Oracle, format: &str, bytes: &[u8], what: &str) -> Agreement {
    let verified = verify(bytes);
    // rxl sees for itself what a stream begins with; Xen's checker is told.
    let format = match verified.format {
        Some("xl save file") => "xl",
        Some("libxl stream") => "libxl",
        Some("libxc stream") => "libxc",
        _ => format,
    };
    let xen = oracle.refuses(format, bytes);
    let errors = || {
        verified
            .findings
            .list()
            .iter()
            .filter(|finding| finding.problem.severity() == Severity::Error)
    };
    let views: Vec<View> = errors().map(view).collect();
    let context = || format!("{what}\nrxl: {:#?}\nxen: {xen:?}", verified.findings);
    match &xen {
        None => {
            assert!(
                !views.contains(&View::Checks),
                "Xen's checker does not see what it should: {}",
                context()
            );
            if verified.accepted() { Agreement::BothAccept } else { Agreement::RxlStricter }
        }
        Some(said) => {
            if let Some(known) = difference(&verified, said) {
                return Agreement::Known(known);
            }
            assert!(!verified.accepted(), "only Xen's checker refuses it: {}", context());
            let explained = views.iter().any(|view| *view != View::DoesNot);
            assert!(explained, "Xen's checker refuses it for another reason: {}", context());
            Agreement::BothRefuse
        }
    }
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides.max(1)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

/// Does one thing to a stream, and says what.
fn damage(stream: &mut Pieces, dice: &mut Dice) -> String {
    let index = dice.roll(stream.list.len());
    let place = stream.list[index].place;
    let length = stream.list[index].bytes.len();
    match dice.roll(11) {
        0 | 1 => flip(stream, index, dice, length.min(32)),
        2 => flip(stream, index, dice, length),
        3 => {
            let value = dice.pick(&[
                0,
                1,
                2,
                5,
                7,
                8,
                0xb,
                0xd,
                0xe,
                0xf,
                0x10,
                0x12,
                0x13,
                1 << 31,
                u32::MAX,
            ]);
            set(stream, index, 0, value)
        }
        4 => {
            let old = field(stream, index, 4);
            let new = [
                0,
                7,
                8,
                old ^ 1,
                old ^ 8,
                old.wrapping_add(4096),
                old.wrapping_sub(4096),
                1 << 27,
                u32::MAX,
            ];
            set(stream, index, 4, dice.pick(&new))
        }
        5 => {
            let old = field(stream, index, 8);
            set(
                stream,
                index,
                8,
                dice.pick(&[0, old.wrapping_add(1), old.wrapping_sub(1), 0x4000_0000, u32::MAX]),
            )
        }
        6 => {
            let byte = length - 1 - dice.roll(8.min(length));
            stream.list[index].bytes[byte] ^= 1 << dice.roll(8);
            format!("a bit at the end of {place}")
        }
        7 => {
            stream.list[index].bytes.truncate(dice.roll(length));
            stream.list.truncate(index + 1);
            format!("cut off in {place}")
        }
        8 => {
            stream.list.remove(index);
            format!("without {place}")
        }
        9 => {
            let piece = stream.list[index].clone();
            let to = dice.roll(stream.list.len());
            stream.list.insert(to, piece);
            format!("another {place} before piece {to}")
        }
        _ => {
            let other = dice.roll(stream.list.len());
            stream.list.swap(index, other);
            format!("{place} and {} swapped", stream.list[index].place)
        }
    }
}

fn flip(stream: &mut Pieces, index: usize, dice: &mut Dice, within: usize) -> String {
    let (byte, bit) = (dice.roll(within), dice.roll(8));
    stream.list[index].bytes[byte] ^= 1 << bit;
    format!("bit {bit} of byte {byte} of {}", stream.list[index].place)
}

fn field(stream: &Pieces, index: usize, at: usize) -> u32 {
    stream.list[index].bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn set(stream: &mut Pieces, index: usize, at: usize, value: u32) -> String {
    let piece = &mut stream.list[index];
    if let Some(bytes) = piece.bytes.get_mut(at..at + 4) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    format!("{value:#x} at byte {at} of {}", piece.place)
}

/// Each guest's stream in each format.
fn streams() -> Vec<Pieces> {
    let whole = captured().into_iter().map(|path| shortened(&unpacked(&path)));
    whole.flat_map(|xl| [xl.libxl(), xl.libxc(), xl]).collect()
}

#[test]
fn both_accept_the_streams_of_real_guests() {
    let mut oracle = Oracle::start();
    for path in captured() {
        let agreement =
            compare_bytes(&mut oracle, "xl", &unpacked(&path), &path.display().to_string());
        assert_eq!(agreement, Agreement::BothAccept);
    }
    for stream in streams() {
        assert_eq!(compare(&mut oracle, &stream, stream.format), Agreement::BothAccept);
    }
}

#[test]
fn both_judge_damaged_streams_alike() {
    let mut oracle = Oracle::start();
    let mut dice = Dice(0x5eed);
    let (mut accepted, mut refused, mut stricter) = (0, 0, 0);
    for stream in streams() {
        for _ in 0..DAMAGED {
            let mut damaged = stream.clone();
            let mut what = format!("{}: {}", stream.format, damage(&mut damaged, &mut dice));
            if dice.roll(4) == 0
                && !damaged.list.is_empty()
                && damaged.list.iter().all(|piece| piece.bytes.len() >= 8)
            {
                what += &format!(", and {}", damage(&mut damaged, &mut dice));
            }
            match compare(&mut oracle, &damaged, &what) {
                Agreement::BothAccept => accepted += 1,
                Agreement::BothRefuse => refused += 1,
                Agreement::RxlStricter => stricter += 1,
                Agreement::Known(_) => {}
            }
        }
    }
    println!(
        "{accepted} accepted by both, {refused} refused by both, {stricter} refused by rxl alone"
    );
    // A test in which all streams were of one kind would show little.
    assert!(accepted > 100 && refused > 1000 && stricter > 100, "{accepted} {refused} {stricter}");
}

#[test]
fn the_known_differences_are_what_they_are_said_to_be() {
    let mut oracle = Oracle::start();
    let stream = streams().swap_remove(0);
    let end = stream.list.len() - 1;
    let with = |record_type: u32, place: Place, at: usize, body: &[u8]| {
        let mut with = stream.clone();
        let mut bytes = [record_type.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        with.list.insert(at, crate::pieces::Piece { place, bytes });
        with
    };
    let optional = with(0x8000_0001, Place::LibxcRecordHeader, end - 1, b"abc");
    let optional = compare(&mut oracle, &optional, "an optional record");
    assert_eq!(optional, Agreement::Known(Difference::OptionalRecord));
    let emulator = [&2_u32.to_le_bytes()[..], &[0; 4], b"physmap/f0/name\0vga.vram\0"].concat();
    let xenstore = with(2, Place::LibxlRecordHeader, end, &emulator);
    assert!(verify(&xenstore.bytes()[..]).accepted());
    assert_eq!(
        compare(&mut oracle, &xenstore, "xenstore data"),
        Agreement::Known(Difference::XenstoreData)
    );
}
