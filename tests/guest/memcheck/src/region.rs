//! The checked memory: pages, and the generation of each in a table that is itself checked.

use crate::pattern::{Page, Pattern, mix};

/// Pages under check.
pub struct Region {
    pattern: Pattern,
    pages: Vec<Page>,
    generations: Vec<u32>,
    /// Sum over the table of `entry_hash`, kept as entries change, so that damage to the table is
    /// told from damage to a page.
    table_sum: u64,
}

impl Region {
    /// Allocates and fills `pages` pages, which touches every one of them.
    pub fn new(pattern: Pattern, pages: usize) -> Self {
        let mut region = Self {
            pattern,
            pages: vec![Page::ZERO; pages],
            generations: vec![0; pages],
            table_sum: 0,
        };
        for (index, page) in region.pages.iter_mut().enumerate() {
            pattern.fill(page, index, 0);
        }
        region.table_sum = table_sum(&region.generations);
        region
    }

    /// Number of pages.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Sum of all generations: the number of rewrites since the start.
    pub fn generation_sum(&self) -> u64 {
        self.generations.iter().map(|&generation| u64::from(generation)).sum()
    }

    /// Compares a page with what it must hold.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn verify(&self, index: usize) -> Result<(), String> {
        let generation = self.generations[index];
        match self.pattern.first_difference(&self.pages[index], index, generation) {
            None => Ok(()),
            Some(difference) => Err(format!(
                "page {index} generation {generation}: word {} is {:#018x}, not {:#018x}",
                difference.word, difference.found, difference.expected
            )),
        }
    }

    /// Compares the table of generations with its checksum.
    ///
    /// # Errors
    /// The two sums, in words.
    pub fn verify_table(&self) -> Result<(), String> {
        let sum = table_sum(&self.generations);
        if sum == self.table_sum {
            return Ok(());
        }
        Err(format!("generation table: sum is {sum:#018x}, not {:#018x}", self.table_sum))
    }

    /// Verifies a page, then writes its next generation: a rewrite must not hide damage.
    ///
    /// # Errors
    /// As [`Region::verify`]; the page is rewritten all the same, so that one damaged page counts
    /// once.
    pub fn dirty(&mut self, index: usize) -> Result<(), String> {
        let verified = self.verify(index);
        self.rewrite(index);
        verified
    }

    /// Writes a page's next generation.
    pub fn rewrite(&mut self, index: usize) {
        let generation = self.generations[index].wrapping_add(1);
        self.table_sum = self
            .table_sum
            .wrapping_sub(entry_hash(index, self.generations[index]))
            .wrapping_add(entry_hash(index, generation));
        self.generations[index] = generation;
        self.pattern.fill(&mut self.pages[index], index, generation);
    }

    /// Takes the table as it is, so that damage to it counts once.
    pub fn accept_table(&mut self) {
        self.table_sum = table_sum(&self.generations);
    }
}

fn table_sum(generations: &[u32]) -> u64 {
    generations
        .iter()
        .enumerate()
        .fold(0, |sum: u64, (index, &generation)| sum.wrapping_add(entry_hash(index, generation)))
}

fn entry_hash(index: usize, generation: u32) -> u64 {
    mix(((index as u64) << 32) ^ u64::from(generation) ^ 0x6765_6e65_7261_7465)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> Region {
        Region::new(Pattern { seed: 1, entropy: 30 }, 64)
    }

    fn damage(region: &Region) -> usize {
        (0..region.len()).filter(|&index| region.verify(index).is_err()).count()
    }

    #[test]
    fn rewritten_pages_verify() {
        let mut region = region();
        for index in [0, 5, 5, 63] {
            region.dirty(index).unwrap();
        }
        assert_eq!(damage(&region), 0);
        assert_eq!(region.generation_sum(), 4);
        region.verify_table().unwrap();
    }

    #[test]
    fn a_flipped_bit_is_detected_once() {
        let mut region = region();
        region.pages[17].0[400] ^= 1 << 33;
        assert_eq!(damage(&region), 1);
        assert!(region.verify(17).unwrap_err().contains("page 17 generation 0: word 400"));
        assert!(region.dirty(17).is_err(), "a rewrite does not hide it");
        assert_eq!(damage(&region), 0);
    }

    #[test]
    fn a_page_that_went_back_in_time_is_detected() {
        let mut region = region();
        let old = region.pages[9].clone();
        region.rewrite(9);
        region.pages[9] = old;
        assert!(region.verify(9).is_err());
    }

    #[test]
    fn pages_that_were_swapped_are_detected() {
        let mut region = region();
        region.pages.swap(3, 4);
        assert_eq!(damage(&region), 2);
    }

    #[test]
    fn a_damaged_table_is_detected() {
        let mut region = region();
        region.generations[2] ^= 1 << 7;
        assert!(region.verify_table().is_err());
        region.accept_table();
        region.verify_table().unwrap();
    }
}
