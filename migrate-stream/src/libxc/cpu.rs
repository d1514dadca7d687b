//! Records of the guest's clock and CPU policy.

use super::error::{BodyError, check_entries, check_least, check_reserved};
use crate::fields::{Builder, Fields};

/// X86_TSC_INFO, as `XEN_DOMCTL_gettscinfo` gives it: u32 mode, u32 kHz, u64 ns, u32 incarnation,
/// u32 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscInfo {
    /// How Xen presents the TSC to the guest: `TSC_MODE_*`.
    pub mode: u32,
    /// Frequency of the guest's TSC in kHz.
    pub khz: u32,
    /// The guest's elapsed time in nanoseconds.
    pub nsec: u64,
    /// How often the TSC's parameters have changed.
    pub incarnation: u32,
}

impl TscInfo {
    /// Length of the body in bytes.
    pub const LEN: usize = 24;

    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let length = body.len();
        let Ok(body) = <&[u8; Self::LEN]>::try_from(body) else {
            return Err(BodyError::Length { length, expected: Self::LEN as u64 });
        };
        let fields = Fields(body);
        check_reserved("X86_TSC_INFO", fields.le32::<20>().into())?;
        Ok(Self {
            mode: fields.le32::<0>(),
            khz: fields.le32::<4>(),
            nsec: fields.le64::<8>(),
            incarnation: fields.le32::<16>(),
        })
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let body: [u8; Self::LEN] = Builder::new()
            .put::<0, 4>(self.mode.to_le_bytes())
            .put::<4, 4>(self.khz.to_le_bytes())
            .put::<8, 8>(self.nsec.to_le_bytes())
            .put::<16, 4>(self.incarnation.to_le_bytes())
            .bytes();
        out.extend_from_slice(&body);
    }
}

/// A CPUID leaf (`xen_cpuid_leaf_t`): six u32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// EAX that selects it.
    pub leaf: u32,
    /// ECX that selects it, or `0xffffffff` for a leaf that has no subleaves.
    pub subleaf: u32,
    /// What CPUID returns, in the order EAX, EBX, ECX, EDX.
    pub registers: [u32; 4],
}

/// X86_CPUID_POLICY: one leaf or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidPolicy<'a> {
    entries: &'a [[u8; CpuidPolicy::ENTRY_LEN]],
}

impl<'a> CpuidPolicy<'a> {
    /// Length of an entry in bytes.
    pub const ENTRY_LEN: usize = 24;

    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        Ok(Self { entries: entries(body)? })
    }

    pub fn leaves(&self) -> impl ExactSizeIterator<Item = CpuidLeaf> + use<'a> {
        self.entries.iter().map(|entry| {
            let fields = Fields(entry);
            let (eax, ebx) = (fields.le32::<8>(), fields.le32::<12>());
            let (ecx, edx) = (fields.le32::<16>(), fields.le32::<20>());
            CpuidLeaf {
                leaf: fields.le32::<0>(),
                subleaf: fields.le32::<4>(),
                registers: [eax, ebx, ecx, edx],
            }
        })
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.entries.as_flattened());
    }
}

/// An MSR of the policy (`xen_msr_entry_t`): u32 index, u32 flags (0), u64 value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrEntry {
    /// The MSR's number, as RDMSR takes it in ECX.
    pub index: u32,
    pub value: u64,
}

/// X86_MSR_POLICY: one MSR or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrPolicy<'a> {
    entries: &'a [[u8; MsrPolicy::ENTRY_LEN]],
}

impl<'a> MsrPolicy<'a> {
    /// Length of an entry in bytes.
    pub const ENTRY_LEN: usize = 16;

    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let entries = entries(body)?;
        for entry in entries {
            check_reserved("an MSR's flags", Fields(entry).le32::<4>().into())?;
        }
        Ok(Self { entries })
    }

    pub fn msrs(&self) -> impl ExactSizeIterator<Item = MsrEntry> + use<'a> {
        self.entries.iter().map(|entry| {
            let fields = Fields(entry);
            MsrEntry { index: fields.le32::<0>(), value: fields.le64::<8>() }
        })
    }

    /// Appends the body's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.entries.as_flattened());
    }
}

/// Splits a policy into its entries, of which it must have at least one.
fn entries<const N: usize>(body: &[u8]) -> Result<&[[u8; N]], BodyError> {
    check_entries(body.len(), 0, N)?;
    check_least(body.len(), N)?;
    Ok(body.as_chunks().0)
}
