//! The contents of a page, computable from its index and generation.

/// Words of 64 bits in a page of 4096 bytes.
pub const PAGE_WORDS: usize = 512;

/// The words at a page's start that name it, whatever the entropy: without them a stale page of
/// constant bytes would pass for a fresh one.
const HEADER_WORDS: usize = 2;

const FILLER: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// One page of memory, aligned so that a write to it dirties exactly one page of the guest.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Page(pub [u64; PAGE_WORDS]);

impl Page {
    /// A page of zeros.
    pub const ZERO: Self = Self([0; PAGE_WORDS]);
}

/// What all pages have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Two seeds give different contents for the same page and generation.
    pub seed: u64,
    /// Percentage of a page's bytes that no codec can compress; the rest is constant.
    pub entropy: usize,
}

impl Pattern {
    /// Writes generation `generation` of page `index`.
    pub fn fill(&self, page: &mut Page, index: usize, generation: u32) {
        for (word, expected) in page.0.iter_mut().zip(self.words(index, generation)) {
            *word = expected;
        }
    }

    /// The first word that is not what generation `generation` of page `index` must hold.
    pub fn first_difference(
        &self,
        page: &Page,
        index: usize,
        generation: u32,
    ) -> Option<Difference> {
        page.0
            .iter()
            .zip(self.words(index, generation))
            .enumerate()
            .find(|(_, (found, expected))| **found != *expected)
            .map(|(word, (&found, expected))| Difference { word, found, expected })
    }

    fn words(&self, index: usize, generation: u32) -> impl Iterator<Item = u64> {
        let random_words = PAGE_WORDS * self.entropy / 100;
        let mut state = mix(self.seed ^ mix(index as u64) ^ mix(u64::from(generation) << 32));
        (0..PAGE_WORDS).map(move |word| match word {
            0 => index as u64,
            1 => u64::from(generation),
            _ if word < random_words.max(HEADER_WORDS) => {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                mix(state)
            }
            _ => FILLER,
        })
    }
}

/// A word that does not hold what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Index of the 64-bit word in its page.
    pub word: usize,
    /// What it holds.
    pub found: u64,
    /// What it should hold.
    pub expected: u64,
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): each input bit changes half of the output
/// bits.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(pattern: Pattern, index: usize, generation: u32) -> Page {
        let mut page = Page::ZERO;
        pattern.fill(&mut page, index, generation);
        page
    }

    #[test]
    fn a_page_matches_itself_and_no_other() {
        for entropy in [0, 1, 50, 100] {
            let pattern = Pattern { seed: 7, entropy };
            let filled = page(pattern, 3, 9);
            assert_eq!(pattern.first_difference(&filled, 3, 9), None);
            assert!(pattern.first_difference(&filled, 3, 8).is_some(), "stale, entropy {entropy}");
            assert!(
                pattern.first_difference(&filled, 4, 9).is_some(),
                "misplaced, entropy {entropy}"
            );
        }
    }

    #[test]
    fn entropy_is_the_share_of_bytes_that_vary() {
        let pattern = Pattern { seed: 7, entropy: 25 };
        let constant = page(pattern, 0, 0).0.iter().filter(|&&word| word == FILLER).count();
        assert_eq!(constant, PAGE_WORDS * 3 / 4);
    }

    #[test]
    fn any_flipped_bit_is_found_where_it_is() {
        let pattern = Pattern { seed: 7, entropy: 50 };
        for bit in (0..PAGE_WORDS * 64).step_by(97) {
            let mut flipped = page(pattern, 5, 2);
            flipped.0[bit / 64] ^= 1 << (bit % 64);
            let difference = pattern.first_difference(&flipped, 5, 2).expect("the flip is seen");
            assert_eq!(difference.word, bit / 64);
            assert_eq!(difference.found ^ difference.expected, 1 << (bit % 64));
        }
    }
}
