//! Which images each batch holds, and what makes their draws unique.

use std::collections::HashMap;

use crate::{Batches, Sampler, SamplerState};

/// A batch to make.
#[derive(Debug)]
pub(super) struct Job {
    /// Its number since the loader began, from 0.
    pub number: u64,
    /// Its epoch.
    pub epoch: u64,
    /// The images.
    pub indices: Vec<usize>,
    /// How often the epoch dealt each image before; empty where nothing is random.
    pub repeats: Vec<u32>,
    /// The batch that follows.
    pub after: SamplerState,
}

/// The sequence of batches to make.
#[derive(Debug)]
pub(super) struct Plan {
    batches: Batches<Box<dyn Sampler>>,
    /// How often the epoch dealt each image until now, where that matters.
    dealt: Option<HashMap<usize, u32>>,
    number: u64,
    limit: Option<u64>,
}

impl Plan {
    pub fn new<S: Sampler + 'static>(batches: Batches<S>, random: bool, limit: Option<u64>) -> Self {
        let batches = batches.boxed();
        let mut plan = Self { batches, dealt: random.then(HashMap::new), number: 0, limit };
        let SamplerState { epoch, batch } = plan.batches.state();
        if random && batch > 0 {
            // Resumed in mid-epoch: what was dealt before the interruption counts.
            for indices in plan.batches.sampler().epoch(epoch).iter().take(batch) {
                plan.count(indices);
            }
        }
        plan
    }

    /// The batches planned until now.
    pub fn planned(&self) -> u64 {
        self.number
    }

    /// Ends the plan because its sampler failed; the number of the batch that tells so.
    pub fn abandon(&mut self) -> u64 {
        self.number += 1;
        self.limit = Some(self.number);
        self.number - 1
    }

    pub fn next(&mut self) -> Option<Job> {
        if self.limit.is_some_and(|limit| self.number >= limit) {
            return None;
        }
        let SamplerState { epoch, batch } = self.batches.state();
        if batch == 0
            && let Some(dealt) = &mut self.dealt
        {
            dealt.clear();
        }
        let Some(indices) = self.batches.next() else {
            self.limit = Some(self.number);
            return None;
        };
        let repeats = self.count(&indices);
        let number = self.number;
        self.number += 1;
        Some(Job { number, epoch, indices, repeats, after: self.batches.state() })
    }

    fn count(&mut self, indices: &[usize]) -> Vec<u32> {
        let Some(dealt) = &mut self.dealt else { return Vec::new() };
        let count = |index: &usize| {
            let times = dealt.entry(*index).or_insert(0);
            *times += 1;
            *times - 1
        };
        indices.iter().map(count).collect()
    }
}
