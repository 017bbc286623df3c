//! Labelled images in memory, and batches of them as tensors.

use std::{borrow::Cow, path::Path};

use candle_core::{DType, Device, Tensor};

use crate::{
    Error, Item, Result, Source, Split, TrainSize,
    file_set::numbers,
    format::{FETCH_AGAIN, idx},
    split,
};

/// What [`ImageSet::tensor`] does to a pixel p ∈ 0 … 255 of channel k: (p / 255 − mean\[k\]) / std\[k\].
#[derive(Debug, Clone, PartialEq)]
pub struct Normalization {
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl Normalization {
    /// Means and standard deviations of p / 255, one a channel.
    ///
    /// # Errors
    /// [`Error::Argument`] when the lengths differ, a value is not finite, or a deviation is not > 0.
    pub fn new(mean: Vec<f64>, std: Vec<f64>) -> Result<Self> {
        let argument = |arg, got: &[f64], expected: &str| Error::Argument {
            op: "Normalization::new",
            arg,
            got: format!("{got:?}"),
            expected: expected.to_owned(),
        };
        if mean.is_empty() || mean.iter().any(|m| !m.is_finite()) {
            return Err(argument("mean", &mean, "a finite number for each channel"));
        }
        if std.len() != mean.len() || std.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            return Err(argument("std", &std, "a finite number > 0 for each channel"));
        }
        Ok(Self { mean, std })
    }

    /// The mean of p / 255, one a channel.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The standard deviation of p / 255, one a channel.
    pub fn std(&self) -> &[f64] {
        &self.std
    }
}

/// Labelled images: n images of c channels, h rows and w columns, one byte a value.
///
/// Invariants: at least one image; `n·c·h·w` bytes, in the order image, channel, row, column; a label below
/// the number of class names for each image.
///
/// # Examples
/// ```
/// use candle_core::{DType, Device};
/// use dml_data::ImageSet;
/// let names = vec!["dark".to_string(), "bright".to_string()];
/// let set = ImageSet::new(vec![0, 51, 204, 255], [1, 1, 2], vec![0, 1], names)?;
/// let x = set.tensor(&[1, 0], DType::F64, &Device::Cpu)?;
/// assert_eq!(x.dims(), [2, 1, 1, 2]);
/// assert_eq!(x.flatten_all()?.to_vec1::<f64>()?, [0.8, 1.0, 0.0, 0.2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSet {
    images: Vec<u8>,
    shape: [usize; 3],
    labels: Vec<i64>,
    class_names: Vec<String>,
    groups: Option<Vec<i64>>,
    normalization: Normalization,
}

impl ImageSet {
    /// A set of `labels.len()` images of shape `[c, h, w]`, `images` being `[n, c, h, w]` in row-major order.
    /// Pixels are scaled to 0 … 1 until [`normalized_by`](Self::normalized_by) says otherwise.
    ///
    /// # Errors
    /// [`Error::Argument`] when the set is empty, sizes do not match, or a label has no class name.
    pub fn new(
        images: Vec<u8>,
        shape: [usize; 3],
        labels: Vec<i64>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        let argument =
            |arg, got: String, expected: String| Error::Argument { op: "ImageSet::new", arg, got, expected };
        if labels.is_empty() {
            return Err(argument("labels", "empty".into(), "a label for each image, at least one".into()));
        }
        if shape.contains(&0) {
            return Err(argument("shape", format!("{shape:?}"), "[c, h, w], each at least 1".into()));
        }
        let bytes = shape.iter().try_fold(labels.len(), |product, &d| product.checked_mul(d));
        if bytes != Some(images.len()) {
            let expected = format!("{} images of shape {shape:?}, one a label", labels.len());
            return Err(argument("images", format!("{} bytes", images.len()), expected));
        }
        if let Some(i) = labels.iter().position(|&label| !numbers(label, &class_names)) {
            let expected = format!("labels from 0 to below {}, the number of class names", class_names.len());
            return Err(argument("labels", format!("{} at position {i}", labels[i]), expected));
        }
        let normalization = Normalization { mean: vec![0.0; shape[0]], std: vec![1.0; shape[0]] };
        Ok(Self { images, shape, labels, class_names, groups: None, normalization })
    }

    /// The same set with what each image's class belongs to: super-classes, alphabets.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is one group an image.
    pub fn with_groups(mut self, groups: Vec<i64>) -> Result<Self> {
        if groups.len() != self.len() {
            return Err(Error::Argument {
                op: "ImageSet::with_groups",
                arg: "groups",
                got: format!("{} groups", groups.len()),
                expected: format!("{}, one an image", self.len()),
            });
        }
        self.groups = Some(groups);
        Ok(self)
    }

    /// Grey images from a pair of IDX files.
    ///
    /// # Errors
    /// As [`idx::read`] for either file; [`Error::CountMismatch`] when they hold different numbers of items;
    /// [`Error::Corrupt`] names the byte of a label without class name.
    pub fn from_idx(
        images: impl AsRef<Path>,
        labels: impl AsRef<Path>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        let (images_path, labels_path) = (images.as_ref(), labels.as_ref());
        let (images, labels) = (idx::read_images(images_path)?, idx::read_labels(labels_path)?);
        let [n, h, w] = images.dims[..] else {
            return Err(Error::Argument {
                op: "ImageSet::from_idx",
                arg: "images",
                got: format!("{:?}", images.dims),
                expected: "[n, h, w]".into(),
            });
        };
        if n != labels.data.len() {
            return Err(Error::CountMismatch {
                images: images_path.to_owned(),
                n_images: n,
                labels: labels_path.to_owned(),
                n_labels: labels.data.len(),
            });
        }
        if n == 0 {
            return Err(Error::Corrupt {
                path: images_path.to_owned(),
                offset: 4,
                why: "the header says that there are no images, expected at least one".to_owned(),
                remedy: FETCH_AGAIN,
            });
        }
        if let Some(i) = labels.data.iter().position(|&label| usize::from(label) >= class_names.len()) {
            return Err(Error::Corrupt {
                path: labels_path.to_owned(),
                offset: 8 + i as u64,
                why: format!("label {}, expected one below {}", labels.data[i], class_names.len()),
                remedy: "give a name for every class, or fetch the file again",
            });
        }
        let labels = labels.data.into_iter().map(i64::from).collect();
        Self::new(images.data, [1, h, w], labels, class_names)
    }

    /// The number of images, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a set is never empty")]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// `[c, h, w]` of an image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The labels, one an image.
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// The names of the classes; a label is an index into them.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// How many images each class has, in the order of [`class_names`](Self::class_names).
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// All pixels, `[n, c, h, w]` in row-major order, 0 … 255.
    pub fn pixels(&self) -> &[u8] {
        &self.images
    }

    /// The pixels of image `index`, `[c, h, w]` in row-major order, or `None` beyond the end.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        let size = self.image_bytes();
        self.images.chunks_exact(size).nth(index)
    }

    /// What [`tensor`](Self::tensor) subtracts and divides by.
    pub fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    /// The mean and standard deviation of p / 255 over the images at `indices`, channel by channel. A channel
    /// that is constant gets the deviation 1. Sums are exact integers, so the order of `indices` is irrelevant.
    ///
    /// # Errors
    /// [`Error::Argument`] for no indices, [`Error::Index`] for one beyond the end.
    pub fn statistics(&self, indices: &[usize]) -> Result<Normalization> {
        let op = "ImageSet::statistics";
        self.check_indices(op, indices)?;
        let [c, h, w] = self.shape;
        let count = (indices.len() * h * w) as f64;
        let (mut mean, mut std) = (Vec::with_capacity(c), Vec::with_capacity(c));
        for channel in 0..c {
            let (mut sum, mut squares) = (0u64, 0u64);
            for &index in indices {
                let start = index * c * h * w + channel * h * w;
                for &p in &self.images[start..start + h * w] {
                    sum += u64::from(p);
                    squares += u64::from(p) * u64::from(p);
                }
            }
            let m = sum as f64 / count;
            let variance = (squares as f64 / count - m * m).max(0.0);
            mean.push(m / 255.0);
            std.push(if variance > 0.0 { variance.sqrt() / 255.0 } else { 1.0 });
        }
        Normalization::new(mean, std)
    }

    /// The same set, normalized by mean and deviation of the images at `indices`: those of the training part,
    /// so that nothing of the test part leaks into training.
    ///
    /// # Errors
    /// As [`statistics`](Self::statistics).
    pub fn normalized_by(mut self, indices: &[usize]) -> Result<Self> {
        self.normalization = self.statistics(indices)?;
        Ok(self)
    }

    /// The same set with this normalization, e.g. that of another set on which a model was trained.
    ///
    /// # Errors
    /// [`Error::Argument`] when it has another number of channels.
    pub fn with_normalization(mut self, normalization: Normalization) -> Result<Self> {
        if normalization.mean.len() != self.shape[0] {
            return Err(Error::Argument {
                op: "ImageSet::with_normalization",
                arg: "normalization",
                got: format!("for {} channels", normalization.mean.len()),
                expected: format!("one for {}", self.shape[0]),
            });
        }
        self.normalization = normalization;
        Ok(self)
    }

    /// The images at `indices` in that order, normalized: `[b, c, h, w]`.
    ///
    /// The 256 values a pixel can take are computed in f64 and rounded once, so batches are the same bits on
    /// every device.
    ///
    /// # Errors
    /// [`Error::Argument`] for no indices or a `dtype` that is not floating point, [`Error::Index`] for an
    /// index beyond the end.
    pub fn tensor(&self, indices: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let op = "ImageSet::tensor";
        self.check_indices(op, indices)?;
        if !dtype.is_float() {
            return Err(Error::Argument {
                op,
                arg: "dtype",
                got: format!("{dtype:?}"),
                expected: "a floating-point type".into(),
            });
        }
        let [c, h, w] = self.shape;
        let shape = (indices.len(), c, h, w);
        if dtype == DType::F64 {
            return Ok(Tensor::from_vec(self.values(indices, |v| v), shape, device)?);
        }
        let x = Tensor::from_vec(self.values(indices, |v| v as f32), shape, device)?;
        Ok(x.to_dtype(dtype)?) // no copy for f32
    }

    /// The labels at `indices` as a tensor of i64, `[b]`.
    ///
    /// # Errors
    /// [`Error::Argument`] for no indices, [`Error::Index`] for one beyond the end.
    pub fn label_tensor(&self, indices: &[usize], device: &Device) -> Result<Tensor> {
        self.check_indices("ImageSet::label_tensor", indices)?;
        let labels: Vec<i64> = indices.iter().map(|&i| self.labels[i]).collect();
        Ok(Tensor::from_vec(labels, indices.len(), device)?)
    }

    /// A closed-set split: every class in both parts. See [`split::closed_set`].
    ///
    /// # Errors
    /// As [`split::closed_set`], and [`Error::MissingClass`] for a class name without image.
    pub fn closed_set(&self, train: TrainSize, seed: u64) -> Result<Split> {
        self.check_classes("ImageSet::closed_set")?;
        split::closed_set(&self.labels, train, seed)
    }

    /// A zero-shot split: `train_classes` in the training part, all others in the test part. See
    /// [`split::zero_shot`].
    ///
    /// # Errors
    /// As [`split::zero_shot`], and [`Error::MissingClass`] for a class name without image.
    pub fn zero_shot(&self, train_classes: &[i64]) -> Result<Split> {
        self.check_classes("ImageSet::zero_shot")?;
        split::zero_shot(&self.labels, train_classes)
    }

    fn check_classes(&self, op: &'static str) -> Result<()> {
        match self.class_counts().iter().position(|&count| count == 0) {
            Some(class) => Err(Error::MissingClass { op, class: class as i64 }),
            None => Ok(()),
        }
    }

    fn check_indices(&self, op: &'static str, indices: &[usize]) -> Result<()> {
        if indices.is_empty() {
            let (got, expected) = ("empty".to_owned(), "at least one index".to_owned());
            return Err(Error::Argument { op, arg: "indices", got, expected });
        }
        match indices.iter().position(|&index| index >= self.len()) {
            Some(position) => Err(Error::Index { op, position, index: indices[position], len: self.len() }),
            None => Ok(()),
        }
    }

    fn image_bytes(&self) -> usize {
        self.shape.iter().product()
    }

    /// The normalized pixels at `indices`, which are in range.
    fn values<T: Copy>(&self, indices: &[usize], round: impl Fn(f64) -> T) -> Vec<T> {
        let [c, h, w] = self.shape;
        let table = |channel: usize| -> Vec<T> {
            let (mean, std) = (self.normalization.mean[channel], self.normalization.std[channel]);
            (0..256).map(|p| round((f64::from(p) / 255.0 - mean) / std)).collect()
        };
        let tables: Vec<Vec<T>> = (0..c).map(table).collect();
        let mut out = Vec::with_capacity(indices.len() * c * h * w);
        for &index in indices {
            let start = index * c * h * w;
            for (channel, plane) in self.images[start..start + c * h * w].chunks_exact(h * w).enumerate() {
                out.extend(plane.iter().map(|&p| tables[channel][usize::from(p)]));
            }
        }
        out
    }
}

impl Source for ImageSet {
    fn len(&self) -> usize {
        self.len()
    }

    fn labels(&self) -> &[i64] {
        self.labels()
    }

    fn class_names(&self) -> &[String] {
        self.class_names()
    }

    fn groups(&self) -> Option<&[i64]> {
        self.groups.as_deref()
    }

    fn item(&self, index: usize) -> Result<Item<'_>> {
        let [channels, height, width] = self.shape;
        self.check_indices("ImageSet::item", &[index])?;
        let size = self.image_bytes();
        let pixels = Cow::Borrowed(&self.images[index * size..(index + 1) * size]);
        Ok(Item::Raw { pixels, channels, height, width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two images of two channels, 1×2; channel 1 is constant.
    fn small() -> ImageSet {
        let names = vec!["a".to_owned(), "b".to_owned()];
        ImageSet::new(vec![0, 255, 9, 9, 255, 0, 9, 9], [2, 1, 2], vec![0, 1], names).unwrap()
    }

    #[test]
    fn channels_are_normalized_apart_and_a_constant_one_is_only_shifted() -> Result<()> {
        let set = small().normalized_by(&[0, 1])?;
        assert_eq!(set.normalization().mean(), [0.5, 9.0 / 255.0]);
        assert_eq!(set.normalization().std(), [0.5, 1.0]);
        let x = set.tensor(&[1], DType::F64, &Device::Cpu)?.flatten_all()?.to_vec1::<f64>()?;
        assert_eq!(x, [1.0, -1.0, 0.0, 0.0]);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let y = set.tensor(&[1], dtype, &Device::Cpu)?;
            assert_eq!((y.dtype(), y.dims()), (dtype, &[1usize, 2, 1, 2][..]));
            assert_eq!(y.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?, x);
        }
        Ok(())
    }

    #[test]
    fn bad_arguments_are_named() {
        let set = small();
        let cpu = Device::Cpu;
        assert_eq!(
            set.tensor(&[0, 2], DType::F32, &cpu).unwrap_err().to_string(),
            "ImageSet::tensor: `indices[1]` is 2, but the set holds 2 items; use indices below 2"
        );
        assert_eq!(
            set.tensor(&[], DType::F32, &cpu).unwrap_err().to_string(),
            "ImageSet::tensor: `indices` is empty, expected at least one index"
        );
        assert_eq!(
            set.tensor(&[0], DType::U8, &cpu).unwrap_err().to_string(),
            "ImageSet::tensor: `dtype` is U8, expected a floating-point type"
        );
        let new = |bytes: usize, labels: Vec<i64>| {
            ImageSet::new(vec![0; bytes], [1, 2, 2], labels, vec!["a".into()]).unwrap_err().to_string()
        };
        assert_eq!(
            new(0, vec![]),
            "ImageSet::new: `labels` is empty, expected a label for each image, at least one"
        );
        assert_eq!(
            new(7, vec![0, 0]),
            "ImageSet::new: `images` is 7 bytes, expected 2 images of shape [1, 2, 2], one a label"
        );
        assert_eq!(
            new(8, vec![0, 1]),
            "ImageSet::new: `labels` is 1 at position 1, expected labels from 0 to below 1, the number of class names"
        );
        assert!(new(8, vec![0, -1]).contains("`labels` is -1 at position 1"));
        assert_eq!(
            Normalization::new(vec![0.5], vec![0.0]).unwrap_err().to_string(),
            "Normalization::new: `std` is [0.0], expected a finite number > 0 for each channel"
        );
        assert!(set.image(2).is_none());
    }

    #[test]
    fn a_class_name_without_image_is_a_missing_class() {
        let names = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let set = ImageSet::new(vec![0; 4], [1, 1, 1], vec![0, 0, 2, 2], names).unwrap();
        assert_eq!(
            set.closed_set(TrainSize::Fraction(0.5), 0).unwrap_err().to_string(),
            "ImageSet::closed_set: class 1 has no sample; leave it out or add images of it"
        );
    }
}
