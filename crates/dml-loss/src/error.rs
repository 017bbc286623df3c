//! What can go wrong with a distance, a miner, a loss or a reducer, and how to put it right.

use std::fmt::{self, Debug, Write};

use candle_core::{DType, DeviceLocation, Tensor};

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
    /// A tensor of the wrong element type.
    #[error("{op}: `{arg}` holds {got:?}, expected {expected}; convert it with `to_dtype`")]
    DType {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The element type it had.
        got: DType,
        /// The one it should have.
        expected: String,
    },
    /// A tensor on another device.
    #[error("{op}: `{arg}` lies on {got:?}, expected {expected}; move it with `to_device`")]
    Device {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// Where it lies.
        got: DeviceLocation,
        /// Where it should lie.
        expected: String,
    },
    /// As many labels as rows are needed.
    #[error("{op}: `{arg}` holds {got} labels for {rows} rows; give one label a row")]
    Labels {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The number of labels.
        got: usize,
        /// The number of rows.
        rows: usize,
    },
    /// An embedding that is NaN or infinite.
    #[error("{op}: row {row} of `{arg}` holds {value}; the encoder diverged or an input is damaged")]
    NotFinite {
        /// The function called.
        op: &'static str,
        /// Its argument.
        arg: &'static str,
        /// The first such row.
        row: usize,
        /// The value found.
        value: f64,
    },
    /// A number by which tuples are selected or counted that is NaN or infinite.
    #[error(
        "{op}: {what} is {value}, expected a finite number; the distance diverged, or the embeddings are too large for \
         their element type"
    )]
    Diverged {
        /// The miner or loss.
        op: &'static str,
        /// Which number.
        what: String,
        /// What it is.
        value: f64,
    },
    /// An index of a tuple outside its table of rows.
    #[error("{op}: entry {position} of `{arg}` is row {index}, but there are {rows} rows")]
    Index {
        /// The function called.
        op: &'static str,
        /// The index column.
        arg: &'static str,
        /// Its entry.
        position: usize,
        /// What it holds.
        index: u32,
        /// How many rows there are.
        rows: usize,
    },
    /// A label that is no class of a table with one entry a class.
    #[error("{op}: row {row} has label {label}, expected 0 ≤ label < {classes}; renumber the classes from 0")]
    Class {
        /// The function called.
        op: &'static str,
        /// The row.
        row: usize,
        /// Its label.
        label: i64,
        /// The number of classes.
        classes: usize,
    },
    /// A parameter or combination that makes no sense.
    #[error("{owner}: `{field}` is {got}, expected {expected}")]
    Config {
        /// The loss, miner, distance or reducer.
        owner: &'static str,
        /// The field.
        field: &'static str,
        /// What it was.
        got: String,
        /// What it should be.
        expected: String,
    },
    /// A divergence could not be computed.
    #[error(transparent)]
    Divergence(#[from] bregman::Error),
    /// A generator could not be evaluated.
    #[error(transparent)]
    Generator(#[from] phi::Error),
    /// A tensor operation failed; op and shapes follow in the source chain.
    #[error("tensor operation failed")]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn shape(
        op: &'static str,
        arg: &'static str,
        tensor: &Tensor,
        expected: impl Into<String>,
    ) -> Self {
        Self::Shape { op, arg, got: tensor.dims().to_vec(), expected: expected.into() }
    }

    pub(crate) fn config(
        owner: &'static str,
        field: &'static str,
        got: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Config { owner, field, got: got.to_string(), expected: expected.into() }
    }
}

/// A tensor lies where another one, called `as_arg`, lies.
pub(crate) fn check_device(
    op: &'static str,
    arg: &'static str,
    got: DeviceLocation,
    (as_arg, own): (&'static str, DeviceLocation),
) -> Result<()> {
    match got == own {
        true => Ok(()),
        false => Err(Error::Device { op, arg, got, expected: format!("{own:?} as `{as_arg}`") }),
    }
}

/// Each of an owner's parameters is a finite number.
pub(crate) fn finite(owner: &'static str, fields: &[(&'static str, f64)]) -> Result<()> {
    holds(owner, fields, "a finite number", f64::is_finite)
}

/// Each of an owner's parameters is a finite number above 0.
pub(crate) fn positive(owner: &'static str, fields: &[(&'static str, f64)]) -> Result<()> {
    holds(owner, fields, "a positive number", |v| v > 0.0 && v.is_finite())
}

fn holds(
    owner: &'static str,
    fields: &[(&'static str, f64)],
    expected: &str,
    fine: impl Fn(f64) -> bool,
) -> Result<()> {
    match fields.iter().find(|(_, value)| !fine(*value)) {
        None => Ok(()),
        Some(&(field, value)) => Err(Error::config(owner, field, value, expected)),
    }
}

/// The most of anything that a configuration counts: tables of this size still fit in memory.
pub(crate) const MOST: usize = 1 << 20;

/// A count is at least 1 and no more than can be meant.
pub(crate) fn count(owner: &'static str, field: &'static str, count: usize) -> Result<()> {
    match count {
        0 => Err(Error::config(owner, field, 0, "at least 1")),
        1..=MOST => Ok(()),
        _ => Err(Error::config(owner, field, count, format!("at most {MOST}"))),
    }
}

/// The name of a type, as its `{:?}` begins: errors name what they mean, and do not print its parameters.
pub(crate) fn name_of(value: &(impl Debug + ?Sized)) -> String {
    struct Name(String);
    impl Write for Name {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            let end = s.find(|c: char| !(c.is_alphanumeric() || c == '_'));
            self.0.push_str(&s[..end.unwrap_or(s.len())]);
            end.map_or(Ok(()), |_| Err(fmt::Error)) // which ends the writing
        }
    }
    let mut name = Name(String::new());
    let _cut = write!(name, "{value:?}");
    name.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named() {
        let (cpu, gpu) = (DeviceLocation::Cpu, DeviceLocation::Cuda { gpu_id: 1 });
        assert!(check_device("SupCon", "embeddings", gpu, ("log_scale", gpu)).is_ok());
        let error =
            check_device("SupCon", "embeddings", gpu, ("log_scale", cpu)).err().map(|e| e.to_string());
        assert_eq!(
            error.as_deref(),
            Some(
                "SupCon: `embeddings` lies on Cuda { gpu_id: 1 }, expected Cpu as `log_scale`; move it with \
                 `to_device`"
            )
        );
    }

    #[test]
    fn a_name_ends_where_details_begin() {
        #[derive(Debug)]
        struct Network {
            _weights: Vec<f64>,
        }
        assert_eq!(name_of(&Network { _weights: vec![0.5; 1000] }), "Network");
        assert_eq!(name_of(&Some(1)), "Some");
        assert_eq!(name_of(&crate::Cosine), "Cosine");
    }
}
