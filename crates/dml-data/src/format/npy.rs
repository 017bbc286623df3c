//! NPY, the format of a NumPy array: numbers of any size in one file.
//!
//! ```text
//! 6 bytes   0x93 "NUMPY"
//! 2 bytes   version, 1.0, 2.0 or 3.0
//! u16/u32   length of what follows, little-endian (u32 from version 2 on)
//! text      {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, padded with spaces, then a line feed
//! then      the values
//! ```

use std::path::Path;

use super::{
    FETCH_AGAIN,
    counted::{Counted, MAX_BYTES, unpacked},
};
use crate::{Error, Result};

const NOT_THIS_FILE: &str = "give an array of numbers as `numpy.save` writes it";
/// A description is some hundred bytes; NumPy itself refuses more than this.
const MAX_HEADER: u64 = 10_000;

/// An array in row-major order, whatever order the file has.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The sizes; empty for a single number.
    pub shape: Vec<usize>,
    /// As many values as the product of `shape`.
    pub values: Values,
}

/// The values of an array.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// From f16 and f32.
    F32(Vec<f32>),
    /// From f64.
    F64(Vec<f64>),
    /// From whole numbers of any size.
    I64(Vec<i64>),
}

/// Reads an array.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Corrupt`] names the byte and what was expected there: wrong
/// magic or version, a description that cannot be read, values that are no numbers, a file that ends early or
/// goes on after the last value, more than 2 GiB.
/// # Source
/// The NumPy format, <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
pub fn read(path: impl AsRef<Path>) -> Result<Array> {
    array(unpacked(path.as_ref())?)
}

/// Reads an array from memory; `path` is for messages.
///
/// # Errors
/// As [`read`].
/// # Examples
/// ```
/// use dml_data::format::npy::{self, Values};
/// let mut file = b"\x93NUMPY\x01\x00\x38\x00{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}\n".to_vec();
/// file.extend([7, 9]);
/// let array = npy::parse(&file, "x.npy".as_ref())?;
/// assert_eq!((array.shape, array.values), (vec![2], Values::I64(vec![7, 9])));
/// # Ok::<(), dml_data::Error>(())
/// ```
pub fn parse(bytes: &[u8], path: &Path) -> Result<Array> {
    array(Counted::new(bytes, path))
}

fn array<R: std::io::Read>(mut input: Counted<'_, R>) -> Result<Array> {
    let start = input.exactly(8, "the magic and version of a NPY file")?;
    if start[..6] != *b"\x93NUMPY" {
        return Err(input.corrupt(0, "wrong magic, expected 0x93 NUMPY".to_owned(), NOT_THIS_FILE));
    }
    let length_bytes = match start[6..] {
        [1, 0] => 2,
        [2 | 3, 0] => 4,
        _ => {
            let why = format!("version {}.{}, expected 1.0, 2.0 or 3.0", start[6], start[7]);
            return Err(input.corrupt(6, why, NOT_THIS_FILE));
        }
    };
    let length = input.exactly(length_bytes, "the length of the description")?;
    let length = length.iter().rev().fold(0u64, |length, &byte| length << 8 | u64::from(byte));
    if length > MAX_HEADER {
        let why = format!("a description of {length} bytes, expected at most {MAX_HEADER}");
        return Err(input.corrupt(8, why, NOT_THIS_FILE));
    }
    let at = input.offset;
    let text = input.exactly(length, "the description of the array")?;
    let description = std::str::from_utf8(&text).ok().and_then(describe);
    let Some(Description { descr, fortran, shape }) = description else {
        let why = "a description that cannot be read, expected descr, fortran_order and shape".to_owned();
        return Err(input.corrupt(at, why, NOT_THIS_FILE));
    };
    let Some(element) = Element::parse(&descr) else {
        let why = format!("values of type `{descr}`, expected whole numbers or floating point");
        return Err(input.corrupt(at, why, NOT_THIS_FILE));
    };
    let bytes = shape.iter().try_fold(element.size, |product, &d| product.checked_mul(d as u64));
    let Some(bytes) = bytes.filter(|&bytes| bytes <= MAX_BYTES) else {
        let why = format!("the shape {shape:?} of `{descr}`, more than the {MAX_BYTES} bytes allowed");
        return Err(input.corrupt(at, why, "split the file, or fetch it again if its header is damaged"));
    };
    let data =
        input.exactly(bytes, &format!("{bytes} bytes of values, as the description says {shape:?},"))?;
    if !input.up_to(1)?.is_empty() {
        let why = "bytes after the last value, expected the end of the file".to_owned();
        return Err(input.corrupt(input.offset - 1, why, FETCH_AGAIN));
    }
    let values = element.values(&data);
    let Some(values) = values else {
        let why = "whole numbers beyond 2^63".to_owned();
        return Err(input.corrupt(input.offset - bytes, why, NOT_THIS_FILE));
    };
    Ok(Array { values: if fortran { values.row_major(&shape) } else { values }, shape })
}

struct Description {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

/// Reads the one form of description that NumPy writes: a dictionary of these three keys.
fn describe(text: &str) -> Option<Description> {
    let inside = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    let mut rest = inside.trim();
    while !rest.is_empty() {
        let (key, after) = rest.strip_prefix('\'')?.split_once('\'')?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        rest = match key {
            "descr" if descr.is_none() => {
                let (value, after) = value.strip_prefix('\'')?.split_once('\'')?;
                descr = Some(value.to_owned());
                after
            }
            "fortran_order" if fortran.is_none() => {
                let (value, after) = match value.strip_prefix("True") {
                    Some(after) => (true, after),
                    None => (false, value.strip_prefix("False")?),
                };
                fortran = Some(value);
                after
            }
            "shape" if shape.is_none() => {
                let (value, after) = value.strip_prefix('(')?.split_once(')')?;
                let sizes = value.split(',').map(str::trim);
                // A trailing comma leaves an empty size at the end, and only there.
                let mut sizes: Vec<&str> = sizes.collect();
                if sizes.last() == Some(&"") {
                    sizes.pop();
                }
                shape =
                    Some(sizes.into_iter().map(|size| size.parse().ok()).collect::<Option<Vec<usize>>>()?);
                after
            }
            _ => return None,
        };
        rest = rest.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(rest) => rest.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(Description { descr: descr?, fortran: fortran?, shape: shape? })
}

/// The type of a value.
#[derive(Debug, Clone, Copy)]
struct Element {
    kind: u8,
    size: u64,
    big: bool,
}

impl Element {
    fn parse(descr: &str) -> Option<Self> {
        let (order, kind, size) = match *descr.as_bytes() {
            [order @ (b'<' | b'>' | b'|' | b'='), kind, size] => (order, kind, size),
            _ => return None,
        };
        let size = u64::from(size.checked_sub(b'0')?);
        let known = match kind {
            b'f' => matches!(size, 2 | 4 | 8),
            b'i' | b'u' => matches!(size, 1 | 2 | 4 | 8),
            b'b' => size == 1,
            _ => false,
        };
        known.then_some(Self { kind, size, big: order == b'>' })
    }

    /// `None` for a whole number that i64 cannot hold.
    fn values(self, data: &[u8]) -> Option<Values> {
        // The bits of a value, least significant byte first whatever the order in the file.
        let bits = |value: &[u8]| {
            let join = |bits: u64, &byte: &u8| bits << 8 | u64::from(byte);
            if self.big { value.iter().fold(0, join) } else { value.iter().rev().fold(0, join) }
        };
        let values = data.chunks_exact(self.size as usize).map(bits);
        let unused = 64 - 8 * self.size as u32;
        Some(match (self.kind, self.size) {
            (b'f', 2) => Values::F32(values.map(|bits| half(bits as u16)).collect()),
            (b'f', 4) => Values::F32(values.map(|bits| f32::from_bits(bits as u32)).collect()),
            (b'f', _) => Values::F64(values.map(f64::from_bits).collect()),
            // Shifting up and back repeats the sign.
            (b'i', _) => Values::I64(values.map(|bits| ((bits << unused) as i64) >> unused).collect()),
            _ => Values::I64(values.map(|bits| i64::try_from(bits).ok()).collect::<Option<_>>()?),
        })
    }
}

/// IEEE 754 binary16: sign, 5 bits of exponent with bias 15, 10 bits of fraction.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

impl Values {
    /// Values in column-major order, put into row-major order.
    fn row_major(self, shape: &[usize]) -> Self {
        match self {
            Self::F32(values) => Self::F32(row_major(values, shape)),
            Self::F64(values) => Self::F64(row_major(values, shape)),
            Self::I64(values) => Self::I64(row_major(values, shape)),
        }
    }
}

fn row_major<T: Copy>(values: Vec<T>, shape: &[usize]) -> Vec<T> {
    if shape.len() < 2 || values.is_empty() {
        return values;
    }
    // How far apart neighbours along each axis lie in the file.
    let strides: Vec<usize> = shape
        .iter()
        .scan(1, |stride, &d| {
            let this = *stride;
            *stride *= d;
            Some(this)
        })
        .collect();
    let mut index = vec![0; shape.len()];
    let mut out = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        out.push(values[index.iter().zip(&strides).map(|(i, stride)| i * stride).sum::<usize>()]);
        for (i, &d) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < d {
                break;
            }
            *i = 0;
        }
    }
    out
}

impl Array {
    /// The values as f64.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.values {
            Values::F32(values) => values.iter().map(|&v| f64::from(v)).collect(),
            Values::F64(values) => values.clone(),
            Values::I64(values) => values.iter().map(|&v| v as f64).collect(),
        }
    }
}

/// An error about the shape or type of an array that is in order as a file.
pub(crate) fn unfit(path: &Path, why: String) -> Error {
    Counted::new(&[][..], path).corrupt(0, why, "save the array that is expected")
}
