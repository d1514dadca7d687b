//! Composes streams, by appending to a vector.
//!
//! A PVH guest's complete stream: [`libxl_header`], [`libxl_record`] LIBXC_CONTEXT,
//! [`image_header`], [`domain_header`], the CPU policy, STATIC_DATA_END, any number of
//! [`page_data`], X86_TSC_INFO, HVM_CONTEXT, HVM_PARAMS, [`libxc_end`], [`libxl_end`]. Nothing here
//! checks that order: [`crate::reader::StreamReader`] does.

use crate::bytes;
use crate::libxc::{
    BodyError, DomainHeader, HvmParam, ImageHeader, MAX_RECORD_LEN, Page, PageEntry, RecordType,
    TscInfo,
};
use crate::{libxc, libxl, xl};

/// Appends xl's save header and the configuration (JSON text without NUL). An error when it is too
/// long or holds a NUL.
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

/// Appends a libxl record with its padding. An error when the body is of 4 GiB or more.
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

/// Appends libxl's END.
pub fn libxl_end(out: &mut Vec<u8>) {
    out.extend_from_slice(
        &libxl::RecordHeader { record_type: libxl::RecordType::End, length: 0 }.to_bytes(),
    );
}

/// Appends the record after which the libxc stream begins.
pub fn libxc_context(out: &mut Vec<u8>) {
    let header = libxl::RecordHeader { record_type: libxl::RecordType::LibxcContext, length: 0 };
    out.extend_from_slice(&header.to_bytes());
}

/// Appends the image header of a version 3 stream.
pub fn image_header(out: &mut Vec<u8>) {
    out.extend_from_slice(&ImageHeader { version: 3 }.to_bytes());
}

/// Appends the domain header.
pub fn domain_header(out: &mut Vec<u8>, header: DomainHeader) {
    out.extend_from_slice(&header.to_bytes());
}

/// Appends a libxc record with its padding. An error when the type does not allow the body's
/// length.
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

/// Appends STATIC_DATA_END.
pub fn static_data_end(out: &mut Vec<u8>) {
    let header = libxc::RecordHeader { record_type: RecordType::StaticDataEnd, length: 0 };
    out.extend_from_slice(&header.to_bytes());
}

/// Appends libxc's END.
pub fn libxc_end(out: &mut Vec<u8>) {
    out.extend_from_slice(
        &libxc::RecordHeader { record_type: RecordType::End, length: 0 }.to_bytes(),
    );
}

/// Appends a PAGE_DATA record. An error when a page has contents and its type has none or the
/// reverse, when there are no pages, or so many that the record were longer than
/// [`MAX_RECORD_LEN`]. libxc writes at most 1024 pages a record.
pub fn page_data(out: &mut Vec<u8>, pages: &[Page<'_>]) -> Result<(), BodyError> {
    let mismatch = |page: &Page<'_>| page.contents.is_some() != page.entry.page_type.has_contents();
    if let Some(index) = pages.iter().position(mismatch) {
        return Err(BodyError::PageContents { index });
    }
    if pages.is_empty() {
        return Err(BodyError::Value { field: "count", value: 0 });
    }
    let contents = pages.iter().filter_map(|page| page.contents);
    let length = 8 + pages.len() * 8 + contents.clone().count() * libxc::PAGE_SIZE;
    let most = MAX_RECORD_LEN as usize;
    if length > most {
        return Err(BodyError::TooLong { length, most });
    }
    let header = libxc::RecordHeader { record_type: RecordType::PageData, length: length as u32 };
    out.reserve(libxc::RECORD_HEADER_LEN + length);
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(&(pages.len() as u64).to_le_bytes());
    out.extend(pages.iter().flat_map(|page| page.entry.value().to_le_bytes()));
    contents.for_each(|page| out.extend_from_slice(page));
    Ok(())
}

/// Bytes before the contents of a PAGE_DATA record that names so many pages.
pub fn page_data_head_len(count: usize) -> usize {
    libxc::RECORD_HEADER_LEN + libxc::PageData::HEADER_LEN + count * 8
}

/// Completes a PAGE_DATA record whose contents are there already, behind [`page_data_head_len`]
/// bytes for what is written now. An error when the pages have more or less contents than that,
/// when there are none, or too many for one record.
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
    let (length, most) = (record.len() - libxc::RECORD_HEADER_LEN, MAX_RECORD_LEN as usize);
    if length > most {
        return Err(BodyError::TooLong { length, most });
    }
    let header = libxc::RecordHeader { record_type: RecordType::PageData, length: length as u32 };
    let list = entries.iter().flat_map(|entry| entry.value().to_le_bytes());
    let head =
        header.to_bytes().into_iter().chain((entries.len() as u64).to_le_bytes()).chain(list);
    record.iter_mut().zip(head).for_each(|(place, byte)| *place = byte);
    Ok(())
}

/// Appends X86_TSC_INFO.
pub fn tsc_info(out: &mut Vec<u8>, tsc: &TscInfo) {
    let header =
        libxc::RecordHeader { record_type: RecordType::X86TscInfo, length: TscInfo::LEN as u32 };
    out.extend_from_slice(&header.to_bytes());
    tsc.write(out);
}

/// Appends HVM_PARAMS. An error when there are so many that the record were longer than
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
    out.resize(out.len() + usize::from(bytes::padding(length)), 0);
}
