//! The stream reader: a stream gives the same events whole and in pieces. The first byte chooses
//! where the stream begins and how long the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrate_stream::reader::{Event, Start, StreamError, StreamReader};

/// What was read: the events as text, the payload, the offset reached, and how it ended.
type Reading = (Vec<String>, Vec<u8>, u64, Result<(), StreamError>);

fn read(start: Start, stream: &[u8], length: usize) -> Reading {
    let (mut reader, mut events, mut payload) = (StreamReader::new(start), Vec::new(), Vec::new());
    for mut piece in stream.chunks(length) {
        loop {
            match reader.next(&mut piece) {
                Ok(Some(Event::Body(bytes) | Event::XlOptionalData(bytes))) => {
                    payload.extend_from_slice(bytes)
                }
                Ok(Some(event)) => events.push(format!("{event:?}")),
                Ok(None) => break,
                Err(error) => return (events, payload, error.offset, Err(error)),
            }
        }
        assert_eq!(reader.wanted() == 0, reader.is_complete());
    }
    (events, payload, reader.offset(), reader.finish())
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, stream)) = data.split_first() else { return };
    let start = [Start::XlFile, Start::Libxl, Start::Libxc][usize::from(choice % 3)];
    let whole = read(start, stream, stream.len().max(1));
    assert_eq!(read(start, stream, 1 + usize::from(choice / 3)), whole);
});
