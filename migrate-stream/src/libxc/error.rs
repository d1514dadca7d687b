//! What can be wrong with a record's body, and the checks that several types of body share.

/// What is wrong with a record's body. Lengths are in bytes and do not count padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body has not the one length that its type, or the counts in it, allow.
    #[error("length {length}, expected {expected}")]
    Length { length: usize, expected: u64 },
    /// The body is shorter than any body of its type.
    #[error("length {length}, expected at least {least}")]
    TooShort { length: usize, least: usize },
    /// The body is longer than any body of its type.
    #[error("length {length}, at most {most} is allowed")]
    TooLong { length: usize, most: usize },
    /// The body is not a whole number of entries behind its fixed part.
    #[error("length {length} is not {fixed} and a multiple of {entry}")]
    Entries {
        length: usize,
        /// Length of the part before the entries.
        fixed: usize,
        /// Length of one entry.
        entry: usize,
    },
    /// A reserved field, or reserved bits of a field, are not zero.
    #[error("reserved bits of {field} are {value:#x}, expected 0")]
    Reserved { field: &'static str, value: u64 },
    /// A field holds a value that the format does not allow.
    #[error("{field} is {value}, which is not allowed")]
    Value { field: &'static str, value: u64 },
    /// Reserved bits are set in a pfn of PAGE_DATA.
    #[error("reserved bits set in pfn[{index}], {entry:#018x}")]
    PfnReserved {
        /// The pfn's place in the list, from 0.
        index: usize,
        /// The whole entry: type, reserved bits and pfn.
        entry: u64,
    },
    /// A pfn of PAGE_DATA has a page type that the format does not have.
    #[error("page type {page_type:#x} of pfn[{index}] is not known")]
    PageType {
        /// The pfn's place in the list, from 0.
        index: usize,
        /// The four bits of the type.
        page_type: u8,
    },
    /// A page to be written has contents although its type has none, or the reverse.
    #[error("contents of pfn[{index}] do not go with its page type")]
    PageContents {
        /// The page's place in the list, from 0.
        index: usize,
    },
    /// The first pfn of a range is above its last.
    #[error("range of pfns from {start:#x} to {end:#x} is reversed")]
    Range { start: u32, end: u32 },
    #[error("strings are not NUL-terminated")]
    NotTerminated,
    /// A list of keys and values ends in a key without a value.
    #[error("{strings} strings, expected pairs")]
    OddStrings { strings: usize },
}

/// Checks that a body consists of a fixed part and whole entries.
pub(super) fn check_entries(length: usize, fixed: usize, entry: usize) -> Result<(), BodyError> {
    let Some(entries) = length.checked_sub(fixed) else {
        return Err(BodyError::TooShort { length, least: fixed });
    };
    if !entries.is_multiple_of(entry) {
        return Err(BodyError::Entries { length, fixed, entry });
    }
    Ok(())
}

/// Checks that a reserved field is 0.
pub(super) fn check_reserved(field: &'static str, value: u64) -> Result<(), BodyError> {
    if value != 0 {
        return Err(BodyError::Reserved { field, value });
    }
    Ok(())
}

pub(super) fn check_exact(length: usize, expected: usize) -> Result<(), BodyError> {
    if length != expected {
        return Err(BodyError::Length { length, expected: expected as u64 });
    }
    Ok(())
}

pub(super) fn check_least(length: usize, least: usize) -> Result<(), BodyError> {
    if length < least {
        return Err(BodyError::TooShort { length, least });
    }
    Ok(())
}
