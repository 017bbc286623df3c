//! `cargo xtask golden --dir DIR`: runs a folder of reference cases through the crates, a line each.
//!
//! The folder holds a `manifest.json` and the safetensors files it names. A case gives a kind, parameters, inputs and
//! expected results; it is computed twice, in f64 and in f32, each against its own reference and tolerance. A case
//! is `ok` only when every parameter and input it names was used and everything it expects was compared;
//! what the crates do not have, or the runner does not know, is `unsupported`, with the reason.

use std::{
    collections::HashMap,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use anyhow::{Context, bail};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};

use case::{Case, Verdict, unsupported};

mod accuracy;
mod bregman;
mod case;
mod distance;
mod loss;
mod miner;
mod reducer;
mod spec;

/// How many cases went which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Computed, and within tolerance.
    pub ok: usize,
    /// Computed, and not within tolerance; or refused by the crates.
    pub failed: usize,
    /// Not computed.
    pub unsupported: usize,
}

/// The tensors of a file, or why it cannot be read.
type Tensors = Result<HashMap<String, Tensor>, String>;

/// Runs every case of `dir` and prints a line each (`ok ID`, `FAIL ID what expected got`, `unsupported ID why`) and a
/// closing count to `out`.
///
/// # Errors
/// When `manifest.json` cannot be read, is of another format or lists no cases, or `out` cannot be written. All that
/// concerns a single case is a line.
pub fn run(dir: &Path, out: &mut dyn Write) -> anyhow::Result<Summary> {
    let path = dir.join("manifest.json");
    let text = std::fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let manifest: Value =
        serde_json::from_slice(&text).with_context(|| format!("{}: is not JSON", path.display()))?;
    if manifest["format"] != 1 {
        bail!("{}: `format` is {}, expected 1", path.display(), manifest["format"]);
    }
    let cases = match manifest["cases"].as_array() {
        Some(cases) if !cases.is_empty() => cases,
        _ => bail!("{}: `cases` is not a list with at least one case", path.display()),
    };
    let (mut files, mut summary) = (HashMap::new(), Summary::default());
    for (position, case) in cases.iter().enumerate() {
        let id = case["id"].as_str().map_or_else(|| format!("case {position}"), one_line);
        let run = || run_case(dir, &mut files, case);
        // A panic in a crate is that case's failure, not the end of the run.
        let verdict =
            catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Verdict::Fail("panicked".to_owned())));
        match verdict {
            Ok(()) => {
                summary.ok += 1;
                writeln!(out, "ok {id}")?;
            }
            Err(Verdict::Fail(what)) => {
                summary.failed += 1;
                writeln!(out, "FAIL {id} {}", one_line(&what))?;
            }
            Err(Verdict::Unsupported(why)) => {
                summary.unsupported += 1;
                writeln!(out, "unsupported {id} {}", one_line(&why))?;
            }
        }
    }
    let Summary { ok, failed, unsupported } = summary;
    writeln!(out, "{ok} ok, {failed} failed, {unsupported} unsupported")?;
    Ok(summary)
}

fn run_case(dir: &Path, files: &mut HashMap<String, Tensors>, case: &Value) -> Result<(), Verdict> {
    let Some(json) = case.as_object() else { return unsupported("the case is no JSON object") };
    let Some(file) = json.get("file").and_then(Value::as_str) else {
        return unsupported("the case names no `file`");
    };
    if Path::new(file).file_name() != Some(file.as_ref()) {
        return unsupported(format!("`file` is {file:?}, expected the name of a file in the folder"));
    }
    if !files.contains_key(file) {
        let load = || candle_core::safetensors::load(dir.join(file), &Device::Cpu);
        let tensors = catch_unwind(load).map_err(|_| "reading it panicked".to_owned());
        let tensors = tensors.and_then(|tensors| tensors.map_err(|error| error.to_string()));
        files.insert(file.to_owned(), tensors);
    }
    match &files[file] {
        Err(why) => unsupported(format!("{file}: {why}")),
        Ok(tensors) => {
            compare(json, tensors, DType::F64)?;
            compare(json, tensors, DType::F32)
        }
    }
}

fn compare(
    json: &Map<String, Value>,
    tensors: &HashMap<String, Tensor>,
    dtype: DType,
) -> Result<(), Verdict> {
    let case = Case::new(json, tensors, dtype);
    match json.get("kind").and_then(Value::as_str) {
        Some("accuracy") => accuracy::compare(&case)?,
        Some("bregman") => bregman::compare(&case)?,
        Some("distance") => distance::compare(&case)?,
        Some("loss") => return loss::compare(&case),
        Some("miner") => miner::compare(&case)?,
        Some("reducer") => reducer::compare(&case)?,
        Some(kind) => return unsupported(format!("kind {kind:?}")),
        None => return unsupported("the case names no `kind`"),
    }
    case.everything_compared()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
