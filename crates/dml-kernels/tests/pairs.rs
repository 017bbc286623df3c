//! Matrices of pairs and the losses of their rows against plain loops in f64 and finite differences.

#![allow(clippy::unwrap_used)] // helpers outside test functions

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{assert_close, assert_gradients, normal, weigh};
use dml_kernels::{Band, PairMatrix, Pairing, Real, RowLoss, RowMap, Tally, TupleLoss, natively};

/// Odd ones, single rows, single columns, and one that is large enough to be shared among threads.
const SHAPES: [(usize, usize, usize); 8] =
    [(1, 1, 1), (1, 6, 3), (5, 1, 2), (3, 3, 1), (7, 5, 3), (9, 17, 8), (19, 18, 33), (131, 127, 5)];
const PAIRINGS: [Pairing; 6] = [
    Pairing::InnerProduct,
    Pairing::Euclidean { power: 0.5 },
    Pairing::Euclidean { power: 1.0 },
    Pairing::Euclidean { power: 1.5 },
    Pairing::Euclidean { power: 2.0 },
    Pairing::Euclidean { power: 3.0 },
];

fn host(x: &Tensor) -> Vec<Vec<f64>> {
    x.to_dtype(DType::F64).unwrap().to_vec2().unwrap()
}

fn length(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The row as it is compared, and 1/‖row‖ where it was divided by its length.
fn unit(x: &[f64], normalize: bool) -> (Vec<f64>, Option<f64>) {
    match length(x) {
        len if normalize && len > 1e-12 => (x.iter().map(|v| v / len).collect(), Some(1.0 / len)),
        _ => (x.to_vec(), None),
    }
}

/// From the gradient by a unit row to that by the row.
fn through_unit(gradient: &[f64], unit: &[f64], inverse: Option<f64>) -> Vec<f64> {
    let Some(inverse) = inverse else { return gradient.to_vec() };
    let along: f64 = gradient.iter().zip(unit).map(|(g, u)| g * u).sum();
    gradient.iter().zip(unit).map(|(g, u)| (g - along * u) * inverse).collect()
}

/// The definition: the value of a pair and its derivatives by both rows.
fn pair(x: &[f64], y: &[f64], pairing: Pairing) -> (f64, Vec<f64>, Vec<f64>) {
    match pairing {
        Pairing::InnerProduct => (x.iter().zip(y).map(|(x, y)| x * y).sum(), y.to_vec(), x.to_vec()),
        Pairing::Euclidean { power } => {
            let difference: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
            let distance = length(&difference);
            let slope = if distance > 0.0 { power * distance.powf(power - 2.0) } else { 0.0 };
            let to_x: Vec<f64> = difference.iter().map(|v| slope * v).collect();
            let to_y = to_x.iter().map(|v| -v).collect();
            (if distance > 0.0 { distance.powf(power) } else { 0.0 }, to_x, to_y)
        }
    }
}

/// All pairs by loops, and the gradients of Σ w_ij·v_ij by `x` and by `y`.
#[allow(clippy::type_complexity, reason = "a test's own")]
fn by_loops(
    x: &[Vec<f64>],
    y: &[Vec<f64>],
    weights: &[f64],
    pairing: Pairing,
    normalize: bool,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let m = y.len();
    let (mut values, mut to_x, mut to_y) = (Vec::new(), vec![Vec::new(); x.len()], vec![Vec::new(); m]);
    for (i, row) in x.iter().enumerate() {
        to_x[i] = vec![0.0; row.len()];
        for (j, column) in y.iter().enumerate() {
            to_y[j].resize(column.len(), 0.0);
            let ((a, by_a), (b, by_b)) = (unit(row, normalize), unit(column, normalize));
            let (value, to_a, to_b) = pair(&a, &b, pairing);
            values.push(value);
            let weight = weights[i * m + j];
            for (out, g) in to_x[i].iter_mut().zip(through_unit(&to_a, &a, by_a)) {
                *out += weight * g;
            }
            for (out, g) in to_y[j].iter_mut().zip(through_unit(&to_b, &b, by_b)) {
                *out += weight * g;
            }
        }
    }
    (values, to_x.concat(), to_y.concat())
}

fn assert_near(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = 1.0 + want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * scale, "{what}: entry {at} is {got}, expected {want}");
    }
}

fn flat(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Cotangents that are 0 but for one entry in a hundred, or none of them 0.
fn cotangent(n: usize, m: usize, sparse: bool) -> Vec<f64> {
    let all = flat(&normal(17, n * m));
    all.into_iter().enumerate().map(|(at, v)| if sparse && at % 101 != 3 { 0.0 } else { v }).collect()
}

#[test]
fn values_and_gradients_are_those_of_loops() {
    // Squares of distances are differences of squares, and roots of small ones are magnified.
    for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 2e-4)] {
        for (n, m, d) in SHAPES {
            for (pairing, normalize) in PAIRINGS.iter().flat_map(|&p| [(p, false), (p, true)]) {
                // On a line, or as units there, points coincide but for rounding.
                if normalize && d == 1 {
                    continue;
                }
                for (itself, sparse) in [(false, false), (false, true), (true, false), (true, true)] {
                    let what = format!("{dtype:?} {n}×{m}×{d} {pairing:?} {normalize} {itself} {sparse}");
                    let x = Var::from_tensor(&normal(1, (n, d)).to_dtype(dtype).unwrap()).unwrap();
                    let y = Var::from_tensor(&normal(2, (m, d)).to_dtype(dtype).unwrap()).unwrap();
                    let (other, m) = if itself { (&x, n) } else { (&y, m) };
                    let weights = cotangent(n, m, sparse);
                    let (values, to_x, mut to_y) =
                        by_loops(&host(&x), &host(other), &weights, pairing, normalize);
                    let matrix = PairMatrix::of_rows(&x, (!itself).then_some(&**other), pairing, normalize);
                    let matrix = matrix.unwrap().unwrap();
                    assert_eq!((matrix.rows(), matrix.columns(), matrix.dtype()), (n, m, dtype));
                    assert_near(&what, &matrix.values(), &values, tolerance);
                    if itself && matches!(pairing, Pairing::Euclidean { .. }) {
                        assert!((0..n).all(|i| matrix.values()[i * n + i] == 0.0), "{what}: diagonal");
                    }
                    let weights =
                        Tensor::from_vec(weights, (n, m), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                    let sum = (matrix.tensor().unwrap() * weights).unwrap().sum_all().unwrap();
                    let gradients = sum.backward().unwrap();
                    let got_x = flat(gradients.get(&x).unwrap());
                    if itself {
                        to_y.iter_mut().zip(&to_x).for_each(|(y, x)| *y += x);
                        assert_near(&what, &got_x, &to_y, tolerance);
                    } else {
                        assert_near(&what, &got_x, &to_x, tolerance);
                        assert_near(&what, &flat(gradients.get(&y).unwrap()), &to_y, tolerance);
                    }
                }
            }
        }
    }
}

#[test]
fn gradients_are_those_of_differences() {
    for pairing in PAIRINGS {
        for normalize in [false, true] {
            let x = Var::from_tensor(&normal(3, (4, 5))).unwrap();
            let y = Var::from_tensor(&normal(4, (5, 3))).unwrap(); // seen through a transposed view
            let of = |x: &Tensor, y: Option<&Tensor>| {
                weigh(&PairMatrix::of_rows(x, y, pairing, normalize)?.unwrap().tensor()?)
            };
            let rows = |x: &Tensor| x.narrow(1, 1, 4); // not contiguous
            let what = format!("{pairing:?} {normalize}");
            assert_gradients(&what, &[&x], || of(&rows(&x)?, None));
            let other = |y: &Tensor| Tensor::cat(&[&y.t()?, &y.t()?.affine(0.3, 0.1)?], 0)?.narrow(1, 0, 4);
            assert_gradients(&what, &[&x, &y], || of(&rows(&x)?, Some(&other(&y)?)));
            // One side alone.
            assert_gradients(&what, &[&x], || of(&rows(&x)?, Some(&other(&y.detach())?)));
            assert_gradients(&what, &[&y], || of(&rows(&x.detach())?, Some(&other(&y)?)));
        }
    }
}

#[test]
fn equal_rows_are_at_distance_zero_without_gradient() {
    for dtype in [DType::F32, DType::F64] {
        let row = normal(5, (1, 7)).to_dtype(dtype).unwrap();
        let far = (&row + 3.0).unwrap();
        let x = Var::from_tensor(&Tensor::cat(&[&row, &row, &far], 0).unwrap()).unwrap();
        for power in [0.5, 1.0, 2.0, 3.0] {
            let matrix = PairMatrix::of_rows(&x, None, Pairing::Euclidean { power }, false).unwrap().unwrap();
            let values = matrix.values();
            assert_eq!([values[0], values[1], values[3], values[4], values[8]], [0.0; 5], "{power}");
            assert!(values[2] > 0.0);
            let equal = matrix.tensor().unwrap().narrow(0, 0, 2).unwrap().narrow(1, 0, 2).unwrap();
            let gradients = equal.sum_all().unwrap().backward().unwrap();
            assert!(flat(gradients.get(&x).unwrap()).iter().all(|&g| g == 0.0), "{dtype:?} {power}");
        }
    }
}

#[test]
fn a_row_of_zeros_is_left_as_it_is() {
    let x = Var::from_tensor(&Tensor::new(&[[0f64, 0.], [3., 4.]], &Device::Cpu).unwrap()).unwrap();
    let y = Tensor::new(&[[2f64, 0.]], &Device::Cpu).unwrap();
    let matrix = PairMatrix::of_rows(&x, Some(&y), Pairing::InnerProduct, true).unwrap().unwrap();
    assert_near("values", &matrix.values(), &[0.0, 0.6], 1e-15);
    let gradients = matrix.tensor().unwrap().sum_all().unwrap().backward().unwrap();
    // ⟨x, e₁⟩ for the row as it is; (e₁ − u⟨e₁, u⟩)/‖x‖ for the other.
    assert_near("gradient", &flat(gradients.get(&x).unwrap()), &[1.0, 0.0, 0.128, -0.096], 1e-15);
}

#[test]
fn far_from_the_origin_f32_keeps_the_distances() {
    let x = normal(6, (20, 9));
    let moved = (&x + 300.0).unwrap().to_dtype(DType::F32).unwrap();
    let pairing = Pairing::Euclidean { power: 1.0 };
    let got = PairMatrix::of_rows(&moved, None, pairing, false).unwrap().unwrap().values();
    let (want, ..) = by_loops(&host(&moved), &host(&moved), &[0.0; 400], pairing, false);
    assert_near("distances", &got, &want, 1e-5);
}

#[test]
fn no_rows_and_no_columns_give_nothing() {
    let (none, some) = (normal(1, (0, 3)), Var::from_tensor(&normal(2, (4, 3))).unwrap());
    for pairing in PAIRINGS {
        for (x, y, n, m) in [(&none, &*some, 0, 4), (&*some, &none, 4, 0), (&none, &none, 0, 0)] {
            let matrix = PairMatrix::of_rows(x, Some(y), pairing, true).unwrap().unwrap();
            assert_eq!((matrix.rows(), matrix.columns(), matrix.values().len()), (n, m, 0));
            let losses = matrix.row_losses(&Squares, None).unwrap();
            assert_eq!(losses.dims(), [n]);
            assert_eq!(matrix.tally(&Hinges, None, None).unwrap(), vec![Tally::default(); n]);
            assert_eq!(matrix.map_rows(&Largest).unwrap(), vec![]);
            let mut slopes = matrix.slopes().unwrap();
            assert_eq!(matrix.weigh(&Hinges, &vec![1.0; n], None, None, &mut slopes).unwrap(), 0.0);
            let value = matrix.attach_value(2.0, slopes, None).unwrap();
            assert_eq!(value.to_scalar::<f64>().unwrap(), 2.0);
            if n == 4 {
                for sum in [losses.sum_all(), Ok(value), matrix.tensor().unwrap().sum_all()] {
                    let gradients = sum.unwrap().backward().unwrap();
                    assert_eq!(flat(gradients.get(&some).unwrap()), [0.0; 12]);
                }
            }
        }
        let matrix = PairMatrix::of_rows(&none, None, pairing, false).unwrap().unwrap();
        assert_eq!((matrix.rows(), matrix.columns()), (0, 0));
    }
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let rows = |n, d| Tensor::zeros((n, d), DType::F32, &Device::Cpu).unwrap();
    let message = |x: &Tensor, y: Option<&Tensor>| {
        let error = PairMatrix::of_rows(x, y, Pairing::InnerProduct, false).unwrap_err().to_string();
        error.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        message(&rows(2, 3), Some(&rows(2, 4))),
        "pairs: `x` has 3 columns and `y` 4, expected as many, at least one"
    );
    assert_eq!(
        message(&rows(2, 0), None),
        "pairs: `x` has 0 columns and `y` 0, expected as many, at least one"
    );
    assert_eq!(
        message(&rows(2, 3).flatten_all().unwrap(), None),
        "pairs: `x` has shape [6] and `y` [6], expected [n, d] and [m, d]"
    );
    let x = rows(2, 3);
    assert!(natively(|| PairMatrix::of_rows(&x, None, Pairing::InnerProduct, false)).unwrap().is_none());
    let matrix = PairMatrix::of_rows(&x, None, Pairing::InnerProduct, false).unwrap().unwrap();
    let mut slopes = matrix.slopes().unwrap();
    let error = matrix.weigh(&Hinges, &[1.0], None, None, &mut slopes).unwrap_err().to_string();
    assert!(error.starts_with("weigh: 1 weights, expected 2, one a row"), "{error}");
    let error = matrix.attach_table(0.0, &[1.0]).unwrap_err().to_string();
    assert!(error.starts_with("attach_table: 1 derivatives, expected 4"), "{error}");
}

/// Which columns row i takes: a row without any, rows of one kind only, and others.
fn takes(i: usize, j: usize) -> bool {
    match i % 4 {
        0 => false,
        1 => j.is_multiple_of(2),
        2 => j % 2 == 1,
        _ => !(i + j).is_multiple_of(3),
    }
}

/// Σ_j (i + j + 1)·v_j² over the columns that the row takes; it relies on nothing in `scratch`, and leaves dirt there.
struct Squares;

impl RowLoss for Squares {
    fn scratch(&self, columns: usize) -> usize {
        columns + 1
    }

    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], scratch: &mut [T]) -> T {
        assert_eq!(scratch.len(), row.len() + 1);
        let mut loss = T::ZERO;
        for (j, (slope, &v)) in slopes.iter_mut().zip(row).enumerate().filter(|(j, _)| takes(i, *j)) {
            assert!(*slope == T::ZERO);
            let weight = T::from_f64((i + j + 1) as f64);
            loss += weight * v * v;
            *slope = weight * (v + v);
        }
        scratch.fill(T::from_f64(f64::NAN));
        loss
    }
}

/// log Σ_j exp(e^s·v_j) over the columns that the row takes, 0 where it takes none.
struct LogSumExp(f64);

impl RowLoss for LogSumExp {
    #[inline(always)]
    fn loss<T: Real>(&self, i: usize, row: &[T], slopes: &mut [T], _: &mut [T]) -> T {
        let factor = T::from_f64(self.0.exp());
        let mut sum = T::ZERO;
        for (j, (slope, &v)) in slopes.iter_mut().zip(row).enumerate().filter(|(j, _)| takes(i, *j)) {
            let _ = j;
            *slope = (factor * v).exp_fast();
            sum += *slope;
        }
        if sum == T::ZERO {
            return T::ZERO;
        }
        slopes.iter_mut().for_each(|slope| *slope = factor * *slope / sum);
        sum.ln()
    }
}

/// [v_j − 0.2·(j mod 3)]₊ for each column that the row takes.
struct Hinges;

impl Hinges {
    fn bound(j: usize) -> f64 {
        0.2 * (j % 3) as f64
    }
}

impl TupleLoss for Hinges {
    #[inline(always)]
    fn tally<T: Real>(&self, i: usize, row: &[T], band: Band<T>, _: &mut [T]) -> Tally {
        let mut tally = Tally::default();
        for (j, &v) in row.iter().enumerate().filter(|(j, _)| takes(i, *j)) {
            tally.add((v - T::from_f64(Self::bound(j))).max(T::ZERO), band);
        }
        tally
    }

    #[inline(always)]
    fn weigh<T: Real>(
        &self,
        i: usize,
        row: &[T],
        weight: T,
        band: Band<T>,
        slopes: &mut [T],
        _: &mut [T],
    ) -> T {
        let mut sum = T::ZERO;
        for (j, (slope, &v)) in slopes.iter_mut().zip(row).enumerate().filter(|(j, _)| takes(i, *j)) {
            let loss = (v - T::from_f64(Self::bound(j))).max(T::ZERO);
            if band.holds(loss) {
                sum += weight * loss;
                *slope += if loss > T::ZERO { weight } else { T::ZERO };
            }
        }
        sum
    }
}

/// The row and its largest entry, and nothing for rows that take no column.
struct Largest;

impl RowMap for Largest {
    type Found = (usize, f64);

    #[inline(always)]
    fn find<T: Real>(&self, i: usize, row: &[T], found: &mut Vec<(usize, f64)>) {
        if !i.is_multiple_of(4) {
            found.push((i, row.iter().fold(f64::NEG_INFINITY, |m, v| m.max(Real::to_f64(*v)))));
        }
    }
}

/// The same matrix from rows and within a graph.
fn matrices(x: &Tensor, y: &Tensor) -> Result<[PairMatrix; 2]> {
    let of_rows = PairMatrix::of_rows(x, Some(y), Pairing::Euclidean { power: 1.0 }, true)?.unwrap();
    let graph = PairMatrix::of_graph(&of_rows.tensor()?)?;
    assert_eq!(of_rows.values(), graph.values());
    Ok([of_rows, graph])
}

#[test]
fn losses_of_rows_are_those_of_loops() {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
        for (n, m, d) in SHAPES.into_iter().filter(|s| s.2 > 1) {
            let x = normal(7, (n, d)).to_dtype(dtype).unwrap();
            let y = normal(8, (m, d)).to_dtype(dtype).unwrap();
            for matrix in matrices(&x, &y).unwrap() {
                let values = matrix.values();
                let rows: Vec<&[f64]> = values.chunks(m).collect();
                let sum = |i: usize, f: &dyn Fn(usize, f64) -> f64| -> f64 {
                    rows[i].iter().enumerate().filter(|(j, _)| takes(i, *j)).map(|(j, &v)| f(j, v)).sum()
                };
                let what = format!("{dtype:?} {n}×{m}×{d} {matrix:?}");
                let squares = matrix.row_losses(&Squares, None).unwrap();
                let want: Vec<f64> = (0..n).map(|i| sum(i, &|j, v| (i + j + 1) as f64 * v * v)).collect();
                assert_near(&what, &flat(&squares), &want, tolerance);
                let logs = matrix.row_losses(&LogSumExp(0.4), None).unwrap();
                let log = |s: f64| if s == 0.0 { 0.0 } else { s.ln() };
                let want: Vec<f64> = (0..n).map(|i| log(sum(i, &|_, v| (0.4f64.exp() * v).exp()))).collect();
                assert_near(&what, &flat(&logs), &want, tolerance);
                let found = matrix.map_rows(&Largest).unwrap();
                let largest = |i: usize| (i, rows[i].iter().copied().fold(f64::NEG_INFINITY, f64::max));
                assert_eq!(found, (0..n).filter(|i| i % 4 != 0).map(largest).collect::<Vec<_>>(), "{what}");
                for (low, high) in
                    [(None, None), (Some(0.0), None), (Some(0.5), Some(1.1)), (None, Some(0.9))]
                {
                    let inside = |loss: f64| {
                        f64::from(u8::from(low.is_none_or(|b| loss > b) && high.is_none_or(|b| loss < b)))
                    };
                    let hinge = |j: usize, v: f64| (v - Hinges::bound(j)).max(0.0);
                    let tallies = matrix.tally(&Hinges, low, high).unwrap();
                    for (i, tally) in tallies.iter().enumerate() {
                        let want = [
                            sum(i, &|_, _| 1.0),
                            sum(i, &|j, v| hinge(j, v)),
                            sum(i, &|j, v| inside(hinge(j, v))),
                        ];
                        assert_near(&what, &[tally.count, tally.sum, tally.inside], &want, tolerance);
                    }
                    let weights: Vec<f64> = (0..n).map(|i| [0.7, 0.0, -1.3][i % 3]).collect();
                    let mut slopes = matrix.slopes().unwrap();
                    let value = matrix.weigh(&Hinges, &weights, low, high, &mut slopes).unwrap();
                    let want = (0..n).map(|i| weights[i] * sum(i, &|j, v| inside(hinge(j, v)) * hinge(j, v)));
                    let size: f64 = tallies.iter().map(|t| t.sum).sum();
                    let want: f64 = want.sum();
                    assert!((value - want).abs() <= tolerance * (1.0 + size), "{what}: {value}, {want}");
                    let active = |j: usize, v: f64| {
                        let loss = hinge(j, v);
                        if loss > 0.0 { inside(loss) } else { 0.0 }
                    };
                    let want: Vec<f64> = (0..n).map(|i| weights[i] * sum(i, &active)).collect();
                    assert_near(&what, &slopes.row_sums(m), &want, tolerance);
                }
            }
        }
    }
}

/// Central differences are taken of values that the kernels give; what is held is where the derivatives go.
#[test]
fn losses_of_rows_have_the_gradient_of_differences() {
    for (n, m, d) in [(5, 7, 3), (9, 4, 2), (4, 1, 3), (1, 5, 4)] {
        let x = Var::from_tensor(&normal(9, (n, d))).unwrap();
        let y = Var::from_tensor(&normal(10, (m, d))).unwrap();
        let s = Var::new(0.3f64, &Device::Cpu).unwrap();
        for graph in [0, 1] {
            let matrix = || -> Result<PairMatrix> { Ok(matrices(&x, &y)?[graph].clone()) };
            assert_gradients("squares", &[&x, &y], || weigh(&matrix()?.row_losses(&Squares, None)?));
            assert_gradients("log-sum-exp", &[&x, &y, &s], || {
                weigh(&matrix()?.row_losses(&LogSumExp(s.to_scalar()?), Some(&s))?)
            });
            assert_gradients("weighed", &[&x, &y], || {
                let matrix = matrix()?;
                let mut slopes = matrix.slopes()?;
                let weights: Vec<f64> = (0..n).map(|i| 0.5 + i as f64).collect();
                let mut value = matrix.weigh(&Hinges, &weights, Some(0.0), None, &mut slopes)?;
                // A second pass adds to the first.
                value += matrix.weigh(&Hinges, &vec![-0.3; n], None, None, &mut slopes)?;
                matrix.attach_value(value, slopes, None)?.affine(1.7, 0.2)
            });
            assert_gradients("table", &[&x, &y], || {
                let matrix = matrix()?;
                let table: Vec<f64> = (0..n * m).map(|at| (at as f64).sin()).collect();
                let value = matrix.values().iter().zip(&table).map(|(v, t)| v * t).sum();
                matrix.attach_table(value, &table)
            });
        }
    }
}

/// A value with derivatives hands the derivative by s on: Σ slope·entry.
#[test]
fn a_whole_value_has_the_gradient_of_its_scale() {
    let x = Var::from_tensor(&normal(11, (6, 3))).unwrap();
    let s = Var::new(-0.2f64, &Device::Cpu).unwrap();
    assert_gradients("scale", &[&x, &s], || {
        let matrix = PairMatrix::of_rows(&x, None, Pairing::Euclidean { power: 2.0 }, false)?.unwrap();
        // Σ sin(e^s·v)
        let factor = s.to_scalar::<f64>()?.exp();
        let value = matrix.values().iter().map(|v| (factor * v).sin()).sum();
        let table: Vec<f64> = matrix.values().iter().map(|v| factor * (factor * v).cos()).collect();
        let slopes = matrix.attach_table(0.0, &table)?; // checks the length
        assert_eq!(slopes.to_scalar::<f64>()?, 0.0);
        struct Sines(f64);
        impl TupleLoss for Sines {
            #[inline(always)]
            fn tally<T: Real>(&self, _: usize, _: &[T], _: Band<T>, _: &mut [T]) -> Tally {
                Tally::default()
            }
            #[inline(always)]
            fn weigh<T: Real>(
                &self,
                _: usize,
                row: &[T],
                weight: T,
                _: Band<T>,
                slopes: &mut [T],
                _: &mut [T],
            ) -> T {
                let mut sum = 0.0;
                for (slope, &v) in slopes.iter_mut().zip(row) {
                    let v = self.0 * Real::to_f64(v);
                    sum += v.sin();
                    *slope += weight * T::from_f64(self.0 * v.cos());
                }
                weight * T::from_f64(sum)
            }
        }
        let mut slopes = matrix.slopes()?;
        let again = matrix.weigh(&Sines(factor), &[1.0; 6], None, None, &mut slopes)?;
        let by_hand: f64 = value;
        assert!((again - by_hand).abs() < 1e-12);
        matrix.attach_value(value, slopes, Some(&s))
    });
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (x, y) = (normal(12, (203, 6)), normal(13, (197, 6)));
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (x, y) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&y).unwrap());
            let matrix =
                PairMatrix::of_rows(&x, Some(&y), Pairing::Euclidean { power: 1.0 }, true).unwrap().unwrap();
            let losses = matrix.row_losses(&LogSumExp(0.1), None).unwrap();
            let tallies = matrix.tally(&Hinges, Some(0.1), None).unwrap();
            let mut slopes = matrix.slopes().unwrap();
            let value = matrix.weigh(&Hinges, &[0.3; 203], Some(0.1), None, &mut slopes).unwrap();
            let whole = matrix.attach_value(value, slopes, None).unwrap();
            let gradients = (weigh(&losses).unwrap() + whole).unwrap().backward().unwrap();
            let bits = |x: &Tensor| flat(x).into_iter().map(f64::to_bits).collect::<Vec<_>>();
            let gradient = [bits(gradients.get(&x).unwrap()), bits(gradients.get(&y).unwrap())];
            (bits(&losses), tallies, value.to_bits(), gradient, matrix.map_rows(&Largest).unwrap())
        })
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn a_band_leaves_out_its_bounds_and_keeps_what_is_no_number() {
    let band = Band::<f64>::new(Some(0.0), Some(1.0));
    assert!(band.holds(0.5) && band.holds(f64::NAN));
    assert!(!band.holds(0.0) && !band.holds(1.0) && !band.holds(-1.0) && !band.holds(f64::INFINITY));
    let open = Band::<f32>::new(None, None);
    assert!([0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN].iter().all(|&v| open.holds(v)));
    let mut tally = Tally::default();
    [0.25, 1.5, 0.0].iter().for_each(|&loss| tally.add(loss, band));
    assert_eq!(tally, Tally { count: 3.0, sum: 1.75, inside: 1.0 });
}

/// A matrix in a graph on which everything runs natively has the same derivatives.
#[test]
fn assembled_matrices_take_part_in_a_larger_graph() {
    let x = Var::from_tensor(&normal(14, (4, 3))).unwrap();
    let f = || -> Result<Tensor> {
        let matrix = PairMatrix::of_graph(&x.matmul(&x.t()?)?.affine(0.5, 0.1)?)?;
        weigh(&(matrix.row_losses(&Squares, None)? + matrix.tensor()?.sum(1)?)?)
    };
    assert_gradients("graph", &[&x], f);
    assert_close("value", &f().unwrap(), &natively(f).unwrap(), 1e-12);
}
