//! Several views of each image, for training without labels.

use super::Pipeline;
use crate::{Error, Result};

/// One or more pipelines that each image passes through, with draws of their own.
///
/// A batch of b images with v views has v·b rows: the first views of all images, then the second ones. Rows i and
/// b + i show the same image, as the losses of self-supervised training want it (Chen et al. 2020 \[chen2020\]).
///
/// # Examples
/// ```
/// use dml_data::transform::{Pipeline, Views};
/// let strong = Pipeline::from_toml("[[transform]]\nname = \"rand-augment\"")?;
/// assert_eq!(Views::two(strong.clone(), strong).len(), 2);
/// assert_eq!(Views::from(Pipeline::default()).len(), 1);
/// # Ok::<(), dml_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Views(Vec<Pipeline>);

impl Views {
    /// A view for each pipeline.
    ///
    /// # Errors
    /// [`Error::Argument`] for none.
    pub fn new(pipelines: Vec<Pipeline>) -> Result<Self> {
        if pipelines.is_empty() {
            let (got, expected) = ("empty".to_owned(), "at least one pipeline".to_owned());
            return Err(Error::Argument { op: "Views::new", arg: "pipelines", got, expected });
        }
        Ok(Self(pipelines))
    }

    /// Two views, which may be of the same pipeline: their draws differ all the same.
    pub fn two(first: Pipeline, second: Pipeline) -> Self {
        Self(vec![first, second])
    }

    /// How many views, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "there is at least one view")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The pipelines.
    pub fn pipelines(&self) -> &[Pipeline] {
        &self.0
    }
}

impl From<Pipeline> for Views {
    fn from(pipeline: Pipeline) -> Self {
        Self(vec![pipeline])
    }
}
