//! What is said on xl's wire, read and written.

use std::io::{self, Read, Write};

use migrate_stream::xl::{FLAG_JSON, GO, HEADER_LEN, Header, OptionalData};

use rxl_core::domain::DomId;
use rxl_core::domain_config::DomainConfig;
use rxl_core::text::one_line;

/// Bytes of a garbled word that are shown.
const SHOWN: usize = 60;

/// The sender's word has come, whole. Nothing else lets a received domain run.
pub struct Go(());

/// A domain as xl's header announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its name, as it was sent.
    pub name: String,
    /// The number that it is to keep.
    pub domid: Option<DomId>,
    /// Memory that it may have, in KiB; 0 where that is not told.
    pub max_memory_kib: u64,
    /// Its configuration, libxl's JSON.
    pub config_json: String,
}

/// Reads one of the fixed words. The error is one line.
pub fn read_word(from: &mut impl Read, word: &[u8], name: &str) -> Result<(), String> {
    let mut got = vec![0; word.len()];
    let mut length = 0;
    while length < word.len() {
        match from.read(&mut got[length..]) {
            Ok(0) if length == 0 => return Err(format!("it ended before {name}")),
            Ok(0) => return Err(format!("it ended within {name}")),
            Ok(more) => length += more,
            Err(error) => return Err(format!("reading {name}: {error}")),
        }
        // At once: what is not the word may have nothing behind it.
        if got[..length] != word[..length] {
            let shown = String::from_utf8_lossy(&got[..length.min(SHOWN)]);
            return Err(format!("'{}' came in place of {name}", one_line(&shown)));
        }
    }
    Ok(())
}

/// Reads the sender's GO.
pub fn read_go(from: &mut impl Read) -> Result<Go, String> {
    read_word(from, GO, "GO").map(|()| Go(()))
}

/// Reads header and configuration. The error is one line.
pub fn read_announcement(from: &mut impl Read) -> Result<Announced, String> {
    let mut header = [0; HEADER_LEN];
    from.read_exact(&mut header).map_err(|e| early("xl's header", &e))?;
    let header = Header::parse(&header).map_err(|e| e.to_string())?;
    if header.optional_flags != 0 {
        tracing::warn!(
            "the sender's header has optional flags {:#x}, which are not known here",
            header.optional_flags
        );
    }
    if header.mandatory_flags & FLAG_JSON == 0 {
        return Err("its configuration is in the format before Xen 4.5, not JSON".into());
    }
    // The length was bounded; so is what is taken, by what comes.
    let mut data = Vec::new();
    let length = u64::from(header.optional_data_len);
    from.take(length).read_to_end(&mut data).map_err(|e| early("the configuration", &e))?;
    if data.len() as u64 != length {
        return Err("it ended within the configuration".into());
    }
    parse_announcement(&data)
}

fn parse_announcement(data: &[u8]) -> Result<Announced, String> {
    let data = OptionalData::parse(data).map_err(|e| e.to_string())?;
    if !data.tail.is_empty() {
        tracing::info!("{} bytes after the configuration are passed over", data.tail.len());
    }
    let json = data.json().map_err(|e| e.to_string())?.ok_or("it came without a configuration")?;
    let config = DomainConfig::parse(json).map_err(|error| format!("its configuration {error}"))?;
    Ok(Announced {
        name: config.name().unwrap_or_default().to_owned(),
        domid: config.domid(),
        max_memory_kib: config.max_memory_kib().unwrap_or(0),
        config_json: json.to_owned(),
    })
}

fn early(what: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("it ended before or within {what}"),
        _ => format!("reading {what}: {error}"),
    }
}

/// Writes a word.
pub fn say(to: &mut impl Write, word: &[u8]) -> Result<(), String> {
    to.write_all(word).map_err(|e| e.to_string())
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
        assert_eq!(
            announced,
            Announced { name, domid, max_memory_kib: 4096, config_json: JSON.into() }
        );
    }

    #[test]
    fn what_libxl_leaves_open_is_open() {
        let json = format!(r#"{{"c_info":{{"name":"a"}},"b_info":{{"max_memkb":{}}}}}"#, u64::MAX);
        let announced = read_announcement(&mut &announced(&json)[..]).unwrap();
        assert_eq!((announced.domid, announced.max_memory_kib), (None, 0));
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
            let error = read_announcement(&mut &bytes[..]).unwrap_err();
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
