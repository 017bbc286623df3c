//! The backward pass: over blocks of rows, then what their parameters change at the pivot.
//!
//! With g the gradient of the values and q that of the gradients, from the first layer to the last
//!
//! u̇_l = W_l q + P_l(s′_{l−1}∘u̇_{l−1}),
//!
//! then, with A_l = c_l + a_l, from the last to the first
//!
//! e_l = P_{l+1}ᵀ δ̇_{l+1},  δ̇_l = s″_l∘A_l∘u̇_l + g·c_l∘ρ_l + s′_l∘e_l,
//!
//! and ẋ = Σ_l W_lᵀδ̇_l + ε(g·x̃ + q), Ẇ_l = Σ_i δ̇_l x̃ᵀ + u_l qᵀ, Ṗ_{l+1} = Σ_i δ̇_{l+1} r_lᵀ + u_{l+1}(s′_l∘u̇_l)ᵀ.

use super::ConvexActivation;
use super::forward::{Block, Network, Pivot, product, transposed_product};
use super::unit::curvature_of;
use crate::buffer::Buffer;
use crate::cpu::{Matrix, gemm, vectorized};
use crate::real::Real;
use crate::softplus::sigmoid_of;

/// Sums over rows of what the parameters' gradients are made of, an entry a layer.
pub(crate) struct Gradients<T> {
    input: Vec<Vec<T>>,  // Ẇ_l
    hidden: Vec<Vec<T>>, // Ṗ_l, l ≥ 1, at l − 1
    delta: Vec<Vec<T>>,  // Σ δ̇_l − s′(z̄_l)∘e_l
    up: Vec<Vec<T>>,     // Σ u̇_l
    turn: Vec<Vec<T>>,   // Σ ρ_l∘u̇_l
    bend: Vec<Vec<T>>,   // Σ g·(r_l − s′(z̄_l)∘δ_l)
    shift: Vec<T>,       // Σ g·x̃
}

impl<T: Real> Gradients<T> {
    pub(crate) fn new(network: &Network<T>) -> Self {
        let a_layer = || network.widths.iter().map(|&k| vec![T::ZERO; k]).collect::<Vec<_>>();
        Self {
            input: network.input.iter().map(|w| vec![T::ZERO; w.len()]).collect(),
            hidden: network.hidden.iter().map(|w| vec![T::ZERO; w.len()]).collect(),
            delta: a_layer(),
            up: a_layer(),
            turn: a_layer(),
            bend: a_layer(),
            shift: vec![T::ZERO; network.d],
        }
    }

    /// The sums of both, these first.
    pub(crate) fn add(mut self, other: Self) -> Self {
        fn add_all<T: Real>(a: &mut [Vec<T>], b: &[Vec<T>]) {
            a.iter_mut().zip(b).for_each(|(a, b)| add(a, b));
        }
        add_all(&mut self.input, &other.input);
        add_all(&mut self.hidden, &other.hidden);
        add_all(&mut self.delta, &other.delta);
        add_all(&mut self.up, &other.up);
        add_all(&mut self.turn, &other.turn);
        add_all(&mut self.bend, &other.bend);
        add(&mut self.shift, &other.shift);
        self
    }

    /// Adds a block's share and sets `to_x`, given the gradients of its values and gradients.
    pub(crate) fn add_block(
        &mut self,
        network: &Network<T>,
        pivot: &Pivot<T>,
        block: &Block<T>,
        on_value: &[T],
        on_grad: &[T],
        to_x: &mut [T],
    ) {
        let (rows, d, layers) = (on_value.len(), network.d, network.layers());
        let q = Matrix::new(on_grad, rows, d);
        let shift = Matrix::new(&block.shift, rows, d);
        let mut up: Vec<Buffer<T>> = Vec::with_capacity(layers); // u̇_l
        let mut carried: Buffer<T> = Buffer::stale(0); // s′_{l−1}∘u̇_{l−1}
        for l in 0..layers {
            let k = network.widths[l];
            let mut u = Buffer::stale(rows * k);
            gemm(&mut u, q, network.input(l).t(), false, false);
            if l > 0 {
                let below = network.widths[l - 1];
                gemm(&mut u, Matrix::new(&carried, rows, below), network.hidden(l).t(), true, false);
                let above = Matrix::new(&block.upstream[l], rows, k).t();
                gemm(&mut self.hidden[l - 1], above, Matrix::new(&carried, rows, below), true, false);
            }
            if l + 1 < layers {
                carried = Buffer::stale(rows * k);
                carry(&mut carried, &u, &block.growth[l], &pivot.slope[l]);
            }
            turns(&u, &block.growth[l], &mut self.up[l], &mut self.turn[l]);
            up.push(u);
        }
        set_shifts(to_x, &block.shift, on_value, on_grad, network.curvature, &mut self.shift);
        let mut above: Buffer<T> = Buffer::stale(0); // δ̇_{l+1}
        for (l, mut delta) in up.into_iter().enumerate().rev() {
            let k = network.widths[l];
            let sums = Sums { delta: &mut self.delta[l], bend: &mut self.bend[l] };
            let layer = Layer {
                bend: &block.bend[l],
                growth: &block.growth[l],
                z0: &pivot.z[l],
                tail0: &pivot.tail[l],
                slope0: &pivot.slope[l],
                weight: &pivot.weight[l],
                on_value,
            };
            if l + 1 < layers {
                let mut e = Buffer::stale(rows * k);
                gemm(
                    &mut e,
                    Matrix::new(&above, rows, network.widths[l + 1]),
                    network.hidden(l + 1),
                    false,
                    false,
                );
                deltas(network.activation, &layer, &block.adjoint[l], &e, &mut delta, sums);
            } else {
                last_deltas(network.activation, &layer, &mut delta, sums);
            }
            let of_delta = Matrix::new(&delta, rows, k);
            gemm(&mut self.input[l], of_delta.t(), shift, true, false);
            gemm(&mut self.input[l], Matrix::new(&block.upstream[l], rows, k).t(), q, true, false);
            gemm(to_x, of_delta, network.input(l), true, false);
            if l > 0 {
                let below = Matrix::new(&block.rise[l - 1], rows, network.widths[l - 1]);
                gemm(&mut self.hidden[l - 1], of_delta.t(), below, true, false);
            }
            above = delta;
        }
    }

    /// The parameters' gradients in the order of the arguments: W_l, b_l, V_l, v.
    ///
    /// The pivot's pass in reverse: c_{l−1} = P_lᵀ(c_l∘s̄′_l) from the first layer to the last, then
    /// z̄_l = W_l μ + b_l + P_l h̄_{l−1} from the last to the first.
    pub(crate) fn finish(self, network: &Network<T>, pivot: &Pivot<T>) -> Vec<Vec<T>> {
        let layers = network.layers();
        let Self { mut input, mut hidden, delta, up, turn, bend, shift } = self;
        let (mut to_slope, mut to_weight) = (Vec::with_capacity(layers), Vec::with_capacity(layers));
        let mut rise: Vec<T> = Vec::new(); // Σ g·r_{l−1}
        for l in 0..layers {
            let k = network.widths[l];
            let mut on_delta = vec![T::ZERO; k]; // Σ g·δ_l
            product(&mut on_delta, &network.input[l], &shift);
            if l > 0 {
                product(&mut on_delta, &network.hidden[l - 1], &rise);
            }
            let (slope0, weight) = (&pivot.slope[l], &pivot.weight[l]);
            rise = (0..k).map(|j| bend[l][j] + slope0[j] * on_delta[j]).collect();
            to_slope.push((0..k).map(|j| -weight[j] * (up[l][j] + on_delta[j])).collect::<Vec<T>>());
            to_weight.push((0..k).map(|j| turn[l][j] + bend[l][j]).collect::<Vec<T>>());
        }
        for l in 1..layers {
            let mut to_through = vec![T::ZERO; network.widths[l]];
            product(&mut to_through, &network.hidden[l - 1], &to_weight[l - 1]);
            outer(&mut hidden[l - 1], &pivot.through(l), &to_weight[l - 1]);
            for (j, &t) in to_through.iter().enumerate() {
                to_weight[l][j] += t * pivot.slope[l][j];
                to_slope[l][j] += t * pivot.weight[l][j];
            }
        }
        let mut bias = vec![Vec::new(); layers];
        let mut on_h: Vec<T> = Vec::new(); // ∂/∂h̄_l
        for l in (0..layers).rev() {
            let slope0 = &pivot.slope[l];
            let to_z: Vec<T> = (0..network.widths[l])
                .map(|j| {
                    let bend = curvature_of(network.activation, pivot.tail[l][j]);
                    delta[l][j] + bend * to_slope[l][j] + on_h.get(j).map_or(T::ZERO, |&h| slope0[j] * h)
                })
                .collect();
            outer(&mut input[l], &to_z, &pivot.at);
            if l > 0 {
                outer(&mut hidden[l - 1], &to_z, &pivot.h[l - 1]);
                on_h = vec![T::ZERO; network.widths[l - 1]];
                transposed_product(&mut on_h, &network.hidden[l - 1], &to_z);
            }
            bias[l] = to_z;
        }
        let mut top = to_weight.pop().unwrap_or_default();
        through_softplus(&mut top, &network.raw_top);
        for (gradient, raw) in hidden.iter_mut().zip(&network.raw) {
            through_softplus(gradient, raw);
        }
        input.into_iter().chain(bias).chain(hidden).chain([top]).collect()
    }
}

vectorized! {
    fn add<T: Real>(a: &mut [T], b: &[T]) {
        a.iter_mut().zip(b).for_each(|(a, &b)| *a += b);
    }
}

vectorized! {
    /// `out += a·bᵀ`.
    fn outer<T: Real>(out: &mut [T], a: &[T], b: &[T]) {
        for (out, &a) in out.chunks_exact_mut(b.len()).zip(a) {
            out.iter_mut().zip(b).for_each(|(o, &b)| *o += a * b);
        }
    }
}

vectorized! {
    /// From the gradient of softplus(raw) to that of raw.
    fn through_softplus<T: Real>(gradient: &mut [T], raw: &[T]) {
        gradient.iter_mut().zip(raw).for_each(|(g, &v)| *g = *g * sigmoid_of(v));
    }
}

vectorized! {
    fn carry<T: Real>(out: &mut [T], up: &[T], growth: &[T], slope0: &[T]) {
        let k = slope0.len();
        let rows = up.chunks_exact(k).zip(growth.chunks_exact(k));
        for (out, (up, growth)) in out.chunks_exact_mut(k).zip(rows) {
            for (((o, &u), &r), &s0) in out.iter_mut().zip(up).zip(growth).zip(slope0) {
                *o = u * (s0 + r);
            }
        }
    }
}

vectorized! {
    /// Adds Σ u̇ and Σ ρ∘u̇.
    fn turns<T: Real>(up: &[T], growth: &[T], sum: &mut [T], turn: &mut [T]) {
        let k = sum.len();
        let turn = &mut turn[..k];
        for (up, growth) in up.chunks_exact(k).zip(growth.chunks_exact(k)) {
            for j in 0..k {
                sum[j] += up[j];
                turn[j] += up[j] * growth[j];
            }
        }
    }
}

vectorized! {
    /// ε(g·x̃ + q) and Σ g·x̃.
    fn set_shifts<T: Real>(
        to_x: &mut [T],
        shift: &[T],
        on_value: &[T],
        on_grad: &[T],
        curvature: T,
        sum: &mut [T],
    ) {
        let d = sum.len();
        let rows = shift.chunks_exact(d).zip(on_grad.chunks_exact(d)).zip(on_value);
        for (to_x, ((shift, q), &g)) in to_x.chunks_exact_mut(d).zip(rows) {
            for (((o, &x), &q), sum) in to_x.iter_mut().zip(shift).zip(q).zip(&mut *sum) {
                let gx = g * x;
                *o = curvature * (gx + q);
                *sum += gx;
            }
        }
    }
}

/// What a layer gives its rows.
pub(crate) struct Layer<'a, T> {
    bend: &'a [T],
    growth: &'a [T],
    z0: &'a [T],
    tail0: &'a [T],
    slope0: &'a [T],
    weight: &'a [T],
    on_value: &'a [T],
}

/// Σ δ̇ − s′(z̄)∘e and Σ g·(r − s′(z̄)∘δ) of a layer.
pub(crate) struct Sums<'a, T> {
    delta: &'a mut [T],
    bend: &'a mut [T],
}

/// s″(z) from the growth of the slope: it has the digits of s′, or of 1 − s′ where the pivot lies right of the knee.
#[inline(always)]
fn curvature_at<T: Real>(activation: ConvexActivation, z0: T, tail0: T, growth: T) -> T {
    curvature_of(activation, tail0 + if z0 > T::ZERO { -growth } else { growth })
}

vectorized! {
    /// u̇ → δ̇ in place, with the sums over rows.
    fn deltas<T: Real>(
        activation: ConvexActivation,
        layer: &Layer<'_, T>,
        adjoint: &[T],
        below: &[T],
        delta: &mut [T],
        sums: Sums<'_, T>,
    ) {
        let k = layer.weight.len();
        let (weight, z0) = (&layer.weight[..k], &layer.z0[..k]);
        let (tail0, slope0) = (&layer.tail0[..k], &layer.slope0[..k]);
        let (to_delta, to_bend) = (&mut sums.delta[..k], &mut sums.bend[..k]);
        for (i, &g) in layer.on_value.iter().enumerate() {
            let bend = &layer.bend[i * k..][..k];
            let growth = &layer.growth[i * k..][..k];
            let adjoint = &adjoint[i * k..][..k];
            let below = &below[i * k..][..k];
            let delta = &mut delta[i * k..][..k];
            for j in 0..k {
                let (r, c, e) = (growth[j], weight[j], below[j]);
                let curvature = curvature_at(activation, z0[j], tail0[j], r);
                let own = curvature * (c + adjoint[j]) * delta[j] + g * c * r + r * e;
                delta[j] = own + slope0[j] * e;
                to_delta[j] += own;
                to_bend[j] += g * bend[j];
            }
        }
    }
}

vectorized! {
    /// The same in the last layer, where a and e are 0.
    fn last_deltas<T: Real>(
        activation: ConvexActivation,
        layer: &Layer<'_, T>,
        delta: &mut [T],
        sums: Sums<'_, T>,
    ) {
        let k = layer.weight.len();
        let (weight, z0, tail0) = (&layer.weight[..k], &layer.z0[..k], &layer.tail0[..k]);
        let (to_delta, to_bend) = (&mut sums.delta[..k], &mut sums.bend[..k]);
        for (i, &g) in layer.on_value.iter().enumerate() {
            let bend = &layer.bend[i * k..][..k];
            let growth = &layer.growth[i * k..][..k];
            let delta = &mut delta[i * k..][..k];
            for j in 0..k {
                let (r, c) = (growth[j], weight[j]);
                let v = curvature_at(activation, z0[j], tail0[j], r) * c * delta[j] + g * c * r;
                delta[j] = v;
                to_delta[j] += v;
                to_bend[j] += g * bend[j];
            }
        }
    }
}
