//! The session's orders to its helper, each with its answer.

use std::os::unix::net::UnixStream;

use crate::save_helper::error::SaveHelperError;
use crate::save_helper::messages::{FromHelper, HelperLine, ToHelper};

/// Sends an order and waits until it has been carried out.
///
/// A helper that was terminated carries out every order but a suspend, to which it gives no other
/// answer.
pub(super) fn order(
    helper: &mut HelperLine<UnixStream>,
    order: &ToHelper,
) -> Result<(), SaveHelperError> {
    helper.send(order)?;
    loop {
        return match helper.receive()? {
            Some(FromHelper::Done { ok: true }) => Ok(()),
            Some(FromHelper::Done { ok: false }) => Err(refused(order)),
            Some(FromHelper::Terminated) if *order == ToHelper::Suspend => {
                Err(SaveHelperError::EndedByLibxl)
            }
            Some(FromHelper::Terminated) => continue,
            Some(other) => Err(SaveHelperError::OutOfTurn(format!("{other:?}"))),
            None => Err(SaveHelperError::Gone),
        };
    }
}

fn refused(order: &ToHelper) -> SaveHelperError {
    SaveHelperError::Refused(match order {
        ToHelper::Suspend => "the guest did not suspend",
        ToHelper::DeviceModelLogDirty { .. } => {
            "the device model's log-dirty mode cannot be switched"
        }
        _ => "libxl refused",
    })
}
