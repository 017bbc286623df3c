//! The matrix of divergences of all pairs: one product around a pivot, and the entries that lost their digits anew.
//!
//! With x̃ = x − μ and φ_μ as in [`pivot`](crate::pivot()),
//! D(x_i ‖ y_j) = φ_μ(x_i) + (⟨∇φ_μ(y_j), ỹ_j⟩ − φ_μ(y_j)) − ⟨x̃_i, ∇φ_μ(y_j)⟩.
//! An entry that is small beside these terms is computed from its two rows alone, by
//! [`Generator::divergence`](phi::Generator::divergence). Where these are many, the product is taken in f64 first.

use candle_core::{D, DType, Device, Tensor};
use dml_kernels::{LiftedPairs, LiftedSide, PairMatrix, row_dot};
use phi::Generator;

use crate::{
    Error, Result, Side,
    error::{check_float, check_partner},
    pivot::{Evaluated, center_of},
};

/// What entry (i, j) says of the rows a_i and o_j.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// D(a ‖ o).
    First,
    /// D(o ‖ a).
    Second,
    /// D(a ‖ o) + D(o ‖ a).
    Jeffreys,
}

impl From<Side> for Form {
    fn from(anchor: Side) -> Self {
        match anchor {
            Side::First => Self::First,
            Side::Second => Self::Second,
        }
    }
}

/// The role of a set of points in a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// As first arguments: x̃ and φ_μ.
    First,
    /// As second arguments: ∇φ_μ and ⟨∇φ_μ, x̃⟩ − φ_μ.
    Second,
    /// As both: one beside the other.
    Both,
}

/// A set of points with its name in errors.
#[derive(Clone, Copy)]
pub(crate) struct Points<'a> {
    pub arg: &'static str,
    pub rows: &'a Tensor,
}

/// A function that asks for a matrix of divergences.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pairs<'a> {
    pub op: &'static str,
    pub phi: &'a dyn Generator,
    pub form: Form,
    /// What every entry is multiplied by.
    pub scale: f64,
    /// Whether a divergence may be infinite; else it is an error.
    pub infinite: bool,
}

/// Points as they enter a product.
#[derive(Debug, Clone)]
pub(crate) struct LiftedRows {
    vectors: Tensor,   // [n, r]
    constants: Tensor, // [n]
    sizes: Tensor,     // [n], of the terms that the constants are sums of
}

/// Pairs that are looked at on their own at a time; padded to that number where the same bits are wanted whatever the
/// others are.
const PAIRS: usize = 256;

impl<'a> Pairs<'a> {
    /// The matrix of all pairs of `anchors` `[n, d]` and `others` `[m, d]`; of one set where they are the same tensor.
    pub fn matrix(&self, anchors: Points<'_>, others: Points<'_>) -> Result<PairMatrix> {
        self.check(anchors, others)?;
        let (a, o) = (anchors.rows, others.rows);
        let pairs = self.product(anchors, others)?;
        // A pair on its own costs what a row does in either product; from there on f64 is the better price.
        let many = 4 * (a.dims()[0] + o.dims()[0]);
        if pairs.lost().len() <= many || a.dtype() == DType::F64 || !a.device().is_cpu() {
            let exact = self.exact(pairs.lost(), anchors, others)?;
            return Ok(pairs.complete(exact.as_ref())?);
        }
        let wide_a = a.to_dtype(DType::F64)?;
        let wide_o = if a.id() == o.id() { wide_a.clone() } else { o.to_dtype(DType::F64)? };
        let (wide_a, wide_o) = (Points { rows: &wide_a, ..anchors }, Points { rows: &wide_o, ..others });
        let pairs = self.product(wide_a, wide_o)?;
        let exact = self.exact(pairs.lost(), wide_a, wide_o)?;
        let wide = pairs.complete(exact.as_ref())?.tensor()?;
        let narrow = wide.to_dtype(a.dtype())?;
        self.check_finite(&narrow, anchors.arg)?;
        Ok(PairMatrix::of_graph(&narrow)?)
    }

    /// Rows where they must be, before anything is computed.
    pub fn check(&self, anchors: Points<'_>, others: Points<'_>) -> Result<()> {
        let [first, second] = if self.form == Form::Second { [others, anchors] } else { [anchors, others] };
        self.check_points(first)?;
        if first.rows.id() == second.rows.id() {
            return Ok(());
        }
        check_partner(self.op, second.arg, first.rows, second.rows, false)?;
        self.check_points(second)
    }

    /// The closure of the domain will do: whether a divergence is finite there is for the pair to say.
    fn check_points(&self, points: Points<'_>) -> Result<()> {
        check_float(self.op, points.arg, points.rows)?;
        let domain = if self.form == Form::Jeffreys { self.phi.domain() } else { self.phi.closure() };
        Ok(self.phi.check_in(domain, self.op, points.arg, points.rows)?)
    }

    fn product(&self, anchors: Points<'_>, others: Points<'_>) -> Result<LiftedPairs> {
        let own = anchors.rows.id() == others.rows.id();
        let parts = [anchors.rows, others.rows];
        let pivot = center_of(self.phi, if own { &parts[..1] } else { &parts })?;
        let (left, right) = if own && self.on_border(anchors.rows)?.is_empty() {
            let points = Evaluated::new(self.phi, anchors.rows, &pivot)?; // once for both sides
            let [of_anchors, of_others] = self.roles();
            (self.as_anchors(lifted(&points, of_anchors)?)?, self.as_others(lifted(&points, of_others)?)?)
        } else {
            (self.anchors(anchors, &pivot)?, self.others(others, &pivot)?)
        };
        Ok(LiftedPairs::new(left.side(), right.side(), own)?)
    }

    /// The roles of anchors and of others.
    fn roles(&self) -> [Role; 2] {
        match self.form {
            Form::First => [Role::First, Role::Second],
            Form::Second => [Role::Second, Role::First],
            Form::Jeffreys => [Role::Both, Role::Both],
        }
    }

    /// The anchors as they enter a product.
    pub fn anchors(&self, points: Points<'_>, pivot: &Tensor) -> Result<LiftedRows> {
        self.as_anchors(self.lift(points, pivot, self.roles()[0])?)
    }

    /// The others as they enter a product.
    pub fn others(&self, points: Points<'_>, pivot: &Tensor) -> Result<LiftedRows> {
        self.as_others(self.lift(points, pivot, self.roles()[1])?)
    }

    fn as_anchors(&self, rows: LiftedRows) -> Result<LiftedRows> {
        match self.scale {
            1.0 => Ok(rows),
            scale => LiftedRows { vectors: (&rows.vectors * scale)?, ..rows }.scaled(scale),
        }
    }

    fn as_others(&self, mut rows: LiftedRows) -> Result<LiftedRows> {
        if self.form == Form::Jeffreys {
            // The other half first: shifts meet gradients.
            let d = rows.vectors.dims()[1] / 2;
            let halves = [rows.vectors.narrow(1, d, d)?, rows.vectors.narrow(1, 0, d)?];
            rows.vectors = Tensor::cat(&halves, 1)?;
        }
        if self.scale == 1.0 { Ok(rows) } else { rows.scaled(self.scale) }
    }

    fn lift(&self, points: Points<'_>, pivot: &Tensor, role: Role) -> Result<LiftedRows> {
        let border = if role == Role::First { Vec::new() } else { self.on_border(points.rows)? };
        if border.is_empty() {
            return lifted(&Evaluated::new(self.phi, points.rows, pivot)?, role);
        }
        // No gradient there: a constant that is no number has every entry of such a row computed on its own.
        let n = points.rows.dims()[0];
        let mut inside = vec![1u8; n];
        border.iter().for_each(|&row| inside[row] = 0);
        let inside = Tensor::from_vec(inside, (n, 1), points.rows.device())?;
        let pivots = pivot.broadcast_as(points.rows.shape())?.contiguous()?;
        let mask = inside.broadcast_as(points.rows.shape())?.contiguous()?;
        let moved = mask.where_cond(points.rows, &pivots)?;
        let rows = lifted(&Evaluated::new(self.phi, &moved, pivot)?, role)?;
        let nothing = (rows.constants.zeros_like()?.detach() + f64::NAN)?;
        Ok(LiftedRows { constants: inside.squeeze(1)?.where_cond(&rows.constants, &nothing)?, ..rows })
    }

    /// The rows that lie on the border of the domain.
    fn on_border(&self, rows: &Tensor) -> Result<Vec<usize>> {
        let domain = self.phi.domain();
        if domain == self.phi.closure() {
            return Ok(Vec::new());
        }
        let d = rows.dims()[1];
        let values =
            rows.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let outside = |row: &[f64]| row.iter().any(|&v| !domain.contains_coordinate(v));
        Ok(values.chunks(d).enumerate().filter(|(_, row)| outside(row)).map(|(i, _)| i).collect())
    }

    /// The divergences of the pairs at `places`, each from its two rows, `[places]` in the dtype of the points.
    pub fn exact(
        &self,
        places: &[(u32, u32)],
        anchors: Points<'_>,
        others: Points<'_>,
    ) -> Result<Option<Tensor>> {
        if places.is_empty() {
            return Ok(None);
        }
        let (device, a, o) = (anchors.rows.device(), anchors.rows.contiguous()?, others.rows.contiguous()?);
        let mut parts = Vec::with_capacity(places.len().div_ceil(PAIRS));
        for part in places.chunks(PAIRS) {
            let last = part[part.len() - 1];
            let padded = |of: fn(&(u32, u32)) -> u32| -> Result<Tensor> {
                let mut index: Vec<u32> = part.iter().map(of).collect();
                index.resize(PAIRS, of(&last));
                Ok(Tensor::new(index, device)?)
            };
            let a = a.index_select(&padded(|place| place.0)?, 0)?;
            let o = o.index_select(&padded(|place| place.1)?, 0)?;
            parts.push(self.of_rows(&a, &o)?.narrow(0, 0, part.len())?);
        }
        let exact = Tensor::cat(&parts, 0)?;
        if let Some((at, value)) = dml_kernels::first_not_finite(&exact)?
            && !(self.infinite && only_infinite(&exact)?)
        {
            return Err(self.not_finite(value, places[at], anchors, others));
        }
        Ok(Some(exact))
    }

    /// Row i with row i, `[n]`, to the relative precision of their difference.
    pub fn of_rows(&self, anchors: &Tensor, others: &Tensor) -> Result<Tensor> {
        let (a, o) = (widened(anchors)?, widened(others)?);
        let sum = match self.form {
            Form::First => self.phi.divergence(&a, &o, &(&a - &o)?)?,
            Form::Second => self.phi.divergence(&o, &a, &(&o - &a)?)?,
            Form::Jeffreys => {
                let step = (&a - &o)?;
                (self.phi.divergence(&a, &o, &step)? + self.phi.divergence(&o, &a, &step.neg()?)?)?
            }
        };
        Ok((sum * self.scale)?.to_dtype(anchors.dtype())?)
    }

    pub fn not_finite(
        &self,
        value: f64,
        place: (u32, u32),
        anchors: Points<'_>,
        others: Points<'_>,
    ) -> Error {
        let (first, second) = ((anchors.arg, place.0 as usize), (others.arg, place.1 as usize));
        let [first, second] = if self.form == Form::Second { [second, first] } else { [first, second] };
        if value == f64::INFINITY && self.phi.domain() != self.phi.closure() {
            return Error::Infinite {
                op: self.op,
                first: first.0,
                first_row: first.1,
                second: second.0,
                second_row: second.1,
            };
        }
        Error::NotFinite { op: self.op, arg: first.0, what: "D", row: first.1 }
    }

    fn check_finite(&self, divergences: &Tensor, arg: &'static str) -> Result<()> {
        if self.infinite {
            return Ok(());
        }
        crate::pivot::check_finite(self.op, arg, "D", divergences)
    }
}

/// Whether what is not finite is ∞ and no NaN.
fn only_infinite(divergences: &Tensor) -> Result<bool> {
    Ok(divergences.ne(divergences)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? == 0.0)
}

/// f64 on the CPU, so that differences and what is made of them keep all digits of f32; elsewhere the tensor as it is.
pub(crate) fn widened(t: &Tensor) -> Result<Tensor> {
    Ok(if t.device().is_cpu() { t.to_dtype(DType::F64)? } else { t.clone() })
}

fn lifted(points: &Evaluated, role: Role) -> Result<LiftedRows> {
    let size = |t: &Tensor| t.detach().abs();
    Ok(match role {
        Role::First => LiftedRows {
            vectors: points.shifted.clone(),
            constants: points.value.clone(),
            sizes: size(&points.value)?,
        },
        Role::Second => {
            let tangent = points.tangent()?;
            // A sum of terms of either sign has the error of its terms.
            let terms = row_dot(&size(&points.grad)?, &size(&points.shifted)?)?;
            LiftedRows {
                vectors: points.grad.clone(),
                sizes: (terms + size(&points.value)?)?,
                constants: (tangent - &points.value)?,
            }
        }
        Role::Both => {
            let tangent = points.tangent()?;
            LiftedRows {
                vectors: Tensor::cat(&[&points.shifted, &points.grad.contiguous()?], D::Minus1)?,
                sizes: row_dot(&size(&points.grad)?, &size(&points.shifted)?)?,
                constants: tangent,
            }
        }
    })
}

impl LiftedRows {
    /// The same, apart from any graph.
    pub fn detach(&self) -> Self {
        let [vectors, constants, sizes] = [&self.vectors, &self.constants, &self.sizes].map(Tensor::detach);
        Self { vectors, constants, sizes }
    }

    /// `len` rows from `start` on.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        Ok(Self {
            vectors: self.vectors.narrow(0, start, len)?,
            constants: self.constants.narrow(0, start, len)?,
            sizes: self.sizes.narrow(0, start, len)?,
        })
    }

    pub fn side(&self) -> LiftedSide<'_> {
        LiftedSide { vectors: &self.vectors, constants: &self.constants, sizes: &self.sizes }
    }

    /// The constants times a number above 0.
    fn scaled(self, scale: f64) -> Result<Self> {
        Ok(Self { constants: (self.constants * scale)?, sizes: (self.sizes * scale)?, ..self })
    }
}
