//! The activations of a unit, as increments from what the pivot gives, and loops over rows of units.

use super::ConvexActivation;
use crate::cpu::vectorized;
use crate::real::Real;
use crate::softplus::{Rise, above_kink, rise_from, sigmoid_of};

/// s′(z).
#[inline(always)]
pub(crate) fn slope_of<T: Real>(activation: ConvexActivation, z: T) -> T {
    match activation {
        ConvexActivation::Softplus => sigmoid_of(z),
        ConvexActivation::Squareplus => squareplus_slope(z, root(z)),
    }
}

/// s(z).
#[inline(always)]
pub(crate) fn value_of<T: Real>(activation: ConvexActivation, z: T) -> T {
    match activation {
        ConvexActivation::Softplus => z.max(T::ZERO) + above_kink(z),
        ConvexActivation::Squareplus => squareplus(z, root(z)),
    }
}

/// (z + R)/2 with R = √(z² + 4); left of the knee 2/(R − z), which keeps the digits of a small value.
#[inline(always)]
fn squareplus<T: Real>(z: T, root: T) -> T {
    let sum = root + z.abs();
    if z < T::ZERO { T::from_f64(2.0) / sum } else { T::from_f64(0.5) * sum }
}

/// (1 + z/R)/2; left of the knee 2/(R(R − z)).
#[inline(always)]
fn squareplus_slope<T: Real>(z: T, root: T) -> T {
    let tail = T::from_f64(2.0) / (root * (root + z.abs()));
    if z < T::ZERO { tail } else { T::ONE - tail }
}

/// s″ from s′ or 1 − s′, the same for all z of that slope.
#[inline(always)]
pub(crate) fn curvature_of<T: Real>(activation: ConvexActivation, slope: T) -> T {
    let product = slope * (T::ONE - slope);
    match activation {
        ConvexActivation::Softplus => product,
        // With t = z/√(z² + 4) = 2s′ − 1: s″ = 2(z² + 4)^−3/2 = (1 − t²)^3/2 / 4, and 1 − t² = 4s′(1 − s′).
        // Rounding may have left 1 − s′ below 0.
        ConvexActivation::Squareplus => {
            let product = product.max(T::ZERO);
            T::from_f64(2.0) * product * product.sqrt()
        }
    }
}

/// s′(−|z|), which is 1 − s′(z) right of the knee.
pub(crate) fn tail_of<T: Real>(activation: ConvexActivation, z: T) -> T {
    slope_of(activation, -z.abs())
}

#[inline(always)]
fn root<T: Real>(z: T) -> T {
    (z * z + T::from_f64(4.0)).sqrt()
}

/// What all rows share of a unit: z̄, the part of s(z̄) that increments need, s′(−|z̄|), and c.
pub(crate) struct Shared<'a, T> {
    pub z: &'a [T],
    pub part: &'a [T],
    pub tail: &'a [T],
    pub weight: &'a [T],
}

/// log(1 + e^−|z̄|) of softplus, √(z̄² + 4) of squareplus.
pub(crate) fn part_of<T: Real>(activation: ConvexActivation, z: T) -> T {
    match activation {
        ConvexActivation::Softplus => above_kink(z),
        ConvexActivation::Squareplus => root(z),
    }
}

/// What a unit gives for an increment δ from z̄.
struct Risen<T> {
    /// s(z̄ + δ) − s(z̄).
    rise: T,
    /// Its divergence, the rise less s′(z̄)·δ.
    bend: T,
    /// s′(z̄ + δ) − s′(z̄).
    growth: T,
}

/// All three to the relative precision of the increment, from one exponential or one root.
///
/// s(z) − z = s(−z) for both activations, and no divergence changes by the affine z. So a softplus unit right of its
/// knee, where s is z and next to nothing besides, is looked at as the mirrored one, which is that nothing.
#[inline(always)]
fn risen<T: Real>(softplus: bool, z0: T, part: T, tail0: T, delta: T) -> Risen<T> {
    if softplus {
        let right = z0 > T::ZERO;
        let Rise { rise, bend, growth } =
            rise_from(-z0.abs(), tail0, part, if right { -delta } else { delta });
        return Risen {
            rise: if right { rise + delta } else { rise },
            bend,
            growth: if right { -growth } else { growth },
        };
    }
    let z = z0 + delta;
    let (half, root, root0) = (T::from_f64(0.5), root(z), part);
    let sum = root + root0;
    // R − R₀ = δ(z + z₀)/(R + R₀), so the rise is δ(s(z) + s(z₀))/(R + R₀), in which nothing cancels.
    let rise = delta * (squareplus(z, root) + squareplus(z0, root0)) / sum;
    // zR₀ − z₀R = δ(RR₀ − zz₀ + 4)/(R + R₀), and the slope's growth is half of that over RR₀; where z and z₀ lie on
    // one side, RR₀ − zz₀ = (4z² + 4z₀² + 16)/(RR₀ + zz₀).
    let (product, roots) = (z * z0, root * root0);
    let size = roots + product.abs();
    let four = T::from_f64(4.0);
    let together = four * (z * z + z0 * z0 + four) / size;
    let apart = if product < T::ZERO { size } else { together };
    let turn = delta * (apart + four) / sum;
    let bend = half * delta * turn / (sum * root0);
    Risen { rise, bend, growth: half * turn / roots }
}

/// From increments δ of a layer, row by row, to rises (in place), bends r − s′(z̄)∘δ and growths of the slope; adds
/// ⟨c, bend⟩ to the values.
pub(crate) fn units<T: Real>(
    activation: ConvexActivation,
    shared: &Shared<'_, T>,
    delta: &mut [T],
    bends: &mut [T],
    growths: &mut [T],
    values: &mut [T],
) {
    match activation {
        ConvexActivation::Softplus => softplus_units(shared, delta, bends, growths, values),
        ConvexActivation::Squareplus => squareplus_units(shared, delta, bends, growths, values),
    }
}

vectorized! {
    fn softplus_units<T: Real>(shared: &Shared<'_, T>, delta: &mut [T], bends: &mut [T], growths: &mut [T], values: &mut [T]) {
        all_units(true, shared, delta, bends, growths, values);
    }
}

vectorized! {
    fn squareplus_units<T: Real>(shared: &Shared<'_, T>, delta: &mut [T], bends: &mut [T], growths: &mut [T], values: &mut [T]) {
        all_units(false, shared, delta, bends, growths, values);
    }
}

#[inline(always)]
fn all_units<T: Real>(
    softplus: bool,
    shared: &Shared<'_, T>,
    delta: &mut [T],
    bends: &mut [T],
    growths: &mut [T],
    values: &mut [T],
) {
    const LANES: usize = 16;
    let k = shared.z.len();
    let whole = k - k % LANES;
    let rows = delta.chunks_exact_mut(k).zip(bends.chunks_exact_mut(k)).zip(growths.chunks_exact_mut(k));
    for (((delta, bends), growths), value) in rows.zip(values) {
        let mut lanes = [T::ZERO; LANES];
        for at in (0..whole).step_by(LANES) {
            let z = &shared.z[at..at + LANES];
            let part = &shared.part[at..at + LANES];
            let tail0 = &shared.tail[at..at + LANES];
            let weight = &shared.weight[at..at + LANES];
            let delta = &mut delta[at..at + LANES];
            let bends = &mut bends[at..at + LANES];
            let growths = &mut growths[at..at + LANES];
            for l in 0..LANES {
                let unit = risen(softplus, z[l], part[l], tail0[l], delta[l]);
                lanes[l] += weight[l] * unit.bend;
                delta[l] = unit.rise;
                bends[l] = unit.bend;
                growths[l] = unit.growth;
            }
        }
        let mut sum = T::ZERO;
        for lane in lanes {
            sum += lane;
        }
        for at in whole..k {
            let unit = risen(softplus, shared.z[at], shared.part[at], shared.tail[at], delta[at]);
            sum += shared.weight[at] * unit.bend;
            delta[at] = unit.rise;
            bends[at] = unit.bend;
            growths[at] = unit.growth;
        }
        *value += sum;
    }
}
