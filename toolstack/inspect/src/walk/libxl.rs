//! The libxl stream.

use std::io::Read;

use migrate_stream::libxl::{self, Emulator, RecordType};
use migrate_stream::order::LibxlOrder;
use migrate_stream::reader::{Place, Problem as Parsing};

use super::{CannotContinue, Location, MOST_BODY, Sink, StreamWalker};
use crate::finding::Problem;

/// Bytes of a xenstore key that a finding shows.
const MOST_KEY_SHOWN: usize = 64;

impl<R: Read, S: Sink> StreamWalker<'_, R, S> {
    pub(super) fn libxl(&mut self) -> Result<(), CannotContinue> {
        let at = self.here(Place::LibxlHeader);
        let bytes = self.array(at)?;
        let header = self.header(
            at,
            bytes,
            libxl::Header::parse,
            |error, bytes: &mut [u8; libxl::HEADER_LEN]| {
                if let libxl::HeaderError::Options(_) = error {
                    // Bits 0 and 1, which are not reserved, are in the last byte.
                    bytes[12..15].fill(0);
                    bytes[15] &= 3;
                    return true;
                }
                false
            },
        )?;
        self.sink.libxl_header(&header);
        let mut order = LibxlOrder::default();
        while self.libxl_record(&mut order)? != RecordType::End {}
        Ok(())
    }

    fn libxl_record(&mut self, order: &mut LibxlOrder) -> Result<RecordType, CannotContinue> {
        let at = self.here(Place::LibxlRecordHeader);
        let header = libxl::RecordHeader::parse(&self.array(at)?);
        let at = Location { place: Place::Libxl(header.record_type), ..at };
        self.sink.record(at, header.length);
        match (header.record_type, order.record(header.record_type)) {
            (RecordType::Unknown(_), _) => {
                self.check_framing(at, header.record_type.into(), header.length)?;
                self.find(at, Parsing::UnknownRecord);
            }
            (_, Ok(())) => {}
            (_, Err(error)) => self.find(at, error),
        }
        self.libxl_body(at, &header)?;
        self.padding(at, header.length)?;
        if header.record_type == RecordType::LibxcContext {
            self.libxc()?;
        }
        Ok(header.record_type)
    }

    fn libxl_body(
        &mut self,
        at: Location,
        header: &libxl::RecordHeader,
    ) -> Result<(), CannotContinue> {
        if let Err(error) = header.check_length() {
            self.find(at, error);
            return self.skip(at, header.length.into());
        }
        match header.record_type {
            RecordType::EmulatorXenstoreData if header.length <= MOST_BODY => {
                self.collect(at, header.length)?;
                let body = std::mem::take(&mut self.body);
                self.xenstore_data(at, &body);
                self.body = body;
                Ok(())
            }
            RecordType::EmulatorXenstoreData | RecordType::EmulatorContext => {
                let head = self.array::<{ libxl::EMULATOR_HEADER_LEN }>(at)?;
                if let Err(error) = Emulator::parse(&head) {
                    self.find(at, error);
                }
                if header.record_type == RecordType::EmulatorXenstoreData {
                    self.find(at, Problem::NotLookedAt { length: header.length });
                }
                self.skip(at, (header.length - libxl::EMULATOR_HEADER_LEN as u32).into())
            }
            _ => self.skip(at, header.length.into()),
        }
    }

    fn xenstore_data(&mut self, at: Location, body: &[u8]) {
        let pairs = Emulator::parse(body).and_then(|emulator| emulator.xenstore_pairs());
        let pairs = match pairs {
            Ok(pairs) => pairs,
            Err(error) => return self.find(at, error),
        };
        let in_keys = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
        for (key, value) in pairs {
            let start = key.get(..MOST_KEY_SHOWN).unwrap_or(key);
            let name = || String::from_utf8_lossy(start).into_owned();
            if key.is_empty() || !key.iter().all(in_keys) {
                self.find(at, Problem::XenstoreKey(name()));
            }
            if !value.iter().all(|&byte| byte.is_ascii_graphic() || byte == b' ') {
                self.find(at, Problem::XenstoreValue(name()));
            }
        }
    }
}
