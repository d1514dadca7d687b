//! Which pages a guest has been given.

use std::collections::HashMap;

/// Page numbers of one block.
const BLOCK: u64 = 4096;

/// A set of page numbers. A guest's lie in a few stretches; each block of 16 MiB in which there is
/// one costs 512 bytes. Every member has a page of its own in Xen's memory, of which the domain can
/// only have so many.
#[derive(Default)]
pub struct Populated(HashMap<u64, Box<[u64; (BLOCK / 64) as usize]>>);

impl Populated {
    /// Adds a page number. False when it was in the set before.
    pub fn insert(&mut self, pfn: u64) -> bool {
        let block =
            self.0.entry(pfn / BLOCK).or_insert_with(|| Box::new([0; (BLOCK / 64) as usize]));
        let bit = 1 << (pfn % 64);
        // The index is below the length, so the block always has this word.
        block.get_mut((pfn % BLOCK / 64) as usize).is_some_and(|word| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn it_is_a_set(pfns in prop::collection::vec(0_u64..20_000, 1..400), far: u64) {
            let (mut ours, mut theirs) = (Populated::default(), HashSet::new());
            for pfn in pfns.into_iter().chain([far, far, 0, u64::MAX]) {
                prop_assert_eq!(ours.insert(pfn), theirs.insert(pfn));
            }
        }
    }
}
