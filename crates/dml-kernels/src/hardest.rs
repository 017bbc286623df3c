//! The farthest positive and the closest negative of each row of a distance matrix (Hermans et al. 2017), read off
//! the matrix where it lies: no mask, no copy, no sort, and a gradient of two entries a row.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, bail};

use crate::cpu::{vectorized, with_slice};
use crate::dispatch::on_cpu;
use crate::pairs::PairMatrix;
use crate::real::{Real, with_real};
use crate::rows::{for_rows, matrix, scatter};

/// Which columns of a matrix are positives of a row (of its class) and which negatives (of another).
#[derive(Debug, Clone, Copy)]
pub struct Classes<'a> {
    /// The class of each row, n.
    pub rows: &'a [i64],
    /// The class of each column, m.
    pub columns: &'a [i64],
    /// The column that is row i itself and so neither, one a row; `None` where rows and columns are two sets.
    pub own: Option<&'a [u32]>,
}

/// Whether smaller or larger entries of the matrix are closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closer {
    /// Distances.
    Smaller,
    /// Similarities.
    Larger,
}

/// What [`hardest`] returns.
#[derive(Debug, Clone)]
pub struct Hardest {
    /// The farthest positive's entry of each row, `[n]`, differentiable; −∞ (of similarities +∞) in a row without.
    pub positive: Tensor,
    /// The closest negative's, `[n]`; +∞ (−∞) in a row without.
    pub negative: Tensor,
    /// The farthest positive's column, `None` in a row without.
    pub positive_idx: Vec<Option<u32>>,
    /// The closest negative's column.
    pub negative_idx: Vec<Option<u32>>,
}

/// The farthest positive and the closest negative of each row of `x` `[n, m]`.
///
/// Ties go to the lowest column. Where an entry is not a number, so are the row's results, and the column is that
/// entry's. With an absent side the margin −∞ − D or D − ∞ is −∞, which a hinge and a softplus take to 0 with
/// gradient 0.
///
/// # Errors
/// When the shapes disagree or a class or own column is missing.
/// # Source
/// Hermans et al. 2017 \[hermans2017\], equation 5.
/// # Examples
/// ```
/// # use {candle_core::{Device, Tensor}, dml_kernels::{Classes, Closer, hardest}};
/// let d = Tensor::new(&[[0f32, 1., 5., 4.], [1., 0., 2., 3.], [5., 2., 0., 1.]], &Device::Cpu)?;
/// let classes = Classes { rows: &[7, 7, 8], columns: &[7, 7, 8, 8], own: Some(&[0, 1, 2]) };
/// let found = hardest(&d, classes, Closer::Smaller)?;
/// assert_eq!(found.positive.to_vec1::<f32>()?, [1., 1., 1.]);
/// assert_eq!(found.negative.to_vec1::<f32>()?, [4., 2., 2.]);
/// assert_eq!(found.negative_idx, [Some(3), Some(2), Some(1)]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn hardest(x: &Tensor, classes: Classes<'_>, closer: Closer) -> Result<Hardest> {
    let (n, m) = matrix(OP, "x", x)?;
    check(classes, n, m)?;
    if !on_cpu(x) {
        return native(x, classes, closer);
    }
    let x = x.contiguous()?;
    let found = with_real!(x.dtype(), OP, T => {
        with_slice::<T, _>(OP, &x, |x| Ok(find(x, m, classes, closer)))?
    });
    let column = |side: usize| found.iter().map(move |found: &[u32; 2]| column_of(found[side]));
    let (positive_idx, negative_idx) = (column(0).collect(), column(1).collect());
    let both = x.apply_op1(Pick { found, closer })?; // [2, n]
    Ok(Hardest { positive: both.get(0)?, negative: both.get(1)?, positive_idx, negative_idx })
}

impl PairMatrix {
    /// The columns of the farthest positive and the closest negative of each row, as [`hardest`] finds them.
    ///
    /// # Errors
    /// As [`hardest`].
    pub fn hardest(&self, classes: Classes<'_>, closer: Closer) -> Result<Vec<[Option<u32>; 2]>> {
        let m = self.columns();
        check(classes, self.rows(), m)?;
        let found = with_real!(self.dtype(), OP, T => find(self.entries::<T>(), m, classes, closer));
        Ok(found.into_iter().map(|found| found.map(column_of)).collect())
    }
}

const OP: &str = "hardest";

fn check(classes: Classes<'_>, n: usize, m: usize) -> Result<()> {
    let Classes { rows, columns, own } = classes;
    if rows.len() != n || columns.len() != m || own.is_some_and(|own| own.len() != n) {
        bail!(
            "{OP}: `classes` has {} rows, {} columns and {:?} own columns, expected {n}, {m} and {n} or none",
            rows.len(),
            columns.len(),
            own.map(<[u32]>::len)
        );
    }
    if let Some(at) = own.and_then(|own| own.iter().position(|&own| own as usize >= m)) {
        bail!("{OP}: the own column of row {at} is not among the {m} columns");
    }
    Ok(())
}

/// Stands for the column of a row that has none.
const NONE: u32 = u32::MAX;

fn column_of(found: u32) -> Option<u32> {
    (found != NONE).then_some(found)
}

/// The columns of the farthest positive and the closest negative of each row.
fn find<T: Real>(x: &[T], m: usize, classes: Classes<'_>, closer: Closer) -> Vec<[u32; 2]> {
    let mut found = vec![[NONE; 2]; classes.rows.len()];
    let sign = if closer == Closer::Smaller { T::ONE } else { -T::ONE };
    for_rows(&mut found, m, |i, found| {
        let row = &x[i * m..][..m];
        let own = classes.own.map_or(NONE, |own| own[i]);
        *found = hardest_of(row, classes.columns, classes.rows[i], own, sign);
    });
    found
}

vectorized! {
    /// The extremes in one pass, then where they stand in another that stops there.
    fn hardest_of<T: Real>(row: &[T], columns: &[i64], class: i64, own: u32, sign: T) -> [u32; 2] {
        let cut = (own as usize).min(row.len());
        let after = (cut + usize::from(own != NONE)).min(row.len());
        let mut far = T::NEG_INFINITY; // the largest sign·x of a positive
        let mut near = T::NEG_INFINITY; // the largest −sign·x of a negative
        let mut numbers = true;
        for (row, columns) in [(&row[..cut], &columns[..cut]), (&row[after..], &columns[after..])] {
            let (mut fars, mut nears) = ([T::NEG_INFINITY; 16], [T::NEG_INFINITY; 16]);
            let (row_chunks, column_chunks) = (row.chunks_exact(16), columns.chunks_exact(16));
            let rest = row_chunks.remainder().iter().zip(column_chunks.remainder());
            for (&v, &c) in rest {
                let v = v * sign;
                numbers &= !v.is_nan();
                if c == class { far = far.max(v) } else { near = near.max(-v) }
            }
            for (row, columns) in row_chunks.zip(column_chunks) {
                let mut ordered = true;
                for l in 0..16 {
                    let v = row[l] * sign;
                    ordered &= !v.is_nan();
                    let same = columns[l] == class;
                    let (p, n) = if same { (v, T::NEG_INFINITY) } else { (T::NEG_INFINITY, -v) };
                    fars[l] = if p > fars[l] { p } else { fars[l] };
                    nears[l] = if n > nears[l] { n } else { nears[l] };
                }
                numbers &= ordered;
            }
            for (&p, &n) in fars.iter().zip(&nears) {
                far = far.max(p);
                near = near.max(n);
            }
        }
        if !numbers {
            return nan_of(row, columns, class, own);
        }
        let mut found = [NONE; 2];
        for (side, value) in [(0, far * sign), (1, -(near * sign))] {
            let mut start = 0;
            'row: for chunk in row.chunks(16) {
                let mut hit = false;
                for &v in chunk {
                    hit |= v == value;
                }
                if hit {
                    for (l, &v) in chunk.iter().enumerate() {
                        let j = start + l;
                        if v == value && (columns[j] == class) == (side == 0) && j != own as usize {
                            found[side] = j as u32;
                            break 'row;
                        }
                    }
                }
                start += 16;
            }
        }
        found
    }
}

/// The first entry that is not a number, on its side or, where the other side has none, on both.
#[cold]
fn nan_of<T: Real>(row: &[T], columns: &[i64], class: i64, own: u32) -> [u32; 2] {
    let first = |positive: bool| {
        let mut nans = row.iter().zip(columns).enumerate().filter(|(_, (v, _))| v.is_nan());
        let at = nans.find(|(j, (_, c))| (**c == class) == positive && *j != own as usize);
        at.map_or(NONE, |(j, _)| j as u32)
    };
    let (positive, negative) = (first(true), first(false));
    let other = if positive == NONE { negative } else { positive };
    [positive, negative].map(|side| if side == NONE { other } else { side })
}

/// From `[n, m]` to the entries at the columns found, `[2, n]`.
struct Pick {
    found: Vec<[u32; 2]>,
    closer: Closer,
}

impl Pick {
    fn forward<T: Real>(&self, x: &[T], m: usize) -> Vec<T> {
        let absent = if self.closer == Closer::Smaller { T::NEG_INFINITY } else { -T::NEG_INFINITY };
        let side = |side: usize, absent: T| {
            self.found.iter().enumerate().map(move |(i, found)| match found[side] {
                NONE => absent,
                j => x[i * m + j as usize],
            })
        };
        side(0, absent).chain(side(1, -absent)).collect()
    }

    fn backward<T: Real>(&self, grad: &[T], m: usize) -> Vec<T> {
        let n = self.found.len();
        let entry = |side: usize| {
            let entries = self.found.iter().enumerate().filter(move |(_, found)| found[side] != NONE);
            entries.map(move |(i, found)| (i * m + found[side] as usize, grad[side * n + i]))
        };
        scatter(n * m, entry(0).chain(entry(1)))
    }
}

impl CustomOp1 for Pick {
    fn name(&self) -> &'static str {
        "hardest"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        with_real!(x.dtype(), self.name(), T => {
            let x = crate::cpu::contiguous(self.name(), <T as Real>::slice(x)?, layout)?;
            Ok((T::storage(self.forward(x, layout.dims()[1])), Shape::from((2, self.found.len()))))
        })
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        with_real!(x.dtype(), self.name(), T => {
            let m = x.dim(1)?;
            let values = with_slice::<T, _>(self.name(), grad, |grad| Ok(self.backward(grad, m)))?;
            T::tensor(values, x.shape()).map(Some)
        })
    }
}

/// The same out of candle's operations, with masks of the size of `x`.
fn native(x: &Tensor, classes: Classes<'_>, closer: Closer) -> Result<Hardest> {
    let (n, m) = x.dims2()?;
    let Classes { rows, columns, own } = classes;
    let mask = |positive: bool| -> Vec<u8> {
        let entry = |i: usize, j: usize| {
            u8::from((rows[i] == columns[j]) == positive && own.is_none_or(|own| own[i] as usize != j))
        };
        (0..n).flat_map(|i| (0..m).map(move |j| entry(i, j))).collect()
    };
    let side = |positive: bool| -> Result<(Tensor, Vec<Option<u32>>)> {
        let mask = mask(positive);
        if n == 0 || m == 0 {
            let absent =
                if positive == (closer == Closer::Smaller) { f64::NEG_INFINITY } else { f64::INFINITY };
            return Ok((Tensor::full(absent, n, x.device())?.to_dtype(x.dtype())?, vec![None; n]));
        }
        let kept = Tensor::from_slice(&mask, (n, m), x.device())?;
        let largest = positive == (closer == Closer::Smaller);
        let fill = if largest { f64::NEG_INFINITY } else { f64::INFINITY };
        let fill = Tensor::full(fill, (n, m), x.device())?.to_dtype(x.dtype())?;
        let candidates = kept.where_cond(&x.contiguous()?, &fill)?;
        let seen = candidates.detach();
        let at = if largest { seen.argmax_keepdim(D::Minus1)? } else { seen.argmin_keepdim(D::Minus1)? };
        let values = candidates.gather(&at, 1)?.squeeze(1)?;
        let at = at.squeeze(1)?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        let exists = |i: usize| mask[i * m..][..m].contains(&1);
        Ok((values, at.into_iter().enumerate().map(|(i, j)| exists(i).then_some(j)).collect()))
    };
    let ((positive, positive_idx), (negative, negative_idx)) = (side(true)?, side(false)?);
    Ok(Hardest { positive, negative, positive_idx, negative_idx })
}
