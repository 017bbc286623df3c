//! A run of metric learning, as every suite makes it: train, embed the test images, score them twice.

use candle_core::DType;

use super::{Record, pca};
use crate::task::{Images, MetricConfig, MetricTask, Scores, evaluate, evaluate_euclidean};
use crate::{Method, Result, TrainConfig, Watch, train};

/// The methods of the metric learning comparison, the baseline first.
pub(super) const METHODS: [Method; 5] = [
    Method::Euclidean,
    Method::DeepMahalanobis,
    Method::MaxAffine,
    Method::DeepDivergence,
    Method::EmpiricalBregman,
];

/// The protocols: the folder, and how it is called.
pub(super) const PROTOCOLS: [(&str, &str); 2] = [("closed-set", "closed set"), ("zero-shot", "zero-shot")];

/// The images that are retrieved among one another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Test<'a> {
    pub images: &'a Images,
    pub indices: &'a [usize],
}

/// Trains and records: losses; scores under D_φ as `own.*`, of the same embeddings under the Euclidean distance as
/// `euclidean.*`, for the Euclidean method those before training as `untrained.*`; for seed 0 the test embeddings'
/// first two principal components.
pub(super) fn measure(
    task: &MetricTask,
    training: &TrainConfig,
    test: Test<'_>,
    problem: &MetricConfig,
    watch: &Watch<'_>,
) -> Result<Record> {
    let labels = test.images.source.labels();
    let labels: Vec<i64> = test.indices.iter().map(|&i| labels[i]).collect();
    let mut record = Record::default();
    let mut note = |name: &str, scores: Scores| {
        let Scores { map_at_r, precision_at_1, recall } = scores;
        let values = [("map_at_r", map_at_r), ("precision_at_1", precision_at_1)];
        let recalls = ["recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8"].into_iter().zip(recall);
        for (metric, value) in values.into_iter().chain(recalls) {
            record.values.insert(format!("{name}.{metric}"), value);
        }
    };
    let embed = || task.embed_images(test.images, test.indices);
    if problem.method == Method::Euclidean {
        // All methods begin with the same encoder. A run that resumes is untrained here too: `train` reads its
        // checkpoint.
        note("untrained", evaluate_euclidean(&embed()?, &labels)?);
    }
    let losses = train(task, training, watch)?;
    let embeddings = embed()?;
    let own = evaluate(task.generator().as_ref(), &embeddings, &labels)?;
    note("own", own);
    // The Euclidean method's own divergence is the Euclidean distance.
    let euclidean = problem.method == Method::Euclidean;
    note("euclidean", if euclidean { own } else { evaluate_euclidean(&embeddings, &labels)? });
    record.losses = losses;
    if problem.seed == 0 {
        let d = embeddings.dim(1)?;
        let values = embeddings.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let plane = pca::project(&values, d);
        record.arrays.insert("plane".to_owned(), plane.into_iter().flatten().collect());
        record.arrays.insert("labels".to_owned(), labels.into_iter().map(|label| label as f64).collect());
    }
    Ok(record)
}
