//! What can go wrong with a divergence, and how to put it right.

use candle_core::{DType, Tensor};
use phi::Generator;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate: it names the function, the argument, the place, and what was wanted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor of the wrong rank or size.
    #[error("{op}: `{arg}` has shape {got:?}, expected {expected}")]
    Shape {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The shape it had.
        got: Vec<usize>,
        /// The shape it should have.
        expected: String,
    },
    /// A tensor of another element type than its partner, or of one that no divergence is computed in.
    #[error("{op}: `{arg}` holds {got:?}, expected {expected}; convert it with `to_dtype`")]
    DType {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The type it had.
        got: DType,
        /// The type or types it may have.
        expected: String,
    },
    /// Two tensors on different devices.
    #[error("{op}: `{arg}` lies on {got}, expected {expected}; move it with `to_device`")]
    Device {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The device it was on.
        got: String,
        /// The device of its partner.
        expected: String,
    },
    /// φ, ∇φ or what is made of them overflowed although the point lies in the domain.
    #[error(
        "{op}: {what} is not finite at row {row} of `{arg}`; scale the points down, move them away from the \
         border of the domain, or compute in f64"
    )]
    NotFinite {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// `φ`, `∇φ`, `D` and their like.
        what: &'static str,
        /// The first row where it overflowed.
        row: usize,
    },
    /// The divergence of two rows on the border of the domain is infinite.
    #[error(
        "{op}: D is infinite: row {second_row} of `{second}` is 0 where row {first_row} of `{first}` is not; \
         smooth `{second}`, say by adding a small number to every coordinate, or exchange the sides"
    )]
    Infinite {
        /// The function called.
        op: &'static str,
        /// The argument that D takes first.
        first: &'static str,
        /// Its row.
        first_row: usize,
        /// The argument that D takes second.
        second: &'static str,
        /// Its row.
        second_row: usize,
    },
    /// An entry of an argument that makes no sense.
    #[error("{op}: entry {index} of `{arg}` is {got}, expected {expected}")]
    Entry {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The first entry at fault.
        index: usize,
        /// What it was.
        got: String,
        /// What it should be.
        expected: String,
    },
    /// An option that makes no sense.
    #[error("{op}: `{field}` is {got}, expected {expected}")]
    Config {
        /// The function called.
        op: &'static str,
        /// The option.
        field: &'static str,
        /// What it was.
        got: String,
        /// What it should be.
        expected: String,
    },
    /// The solver for ∇φ* did not reach its tolerance.
    #[error(
        "{op}: row {row} of `{arg}` stands at residual {residual:e} after {iterations} iterations, above the \
         tolerance {tolerance:e}; it may be no gradient of φ: raise `max_iterations` or `tolerance`, or give \
         φ a quadratic term"
    )]
    NotConverged {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The worst row.
        row: usize,
        /// Its residual, max |∇φ(x) − g| / (1 + max |g|).
        residual: f64,
        /// The iterations it was given.
        iterations: usize,
        /// The residual it should have reached.
        tolerance: f64,
    },
    /// The generator refused a point or a parameter.
    #[error(transparent)]
    Phi(#[from] phi::Error),
    /// A tensor operation failed; op and shapes follow in the source chain.
    #[error("tensor operation failed")]
    Candle(#[from] candle_core::Error),
}

/// Checks that `x` is `[n, d]` of f32 or f64 and lies in the domain of `phi`.
pub(crate) fn check_points(
    op: &'static str,
    arg: &'static str,
    phi: &dyn Generator,
    x: &Tensor,
) -> Result<()> {
    check_float(op, arg, x)?;
    Ok(phi.check(op, arg, x)?)
}

/// Checks that `x` holds f32 or f64.
pub(crate) fn check_float(op: &'static str, arg: &'static str, x: &Tensor) -> Result<()> {
    match x.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        got => Err(Error::DType { op, arg, got, expected: "F32 or F64".to_owned() }),
    }
}

/// Checks that `y` fits `x`: same dtype, device and number of columns.
pub(crate) fn check_partner(
    op: &'static str,
    arg: &'static str,
    x: &Tensor,
    y: &Tensor,
    same_rows: bool,
) -> Result<()> {
    let (n, d) = x.dims2()?;
    if y.rank() != 2 || y.dims()[1] != d || (same_rows && y.dims()[0] != n) {
        let expected = if same_rows { format!("[{n}, {d}]") } else { format!("[m, {d}]") };
        return Err(Error::Shape { op, arg, got: y.dims().to_vec(), expected });
    }
    if y.dtype() != x.dtype() {
        let expected = format!("{:?} as its partner", x.dtype());
        return Err(Error::DType { op, arg, got: y.dtype(), expected });
    }
    if !y.device().same_device(x.device()) {
        let name = |t: &Tensor| format!("{:?}", t.device().location());
        return Err(Error::Device { op, arg, got: name(y), expected: name(x) });
    }
    Ok(())
}
