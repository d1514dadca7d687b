//! Writes a synthetic save file to standard output: `make-stream MIB [MIB-DIRTIED-AGAIN]`.
//!
//! A PVH guest of so many MiB: of 8 pages 3 are zero, 1 is like others, 4 are like no other; then a
//! pass that sends some of it again. For benchmarks and for bounds of memory, not for evidence
//! about guests.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Write, stdout};

use migrate_stream::libxc::{
    DomainHeader, DomainType, PAGE_SIZE, Page, PageEntry, PageType, RecordType, TscInfo,
};
use migrate_stream::writer;

const PAGES_PER_MIB: u64 = 256;
const BATCH: u64 = 1024;

fn main() -> anyhow::Result<()> {
    let mut sizes = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let mib = sizes.next().transpose()?.unwrap_or(64);
    let again = sizes.next().transpose()?.unwrap_or(0);
    let mut out = stdout().lock();
    out.write_all(&head(mib)?)?;
    let mut contents = vec![[0; PAGE_SIZE]; BATCH as usize];
    noise(&mut contents);
    for (generation, pages) in [mib, again].map(|mib| mib * PAGES_PER_MIB).into_iter().enumerate() {
        for first in (0..pages).step_by(BATCH as usize) {
            out.write_all(&batch(
                generation as u64,
                first,
                pages.min(first + BATCH),
                &mut contents,
            )?)?;
        }
    }
    out.write_all(&tail()?)?;
    Ok(())
}

fn noise(contents: &mut [[u8; PAGE_SIZE]]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in contents.iter_mut().flat_map(|page| page.chunks_exact_mut(8)) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Half of the bytes, so that there is something to compress.
        word.copy_from_slice(&(state & 0x00ff_00ff_00ff_00ff).to_le_bytes());
    }
}

fn head(mib: u64) -> anyhow::Result<Vec<u8>> {
    let mut head = Vec::new();
    let config = format!(
        r#"{{"c_info":{{"type":"pvh","name":"synthetic"}},"b_info":{{"max_memkb":{}}}}}"#,
        mib * 1024
    );
    writer::xl_header(&mut head, &config)?;
    writer::libxl_header(&mut head);
    writer::libxc_context(&mut head);
    writer::image_header(&mut head);
    writer::domain_header(
        &mut head,
        DomainHeader { domain_type: DomainType::Hvm, xen_major: 4, xen_minor: 17 },
    );
    writer::static_data_end(&mut head);
    Ok(head)
}

fn batch(
    generation: u64,
    first: u64,
    end: u64,
    contents: &mut [[u8; PAGE_SIZE]],
) -> anyhow::Result<Vec<u8>> {
    const ZERO: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
    const LIKE: [u8; PAGE_SIZE] = [0x5a; PAGE_SIZE];
    for (page, pfn) in contents.iter_mut().zip(first..) {
        page[..8].copy_from_slice(&pfn.to_le_bytes());
        page[8..16].copy_from_slice(&generation.to_le_bytes());
    }
    let pages: Vec<Page<'_>> = (first..end)
        .zip(contents.iter())
        .map(|(pfn, own)| {
            let contents = match pfn % 8 {
                0..=2 => &ZERO,
                3 => &LIKE,
                _ => own,
            };
            Page { entry: PageEntry { pfn, page_type: PageType::NoTab }, contents: Some(contents) }
        })
        .collect();
    let mut record = Vec::new();
    writer::page_data(&mut record, &pages)?;
    Ok(record)
}

fn tail() -> anyhow::Result<Vec<u8>> {
    let mut tail = Vec::new();
    writer::tsc_info(&mut tail, &TscInfo { mode: 0, khz: 1_000_000, nsec: 1, incarnation: 0 });
    writer::hvm_params(&mut tail, &[])?;
    writer::libxc_record(&mut tail, RecordType::HvmContext, &[0x5a; 3000])?;
    writer::libxc_end(&mut tail);
    writer::libxl_end(&mut tail);
    Ok(tail)
}
