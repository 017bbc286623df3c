//! MAT-files of level 5, the format of SVHN and of the annotations of Cars196: numbers, text, cells, structs.
//!
//! ```text
//! header    116 bytes text, 8 bytes offset, u16 version 0x0100, "IM" (little-endian) or "MI" (big-endian)
//! element   u32 type, u32 length, data, padding to 8 bytes;
//!           or, up to 4 bytes of data, u16 length and u16 type in one u32, then 4 bytes of data
//! matrix    (type 14) elements: flags with the class, dimensions, name, then the data of that class
//! packed    (type 15) one matrix in a zlib stream, without padding
//! ```
//!
//! Values are in column-major order, as in the file. Sparse and complex matrices, objects and function handles are
//! refused, and so are files of version 7.3, which are HDF5.

use std::{io::Read, path::Path};

use flate2::read::ZlibDecoder;

use super::{
    FETCH_AGAIN,
    counted::{Counted, MAX_BYTES, unpacked},
};
use crate::{Error, Result};

const NOT_THIS_FILE: &str =
    "give a MAT-file of level 5, as MATLAB's `save -v7` and SciPy's `savemat` write it";
/// Cells and structs within each other deeper than this are refused.
const MAX_DEPTH: u32 = 8;
/// What a value costs in memory whatever it holds, charged against the limit.
const VALUE_BYTES: u64 = 64;

/// A named variable of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub value: Value,
}

/// What a variable, a cell or a field holds; values in column-major order.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An array of unsigned bytes.
    Bytes {
        /// The sizes, at least two.
        dims: Vec<usize>,
        /// As many values as the product of `dims`.
        values: Vec<u8>,
    },
    /// An array of any other real class.
    Numbers {
        /// The sizes, at least two.
        dims: Vec<usize>,
        /// As many values as the product of `dims`.
        values: Vec<f64>,
    },
    /// A line of text.
    Text(String),
    /// A cell array.
    Cells {
        /// The sizes, at least two.
        dims: Vec<usize>,
        /// As many values as the product of `dims`.
        values: Vec<Value>,
    },
    /// A struct array.
    Struct {
        /// The sizes, at least two.
        dims: Vec<usize>,
        /// The names of the fields.
        fields: Vec<String>,
        /// The fields of the first element, then those of the second, …
        values: Vec<Value>,
    },
}

impl Value {
    /// The whole numbers of an array, where it holds nothing else.
    pub fn integers(&self) -> Option<Vec<i64>> {
        match self {
            Self::Bytes { values, .. } => Some(values.iter().map(|&v| i64::from(v)).collect()),
            Self::Numbers { values, .. } => {
                let whole = |v: &f64| (v.fract() == 0.0 && v.abs() <= EXACT).then_some(*v as i64);
                values.iter().map(whole).collect()
            }
            _ => None,
        }
    }

    /// The one whole number of an array of one.
    pub fn integer(&self) -> Option<i64> {
        match self.integers()?[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The text, if it is text; an empty array is empty text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bytes { values, .. } if values.is_empty() => Some(""),
            Self::Numbers { values, .. } if values.is_empty() => Some(""),
            _ => None,
        }
    }
}

/// Up to here every whole number is an f64: 2⁵³.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads the variables of a file, in its order.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Corrupt`] names the byte, counted within the unpacked
/// variable where it is packed, and what was expected there; also for what is not read, as the module says, and
/// for more than 2 GiB in all.
/// # Source
/// "MAT-File Format", The MathWorks \[mathworks2023\], chapter 1.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Variable>> {
    variables(unpacked(path.as_ref())?)
}

/// Reads the variables of a file in memory; `path` is for messages.
///
/// # Errors
/// As [`read`].
/// # Examples
/// ```
/// let error = dml_data::format::mat::parse(b"MATLAB", "x.mat".as_ref()).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "x.mat: byte 6: the file ends here, expected the header of a MAT-file from byte 0 to byte 128; fetch the file \
///      again"
/// );
/// ```
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Variable>> {
    variables(Counted::new(bytes, path))
}

fn variables<R: Read>(mut input: Counted<'_, R>) -> Result<Vec<Variable>> {
    let header = input.exactly(128, "the header of a MAT-file")?;
    let big = match header[126..] {
        [b'I', b'M'] => false,
        [b'M', b'I'] => true,
        _ => {
            let why = "no `IM` or `MI` where a MAT-file tells its byte order".to_owned();
            return Err(input.corrupt(126, why, NOT_THIS_FILE));
        }
    };
    let order = Order { big };
    let version = order.u16(&header[124..]);
    if version != 0x0100 {
        let name = if version == 0x0200 { " (7.3, which is HDF5)" } else { "" };
        let why = format!("version {version:#06x}{name}, expected 0x0100");
        return Err(input.corrupt(124, why, NOT_THIS_FILE));
    }
    let mut left = MAX_BYTES;
    let mut variables = Vec::new();
    loop {
        let start = input.offset;
        let tag = input.up_to(8)?;
        if tag.is_empty() {
            return Ok(variables);
        }
        if tag.len() < 8 {
            let why = "the file ends within the tag of a variable".to_owned();
            return Err(input.corrupt(input.offset, why, FETCH_AGAIN));
        }
        let (kind, length) = (order.u32(&tag), u64::from(order.u32(&tag[4..])));
        match kind {
            MATRIX => {
                let mut reader = Reader { input: &mut input, order, left: &mut left };
                variables.extend(reader.variable(length)?);
            }
            COMPRESSED => {
                let path = input.path;
                let packed = input.exactly(length, "a packed variable")?;
                let mut inner = Counted::packed(ZlibDecoder::new(&packed[..]), path, "zlib");
                let tag = inner.exactly(8, "the tag of a variable")?;
                let (kind, length) = (order.u32(&tag), u64::from(order.u32(&tag[4..])));
                if kind != MATRIX {
                    let why = format!(
                        "the variable packed at byte {start} is of type {kind}, expected 14 (matrix)"
                    );
                    return Err(inner.corrupt(0, why, NOT_THIS_FILE));
                }
                let mut reader = Reader { input: &mut inner, order, left: &mut left };
                variables.extend(reader.variable(length)?);
                // Reading to the end also has the stream's checksum compared.
                if !inner.up_to(1)?.is_empty() {
                    let why = format!("bytes after the variable packed at byte {start}, expected its end");
                    return Err(inner.corrupt(inner.offset, why, FETCH_AGAIN));
                }
            }
            _ => {
                let why = format!("an element of type {kind}, expected 14 (matrix) or 15 (packed)");
                return Err(input.corrupt(start, why, NOT_THIS_FILE));
            }
        }
    }
}

const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

/// Classes of arrays.
const CELL: u8 = 1;
const STRUCT: u8 = 2;
const CHAR: u8 = 4;
const CLASS_UINT8: u8 = 9;
const CLASSES: [&str; 16] = [
    "unknown", "cell", "struct", "object", "char", "sparse", "double", "single", "int8", "uint8", "int16",
    "uint16", "int32", "uint32", "int64", "uint64",
];

/// The order of the bytes of a number.
#[derive(Debug, Clone, Copy)]
struct Order {
    big: bool,
}

impl Order {
    /// The first `N` bytes, least significant first; short input is filled with zeros, which no caller gives.
    fn little<const N: usize>(self, bytes: &[u8]) -> [u8; N] {
        let mut out = [0; N];
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        if self.big {
            out.reverse();
        }
        out
    }

    fn u16(self, bytes: &[u8]) -> u16 {
        u16::from_le_bytes(self.little(bytes))
    }

    fn u32(self, bytes: &[u8]) -> u32 {
        u32::from_le_bytes(self.little(bytes))
    }
}

/// Reads the elements of a matrix.
struct Reader<'a, 'p, R> {
    input: &'a mut Counted<'p, R>,
    order: Order,
    /// How much memory may still be used.
    left: &'a mut u64,
}

/// A simple element: its type and data.
struct Element {
    kind: u32,
    data: Vec<u8>,
    offset: u64,
}

impl<R: Read> Reader<'_, '_, R> {
    /// A matrix of `length` bytes at the top; `None` for an empty one without name.
    fn variable(&mut self, length: u64) -> Result<Option<Variable>> {
        Ok(self.matrix(length, 0)?.map(|(name, value)| Variable { name, value }))
    }

    /// The content of a matrix of `length` bytes: name and value.
    fn matrix(&mut self, length: u64, depth: u32) -> Result<Option<(String, Value)>> {
        self.spend(VALUE_BYTES)?;
        if length == 0 {
            return Ok(None);
        }
        let start = self.input.offset;
        let end = start + length;
        if depth > MAX_DEPTH {
            return Err(
                self.fault(start, format!("cells and structs within each other deeper than {MAX_DEPTH}"))
            );
        }
        let flags = self.element("the flags of a matrix")?;
        if flags.kind != UINT32 || flags.data.len() != 8 {
            return Err(self.fault(flags.offset, "no flags at the beginning of a matrix".to_owned()));
        }
        let word = self.order.u32(&flags.data);
        let (class, complex) = ((word & 0xff) as u8, word & 0x0800 != 0);
        let dims = self.dims()?;
        let name = self.element("the name of a matrix")?;
        if name.kind != INT8 {
            return Err(self.fault(name.offset, format!("a name of type {}, expected 1 (int8)", name.kind)));
        }
        let name = String::from_utf8_lossy(&name.data).into_owned();
        let count = dims.iter().try_fold(1u64, |product, &d| product.checked_mul(d as u64));
        let Some(count) = count.filter(|&count| count <= MAX_BYTES) else {
            return Err(self.fault(start, format!("`{name}` claims the sizes {dims:?}, more than 2 GiB")));
        };
        let value = match class {
            CELL => Value::Cells { values: self.values(count, depth)?, dims },
            STRUCT => self.structs(dims, count, depth)?,
            CHAR => self.text(&name, &dims, count)?,
            6..=15 if !complex => self.numbers(&name, class, dims, count)?,
            _ => {
                let class = CLASSES.get(usize::from(class)).copied().unwrap_or("unknown");
                let complex = if complex { "complex " } else { "" };
                return Err(self.fault(
                    flags.offset,
                    format!("`{name}` is of class {complex}{class}, which is not read"),
                ));
            }
        };
        if self.input.offset != end {
            let why =
                format!("`{name}` ends at byte {}, expected {end} as its length says", self.input.offset);
            return Err(self.fault(start, why));
        }
        Ok(Some((name, value)))
    }

    /// A matrix in a cell or a field.
    fn nested(&mut self, depth: u32) -> Result<Value> {
        let offset = self.input.offset;
        let tag = self.input.exactly(8, "the tag of a matrix")?;
        let (kind, length) = (self.order.u32(&tag), u64::from(self.order.u32(&tag[4..])));
        if kind != MATRIX {
            return Err(self.fault(offset, format!("an element of type {kind}, expected 14 (matrix)")));
        }
        let empty = Value::Numbers { dims: vec![0, 0], values: Vec::new() };
        Ok(self.matrix(length, depth + 1)?.map_or(empty, |(_, value)| value))
    }

    fn values(&mut self, count: u64, depth: u32) -> Result<Vec<Value>> {
        // Each takes bytes of the file, so that a boastful count ends at the end of the file.
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.nested(depth)?);
        }
        Ok(values)
    }

    fn structs(&mut self, dims: Vec<usize>, count: u64, depth: u32) -> Result<Value> {
        let length = self.element("the length of field names")?;
        let bytes =
            if length.kind == INT32 && length.data.len() == 4 { self.order.u32(&length.data) } else { 0 };
        let bytes = bytes as usize;
        if bytes == 0 {
            return Err(self.fault(length.offset, "no length of field names in a struct".to_owned()));
        }
        let names = self.element("the field names of a struct")?;
        if names.kind != INT8 || names.data.len() % bytes != 0 {
            return Err(self.fault(names.offset, format!("field names that are not {bytes} bytes each")));
        }
        let name = |name: &[u8]| {
            let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
            String::from_utf8_lossy(&name[..end]).into_owned()
        };
        let fields: Vec<String> = names.data.chunks_exact(bytes).map(name).collect();
        let Some(count) = count.checked_mul(fields.len() as u64) else {
            return Err(
                self.fault(names.offset, format!("a struct of sizes {dims:?} with {} fields", fields.len()))
            );
        };
        Ok(Value::Struct { values: self.values(count, depth)?, dims, fields })
    }

    fn text(&mut self, name: &str, dims: &[usize], count: u64) -> Result<Value> {
        let Element { kind, data, offset } = self.element("text")?;
        if dims.len() != 2 || (dims[0] > 1 && count > 0) {
            return Err(self.fault(offset, format!("`{name}` is text of sizes {dims:?}, expected one line")));
        }
        let text = match kind {
            // uint16 and UTF-16; the other types hold UTF-8.
            4 | 17 => {
                let units: Vec<u16> = data.chunks_exact(2).map(|unit| self.order.u16(unit)).collect();
                String::from_utf16(&units).ok()
            }
            INT8 | UINT8 | 16 => String::from_utf8(data).ok(),
            _ => None,
        };
        match text {
            Some(text) => Ok(Value::Text(text)),
            None => Err(self.fault(offset, format!("`{name}` is text of type {kind} that cannot be read"))),
        }
    }

    fn numbers(&mut self, name: &str, class: u8, dims: Vec<usize>, count: u64) -> Result<Value> {
        let Element { kind, data, offset } = self.element("numbers")?;
        // Bytes of a value of each type of element.
        let size = match kind {
            1 | 2 => 1,
            3 | 4 => 2,
            5..=7 => 4,
            9 | 12 | 13 => 8,
            _ => {
                return Err(
                    self.fault(offset, format!("`{name}` holds data of type {kind}, expected numbers"))
                );
            }
        };
        if data.len() as u64 != count * size {
            let why = format!("`{name}` holds {} bytes, expected {count} values of {size} bytes", data.len());
            return Err(self.fault(offset, why));
        }
        if class == CLASS_UINT8 && kind == UINT8 {
            return Ok(Value::Bytes { dims, values: data });
        }
        self.spend(8 * count)?;
        let order = self.order;
        let number = |b: &[u8]| match kind {
            1 => Some(f64::from(i8::from_le_bytes(order.little(b)))),
            2 => Some(f64::from(u8::from_le_bytes(order.little(b)))),
            3 => Some(f64::from(i16::from_le_bytes(order.little(b)))),
            4 => Some(f64::from(u16::from_le_bytes(order.little(b)))),
            5 => Some(f64::from(i32::from_le_bytes(order.little(b)))),
            6 => Some(f64::from(u32::from_le_bytes(order.little(b)))),
            7 => Some(f64::from(f32::from_le_bytes(order.little(b)))),
            9 => Some(f64::from_le_bytes(order.little(b))),
            12 => Some(i64::from_le_bytes(order.little(b)) as f64).filter(|v| v.abs() < EXACT),
            _ => Some(u64::from_le_bytes(order.little(b)) as f64).filter(|v| *v < EXACT),
        };
        match data.chunks_exact(size as usize).map(number).collect::<Option<Vec<f64>>>() {
            Some(values) => Ok(Value::Numbers { dims, values }),
            None => Err(self.fault(offset, format!("`{name}` holds whole numbers beyond 2^53"))),
        }
    }

    fn dims(&mut self) -> Result<Vec<usize>> {
        let Element { kind, data, offset } = self.element("the sizes of a matrix")?;
        if kind != INT32 || data.len() < 8 || data.len() % 4 != 0 || data.len() > 128 {
            return Err(self.fault(offset, "no sizes where a matrix has them".to_owned()));
        }
        let sizes = data.chunks_exact(4).map(|size| self.order.u32(size) as i32);
        match sizes.map(usize::try_from).collect::<std::result::Result<_, _>>() {
            Ok(dims) => Ok(dims),
            Err(_) => Err(self.fault(offset, "a negative size of a matrix".to_owned())),
        }
    }

    /// The next simple element with its padding.
    fn element(&mut self, expected: &str) -> Result<Element> {
        let offset = self.input.offset;
        let tag = self.input.exactly(8, expected)?;
        let word = self.order.u32(&tag);
        if word >> 16 != 0 {
            let (kind, length) = (word & 0xffff, (word >> 16) as usize);
            let Some(data) = tag[4..].get(..length) else {
                return Err(
                    self.fault(offset, format!("a short element of {length} bytes, expected at most 4"))
                );
            };
            return Ok(Element { kind, data: data.to_vec(), offset });
        }
        let length = u64::from(self.order.u32(&tag[4..]));
        self.spend(length)?;
        let data = self.input.exactly(length, expected)?;
        self.input.exactly(length.wrapping_neg() % 8, "padding")?;
        Ok(Element { kind: word, data, offset })
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                *self.left = left;
                Ok(())
            }
            None => Err(self.fault(self.input.offset, format!("more than the {MAX_BYTES} bytes allowed"))),
        }
    }

    fn fault(&self, offset: u64, why: String) -> Error {
        self.input.corrupt(offset, why, NOT_THIS_FILE)
    }
}
