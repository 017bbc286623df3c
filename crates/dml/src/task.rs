//! Learning problems: what is drawn in each step, and what is minimized.

mod directed;
mod histograms;
mod metric;

pub use directed::{DirectedConfig, DirectedTask, Embedding};
pub use histograms::{Hidden, Histograms, Pairs, Sample};
pub use metric::{Images, MetricConfig, MetricTask, Scores, evaluate, evaluate_euclidean};
