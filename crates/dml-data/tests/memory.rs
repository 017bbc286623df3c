//! What 60,000 digits cost: their bytes, and a few batches.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use dml_data::transform::Pipeline;
use dml_data::{Batches, ImageSet, Loader, LoaderConfig, Result, Shuffled, Tail};

/// The resident set of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim_end().parse::<u64>().unwrap() * 1024
}

#[test]
fn sixty_thousand_digits_cost_at_most_sixty_megabytes() -> Result<()> {
    let n = 60_000;
    let before = resident();
    let pixels: Vec<u8> = (0..n * 784).map(|i| (i % 251) as u8 | 1).collect(); // no page of zeros
    let labels = (0..n).map(|i| (i % 10) as u32).collect();
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
