//! What 60,000 digits cost: their bytes, and a few batches; what a folder of pictures costs: their names.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::{Arc, Mutex, PoisonError};

use dml_data::transform::Pipeline;
use dml_data::{Batches, FileSet, ImageSet, Loader, LoaderConfig, Result, Shuffled, Source, Tail};

/// One test at a time: both look at the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// The resident set of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim_end().parse::<u64>().unwrap() * 1024
}

#[test]
fn sixty_thousand_digits_cost_at_most_sixty_megabytes() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let n = 60_000;
    let before = resident();
    let pixels: Vec<u8> = (0..n * 784).map(|i| (i % 251) as u8 | 1).collect(); // no page of zeros
    let labels = (0..n).map(|i| (i % 10) as i64).collect();
    let names = (0..10).map(|c| c.to_string()).collect();
    let set = Arc::new(ImageSet::new(pixels, [1, 28, 28], labels, names)?);
    let all: Vec<usize> = (0..n).collect();
    let batches = Batches::new(Shuffled::new(&all, 100, Tail::Drop, 0)?);
    let config = LoaderConfig { batches: Some(600), ..Default::default() };
    let mut largest = 0;
    for batch in Loader::new(set.clone(), batches, Pipeline::from(set.as_ref()), config)? {
        assert_eq!(batch?.images.dims(), [100, 1, 28, 28]);
        largest = largest.max(resident());
    }
    let cost = (largest - before) / 1_000_000;
    assert!(cost <= 60, "{cost} MB");
    assert!(cost >= 47, "{cost} MB: the pixels alone are 47");
    Ok(())
}

#[test]
fn a_folder_of_pictures_costs_their_names_until_one_is_asked_for() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // One file of 1 MB under 2,000 names.
    let (folder, size) = (tempfile::tempdir().unwrap(), 1_000_000);
    let file = folder.path().join("one");
    std::fs::write(&file, vec![7; size]).unwrap();
    for class in 0..20 {
        let class = folder.path().join(format!("class-{class}"));
        std::fs::create_dir(&class).unwrap();
        (0..100).for_each(|i| std::fs::hard_link(&file, class.join(format!("{i}.jpg"))).unwrap());
    }
    let before = resident();
    let set = FileSet::image_folder(folder.path())?;
    let cost = resident().saturating_sub(before) / 1_000_000;
    assert!(set.len() == 2000 && cost <= 10, "{cost} MB, where the files have {} MB", set.len());
    let dml_data::Item::Encoded { bytes, .. } = set.item(1999)? else { return Ok(()) };
    assert_eq!(bytes.len(), size);
    Ok(())
}
