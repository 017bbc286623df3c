//! Inner products and Euclidean distances of rows.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Lost, Pairing, Place, by_rows, found_by_rows};
use crate::buffer::{Buffer, Table};
use crate::center::center_of;
use crate::cpu::{Matrix, gemm, vectorized, with_slice, with_slices};
use crate::normalize::{dot, inverse_length, is_shortest};
use crate::real::{Real, with_real};

/// The rows that the pairs are made of; one set where it is paired with itself.
pub(super) struct Rows {
    pub x: Tensor,
    pub y: Option<Tensor>,
    pub pairing: Pairing,
    pub d: usize,
    pub left: Prepared,
    pub right: Option<Prepared>,
    /// The entries that were computed from their two rows alone, in order; never on the diagonal of one set.
    pub lost: Vec<Place>,
}

/// Rows as they enter the product: normalized and centered where that is asked for.
pub(super) struct Prepared {
    pub rows: Table,
    /// 1/‖row‖, or 0 for a row that was left as it is; empty without normalization.
    pub inverse: Table,
}

impl Rows {
    /// The rows, prepared, and the matrix of their pairs.
    pub fn new(x: &Tensor, y: Option<&Tensor>, pairing: Pairing, normalize: bool) -> Result<(Self, Table)> {
        let d = x.dims2()?.1;
        let empty = || Prepared {
            rows: Table::new(Buffer::<f32>::stale(0)),
            inverse: Table::new(Buffer::<f32>::stale(0)),
        };
        let (x, y) = (x.contiguous()?, y.map(Tensor::contiguous).transpose()?);
        let mut all = Self { x, y, pairing, d, left: empty(), right: None, lost: Vec::new() };
        let values = with_real!(all.x.dtype(), "pairs", T => all.prepare::<T>(normalize)?);
        Ok((all, values))
    }

    pub fn args(&self) -> Vec<&Tensor> {
        std::iter::once(&self.x).chain(&self.y).collect()
    }

    fn prepare<T: Real>(&mut self, normalize: bool) -> Result<Table> {
        let d = self.d;
        let read = |x: &Tensor| with_slice::<T, _>("pairs", x, |x| Ok(prepare(x, d, normalize)));
        let mut left = read(&self.x)?;
        let mut right = self.y.as_ref().map(read).transpose()?;
        if matches!(self.pairing, Pairing::Euclidean { .. }) {
            let of = right.as_ref().map_or(&left.0, |(rows, _)| rows);
            let center = center_of(of, d);
            subtract_from_rows(&mut left.0, &center);
            if let Some((rows, _)) = &mut right {
                subtract_from_rows(rows, &center);
            }
        }
        let b = right.as_ref().map_or(&left.0, |(rows, _)| rows);
        let (n, m) = (left.0.len() / d, b.len() / d);
        let mut out = Buffer::stale(n * m);
        gemm(&mut out, Matrix::new(&left.0, n, d), Matrix::new(b, m, d).t(), false, true);
        if let Pairing::Euclidean { power } = self.pairing {
            let (mut aa, mut bb) = (vec![T::ZERO; n], vec![T::ZERO; m]);
            squared_lengths(&left.0, d, &mut aa);
            squared_lengths(b, d, &mut bb);
            let own = right.is_none();
            self.lost = found_by_rows(&mut out, m, |start, out| {
                let mut lost = Vec::new();
                let first = start / m.max(1);
                distances(out, first, (&aa[first..], &bb), own, power, Lost::of_width(d), &mut lost);
                lost
            });
        }
        let keep = |(rows, inverse)| Prepared { rows: Table::new(rows), inverse: Table::new(inverse) };
        (self.left, self.right) = (keep(left), right.map(keep));
        if let Pairing::Euclidean { power } = self.pairing {
            let exact =
                self.among_lost::<T, T>(|left, right| T::from_f64(from_two_rows(left, right, power)))?;
            for (&(i, j), value) in self.lost.iter().zip(exact) {
                out[i as usize * m + j as usize] = value;
            }
        }
        Ok(Table::new(out))
    }

    /// `f` of the two rows of each lost entry, each with the factor that normalizes it.
    pub fn among_lost<T: Real, R: Send>(
        &self,
        f: impl Fn((&[T], f64), (&[T], f64)) -> R + Sync,
    ) -> Result<Vec<R>> {
        if self.lost.is_empty() {
            return Ok(Vec::new());
        }
        let (d, y) = (self.d, self.y.as_ref().unwrap_or(&self.x));
        let left = self.left.inverse.slice::<T>()?;
        let right = self.right.as_ref().map_or(Ok(left), |right| right.inverse.slice::<T>())?;
        with_slices::<T, 2, _>("pairs", [&self.x, y], |[x, y]| {
            let row = |x: &'_ [T], inverse: &[T], i: u32| -> (std::ops::Range<usize>, f64) {
                let range = i as usize * d..(i as usize + 1) * d;
                let factor = match inverse.get(i as usize) {
                    Some(&inverse) if inverse > T::ZERO => 1.0 / length(&x[range.clone()]),
                    _ => 1.0,
                };
                (range, factor)
            };
            let run = |&(i, j): &Place| {
                let ((of_x, by_x), (of_y, by_y)) = (row(x, left, i), row(y, right, j));
                f((&x[of_x], by_x), (&y[of_y], by_y))
            };
            Ok(match self.lost.len() * d < super::SHARE_FROM {
                true => self.lost.iter().map(run).collect(),
                false => self.lost.par_iter().map(run).collect(),
            })
        })
    }
}

/// ‖row‖ in f64, by the largest entry first: its square may leave the range.
fn length<T: Real>(row: &[T]) -> f64 {
    let largest = row.iter().fold(0.0f64, |m, v| m.max(v.to_f64().abs()));
    if largest == 0.0 || !largest.is_finite() {
        return largest;
    }
    largest * row.iter().map(|v| (v.to_f64() / largest).powi(2)).sum::<f64>().sqrt()
}

/// ‖x − y‖ to the power, from the difference of the rows.
fn from_two_rows<T: Real>((x, by_x): (&[T], f64), (y, by_y): (&[T], f64), power: f64) -> f64 {
    let square = difference_squared(x, y, by_x, by_y);
    match power {
        2.0 => square,
        1.0 => square.sqrt(),
        _ => square.powf(0.5 * power),
    }
}

vectorized! {
    fn difference_squared<T: Real>(x: &[T], y: &[T], by_x: f64, by_y: f64) -> f64 {
        let mut lanes = [0f64; 8];
        let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
        let mut sum = 0.0;
        for (&x, &y) in xs.remainder().iter().zip(ys.remainder()) {
            let apart = x.to_f64() * by_x - y.to_f64() * by_y;
            sum += apart * apart;
        }
        for (x, y) in xs.zip(ys) {
            for l in 0..8 {
                let apart = x[l].to_f64() * by_x - y[l].to_f64() * by_y;
                lanes[l] += apart * apart;
            }
        }
        sum + lanes.iter().sum::<f64>()
    }
}

/// Rows, divided by their length where that is asked for, and the inverse lengths.
fn prepare<T: Real>(x: &[T], d: usize, normalize: bool) -> (Buffer<T>, Buffer<T>) {
    let mut rows = Buffer::copy_of(x);
    let mut inverse = Buffer::stale(0);
    if normalize {
        inverse = Buffer::zeros(x.len() / d);
        normalize_rows(&mut rows, &mut inverse, d);
    }
    (rows, inverse)
}

vectorized! {
    fn normalize_rows<T: Real>(rows: &mut [T], inverse: &mut [T], d: usize) {
        for (row, inverse) in rows.chunks_exact_mut(d).zip(inverse) {
            let scale = inverse_length(row);
            if !is_shortest(scale) {
                *inverse = scale;
                row.iter_mut().for_each(|v| *v = *v * scale);
            }
        }
    }
}

vectorized! {
    fn subtract_from_rows<T: Real>(rows: &mut [T], mean: &[T]) {
        for row in rows.chunks_exact_mut(mean.len().max(1)) {
            row.iter_mut().zip(mean).for_each(|(v, &m)| *v = *v - m);
        }
    }
}

vectorized! {
    fn squared_lengths<T: Real>(rows: &[T], d: usize, out: &mut [T]) {
        for (out, row) in out.iter_mut().zip(rows.chunks_exact(d)) {
            *out = dot(row, row);
        }
    }
}

vectorized! {
    /// From inner products to powers of distances, for rows from `first` on. Entries that cancel, overflow or are no
    /// number join `lost`; the diagonal of one set is 0.
    fn distances<T: Real>(
        out: &mut [T],
        first: usize,
        squares: (&[T], &[T]),
        own: bool,
        power: f64,
        when: Lost<T>,
        lost: &mut Vec<Place>,
    ) {
        let (aa, bb) = squares;
        let (two, half) = (T::ONE + T::ONE, T::from_f64(0.5 * power));
        let m = bb.len();
        for (i, (row, &aa)) in out.chunks_exact_mut(m.max(1)).zip(aa).enumerate() {
            let mut fine = true;
            if own {
                row[first + i] = T::NEG_INFINITY; // a distance of ∞ for now
            }
            for (o, &bb) in row.iter_mut().zip(bb) {
                let scale = aa + bb;
                let square = scale - two * *o;
                fine &= when.keeps(square, scale);
                *o = square;
            }
            if own {
                row[first + i] = T::ZERO;
            }
            if !fine {
                for (j, (&square, &bb)) in row.iter().zip(bb).enumerate() {
                    let kept = when.keeps(square, aa + bb);
                    let diagonal = own && j == first + i;
                    if !(kept || diagonal) {
                        lost.push(((first + i) as u32, j as u32));
                    }
                }
            }
            if power == 1.0 {
                row.iter_mut().for_each(|o| *o = o.sqrt());
            } else if power != 2.0 {
                row.iter_mut().for_each(|o| *o = if *o == T::ZERO { T::ZERO } else { o.powf(half) });
            }
        }
    }
}

impl Prepared {
    /// From the gradient of normalized rows to that of the rows as they came.
    pub fn to_raw<T: Real>(&self, gradient: &mut [T], x: &Tensor, d: usize) -> Result<()> {
        let inverse = self.inverse.slice::<T>()?;
        if inverse.is_empty() || gradient.is_empty() {
            return Ok(());
        }
        with_slice::<T, _>("pairs", x, |x| {
            by_rows(gradient, d, |start, out| unnormalize(out, &x[start..], &inverse[start / d..], d));
            Ok(())
        })
    }
}

vectorized! {
    /// (g − u⟨g, u⟩)/‖x‖, u = x/‖x‖, for rows that were normalized.
    fn unnormalize<T: Real>(gradient: &mut [T], x: &[T], inverse: &[T], d: usize) {
        for ((g, x), &scale) in gradient.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(inverse) {
            if scale > T::ZERO {
                // By unit numbers: a row may be longer than the square root of the largest number.
                let mut along = T::ZERO;
                for (&g, &x) in g.iter().zip(x) {
                    along += g * (x * scale);
                }
                g.iter_mut().zip(x).for_each(|(g, &x)| *g = (*g - (x * scale) * along) * scale);
            }
        }
    }
}
