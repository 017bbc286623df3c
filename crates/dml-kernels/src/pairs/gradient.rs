//! The way back from the gradient of a matrix of pairs to the rows: one or two matrix products, or, where a loss looks at few
//! pairs, those alone. Lost entries have their shares from the differences of their rows.

use candle_core::Result;
use rayon::prelude::*;

use super::{Pairing, Place, Rows, by_rows, piece_rows};
use crate::buffer::Buffer;
use crate::cpu::{Matrix, column_sums, gemm, lane_sum, vectorized};
use crate::real::Real;

/// A gradient with at most one entry in so many is multiplied entry by entry.
const SPARSE: usize = 8;

/// The gradient of a matrix: slopes, each times a factor.
#[derive(Clone, Copy)]
pub(super) struct MatrixGradient<'a, T> {
    /// `[n, m]`.
    pub slopes: &'a [T],
    /// One for all, or one a row; none is 1.
    pub factors: Option<&'a [T]>,
}

impl<T: Real> MatrixGradient<'_, T> {
    #[inline(always)]
    pub fn factor(&self, row: usize) -> T {
        match self.factors {
            None => T::ONE,
            Some([one]) => *one,
            Some(each) => each[row],
        }
    }

    /// The gradient itself, each entry times that of the distance by half the squared distance where there is a power.
    pub fn write(&self, out: &mut [T], values: &[T], m: usize, power: Option<f64>) {
        let m = m.max(1);
        by_rows(out, m, |start, out| {
            let (slopes, values) = (&self.slopes[start..], &values[start..]);
            chained(out, slopes, values, |row| self.factor(start / m + row), m, power);
        });
    }
}

vectorized! {
    fn chained<T: Real, F: Fn(usize) -> T>(
        out: &mut [T], slopes: &[T], values: &[T], factor: F, m: usize, power: Option<f64>,
    ) {
        let rows = out.chunks_exact_mut(m).zip(slopes.chunks_exact(m)).zip(values.chunks_exact(m));
        for (i, ((out, slopes), values)) in rows.enumerate() {
            let factor = factor(i);
            match power {
                None => out.iter_mut().zip(slopes).for_each(|(o, &s)| *o = s * factor),
                Some(1.0) => {
                    for ((o, &s), &v) in out.iter_mut().zip(slopes).zip(values) {
                        let by = s * factor / v;
                        *o = if v == T::ZERO { T::ZERO } else { by };
                    }
                }
                Some(power) => {
                    for ((o, &s), &v) in out.iter_mut().zip(slopes).zip(values) {
                        *o = s * factor * twice_slope(v, power);
                    }
                }
            }
        }
    }
}

/// 2·dD/d(‖x − y‖²) at the distance D, 0 where D is 0.
#[inline(always)]
fn twice_slope<T: Real>(value: T, power: f64) -> T {
    if power == 2.0 {
        T::ONE + T::ONE
    } else if value == T::ZERO {
        T::ZERO
    } else if power == 1.0 {
        T::ONE / value
    } else {
        T::from_f64(power) * value.powf(T::from_f64((power - 2.0) / power))
    }
}

impl Rows {
    /// From the gradient of the matrix to that of the rows on either side; nothing for a side that is not wanted.
    pub(super) fn pull_back<T: Real>(
        &self,
        values: &[T],
        gradient: MatrixGradient<'_, T>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Vec<T>>>> {
        let (d, a) = (self.d, self.left.rows.slice::<T>()?);
        let b = match &self.right {
            Some(right) => right.rows.slice::<T>()?,
            None => a,
        };
        let (n, m) = (a.len() / d, b.len() / d);
        let power = match self.pairing {
            Pairing::InnerProduct => None,
            Pairing::Euclidean { power } => Some(power),
        };
        let two = self.right.is_some();
        let (want_x, want_y) = (wanted[0], two && wanted[1]);
        let mut to_a = vec![T::ZERO; if want_x || !two { a.len() } else { 0 }];
        let mut to_b = vec![T::ZERO; if want_y { b.len() } else { 0 }];
        if m > 0 && count_nonzero(gradient.slopes) * SPARSE <= n * m {
            let mut entries = Entries::of(gradient, values, m, power);
            entries.remove(&self.lost);
            let across = entries.transposed(m);
            let add = |out: &mut [T], own: &[T], other: &[T], entries: &Entries<T>| {
                by_rows(out, d, |start, out| {
                    add_entries(out, (&own[start..], other, d), entries, start / d, power.is_some());
                });
            };
            add(&mut to_a, a, b, &entries);
            // A row with itself is on both sides.
            add(if two { &mut to_b } else { &mut to_a }, b, a, &across);
        } else if m > 0 {
            let mut table = Buffer::stale(n * m);
            gradient.write(&mut table, values, m, power);
            for &(i, j) in &self.lost {
                table[i as usize * m + j as usize] = T::ZERO;
            }
            let finish = |out: &mut [T], own: &[T], sums: &[T]| {
                if power.is_some() {
                    by_rows(out, d, |start, out| own_less_others(out, &own[start..], &sums[start / d..], d));
                }
            };
            if !two {
                // Row i of the matrix and column i lead to the same row.
                let both = with_transpose(&table, n);
                gemm(&mut to_a, Matrix::new(&both, n, n), Matrix::new(a, n, d), false, true);
                finish(&mut to_a, a, &row_sums(&both, n));
            }
            let table_of = Matrix::new(&table, n, m);
            if two && want_x {
                gemm(&mut to_a, table_of, Matrix::new(b, m, d), false, true);
                finish(&mut to_a, a, &row_sums(&table, m));
            }
            if want_y {
                gemm(&mut to_b, table_of.t(), Matrix::new(a, n, d), false, true);
                finish(&mut to_b, b, &column_sums(&table, m));
            }
        }
        self.add_lost(&mut to_a, &mut to_b, values, gradient, (m, power))?;
        self.left.to_raw(&mut to_a, &self.x, d)?;
        if let (Some(right), Some(y)) = (&self.right, &self.y) {
            right.to_raw(&mut to_b, y, d)?;
        }
        let some = |gradient: Vec<T>, want: bool| want.then_some(gradient);
        let mut found = vec![some(to_a, want_x || !two)];
        if two {
            found.push(some(to_b, want_y));
        }
        Ok(found)
    }

    /// The shares of the lost entries, from the differences of their two rows.
    fn add_lost<T: Real>(
        &self,
        to_a: &mut [T],
        to_b: &mut [T],
        values: &[T],
        gradient: MatrixGradient<'_, T>,
        (m, power): (usize, Option<f64>),
    ) -> Result<()> {
        let (Some(power), d) = (power, self.d) else { return Ok(()) };
        let shares = self.among_lost::<T, Vec<f64>>(|(x, by_x), (y, by_y)| {
            x.iter().zip(y).map(|(x, y)| x.to_f64() * by_x - y.to_f64() * by_y).collect()
        })?;
        for (&(i, j), apart) in self.lost.iter().zip(shares) {
            let (i, j) = (i as usize, j as usize);
            let at = i * m + j;
            let by = gradient.slopes[at] * gradient.factor(i);
            if by == T::ZERO {
                continue;
            }
            let by = (by * twice_slope(values[at], power)).to_f64();
            if !to_a.is_empty() {
                let out = to_a[i * d..].iter_mut().zip(&apart);
                out.for_each(|(o, apart)| *o += T::from_f64(by * apart));
            }
            let other = if self.right.is_none() { &mut *to_a } else { &mut *to_b };
            if !other.is_empty() {
                let out = other[j * d..].iter_mut().zip(&apart);
                out.for_each(|(o, apart)| *o += T::from_f64(-by * apart));
            }
        }
        Ok(())
    }
}

/// The entries of a matrix that are not 0, row by row.
pub(crate) struct Entries<T> {
    /// Where the entries of each row begin, and the end of the last.
    start: Vec<usize>,
    /// Column and value.
    entries: Vec<(u32, T)>,
}

/// How many entries each row of a piece has, and the entries.
type Piece<T> = (Vec<usize>, Vec<(u32, T)>);

impl<T: Real> Entries<T> {
    fn of(gradient: MatrixGradient<'_, T>, values: &[T], m: usize, power: Option<f64>) -> Self {
        let n = gradient.slopes.len() / m;
        let piece = piece_rows(n, m).max(1);
        let pieces: Vec<Piece<T>> = gradient
            .slopes
            .par_chunks(piece * m)
            .enumerate()
            .map(|(k, slopes)| {
                let (mut counts, mut entries) = (Vec::with_capacity(piece), Vec::new());
                let (first, values) = (k * piece, &values[k * piece * m..]);
                let factor = |row| gradient.factor(first + row);
                entries_of_rows(slopes, values, factor, m, power, &mut counts, &mut entries);
                (counts, entries)
            })
            .collect();
        let mut all = Self { start: vec![0], entries: Vec::new() };
        let mut end = 0;
        for (counts, entries) in pieces {
            for count in counts {
                end += count;
                all.start.push(end);
            }
            all.entries.extend(entries);
        }
        all
    }

    /// Without the entries at `places`, which are in order.
    fn remove(&mut self, places: &[Place]) {
        if places.is_empty() || self.entries.is_empty() {
            return;
        }
        let (mut left, mut kept) = (places.iter().peekable(), Vec::with_capacity(self.entries.len()));
        let mut start = vec![0];
        for (i, ends) in (0u32..).zip(self.start.windows(2)) {
            for &(j, v) in &self.entries[ends[0]..ends[1]] {
                while left.next_if(|&&place| place < (i, j)).is_some() {}
                if left.peek() != Some(&&(i, j)) {
                    kept.push((j, v));
                }
            }
            start.push(kept.len());
        }
        (self.start, self.entries) = (start, kept);
    }

    /// The same column by column.
    fn transposed(&self, m: usize) -> Self {
        let mut start = vec![0; m + 1];
        self.entries.iter().for_each(|&(j, _)| start[j as usize + 1] += 1);
        (0..m).for_each(|j| start[j + 1] += start[j]);
        let (mut next, mut entries) = (start.clone(), vec![(0, T::ZERO); self.entries.len()]);
        for (i, ends) in self.start.windows(2).enumerate() {
            for &(j, v) in &self.entries[ends[0]..ends[1]] {
                entries[next[j as usize]] = (i as u32, v);
                next[j as usize] += 1;
            }
        }
        Self { start, entries }
    }

    #[inline(always)]
    fn row(&self, i: usize) -> &[(u32, T)] {
        &self.entries[self.start[i]..self.start[i + 1]]
    }
}

vectorized! {
    fn entries_of_rows<T: Real, F: Fn(usize) -> T>(
        slopes: &[T], values: &[T], factor: F, m: usize, power: Option<f64>,
        counts: &mut Vec<usize>, entries: &mut Vec<(u32, T)>,
    ) {
        const CHUNK: usize = 32;
        for (i, (slopes, values)) in slopes.chunks_exact(m).zip(values.chunks_exact(m)).enumerate() {
            let (before, factor) = (entries.len(), factor(i));
            for (k, chunk) in slopes.chunks(CHUNK).enumerate() {
                let mut any = false;
                for &s in chunk {
                    any |= s != T::ZERO;
                }
                if any {
                    for (j, &s) in (k * CHUNK..).zip(chunk) {
                        if s != T::ZERO {
                            let by = power.map_or(T::ONE, |power| twice_slope(values[j], power));
                            entries.push((j as u32, s * factor * by));
                        }
                    }
                }
            }
            counts.push(entries.len() - before);
        }
    }
}

vectorized! {
    /// `out_i += Σ_j g_ij·(own_i − other_j)` for distances, `Σ_j g_ij·other_j` for inner products, for rows from `first` on.
    fn add_entries<T: Real>(
        out: &mut [T], rows: (&[T], &[T], usize), entries: &Entries<T>, first: usize, euclidean: bool,
    ) {
        let (own, other, d) = rows;
        for (i, (out, own)) in out.chunks_exact_mut(d).zip(own.chunks_exact(d)).enumerate() {
            for &(j, factor) in entries.row(first + i) {
                let other = &other[j as usize * d..(j as usize + 1) * d];
                if euclidean {
                    for ((o, &x), &y) in out.iter_mut().zip(own).zip(other) {
                        *o += factor * (x - y);
                    }
                } else {
                    for (o, &y) in out.iter_mut().zip(other) {
                        *o += factor * y;
                    }
                }
            }
        }
    }
}

vectorized! {
    fn count_nonzero<T: Real>(x: &[T]) -> usize {
        let mut count = 0;
        for chunk in x.chunks(256) {
            let mut own = 0u32;
            for &v in chunk {
                own += u32::from(v != T::ZERO);
            }
            count += own as usize;
        }
        count
    }
}

vectorized! {
    /// `out = sum·own − out`, row by row.
    fn own_less_others<T: Real>(out: &mut [T], own: &[T], sums: &[T], d: usize) {
        for ((out, own), &sum) in out.chunks_exact_mut(d).zip(own.chunks_exact(d)).zip(sums) {
            out.iter_mut().zip(own).for_each(|(o, &x)| *o = sum * x - *o);
        }
    }
}

/// Σ_j g_ij.
fn row_sums<T: Real>(g: &[T], m: usize) -> Vec<T> {
    let mut sums = vec![T::ZERO; g.len() / m.max(1)];
    sums_of_rows(g, m.max(1), &mut sums);
    sums
}

vectorized! {
    fn sums_of_rows<T: Real>(g: &[T], m: usize, sums: &mut [T]) {
        for (sum, row) in sums.iter_mut().zip(g.chunks_exact(m)) {
            *sum = lane_sum(row);
        }
    }
}

/// G + Gᵀ of a square matrix.
fn with_transpose<T: Real>(g: &[T], n: usize) -> Buffer<T> {
    let mut both = Buffer::stale(g.len());
    by_rows(&mut both, n, |start, out| sum_with_transpose(out, g, start / n.max(1), n));
    both
}

vectorized! {
    /// Tiles keep the lines of the transpose in the cache while they are read across.
    fn sum_with_transpose<T: Real>(out: &mut [T], g: &[T], first: usize, n: usize) {
        const TILE: usize = 16;
        let rows = out.len() / n.max(1);
        let mut across = [[T::ZERO; TILE]; TILE];
        let mut i0 = 0;
        while i0 < rows {
            let i1 = (i0 + TILE).min(rows);
            let mut j0 = 0;
            while j0 < n {
                let j1 = (j0 + TILE).min(n);
                for j in j0..j1 {
                    let column = &g[j * n + first + i0..j * n + first + i1];
                    for (row, &v) in across.iter_mut().zip(column) {
                        row[j - j0] = v;
                    }
                }
                for (i, across) in (i0..i1).zip(&across) {
                    let (out, g) = (&mut out[i * n + j0..i * n + j1], &g[(first + i) * n + j0..]);
                    for ((out, &g), &v) in out.iter_mut().zip(g).zip(across) {
                        *out = g + v;
                    }
                }
                j0 = j1;
            }
            i0 = i1;
        }
    }
}
