//! The cost of packing, unpacking and checking a PAGE_DATA record of 1024 pages, of which all, half
//! or none are zero, and of parsing small records.

// A test that panics is a test that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs)] // of what criterion_group! makes

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use migrate_stream::frame::pages::{is_zero, pack, scatter, unpack};
use migrate_stream::libxc::{DomainHeader, DomainType, PAGE_SIZE, Page, PageEntry, PageType};
use migrate_stream::reader::{Start, StreamReader};
use migrate_stream::writer;

const PAGES: u64 = 1024;

/// A record in which `zero_of_8` of 8 pages are zero and the others hold bytes that follow no
/// pattern.
fn record(zero_of_8: u64) -> Vec<u8> {
    let zero = [0; PAGE_SIZE];
    let mut noise = [0; PAGE_SIZE];
    let mut state = 1_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let pages: Vec<Page<'_>> = (0..PAGES)
        .map(|pfn| Page {
            entry: PageEntry { pfn, page_type: PageType::NoTab },
            contents: Some(if pfn % 8 < zero_of_8 { &zero } else { &noise }),
        })
        .collect();
    let mut out = Vec::new();
    writer::page_data(&mut out, &pages).expect("pages have contents");
    out
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("page-data");
    for zero_of_8 in [8, 4, 0] {
        let record = record(zero_of_8);
        let name = |what| BenchmarkId::new(what, format!("{zero_of_8}/8 zero"));
        group.throughput(Throughput::Bytes(record.len() as u64));
        let (mut packed, mut rebuilt) = (Vec::new(), Vec::new());
        group.bench_function(name("zero-test"), |bencher| {
            bencher.iter(|| {
                black_box(&record).chunks_exact(PAGE_SIZE).filter(|page| is_zero(page)).count()
            });
        });
        group.bench_function(name("crc32"), |bencher| {
            bencher.iter(|| crc32fast::hash(black_box(&record)))
        });
        group.bench_function(name("pack"), |bencher| {
            bencher.iter(|| {
                packed.clear();
                pack(black_box(&record), &mut packed)
            });
        });
        group.bench_function(name("scatter"), |bencher| {
            bencher.iter(|| scatter(black_box(&record)))
        });
        group.bench_function(name("unpack"), |bencher| {
            bencher.iter(|| {
                rebuilt.clear();
                unpack(black_box(&packed), record.len() as u32, &mut rebuilt)
            });
        });
    }
    group.finish();
}

/// Measures the parser alone, on a stream of small records.
fn reader(criterion: &mut Criterion) {
    let mut stream = Vec::new();
    writer::image_header(&mut stream);
    let header = DomainHeader { domain_type: DomainType::Hvm, xen_major: 4, xen_minor: 17 };
    writer::domain_header(&mut stream, header);
    writer::static_data_end(&mut stream);
    let records = 10_000;
    let hole = Page { entry: PageEntry { pfn: 0, page_type: PageType::Xtab }, contents: None };
    for _ in 0..records {
        writer::page_data(&mut stream, &[hole]).expect("a hole has no contents");
    }
    let mut group = criterion.benchmark_group("reader");
    group.throughput(Throughput::Elements(records));
    group.bench_function("small records", |bencher| {
        bencher.iter(|| {
            let (mut reader, mut input) =
                (StreamReader::new(Start::Libxc), black_box(stream.as_slice()));
            while reader.next(&mut input).is_ok_and(|event| event.is_some()) {}
            assert!(input.is_empty());
        });
    });
    group.finish();
}

criterion_group!(benches, frames, reader);
criterion_main!(benches);
