//! Composes streams, by appending to a vector.
//!
//! A PVH guest's complete stream is [`libxl_header`], [`libxc_context`], [`image_header`],
//! [`domain_header`], the CPU policy, [`static_data_end`], any number of [`page_data`],
//! [`tsc_info`], HVM_CONTEXT, [`hvm_params`], [`libxc_end`], [`libxl_end`]. Nothing here checks
//! that order: [`crate::reader::StreamReader`] does.

use crate::fields;
use crate::libxc::{
    BodyError, DomainHeader, HvmParam, ImageHeader, MAX_RECORD_LEN, Page, PageEntry, RecordType,
    TscInfo,
};
use crate::{libxc, libxl, xl};

/// Appends xl's save header and the configuration (JSON text without NUL). Fails when the
/// configuration is too long or holds a NUL.
pub fn xl_header(out: &mut Vec<u8>, json: &str) -> Result<(), xl::XlError> {
    if json.contains('\0') {
        return Err(xl::XlError::NotTerminated);
    }
    let config_len = u32::try_from(json.len() + 1).unwrap_or(u32::MAX);
    let optional_data_len = config_len.saturating_add(4);
    if optional_data_len > xl::MAX_OPTIONAL_DATA {
        return Err(xl::XlError::TooLong(optional_data_len));
    }
    let mandatory_flags = xl::FLAG_JSON | xl::FLAG_STREAM_V2;
    let header = xl::Header { mandatory_flags, optional_flags: 0, optional_data_len };
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(&config_len.to_le_bytes());
    out.extend_from_slice(json.as_bytes());
    out.push(0);
    Ok(())
}

/// Appends the libxl stream's header.
pub fn libxl_header(out: &mut Vec<u8>) {
    out.extend_from_slice(&libxl::Header { legacy: false }.to_bytes());
}

/// Appends a libxl record with its padding. Fails when the body has 4 GiB or more.
pub fn libxl_record(
    out: &mut Vec<u8>,
    record_type: libxl::RecordType,
    body: &[u8],
) -> Result<(), BodyError> {
    let most = u32::MAX as usize;
    let length =
        u32::try_from(body.len()).map_err(|_| BodyError::TooLong { length: body.len(), most })?;
    out.extend_from_slice(&libxl::RecordHeader { record_type, length }.to_bytes());
    out.extend_from_slice(body);
    pad(out, length);
    Ok(())
}

/// Appends the record that ends a libxl stream.
pub fn libxl_end(out: &mut Vec<u8>) {
    let header = libxl::RecordHeader { record_type: libxl::RecordType::End, length: 0 };
    out.extend_from_slice(&header.to_bytes());
}

/// Appends LIBXC_CONTEXT, behind which the libxc stream begins.
pub fn libxc_context(out: &mut Vec<u8>) {
    let header = libxl::RecordHeader { record_type: libxl::RecordType::LibxcContext, length: 0 };
    out.extend_from_slice(&header.to_bytes());
}

/// Appends the image header of a version 3 libxc stream.
pub fn image_header(out: &mut Vec<u8>) {
    out.extend_from_slice(&ImageHeader { version: 3 }.to_bytes());
}

/// Appends the libxc stream's domain header.
pub fn domain_header(out: &mut Vec<u8>, header: DomainHeader) {
    out.extend_from_slice(&header.to_bytes());
}

/// Appends a libxc record with its padding. Fails when the type does not allow the body's length.
pub fn libxc_record(
    out: &mut Vec<u8>,
    record_type: RecordType,
    body: &[u8],
) -> Result<(), BodyError> {
    let most = MAX_RECORD_LEN as usize;
    let length =
        u32::try_from(body.len()).map_err(|_| BodyError::TooLong { length: body.len(), most })?;
    let header = libxc::RecordHeader { record_type, length };
    header.check_length()?;
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(body);
    pad(out, length);
    Ok(())
}

/// Appends STATIC_DATA_END, which version 3 demands before the first page.
pub fn static_data_end(out: &mut Vec<u8>) {
    let header = libxc::RecordHeader { record_type: RecordType::StaticDataEnd, length: 0 };
    out.extend_from_slice(&header.to_bytes());
}

/// Appends the record that ends a libxc stream.
pub fn libxc_end(out: &mut Vec<u8>) {
    let header = libxc::RecordHeader { record_type: RecordType::End, length: 0 };
    out.extend_from_slice(&header.to_bytes());
}

/// Appends a PAGE_DATA record. libxc writes at most 1024 pages a record. Fails when a page has
/// contents and its type has none, or the reverse; when there are no pages; and when there are so
/// many that the record would be longer than [`MAX_RECORD_LEN`].
pub fn page_data(out: &mut Vec<u8>, pages: &[Page<'_>]) -> Result<(), BodyError> {
    let mismatch = |page: &Page<'_>| page.contents.is_some() != page.entry.page_type.has_contents();
    if let Some(index) = pages.iter().position(mismatch) {
        return Err(BodyError::PageContents { index });
    }
    if pages.is_empty() {
        return Err(BodyError::Value { field: "count", value: 0 });
    }
    let contents = pages.iter().filter_map(|page| page.contents);
    let head_len = page_data_head_len(pages.len());
    let record_len = head_len + contents.clone().count() * libxc::PAGE_SIZE;
    let header = page_data_header(record_len)?;
    out.reserve(record_len);
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(&(pages.len() as u64).to_le_bytes());
    out.extend(pages.iter().flat_map(|page| page.entry.value().to_le_bytes()));
    contents.for_each(|page| out.extend_from_slice(page));
    Ok(())
}

/// Length in bytes of the part of a PAGE_DATA record before the contents, when it names so many
/// pages.
pub fn page_data_head_len(count: usize) -> usize {
    libxc::RECORD_HEADER_LEN + libxc::PageData::HEADER_LEN + count * 8
}

/// Completes a PAGE_DATA record in place: `record` holds the contents already, behind
/// [`page_data_head_len`] bytes into which this writes the header and the list. Fails when the
/// contents are not those of `entries`, when these are none, or too many for one record.
pub fn page_data_head(record: &mut [u8], entries: &[PageEntry]) -> Result<(), BodyError> {
    if entries.is_empty() {
        return Err(BodyError::Value { field: "count", value: 0 });
    }
    let contents =
        entries.iter().filter(|entry| entry.page_type.has_contents()).count() * libxc::PAGE_SIZE;
    let expected = page_data_head_len(entries.len()) + contents;
    if record.len() != expected {
        return Err(BodyError::Length { length: record.len(), expected: expected as u64 });
    }
    let header = page_data_header(record.len())?;
    let list = entries.iter().flat_map(|entry| entry.value().to_le_bytes());
    let head =
        header.to_bytes().into_iter().chain((entries.len() as u64).to_le_bytes()).chain(list);
    record.iter_mut().zip(head).for_each(|(place, byte)| *place = byte);
    Ok(())
}

/// The header of a PAGE_DATA record whose length, header included, is this. Fails when that is
/// longer than a record may be.
fn page_data_header(record_len: usize) -> Result<libxc::RecordHeader, BodyError> {
    let length = record_len.saturating_sub(libxc::RECORD_HEADER_LEN);
    let header = u32::try_from(length)
        .ok()
        .filter(|&length| length <= MAX_RECORD_LEN)
        .map(|length| libxc::RecordHeader { record_type: RecordType::PageData, length });
    header.ok_or(BodyError::TooLong { length, most: MAX_RECORD_LEN as usize })
}

/// Appends X86_TSC_INFO, the guest's clock.
pub fn tsc_info(out: &mut Vec<u8>, tsc: &TscInfo) {
    let header =
        libxc::RecordHeader { record_type: RecordType::X86TscInfo, length: TscInfo::LEN as u32 };
    out.extend_from_slice(&header.to_bytes());
    tsc.write(out);
}

/// Appends HVM_PARAMS. Fails when there are so many that the record would be longer than
/// [`MAX_RECORD_LEN`].
pub fn hvm_params(out: &mut Vec<u8>, params: &[HvmParam]) -> Result<(), BodyError> {
    let mut body = (params.len() as u64).to_le_bytes().to_vec();
    for param in params {
        body.extend_from_slice(&param.index.to_le_bytes());
        body.extend_from_slice(&param.value.to_le_bytes());
    }
    libxc_record(out, RecordType::HvmParams, &body)
}

fn pad(out: &mut Vec<u8>, length: u32) {
    out.resize(out.len() + usize::from(fields::padding(length)), 0);
}
