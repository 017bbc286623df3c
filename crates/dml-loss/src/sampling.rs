//! Random draws that are a function of a seed and of the batch.
//!
//! Nothing is remembered between batches, so a run that resumes draws what an unbroken one would have drawn, and each
//! batch of a run still has draws of its own.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A generator for one batch: the seed mixed with the bits of numbers that the batch is known by (FNV-1a).
pub(crate) fn draws(seed: u64, values: impl IntoIterator<Item = u64>) -> ChaCha8Rng {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for value in values {
        for byte in value.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    ChaCha8Rng::seed_from_u64(seed ^ hash)
}

/// The first `count` of a random order of 0 … n − 1.
pub(crate) fn choose(rng: &mut ChaCha8Rng, n: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let count = count.min(n);
    for i in 0..count {
        order.swap(i, rng.random_range(i..n));
    }
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_and_values_alone() {
        let first = |seed, values: &[u64]| draws(seed, values.iter().copied()).random::<u64>();
        assert_eq!(first(1, &[2, 3]), first(1, &[2, 3]));
        assert_ne!(first(1, &[2, 3]), first(2, &[2, 3]));
        assert_ne!(first(1, &[2, 3]), first(1, &[3, 2]));
    }

    #[test]
    fn choices_are_distinct() {
        let mut chosen = choose(&mut draws(0, []), 10, 6);
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 6);
        assert_eq!(choose(&mut draws(0, []), 3, 6).len(), 3);
    }
}
