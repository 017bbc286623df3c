//! The report of the quick suite.

use std::time::Duration;

use dml_data::ImageSet;

use super::Finished;
use super::quick::QuickConfig;
use crate::Result;
use crate::report::Report;

pub(super) fn build(
    _config: &QuickConfig,
    _digits: &ImageSet,
    runs: &[Finished],
    _workers: usize,
    _elapsed: Duration,
    _command: &str,
) -> Result<Report> {
    let mut groups: std::collections::BTreeMap<String, Vec<f64>> = Default::default();
    for run in runs {
        for (name, value) in &run.record.values {
            let key = format!("{} {}", run.id.rsplit_once('/').map_or("", |p| p.0), name);
            groups.entry(key).or_default().push(*value);
        }
    }
    for (key, values) in groups {
        if let Ok(interval) = dml_retrieval::mean_interval(&values, 0.95) {
            eprintln!("{key}: {interval}");
        }
    }
    Ok(Report { title: "quick".into(), intro: Vec::new(), sections: Vec::new() })
}
