//! `rxl save` and `rxl restore` over a host in memory.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::files::{PACKING, names};
use rxl_core::domain::{GuestType, RunState};
use rxl_core::error::{Exit, Failure};
use rxl_core::level::Level;
use rxl_core::save_format::Format;
use rxl_core::state_dir::StateDir;
use rxl_host::guard_line::Word;
use rxl_session::events::{Event, Events};
use rxl_session::savefile::save::{After, SaveRequest};
use rxl_session::savefile::writer::Written;
use rxl_session::savefile::{restore, save};
use rxl_testkit::memory::{Faults, Guest, Kept, MemoryHost};

/// A host with `dom3` and a directory to save it in.
pub struct Setting {
    pub host: MemoryHost,
    pub directory: TempDir,
    /// Comes while it is saved.
    pub interrupt: bool,
}

impl Setting {
    pub fn new() -> Self {
        let host = MemoryHost::new(1 << 20);
        let guest =
            Guest { pages: 5000, zero_per_256: 100, dirty: vec![10], endless: false, seed: 7 };
        host.start("dom3", GuestType::Pvh, guest);
        Self { host, directory: tempfile::tempdir().unwrap(), interrupt: false }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("dom3.save")
    }

    pub fn state(&self) -> StateDir {
        StateDir::at(self.directory.path().join("state"))
    }

    pub fn request(&self, format: Format, after: After) -> SaveRequest {
        SaveRequest {
            domain: "dom3".into(),
            path: self.path(),
            format,
            after,
            packing: PACKING,
            quiesce: Level::Off,
        }
    }

    pub fn save(&self, format: Format, after: After) -> Result<Written, Failure> {
        self.save_as(&self.request(format, after))
    }

    pub fn save_as(&self, request: &SaveRequest) -> Result<Written, Failure> {
        let events = Events::default();
        if self.interrupt {
            events.sender().send(Event::Interrupt).unwrap();
        }
        save::save(&self.host, &self.state(), request, None, &events).map(|saved| saved.written)
    }

    pub fn restore(&self, leave_paused: bool) -> Result<restore::Restored, Failure> {
        let request =
            restore::RestoreRequest { path: self.path(), leave_paused, no_monitor: false };
        restore::restore(&self.host, &self.state(), &request, &Events::default())
    }

    pub fn only_domain(&self) -> Kept {
        let mut domains = self.host.domains();
        assert_eq!(domains.len(), 1, "{domains:?}");
        domains.remove(0)
    }

    /// The domain runs as if nothing had been; of its file nothing is there, or the old one.
    pub fn assert_untouched(&self, old: Option<&[u8]>) {
        let kept = self.only_domain();
        assert_eq!(
            (kept.domain.name.as_str(), kept.domain.state, kept.log_dirty),
            ("dom3", RunState::Running, false)
        );
        let left: Vec<String> =
            names(self.directory.path()).into_iter().filter(|name| name != "state").collect();
        assert_eq!(left.len(), usize::from(old.is_some()), "{left:?}");
        assert_eq!(std::fs::read(self.path()).ok().as_deref(), old);
        self.state().lock("domain-1", "dom3").expect("its lock was given back");
    }
}

#[test]
fn a_domain_lives_in_its_file_and_comes_back() {
    for format in [Format::Rxl, Format::Plain] {
        let setting = Setting::new();
        let written = setting.save(format, After::Destroy).unwrap();
        assert!(setting.host.domains().is_empty());
        let length = std::fs::metadata(setting.path()).unwrap().len();
        assert_eq!(written.file_bytes, length);
        assert_eq!(written.digest.is_some(), format == Format::Rxl);
        assert_eq!(length < written.stream_bytes, format == Format::Rxl);
        let restored = setting.restore(false).unwrap();
        let kept = setting.only_domain();
        assert_eq!((restored.name.as_str(), restored.domid), ("dom3", kept.domain.domid));
        assert_eq!((kept.domain.name.as_str(), kept.domain.state), ("dom3", RunState::Running));
        assert_eq!(kept.stream.map(|(bytes, _)| bytes), Some(written.stream_bytes));
        assert_eq!(restored.stream_bytes, written.stream_bytes);
        assert!(setting.path().exists(), "the file stays");
        assert_eq!(setting.host.watchers(), [restored.domid]);
    }
}

#[test]
fn every_byte_that_was_saved_is_restored() {
    for format in [Format::Rxl, Format::Plain] {
        let setting = Setting::new();
        setting.save(format, After::Run).unwrap();
        let saved = setting.only_domain();
        setting.host.set_faults(Faults::default());
        rxl_host::host::Host::destroy(&setting.host, saved.domain.domid).unwrap();
        setting.restore(false).unwrap();
        assert!(saved.stream.is_some());
        assert_eq!(setting.only_domain().stream, saved.stream, "length and checksum");
    }
}

#[test]
fn it_can_be_left_running_or_paused() {
    for (after, state) in [(After::Run, RunState::Running), (After::Pause, RunState::Paused)] {
        let setting = Setting::new();
        let domid = setting.only_domain().domain.domid;
        setting.host.set_xl_watches(Some(domid));
        setting.save(Format::Rxl, after).unwrap();
        assert_eq!(setting.only_domain().domain.state, state);
        assert_eq!(setting.host.watchers(), [domid], "xl's process has ended at the suspend");
        assert!(setting.path().exists());
    }
}

#[test]
fn it_can_be_restored_paused() {
    let setting = Setting::new();
    setting.save(Format::Rxl, After::Destroy).unwrap();
    setting.restore(true).unwrap();
    assert_eq!(setting.only_domain().domain.state, RunState::Paused);
}

#[test]
fn a_save_that_fails_leaves_the_domain_running_and_no_file() {
    for format in [Format::Rxl, Format::Plain] {
        let setting = Setting::new();
        setting.host.set_faults(Faults { save_after_suspend: true, ..Faults::default() });
        let failure = setting.save(format, After::Destroy).unwrap_err();
        assert_eq!(failure.exit, Exit::FailedSourceRuns, "{failure}");
        assert!(failure.to_string().contains("dom3 runs on here"), "{failure}");
        setting.assert_untouched(None);
    }
}

#[test]
fn a_save_without_a_record_ends_at_once() {
    let setting = Setting::new();
    let lasting = setting.state().lasting().to_owned();
    std::fs::create_dir_all(&lasting).unwrap();
    std::fs::write(lasting.join("migrations"), "").unwrap();
    let began = std::time::Instant::now();
    let failure = setting.save(Format::Rxl, After::Destroy).unwrap_err();
    assert!(failure.what.contains("the journal"), "{failure}");
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    setting.assert_untouched(None);
}

#[test]
fn a_save_that_fails_leaves_the_older_file() {
    let setting = Setting::new();
    std::fs::write(setting.path(), b"of yesterday").unwrap();
    setting.host.set_faults(Faults { save_after_suspend: true, ..Faults::default() });
    setting.save(Format::Rxl, After::Destroy).unwrap_err();
    setting.assert_untouched(Some(b"of yesterday"));
    setting.host.set_faults(Faults::default());
    setting.save(Format::Rxl, After::Destroy).unwrap();
    assert!(std::fs::read(setting.path()).unwrap().starts_with(b"RXLSAVE1"));
}

#[test]
fn a_cancelled_save_leaves_everything_as_it_was() {
    for format in [Format::Rxl, Format::Plain] {
        let setting = Setting { interrupt: true, ..Setting::new() };
        let failure = setting.save(format, After::Destroy).unwrap_err();
        assert_eq!(failure.exit, Exit::Cancelled, "{failure}");
        setting.assert_untouched(None);
    }
}

#[test]
fn what_goes_wrong_after_the_file_is_in_place_is_told_apart() {
    let setting = Setting::new();
    setting.host.set_faults(Faults { destroy: true, ..Faults::default() });
    let failure = setting.save(Format::Rxl, After::Destroy).unwrap_err();
    assert_eq!(failure.exit, Exit::MovedWithWarnings);
    assert!(failure.to_string().contains("is saved in") && setting.path().exists(), "{failure}");
}

#[test]
fn a_domain_that_cannot_be_saved_now_is_refused_before_anything() {
    let setting = Setting::new();
    let held = setting.state().lock("domain-1", "dom3").unwrap();
    assert_eq!(setting.save(Format::Rxl, After::Destroy).unwrap_err().exit, Exit::Busy);
    drop(held);
    setting.host.set_state(setting.only_domain().domain.domid, RunState::Paused);
    assert_eq!(setting.save(Format::Rxl, After::Destroy).unwrap_err().exit, Exit::DomainState);
    setting.host.set_state(setting.only_domain().domain.domid, RunState::Running);
    let request = SaveRequest {
        path: "/no/such/directory/dom3.save".into(),
        ..setting.request(Format::Rxl, After::Destroy)
    };
    let failure = setting.save_as(&request).unwrap_err();
    assert!(
        failure.exit == Exit::Internal && failure.to_string().contains("nothing was begun"),
        "{failure}"
    );
    setting.assert_untouched(None);
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let setting = Setting::new();
    setting.save(Format::Rxl, After::Run).unwrap();
    let failure = setting.restore(false).unwrap_err();
    assert_eq!(failure.exit, Exit::Refused, "{failure}");
    assert!(failure.to_string().contains("xl rename dom3"), "{failure}");
    setting.only_domain();
}

#[test]
fn a_restore_that_fails_leaves_nothing() {
    for faults in [
        Faults { restore_after: Some(1 << 20), ..Faults::default() },
        Faults { unpause: true, ..Faults::default() },
    ] {
        let setting = Setting::new();
        setting.save(Format::Rxl, After::Destroy).unwrap();
        setting.host.set_faults(faults);
        let failure = setting.restore(false).unwrap_err();
        if faults.unpause {
            // It is there, whole, and can be helped.
            assert_eq!(failure.exit, Exit::MovedWithWarnings, "{failure}");
            assert_eq!(setting.only_domain().domain.state, RunState::Paused);
        } else {
            assert_eq!(failure.exit, Exit::Internal, "{failure}");
            assert!(setting.host.domains().is_empty());
            setting.host.set_faults(Faults::default());
            setting.restore(false).unwrap();
        }
    }
}

/// A guard that is not told acts, and logs that rxl was killed.
#[test]
fn a_save_tells_its_guard_however_it_ends() {
    for faults in [
        Faults::default(),
        Faults { save_start: true, ..Faults::default() },
        Faults { save_after_suspend: true, ..Faults::default() },
    ] {
        let setting = Setting::new();
        let heard = setting.host.hear_guards();
        setting.host.set_faults(faults);
        assert_eq!(setting.save(Format::Rxl, After::Run).is_err(), faults != Faults::default());
        let told: Vec<Word> = heard.try_iter().collect();
        assert!(matches!(told[..], [Word::Settle { asked: true, .. }, Word::Done]), "{told:?}");
    }
}
