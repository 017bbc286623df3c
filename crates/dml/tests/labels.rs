//! The labels of a data set go into a loss, a ranking and clustering scores as they are.

use std::sync::Arc;

use bregman::Side;
use candle_core::{DType, Device};
use dml_data::{Batches, Loader, LoaderConfig, Shuffled, Tail, bundled, transform::Pipeline};
use dml_loss::{Batch, BregmanDistance, Objective, SupCon, Temperature};
use dml_retrieval::{Depth, Divergence, Gallery, Metric, nmi, rank};
use phi::SquaredEuclidean;

#[test]
fn no_label_is_converted_on_its_way() -> Result<(), Box<dyn std::error::Error>> {
    let digits = Arc::new(bundled::mnist_5k()?);
    let batches = Batches::new(Shuffled::new(&[0, 1, 500, 501, 2500, 2501], 6, Tail::Keep, 0)?);
    let pipeline = Pipeline::from(digits.as_ref());
    let mut loader = Loader::new(digits.clone(), batches, pipeline, LoaderConfig::default())?;
    let batch = loader.next().ok_or("a batch")??;
    let labels: Vec<i64> = batch.labels.to_vec1()?;
    assert_eq!(labels, batch.indices.iter().map(|&i| digits.labels()[i]).collect::<Vec<_>>());

    let x = batch.images.flatten_from(1)?;
    let distance = Arc::new(BregmanDistance::new(Arc::new(SquaredEuclidean), Side::First));
    let temperature = Temperature::learned(0.1, DType::F32, &Device::Cpu)?;
    Objective::new(Arc::new(SupCon { distance, temperature })).forward(&Batch::new(&x, &labels)?)?;
    let scorer = Divergence::new(&SquaredEuclidean, Side::First, &x, &x)?;
    let ranking = rank(&scorer, &labels, &labels, Gallery::IncludesQueries, Depth::All)?;
    assert_eq!(ranking.mean(Metric::RecallAt(100))?, 1.0);
    let (clusters, _) = bregman::cluster::assign(&SquaredEuclidean, &x, &x)?;
    assert!(nmi(&labels, &clusters)? > 0.0);
    Ok(())
}
