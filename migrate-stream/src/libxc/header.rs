//! The image header and the domain header, which come before the records.

use crate::fields::{Builder, Fields};

/// The first eight bytes of an image.
pub const MARKER: u64 = u64::MAX;

/// `XENF`, which follows the marker.
pub const IDENT: u32 = 0x5845_4e46;

/// The versions that are parsed. Version 2 is that of Xen 4.6 to 4.13.
pub const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;

/// Length of the image header in bytes.
pub const IMAGE_HEADER_LEN: usize = 24;

/// Length of the domain header in bytes.
pub const DOMAIN_HEADER_LEN: usize = 16;

/// Page shift of x86, the only value that the domain header may hold: pages of 4 KiB.
const PAGE_SHIFT: u16 = 12;

/// Why an image or domain header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The image does not begin with [`MARKER`]: it is of the legacy format, or no image.
    #[error("marker {0:#018x}, expected all ones")]
    Marker(u64),
    #[error("id {0:#010x}, expected \"XENF\"")]
    Ident(u32),
    /// The version is not in [`VERSIONS`].
    #[error("version {0}, expected 2 or 3")]
    Version(u32),
    #[error("big-endian records, which are not supported")]
    BigEndian,
    /// Option bits other than that for the byte order are set.
    #[error("reserved options {0:#x}")]
    Options(u16),
    #[error("reserved bytes are not zero")]
    Reserved,
    #[error("domain type {0:#x}, expected 1 (x86 PV) or 2 (x86 HVM)")]
    DomainType(u32),
    /// The guest's pages are not of 4 KiB.
    #[error("page shift {0}, expected 12")]
    PageShift(u16),
}

/// The image header: marker, ident, version and options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// The stream's version, one of [`VERSIONS`].
    pub version: u32,
}

impl ImageHeader {
    /// Parses a header and checks every field.
    pub fn parse(bytes: &[u8; IMAGE_HEADER_LEN]) -> Result<Self, HeaderError> {
        let fields = Fields(bytes);
        let (marker, ident, version) =
            (fields.be64::<0>(), fields.be32::<8>(), fields.be32::<12>());
        if marker != MARKER {
            return Err(HeaderError::Marker(marker));
        }
        if ident != IDENT {
            return Err(HeaderError::Ident(ident));
        }
        if !VERSIONS.contains(&version) {
            return Err(HeaderError::Version(version));
        }
        match fields.be16::<16>() {
            0 => {}
            options if options & 1 != 0 => return Err(HeaderError::BigEndian),
            options => return Err(HeaderError::Options(options)),
        }
        if fields.array::<18, 6>() != [0; 6] {
            return Err(HeaderError::Reserved);
        }
        Ok(Self { version })
    }

    pub fn to_bytes(&self) -> [u8; IMAGE_HEADER_LEN] {
        Builder::new()
            .put::<0, 8>(MARKER.to_be_bytes())
            .put::<8, 4>(IDENT.to_be_bytes())
            .put::<12, 4>(self.version.to_be_bytes())
            .bytes()
    }
}

/// How Xen runs the guest, as far as the stream tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainType {
    /// An x86 PV guest.
    Pv,
    /// An x86 HVM or PVH guest: the stream does not tell one from the other.
    Hvm,
}

/// The domain header: the guest's type and page size, and the Xen that saved it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainHeader {
    /// How Xen runs the guest.
    pub domain_type: DomainType,
    /// Xen's major version where the image was saved; 0 for one converted from the legacy format.
    pub xen_major: u32,
    /// Xen's minor version where the image was saved.
    pub xen_minor: u32,
}

impl DomainHeader {
    /// Parses a header and checks every field.
    pub fn parse(bytes: &[u8; DOMAIN_HEADER_LEN]) -> Result<Self, HeaderError> {
        let fields = Fields(bytes);
        let domain_type = match fields.le32::<0>() {
            1 => DomainType::Pv,
            2 => DomainType::Hvm,
            other => return Err(HeaderError::DomainType(other)),
        };
        match fields.le16::<4>() {
            PAGE_SHIFT => {}
            shift => return Err(HeaderError::PageShift(shift)),
        }
        if fields.le16::<6>() != 0 {
            return Err(HeaderError::Reserved);
        }
        Ok(Self { domain_type, xen_major: fields.le32::<8>(), xen_minor: fields.le32::<12>() })
    }

    pub fn to_bytes(&self) -> [u8; DOMAIN_HEADER_LEN] {
        let domain_type: u32 = match self.domain_type {
            DomainType::Pv => 1,
            DomainType::Hvm => 2,
        };
        Builder::new()
            .put::<0, 4>(domain_type.to_le_bytes())
            .put::<4, 2>(PAGE_SHIFT.to_le_bytes())
            .put::<8, 4>(self.xen_major.to_le_bytes())
            .put::<12, 4>(self.xen_minor.to_le_bytes())
            .bytes()
    }
}
