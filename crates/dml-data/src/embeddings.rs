//! Embeddings that were computed elsewhere: one row an item, with its label, from safetensors or NPY files.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};

use crate::{
    Result,
    format::{counted::unpacked, npy},
};

/// Embeddings `[n, d]` and their labels.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// One row an item: `[n, d]`.
    pub x: Tensor,
    /// One an item.
    pub labels: Vec<i64>,
}

impl Embeddings {
    /// From a safetensors file with the tensors `embeddings` `[n, d]`, of f16, bf16, f32 or f64, and `labels` `[n]`,
    /// whole numbers below 2⁶³, negative ones too.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the file cannot be read; [`Error::Corrupt`](crate::Error::Corrupt) when it
    /// is no safetensors file, a tensor is missing, of another shape or type, a value is not finite, a label is
    /// 2⁶³ or more, as an unsigned hash may be.
    /// # Examples
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use dml_data::Embeddings;
    /// let path = tempfile::tempdir()?.keep().join("x.safetensors");
    /// let x = Tensor::new(&[[0.5f32, 1.0], [0.0, -1.0]], &Device::Cpu)?;
    /// let labels = Tensor::new(&[3i64, 5], &Device::Cpu)?;
    /// candle_core::safetensors::save(&[("embeddings", x), ("labels", labels)].into(), &path)?;
    /// let read = Embeddings::from_safetensors(&path, &Device::Cpu)?;
    /// assert_eq!((read.x.dims(), read.labels), (&[2, 2][..], vec![3, 5]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_safetensors(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let bytes = unpacked(path)?.rest()?;
        let fault = |why: String| npy::unfit(path, why);
        let file =
            SafeTensors::deserialize(&bytes).map_err(|e| fault(format!("no safetensors file ({e})")))?;
        let tensor = |name: &str| file.tensor(name).map_err(|_| fault(format!("no tensor `{name}`")));
        let (x, labels) = (tensor("embeddings")?, tensor("labels")?);
        let dtype = match x.dtype() {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            other => {
                return Err(fault(format!("`embeddings` is of type {other:?}, expected floating point")));
            }
        };
        let x = Tensor::from_raw_buffer(x.data(), dtype, x.shape(), &Device::Cpu)?;
        let wide = |size: usize, signed: bool| -> Vec<i128> {
            let number = |bytes: &[u8]| {
                let bits = bytes.iter().rev().fold(0u128, |bits, &byte| bits << 8 | u128::from(byte));
                let unused = 128 - 8 * size as u32;
                if signed { ((bits << unused) as i128) >> unused } else { bits as i128 }
            };
            labels.data().chunks_exact(size).map(number).collect()
        };
        let values = match labels.dtype() {
            Dtype::U8 => wide(1, false),
            Dtype::I8 => wide(1, true),
            Dtype::U16 => wide(2, false),
            Dtype::I16 => wide(2, true),
            Dtype::U32 => wide(4, false),
            Dtype::I32 => wide(4, true),
            Dtype::U64 => wide(8, false),
            Dtype::I64 => wide(8, true),
            other => return Err(fault(format!("`labels` is of type {other:?}, expected whole numbers"))),
        };
        Self::build((path, x), (path, labels.shape(), values), device)
    }

    /// From an NPY file of numbers `[n, d]` and one of labels `[n]`, whole numbers below 2⁶³.
    ///
    /// # Errors
    /// As [`npy::read`] for either file, else as [`from_safetensors`](Self::from_safetensors).
    pub fn from_npy(embeddings: impl AsRef<Path>, labels: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let (x_path, labels_path) = (embeddings.as_ref(), labels.as_ref());
        let (x, labels) = (npy::read(x_path)?, npy::read(labels_path)?);
        let x = match x.values {
            npy::Values::F32(values) => Tensor::from_vec(values, x.shape, &Device::Cpu)?,
            npy::Values::F64(values) => Tensor::from_vec(values, x.shape, &Device::Cpu)?,
            npy::Values::I64(_) => {
                return Err(npy::unfit(x_path, "whole numbers, expected floating point".to_owned()));
            }
        };
        let npy::Values::I64(values) = labels.values else {
            return Err(npy::unfit(labels_path, "labels that are not whole numbers".to_owned()));
        };
        let values = values.into_iter().map(i128::from).collect();
        Self::build((x_path, x), (labels_path, &labels.shape, values), device)
    }

    fn build(
        (x_path, x): (&Path, Tensor),
        (labels_path, shape, values): (&Path, &[usize], Vec<i128>),
        device: &Device,
    ) -> Result<Self> {
        let [n, d] = x.dims()[..] else {
            return Err(npy::unfit(x_path, format!("embeddings of shape {:?}, expected [n, d]", x.dims())));
        };
        if n == 0 || d == 0 {
            return Err(npy::unfit(x_path, format!("embeddings of shape [{n}, {d}], expected some")));
        }
        if shape != [n] {
            let why = format!("labels of shape {shape:?}, expected [{n}] as there are {n} embeddings");
            return Err(npy::unfit(labels_path, why));
        }
        let label = |(i, value): (usize, i128)| {
            let why = || {
                npy::unfit(
                    labels_path,
                    format!("label {value} in row {i}, expected whole numbers below 2^63"),
                )
            };
            i64::try_from(value).map_err(|_| why())
        };
        let labels = values.into_iter().enumerate().map(label).collect::<Result<Vec<i64>>>()?;
        let rows = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        if let Some(i) = rows.iter().position(|value| !value.is_finite()) {
            let why = format!("{} in row {}, column {}, expected finite numbers", rows[i], i / d, i % d);
            return Err(npy::unfit(x_path, why));
        }
        Ok(Self { x: x.to_device(device)?, labels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(tensors: &[(&'static str, Tensor)]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        candle_core::safetensors::save(&tensors.iter().cloned().collect(), &path).unwrap();
        (folder, path)
    }

    #[test]
    fn what_does_not_fit_is_named() -> Result<()> {
        let cpu = &Device::Cpu;
        let x = Tensor::new(&[[0f32, 1.], [2., 3.]], cpu)?;
        let two = Tensor::new(&[0u32, 1], cpu)?;
        let message = |tensors: &[(&'static str, Tensor)]| {
            let (_folder, path) = save(tensors);
            let message = Embeddings::from_safetensors(&path, cpu).unwrap_err().to_string();
            message.replace(&path.display().to_string(), "x")
        };
        let end = "; save the array that is expected";
        let cases = [
            (vec![("embeddings", x.clone())], "x: byte 0: no tensor `labels`"),
            (
                vec![("embeddings", two.clone()), ("labels", two.clone())],
                "x: byte 0: `embeddings` is of type U32, expected floating point",
            ),
            (
                vec![("embeddings", x.clone()), ("labels", Tensor::new(&[0u32], cpu)?)],
                "x: byte 0: labels of shape [1], expected [2] as there are 2 embeddings",
            ),
            (
                vec![("embeddings", x.clone()), ("labels", Tensor::new(&[0f32, 1.], cpu)?)],
                "x: byte 0: `labels` is of type F32, expected whole numbers",
            ),
            (
                vec![("embeddings", x.flatten_all()?), ("labels", two.clone())],
                "x: byte 0: embeddings of shape [4], expected [n, d]",
            ),
            (
                vec![("embeddings", (&x / 0.0)?), ("labels", two.clone())],
                "x: byte 0: NaN in row 0, column 0, expected finite numbers",
            ),
        ];
        for (tensors, expected) in cases {
            assert_eq!(message(&tensors), format!("{expected}{end}"));
        }
        Ok(())
    }

    /// candle has no u64, so the file is put together by hand.
    #[test]
    fn labels_are_any_numbers_that_i64_holds() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let read = |labels: [u64; 2], dtype: &str| {
            let path = folder.path().join("x.safetensors");
            let header = format!(
                r#"{{"embeddings":{{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}},"labels":{{"dtype":"{dtype}","shape":[2],"data_offsets":[8,24]}}}}"#
            );
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.bytes());
            bytes.extend([0; 8]);
            bytes.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
            std::fs::write(&path, bytes).unwrap();
            let message = |e: crate::Error| e.to_string().replace(&path.display().to_string(), "x");
            Embeddings::from_safetensors(&path, &Device::Cpu).map(|read| read.labels).map_err(message)
        };
        assert_eq!(read([3, u64::MAX], "I64"), Ok(vec![3, -1]));
        assert_eq!(read([3, i64::MAX as u64], "U64"), Ok(vec![3, i64::MAX]));
        let expected = "x: byte 0: label 9223372036854775808 in row 1, expected whole numbers below 2^63; save the array \
                        that is expected";
        assert_eq!(read([3, 1 << 63], "U64").unwrap_err(), expected);
        Ok(())
    }

    #[test]
    fn f64_and_half_stay_what_they_are() -> Result<()> {
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            let x = Tensor::new(&[[0.5f64, -2.0]], &Device::Cpu)?.to_dtype(dtype)?;
            let (_folder, path) = save(&[("embeddings", x), ("labels", Tensor::new(&[7u8], &Device::Cpu)?)]);
            let read = Embeddings::from_safetensors(&path, &Device::Cpu)?;
            assert_eq!((read.x.dtype(), &read.labels[..]), (dtype, &[7][..]));
            assert_eq!(read.x.to_dtype(DType::F64)?.to_vec2::<f64>()?, [[0.5, -2.0]]);
        }
        Ok(())
    }
}
