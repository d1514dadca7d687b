//! Pages that come, change, go and come again, in any order, against a model.

use proptest::prelude::*;

use super::*;

/// What one entry of a record says.
type Entry = (u64, PageType, u8);

/// Does what each entry says, one after the other.
fn expected(records: &[Vec<Entry>]) -> BTreeMap<u64, Option<u8>> {
    let special = [SPECIAL.store, SPECIAL.console];
    let mut memory: BTreeMap<_, _> = special.into_iter().map(|pfn| (pfn, Some(0))).collect();
    for &(pfn, page_type, byte) in records.iter().flatten() {
        match page_type {
            _ if special.contains(&pfn) => {}
            PageType::NoTab => drop(memory.insert(pfn, Some(byte))),
            PageType::Xalloc => drop(memory.entry(pfn).or_insert(None)),
            _ => drop(memory.remove(&pfn)),
        }
    }
    memory
}

fn stream_of(records: &[Vec<Entry>]) -> Vec<u8> {
    stream(&[], |out| {
        for record in records {
            let contents: Vec<_> = record.iter().map(|(.., byte)| [*byte; PAGE_SIZE]).collect();
            let page = |(&(pfn, page_type, _), contents)| Page {
                entry: PageEntry { pfn, page_type },
                contents: page_type.has_contents().then_some(contents),
            };
            let pages: Vec<_> = record.iter().zip(&contents).map(page).collect();
            writer::page_data(out, &pages).unwrap();
        }
        good_state(out);
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    let pfn = prop_oneof![0_u64..12, 508_u64..516, Just(SPECIAL.store), Just(SPECIAL.console)];
    let kind = prop_oneof![
        4 => Just(PageType::NoTab),
        1 => Just(PageType::Xalloc),
        3 => Just(PageType::Xtab),
        1 => Just(PageType::Broken),
    ];
    (pfn, kind, any::<u8>())
}

/// Any entries, as a hostile peer may send them, or a whole superpage of one kind.
fn record() -> impl Strategy<Value = Vec<Entry>> {
    let whole = (prop_oneof![Just(PageType::NoTab), Just(PageType::Xtab)], any::<u8>())
        .prop_map(|(kind, byte)| (512..1024).map(|pfn| (pfn, kind, byte)).collect());
    prop_oneof![8 => prop::collection::vec(entry(), 1..12), 1 => whole]
}

proptest! {
    #[test]
    fn the_guest_has_what_was_said_last(
        records in prop::collection::vec(record(), 0..24),
        fragmented: bool,
        piece in 1_usize..20_000,
    ) {
        let fake = Fake::default();
        fake.0.lock().unwrap().fragmented = fragmented;
        let stream = stream_of(&records);
        restored(&fake, SPECIAL, &stream.chunks(piece).collect::<Vec<_>>()).unwrap();
        let built = fake.0.lock().unwrap();
        let has = |contents: &Option<Box<[u8; PAGE_SIZE]>>| contents.as_ref().map(|bytes| bytes[0]);
        let memory: BTreeMap<_, _> =
            built.memory.iter().map(|(pfn, contents)| (*pfn, has(contents))).collect();
        prop_assert_eq!(memory, expected(&records));
    }
}

#[test]
fn a_page_that_was_given_back_makes_room_before_others_come() {
    let records = [
        vec![(1, PageType::NoTab, 1), (2, PageType::NoTab, 2)],
        vec![(1, PageType::Xtab, 0), (2, PageType::Broken, 0), (8, PageType::NoTab, 8)],
        vec![(2, PageType::NoTab, 3)],
    ];
    let fake = Fake::default();
    fake.0.lock().unwrap().most = Some(4);
    restored(&fake, SPECIAL, &[&stream_of(&records)]).unwrap();
    let built = fake.0.lock().unwrap();
    let pfns: Vec<_> = built.memory.keys().copied().collect();
    assert_eq!(pfns, [2, 8, SPECIAL.store, SPECIAL.console]);
}
