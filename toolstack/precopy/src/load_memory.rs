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
//! Otherwise record for record as xg_sr_restore.c and xg_sr_restore_x86_hvm.c have it. Bytes come
//! from another host: all is bounded and checked, and what a PVH guest of the same rxl cannot have
//! sent is refused.

use migrate_stream::frame::MAX_DECODED;
use migrate_stream::libxc::{
    BodyError, DomainType, HvmContext, HvmParam, HvmParams, PAGE_SIZE, PageData, PageType,
    RecordHeader, RecordType, TscInfo,
};
use migrate_stream::libxl;
use migrate_stream::reader::{Event, Start, StreamReader};

use rxl_core::domain::SpecialPages;

mod populated;

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

/// What xc_sr's `static_data_done` is told is missing (xenguest.h: `XGR_SDD_MISSING_*`).
const MISSING_CPUID: u32 = 1;
const MISSING_MSR: u32 = 2;

/// Page numbers in a record: the most that libxc and rxl put there (xg_sr_common.h:
/// MAX_BATCH_SIZE).
const MAX_BATCH: usize = 1024;

/// Pages of a superpage of 2 MiB.
pub const SUPERPAGE: u64 = 512;

/// A page number, and what is behind it.
pub type Contents<'a> = (u64, &'a [u8; PAGE_SIZE]);

/// A domain that is being built, paused. Errors are one line.
pub trait NewGuest: Send {
    /// Sets what its processors can do: the bodies of X86_CPUID_POLICY and X86_MSR_POLICY, either
    /// of which may be empty.
    fn set_cpu_policy(&mut self, cpuid: &[u8], msr: &[u8]) -> Result<(), String>;
    /// Gives it pages at these numbers, where there are none yet.
    fn populate(&mut self, pfns: &[u64]) -> Result<(), String>;
    /// Gives it [`SUPERPAGE`] pages in one piece from this number on, a multiple of that. False
    /// when Xen has none.
    fn populate_superpage(&mut self, first: u64) -> Result<bool, String>;
    /// Fills pages that it has.
    fn write(&mut self, pages: &[Contents<'_>]) -> Result<(), String>;
    /// Fills a page that it has with zeroes.
    fn clear(&mut self, pfn: u64) -> Result<(), String>;
    /// Lets xenstored and xenconsoled map their pages (xg_dom_boot.c: xc_dom_gnttab_seed).
    fn grant(&mut self, special: SpecialPages) -> Result<(), String>;
    /// Sets the time stamp counter.
    fn set_tsc_info(&mut self, tsc: &TscInfo) -> Result<(), String>;
    /// Sets a parameter.
    fn set_hvm_param(&mut self, param: HvmParam) -> Result<(), String>;
    /// Sets the processors and the platform's devices.
    fn set_hvm_context(&mut self, context: &[u8]) -> Result<(), String>;
    /// The guest's ends of the channels to xenstored and xenconsoled.
    fn event_channels(&self) -> EventChannels;
}

/// Ports that libxl has made for the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventChannels {
    /// To xenstored.
    pub store: u32,
    /// To xenconsoled.
    pub console: u32,
}

/// Takes one libxl stream and builds one guest from it.
pub struct MemoryRestore<G> {
    guest: G,
    special: SpecialPages,
    /// Lets libxl go on, with what is missing of the CPU policy.
    go_on: Box<dyn FnMut(u32) -> Result<(), String> + Send>,
    reader: StreamReader,
    record: Option<Record>,
    populated: Populated,
    cpuid: Vec<u8>,
    msr: Vec<u8>,
    context: Vec<u8>,
    /// The special pages are there.
    begun: bool,
    params_seen: bool,
}

/// A libxc record under way, and the pieces of its body where it did not come whole.
struct Record {
    header: RecordHeader,
    body: Vec<u8>,
}

impl<G: NewGuest> MemoryRestore<G> {
    /// `go_on` is called once, when libxl can attach the guest's devices.
    pub fn new(
        guest: G,
        special: SpecialPages,
        go_on: impl FnMut(u32) -> Result<(), String> + Send + 'static,
    ) -> Self {
        Self {
            guest,
            special,
            go_on: Box::new(go_on),
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

    /// Takes the next bytes.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(event) = self.reader.next(&mut bytes).map_err(|e| e.to_string())? {
            self.event(event)?;
        }
        if bytes.is_empty() { Ok(()) } else { Err("bytes after the stream's end".into()) }
    }

    /// After the last byte: the guest is complete.
    pub fn finish(&mut self) -> Result<(), String> {
        self.reader.finish().map_err(|e| e.to_string())
    }

    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::DomainHeader(header) if header.domain_type != DomainType::Hvm => {
                Err("the stream of a PV guest, for a domain that is none".into())
            }
            Event::LibxlRecord { header, .. } => match header.record_type {
                libxl::RecordType::LibxcContext | libxl::RecordType::End => Ok(()),
                other => Err(format!("record {other:?}, which no PVH guest has")),
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

    /// A body that comes whole is not copied.
    fn piece(&mut self, piece: &[u8]) -> Result<(), String> {
        let Some(mut record) = self.record.take() else { return Ok(()) };
        if piece.len() == record.header.length as usize {
            return self.apply(record.header.record_type, piece);
        }
        if record.body.len() + piece.len() > MAX_BODY {
            return Err(format!(
                "{:?} of {} bytes in pieces",
                record.header.record_type, record.header.length
            ));
        }
        record.body.extend_from_slice(piece);
        self.record = Some(record);
        Ok(())
    }

    fn end_record(&mut self) -> Result<(), String> {
        let Some(record) = self.record.take() else { return Ok(()) };
        self.apply(record.header.record_type, &record.body)
    }

    fn apply(&mut self, record_type: RecordType, body: &[u8]) -> Result<(), String> {
        let bad = |error: BodyError| format!("{record_type:?}: {error}");
        match record_type {
            RecordType::X86CpuidPolicy => self.cpuid = body.to_vec(),
            RecordType::X86MsrPolicy => self.msr = body.to_vec(),
            RecordType::StaticDataEnd => self.begin()?,
            _ if !self.begun => return Err(format!("{record_type:?} before STATIC_DATA_END")),
            RecordType::PageData => self.pages(&PageData::parse(body).map_err(bad)?)?,
            RecordType::X86TscInfo => {
                self.guest.set_tsc_info(&TscInfo::parse(body).map_err(bad)?)?
            }
            RecordType::HvmContext => {
                self.context = HvmContext::parse(body).map_err(bad)?.0.to_vec()
            }
            RecordType::HvmParams => self.params(&HvmParams::parse(body).map_err(bad)?)?,
            RecordType::End => self.complete()?,
            other if other.is_unknown_optional() => {}
            other => {
                return Err(format!("record {other:?}, which rxl's own restore does not know"));
            }
        }
        Ok(())
    }

    /// All that does not change while the guest runs is known: the special pages are made, and
    /// libxl may go on.
    fn begin(&mut self) -> Result<(), String> {
        let missing = |bytes: &[u8], flag| if bytes.is_empty() { flag } else { 0 };
        if !(self.cpuid.is_empty() && self.msr.is_empty()) {
            self.guest.set_cpu_policy(&self.cpuid, &self.msr)?;
        }
        let SpecialPages { store, console } = self.special;
        if store == console {
            return Err(format!("xenstore's and the console's page are both {store:#x}"));
        }
        self.guest.populate(&[store, console])?;
        for pfn in [store, console] {
            self.populated.insert(pfn);
            self.guest.clear(pfn)?;
        }
        self.guest.grant(self.special)?;
        self.begun = true;
        (self.go_on)(missing(&self.cpuid, MISSING_CPUID) | missing(&self.msr, MISSING_MSR))
    }

    fn pages(&mut self, record: &PageData<'_>) -> Result<(), String> {
        if record.count() > MAX_BATCH {
            return Err(format!(
                "PAGE_DATA of {} page numbers, at most {MAX_BATCH} are expected",
                record.count()
            ));
        }
        let mut fresh = Vec::new();
        let mut contents = Vec::with_capacity(record.contents_count());
        for page in record.pages() {
            let pfn = page.entry.pfn;
            match page.entry.page_type {
                PageType::NoTab | PageType::Xalloc => {
                    if self.populated.insert(pfn) {
                        fresh.push(pfn);
                    }
                }
                PageType::Xtab | PageType::Broken => {}
                PageType::Table { .. } => {
                    return Err(format!("page {pfn:#x} is a PV guest's page table"));
                }
            }
            if let Some(bytes) = page.contents
                && pfn != self.special.store
                && pfn != self.special.console
            {
                contents.push((pfn, bytes));
            }
        }
        self.populate(fresh)?;
        if contents.is_empty() { Ok(()) } else { self.guest.write(&contents) }
    }

    /// In superpages where a whole one is asked for, as at the source: the guest's page tables are
    /// walked faster then.
    fn populate(&mut self, fresh: Vec<u64>) -> Result<(), String> {
        let mut single = Vec::new();
        let mut rest = &fresh[..];
        while let Some(&first) = rest.first() {
            let run = superpage_at(rest);
            if run && self.guest.populate_superpage(first)? {
                rest = &rest[SUPERPAGE as usize..];
            } else {
                let length = if run { SUPERPAGE as usize } else { 1 };
                single.extend_from_slice(&rest[..length]);
                rest = &rest[length..];
            }
        }
        if single.is_empty() { Ok(()) } else { self.guest.populate(&single) }
    }

    fn params(&mut self, params: &HvmParams<'_>) -> Result<(), String> {
        self.params_seen = true;
        for HvmParam { index, value } in params.params() {
            let expected = match index {
                param::STORE_PFN => self.special.store,
                param::CONSOLE_PFN => self.special.console,
                param::PAE_ENABLED => continue,
                _ => value,
            };
            if value != expected {
                return Err(format!(
                    "parameter {index} is {value:#x}, it was announced as {expected:#x}"
                ));
            }
            if matches!(index, param::IOREQ_PFN | param::BUFIOREQ_PFN) {
                self.guest.clear(value)?;
            }
            self.guest.set_hvm_param(HvmParam { index, value })?;
        }
        Ok(())
    }

    /// xg_sr_restore_x86_hvm.c: x86_hvm_stream_complete, but for the grants.
    fn complete(&mut self) -> Result<(), String> {
        if self.context.is_empty() || !self.params_seen {
            return Err("the stream ends without the guest's state".into());
        }
        let ports = self.guest.event_channels();
        self.guest
            .set_hvm_param(HvmParam { index: param::STORE_EVTCHN, value: ports.store.into() })?;
        self.guest.set_hvm_param(HvmParam {
            index: param::CONSOLE_EVTCHN,
            value: ports.console.into(),
        })?;
        self.guest.set_hvm_context(&self.context)
    }
}

/// Whether a list of page numbers begins with all those of a superpage, in order.
fn superpage_at(pfns: &[u64]) -> bool {
    let Some(run) = pfns.get(..SUPERPAGE as usize) else { return false };
    let first = run[0];
    first.is_multiple_of(SUPERPAGE)
        && run.iter().zip(first..).all(|(pfn, expected)| *pfn == expected)
}

#[cfg(test)]
mod tests;
