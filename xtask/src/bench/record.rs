//! What a run of the benchmark leaves: agreement, times, ratios, peaks of memory; as lines and as JSON.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use serde::Serialize;

/// The largest relative difference at which two results are the same.
pub const TOLERANCE: f64 = 1e-4;

/// A run.
#[derive(Debug, Serialize)]
pub struct Record {
    /// The command line.
    pub command: String,
    /// The commit, where git tells.
    pub commit: Option<String>,
    /// The model of the processor, where the system tells.
    pub cpu: Option<String>,
    /// Threads of each side.
    pub threads: usize,
    /// The mean number of busy processes of the last minute, at the beginning, where the system tells.
    pub load: Option<f64>,
    /// The cases.
    pub cases: Vec<Measured>,
}

/// A case.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// The id.
    pub id: String,
    /// Why nothing was timed, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The largest relative difference of the results, with a peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
    /// Our times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours: Option<Times>,
    /// The peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theirs: Option<Times>,
    /// Their median by ours: above 1 we are faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// Times of one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Times {
    /// The median of the repetitions, seconds of one pass.
    pub median_s: f64,
    /// The fastest.
    pub min_s: f64,
    /// The slowest.
    pub max_s: f64,
    /// The number of repetitions.
    pub repetitions: usize,
    /// The largest resident set of the process.
    pub peak_bytes: Option<u64>,
}

impl Times {
    /// Of at least one repetition.
    pub fn of(mut seconds: Vec<f64>, peak_bytes: Option<u64>) -> Option<Self> {
        seconds.sort_by(f64::total_cmp);
        let (&min_s, &max_s) = (seconds.first()?, seconds.last()?);
        let (below, above) = (seconds[(seconds.len() - 1) / 2], seconds[seconds.len() / 2]);
        let median_s = 0.5 * (below + above);
        Some(Self { median_s, min_s, max_s, repetitions: seconds.len(), peak_bytes })
    }

    fn line(&self) -> String {
        let Self { median_s, min_s, max_s, .. } = *self;
        format!("{} ({}–{})", seconds(median_s), seconds(min_s), seconds(max_s))
    }
}

impl Measured {
    /// A case that was not timed.
    pub fn failure(id: &str, why: String) -> Self {
        let id = id.to_owned();
        Self { id, failed: Some(why), difference: None, ours: None, theirs: None, ratio: None }
    }

    /// A line of the table.
    pub fn line(&self) -> String {
        let times = |times: &Option<Times>| times.as_ref().map_or_else(|| "–".to_owned(), Times::line);
        if let Some(why) = &self.failed {
            return format!("{:<58} not timed: {why}", self.id);
        }
        let mib = |times: &Option<Times>| {
            let peak = times.as_ref().and_then(|times| times.peak_bytes);
            peak.map_or_else(|| "–".to_owned(), |bytes| (bytes >> 20).to_string())
        };
        let ratio = self.ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        let (ours, theirs) = (times(&self.ours), times(&self.theirs));
        format!(
            "{:<58} {ours:<28} {theirs:<28} {ratio:>7} {:>6} {:>6}",
            self.id,
            mib(&self.ours),
            mib(&self.theirs)
        )
    }
}

/// The head of the table.
pub fn head() -> String {
    format!(
        "{:<58} {:<28} {:<28} {:>7} {:>6} {:>6}",
        "case", "ours (min–max)", "theirs (min–max)", "ratio", "MiB", "MiB"
    )
}

fn seconds(s: f64) -> String {
    match s {
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// The largest relative difference ‖a − b‖ / ‖b‖ of what both sides gave; where the peer's is absent, ours must be 0.
///
/// # Errors
/// Names the first result that differs by more than `tolerance`, or that we lack.
pub fn agreement(
    ours: &HashMap<String, Tensor>,
    theirs: &HashMap<String, Tensor>,
    tolerance: f64,
) -> anyhow::Result<f64> {
    let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    names.sort();
    names.dedup();
    let mut largest = 0.0f64;
    for name in names {
        let Some(a) = ours.get(name) else { anyhow::bail!("we have no `{name}`, the peer has") };
        let a = a.to_dtype(DType::F64)?;
        let b = theirs.get(name).map_or_else(|| a.zeros_like(), |b| b.to_dtype(DType::F64))?;
        anyhow::ensure!(a.dims() == b.dims(), "`{name}` has shape {:?}, the peer's {:?}", a.dims(), b.dims());
        let norm = |t: &Tensor| t.sqr()?.sum_all()?.to_scalar::<f64>().map(f64::sqrt);
        let (gap, size) = (norm(&(&a - &b)?)?, norm(&b)?);
        let relative = if gap == 0.0 { 0.0 } else { gap / size };
        anyhow::ensure!(relative <= tolerance, "`{name}` differs by {relative:.1e} of its norm {size:.3e}");
        largest = largest.max(relative);
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(Times::of(Vec::new(), None), None);
        assert_eq!(Times::of(vec![3.0, 1.0, 2.0], None).map(|t| t.median_s), Some(2.0));
        assert_eq!(Times::of(vec![4.0, 1.0, 2.0, 3.0], None).map(|t| t.median_s), Some(2.5));
    }

    #[test]
    fn disagreement_is_named() -> anyhow::Result<()> {
        let tensors = |entries: &[(&str, &[f32])]| -> anyhow::Result<HashMap<String, Tensor>> {
            let entry =
                |(name, values): &(&str, &[f32])| Ok((name.to_string(), Tensor::new(*values, &Device::Cpu)?));
            entries.iter().map(entry).collect()
        };
        let ours = tensors(&[("value", &[1.0]), ("grad.x", &[3.0, 4.0]), ("grad.offset", &[0.0])])?;
        let same = tensors(&[("value", &[1.0]), ("grad.x", &[3.0, 4.0])])?;
        assert_eq!(agreement(&ours, &same, TOLERANCE)?, 0.0);
        let other = tensors(&[("value", &[1.0]), ("grad.x", &[3.0, 5.0])])?;
        let message = agreement(&ours, &other, TOLERANCE).unwrap_err().to_string();
        assert_eq!(message, "`grad.x` differs by 1.7e-1 of its norm 5.831e0");
        let message = agreement(&same, &ours, TOLERANCE).unwrap_err().to_string();
        assert_eq!(message, "we have no `grad.offset`, the peer has");
        let nan = tensors(&[("value", &[f32::NAN]), ("grad.x", &[3.0, 4.0])])?;
        assert!(agreement(&nan, &nan, TOLERANCE).is_err());
        Ok(())
    }
}
