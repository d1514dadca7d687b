//! What is said on xl's wire, read and written.

use std::io::{self, Read, Write};

use migrate_stream::xl::{FLAG_JSON, GO, HEADER_LEN, Header, OptionalData, XlError};

use rxl_core::domain::DomId;
use rxl_core::domain_config::{ConfigError, DomainConfig};
use rxl_core::text::one_line;

/// Bytes of a garbled word that are shown.
const SHOWN: usize = 60;

/// The sender's word has come, whole. Nothing else lets a received domain run.
pub struct Go(());

/// A domain as xl's header announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its name, which was not checked.
    pub name: String,
    /// The number that it is to keep.
    pub domid: Option<DomId>,
    /// Its configuration, as libxl's JSON.
    pub config_json: String,
}

/// Why a word of xl's protocol was not read or written. One line, of which the other end is the
/// subject.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("it ended before {0}")]
    EndedBefore(&'static str),
    #[error("it ended within {0}")]
    EndedWithin(&'static str),
    #[error("it ended before or within {0}")]
    Ended(&'static str),
    #[error("reading {what}: {error}")]
    Read {
        what: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("writing: {0}")]
    Write(#[source] io::Error),
    #[error("the connection is closed")]
    Closed,
    /// `shown` is the beginning of what came, on one line.
    #[error("'{shown}' came in place of {word}")]
    Garbled { shown: String, word: &'static str },
    #[error(transparent)]
    Header(#[from] XlError),
    #[error("its configuration is in the format before Xen 4.5, not JSON")]
    NotJson,
    #[error("it came without a configuration")]
    NoConfiguration,
    #[error("its configuration {0}")]
    Configuration(#[source] ConfigError),
}

/// Reads one of the fixed words.
pub fn read_word(from: &mut impl Read, word: &[u8], name: &'static str) -> Result<(), WireError> {
    let mut rest = word;
    let mut buffer = vec![0; word.len()];
    while !rest.is_empty() {
        let room = buffer.get_mut(..rest.len()).unwrap_or_default();
        let length = match from.read(room) {
            Ok(0) if rest.len() == word.len() => return Err(WireError::EndedBefore(name)),
            Ok(0) => return Err(WireError::EndedWithin(name)),
            Ok(length) => length,
            Err(error) => return Err(WireError::Read { what: name, error }),
        };
        let got = buffer.get(..length).unwrap_or_default();
        // At once: what is not the word may have nothing behind it.
        let Some(left) = rest.strip_prefix(got) else {
            let read = word.len() - rest.len();
            let all = word.iter().take(read).chain(got).take(SHOWN).copied().collect::<Vec<u8>>();
            let shown = one_line(&String::from_utf8_lossy(&all));
            return Err(WireError::Garbled { shown, word: name });
        };
        rest = left;
    }
    Ok(())
}

/// Reads the sender's GO.
pub fn read_go(from: &mut impl Read) -> Result<Go, WireError> {
    read_word(from, GO, "GO").map(|()| Go(()))
}

/// Reads header and configuration.
pub fn read_announcement(from: &mut impl Read) -> Result<Announced, WireError> {
    let mut header = [0; HEADER_LEN];
    from.read_exact(&mut header).map_err(|error| early("xl's header", error))?;
    let header = Header::parse(&header)?;
    if header.optional_flags != 0 {
        tracing::warn!(
            "the sender's header has optional flags {:#x}, which are not known here",
            header.optional_flags
        );
    }
    if header.mandatory_flags & FLAG_JSON == 0 {
        return Err(WireError::NotJson);
    }
    // The length was bounded; so is what is taken, by what comes.
    let mut data = Vec::new();
    let length = u64::from(header.optional_data_len);
    let taken = from.take(length).read_to_end(&mut data);
    taken.map_err(|error| early("the configuration", error))?;
    if data.len() as u64 != length {
        return Err(WireError::EndedWithin("the configuration"));
    }
    parse_announcement(&data)
}

fn parse_announcement(data: &[u8]) -> Result<Announced, WireError> {
    let data = OptionalData::parse(data)?;
    if !data.tail.is_empty() {
        tracing::info!("{} bytes after the configuration are passed over", data.tail.len());
    }
    let json = data.json()?.ok_or(WireError::NoConfiguration)?;
    let config = DomainConfig::parse(json).map_err(WireError::Configuration)?;
    Ok(Announced {
        name: config.name().unwrap_or_default().to_owned(),
        domid: config.domid(),
        config_json: json.to_owned(),
    })
}

fn early(what: &'static str, error: io::Error) -> WireError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => WireError::Ended(what),
        _ => WireError::Read { what, error },
    }
}

/// Writes a word.
pub fn say(to: &mut impl Write, word: &[u8]) -> Result<(), WireError> {
    to.write_all(word).map_err(WireError::Write)
}

/// Writes GO. An error means that not one byte of it has left: it was not said. Anything else, a
/// part of it too, counts as said, as nobody knows how much has arrived.
pub fn say_go(to: &mut impl Write) -> Result<(), WireError> {
    let written = to.write(GO).map_err(WireError::Write)?;
    if written == 0 {
        return Err(WireError::Closed);
    }
    if let Err(error) = to.write_all(GO.get(written..).unwrap_or_default()) {
        tracing::warn!("GO was cut: {error}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use migrate_stream::writer;
    use migrate_stream::xl::{BANNER, FLAG_STREAM_V2, MAX_OPTIONAL_DATA, READY, REPORT};

    const JSON: &str = r#"{"c_info":{"name":"dom3","domid":7},"b_info":{"max_memkb":4096}}"#;

    fn announced(json: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        writer::xl_header(&mut bytes, json).unwrap();
        bytes
    }

    #[test]
    fn the_words_have_xls_lengths() {
        assert_eq!((BANNER.len(), READY.len(), GO.len(), REPORT.len()), (54, 34, 44, 39));
    }

    #[test]
    fn go_must_be_whole() {
        assert!(read_go(&mut &GO[..]).is_ok());
        for bad in [&GO[..0], &GO[..43], b"domain is mine", &[0; 44]] {
            assert!(read_go(&mut &bad[..]).is_err(), "{bad:?}");
        }
        // What comes after it is not touched.
        let twice = [&GO[..], GO].concat();
        let mut rest = &twice[..];
        assert!(read_go(&mut rest).is_ok());
        assert_eq!(rest, GO);
    }

    #[test]
    fn an_announcement_is_read_to_its_last_byte() {
        let mut bytes = announced(JSON);
        bytes.extend_from_slice(b"stream");
        let mut rest = &bytes[..];
        let announced = read_announcement(&mut rest).unwrap();
        assert_eq!(rest, b"stream");
        let (name, domid) = ("dom3".to_owned(), Some(DomId(7)));
        assert_eq!(announced, Announced { name, domid, config_json: JSON.into() });
    }

    #[test]
    fn what_libxl_leaves_open_is_open() {
        let json = format!(r#"{{"c_info":{{"name":"a"}},"b_info":{{"max_memkb":{}}}}}"#, u64::MAX);
        let announced = read_announcement(&mut &announced(&json)[..]).unwrap();
        assert_eq!((announced.name.as_str(), announced.domid), ("a", None));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let sound = announced(JSON);
        let changed = |at: usize, bytes: &[u8]| {
            let mut changed = sound.clone();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            changed
        };
        let cases = [
            (sound[..20].to_vec(), "ended before or within xl's header"),
            (sound[..sound.len() - 1].to_vec(), "within the configuration"),
            (changed(0, b"RXLSAVE1"), "magic"),
            (changed(32, &[1, 2, 3, 4]), "big-endian"),
            (changed(36, &7_u32.to_le_bytes()), "unknown mandatory flags 0x4"),
            (changed(36, &FLAG_STREAM_V2.to_le_bytes()), "not JSON"),
            (changed(44, &u32::MAX.to_le_bytes()), "at most"),
            (changed(44, &(MAX_OPTIONAL_DATA).to_le_bytes()), "within the configuration"),
            (changed(48, &u32::MAX.to_le_bytes()), "too short"),
            (changed(44, &0_u32.to_le_bytes()), "too short"),
            (changed(52, b"X"), "not libxl's JSON"),
        ];
        for (bytes, words) in cases {
            let error = read_announcement(&mut &bytes[..]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn optional_flags_and_a_tail_are_passed_over() {
        let mut bytes = announced(JSON);
        bytes[40] = 1;
        bytes.extend_from_slice(b"tail");
        let length = u32::from_le_bytes(*bytes[44..].first_chunk().unwrap()) + 4;
        bytes[44..48].copy_from_slice(&length.to_le_bytes());
        assert_eq!(read_announcement(&mut &bytes[..]).unwrap().name, "dom3");
    }
}
