//! xenstore's messages (Xen's `xen/include/public/io/xs_wire.h` and `docs/misc/xenstore.txt`), as
//! bytes.
//!
//! A message is a header of four u32 in the machine's byte order, which on x86 and Arm guests is
//! little-endian: type, request id, transaction id, length of the payload; then the payload, of at
//! most 4096 bytes.

use std::io;

/// Length of a header in bytes.
pub const HEADER: usize = 16;

/// Longest payload in bytes; xenstored closes a connection that sends more.
pub const MAX_PAYLOAD: usize = 4096;

/// Types of messages, those used here (`enum xsd_sockmsg_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Path; the reply is the value.
    Read = 2,
    /// Path, token.
    Watch = 4,
    /// Path, value.
    Write = 11,
    /// Path.
    Remove = 13,
    /// Unasked: path, token.
    Event = 15,
    /// Reply: the name of an errno value.
    Error = 16,
}

/// A message as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// As in [`Kind`], or a type that is not used here.
    pub kind: u32,
    /// As in the request that it answers.
    pub request: u32,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// The bytes of a request outside any transaction. An error if the payload is too long.
pub fn request(kind: Kind, id: u32, payload: &[u8]) -> io::Result<Vec<u8>> {
    if payload.len() > MAX_PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a request too long for xenstore"));
    }
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    for word in [kind as u32, id, 0, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// Takes the first whole message out of what was received. None while it is not complete; an error
/// if it never will be.
pub fn take(received: &mut Vec<u8>) -> io::Result<Option<Message>> {
    let word = |n: usize| received.get(4 * n..4 * n + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let (Some(kind), Some(request), Some(length)) = (word(0), word(1), word(3)) else {
        return Ok(None);
    };
    let length = length as usize;
    if length > MAX_PAYLOAD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message longer than xenstore allows",
        ));
    }
    if received.len() < HEADER + length {
        return Ok(None);
    }
    let payload = received[HEADER..HEADER + length].to_vec();
    received.drain(..HEADER + length);
    Ok(Some(Message { kind, request, payload }))
}

impl Message {
    /// Whether this answers the request. The kernel answers a watch by itself and leaves its id
    /// zero.
    pub fn answers(&self, kind: Kind, id: u32) -> bool {
        let answer = self.kind == kind as u32 || self.kind == Kind::Error as u32;
        answer && (self.request == id || kind == Kind::Watch)
    }

    /// The payload of an answer, or the error that it tells.
    pub fn into_result(self) -> io::Result<Vec<u8>> {
        if self.kind != Kind::Error as u32 {
            return Ok(self.payload);
        }
        let name =
            String::from_utf8_lossy(self.payload.strip_suffix(&[0]).unwrap_or(&self.payload))
                .into_owned();
        let kind = match name.as_str() {
            "ENOENT" => io::ErrorKind::NotFound,
            "EACCES" | "EPERM" => io::ErrorKind::PermissionDenied,
            "ENOSPC" => io::ErrorKind::StorageFull,
            _ => io::ErrorKind::Other,
        };
        Err(io::Error::new(kind, format!("xenstore says {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u32, id: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [kind, id, 0, payload.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_request_is_laid_out_as_xs_wire_h_says() {
        assert_eq!(request(Kind::Write, 7, b"a\0b").expect("short"), bytes(11, 7, b"a\0b"));
        assert!(request(Kind::Write, 7, &[b'x'; MAX_PAYLOAD + 1]).is_err());
    }

    #[test]
    fn messages_come_in_any_pieces() {
        let mut whole = bytes(2, 1, b"value");
        whole.extend(bytes(15, 0, b"control/rxl\0t\0"));
        let mut received = Vec::new();
        let mut messages = Vec::new();
        for byte in whole {
            received.push(byte);
            messages.extend(take(&mut received).expect("well-formed"));
        }
        assert!(received.is_empty());
        assert_eq!(messages[0], Message { kind: 2, request: 1, payload: b"value".to_vec() });
        assert_eq!(messages[1].kind, Kind::Event as u32);
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_waited_for() {
        let mut received = bytes(2, 1, b"");
        received[12..16].copy_from_slice(&(MAX_PAYLOAD as u32 + 1).to_ne_bytes());
        assert!(take(&mut received).is_err());
    }

    #[test]
    fn answers_are_matched_by_id_but_those_to_watches() {
        let answer = |kind: u32, request| Message { kind, request, payload: Vec::new() };
        assert!(answer(2, 5).answers(Kind::Read, 5));
        assert!(!answer(2, 4).answers(Kind::Read, 5));
        assert!(!answer(15, 5).answers(Kind::Read, 5));
        assert!(answer(16, 5).answers(Kind::Read, 5));
        assert!(answer(4, 0).answers(Kind::Watch, 5));
    }

    #[test]
    fn errors_are_told_by_name() {
        let error = |name: &[u8]| {
            Message { kind: 16, request: 1, payload: name.to_vec() }.into_result().unwrap_err()
        };
        assert_eq!(error(b"ENOENT\0").kind(), io::ErrorKind::NotFound);
        assert_eq!(error(b"EACCES\0").kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(error(b"EQUOTA\0").to_string(), "xenstore says EQUOTA");
    }
}
