//! The header of xl's save file, and the configuration behind it.

use std::io::Read;

use migrate_stream::reader::Place;
use migrate_stream::xl;

use super::{CannotContinue, Location, Sink, StreamWalker};
use crate::finding::Problem;
use rxl_core::domain_config::DomainConfig;

impl<R: Read, S: Sink> StreamWalker<'_, R, S> {
    pub(super) fn xl(&mut self) -> Result<(), CannotContinue> {
        let at = self.here(Place::XlHeader);
        let bytes: [u8; xl::HEADER_LEN] = self.array(at)?;
        // The length tells where the stream begins, also when it is over the limit.
        let length = u32::from_le_bytes([bytes[44], bytes[45], bytes[46], bytes[47]]);
        let header = self.header(at, bytes, xl::Header::parse, |error, bytes| {
            match error {
                xl::XlError::ByteOrder(_) => {
                    bytes[32..36].copy_from_slice(&0x0102_0304_u32.to_le_bytes())
                }
                xl::XlError::MandatoryFlags(unknown) => {
                    let flags =
                        u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]) & !unknown;
                    bytes[36..40].copy_from_slice(&flags.to_le_bytes());
                }
                xl::XlError::TooLong(_) => bytes[44..].fill(0),
                _ => return false,
            }
            true
        })?;
        let header = xl::Header { optional_data_len: length, ..header };
        self.sink.xl_header(&header);
        self.xl_optional(&header)
    }

    fn xl_optional(&mut self, header: &xl::Header) -> Result<(), CannotContinue> {
        let at = self.here(Place::XlOptionalData);
        if header.optional_data_len > xl::MAX_OPTIONAL_DATA {
            return self.skip(at, header.optional_data_len.into());
        }
        self.collect(at, header.optional_data_len)?;
        if header.optional_data_len == 0 {
            return Ok(());
        }
        let body = std::mem::take(&mut self.body);
        match xl::OptionalData::parse(&body).and_then(|data| data.json()) {
            Ok(Some(json)) if header.mandatory_flags & xl::FLAG_JSON != 0 => self.config(at, json),
            Ok(_) => {}
            Err(error) => self.find(at, error),
        }
        self.body = body;
        Ok(())
    }

    fn config(&mut self, at: Location, json: &str) {
        match DomainConfig::parse(json) {
            Ok(config) => self.sink.config(&config.summary()),
            Err(error) => self.find(at, Problem::Config(error)),
        }
    }
}
