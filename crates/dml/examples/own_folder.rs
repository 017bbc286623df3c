//! Your own pictures: a folder with a folder for each class in, a learned divergence out.
//!
//! `cargo run -p dml --example own_folder -- FOLDER` trains on the JPEG and PNG files in `FOLDER/CLASS/`. Without an
//! argument it makes such a folder of bundled digits.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use dml::task::{Images, MetricConfig, MetricTask, Scores, evaluate};
use dml::{Method, SmallConvConfig, TrainConfig, Watch, train};
use dml_data::transform::Pipeline;
use dml_data::{FileSet, ImageSet, Source, TrainSize, split};

/// What may go wrong is told by whoever met it.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TRAINING: &str = r#"
transform = [
    { name = "random-resized-crop", size = [32, 32], scale = [0.6, 1.0] },
    { name = "color-jitter" },
]
"#;
const EVALUATION: &str = r#"transform = [{ name = "resize", size = [32, 32] }]"#;

/// Trains on four fifths of the pictures of each class, and retrieves among the others.
pub fn learn(folder: &Path, steps: usize) -> Outcome<Scores> {
    let set = Arc::new(FileSet::image_folder(folder)?);
    let split = split::closed_set(set.labels(), TrainSize::Fraction(0.8), 0)?;
    let (training, evaluation) = (Pipeline::from_toml(TRAINING)?, Pipeline::from_toml(EVALUATION)?);
    let images = Images { source: set.clone(), training, evaluation, workers: 2 };
    let (method, encoder) = (Method::EmpiricalBregman, SmallConvConfig::default());
    let config = MetricConfig { method, encoder, classes: 2, per_class: 8, seed: 0 };
    let task = MetricTask::with_images(images, &split.train, &config, &Device::Cpu)?;
    train(&task, &TrainConfig { steps, ..Default::default() }, &Watch::default())?;
    let labels: Vec<i64> = split.test.iter().map(|&i| set.labels()[i]).collect();
    Ok(evaluate(task.generator().as_ref(), &task.embed(&split.test)?, &labels)?)
}

/// Writes every `skip`-th digit as `FOLDER/CLASS/NUMBER.png`.
pub fn make_folder(digits: &ImageSet, skip: usize, folder: &Path) -> Outcome<()> {
    let [_, height, width] = digits.shape();
    for (i, &label) in digits.labels().iter().enumerate().step_by(skip) {
        let class = folder.join(&digits.class_names()[label as usize]);
        std::fs::create_dir_all(&class)?;
        let pixels = digits.image(i).unwrap_or_default();
        let (w, h) = (width as u32, height as u32);
        image::save_buffer(class.join(format!("{i:04}.png")), pixels, w, h, image::ExtendedColorType::L8)?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    dml_kernels::settle_threads();
    let scores = match std::env::args_os().nth(1) {
        Some(folder) => learn(Path::new(&folder), 200)?,
        None => {
            let folder = tempfile::tempdir()?;
            make_folder(&dml_data::bundled::mnist_5k()?, 10, folder.path())?;
            learn(folder.path(), 100)?
        }
    };
    println!("MAP@R {:.3}, P@1 {:.3}", scores.map_at_r, scores.precision_at_1);
    Ok(())
}
