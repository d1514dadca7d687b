//! The bytes of a header that came in pieces.

use crate::xl;

/// Room for the longest header.
#[derive(Clone, Debug)]
pub(super) struct Stash {
    bytes: [u8; xl::HEADER_LEN],
    len: usize,
}

impl Default for Stash {
    fn default() -> Self {
        Self { bytes: [0; xl::HEADER_LEN], len: 0 }
    }
}

impl Stash {
    /// Bytes held.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes from `input` what is missing of `N` bytes, at most the longest header's. `Some` when
    /// they are complete: the stash is then empty again.
    pub(super) fn take<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        let (piece, rest) = input.split_at(input.len().min(N - self.len));
        self.bytes[self.len..self.len + piece.len()].copy_from_slice(piece);
        self.len += piece.len();
        *input = rest;
        if self.len < N {
            return None;
        }
        self.len = 0;
        self.bytes.first_chunk().copied()
    }
}
