//! What happens to one domain, told by libxl.

use std::ffi::CString;
use std::ptr::{NonNull, null, null_mut};

use crate::ao::{ALL_EVENTS, NO_USER};
use crate::context::Context;
use crate::domain::guest;
use crate::failure::Failure;
use crate::library::Library;
use rxl_core::shutdown::{DomainEvent, ShutdownReason};

/// Tells nothing: a context here waits for the events of one domain only.
const FOR_USER: u64 = 0;

/// The events of one domain, on a context of their own. What has happened already is told, too.
pub struct DomainEvents {
    // Its events end with it (libxl.c: libxl_ctx_free).
    context: Context,
    domid: u32,
    death: NonNull<libxl_sys::libxl_evgen_domain_death>,
}

impl DomainEvents {
    /// Begins to listen. `removable` are the guest's names of the disks whose medium it may eject.
    pub fn listen(library: Library, domid: u32, removable: &[&str]) -> Result<Self, Failure> {
        let domid = guest(domid)?;
        let context = Context::open(library)?;
        let death = enable_death(&context, domid)?;
        for disk in removable {
            enable_eject(&context, domid, disk)?;
        }
        Ok(Self { context, domid, death })
    }

    /// Waits until something happens to the domain, for as long as that takes. A medium that the
    /// guest ejects is taken out meanwhile.
    pub fn wait(&mut self) -> Result<DomainEvent, Failure> {
        loop {
            let event = self.next()?;
            let told = self.read(event);
            // SAFETY: libxl handed the event out on this context, and nothing refers to it now.
            unsafe { self.context.functions().libxl_event_free(self.context.as_ptr(), event) };
            match told {
                Some(DomainEvent::Shutdown(ShutdownReason::Suspend)) => {
                    self.listen_again()?;
                    return Ok(DomainEvent::Shutdown(ShutdownReason::Suspend));
                }
                Some(event) => return Ok(event),
                None => {}
            }
        }
    }

    fn next(&self) -> Result<*mut libxl_sys::libxl_event, Failure> {
        let mut event = null_mut();
        // SAFETY: the context is live; without a predicate there is no user pointer to keep.
        let rc = unsafe {
            self.context.functions().libxl_event_wait(
                self.context.as_ptr(),
                &raw mut event,
                ALL_EVENTS,
                None,
                NO_USER,
            )
        };
        self.context.check(rc).map(|()| event)
    }

    fn read(&self, event: *mut libxl_sys::libxl_event) -> Option<DomainEvent> {
        let mut code = -1;
        // SAFETY: libxl handed out a valid event, and the place for the code is valid.
        let is_shutdown =
            unsafe { libxl_sys::xlshim_event_is_shutdown(event, self.domid, &raw mut code) };
        if is_shutdown {
            return Some(DomainEvent::Shutdown(ShutdownReason::of_code(code)));
        }
        // SAFETY: as above.
        if unsafe { libxl_sys::xlshim_event_is_death(event, self.domid) } {
            return Some(DomainEvent::Death);
        }
        // SAFETY: as above.
        let disk = unsafe { libxl_sys::xlshim_event_ejected_disk(event, self.domid) };
        if let Some(disk) = NonNull::new(disk) {
            self.take_out(disk);
        }
        None
    }

    /// The guest's drive is empty: libxl is told so, as xl does.
    fn take_out(&self, disk: NonNull<libxl_sys::libxl_device_disk>) {
        // SAFETY: the context is live, and the disk is valid as long as its event, which the caller
        // frees. Without a `how` the call returns when it is done.
        let rc = unsafe {
            self.context.functions().libxl_cdrom_insert(
                self.context.as_ptr(),
                self.domid,
                disk.as_ptr(),
                null(),
            )
        };
        if let Err(failure) = self.context.check(rc) {
            tracing::warn!("domain {}: its ejected medium: {failure}", self.domid);
        }
    }

    /// libxl tells of one shutdown only. The new event is enabled before the old one is disabled:
    /// with none left libxl would give its watch up, and a new watch tells at once of the domain
    /// that still stands still (libxl_domain.c: domain_death_xswatch_callback).
    fn listen_again(&mut self) -> Result<(), Failure> {
        let again = enable_death(&self.context, self.domid)?;
        let old = std::mem::replace(&mut self.death, again);
        // SAFETY: the context is live, and the old event was enabled on it and is not used again.
        unsafe {
            self.context
                .functions()
                .libxl_evdisable_domain_death(self.context.as_ptr(), old.as_ptr());
        }
        Ok(())
    }
}

fn enable_death(
    context: &Context,
    domid: u32,
) -> Result<NonNull<libxl_sys::libxl_evgen_domain_death>, Failure> {
    let mut death = null_mut();
    // SAFETY: the context is live and the place for the result valid.
    let rc = unsafe {
        context.functions().libxl_evenable_domain_death(
            context.as_ptr(),
            domid,
            FOR_USER,
            &raw mut death,
        )
    };
    context.check(rc)?;
    NonNull::new(death).ok_or_else(|| context.failure("libxl_evenable_domain_death gave nothing"))
}

fn enable_eject(context: &Context, domid: u32, disk: &str) -> Result<(), Failure> {
    let disk = CString::new(disk).map_err(|_| Failure::of("a disk's name holds a NUL"))?;
    let mut eject = null_mut();
    // SAFETY: the context is live, the string terminated and the place for the result valid. The
    // event ends with the context.
    let rc = unsafe {
        context.functions().libxl_evenable_disk_eject(
            context.as_ptr(),
            domid,
            disk.as_ptr(),
            FOR_USER,
            &raw mut eject,
        )
    };
    context.check(rc)
}
