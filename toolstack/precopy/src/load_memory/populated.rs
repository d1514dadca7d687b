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

    /// Takes a page number out. False when it was not in the set. A block that is empty then is
    /// freed, so that page numbers which come and go cost nothing.
    pub fn remove(&mut self, pfn: u64) -> bool {
        let Some(block) = self.0.get_mut(&(pfn / BLOCK)) else { return false };
        let bit = 1 << (pfn % 64);
        let was = block.get_mut((pfn % BLOCK / 64) as usize).is_some_and(|word| {
            let was = *word & bit != 0;
            *word &= !bit;
            was
        });
        if block.iter().all(|word| *word == 0) {
            self.0.remove(&(pfn / BLOCK));
        }
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn it_is_a_set(
            steps in prop::collection::vec((0_u64..20_000, any::<bool>()), 1..400),
            far: u64,
        ) {
            let (mut ours, mut theirs) = (Populated::default(), HashSet::new());
            let ends = [(far, true), (far, true), (0, true), (u64::MAX, true), (far, false)];
            for (pfn, comes) in steps.into_iter().chain(ends) {
                if comes {
                    prop_assert_eq!(ours.insert(pfn), theirs.insert(pfn));
                } else {
                    prop_assert_eq!(ours.remove(pfn), theirs.remove(&pfn));
                }
            }
            let blocks: HashSet<u64> = theirs.iter().map(|pfn| pfn / BLOCK).collect();
            prop_assert_eq!(ours.0.len(), blocks.len());
        }
    }
}
