//! Restores a PVH guest's memory and state: what libxenguest's `xc_domain_restore` does, inside
//! rxl.
//!
//! libxl attaches a domain's devices when its save helper has restored the memory, and for that
//! needs to know no more of the memory than the two pages through which the guest talks to
//! xenstored and xenconsoled. A stock restore therefore runs the hotplug scripts while the guest
//! stands still. Here libxl is told that the memory is there as soon as those two pages are:
//!
//! ```text
//!  source             MemoryRestore (session)            rxl-save-helper -> libxl
//!    |                  | libxl's header, LIBXC_CONTEXT --> | makes the domain, starts the helper
//!    | CPU policy ----> | set
//!    | STATIC_DATA_END> | special pages: populated,
//!    |                  | cleared, granted
//!    |                  | complete -----------------------> | END: introduces xenstored,
//!    | iterations ----> | into the guest's memory           | attaches devices, ends
//!    | suspend
//!    | last iteration > |
//!    | state, END ----> | set; the domain stands paused, complete
//! ```
//! Nothing reads or writes the guest's memory meanwhile: back ends wait for their front ends, which
//! come to life with the guest. The two pages are never written from the stream, as xenstored and
//! xenconsoled have them mapped by then; libxc clears them at the end (xg_sr_restore_x86_hvm.c:
//! handle_hvm_params), here they are cleared at the beginning.
//!
//! A page that the guest has given back at the source, or that broke there, is given back here too:
//! libxc keeps it, and a guest that takes as many elsewhere then has more than it may.
//!
//! Otherwise record for record as xg_sr_restore.c and xg_sr_restore_x86_hvm.c have it. Bytes come
//! from another host: all is bounded and checked, and what a PVH guest of the same rxl cannot have
//! sent is refused.

use migrate_stream::frame::MAX_DECODED;
use migrate_stream::libxc::{
    DomainType, HvmContext, HvmParam, HvmParams, PAGE_SIZE, Page, PageData, PageType, RecordHeader,
    RecordType, TscInfo,
};
use migrate_stream::libxl;
use migrate_stream::reader::{Event, Start, StreamReader};

use crate::Cause;
use rxl_core::domain::SpecialPages;

mod error;
mod populated;

pub use error::LoadError;
use populated::Populated;

/// HVM_PARAM_*, of Xen's public/hvm/params.h.
mod param {
    pub const STORE_PFN: u64 = 1;
    pub const STORE_EVTCHN: u64 = 2;
    pub const IOREQ_PFN: u64 = 5;
    pub const BUFIOREQ_PFN: u64 = 6;
    /// Obsolete; discarded as by libxc.
    pub const PAE_ENABLED: u64 = 4;
    pub const CONSOLE_PFN: u64 = 17;
    pub const CONSOLE_EVTCHN: u64 = 18;
}

/// Longest body that is put together from pieces, in bytes: as long as a frame. Records of pages
/// come whole, and the others are short.
const MAX_BODY: usize = MAX_DECODED as usize;

/// Flags that tell libxenguest's `static_data_done` what is missing (xenguest.h:
/// `XGR_SDD_MISSING_*`).
const MISSING_CPUID: u32 = 1;
const MISSING_MSR: u32 = 2;

/// Most page numbers that libxc and rxl put into one record (xg_sr_common.h: MAX_BATCH_SIZE).
const MAX_BATCH: usize = 1024;

/// Pages of a superpage of 2 MiB.
pub const SUPERPAGE: u64 = 512;

/// A page number, and the page's contents.
pub type Contents<'a> = (u64, &'a [u8; PAGE_SIZE]);

/// A domain that is being built, paused.
pub trait NewGuest: Send {
    /// Why Xen refused something. Displays as one line.
    type Error: Into<Cause>;

    /// Sets what its processors can do, from the bodies of X86_CPUID_POLICY and X86_MSR_POLICY.
    /// Either may be empty.
    fn set_cpu_policy(&mut self, cpuid: &[u8], msr: &[u8]) -> Result<(), Self::Error>;
    /// Gives it pages at these numbers, where there are none yet.
    fn populate(&mut self, pfns: &[u64]) -> Result<(), Self::Error>;
    /// Gives it [`SUPERPAGE`] pages in one piece from `first` on, which is a multiple of that.
    /// False when Xen has no such piece.
    fn populate_superpage(&mut self, first: u64) -> Result<bool, Self::Error>;
    /// Takes pages back that it has been given.
    fn give_back(&mut self, pfns: &[u64]) -> Result<(), Self::Error>;
    /// Writes contents into pages that it has been given.
    fn write(&mut self, pages: &[Contents<'_>]) -> Result<(), Self::Error>;
    /// Fills a page that it has with zeroes.
    fn clear(&mut self, pfn: u64) -> Result<(), Self::Error>;
    /// Lets xenstored and xenconsoled map their pages (xg_dom_boot.c: xc_dom_gnttab_seed).
    fn grant(&mut self, special: SpecialPages) -> Result<(), Self::Error>;
    /// Sets the time stamp counter.
    fn set_tsc_info(&mut self, tsc: &TscInfo) -> Result<(), Self::Error>;
    /// Sets one of Xen's HVM parameters.
    fn set_hvm_param(&mut self, param: HvmParam) -> Result<(), Self::Error>;
    /// Sets the processors and the platform's devices.
    fn set_hvm_context(&mut self, context: &[u8]) -> Result<(), Self::Error>;
    /// Lets other domains have what was claimed for it and it has not taken.
    fn end_claim(&mut self) -> Result<(), Self::Error>;
    /// Returns the guest's ends of the channels to xenstored and xenconsoled.
    fn event_channels(&self) -> EventChannels;
}

/// Event channels that libxl has made for the domain, as the guest's port numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventChannels {
    pub store: u32,
    pub console: u32,
}

/// Takes one libxl stream and builds one guest from it.
pub struct MemoryRestore<G> {
    guest: G,
    special: SpecialPages,
    /// Lets libxl go on. Its argument says what is missing of the CPU policy: `MISSING_*`.
    go_on: Box<dyn FnMut(u32) -> Result<(), Cause> + Send>,
    reader: StreamReader,
    record: Option<Record>,
    populated: Populated,
    cpuid: Vec<u8>,
    msr: Vec<u8>,
    context: Vec<u8>,
    /// Whether the special pages have been populated.
    begun: bool,
    params_seen: bool,
}

/// Pages of which each is named once, in ascending order.
#[derive(Default)]
struct Batch<'a> {
    last: Option<u64>,
    /// The guest has them, and is to have them no longer.
    gone: Vec<u64>,
    /// It is to have them, and does not have them yet.
    fresh: Vec<u64>,
    contents: Vec<Contents<'a>>,
}

/// A libxc record under way, and the pieces of its body where it did not come whole.
struct Record {
    header: RecordHeader,
    body: Vec<u8>,
}

impl<G: NewGuest> MemoryRestore<G> {
    /// `go_on` is called once, when libxl can attach the guest's devices.
    pub fn new<E: Into<Cause>>(
        guest: G,
        special: SpecialPages,
        mut go_on: impl FnMut(u32) -> Result<(), E> + Send + 'static,
    ) -> Self {
        Self {
            guest,
            special,
            go_on: Box::new(move |missing| go_on(missing).map_err(Into::into)),
            reader: StreamReader::new(Start::Libxl),
            record: None,
            populated: Populated::default(),
            cpuid: Vec::new(),
            msr: Vec::new(),
            context: Vec::new(),
            begun: false,
            params_seen: false,
        }
    }

    /// Takes the stream's next bytes, any number of them.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), LoadError> {
        while let Some(event) = self.reader.next(&mut bytes)? {
            self.event(event)?;
        }
        if bytes.is_empty() { Ok(()) } else { Err(LoadError::Tail) }
    }

    /// Checks, after the last byte, that the stream was whole, and so the guest is.
    pub fn finish(&mut self) -> Result<(), LoadError> {
        self.reader.finish()?;
        self.guest.end_claim().map_err(LoadError::guest)
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), LoadError> {
        match event {
            Event::DomainHeader(header) if header.domain_type != DomainType::Hvm => {
                Err(LoadError::PvGuest)
            }
            Event::LibxlRecord { header, .. } => match header.record_type {
                libxl::RecordType::LibxcContext | libxl::RecordType::End => Ok(()),
                other => Err(LoadError::LibxlRecord(other)),
            },
            Event::LibxcRecord { header, .. } => {
                self.record = Some(Record { header, body: Vec::new() });
                Ok(())
            }
            Event::Body(piece) => self.piece(piece),
            Event::RecordEnd => self.end_record(),
            _ => Ok(()),
        }
    }

    /// Takes a piece of a record's body. A body that comes whole is not copied.
    fn piece(&mut self, piece: &[u8]) -> Result<(), LoadError> {
        let Some(mut record) = self.record.take() else { return Ok(()) };
        if piece.len() == record.header.length as usize {
            return self.apply(record.header.record_type, piece);
        }
        if record.body.len() + piece.len() > MAX_BODY {
            let RecordHeader { record_type, length } = record.header;
            return Err(LoadError::TooLong { record_type, length });
        }
        record.body.extend_from_slice(piece);
        self.record = Some(record);
        Ok(())
    }

    fn end_record(&mut self) -> Result<(), LoadError> {
        let Some(record) = self.record.take() else { return Ok(()) };
        self.apply(record.header.record_type, &record.body)
    }

    fn apply(&mut self, record_type: RecordType, body: &[u8]) -> Result<(), LoadError> {
        let bad = |error| LoadError::Body { record_type, error };
        match record_type {
            RecordType::X86CpuidPolicy => self.cpuid = body.to_vec(),
            RecordType::X86MsrPolicy => self.msr = body.to_vec(),
            RecordType::StaticDataEnd => self.begin()?,
            _ if !self.begun => return Err(LoadError::TooEarly(record_type)),
            RecordType::PageData => self.pages(&PageData::parse(body).map_err(bad)?)?,
            RecordType::X86TscInfo => {
                let tsc = TscInfo::parse(body).map_err(bad)?;
                self.guest.set_tsc_info(&tsc).map_err(LoadError::guest)?;
            }
            RecordType::HvmContext => {
                self.context = HvmContext::parse(body).map_err(bad)?.0.to_vec()
            }
            RecordType::HvmParams => self.params(&HvmParams::parse(body).map_err(bad)?)?,
            RecordType::End => self.complete()?,
            other if other.is_unknown_optional() => {}
            other => return Err(LoadError::Record(other)),
        }
        Ok(())
    }

    /// Makes the special pages and lets libxl go on, as all is known that does not change while
    /// the guest runs.
    fn begin(&mut self) -> Result<(), LoadError> {
        let missing = |bytes: &[u8], flag| if bytes.is_empty() { flag } else { 0 };
        if !(self.cpuid.is_empty() && self.msr.is_empty()) {
            self.guest.set_cpu_policy(&self.cpuid, &self.msr).map_err(LoadError::guest)?;
        }
        let SpecialPages { store, console } = self.special;
        if store == console {
            return Err(LoadError::SameSpecialPages(store));
        }
        self.guest.populate(&[store, console]).map_err(LoadError::guest)?;
        for pfn in [store, console] {
            self.populated.insert(pfn);
            self.guest.clear(pfn).map_err(LoadError::guest)?;
        }
        self.guest.grant(self.special).map_err(LoadError::guest)?;
        self.begun = true;
        let missing = missing(&self.cpuid, MISSING_CPUID) | missing(&self.msr, MISSING_MSR);
        (self.go_on)(missing).map_err(LoadError::Release)
    }

    /// A page number that does not follow the one before it, as none does of libxc's or rxl's, may
    /// have been named already: what was said of it is done first.
    fn pages(&mut self, record: &PageData<'_>) -> Result<(), LoadError> {
        if record.count() > MAX_BATCH {
            return Err(LoadError::TooManyPages { count: record.count(), most: MAX_BATCH });
        }
        let mut batch = Batch::default();
        for page in record.pages() {
            let pfn = page.entry.pfn;
            if batch.last.is_some_and(|last| pfn <= last) {
                self.do_batch(std::mem::take(&mut batch))?;
            }
            batch.last = Some(pfn);
            self.sort(&page, &mut batch)?;
        }
        self.do_batch(batch)
    }

    /// Puts a page where it belongs, and notes whether the guest has it then.
    fn sort<'b>(&mut self, page: &Page<'b>, batch: &mut Batch<'b>) -> Result<(), LoadError> {
        let pfn = page.entry.pfn;
        let special = pfn == self.special.store || pfn == self.special.console;
        match page.entry.page_type {
            PageType::NoTab | PageType::Xalloc => {
                if self.populated.insert(pfn) {
                    batch.fresh.push(pfn);
                }
            }
            PageType::Xtab | PageType::Broken => {
                if !special && self.populated.remove(pfn) {
                    batch.gone.push(pfn);
                }
            }
            PageType::Table { .. } => return Err(LoadError::PageTable(pfn)),
        }
        if let Some(bytes) = page.contents
            && !special
        {
            batch.contents.push((pfn, bytes));
        }
        Ok(())
    }

    /// What goes makes room for what comes.
    fn do_batch(&mut self, batch: Batch<'_>) -> Result<(), LoadError> {
        if !batch.gone.is_empty() {
            self.guest.give_back(&batch.gone).map_err(LoadError::guest)?;
        }
        self.populate(&batch.fresh)?;
        if batch.contents.is_empty() {
            return Ok(());
        }
        self.guest.write(&batch.contents).map_err(LoadError::guest)
    }

    /// Gives the guest new pages, in superpages where a whole one is asked for, as at the source:
    /// processors walk the guest's page tables faster then.
    fn populate(&mut self, fresh: &[u64]) -> Result<(), LoadError> {
        let mut single = Vec::new();
        let mut rest = fresh;
        while let Some(&first) = rest.first() {
            let whole = superpage_at(rest);
            let length = if whole { SUPERPAGE as usize } else { 1 };
            let (pfns, more) = rest.split_at(length);
            if !(whole && self.guest.populate_superpage(first).map_err(LoadError::guest)?) {
                single.extend_from_slice(pfns);
            }
            rest = more;
        }
        if single.is_empty() {
            return Ok(());
        }
        self.guest.populate(&single).map_err(LoadError::guest)
    }

    fn params(&mut self, params: &HvmParams<'_>) -> Result<(), LoadError> {
        self.params_seen = true;
        for HvmParam { index, value } in params.params() {
            let announced = match index {
                param::STORE_PFN => self.special.store,
                param::CONSOLE_PFN => self.special.console,
                param::PAE_ENABLED => continue,
                _ => value,
            };
            if value != announced {
                return Err(LoadError::Parameter { index, value, announced });
            }
            if matches!(index, param::IOREQ_PFN | param::BUFIOREQ_PFN) {
                self.guest.clear(value).map_err(LoadError::guest)?;
            }
            self.set_param(index, value)?;
        }
        Ok(())
    }

    fn set_param(&mut self, index: u64, value: u64) -> Result<(), LoadError> {
        self.guest.set_hvm_param(HvmParam { index, value }).map_err(LoadError::guest)
    }

    /// Does what xg_sr_restore_x86_hvm.c: x86_hvm_stream_complete does, but for the grants.
    fn complete(&mut self) -> Result<(), LoadError> {
        if self.context.is_empty() || !self.params_seen {
            return Err(LoadError::NoState);
        }
        let ports = self.guest.event_channels();
        self.set_param(param::STORE_EVTCHN, ports.store.into())?;
        self.set_param(param::CONSOLE_EVTCHN, ports.console.into())?;
        self.guest.set_hvm_context(&self.context).map_err(LoadError::guest)
    }
}

/// Whether a list of page numbers begins with all those of a superpage, in order.
fn superpage_at(pfns: &[u64]) -> bool {
    let (Some(run), Some(&first)) = (pfns.get(..SUPERPAGE as usize), pfns.first()) else {
        return false;
    };
    first.is_multiple_of(SUPERPAGE)
        && run.iter().zip(first..).all(|(pfn, expected)| *pfn == expected)
}

#[cfg(test)]
mod tests;
