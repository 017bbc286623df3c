//! How well a clustering agrees with the classes: mutual information, normalised and adjusted for chance, purity.
//!
//! With n points, a_i points in class i, b_j in cluster j and n_ij in both,
//! MI = Σ_ij n_ij/n · ln(n·n_ij / (a_i·b_j)) and H(a) = −Σ_i a_i/n · ln(a_i/n).
//!
//! The scores depend on which points have the same class and which the same cluster, not on their names: `L` and `C` are
//! any integers, or strings, and need not be the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Error, Result};

/// How the points of two partitions coincide.
struct Contingency {
    n: usize,
    classes: Vec<usize>,               // a_i
    clusters: Vec<usize>,              // b_j
    cells: Vec<(usize, usize, usize)>, // (i, j, n_ij > 0), sorted
}

impl Contingency {
    fn new<L: Ord, C: Ord>(op: &'static str, labels: &[L], clusters: &[C]) -> Result<Self> {
        let n = labels.len();
        if n == 0 {
            let expected = "at least one".to_owned();
            return Err(Error::Length { op, arg: "labels", got: 0, expected });
        }
        if clusters.len() != n {
            let expected = format!("{n}, one for each label");
            return Err(Error::Length { op, arg: "clusters", got: clusters.len(), expected });
        }
        let (class_ids, cluster_ids) = (numbered(labels), numbered(clusters));
        let (mut a, mut b) = (vec![0; class_ids.len()], vec![0; cluster_ids.len()]);
        let mut cells: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (label, cluster) in labels.iter().zip(clusters) {
            let (i, j) = (class_ids[&label], cluster_ids[&cluster]);
            a[i] += 1;
            b[j] += 1;
            *cells.entry((i, j)).or_default() += 1;
        }
        let cells = cells.into_iter().map(|((i, j), count)| (i, j, count)).collect();
        Ok(Self { n, classes: a, clusters: b, cells })
    }

    /// Whether the two partitions are the same but for the names.
    fn identical(&self) -> bool {
        self.cells.len() == self.classes.len() && self.cells.len() == self.clusters.len()
    }

    fn mutual_information(&self) -> f64 {
        let n = self.n as f64;
        let term = |&(i, j, count): &(usize, usize, usize)| {
            let count = count as f64;
            count / n * (n * count / (self.classes[i] as f64 * self.clusters[j] as f64)).ln()
        };
        self.cells.iter().map(term).sum::<f64>().max(0.0)
    }

    /// The mean of the two entropies.
    fn mean_entropy(&self) -> f64 {
        let n = self.n as f64;
        let entropy = |sizes: &[usize]| -> f64 {
            sizes.iter().map(|&size| size as f64 / n).map(|share| -share * share.ln()).sum()
        };
        0.5 * (entropy(&self.classes) + entropy(&self.clusters))
    }

    /// E\[MI\] over random partitions with the same sizes (hypergeometric), Vinh et al. 2010, equation 24a.
    fn expected_mutual_information(&self) -> f64 {
        let ln_factorial = ln_factorials(self.n);
        let n = self.n;
        // Equal sizes give equal terms.
        let sizes = |all: &[usize]| {
            let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
            all.iter().for_each(|&size| *counts.entry(size).or_default() += 1.0);
            counts
        };
        let (classes, clusters) = (sizes(&self.classes), sizes(&self.clusters));
        let mut sum = 0.0;
        for (&a, &times_a) in &classes {
            for (&b, &times_b) in &clusters {
                let fixed = ln_factorial[a] + ln_factorial[b] + ln_factorial[n - a] + ln_factorial[n - b]
                    - ln_factorial[n];
                let mut pair = 0.0;
                for both in (a + b).saturating_sub(n).max(1)..=a.min(b) {
                    let probability = fixed
                        - ln_factorial[both]
                        - ln_factorial[a - both]
                        - ln_factorial[b - both]
                        - ln_factorial[n + both - a - b];
                    let count = both as f64;
                    let information = (n as f64 * count / (a as f64 * b as f64)).ln();
                    pair += count / n as f64 * information * probability.exp();
                }
                sum += times_a * times_b * pair;
            }
        }
        sum
    }
}

/// The different names, numbered from 0 in their order.
fn numbered<T: Ord>(names: &[T]) -> BTreeMap<&T, usize> {
    names.iter().collect::<BTreeSet<_>>().into_iter().zip(0..).collect()
}

/// ln 0!, ln 1!, …, ln n!, each sum carrying its rounding along (Kahan), so that their differences are good.
fn ln_factorials(n: usize) -> Vec<f64> {
    let (mut sum, mut lost) = (0.0, 0.0);
    let mut out = Vec::with_capacity(n + 1);
    out.push(0.0);
    for i in 1..=n {
        let term: f64 = (i as f64).ln() - lost;
        let next = sum + term;
        lost = (next - sum) - term;
        sum = next;
        out.push(sum);
    }
    out
}

/// NMI, mutual information over the mean of the entropies: 1 for the same partition, 0 for independent ones.
///
/// Identical partitions, also of a single class, have 1. It grows with the number of clusters; see [`ami`].
///
/// # Errors
/// [`Error::Length`] for empty lists or lists of different lengths.
/// # Source
/// Manning et al. 2008 \[manning2008\], section 16.3.
/// # Examples
/// ```
/// assert_eq!(dml_retrieval::nmi(&[0, 0, 1, 1], &[5, 5, 3, 3])?, 1.0);
/// assert_eq!(dml_retrieval::nmi(&[0, 0, 1, 1], &[0, 1, 0, 1])?, 0.0);
/// # Ok::<(), dml_retrieval::Error>(())
/// ```
pub fn nmi<L: Ord, C: Ord>(labels: &[L], clusters: &[C]) -> Result<f64> {
    let table = Contingency::new("nmi", labels, clusters)?;
    if table.identical() {
        return Ok(1.0);
    }
    // Different partitions cannot both have entropy 0.
    Ok((table.mutual_information() / table.mean_entropy()).min(1.0))
}

/// AMI, mutual information adjusted for chance: 1 for the same partition, 0 on average for random ones, whatever the
/// number of clusters; it may be negative.
///
/// AMI = (MI − E\[MI\]) / (mean entropy − E\[MI\]). Where MI is just what chance gives, as when one side is a single
/// class or has every point alone, it is 0.
///
/// # Errors
/// [`Error::Length`] for empty lists or lists of different lengths.
/// # Source
/// Vinh et al. 2010 \[vinh2010\], equation 24a, arithmetic mean.
/// # Examples
/// ```
/// assert_eq!(dml_retrieval::ami(&[0, 0, 1, 1], &[5, 5, 3, 3])?, 1.0);
/// assert!(dml_retrieval::ami(&[0, 0, 1, 1], &[0, 1, 0, 1])? < 0.0);
/// # Ok::<(), dml_retrieval::Error>(())
/// ```
pub fn ami<L: Ord, C: Ord>(labels: &[L], clusters: &[C]) -> Result<f64> {
    let table = Contingency::new("ami", labels, clusters)?;
    if table.identical() {
        return Ok(1.0);
    }
    let expected = table.expected_mutual_information();
    let (excess, possible) = (table.mutual_information() - expected, table.mean_entropy() - expected);
    // One class, or every point alone, on either side: MI is what chance gives, up to rounding.
    let noise = 1e-13 * (1.0 + expected);
    Ok(if excess.abs() <= noise { 0.0 } else { excess / possible.max(f64::EPSILON) })
}

/// Purity, the share of points that carry the most frequent label of their cluster.
///
/// # Errors
/// [`Error::Length`] for empty lists or lists of different lengths.
/// # Source
/// Manning et al. 2008 \[manning2008\], section 16.3.
/// # Examples
/// ```
/// assert_eq!(dml_retrieval::purity(&[0, 0, 1, 1], &[0, 0, 0, 1])?, 0.75);
/// # Ok::<(), dml_retrieval::Error>(())
/// ```
pub fn purity<L: Ord, C: Ord>(labels: &[L], clusters: &[C]) -> Result<f64> {
    let table = Contingency::new("purity", labels, clusters)?;
    let mut largest = vec![0; table.clusters.len()];
    for &(_, j, count) in &table.cells {
        largest[j] = largest[j].max(count);
    }
    Ok(largest.iter().sum::<usize>() as f64 / table.n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_class_and_points_alone() -> Result<()> {
        let (one, alone) = ([3, 3, 3, 3], [0, 1, 2, 3]);
        assert_eq!((nmi(&one, &one)?, ami(&one, &one)?, purity(&one, &one)?), (1.0, 1.0, 1.0));
        assert_eq!((nmi(&alone, &alone)?, ami(&alone, &alone)?), (1.0, 1.0));
        assert_eq!((nmi(&one, &alone)?, ami(&one, &alone)?, purity(&one, &alone)?), (0.0, 0.0, 1.0));
        assert_eq!(ami(&[0, 0, 1, 1], &alone)?, 0.0);
        assert_eq!(nmi(&[9], &[4])?, 1.0);
        let (classes, clusters) = ([-5i64, -5, i64::MAX], ["b", "b", "a"]);
        assert_eq!(nmi(&classes, &clusters)?, 1.0);
        Ok(())
    }

    #[test]
    fn expected_information_is_the_mean_over_all_arrangements() -> Result<()> {
        let labels = [0, 0, 0, 1, 1, 2];
        let mut clusters = [0, 0, 1, 1, 2, 2];
        let expected = Contingency::new("ami", &labels, &clusters)?.expected_mutual_information();
        // Heap's algorithm over all 720 arrangements.
        let (mut sum, mut count, mut state, mut i) = (0.0, 0.0, [0usize; 6], 0);
        let mut add = |clusters: &[i32]| -> Result<()> {
            sum += Contingency::new("ami", &labels, clusters)?.mutual_information();
            count += 1.0;
            Ok(())
        };
        add(&clusters)?;
        while i < 6 {
            if state[i] < i {
                clusters.swap(if i % 2 == 0 { 0 } else { state[i] }, i);
                add(&clusters)?;
                state[i] += 1;
                i = 0;
            } else {
                state[i] = 0;
                i += 1;
            }
        }
        assert_eq!(count, 720.0);
        assert!((sum / count - expected).abs() < 1e-12, "{} {expected}", sum / count);
        Ok(())
    }

    #[test]
    fn lists_that_do_not_fit_are_errors() {
        assert_eq!(
            nmi::<i64, u32>(&[], &[]).unwrap_err().to_string(),
            "nmi: `labels` has 0 entries, expected at least one"
        );
        assert_eq!(
            purity(&[1, 2], &[1]).unwrap_err().to_string(),
            "purity: `clusters` has 1 entries, expected 2, one for each label"
        );
    }
}
