//! The Legendre dual: φ*(g) = sup_x ⟨g, x⟩ − φ(x), ∇φ* = (∇φ)⁻¹, and D_φ(x ‖ y) = D_φ*(∇φ(y) ‖ ∇φ(x)).
//!
//! Where a generator has no closed ∇φ*, each row solves min_x φ(x) − ⟨g, x⟩ by Newton's method: the Hessian from
//! differences of the closed ∇φ (d more rows through φ per iteration), a line search on the slope along the step,
//! which for a convex function needs no difference of large values, and steps that stay inside the domain. On the
//! simplex the search runs along differences of coordinates, so the coordinates always sum to 1.

use candle_core::{D, DType, Device, Tensor};
use phi::{Domain, Generator};

use crate::{
    Error, Result,
    error::{check_float, check_partner, check_points},
    pivot::{center_of, check_finite},
};

/// How many coordinates of shifted points go through φ at a time: 8 MiB of f64.
const HESSIAN_BLOCK: usize = 1 << 20;
/// How much of the way to the border of the domain a step may take.
const TO_THE_BORDER: f64 = 0.99;
/// How often a step is shortened or lengthened.
const MAX_TRIALS: usize = 60;

/// How to invert ∇φ.
///
/// # Examples
/// ```
/// # use {bregman::Dual, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let g = Tensor::new(&[[2f32, 4.]], &Device::Cpu)?;
/// let solution = Dual::default().solve(&SquaredEuclidean, &g)?;
/// assert_eq!(solution.point.to_vec2::<f32>()?, [[1., 2.]]);
/// assert!(solution.report.closed_form);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Dual {
    /// Newton iterations before giving up: 100, where 5 to 15 are usual.
    pub max_iterations: usize,
    /// The residual max |∇φ(x) − g| / (1 + max |g|) to reach. `None`: 1e-9 in f64, 2e-5 in f32.
    pub tolerance: Option<f64>,
    /// Where to start, `[n, d]`, or `[1, d]` for all rows. `None`: 0, ones, or the even distribution, as the domain is.
    pub start: Option<Tensor>,
    /// Solve numerically even where φ has a closed form.
    pub ignore_closed_form: bool,
}

impl Default for Dual {
    fn default() -> Self {
        Self { max_iterations: 100, tolerance: None, start: None, ignore_closed_form: false }
    }
}

/// ∇φ*(g) and how it was found.
#[derive(Debug, Clone)]
pub struct Solution {
    /// x with ∇φ(x) = g, `[n, d]`. It carries gradients only where `report.closed_form`.
    pub point: Tensor,
    /// How it was found.
    pub report: Report,
}

/// How ∇φ*(g) was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// The generator gave it; the other fields are then 0.
    pub closed_form: bool,
    /// Newton iterations of the slowest row.
    pub iterations: usize,
    /// The worst row's residual max |∇φ(x) − g| / (1 + max |g|).
    pub residual: f64,
}

impl Dual {
    /// ∇φ*(g) row by row, with a report: `g` `[n, d]` → `[n, d]`.
    ///
    /// # Errors
    /// [`Error::NotConverged`] names the worst row; [`Error::Config`] for a tolerance that is no number ≥ 0;
    /// [`Error::Shape`] and kin when `g` or `start` do not fit φ;
    /// [`phi::Error::Domain`] when a row of `g` is no gradient of φ or `start` lies outside the domain.
    pub fn solve(&self, phi: &dyn Generator, g: &Tensor) -> Result<Solution> {
        let op = "Dual::solve";
        check_float(op, "g", g)?;
        Domain::Reals.check(op, "g", g)?;
        let (n, d) = g.dims2()?;
        if let Some(dim) = phi.dim()
            && dim != d
        {
            let expected = format!("[n, {dim}]");
            return Err(Error::Shape { op, arg: "g", got: g.dims().to_vec(), expected });
        }
        if !self.ignore_closed_form
            && let Some(point) = phi.grad_conjugate(g)?
        {
            check_finite(op, "g", "∇φ*", &point)?;
            return Ok(Solution {
                point,
                report: Report { closed_form: true, iterations: 0, residual: 0.0 },
            });
        }
        let start = match &self.start {
            Some(start) => {
                check_partner(op, "start", g, start, start.rank() != 2 || start.dims()[0] != 1)?;
                start.detach()
            }
            None => match phi.domain() {
                Domain::Reals => Tensor::zeros((1, d), g.dtype(), g.device())?,
                Domain::Simplex => (Tensor::ones((1, d), g.dtype(), g.device())? / d as f64)?,
                _ => Tensor::ones((1, d), g.dtype(), g.device())?,
            },
        };
        check_points(op, "start", phi, &start)?;
        let to_host = |t: &Tensor| -> Result<Vec<f64>> {
            let t = t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            Ok(t.flatten_all()?.to_vec1::<f64>()?)
        };
        let start = to_host(&start.broadcast_as((n, d))?)?;
        let targets = to_host(g)?;
        let tolerance = self.tolerance.unwrap_or(match g.dtype() {
            DType::F64 => 1e-9,
            _ => 2e-5,
        });
        if !(tolerance.is_finite() && tolerance >= 0.0) {
            let (got, expected) = (tolerance.to_string(), "finite and ≥ 0".to_owned());
            return Err(Error::Config { op, field: "tolerance", got, expected });
        }
        let mut newton = Newton { phi, like: g, d, rows: Vec::with_capacity(n) };
        newton.start(&start, &targets)?;
        let mut iterations = 0;
        while iterations < self.max_iterations && newton.step(tolerance)? {
            iterations += 1;
        }
        let residual = newton.rows.iter().fold(0.0, |worst, row| worse(worst, row.residual));
        if residual > tolerance || residual.is_nan() {
            let row = newton.rows.iter().position(|row| row.residual == residual || row.residual.is_nan());
            let row = row.unwrap_or(0);
            return Err(Error::NotConverged { op, arg: "g", row, residual, iterations, tolerance });
        }
        let point = newton.tensor(newton.rows.iter().flat_map(|row| row.x.iter().copied()).collect())?;
        Ok(Solution { point, report: Report { closed_form: false, iterations, residual } })
    }
}

/// ∇φ*(g), the point whose gradient is g: `[n, d]` → `[n, d]`, in closed form or by [`Dual::default`].
///
/// # Errors
/// As [`Dual::solve`].
/// # Source
/// Rockafellar 1970 \[rockafellar1970\], section 26.
/// # Examples
/// ```
/// # use {bregman::grad_conjugate, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let g = Tensor::new(&[[2f32, 4.]], &Device::Cpu)?;
/// assert_eq!(grad_conjugate(&SquaredEuclidean, &g)?.to_vec2::<f32>()?, [[1., 2.]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn grad_conjugate(phi: &dyn Generator, g: &Tensor) -> Result<Tensor> {
    Ok(Dual::default().solve(phi, g)?.point)
}

/// φ*(g) = ⟨g, x⟩ − φ(x) at x = ∇φ*(g): `[n, d]` → `[n]`.
///
/// # Errors
/// As [`Dual::solve`].
/// # Source
/// Rockafellar 1970 \[rockafellar1970\], section 12.
/// # Examples
/// ```
/// # use {bregman::conjugate, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let g = Tensor::new(&[[2f32, 4.]], &Device::Cpu)?;
/// assert_eq!(conjugate(&SquaredEuclidean, &g)?.to_vec1::<f32>()?, [5.]); // ‖g‖²/4
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn conjugate(phi: &dyn Generator, g: &Tensor) -> Result<Tensor> {
    let x = grad_conjugate(phi, g)?;
    let value = ((g * &x)?.sum(D::Minus1)? - phi.value(&x)?)?;
    check_finite("conjugate", "g", "φ*", &value)?;
    Ok(value)
}

/// Row-wise divergences of the dual, `out[i]` = D_φ*(a_i ‖ b_i) = D_φ(∇φ*(b_i) ‖ ∇φ*(a_i)).
///
/// `a` and `b` `[n, d]`, gradients of φ → `[n]`, non-negative.
///
/// # Errors
/// As [`Dual::solve`], and when `a` and `b` do not fit each other.
/// # Source
/// Banerjee et al. 2005 \[banerjee2005\], Appendix A.
/// # Examples
/// ```
/// # use {bregman::conjugate_divergence, candle_core::{Device, Tensor}, phi::SquaredEuclidean};
/// let a = Tensor::new(&[[2f32, 4.]], &Device::Cpu)?;
/// let b = Tensor::new(&[[0f32, 0.]], &Device::Cpu)?;
/// assert_eq!(conjugate_divergence(&SquaredEuclidean, &a, &b)?.to_vec1::<f32>()?, [5.]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn conjugate_divergence(phi: &dyn Generator, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let op = "conjugate_divergence";
    check_float(op, "a", a)?;
    Domain::Reals.check(op, "a", a)?;
    check_partner(op, "b", a, b, true)?;
    let (at_a, at_b) = (grad_conjugate(phi, a)?, grad_conjugate(phi, b)?); // [n, d]
    // φ*(a) − φ*(b) − ⟨∇φ*(b), a − b⟩ with φ* written out is ⟨a, x_a − x_b⟩ − φ(x_a) + φ(x_b).
    let pivot = center_of(phi, &[&at_a, &at_b])?;
    let value = |x: &Tensor| -> Result<Tensor> {
        let value = phi.centered(x, &pivot)?.0;
        check_finite(op, "∇φ*", "φ", &value)?;
        Ok(value)
    };
    let slope = a.broadcast_sub(&phi.value_and_grad(&pivot)?.1)?; // [n, d]
    let along = (slope * (&at_a - &at_b)?)?.sum(D::Minus1)?; // [n]
    Ok(((along - value(&at_a)?)? + value(&at_b)?)?.relu()?)
}

/// One row's problem min_x φ(x) − ⟨g, x⟩ and where it stands.
#[derive(Debug, Clone)]
struct Row {
    target: Vec<f64>,   // g
    x: Vec<f64>,        // always inside the domain
    value: f64,         // φ(x) − ⟨g, x⟩
    gradient: Vec<f64>, // ∇φ(x) − g
    residual: f64,      // max |gradient along the domain| / (1 + max |g|)
    stuck: bool,        // no step along the Newton direction helps any more
}

/// A step being tried out for a row.
struct Trial {
    row: usize,
    step: Vec<f64>,
    slope: f64,   // ⟨gradient, step⟩ < 0
    t: f64,       // how much of the step is being tried
    longest: f64, // how much of it stays inside the domain
    best: Option<Row>,
}

/// All rows at once, so that φ is evaluated in batches.
struct Newton<'a> {
    phi: &'a dyn Generator,
    like: &'a Tensor, // gives dtype and device
    d: usize,
    rows: Vec<Row>,
}

impl Newton<'_> {
    fn tensor(&self, values: Vec<f64>) -> Result<Tensor> {
        let n = values.len() / self.d;
        let t = Tensor::from_vec(values, (n, self.d), &Device::Cpu)?;
        Ok(t.to_dtype(self.like.dtype())?.to_device(self.like.device())?)
    }

    /// The nearest number that the tensors can hold.
    fn rounded(&self, value: f64) -> f64 {
        if self.like.dtype() == DType::F32 { f64::from(value as f32) } else { value }
    }

    fn root_epsilon(&self) -> f64 {
        if self.like.dtype() == DType::F32 { f64::from(f32::EPSILON).sqrt() } else { f64::EPSILON.sqrt() }
    }

    /// φ and ∇φ at points given one after the other.
    fn evaluate(&self, points: Vec<f64>) -> Result<(Vec<f64>, Vec<f64>)> {
        let (value, grad) = self.phi.value_and_grad(&self.tensor(points)?)?;
        let to_host = |t: Tensor| t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all();
        Ok((to_host(value)?.to_vec1()?, to_host(grad)?.to_vec1()?))
    }

    fn row(&self, target: &[f64], x: &[f64], value: f64, grad: &[f64]) -> Row {
        let gradient: Vec<f64> = grad.iter().zip(target).map(|(a, b)| a - b).collect();
        let value = value - dot(target, x);
        let along = self.reduce(&gradient, self.anchor(x));
        let residual = max_abs(&along) / (1.0 + max_abs(target));
        Row { target: target.to_vec(), x: x.to_vec(), value, gradient, residual, stuck: false }
    }

    fn start(&mut self, start: &[f64], targets: &[f64]) -> Result<()> {
        let (values, grads) = self.evaluate(start.to_vec())?;
        for (i, value) in values.into_iter().enumerate() {
            let at = i * self.d..(i + 1) * self.d;
            self.rows.push(self.row(&targets[at.clone()], &start[at.clone()], value, &grads[at]));
        }
        Ok(())
    }

    /// On the simplex, the coordinate against which all others move: the largest.
    fn anchor(&self, x: &[f64]) -> Option<usize> {
        if self.phi.domain() != Domain::Simplex {
            return None;
        }
        (0..x.len()).max_by(|&a, &b| x[a].total_cmp(&x[b]))
    }

    /// Slopes along the directions in which a point may move: e_j, or e_j − e_anchor for j ≠ anchor.
    fn reduce(&self, gradient: &[f64], anchor: Option<usize>) -> Vec<f64> {
        let base = anchor.map_or(0.0, |a| gradient[a]);
        let free = gradient.iter().enumerate().filter(|(j, _)| Some(*j) != anchor);
        free.map(|(_, g)| g - base).collect()
    }

    /// One iteration for every row above the tolerance; false when there is none left that can move.
    fn step(&mut self, tolerance: f64) -> Result<bool> {
        let active: Vec<usize> = (0..self.rows.len())
            .filter(|&i| !self.rows[i].stuck && self.rows[i].residual > tolerance)
            .collect();
        if active.is_empty() {
            return Ok(false);
        }
        let block = (HESSIAN_BLOCK / (self.d * self.d)).max(1);
        let mut trials = Vec::with_capacity(active.len());
        for rows in active.chunks(block) {
            self.directions(rows, &mut trials)?;
        }
        self.search(trials)?;
        Ok(true)
    }

    /// Newton's steps for some rows.
    fn directions(&self, rows: &[usize], trials: &mut Vec<Trial>) -> Result<()> {
        let mut points = Vec::new();
        let mut widths = Vec::new();
        for &i in rows {
            let x = &self.rows[i].x;
            let anchor = self.anchor(x);
            for j in (0..self.d).filter(|&j| Some(j) != anchor) {
                let scale = if self.phi.domain() == Domain::Reals { x[j].abs().max(1.0) } else { x[j] };
                let moved = self.rounded(x[j] + self.root_epsilon() * scale);
                let width = moved - x[j];
                let at = points.len();
                points.extend_from_slice(x);
                points[at + j] = moved;
                if let Some(a) = anchor {
                    points[at + a] -= width;
                }
                widths.push(width);
            }
        }
        let grads = if points.is_empty() { Vec::new() } else { self.evaluate(points)?.1 };
        let mut grads = grads.chunks(self.d);
        let mut widths = widths.into_iter();
        for &i in rows {
            let row = &self.rows[i];
            let anchor = self.anchor(&row.x);
            let slopes = self.reduce(&row.gradient, anchor);
            let k = slopes.len();
            let mut hessian = vec![0.0; k * k];
            for b in 0..k {
                let (Some(grad), Some(width)) = (grads.next(), widths.next()) else { continue };
                let change: Vec<f64> =
                    (0..self.d).map(|j| (grad[j] - row.target[j] - row.gradient[j]) / width).collect();
                for (a, value) in self.reduce(&change, anchor).into_iter().enumerate() {
                    hessian[a * k + b] += 0.5 * value;
                    hessian[b * k + a] += 0.5 * value;
                }
            }
            let along = newton_direction(&hessian, &slopes);
            let mut step = along.clone();
            if let Some(a) = anchor {
                step.insert(a, -along.iter().sum::<f64>());
            }
            let slope = dot(&slopes, &along);
            let longest = match self.phi.domain() {
                Domain::Reals => f64::INFINITY,
                _ => {
                    let to_border = row.x.iter().zip(&step).filter(|(_, s)| **s < 0.0).map(|(x, s)| -x / s);
                    TO_THE_BORDER * to_border.fold(f64::INFINITY, f64::min)
                }
            };
            trials.push(Trial { row: i, step, slope, t: longest.min(1.0), longest, best: None });
        }
        Ok(())
    }

    /// Shortens a step that overshoots and lengthens one that stays on the slope; keeps the rows' best points.
    fn search(&mut self, mut trials: Vec<Trial>) -> Result<()> {
        for _ in 0..MAX_TRIALS {
            let mut points = Vec::with_capacity(trials.len() * self.d);
            for trial in &mut trials {
                let x = &self.rows[trial.row].x;
                let inside = |v: f64| self.phi.domain().contains_coordinate(v);
                let at = |t: f64| -> Vec<f64> {
                    x.iter().zip(&trial.step).map(|(x, s)| self.rounded(x + t * s)).collect()
                };
                let mut point = at(trial.t);
                while trial.t > 0.0 && !point.iter().all(|v| inside(*v)) {
                    trial.t *= 0.25; // rounded onto the border, or out of the range of the numbers
                    point = at(trial.t);
                }
                points.extend(point);
            }
            if trials.is_empty() {
                return Ok(());
            }
            let (values, grads) = self.evaluate(points.clone())?;
            let mut next = Vec::new();
            for (k, mut trial) in trials.into_iter().enumerate() {
                let at = k * self.d..(k + 1) * self.d;
                let old = &self.rows[trial.row];
                let new = self.row(&old.target, &points[at.clone()], values[k], &grads[at]);
                let slope = dot(&new.gradient, &trial.step);
                let finite = new.value.is_finite() && slope.is_finite();
                let slack = 8.0 * self.root_epsilon().powi(2) * (1.0 + old.value.abs() + new.value.abs());
                let good = finite
                    && (slope <= 0.0 || (slope <= -0.5 * trial.slope && new.value <= old.value + slack));
                if good && slope < 0.5 * trial.slope && 2.0 * trial.t <= trial.longest {
                    trial.best = Some(new); // still as steep: further on there is more to gain
                    trial.t *= 2.0;
                    next.push(trial);
                } else if good {
                    self.accept(trial.row, new);
                } else if let Some(best) = trial.best {
                    self.accept(trial.row, best);
                } else {
                    let secant = if finite { -trial.slope / (slope - trial.slope) } else { 0.25 };
                    trial.t *= if secant.is_finite() { secant.clamp(0.1, 0.5) } else { 0.25 };
                    next.push(trial);
                }
            }
            trials = next;
        }
        for trial in trials {
            match trial.best {
                Some(best) => self.accept(trial.row, best),
                None => self.rows[trial.row].stuck = true,
            }
        }
        Ok(())
    }

    fn accept(&mut self, row: usize, mut new: Row) {
        new.stuck = new.x == self.rows[row].x;
        self.rows[row] = new;
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The larger of two residuals, where NaN is the largest (`f64::max` would hide it).
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b <= a { a } else { b }
}

fn max_abs(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |worst, v| worse(worst, v.abs()))
}

/// −H⁻¹g by Cholesky, with as much of the identity added as it takes; −g when H is not finite.
fn newton_direction(hessian: &[f64], gradient: &[f64]) -> Vec<f64> {
    let k = gradient.len();
    let largest = (0..k).map(|i| hessian[i * k + i]).fold(0.0, f64::max);
    let mut damping = 0.0;
    for _ in 0..12 {
        if let Some(direction) = solve(hessian, damping, gradient) {
            return direction;
        }
        damping = if damping == 0.0 { 1e-10 * largest.max(1e-10) } else { damping * 30.0 };
    }
    gradient.iter().map(|g| -g).collect()
}

/// −(H + λI)⁻¹g, or `None` when the matrix is not positive definite.
fn solve(hessian: &[f64], damping: f64, gradient: &[f64]) -> Option<Vec<f64>> {
    let k = gradient.len();
    let mut l = hessian.to_vec();
    for j in 0..k {
        let pivot = l[j * k + j] + damping - dot(&l[j * k..j * k + j], &l[j * k..j * k + j]);
        // Below that a pivot is the round-off of the differences.
        if !(pivot.is_finite() && pivot > 1e-14 * (hessian[j * k + j].abs() + damping)) {
            return None;
        }
        let root = pivot.sqrt();
        l[j * k + j] = root;
        for i in j + 1..k {
            let rest = l[i * k + j] - dot(&l[i * k..i * k + j], &l[j * k..j * k + j]);
            l[i * k + j] = rest / root;
        }
    }
    let mut z = vec![0.0; k];
    for i in 0..k {
        z[i] = (-gradient[i] - dot(&l[i * k..i * k + i], &z[..i])) / l[i * k + i];
    }
    for i in (0..k).rev() {
        let above: f64 = (i + 1..k).map(|j| l[j * k + i] * z[j]).sum();
        z[i] = (z[i] - above) / l[i * k + i];
    }
    z.iter().all(|v| v.is_finite()).then_some(z)
}
