//! A domain's CPU policy, as it travels.

use std::ptr::NonNull;

use crate::failure::Failure;
use crate::interface::Interface;

/// The domain's policy as the bodies of CPUID_POLICY and MSR_POLICY.
pub(crate) fn cpu_policy(xen: &Interface) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let (mut leaves, mut msrs) = (0, 0);
    // SAFETY: the handle is open and the places for the results valid.
    let rc = unsafe {
        xen.functions().xc_cpu_policy_get_size(xen.as_ptr(), &raw mut leaves, &raw mut msrs)
    };
    xen.check("XEN_SYSCTL_get_cpu_policy", rc)?;
    // SAFETY: no arguments.
    let raw = NonNull::new(unsafe { xen.functions().xc_cpu_policy_init() });
    let policy = CpuPolicy { xen, raw: raw.ok_or_else(|| xen.failure("CPU policy"))? };
    // SAFETY: handle and policy are live.
    let rc = unsafe {
        xen.functions().xc_cpu_policy_get_domain(xen.as_ptr(), xen.domid(), policy.raw.as_ptr())
    };
    xen.check("XEN_DOMCTL_get_cpu_policy", rc)?;
    policy.serialise(leaves, msrs)
}

/// A CPU policy of libxenguest's, freed on drop.
struct CpuPolicy<'a> {
    xen: &'a Interface,
    raw: NonNull<libxl_sys::xc_cpu_policy_t>,
}

impl CpuPolicy<'_> {
    fn serialise(&self, mut leaves: u32, mut msrs: u32) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let no_leaf = libxl_sys::xen_cpuid_leaf_t { leaf: 0, subleaf: 0, a: 0, b: 0, c: 0, d: 0 };
        let no_msr = libxl_sys::xen_msr_entry_t { idx: 0, flags: 0, val: 0 };
        let mut leaf = vec![no_leaf; leaves as usize];
        let mut msr = vec![no_msr; msrs as usize];
        let (xen, policy) = (self.xen, self.raw.as_ptr());
        let (leaf_at, msr_at) = (leaf.as_mut_ptr(), msr.as_mut_ptr());
        let (leaves_at, msrs_at) = (&raw mut leaves, &raw mut msrs);
        // SAFETY: both arrays have as many elements as their counts say; the counts are overwritten
        // with what was used.
        let rc = unsafe {
            xen.functions().xc_cpu_policy_serialise(
                xen.as_ptr(),
                policy,
                leaf_at,
                leaves_at,
                msr_at,
                msrs_at,
            )
        };
        xen.check("CPU policy", rc)?;
        let words = |leaf: &libxl_sys::xen_cpuid_leaf_t| {
            [leaf.leaf, leaf.subleaf, leaf.a, leaf.b, leaf.c, leaf.d]
        };
        let cpuid =
            leaf.iter().take(leaves as usize).flat_map(words).flat_map(u32::to_le_bytes).collect();
        let msr_bytes = |msr: &libxl_sys::xen_msr_entry_t| {
            [&msr.idx.to_le_bytes()[..], &msr.flags.to_le_bytes(), &msr.val.to_le_bytes()].concat()
        };
        Ok((cpuid, msr.iter().take(msrs as usize).flat_map(msr_bytes).collect()))
    }
}

impl Drop for CpuPolicy<'_> {
    fn drop(&mut self) {
        // SAFETY: made by xc_cpu_policy_init and not used afterwards.
        unsafe { self.xen.functions().xc_cpu_policy_destroy(self.raw.as_ptr()) };
    }
}
