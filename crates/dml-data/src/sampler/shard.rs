//! The share of one process where several train together.

use super::Sampler;
use crate::{Error, Result};

/// What is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardOf {
    /// The images of each batch, in contiguous parts whose sizes differ by at most one: together the processes see
    /// the very batches of one process. Images of a class that stand side by side stay together where the parts are
    /// multiples of their number.
    Images,
    /// Whole batches in turn: process r takes batches r, r + n, …; those that do not go round are left out, so that
    /// all processes take equally many steps.
    Batches,
}

/// The share of process `rank` of `processes` in the batches of a sampler. All processes must give the sampler the
/// same seed.
#[derive(Debug, Clone)]
pub struct Shard<S> {
    sampler: S,
    of: ShardOf,
    rank: usize,
    processes: usize,
}

impl<S: Sampler> Shard<S> {
    /// The share of process `rank`, from 0.
    ///
    /// # Errors
    /// [`Error::Argument`] when `rank` is not below `processes`, or an epoch has too few images or batches for
    /// every process to get one.
    /// # Examples
    /// ```
    /// use dml_data::{Sampler, Sequential, Shard, ShardOf};
    /// let part = |rank| Shard::new(Sequential::new(&[0, 1, 2, 3, 4], 5)?, ShardOf::Images, rank, 2);
    /// assert_eq!(part(0)?.epoch(0), [[0, 1]]);
    /// assert_eq!(part(1)?.epoch(0), [[2, 3, 4]]);
    /// # Ok::<(), dml_data::Error>(())
    /// ```
    pub fn new(sampler: S, of: ShardOf, rank: usize, processes: usize) -> Result<Self> {
        let argument = |arg, got: String, expected: String| {
            Err(Error::Argument { op: "Shard::new", arg, got, expected })
        };
        if rank >= processes {
            let expected = format!("below {processes}, the number of processes");
            return argument("rank", rank.to_string(), expected);
        }
        let least = match of {
            ShardOf::Batches => sampler.batches_per_epoch(),
            ShardOf::Images => sampler.epoch(0).iter().map(Vec::len).min().unwrap_or(0),
        };
        if least < processes {
            let what =
                if of == ShardOf::Batches { "batches an epoch" } else { "images in the smallest batch" };
            return argument("processes", processes.to_string(), format!("at most {least}, the {what}"));
        }
        Ok(Self { sampler, of, rank, processes })
    }
}

impl<S: Sampler> Sampler for Shard<S> {
    fn batches_per_epoch(&self) -> usize {
        match self.of {
            ShardOf::Images => self.sampler.batches_per_epoch(),
            ShardOf::Batches => self.sampler.batches_per_epoch() / self.processes,
        }
    }

    fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let (rank, n) = (self.rank, self.processes);
        let batches = self.sampler.epoch(epoch);
        match self.of {
            ShardOf::Images => {
                let part =
                    |batch: &Vec<usize>| batch[batch.len() * rank / n..batch.len() * (rank + 1) / n].to_vec();
                batches.iter().map(part).collect()
            }
            ShardOf::Batches => {
                let whole = self.batches_per_epoch();
                batches.into_iter().skip(rank).step_by(n).take(whole).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Shuffled, Tail};
    use super::*;

    #[test]
    fn the_shares_make_up_the_whole() -> Result<()> {
        let all: Vec<usize> = (0..103).collect();
        let whole = Shuffled::new(&all, 10, Tail::Drop, 5)?;
        let shares = |of| -> Result<Vec<Vec<Vec<usize>>>> {
            (0..3).map(|rank| Ok(Shard::new(whole.clone(), of, rank, 3)?.epoch(2))).collect()
        };
        let images = shares(ShardOf::Images)?;
        let joined: Vec<Vec<usize>> =
            (0..10).map(|b| images.iter().flat_map(|share| share[b].clone()).collect()).collect();
        assert_eq!(joined, whole.epoch(2));
        let batches = shares(ShardOf::Batches)?;
        assert!(batches.iter().all(|share| share.len() == 3));
        let joined: Vec<Vec<usize>> = (0..9).map(|b| batches[b % 3][b / 3].clone()).collect();
        assert_eq!(joined, whole.epoch(2)[..9]);
        Ok(())
    }

    #[test]
    fn a_share_of_nothing_is_an_error() -> Result<()> {
        let small = || Shuffled::new(&[0, 1, 2, 3, 4], 2, Tail::Keep, 0);
        let message = |of, rank, n| Shard::new(small().unwrap(), of, rank, n).unwrap_err().to_string();
        assert_eq!(
            message(ShardOf::Images, 2, 2),
            "Shard::new: `rank` is 2, expected below 2, the number of processes"
        );
        assert_eq!(
            message(ShardOf::Images, 0, 2),
            "Shard::new: `processes` is 2, expected at most 1, the images in the smallest batch"
        );
        assert_eq!(
            message(ShardOf::Batches, 0, 4),
            "Shard::new: `processes` is 4, expected at most 3, the batches an epoch"
        );
        assert!(Shard::new(small()?, ShardOf::Batches, 0, 0).is_err());
        Ok(())
    }
}
