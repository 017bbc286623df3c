//! What the processor can do at most: the floor under every dense product.

use rayon::prelude::*;

use crate::simd::with_widest;

/// Sums that a thread keeps: more than any processor needs to hide the latency of an addition, and as many as fit in
/// 16 registers beside two operands.
const SUMS: usize = 12;

/// Does f32 multiply-adds and nothing else, in the widest registers of the processor and on every thread of the
/// current pool, and returns how many: `wanted`, rounded up to whole rounds. A product `[m, k]·[k, n]` has m·k·n, so
/// the time this takes is the floor of that product's, whoever computes it term by term.
pub fn multiply_adds(wanted: usize) -> usize {
    let threads = rayon::current_num_threads().max(1);
    let lanes = lanes::<f32>();
    let rounds = wanted.div_ceil(SUMS * lanes * threads);
    let sums: Vec<f32> =
        (0..threads).into_par_iter().with_max_len(1).map(|_| chains(rounds, 0.5f32, 1.0)).collect();
    std::hint::black_box(sums);
    rounds * SUMS * lanes * threads
}

with_widest! {
    /// The elements of a register.
    fn lanes<T, S>() -> usize {
        S::LANES
    }
}

with_widest! {
    /// x ← a·x + b, `rounds` times, in every lane of every sum, and their total.
    fn chains<T, S>(rounds: usize, a: T, b: T) -> T {
        // SAFETY: the processor has the instruction set, as `with_widest!` promises.
        unsafe {
            let (a, b) = (S::splat(a), S::splat(b));
            let mut sums = [S::splat(T::ZERO); SUMS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = S::mul_add(a, *sum, b);
                }
            }
            let mut total = S::splat(T::ZERO);
            for sum in sums {
                total = S::add(total, sum);
            }
            crate::simd::sum_of_lanes::<T, S>(total)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Width, no_wider_than};

    #[test]
    fn every_multiply_add_is_done_in_every_instruction_set() {
        for width in [Width::Any, Width::Wide, Width::Widest] {
            no_wider_than(width, || {
                // From 0, x ← x/2 + 1 is 2 − 2^(1−n) after n rounds, exactly.
                for rounds in [0, 1, 2, 7] {
                    let each = 2.0 - (1.0 - rounds as f64).exp2();
                    assert_eq!(
                        chains(rounds, 0.5f64, 1.0),
                        each * (SUMS * lanes::<f64>()) as f64,
                        "{width:?}"
                    );
                }
                let done = multiply_adds(1000);
                assert!((1000..1000 + SUMS * lanes::<f32>()).contains(&done), "{width:?}: {done}");
            });
        }
        assert_eq!(multiply_adds(0), 0);
    }
}
