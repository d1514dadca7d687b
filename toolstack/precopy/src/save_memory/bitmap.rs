//! Bits of log-dirty bitmaps: bit n of word m stands for pfn 64 m + n.

/// The first bit that is set, from this one on.
pub fn next(words: &[u64], from: u64) -> Option<u64> {
    let mut index = usize::try_from(from / 64).ok()?;
    let mut word = words.get(index)? & (u64::MAX << (from % 64));
    while word == 0 {
        index += 1;
        word = *words.get(index)?;
    }
    Some(index as u64 * 64 + u64::from(word.trailing_zeros()))
}

/// A bitmap of `end` bits, of which those from `first` on are set.
pub fn from(first: u64, end: u64) -> Vec<u64> {
    let mut words = vec![u64::MAX; usize::try_from(end.div_ceil(64)).unwrap_or(0)];
    if let Some(last) = words.last_mut().filter(|_| !end.is_multiple_of(64)) {
        *last = (1 << (end % 64)) - 1;
    }
    clear_below(&mut words, first);
    words
}

/// Clears all bits below this one.
pub fn clear_below(words: &mut [u64], first: u64) {
    let whole = usize::try_from(first / 64).unwrap_or(usize::MAX);
    words.iter_mut().take(whole).for_each(|word| *word = 0);
    if let Some(word) = words.get_mut(whole) {
        *word &= u64::MAX << (first % 64);
    }
}

/// Whether a bit is set. Beyond the end none is.
pub fn get(words: &[u64], at: u64) -> bool {
    let word = usize::try_from(at / 64).ok().and_then(|index| words.get(index));
    word.is_some_and(|word| word & (1 << (at % 64)) != 0)
}

/// Sets or clears a bit. The bitmap becomes as long as that needs.
pub fn put(words: &mut Vec<u64>, at: u64, value: bool) {
    let Ok(index) = usize::try_from(at / 64) else { return };
    if value && index >= words.len() {
        words.resize(index + 1, 0);
    }
    let Some(word) = words.get_mut(index) else { return };
    let bit = 1 << (at % 64);
    *word = if value { *word | bit } else { *word & !bit };
}

/// Sets the bits that are set in `more`, which may be the longer bitmap.
pub fn merge(into: &mut Vec<u64>, more: &[u64]) {
    into.resize(into.len().max(more.len()), 0);
    into.iter_mut().zip(more).for_each(|(word, more)| *word |= more);
}

/// Number of bits that are set.
pub fn count(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_found_in_order_and_cleared_below() {
        let mut words = from(63, 130);
        assert_eq!((words.len(), count(&words)), (3, 67));
        assert_eq!(
            (next(&words, 0), next(&words, 64), next(&words, 130)),
            (Some(63), Some(64), None)
        );
        clear_below(&mut words, 129);
        assert_eq!((next(&words, 0), count(&words)), (Some(129), 1));
        merge(&mut words, &[2]);
        assert_eq!((next(&words, 0), count(&words)), (Some(1), 2));
        clear_below(&mut words, 1_000);
        assert_eq!(count(&words), 0);
        merge(&mut words, &[0, 0, 0, 8]);
        assert_eq!((words.len(), next(&words, 0)), (4, Some(195)));
    }

    #[test]
    fn a_bit_is_put_anywhere_and_cleared_nowhere_new() {
        let mut words = Vec::new();
        put(&mut words, 1_000, false);
        assert!(words.is_empty());
        for at in [0, 63, 64, 200] {
            put(&mut words, at, true);
        }
        assert_eq!((words.len(), count(&words)), (4, 4));
        put(&mut words, 63, false);
        assert!(get(&words, 64) && !get(&words, 63) && !get(&words, u64::MAX));
    }
}
