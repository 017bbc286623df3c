//! Generators in safetensors files: the parameters as tensors, the [`Spec`] in the metadata.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::tensor::host;
use crate::{Error, Generator, Parameter, Result, Spec};

/// The metadata key under which the header lies, as JSON.
const KEY: &str = "phi";

/// What the metadata of a file says: enough to build the generator before its parameters are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The generator.
    pub spec: Spec,
    /// The dimension d it was built for; `None` where any will do.
    pub dim: Option<usize>,
    /// The type of its numbers, `f32` or `f64`.
    pub dtype: String,
}

/// Writes a generator: parameters and `spec`, from which [`load`] rebuilds it.
///
/// The file is written aside in the same folder, synced, and renamed into place, so that a reader finds the old
/// file or the new one, whole.
///
/// # Errors
/// [`Error::File`] when the folder cannot be written, and when `spec` does not describe `phi`.
/// # Examples
/// ```
/// # use {candle_core::{DType, Device}, phi::{Generator, Spec}};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("phi.safetensors");
/// let spec: Spec = serde_json::from_str(r#"{"kind": "separable", "units": 4}"#)?;
/// let phi = spec.build(8, 42, DType::F32, &Device::Cpu)?;
/// phi::save(&*phi, &spec, &path)?;
/// let again = phi::load(&path, &Device::Cpu)?;
/// assert_eq!(again.parameters().len(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save(phi: &dyn Generator, spec: &Spec, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let parameters = phi.parameters();
    let dtype = parameters.first().map_or(DType::F32, |p| p.var.dtype());
    let described = spec.build(phi.dim().unwrap_or(1), 0, dtype, &Device::Cpu)?.parameters();
    let shapes = |all: &[Parameter]| -> Vec<(String, Vec<usize>)> {
        all.iter().map(|p| (p.name.clone(), p.var.dims().to_vec())).collect()
    };
    if shapes(&described) != shapes(&parameters) {
        return Err(file(path, "not written: the spec describes another generator than the one given"));
    }
    let header = Header { spec: spec.clone(), dim: phi.dim(), dtype: dtype.as_str().to_owned() };
    let header = serde_json::to_string(&header).map_err(|e| file(path, format!("not written: {e}")))?;
    let tensors: Result<BTreeMap<String, Tensor>> = parameters
        .into_iter()
        .map(|p| Ok((p.name, p.var.detach().to_device(&Device::Cpu)?.contiguous()?)))
        .collect();
    let metadata = [(KEY.to_owned(), header)].into();
    let bytes = safetensors::serialize(tensors?, Some(metadata))
        .map_err(|e| file(path, format!("not written: {e}")))?;
    write_whole(path, &bytes)
}

/// Rebuilds the generator that [`save`] wrote, on `device`.
///
/// # Errors
/// [`Error::File`] names the file and what is wrong: unreadable, truncated, damaged, without a spec, or a tensor
/// that is missing, too many, of the wrong shape or not finite.
pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Box<dyn Generator>> {
    let path = path.as_ref();
    let bytes = read(path)?;
    let header = parse_header(path, &bytes)?;
    let dtype = match header.dtype.as_str() {
        "f32" => DType::F32,
        "f64" => DType::F64,
        other => return Err(file(path, format!("its header asks for `{other}`, expected f32 or f64"))),
    };
    // Before anything is built: what the header asks for must be what the file holds.
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(path, &bytes, e))?;
    let held: u128 =
        tensors.iter().map(|(_, t)| t.shape().iter().map(|&s| s as u128).product::<u128>()).sum();
    let dim = header.dim.unwrap_or(1);
    let wanted = header.spec.parameter_count(dim);
    if held != wanted {
        return Err(file(
            path,
            format!(
                "its header describes {wanted} parameters, but it holds {held}; write it again with save"
            ),
        ));
    }
    let phi = header.spec.build(dim, 0, dtype, device);
    let phi = phi.map_err(|e| match e {
        Error::Candle(_) => e,
        other => file(path, format!("its header describes no generator: {other}")),
    })?;
    fill(&*phi, path, &bytes)?;
    Ok(phi)
}

/// Reads what a file says about its generator, without its parameters.
///
/// # Errors
/// [`Error::File`] when the file cannot be read, is damaged, or was not written by [`save`].
pub fn read_header(path: impl AsRef<Path>) -> Result<Header> {
    let path = path.as_ref();
    parse_header(path, &read(path)?)
}

/// Fills the parameters of `phi` from a file, in place; they change only if every one of them fits.
///
/// The file may have been written by anyone, as long as its tensors are named like the parameters.
///
/// # Errors
/// [`Error::File`] as [`load`] gives it.
pub fn load_parameters(phi: &dyn Generator, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fill(phi, path, &read(path)?)
}

fn file(path: &Path, why: impl Into<String>) -> Error {
    Error::File { path: PathBuf::from(path), why: why.into() }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| file(path, format!("cannot be read: {e}")))
}

fn damaged(path: &Path, bytes: &[u8], why: impl std::fmt::Display) -> Error {
    let why = format!(
        "no whole safetensors file in its {} bytes ({why}); it is truncated or damaged, copy or write it again",
        bytes.len()
    );
    file(path, why)
}

fn parse_header(path: &Path, bytes: &[u8]) -> Result<Header> {
    // `deserialize` also compares the length of the file with what the header promises.
    SafeTensors::deserialize(bytes).map_err(|e| damaged(path, bytes, e))?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(path, bytes, e))?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get(KEY)).ok_or_else(|| {
        file(path, "its metadata has no entry `phi`; build the generator and use load_parameters")
    })?;
    serde_json::from_str(text).map_err(|e| file(path, format!("its metadata entry `phi` is no spec: {e}")))
}

fn fill(phi: &dyn Generator, path: &Path, bytes: &[u8]) -> Result<()> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| damaged(path, bytes, e))?;
    let parameters = phi.parameters();
    let extra = tensors.names().into_iter().filter(|name| !parameters.iter().any(|p| p.name == *name));
    if let Some(name) = extra.min() {
        return Err(file(path, format!("tensor `{name}` belongs to no parameter of the generator")));
    }
    let mut fresh = Vec::with_capacity(parameters.len());
    for Parameter { name, var } in &parameters {
        let view = tensors.tensor(name).map_err(|_| file(path, format!("tensor `{name}` is missing")))?;
        if view.shape() != var.dims() {
            let (got, want) = (view.shape(), var.dims());
            return Err(file(path, format!("tensor `{name}` has shape {got:?}, the generator {want:?}")));
        }
        let tensor = view.load(var.device())?;
        if tensor.dtype() != var.dtype() {
            let (got, want) = (tensor.dtype(), var.dtype());
            let why = format!("tensor `{name}` holds {got:?}, the generator {want:?}; build it with {got:?}");
            return Err(file(path, why));
        }
        if let Some((i, value)) = host(&tensor)?.into_iter().enumerate().find(|(_, v)| !v.is_finite()) {
            return Err(file(path, format!("tensor `{name}` holds {value} at entry {i}, expected finite")));
        }
        fresh.push((var, tensor));
    }
    for (var, tensor) in fresh {
        var.set(&tensor)?;
    }
    Ok(())
}

/// Writes aside in the same folder, syncs, renames; leaves nothing behind when a step fails.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0); // two threads that save to one path write aside apart
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| file(path, "names no file"))?.to_string_lossy();
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let aside = folder.join(format!(".{name}.{}.{number}.partial", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut out = File::create(&aside)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&aside, path)?;
        if cfg!(unix) {
            File::open(folder)?.sync_all()?; // the rename itself
        }
        Ok(())
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&aside); // best effort: the first error is the one to report
        file(path, format!("cannot be written: {e}"))
    })
}
