//! Room for a header whose bytes come in pieces.

use crate::xl;

/// Keeps the first bytes of a header until the others have come. The longest header is xl's.
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
    /// Number of bytes held.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes from `input` what is missing of a header of `N` bytes. Returns the header when it is
    /// complete: the stash is then empty again.
    pub(super) fn take<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        const { assert!(N <= xl::HEADER_LEN, "a header is longer than the stash") };
        if self.len == 0
            && let Some((header, rest)) = input.split_first_chunk::<N>()
        {
            *input = rest;
            return Some(*header);
        }
        self.fill(input, N);
        if self.len < N {
            return None;
        }
        self.len = 0;
        self.bytes.first_chunk().copied()
    }

    /// Moves bytes from `input` until `wanted` are held, or the input is used up.
    fn fill(&mut self, input: &mut &[u8], wanted: usize) {
        let missing = wanted.saturating_sub(self.len);
        let (piece, rest) = input.split_at_checked(missing).unwrap_or((input, &[]));
        let room = self.bytes.iter_mut().skip(self.len);
        room.zip(piece).for_each(|(place, byte)| *place = *byte);
        self.len += piece.len();
        *input = rest;
    }
}
