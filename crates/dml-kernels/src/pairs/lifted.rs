//! Divergences of all pairs from lifted rows: D_ij = a_i + b_j − ⟨u_i, v_j⟩, one matrix product.
//!
//! With φ_μ and ∇φ_μ of a convex φ around a pivot μ, D(x_i ‖ y_j) has u = x − μ, a = φ_μ(x), v = ∇φ_μ(y) and
//! b = ⟨∇φ_μ(y), y − μ⟩ − φ_μ(y); with the sides exchanged the vectors change places. In the backward pass a mined loss
//! leaves few entries a row, which are then taken one by one in place of two products.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::gradient::MatrixGradient;
use super::{Lost, PairMatrix, Place, Source};
use crate::buffer::{Buffer, Table};
use crate::cpu::{Matrix, gemm, lane_sum, threads, vectorized, with_slice, with_slices};
use crate::dispatch::on_cpu;
use crate::matmul::matmul;
use crate::normalize::dot;
use crate::real::{Real, with_real};
use crate::rows::matrix;

/// One side of a product of lifted rows.
#[derive(Debug, Clone, Copy)]
pub struct LiftedSide<'a> {
    /// u or v, `[n, d]`.
    pub vectors: &'a Tensor,
    /// a or b, `[n]`.
    pub constants: &'a Tensor,
    /// The sizes of the terms that the constants are sums of, `[n]`, at least |constant|; no gradient is taken of them.
    pub sizes: &'a Tensor,
}

/// All pairs of lifted rows, but for the entries that the product has lost.
pub struct LiftedPairs {
    lifted: Lifted,
    n: usize,
    m: usize,
    values: Table,
    /// The matrix as a node of the graph, on devices without kernels.
    elsewhere: Option<Tensor>,
}

/// The vectors and constants of a matrix of divergences.
pub(super) struct Lifted {
    u: Tensor, // [n, d]
    a: Tensor, // [n]
    v: Tensor, // [m, d]
    b: Tensor, // [m]
    d: usize,
    own: bool,
    /// The entries that the product has lost, in order; never on the diagonal of one set.
    lost: Vec<Place>,
    /// Their values, `[lost]`.
    exact: Option<Tensor>,
}

impl std::fmt::Debug for LiftedPairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LiftedPairs({} × {}, {} lost)", self.n, self.m, self.lifted.lost.len())
    }
}

impl LiftedPairs {
    /// a_i + b_j − ⟨u_i, v_j⟩. With `own` both are of one set, and the diagonal is 0 with gradient 0.
    ///
    /// # Errors
    /// When the shapes disagree.
    /// # Examples
    /// ```
    /// # use {candle_core::{Device, Tensor}, dml_kernels::{LiftedPairs, LiftedSide}};
    /// let x = Tensor::new(&[[0f32, 0.], [3., 4.]], &Device::Cpu)?;
    /// let (square, gradient) = (x.sqr()?.sum(1)?, (&x * 2.0)?); // of ‖x‖², around the origin
    /// let left = LiftedSide { vectors: &x, constants: &square, sizes: &square };
    /// let pairs = LiftedPairs::new(left, LiftedSide { vectors: &gradient, ..left }, true)?;
    /// assert_eq!(pairs.lost(), []);
    /// assert_eq!(pairs.complete(None)?.values(), [0.0, 25.0, 25.0, 0.0]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn new(left: LiftedSide<'_>, right: LiftedSide<'_>, own: bool) -> Result<Self> {
        const OP: &str = "lifted pairs";
        let (u, a, v, b) = (left.vectors, left.constants, right.vectors, right.constants);
        let ((n, d), (m, columns)) = (matrix(OP, "u", u)?, matrix(OP, "v", v)?);
        let constants = a.dims() == [n] && b.dims() == [m];
        if !constants
            || columns != d
            || left.sizes.dims() != [n]
            || right.sizes.dims() != [m]
            || (own && n != m)
        {
            bail!(
                "{OP}: `u` has shape {:?}, `a` {:?}, `v` {:?}, `b` {:?}, sizes {:?} and {:?}; expected [n, d], [n], \
                 [m, d], [m], as the constants{}",
                u.dims(),
                a.dims(),
                v.dims(),
                b.dims(),
                left.sizes.dims(),
                right.sizes.dims(),
                if own { ", n = m" } else { "" }
            );
        }
        let [u, v] = [u.contiguous()?, v.contiguous()?];
        let mut lifted =
            Lifted { u, a: a.contiguous()?, v, b: b.contiguous()?, d, own, lost: Vec::new(), exact: None };
        let elsewhere = match on_cpu(&lifted.u) {
            true => None,
            false => Some(lifted.native()?),
        };
        let dtype = if lifted.u.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let (values, lost) = with_real!(dtype, OP, T => {
            let host = |t: &Tensor| t.detach().to_device(&Device::Cpu)?.to_dtype(dtype);
            let all = [host(&lifted.u)?, host(&lifted.a)?, host(&lifted.v)?, host(&lifted.b)?];
            let sizes = [host(left.sizes)?, host(right.sizes)?];
            let (mut values, lost) = with_slices::<T, 4, _>(OP, all.each_ref(), |parts| {
                with_slices::<T, 2, _>(OP, sizes.each_ref(), |sizes| {
                    Ok(Parts::<T>::new(parts, d, own).forward(sizes))
                })
            })?;
            if let Some(matrix) = &elsewhere {
                with_slice::<T, _>(OP, &host(matrix)?, |matrix| {
                    values.copy_from_slice(matrix);
                    Ok(())
                })?;
            }
            (Table::new(values), lost)
        });
        lifted.lost = lost;
        Ok(Self { lifted, n, m, values, elsewhere })
    }

    /// The places (row, column) of the entries whose digits have cancelled, row by row; none on the diagonal of one set.
    pub fn lost(&self) -> &[Place] {
        &self.lifted.lost
    }

    /// The matrix with the values of the lost entries, `[lost]`, in their order; `None` where nothing is lost.
    ///
    /// # Errors
    /// When there is not a value for each.
    pub fn complete(mut self, exact: Option<&Tensor>) -> Result<PairMatrix> {
        const OP: &str = "lifted pairs";
        let (n, m, lost) = (self.n, self.m, self.lifted.lost.len());
        if exact.map_or(0, Tensor::elem_count) != lost {
            bail!("{OP}: values for {} entries, expected {lost}", exact.map_or(0, Tensor::elem_count));
        }
        if let Some(matrix) = self.elsewhere {
            return PairMatrix::of_graph(&self.lifted.completed(&matrix, exact)?);
        }
        if let Some(exact) = exact {
            with_real!(self.values.dtype(), OP, T => {
                let values = self.values.slice_mut::<T>()?;
                with_slice::<T, _>(OP, exact, |exact| {
                    for (&(i, j), &v) in self.lifted.lost.iter().zip(exact) {
                        values[i as usize * m + j as usize] = v;
                    }
                    Ok(())
                })?;
            });
            self.lifted.exact = Some(exact.contiguous()?);
        }
        Ok(PairMatrix { n, m, values: Arc::new(self.values), source: Source::Lifted(Arc::new(self.lifted)) })
    }
}

impl Lifted {
    pub fn args(&self) -> Vec<&Tensor> {
        [&self.u, &self.a, &self.v, &self.b].into_iter().chain(&self.exact).collect()
    }

    /// The product out of candle's operations, with the diagonal and the lost entries as they come.
    fn native(&self) -> Result<Tensor> {
        // The constants ride in the product as two more columns: candle differentiates a broadcast slowly.
        let (a, b) = (self.a.unsqueeze(1)?, self.b.unsqueeze(1)?);
        let ones = |t: &Tensor| Tensor::ones(t.shape(), t.dtype(), t.device());
        let first = Tensor::cat(&[&self.u, &a, &ones(&a)?], 1)?; // [n, d + 2]
        let second = Tensor::cat(&[&self.v.neg()?, &ones(&b)?, &b], 1)?; // [m, d + 2]
        matmul(&first, &second.t()?)
    }

    /// The matrix with the lost entries and the diagonal in place, out of candle's operations.
    fn completed(&self, matrix: &Tensor, exact: Option<&Tensor>) -> Result<Tensor> {
        let (n, m) = matrix.dims2()?;
        let mut taken = vec![1u8; n * m];
        if self.own {
            taken.iter_mut().step_by(m + 1).for_each(|kept| *kept = 0);
        }
        let places: Vec<u32> = self.lost.iter().map(|&(i, j)| i * m as u32 + j).collect();
        places.iter().for_each(|&at| taken[at as usize] = 0);
        let taken = Tensor::from_vec(taken, (n, m), matrix.device())?;
        let zeros = Tensor::zeros((n, m), matrix.dtype(), matrix.device())?;
        let kept = taken.where_cond(matrix, &zeros)?;
        let Some(exact) = exact else { return Ok(kept) };
        let places = Tensor::from_vec(places, exact.elem_count(), matrix.device())?;
        let exact = exact.flatten_all()?.to_dtype(matrix.dtype())?;
        kept + zeros.flatten_all()?.index_add(&places, &exact, 0)?.reshape((n, m))?
    }

    /// From the gradient of the matrix to those of the arguments.
    pub fn pull_back<T: Real>(
        &self,
        values: &[T],
        gradient: MatrixGradient<'_, T>,
    ) -> Result<Vec<Option<Vec<T>>>> {
        with_slices::<T, 4, _>("lifted pairs", [&self.u, &self.a, &self.v, &self.b], |parts| {
            let Gradients { u, a, v, b, exact } =
                Parts::<T>::new(parts, self.d, self.own).backward(values, gradient, &self.lost);
            let mut all = vec![Some(u), Some(a), Some(v), Some(b)];
            all.extend(self.exact.is_some().then_some(Some(exact)));
            Ok(all)
        })
    }
}

struct Parts<'a, T> {
    u: &'a [T],
    a: &'a [T],
    v: &'a [T],
    b: &'a [T],
    d: usize,
    own: bool,
}

struct Gradients<T> {
    u: Vec<T>,
    a: Vec<T>,
    v: Vec<T>,
    b: Vec<T>,
    exact: Vec<T>,
}

/// Rows of the matrix that a thread finishes at a time.
const BLOCK: usize = 256;

/// Rows of a thread's piece, for `work` multiplications in all.
fn piece(n: usize, work: usize) -> usize {
    const SHARE_WORK_FROM: usize = 1 << 19;
    if work < SHARE_WORK_FROM { n.max(1) } else { n.div_ceil(threads()).max(1) }
}

impl<'a, T: Real> Parts<'a, T> {
    fn new([u, a, v, b]: [&'a [T]; 4], d: usize, own: bool) -> Self {
        Self { u, a, v, b, d, own }
    }

    fn forward(&self, [sizes, other_sizes]: [&[T]; 2]) -> (Buffer<T>, Vec<Place>) {
        let (n, m, d) = (self.a.len(), self.b.len(), self.d);
        let mut out = Buffer::stale(n * m);
        if out.is_empty() {
            return (out, Vec::new());
        }
        let (mut lengths, mut others) = (vec![T::ZERO; n], vec![T::ZERO; m]);
        row_lengths(self.u, d.max(1), &mut lengths);
        row_lengths(self.v, d.max(1), &mut others);
        let v = Matrix::new(self.v, m, d).t();
        let piece = piece(n, n * m * d);
        let run = |(p, out): (usize, &mut [T])| {
            let mut lost = Vec::new();
            for (k, out) in out.chunks_mut(BLOCK * m).enumerate() {
                let (first, rows) = (p * piece + k * BLOCK, out.len() / m);
                let u = Matrix::new(&self.u[first * d..][..rows * d], rows, d);
                gemm(out, u, v, false, false);
                let range = first..first + rows;
                let left = [&self.a[range.clone()], &sizes[range.clone()], &lengths[range]];
                let right = [self.b, other_sizes, &others];
                finish(out, first, left, right, self.own, Lost::of_width(d), &mut lost);
            }
            lost
        };
        let lost: Vec<Vec<Place>> = if piece == n {
            vec![run((0, &mut out))]
        } else {
            out.par_chunks_mut(piece * m).enumerate().map(run).collect()
        };
        (out, lost.concat())
    }

    /// An entry that is 0 lies on the diagonal, or sits at the minimum of D, where the gradient is 0 anyway.
    fn backward(&self, values: &[T], gradient: MatrixGradient<'_, T>, lost: &[Place]) -> Gradients<T> {
        let (n, m, d) = (self.a.len(), self.b.len(), self.d);
        let mut to = Gradients {
            u: vec![T::ZERO; n * d],
            a: vec![T::ZERO; n],
            v: vec![T::ZERO; m * d],
            b: vec![T::ZERO; m],
            exact: vec![T::ZERO; lost.len()],
        };
        if n * m == 0 {
            return to;
        }
        if let Some(entries) = few_entries(values, gradient, m) {
            let mut left = (0..lost.len()).peekable();
            for &(i, j, g) in &entries {
                while left.next_if(|&at| lost[at] < (i, j)).is_some() {}
                if let Some(&at) = left.peek().filter(|&&at| lost[at] == (i, j)) {
                    to.exact[at] = g;
                    continue;
                }
                let (i, j) = (i as usize, j as usize);
                to.a[i] += g;
                to.b[j] += g;
                subtract(&mut to.u[i * d..][..d], &self.v[j * d..][..d], g);
                subtract(&mut to.v[j * d..][..d], &self.u[i * d..][..d], g);
            }
            return to;
        }
        let mut negative = Buffer::stale(n * m); // −D̄, 0 where D is
        let piece = piece(n, n * m * d);
        let (u, v) = (self.u, Matrix::new(self.v, m, d));
        // Where the lost entries of each piece begin.
        let begins = |p: usize| lost.partition_point(|place| (place.0 as usize) < p * piece);
        let pieces = n.div_ceil(piece);
        let mut exact_left = to.exact.as_mut_slice();
        let mut shares = Vec::with_capacity(pieces);
        let each = negative
            .chunks_mut(piece * m)
            .zip(to.u.chunks_mut((piece * d).max(1)))
            .zip(to.a.chunks_mut(piece));
        for (p, ((negative, to_u), to_a)) in each.enumerate() {
            let own = begins(p)..begins(p + 1);
            let (exact, rest) = exact_left.split_at_mut(own.len());
            exact_left = rest;
            shares.push((p * piece, &lost[own], negative, to_u, to_a, exact));
        }
        type Share<'s, T> = (usize, &'s [Place], &'s mut [T], &'s mut [T], &'s mut [T], &'s mut [T]);
        let run = |(first, lost, negative, to_u, to_a, exact): Share<'_, T>| {
            let rows = to_a.len();
            let mut to_b = vec![T::ZERO; m];
            let factor = |row| gradient.factor(first + row);
            let (values, slopes) = (&values[first * m..], &gradient.slopes[first * m..]);
            negate(negative, values, slopes, factor, (first, lost, exact), to_a, &mut to_b);
            gemm(to_u, Matrix::new(negative, rows, m), v, false, false);
            let mut to_v = vec![T::ZERO; m * d];
            let u = Matrix::new(&u[first * d..][..rows * d], rows, d);
            gemm(&mut to_v, Matrix::new(negative, rows, m).t(), u, false, false);
            (to_v, to_b)
        };
        let shares: Vec<(Vec<T>, Vec<T>)> = match shares.len() {
            1 => shares.into_iter().map(run).collect(),
            _ => shares.into_par_iter().map(run).collect(),
        };
        for (i, (share_v, share_b)) in shares.into_iter().enumerate() {
            if i == 0 {
                (to.v, to.b) = (share_v, share_b);
            } else {
                add(&mut to.v, &share_v);
                add(&mut to.b, &share_b);
            }
        }
        to
    }
}

/// The entries of the gradient that are not 0, in order, where they are so few that products would mostly
/// multiply zeros; rows, columns, values.
fn few_entries<T: Real>(
    values: &[T],
    gradient: MatrixGradient<'_, T>,
    m: usize,
) -> Option<Vec<(u32, u32, T)>> {
    /// A product is so many times faster an entry than taking entries one by one.
    const FEW: usize = 24;
    let most = values.len() / FEW;
    let mut entries = Vec::new();
    for (i, (slopes, values)) in gradient.slopes.chunks_exact(m).zip(values.chunks_exact(m)).enumerate() {
        collect_entries(&mut entries, i, slopes, values, gradient.factor(i));
        if entries.len() > most {
            return None;
        }
    }
    Some(entries)
}

vectorized! {
    fn collect_entries<T: Real>(
        entries: &mut Vec<(u32, u32, T)>, i: usize, slopes: &[T], values: &[T], factor: T,
    ) {
        const STRIDE: usize = 64;
        for (c, chunk) in slopes.chunks(STRIDE).enumerate() {
            let mut any = false;
            for &v in chunk {
                any |= v != T::ZERO;
            }
            if any {
                for (l, &slope) in chunk.iter().enumerate() {
                    let j = c * STRIDE + l;
                    if slope != T::ZERO && values[j] != T::ZERO {
                        entries.push((i as u32, j as u32, slope * factor));
                    }
                }
            }
        }
    }
}

vectorized! {
    /// ‖row‖.
    fn row_lengths<T: Real>(rows: &[T], d: usize, out: &mut [T]) {
        for (out, row) in out.iter_mut().zip(rows.chunks_exact(d)) {
            *out = dot(row, row).sqrt();
        }
    }
}

vectorized! {
    /// a + b − product, for rows from `first` on. Entries that cancel, overflow or are no number join `lost`; the
    /// diagonal of one set is 0.
    fn finish<T: Real>(
        products: &mut [T],
        first: usize,
        left: [&[T]; 3],
        right: [&[T]; 3],
        own: bool,
        when: Lost<T>,
        lost: &mut Vec<Place>,
    ) {
        let m = right[0].len();
        let [b, sizes, others] = [&right[0][..m], &right[1][..m], &right[2][..m]];
        let rows = products.chunks_exact_mut(m).zip(left[0].iter().zip(left[1]).zip(left[2]));
        for (i, (row, ((&a, &size), &length))) in rows.enumerate() {
            let row = &mut row[..m];
            if own {
                row[first + i] = T::NEG_INFINITY; // a divergence of ∞ for now
            }
            let mut fine = true;
            for j in 0..m {
                let d = (a + b[j]) - row[j];
                fine &= when.keeps(d, size + sizes[j] + length * others[j]);
                row[j] = d;
            }
            if own {
                row[first + i] = T::ZERO;
            }
            if !fine {
                for j in 0..m {
                    let kept = when.keeps(row[j], size + sizes[j] + length * others[j]);
                    let diagonal = own && j == first + i;
                    if !(kept || diagonal) {
                        lost.push(((first + i) as u32, j as u32));
                    }
                }
            }
        }
    }
}

vectorized! {
    /// −D̄ = −factor·slope, 0 where D is 0 and where the entry was lost, whose D̄ goes to `exact`; and the sums of D̄
    /// over rows and columns.
    fn negate<T: Real, F: Fn(usize) -> T>(
        negative: &mut [T],
        values: &[T],
        slopes: &[T],
        factor: F,
        lost: (usize, &[Place], &mut [T]),
        rows: &mut [T],
        cols: &mut [T],
    ) {
        let m = cols.len();
        let (first, places, exact) = lost;
        let mut next = 0;
        let all = values.chunks_exact(m).zip(slopes.chunks_exact(m));
        for (i, ((negative, row), (values, slopes))) in negative.chunks_exact_mut(m).zip(rows).zip(all).enumerate() {
            let factor = -factor(i);
            for ((neg, &v), &s) in negative.iter_mut().zip(values).zip(slopes) {
                let g = s * factor;
                *neg = if v == T::ZERO { T::ZERO } else { g };
            }
            while next < places.len() && places[next].0 as usize == first + i {
                let at = places[next].1 as usize;
                exact[next] = -negative[at];
                negative[at] = T::ZERO;
                next += 1;
            }
            for (col, &neg) in cols.iter_mut().zip(&*negative) {
                *col += -neg;
            }
            *row = -lane_sum(negative);
        }
    }
}

vectorized! {
    fn subtract<T: Real>(out: &mut [T], x: &[T], v: T) {
        out.iter_mut().zip(x).for_each(|(o, &x)| *o = *o - v * x);
    }
}

vectorized! {
    fn add<T: Real>(out: &mut [T], x: &[T]) {
        out.iter_mut().zip(x).for_each(|(o, &x)| *o += x);
    }
}
