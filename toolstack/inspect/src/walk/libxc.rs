//! The libxc stream.

use std::io::Read;

use migrate_stream::libxc::{
    Body, BodyError, DOMAIN_HEADER_LEN, DomainHeader, DomainType, HeaderError, IMAGE_HEADER_LEN,
    ImageHeader, MAX_RECORD_LEN, RecordHeader, RecordType,
};
use migrate_stream::reader::{Place, Problem as Parsing};

use super::{CannotContinue, Location, MOST_BODY, Sink, StreamWalker};
use crate::finding::Problem;
use crate::layout::Layout;

impl<R: Read, S: Sink> StreamWalker<'_, R, S> {
    pub(super) fn libxc(&mut self) -> Result<(), CannotContinue> {
        let version = self.image_header()?.version;
        let mut layout = Layout::new(version, self.domain_header()?);
        while self.libxc_record(&mut layout)? != RecordType::End {}
        Ok(())
    }

    fn image_header(&mut self) -> Result<ImageHeader, CannotContinue> {
        let at = self.here(Place::ImageHeader);
        let bytes: [u8; IMAGE_HEADER_LEN] = self.array(at)?;
        let header = self.header(at, bytes, ImageHeader::parse, |error, bytes| {
            match error {
                HeaderError::Options(_) => bytes[16..18].fill(0),
                HeaderError::Reserved => bytes[18..].fill(0),
                _ => return false,
            }
            true
        })?;
        self.sink.image_header(&header);
        Ok(header)
    }

    /// Returns none for a kind of guest that the specification does not name: its records can still
    /// be told apart.
    fn domain_header(&mut self) -> Result<Option<DomainType>, CannotContinue> {
        let at = self.here(Place::DomainHeader);
        let bytes: [u8; DOMAIN_HEADER_LEN] = self.array(at)?;
        let unknown = std::cell::Cell::new(false);
        let header = self.header(at, bytes, DomainHeader::parse, |error, bytes| {
            match error {
                HeaderError::PageShift(_) => bytes[4..6].copy_from_slice(&12_u16.to_le_bytes()),
                HeaderError::Reserved => bytes[6..8].fill(0),
                HeaderError::DomainType(_) => {
                    unknown.set(true);
                    bytes[..4].copy_from_slice(&1_u32.to_le_bytes());
                }
                _ => return false,
            }
            true
        })?;
        if unknown.get() {
            return Ok(None);
        }
        self.sink.domain_header(&header);
        Ok(Some(header.domain_type))
    }

    fn libxc_record(&mut self, layout: &mut Layout) -> Result<RecordType, CannotContinue> {
        let at = self.here(Place::LibxcRecordHeader);
        let RecordHeader { record_type, length } = RecordHeader::parse(&self.array(at)?);
        let at = Location { place: Place::Libxc(record_type), ..at };
        self.sink.record(at, length);
        if let RecordType::Unknown(value) = record_type {
            self.check_framing(at, value, length)?;
            let optional = record_type.is_unknown_optional();
            self.find(
                at,
                if optional { Problem::UnknownOptional } else { Parsing::UnknownRecord.into() },
            );
        }
        layout.record(record_type, |problem| self.find(at, problem));
        if length > MAX_RECORD_LEN {
            self.find(
                at,
                BodyError::TooLong { length: length as usize, most: MAX_RECORD_LEN as usize },
            );
        }
        match record_type {
            RecordType::PageData => self.page_data(at, length)?,
            _ => self.libxc_body(at, record_type, length, layout)?,
        }
        self.padding(at, length)?;
        Ok(record_type)
    }

    fn libxc_body(
        &mut self,
        at: Location,
        record_type: RecordType,
        length: u32,
        layout: &mut Layout,
    ) -> Result<(), CannotContinue> {
        if length > MOST_BODY {
            return self.long_body(at, record_type, length);
        }
        self.collect(at, length)?;
        let body = std::mem::take(&mut self.body);
        match Body::parse(record_type, &body) {
            Ok(parsed) => {
                layout.body(&parsed).into_iter().for_each(|problem| self.find(at, problem))
            }
            Err(error) => {
                self.find(at, error);
                self.vcpu_reserved(at, record_type, &body, error);
            }
        }
        self.body = body;
        Ok(())
    }

    /// The parser reports only the first violation, which for a vCPU's state is its length.
    fn vcpu_reserved(
        &mut self,
        at: Location,
        record_type: RecordType,
        body: &[u8],
        first: BodyError,
    ) {
        use RecordType as T;
        let vcpu = matches!(
            record_type,
            T::X86PvVcpuBasic | T::X86PvVcpuExtended | T::X86PvVcpuXsave | T::X86PvVcpuMsrs
        );
        let reserved = body.get(4..8).map_or(0, |word| {
            word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
        });
        if vcpu && reserved != 0 && !matches!(first, BodyError::Reserved { .. }) {
            self.find(at, BodyError::Reserved { field: "the vCPU header", value: reserved });
        }
    }

    /// Checks the length of a body that is too long to be kept, and reports if it has contents that
    /// should have been checked.
    fn long_body(
        &mut self,
        at: Location,
        record_type: RecordType,
        length: u32,
    ) -> Result<(), CannotContinue> {
        match (RecordHeader { record_type, length }).check_length() {
            // Reported already.
            _ if length > MAX_RECORD_LEN => {}
            // The specification has no rules for the contents.
            Ok(()) if matches!(record_type, RecordType::HvmContext | RecordType::Unknown(_)) => {}
            Ok(()) => self.find(at, Problem::NotLookedAt { length }),
            Err(error) => self.find(at, error),
        }
        self.skip(at, length.into())
    }
}
