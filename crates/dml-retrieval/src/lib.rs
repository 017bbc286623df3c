//! Exact nearest neighbours under any divergence, and the metrics that retrieval and clustering are judged by.
//!
//! Scores come from a [`Scorer`]: a [`Divergence`] between embeddings, with the query on a side the caller names, or
//! a ready [`Matrix`]. From it follow the [`k_nearest`] items, the [`Ranking`] of a labelled gallery, and the
//! [`Matching`] of queries with their own items. Equal scores are ordered by the smaller index, everywhere; a NaN
//! is an error that names query and item.
//!
//! **Convention:** [`bregman::Side::First`] means D(query ‖ item), as the docs of [`bregman`] have it. The two sides
//! are two different searches.
//!
//! ```
//! use bregman::Side;
//! use candle_core::{Device, Tensor};
//! use dml_retrieval::{Depth, Divergence, Gallery, Metric, k_nearest, mean_interval, rank};
//! use phi::SquaredEuclidean;
//!
//! let x = Tensor::new(&[[0f32, 0.], [1., 0.], [5., 5.], [5., 6.]], &Device::Cpu)?;
//! let labels = [0, 0, 1, 1];
//! let scorer = Divergence::new(&SquaredEuclidean, Side::First, &x, &x)?;
//!
//! let neighbors = k_nearest(&scorer, 1, Gallery::IncludesQueries)?;
//! assert_eq!(neighbors.indices(3), [2]);
//!
//! let ranking = rank(&scorer, &labels, &labels, Gallery::IncludesQueries, Depth::All)?;
//! assert_eq!(ranking.mean(Metric::MeanAveragePrecisionAtR)?, 1.0);
//!
//! // Over seeds: the mean with its 95 % interval.
//! println!("MAP@R {}", mean_interval(&[0.671, 0.665, 0.680], 0.95)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clustering;
mod error;
mod exact;
mod interval;
mod matching;
mod ranking;
mod scorer;

pub use clustering::{ami, nmi, purity};
pub use error::{Error, Result};
pub use exact::{Neighbors, k_nearest};
pub use interval::{Interval, mean_interval, paired_difference, student_t_quantile};
pub use matching::{Matching, match_items};
pub use ranking::{Depth, Metric, QueryRanking, Ranking, rank};
pub use scorer::{Closer, Divergence, Gallery, Matrix, Scorer};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
