//! The forward pass: over the pivot, then over blocks of rows.

use candle_core::{Result, Tensor};

use super::unit::{Shared, part_of, slope_of, tail_of, units, value_of};
use super::{ConvexActivation, Element, Op, values};
use crate::buffer::Buffer;
use crate::cpu::{Matrix, gemm, map, vectorized};
use crate::real::Real;
use crate::softplus::softplus_of;

/// The parameters, row-major.
pub(crate) struct Network<T> {
    pub d: usize,
    pub widths: Vec<usize>,
    /// W_l, `[k_l, d]`.
    pub input: Vec<Vec<T>>,
    /// b_l.
    pub bias: Vec<Vec<T>>,
    /// V_l, for l ≥ 1, at l − 1.
    pub raw: Vec<Vec<T>>,
    /// P_l = softplus(V_l) `[k_l, k_{l−1}]`, for l ≥ 1, at l − 1.
    pub hidden: Vec<Vec<T>>,
    /// v and softplus(v).
    pub raw_top: Vec<T>,
    pub top: Vec<T>,
    pub activation: ConvexActivation,
    pub curvature: T,
}

impl<T: Real> Network<T> {
    /// From the arguments after x: W_l, b_l, V_l, v.
    pub(crate) fn new(op: &Op, args: &[Tensor]) -> Result<Self> {
        let layers = op.widths.len();
        let read = |from: usize, count: usize| -> Result<Vec<Vec<T>>> {
            args[from..][..count].iter().map(values).collect()
        };
        let raw = read(2 * layers, layers - 1)?;
        let raw_top: Vec<T> = values(&args[3 * layers - 1])?;
        Ok(Self {
            d: op.d,
            widths: op.widths.clone(),
            input: read(0, layers)?,
            bias: read(layers, layers)?,
            hidden: raw.iter().map(|v| map(v, softplus_of::<T>)).collect(),
            raw,
            top: map(&raw_top, softplus_of::<T>),
            raw_top,
            activation: op.activation,
            curvature: T::from_f64(op.curvature),
        })
    }

    pub(crate) fn layers(&self) -> usize {
        self.widths.len()
    }

    /// W_l.
    pub(crate) fn input(&self, l: usize) -> Matrix<'_, T> {
        Matrix::new(&self.input[l], self.widths[l], self.d)
    }

    /// P_l, l ≥ 1.
    pub(crate) fn hidden(&self, l: usize) -> Matrix<'_, T> {
        Matrix::new(&self.hidden[l - 1], self.widths[l], self.widths[l - 1])
    }
}

/// What one pass over the pivot leaves behind, an entry a layer.
pub(crate) struct Pivot<T> {
    /// μ.
    pub at: Vec<T>,
    /// z̄_l.
    pub z: Vec<Vec<T>>,
    /// What increments need of s(z̄_l).
    pub part: Vec<Vec<T>>,
    /// h̄_l = s(z̄_l).
    pub h: Vec<Vec<T>>,
    /// s′(z̄_l).
    pub slope: Vec<Vec<T>>,
    /// s′(−|z̄_l|): s′(z̄_l) left of the knee, and right of it what it lacks of 1.
    pub tail: Vec<Vec<T>>,
    /// c_l = ∂φ/∂h_l.
    pub weight: Vec<Vec<T>>,
}

impl<T: Element> Pivot<T> {
    /// In f64: far from the origin a pre-activation is a small difference of large terms, and all rows share it.
    pub(crate) fn new(network: &Network<T>, at: &[T]) -> Self {
        let layers = network.layers();
        let s = network.activation;
        let wide = |values: &[T]| -> Vec<f64> { values.iter().map(|v| v.wide()).collect() };
        let point = wide(at);
        let mut z_all: Vec<Vec<f64>> = Vec::with_capacity(layers);
        let mut h: Vec<Vec<f64>> = Vec::with_capacity(layers);
        let mut slope: Vec<Vec<f64>> = Vec::with_capacity(layers);
        for l in 0..layers {
            let mut z = wide(&network.bias[l]);
            add_wide_product(&mut z, &network.input[l], &point);
            if l > 0 {
                add_wide_product(&mut z, &network.hidden[l - 1], &h[l - 1]);
            }
            h.push(z.iter().map(|&z| value_of(s, z)).collect());
            slope.push(z.iter().map(|&z| slope_of(s, z)).collect());
            z_all.push(z);
        }
        let mut weight = vec![Vec::new(); layers];
        weight[layers - 1] = wide(&network.top);
        for l in (1..layers).rev() {
            let through: Vec<f64> = weight[l].iter().zip(&slope[l]).map(|(&c, &s)| c * s).collect();
            let mut below = vec![0.0; network.widths[l - 1]];
            add_wide_transposed(&mut below, &network.hidden[l - 1], &through);
            weight[l - 1] = below;
        }
        let narrow = |all: &[Vec<f64>]| -> Vec<Vec<T>> {
            all.iter().map(|values| values.iter().map(|&v| T::from_f64(v)).collect()).collect()
        };
        let z = narrow(&z_all);
        // Of the rounded z̄, which is the one that increments start from.
        let each = |f: fn(ConvexActivation, T) -> T| -> Vec<Vec<T>> {
            z.iter().map(|z| z.iter().map(|&z| f(s, z)).collect()).collect()
        };
        let (part, tail) = (each(part_of), each(tail_of));
        Self { at: at.to_vec(), part, tail, h: narrow(&h), slope: narrow(&slope), weight: narrow(&weight), z }
    }
}

vectorized! {
    /// `out += m·v` in f64, m row-major `[out, v]`.
    fn add_wide_product<T: Element>(out: &mut [f64], m: &[T], v: &[f64]) {
        for (out, row) in out.iter_mut().zip(m.chunks_exact(v.len())) {
            let mut lanes = [0f64; 16];
            let (rows, vs) = (row.chunks_exact(16), v.chunks_exact(16));
            let mut sum = *out;
            for (&m, &v) in rows.remainder().iter().zip(vs.remainder()) {
                sum += m.wide() * v;
            }
            for (row, v) in rows.zip(vs) {
                for l in 0..16 {
                    lanes[l] += row[l].wide() * v[l];
                }
            }
            for lane in lanes {
                sum += lane;
            }
            *out = sum;
        }
    }
}

vectorized! {
    /// `out += mᵀ·v` in f64, m row-major `[v, out]`.
    fn add_wide_transposed<T: Element>(out: &mut [f64], m: &[T], v: &[f64]) {
        for (row, &v) in m.chunks_exact(out.len()).zip(v) {
            for (out, &m) in out.iter_mut().zip(row) {
                *out += m.wide() * v;
            }
        }
    }
}

impl<T: Real> Pivot<T> {
    /// c_l∘s′(z̄_l).
    pub(crate) fn through(&self, l: usize) -> Vec<T> {
        self.weight[l].iter().zip(&self.slope[l]).map(|(&c, &s)| c * s).collect()
    }

    fn shared(&self, l: usize) -> Shared<'_, T> {
        Shared { z: &self.z[l], part: &self.part[l], tail: &self.tail[l], weight: &self.weight[l] }
    }
}

vectorized! {
    /// `out += m·v`, m row-major `[out, v]`.
    fn add_product<T: Real>(out: &mut [T], m: &[T], v: &[T]) {
        for (out, row) in out.iter_mut().zip(m.chunks_exact(v.len())) {
            let mut lanes = [T::ZERO; 16];
            let (rows, vs) = (row.chunks_exact(16), v.chunks_exact(16));
            let mut sum = *out;
            for (&m, &v) in rows.remainder().iter().zip(vs.remainder()) {
                sum += m * v;
            }
            for (row, v) in rows.zip(vs) {
                for l in 0..16 {
                    lanes[l] += row[l] * v[l];
                }
            }
            for lane in lanes {
                sum += lane;
            }
            *out = sum;
        }
    }
}

vectorized! {
    /// `out += mᵀ·v`, m row-major `[v, out]`.
    fn add_transposed<T: Real>(out: &mut [T], m: &[T], v: &[T]) {
        for (row, &v) in m.chunks_exact(out.len()).zip(v) {
            for (out, &m) in out.iter_mut().zip(row) {
                *out += m * v;
            }
        }
    }
}

/// What a block of rows leaves behind, `[rows, k_l]` a layer.
pub(crate) struct Block<T: Real> {
    /// x̃, `[rows, d]`.
    pub shift: Buffer<T>,
    /// r_l.
    pub rise: Vec<Buffer<T>>,
    /// r_l − s′(z̄_l)∘δ_l.
    pub bend: Vec<Buffer<T>>,
    /// ρ_l; s′(z_l) is s′(z̄_l) more.
    pub growth: Vec<Buffer<T>>,
    /// u_l.
    pub upstream: Vec<Buffer<T>>,
    /// a_l, for all layers but the last.
    pub adjoint: Vec<Buffer<T>>,
}

impl<T: Real> Block<T> {
    /// The pass over the rows of `x`; sets `value` and `grad`, which hold zeros.
    pub(crate) fn new(
        network: &Network<T>,
        pivot: &Pivot<T>,
        x: &[T],
        value: &mut [T],
        grad: &mut [T],
    ) -> Self {
        let (rows, d, layers) = (value.len(), network.d, network.layers());
        let mut shift = Buffer::stale(x.len());
        shift_and_square(&mut shift, x, &pivot.at, network.curvature, value);
        let of_shift = Matrix::new(&shift, rows, d);
        let [mut rise, mut bend, mut growth]: [Vec<Buffer<T>>; 3] = std::array::from_fn(|_| Vec::new());
        for l in 0..layers {
            let k = network.widths[l];
            let mut delta = Buffer::stale(rows * k);
            gemm(&mut delta, of_shift, network.input(l).t(), false, false);
            if l > 0 {
                let below = Matrix::new(&rise[l - 1], rows, network.widths[l - 1]);
                gemm(&mut delta, below, network.hidden(l).t(), true, false);
            }
            let (mut bends, mut growths) = (Buffer::stale(rows * k), Buffer::stale(rows * k));
            units(network.activation, &pivot.shared(l), &mut delta, &mut bends, &mut growths, value);
            rise.push(delta);
            bend.push(bends);
            growth.push(growths);
        }
        let mut upstream: Vec<Buffer<T>> = (0..layers).map(|_| Buffer::stale(0)).collect();
        let mut adjoint: Vec<Buffer<T>> = (1..layers).map(|_| Buffer::stale(0)).collect();
        grad.iter_mut().zip(&*shift).for_each(|(g, &x)| *g = network.curvature * x);
        for l in (0..layers).rev() {
            let k = network.widths[l];
            let mut u = Buffer::stale(rows * k);
            if l + 1 < layers {
                let mut a = Buffer::stale(rows * k);
                let above = Matrix::new(&upstream[l + 1], rows, network.widths[l + 1]);
                gemm(&mut a, above, network.hidden(l + 1), false, false);
                flow(&mut u, &growth[l], &a, &pivot.slope[l], &pivot.weight[l]);
                adjoint[l] = a;
            } else {
                begin_flow(&mut u, &growth[l], &pivot.weight[l]);
            }
            gemm(grad, Matrix::new(&u, rows, k), network.input(l), true, false);
            upstream[l] = u;
        }
        Self { shift, rise, bend, growth, upstream, adjoint }
    }
}

vectorized! {
    /// x̃ = x − μ and ε/2‖x̃‖², row by row.
    fn shift_and_square<T: Real>(shift: &mut [T], x: &[T], pivot: &[T], curvature: T, squares: &mut [T]) {
        let d = pivot.len();
        for ((shift, x), square) in shift.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(squares) {
            for ((s, &x), &p) in shift.iter_mut().zip(x).zip(pivot) {
                *s = x - p;
            }
            let mut lanes = [T::ZERO; 16];
            let chunks = shift.chunks_exact(16);
            let mut sum = T::ZERO;
            for &s in chunks.remainder() {
                sum += s * s;
            }
            for chunk in chunks {
                for l in 0..16 {
                    lanes[l] += chunk[l] * chunk[l];
                }
            }
            for lane in lanes {
                sum += lane;
            }
            *square = T::from_f64(0.5) * curvature * sum;
        }
    }
}

vectorized! {
    /// u = c∘ρ + a∘s′.
    fn flow<T: Real>(u: &mut [T], growth: &[T], adjoint: &[T], slope0: &[T], weight: &[T]) {
        let k = weight.len();
        let rows = growth.chunks_exact(k).zip(adjoint.chunks_exact(k));
        for (u, (growth, adjoint)) in u.chunks_exact_mut(k).zip(rows) {
            for ((((u, &r), &a), &s0), &c) in u.iter_mut().zip(growth).zip(adjoint).zip(slope0).zip(weight) {
                *u = c * r + a * (s0 + r);
            }
        }
    }
}

vectorized! {
    /// u = c∘ρ, in the last layer.
    fn begin_flow<T: Real>(u: &mut [T], growth: &[T], weight: &[T]) {
        let k = weight.len();
        for (u, growth) in u.chunks_exact_mut(k).zip(growth.chunks_exact(k)) {
            for ((u, &r), &c) in u.iter_mut().zip(growth).zip(weight) {
                *u = c * r;
            }
        }
    }
}

pub(crate) use {add_product as product, add_transposed as transposed_product};
