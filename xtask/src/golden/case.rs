//! One case in one precision: its parts, and a record of which were used and compared.

use std::{cell::RefCell, collections::BTreeSet, collections::HashMap};

use candle_core::{DType, Tensor, Var};
use serde_json::{Map, Value};

/// Why a case is not ok.
#[derive(Debug)]
pub enum Verdict {
    /// Computed, and wrong.
    Fail(String),
    /// Not computed.
    Unsupported(String),
}

/// An error while computing: the crates refused what they should compute.
/// Whole numbers and their shape.
type WholeNumbers = (Vec<i64>, Vec<usize>);

impl<E: std::error::Error> From<E> for Verdict {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self::Fail(format!("no result: {text}"))
    }
}

/// `Err(Verdict::Unsupported(why))`.
pub fn unsupported<T>(why: impl Into<String>) -> Result<T, Verdict> {
    Err(Verdict::Unsupported(why.into()))
}

/// What belongs to every case and needs no comparison.
const ABOUT: [&str; 7] = ["id", "kind", "source", "file", "tolerance", "note", "peer_f32_deviation"];

/// A case, computed in `dtype`.
pub struct Case<'a> {
    json: &'a Map<String, Value>,
    files: &'a HashMap<String, Tensor>,
    /// f64 or f32.
    pub dtype: DType,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Case<'a> {
    /// Nothing is used yet.
    pub fn new(json: &'a Map<String, Value>, files: &'a HashMap<String, Tensor>, dtype: DType) -> Self {
        Self { json, files, dtype, used: RefCell::default() }
    }

    /// A case of its own for each of the `steps`, with all else as it is here; `None` for a case without steps.
    pub fn steps(&self) -> Result<Option<Vec<Map<String, Value>>>, Verdict> {
        let Some(steps) = self.json.get("steps") else { return Ok(None) };
        let steps = match steps.as_array() {
            Some(steps) if !steps.is_empty() => steps,
            _ => return unsupported("`steps` is not a list with at least one step"),
        };
        let merged = |step: &Value| match step.as_object() {
            None => unsupported("a step is no JSON object"),
            Some(step) => {
                let mut json = self.json.clone();
                json.remove("steps");
                json.extend(step.clone());
                Ok(json)
            }
        };
        steps.iter().map(merged).collect::<Result<_, _>>().map(Some)
    }

    /// A step as a case.
    pub fn step<'b>(&self, json: &'b Map<String, Value>) -> Case<'b>
    where
        'a: 'b,
    {
        Case::new(json, self.files, self.dtype)
    }

    /// Whether the tensor `role` is expected.
    pub fn expects(&self, role: &str) -> Result<bool, Verdict> {
        Ok(self.section("expected")?.get("tensors").and_then(|tensors| tensors.get(role)).is_some())
    }

    fn mark(&self, path: String) {
        self.used.borrow_mut().insert(path);
    }

    fn section(&self, section: &str) -> Result<&'a Map<String, Value>, Verdict> {
        match self.json.get(section).and_then(Value::as_object) {
            Some(map) => Ok(map),
            None => unsupported(format!("no `{section}`")),
        }
    }

    /// A key of the case itself.
    pub fn field(&self, key: &str) -> Option<&'a Value> {
        self.mark(key.to_owned());
        self.json.get(key)
    }

    /// A parameter.
    pub fn param(&self, key: &str) -> Result<&'a Value, Verdict> {
        self.mark(format!("params.{key}"));
        match self.section("params")?.get(key) {
            Some(value) => Ok(value),
            None => unsupported(format!("no parameter `{key}`")),
        }
    }

    /// All parameters, for a reader that refuses what it does not know.
    pub fn all_params(&self) -> Result<&'a Map<String, Value>, Verdict> {
        let params = self.section("params")?;
        params.keys().for_each(|key| self.mark(format!("params.{key}")));
        Ok(params)
    }

    /// The parameter `key`, which must be `expected`: another value is unsupported.
    pub fn require(&self, key: &str, expected: &Value) -> Result<(), Verdict> {
        let got = self.param(key)?;
        // 1 and 1.0 are one number.
        let same =
            got == expected || matches!((got.as_f64(), expected.as_f64()), (Some(a), Some(b)) if a == b);
        if same { Ok(()) } else { unsupported(format!("parameter `{key}` is {got}, expected {expected}")) }
    }

    fn input(&self, role: &str) -> Result<Option<&'a Tensor>, Verdict> {
        self.mark(format!("tensors.{role}"));
        match self.section("tensors")?.get(role) {
            None => Ok(None),
            Some(name) => self.named(role, name).map(Some),
        }
    }

    fn named(&self, role: &str, name: &Value) -> Result<&'a Tensor, Verdict> {
        match name.as_str().and_then(|name| self.files.get(name)) {
            Some(tensor) => Ok(tensor),
            None => unsupported(format!("tensor {name} for `{role}` is not in the file")),
        }
    }

    /// The inputs whose role begins with `prefix`, without it.
    pub fn roles(&self, prefix: &str) -> Result<Vec<&'a str>, Verdict> {
        Ok(self.section("tensors")?.keys().filter_map(|role| role.strip_prefix(prefix)).collect())
    }

    /// An input of numbers in the precision of this run, if there is one.
    pub fn float_if_any(&self, role: &str) -> Result<Option<Tensor>, Verdict> {
        match self.input(role)? {
            None => Ok(None),
            Some(tensor) if matches!(tensor.dtype(), DType::F32 | DType::F64) => {
                Ok(Some(tensor.to_dtype(self.dtype)?))
            }
            Some(tensor) => unsupported(format!("input `{role}` holds {:?}, expected F32", tensor.dtype())),
        }
    }

    /// An input of numbers in the precision of this run.
    pub fn float(&self, role: &str) -> Result<Tensor, Verdict> {
        match self.float_if_any(role)? {
            Some(tensor) => Ok(tensor),
            None => unsupported(format!("no input `{role}`")),
        }
    }

    /// An input of numbers as a variable.
    pub fn var(&self, role: &str) -> Result<Var, Verdict> {
        Ok(Var::from_tensor(&self.float(role)?)?)
    }

    /// An input of whole numbers, row by row, and its shape.
    pub fn whole_if_any(&self, role: &str) -> Result<Option<WholeNumbers>, Verdict> {
        match self.input(role)? {
            None => Ok(None),
            Some(tensor) => Ok(Some(whole(role, tensor)?)),
        }
    }

    /// An input of whole numbers, one for each row.
    pub fn labels(&self, role: &str) -> Result<Vec<i64>, Verdict> {
        match self.whole_if_any(role)? {
            Some((labels, shape)) if shape.len() == 1 => Ok(labels),
            Some((_, shape)) => unsupported(format!("input `{role}` has shape {shape:?}, expected [n]")),
            None => unsupported(format!("no input `{role}`")),
        }
    }

    /// Row indices `[k, width]` (or `[k]` for a width of 1), column by column.
    pub fn indices_if_any(&self, role: &str, width: usize) -> Result<Option<Vec<Vec<u32>>>, Verdict> {
        self.whole_if_any(role)?.map(|(rows, shape)| columns(role, &rows, &shape, width)).transpose()
    }

    /// As [`indices_if_any`](Self::indices_if_any), of the expected tensors.
    pub fn expected_indices_if_any(
        &self,
        role: &str,
        width: usize,
    ) -> Result<Option<Vec<Vec<u32>>>, Verdict> {
        let Some(tensor) = self.expected_tensor(role)? else { return Ok(None) };
        let (rows, shape) = whole(role, tensor)?;
        columns(role, &rows, &shape, width).map(Some)
    }

    fn expected_tensor(&self, role: &str) -> Result<Option<&'a Tensor>, Verdict> {
        self.mark(format!("expected.tensors.{role}"));
        let tensors = self.section("expected")?.get("tensors").and_then(Value::as_object);
        match tensors.and_then(|tensors| tensors.get(role)) {
            None => Ok(None),
            Some(name) => self.named(role, name).map(Some),
        }
    }

    /// An expected entry that is no tensor.
    pub fn expected(&self, key: &str) -> Result<Option<&'a Value>, Verdict> {
        self.mark(format!("expected.{key}"));
        Ok(self.section("expected")?.get(key))
    }

    fn set(&self) -> &'static str {
        if self.dtype == DType::F64 { "f64" } else { "f32" }
    }

    /// A bound of the tolerance for this precision.
    pub fn tolerance(&self, key: &str) -> Result<Option<f64>, Verdict> {
        let set = self.section("tolerance")?.get(self.set());
        match set.and_then(|set| set.get(key)) {
            None => Ok(None),
            Some(bound) => match bound.as_f64() {
                Some(bound) if bound >= 0.0 => Ok(Some(bound)),
                _ => unsupported(format!("tolerance `{key}` is {bound}, expected a number ≥ 0")),
            },
        }
    }

    /// relative·size + absolute; one of the two at least must be given.
    fn bound(&self, relative: &str, absolute: &str, size: f64) -> Result<f64, Verdict> {
        match (self.tolerance(relative)?, self.tolerance(absolute)?) {
            (None, None) => {
                unsupported(format!("no tolerance `{relative}` or `{absolute}` for {}", self.set()))
            }
            (r, a) => Ok(r.unwrap_or(0.0) * size + a.unwrap_or(0.0)),
        }
    }

    /// Fails unless |got − expected| is within the tolerance of values.
    pub fn close(&self, what: &str, got: f64, expected: &Value) -> Result<(), Verdict> {
        let Some(number) = expected.as_f64() else {
            return unsupported(format!("expected {what} is {expected}, not a number"));
        };
        let bound = self.bound("value_rtol", "value_atol", number.abs())?;
        if (got - number).abs() <= bound {
            return Ok(());
        }
        Err(Verdict::Fail(format!("{what} ({}) {number} {got}", self.set())))
    }

    /// The scalar result against `value` in f64, and against `value_f32`, its rounding, in f32.
    pub fn value(&self, got: &Tensor) -> Result<(), Verdict> {
        let got = got.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let (value, rounded) = (self.expected("value")?, self.expected("value_f32")?);
        let expected = if self.dtype == DType::F64 { value } else { rounded.or(value) };
        match expected {
            Some(expected) => self.close("value", got, expected),
            None => unsupported("no expected `value`"),
        }
    }

    /// A result against the expected tensor `role` and its twin `role_f64`, whichever is of this precision; `kind` names
    /// the tolerance. Fails when shapes differ, or max|got − expected| exceeds the bound.
    pub fn array(&self, role: &str, kind: &str, got: &Tensor) -> Result<(), Verdict> {
        self.array_with_diagonal(role, kind, got, None)
    }

    /// As [`array`](Self::array), the diagonal of a square matrix having a bound of its own where it is the larger.
    pub fn array_with_diagonal(
        &self,
        role: &str,
        kind: &str,
        got: &Tensor,
        diagonal: Option<f64>,
    ) -> Result<(), Verdict> {
        let (rounded, exact) = (self.expected_tensor(role)?, self.expected_tensor(&format!("{role}_f64"))?);
        let expected = if self.dtype == DType::F64 { exact } else { rounded };
        let Some(expected) = expected else {
            return unsupported(format!("no expected `{role}` for {}", self.set()));
        };
        if expected.dtype() != self.dtype {
            let got = expected.dtype();
            return unsupported(format!("expected `{role}` holds {got:?}, not {:?}", self.dtype));
        }
        let what = format!("{role} ({})", self.set());
        if got.dims() != expected.dims() {
            return Err(Verdict::Fail(format!("{what} {:?} {:?}", expected.dims(), got.dims())));
        }
        let host = |t: &Tensor| -> Result<Vec<f64>, Verdict> {
            Ok(t.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
        };
        let (got, want) = (host(got)?, host(expected)?);
        let (relative, absolute) = match kind {
            "" => ("rel_to_max".to_owned(), "atol".to_owned()),
            _ => (format!("{kind}_rel_to_max"), format!("{kind}_atol")),
        };
        let largest = want.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
        let bound = self.bound(&relative, &absolute, largest)?;
        let width = expected.dims().last().copied().unwrap_or(1).max(1);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let bound = match diagonal {
                Some(diagonal) if i / width == i % width => bound.max(diagonal),
                _ => bound,
            };
            // Written so that NaN on either side is not within it.
            let within = (got - want).abs() <= bound;
            if !within {
                let message = format!("{what} at {i}: {want} {got}, apart by more than {bound:e}");
                return Err(Verdict::Fail(message));
            }
        }
        Ok(())
    }

    /// Before comparing: every parameter, input and further field of the case was used.
    pub fn everything_used(&self) -> Result<(), Verdict> {
        let used = self.used.borrow();
        for section in ["params", "tensors"] {
            for key in self.section(section)?.keys() {
                if !used.contains(&format!("{section}.{key}")) {
                    return unsupported(format!("unknown {section} entry `{key}`"));
                }
            }
        }
        let known = |key: &str| {
            ABOUT.contains(&key) || ["params", "tensors", "expected"].contains(&key) || used.contains(key)
        };
        match self.json.keys().find(|key| !known(key)) {
            Some(key) => unsupported(format!("unknown entry `{key}`")),
            None => Ok(()),
        }
    }

    /// After comparing: everything the case expects was compared, and it expects something.
    pub fn everything_compared(&self) -> Result<(), Verdict> {
        self.everything_used()?;
        let (used, expected) = (self.used.borrow(), self.section("expected")?);
        let empty = Map::new();
        let tensors = match expected.get("tensors") {
            None => &empty,
            Some(tensors) => match tensors.as_object() {
                Some(tensors) => tensors,
                None => return unsupported("`expected.tensors` is no JSON object"),
            },
        };
        let keys = expected.keys().filter(|key| *key != "tensors").map(|key| format!("expected.{key}"));
        let roles = tensors.keys().map(|role| format!("expected.tensors.{role}"));
        let all: Vec<String> = keys.chain(roles).collect();
        if all.is_empty() {
            return unsupported("the case expects nothing");
        }
        match all.iter().find(|path| !used.contains(*path)) {
            Some(path) => unsupported(format!("unknown {path}")),
            None => Ok(()),
        }
    }
}

fn whole(role: &str, tensor: &Tensor) -> Result<(Vec<i64>, Vec<usize>), Verdict> {
    if !matches!(tensor.dtype(), DType::I64 | DType::U32 | DType::U8) {
        return unsupported(format!("`{role}` holds {:?}, expected I64", tensor.dtype()));
    }
    Ok((tensor.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?, tensor.dims().to_vec()))
}

fn columns(role: &str, rows: &[i64], shape: &[usize], width: usize) -> Result<Vec<Vec<u32>>, Verdict> {
    if !(matches!(shape, [_, w] if *w == width) || (width == 1 && shape.len() == 1)) {
        return unsupported(format!("`{role}` has shape {shape:?}, expected [k, {width}]"));
    }
    let index = |row: &i64| match u32::try_from(*row) {
        Ok(index) => Ok(index),
        Err(_) => unsupported(format!("`{role}` holds {row}, which is no row")),
    };
    (0..width).map(|c| rows.iter().skip(c).step_by(width).map(index).collect()).collect()
}
