//! The session fills the domain's memory; this tells libxl when it may go on.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::save_helper::helper::error::HelperError;
use crate::save_helper::ipc::{ERROR, Libxl, Message, NO_ERRNO};
use crate::save_helper::messages::{FromHelper, HelperLine, SOCKET_VARIABLE, ToHelper, VERSION};
use rxl_core::deadlines;
use rxl_core::domain::SpecialPages;
use rxl_xen::{BuiltGuest, Library, Rings};

/// libxl's arguments for a restore (libxl_save_callout.c: libxl__xc_domain_restore).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RestoreArguments {
    pub(super) domid: u32,
    rings: Rings,
}

impl RestoreArguments {
    /// Parses libxl's arguments; none for what is no plain restore.
    pub(super) fn parse(arguments: &[String]) -> Option<Self> {
        let [mode, _stream, _back, numbers @ ..] = arguments else { return None };
        let numbers: Vec<u32> =
            numbers.iter().map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let &[domid, store_port, store_domid, console_port, console_domid, _, stream_type] =
            numbers.as_slice()
        else {
            return None;
        };
        let rings = Rings { store_port, store_domid, console_port, console_domid };
        (mode == "--restore-domain" && stream_type == 0).then_some(Self { domid, rings })
    }

    /// The session that this process was started for, if it fills the memory by itself. A session
    /// that does not has no socket.
    pub(super) fn find_session(&self) -> Option<UnixStream> {
        let path = PathBuf::from(std::env::var_os(SOCKET_VARIABLE)?);
        UnixStream::connect(path).ok()
    }

    /// Claims the domain's memory where it is rxl that restores, which ends the claim. libxl is
    /// told of a failure.
    pub(super) fn claim_for_rxl(&self) -> Result<(), HelperError> {
        if std::env::var_os(SOCKET_VARIABLE).is_none() {
            return Ok(());
        }
        let guest = BuiltGuest::open(Library::open()?, self.domid, self.rings)?;
        let Err(why) = guest.claim() else { return Ok(()) };
        let (text, errno) = (&why.to_string(), NO_ERRNO);
        let mut libxl = Libxl::inherited().map_err(HelperError::Libxl)?;
        let told = libxl.tell(&Message::Log { level: ERROR, errno, context: "rxl", text });
        told.map_err(HelperError::Libxl)?;
        Err(HelperError::Claim(why))
    }

    pub(super) fn run(&self, session: UnixStream) -> Result<(), HelperError> {
        let libxl = Libxl::inherited().map_err(HelperError::Libxl)?;
        self.serve(session, libxl)
    }

    /// libxl ends a helper that it does not want any more with SIGTERM, and then with SIGKILL;
    /// there is nothing to clean up.
    fn serve(&self, session: UnixStream, mut libxl: Libxl) -> Result<(), HelperError> {
        let lost = HelperError::SessionGone;
        let mut session = HelperLine::new(session, deadlines::HELPER_RESTORE)
            .map_err(|error| lost(error.into()))?;
        let hello = FromHelper::Restore { version: VERSION, domid: self.domid, rings: self.rings };
        session.send(&hello).map_err(lost)?;
        match session.receive().map_err(lost)? {
            Some(ToHelper::Restored { missing, special }) => {
                go_on(&mut libxl, missing, special)?;
                session.send(&FromHelper::Done { ok: true }).map_err(lost)
            }
            Some(other) => Err(HelperError::OutOfTurn(format!("{other:?}"))),
            None => Err(HelperError::GivenUp),
        }
    }
}

/// Tells libxl all that the stock helper tells it at the end of a restore.
fn go_on(libxl: &mut Libxl, missing: u32, special: SpecialPages) -> Result<(), HelperError> {
    let completed = libxl.ask(&Message::StaticDataDone { missing }).map_err(HelperError::Libxl)?;
    if completed != 0 {
        return Err(HelperError::NoCpuPolicy);
    }
    let results = Message::RestoreResults { store: special.store, console: special.console };
    libxl.tell(&results).map_err(HelperError::Libxl)?;
    libxl.ask(&Message::Complete { retval: 0, errno: 0 }).map_err(HelperError::Libxl)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::time::Duration;

    fn arguments(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn restore() -> RestoreArguments {
        RestoreArguments::parse(&arguments("--restore-domain 9 -1 7 3 0 4 1 384 0")).unwrap()
    }

    #[test]
    fn libxls_arguments_are_read() {
        let rings = Rings { store_port: 3, store_domid: 0, console_port: 4, console_domid: 1 };
        assert_eq!(restore(), RestoreArguments { domid: 7, rings });
        for line in [
            "--save-domain 12 0 5 1 136 0",
            "--restore-domain 9 -1 7 3 0 4 1 384",
            "--restore-domain 9",
            "",
        ] {
            assert_eq!(RestoreArguments::parse(&arguments(line)), None, "{line}");
        }
        let remus = RestoreArguments::parse(&arguments("--restore-domain 9 -1 7 3 0 4 1 384 1"));
        assert_eq!(remus, None, "a checkpointed stream is the stock helper's");
    }

    #[test]
    fn libxl_goes_on_when_the_session_says_so() {
        let (session, theirs) = UnixStream::pair().unwrap();
        let (mut libxl, helper) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            restore().serve(theirs, Libxl::over(helper.try_clone().unwrap().into(), helper.into()))
        });
        let mut session = HelperLine::new(session, Duration::from_secs(5)).unwrap();
        let hello = session.receive::<FromHelper>().unwrap().unwrap();
        assert_eq!(
            hello,
            FromHelper::Restore { version: VERSION, domid: 7, rings: restore().rings }
        );
        session
            .send(&ToHelper::Restored {
                missing: 2,
                special: SpecialPages { store: 5, console: 6 },
            })
            .unwrap();
        let mut hears = |message: Message<'_>, answer: Option<i32>| {
            let mut expected = Vec::new();
            message.send(&mut expected).unwrap();
            let mut got = vec![0; expected.len()];
            libxl.read_exact(&mut got).unwrap();
            assert_eq!(got, expected);
            if let Some(answer) = answer {
                libxl.write_all(&answer.to_ne_bytes()).unwrap();
            }
        };
        hears(Message::StaticDataDone { missing: 2 }, Some(0));
        hears(Message::RestoreResults { store: 5, console: 6 }, None);
        hears(Message::Complete { retval: 0, errno: 0 }, Some(0));
        assert_eq!(session.receive::<FromHelper>().unwrap(), Some(FromHelper::Done { ok: true }));
        assert!(thread.join().unwrap().is_ok());
    }

    #[test]
    fn without_its_session_it_fails() {
        let (session, theirs) = UnixStream::pair().unwrap();
        let (_libxl, helper) = UnixStream::pair().unwrap();
        drop(session);
        let failed =
            restore().serve(theirs, Libxl::over(helper.try_clone().unwrap().into(), helper.into()));
        assert!(failed.is_err());
    }
}
