//! The activations of a unit, as increments from what the pivot gives, and loops over rows of units.

use super::ConvexActivation;
use crate::cpu::vectorized;
use crate::real::Real;
use crate::softplus::{above_kink, sigmoid_of};

/// s′(z).
#[inline(always)]
pub(crate) fn slope_of<T: Real>(activation: ConvexActivation, z: T) -> T {
    match activation {
        ConvexActivation::Softplus => sigmoid_of(z),
        ConvexActivation::Squareplus => T::from_f64(0.5) + T::from_f64(0.5) * z / root(z),
    }
}

/// s(z).
#[inline(always)]
pub(crate) fn value_of<T: Real>(activation: ConvexActivation, z: T) -> T {
    match activation {
        ConvexActivation::Softplus => z.max(T::ZERO) + above_kink(z),
        ConvexActivation::Squareplus => T::from_f64(0.5) * (z + root(z)),
    }
}

/// s″ from s′, the same for all z of that slope.
#[inline(always)]
pub(crate) fn curvature_of<T: Real>(activation: ConvexActivation, slope: T) -> T {
    let product = slope * (T::ONE - slope);
    match activation {
        ConvexActivation::Softplus => product,
        // With t = z/√(z² + 4) = 2s′ − 1: s″ = 2(z² + 4)^−3/2 = (1 − t²)^3/2 / 4, and 1 − t² = 4s′(1 − s′).
        ConvexActivation::Squareplus => T::from_f64(2.0) * product * product.sqrt(),
    }
}

#[inline(always)]
fn root<T: Real>(z: T) -> T {
    (z * z + T::from_f64(4.0)).sqrt()
}

/// What all rows share of a unit: z̄, the part of s(z̄) that increments need, s′(z̄), and c.
pub(crate) struct Shared<'a, T> {
    pub z: &'a [T],
    pub part: &'a [T],
    pub slope: &'a [T],
    pub weight: &'a [T],
}

/// log(1 + e^−|z̄|) of softplus, √(z̄² + 4) of squareplus.
pub(crate) fn part_of<T: Real>(activation: ConvexActivation, z: T) -> T {
    match activation {
        ConvexActivation::Softplus => above_kink(z),
        ConvexActivation::Squareplus => root(z),
    }
}

/// (s(z̄ + δ) − s(z̄), s′(z̄ + δ)) without cancellation, from one exponential or one root.
#[inline(always)]
fn rise_and_slope<T: Real>(softplus: bool, z0: T, part: T, delta: T) -> (T, T) {
    let z = z0 + delta;
    if softplus {
        let e = (-z.abs()).exp_fast();
        let slope = (if z < T::ZERO { e } else { T::ONE }) / (T::ONE + e);
        // max(z, 0) − max(z̄, 0), in which a large z̄ has already cancelled.
        let kinked = (delta + z0.min(T::ZERO)).max(-z0.max(T::ZERO));
        (kinked + (e.ln_1p_unit() - part), slope)
    } else {
        let (half, root) = (T::from_f64(0.5), root(z));
        // √(z² + 4) − √(z̄² + 4) = (z − z̄)(z + z̄)/(√… + √…)
        let secant = (z + z0) / (root + part);
        (delta * (half + half * secant), half + half * z / root)
    }
}

/// From increments δ of a layer, row by row, to rises (in place) and slopes; adds ⟨c, r − s′(z̄)∘δ⟩ to the values.
pub(crate) fn units<T: Real>(
    activation: ConvexActivation,
    shared: &Shared<'_, T>,
    delta: &mut [T],
    slopes: &mut [T],
    values: &mut [T],
) {
    match activation {
        ConvexActivation::Softplus => softplus_units(shared, delta, slopes, values),
        ConvexActivation::Squareplus => squareplus_units(shared, delta, slopes, values),
    }
}

vectorized! {
    fn softplus_units<T: Real>(shared: &Shared<'_, T>, delta: &mut [T], slopes: &mut [T], values: &mut [T]) {
        all_units(true, shared, delta, slopes, values);
    }
}

vectorized! {
    fn squareplus_units<T: Real>(shared: &Shared<'_, T>, delta: &mut [T], slopes: &mut [T], values: &mut [T]) {
        all_units(false, shared, delta, slopes, values);
    }
}

#[inline(always)]
fn all_units<T: Real>(
    softplus: bool,
    shared: &Shared<'_, T>,
    delta: &mut [T],
    slopes: &mut [T],
    values: &mut [T],
) {
    const LANES: usize = 16;
    let k = shared.z.len();
    let whole = k - k % LANES;
    for ((delta, slopes), value) in delta.chunks_exact_mut(k).zip(slopes.chunks_exact_mut(k)).zip(values) {
        let mut lanes = [T::ZERO; LANES];
        for at in (0..whole).step_by(LANES) {
            let z = &shared.z[at..at + LANES];
            let part = &shared.part[at..at + LANES];
            let slope0 = &shared.slope[at..at + LANES];
            let weight = &shared.weight[at..at + LANES];
            let delta = &mut delta[at..at + LANES];
            let slopes = &mut slopes[at..at + LANES];
            for l in 0..LANES {
                let (rise, slope) = rise_and_slope(softplus, z[l], part[l], delta[l]);
                lanes[l] += weight[l] * (rise - slope0[l] * delta[l]);
                delta[l] = rise;
                slopes[l] = slope;
            }
        }
        let mut sum = T::ZERO;
        for lane in lanes {
            sum += lane;
        }
        for at in whole..k {
            let (rise, slope) = rise_and_slope(softplus, shared.z[at], shared.part[at], delta[at]);
            sum += shared.weight[at] * (rise - shared.slope[at] * delta[at]);
            delta[at] = rise;
            slopes[at] = slope;
        }
        *value += sum;
    }
}
