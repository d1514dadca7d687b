//! The guest's clock and CPU policy.

use super::body::{BodyError, check_entries, check_reserved};
use crate::bytes::{le32, le64};

/// X86_TSC_INFO, as `XEN_DOMCTL_gettscinfo` gives it: u32 mode, u32 kHz, u64 ns, u32 incarnation,
/// u32 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscInfo {
    /// `TSC_MODE_*`.
    pub mode: u32,
    /// Frequency in kHz.
    pub khz: u32,
    /// Elapsed time in nanoseconds.
    pub nsec: u64,
    /// How often the TSC's parameters have changed.
    pub incarnation: u32,
}

impl TscInfo {
    /// Length of the body.
    pub const LEN: usize = 24;

    /// Parses a body.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        if body.len() != Self::LEN {
            return Err(BodyError::Length { length: body.len(), expected: Self::LEN as u64 });
        }
        check_reserved("X86_TSC_INFO", le32(body, 20).into())?;
        Ok(Self {
            mode: le32(body, 0),
            khz: le32(body, 4),
            nsec: le64(body, 8),
            incarnation: le32(body, 16),
        })
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.mode.to_le_bytes());
        out.extend_from_slice(&self.khz.to_le_bytes());
        out.extend_from_slice(&self.nsec.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }
}

/// A CPUID leaf (`xen_cpuid_leaf_t`): six u32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// EAX that selects it.
    pub leaf: u32,
    /// ECX that selects it, or `0xffffffff` for a leaf that has no subleaves.
    pub subleaf: u32,
    /// EAX, EBX, ECX, EDX.
    pub registers: [u32; 4],
}

/// X86_CPUID_POLICY: one leaf or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidPolicy<'a> {
    entries: &'a [u8],
}

impl<'a> CpuidPolicy<'a> {
    /// Length of an entry.
    pub const ENTRY_LEN: usize = 24;

    /// Parses a body.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        check_entries(body.len(), 0, Self::ENTRY_LEN)?;
        if body.is_empty() {
            return Err(BodyError::TooShort { length: 0, least: Self::ENTRY_LEN });
        }
        Ok(Self { entries: body })
    }

    /// The leaves.
    pub fn leaves(&self) -> impl ExactSizeIterator<Item = CpuidLeaf> + use<'a> {
        self.entries.chunks_exact(Self::ENTRY_LEN).map(|entry| CpuidLeaf {
            leaf: le32(entry, 0),
            subleaf: le32(entry, 4),
            registers: [8, 12, 16, 20].map(|at| le32(entry, at)),
        })
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.entries);
    }
}

/// An MSR of the policy (`xen_msr_entry_t`): u32 index, u32 flags (0), u64 value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrEntry {
    /// Which MSR.
    pub index: u32,
    /// What it holds.
    pub value: u64,
}

/// X86_MSR_POLICY: one MSR or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrPolicy<'a> {
    entries: &'a [u8],
}

impl<'a> MsrPolicy<'a> {
    /// Length of an entry.
    pub const ENTRY_LEN: usize = 16;

    /// Parses a body.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        check_entries(body.len(), 0, Self::ENTRY_LEN)?;
        if body.is_empty() {
            return Err(BodyError::TooShort { length: 0, least: Self::ENTRY_LEN });
        }
        for entry in body.chunks_exact(Self::ENTRY_LEN) {
            check_reserved("an MSR's flags", le32(entry, 4).into())?;
        }
        Ok(Self { entries: body })
    }

    /// The MSRs.
    pub fn msrs(&self) -> impl ExactSizeIterator<Item = MsrEntry> + use<'a> {
        self.entries
            .chunks_exact(Self::ENTRY_LEN)
            .map(|entry| MsrEntry { index: le32(entry, 0), value: le64(entry, 8) })
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.entries);
    }
}
