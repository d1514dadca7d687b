//! What a service tells systemd (sd_notify(3)).

use std::ffi::OsStr;
use std::os::unix::net::UnixDatagram;

/// Where systemd listens, where it does.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Tells systemd how this service is, such as `READY=1`. Does nothing where systemd has not started
/// it.
pub fn tell(state: &str) {
    if let Some(socket) = std::env::var_os(SOCKET) {
        send(&socket, state);
    }
}

/// Nobody is told of a failure: a service that is not ready in time is ended by systemd.
fn send(socket: &OsStr, state: &str) {
    if let Ok(from) = UnixDatagram::unbound() {
        let _ = from.send_to(state.as_bytes(), socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_arrives_where_somebody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        send(path.as_os_str(), "READY=1");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1");
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
    }
}
