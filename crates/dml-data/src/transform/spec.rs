//! Pipelines by name, for configuration files.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    CenterCrop, ColorJitter, GaussianBlur, Grayscale, HorizontalFlip, Pipeline, RandAugment, RandomCrop,
    RandomErasing, RandomResizedCrop, Resize, Transform, VerticalFlip,
};
use crate::{Normalization, Result};

/// A [`Pipeline`] as it stands in a configuration file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PipelineSpec {
    /// 1 for grey, 3 for colour; see [`Pipeline::with_channels`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// The transforms in their order.
    pub transform: Vec<TransformSpec>,
    /// Means and deviations of p / 255, one a channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<NormalizeSpec>,
}

/// A [`Normalization`] as it stands in a configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormalizeSpec {
    /// The means.
    pub mean: Vec<f64>,
    /// The deviations.
    pub std: Vec<f64>,
}

/// A transform by its name, e.g. `{ name = "center-crop", size = [224, 224] }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant is the struct of its name")]
pub enum TransformSpec {
    Resize(Resize),
    CenterCrop(CenterCrop),
    RandomCrop(RandomCrop),
    RandomResizedCrop(RandomResizedCrop),
    HorizontalFlip(HorizontalFlip),
    VerticalFlip(VerticalFlip),
    ColorJitter(ColorJitter),
    Grayscale(Grayscale),
    GaussianBlur(GaussianBlur),
    RandomErasing(RandomErasing),
    RandAugment(RandAugment),
}

impl PipelineSpec {
    /// The pipeline.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for settings that make no sense.
    pub fn build(&self) -> Result<Pipeline> {
        let mut pipeline = Pipeline::new(self.transform.iter().map(TransformSpec::build).collect())?;
        if let Some(channels) = self.channels {
            pipeline = pipeline.with_channels(channels)?;
        }
        if let Some(NormalizeSpec { mean, std }) = &self.normalize {
            pipeline = pipeline.with_normalization(Normalization::new(mean.clone(), std.clone())?);
        }
        Ok(pipeline)
    }
}

impl TransformSpec {
    /// The transform.
    pub fn build(&self) -> Arc<dyn Transform> {
        match *self {
            Self::Resize(transform) => Arc::new(transform),
            Self::CenterCrop(transform) => Arc::new(transform),
            Self::RandomCrop(transform) => Arc::new(transform),
            Self::RandomResizedCrop(transform) => Arc::new(transform),
            Self::HorizontalFlip(transform) => Arc::new(transform),
            Self::VerticalFlip(transform) => Arc::new(transform),
            Self::ColorJitter(transform) => Arc::new(transform),
            Self::Grayscale(transform) => Arc::new(transform),
            Self::GaussianBlur(transform) => Arc::new(transform),
            Self::RandomErasing(transform) => Arc::new(transform),
            Self::RandAugment(transform) => Arc::new(transform),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: &str = r#"
channels = 3
transform = [
    { name = "resize", size = [40, 50], filter = "bicubic" },
    { name = "resize", size = 32 },
    { name = "center-crop", size = [30, 30] },
    { name = "random-crop", size = [28, 28], padding = 2 },
    { name = "random-resized-crop", size = [24, 24], scale = [0.5, 1.0] },
    { name = "horizontal-flip" },
    { name = "vertical-flip", p = 0.1 },
    { name = "color-jitter", hue = 0.2 },
    { name = "grayscale", p = 0.2 },
    { name = "gaussian-blur", size = 3 },
    { name = "random-erasing", fill = "noise" },
    { name = "random-erasing", fill = { value = 124 }, p = 1.0 },
    { name = "rand-augment", magnitude = 5 },
]

[normalize]
mean = [0.5, 0.5, 0.5]
std = [0.2, 0.2, 0.2]
"#;

    #[test]
    fn every_transform_has_a_name_and_survives_a_file() -> Result<()> {
        let spec: PipelineSpec = toml::from_str(EVERY).unwrap();
        let again: PipelineSpec = toml::from_str(&toml::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
        let item = crate::Item::Raw { pixels: vec![200; 300].into(), channels: 3, height: 10, width: 10 };
        let image = spec.build()?.apply(&item, &mut crate::transform::draw_rng(0, 0, 0, 0, 0))?;
        assert_eq!((image.height(), image.width()), (24, 24));
        Ok(())
    }

    #[test]
    fn what_is_misspelled_or_senseless_is_named() {
        let message = |text: &str| Pipeline::from_toml(text).unwrap_err().to_string();
        assert!(message("transform = [{ name = \"rotate\" }]").contains("unknown variant `rotate`"));
        assert!(message("transform = [{ name = \"resize\", sise = 3 }]").contains("unknown field `sise`"));
        assert!(message("transform = [{ name = \"resize\" }]").contains("missing field `size`"));
        assert!(message("transforms = []").contains("unknown field `transforms`"));
        assert_eq!(
            message("transform = [{ name = \"horizontal-flip\", p = 3.0 }]"),
            "HorizontalFlip: `p` is 3, expected a probability, 0 to 1"
        );
        assert_eq!(
            message("transform = [{ name = \"resize\", size = 0 }]"),
            "Resize: `size` is [0, 0], expected sides of 1 to 16384 pixels"
        );
        assert!(message("[normalize]\nmean = [0.5]\nstd = [0.0]").starts_with("Normalization::new: `std`"));
    }
}
