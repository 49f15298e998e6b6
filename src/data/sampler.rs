//! The order of the examples: deterministic, endless over epochs, resumable and sharded by rank.

use serde::{Deserialize, Serialize};

use super::shuffle::permutation;
use crate::error::{Error, Result};

/// Number of batches that are sorted by length together, as in transformers' `LengthGroupedSampler`.
const BATCHES_PER_RUN: usize = 50;

/// The position of a [`Sampler`], which is all a checkpoint needs to store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerState {
    /// The number of completed epochs.
    pub epoch: u64,
    /// The number of examples of the current epoch already returned by all ranks together; always below the number of
    /// examples.
    pub position: usize,
}

/// Returns batches of example indices, epoch after epoch.
///
/// All ranks walk the same order. Rank r takes the r-th share of each global batch (`batch · world` indices, fewer at
/// the end of an epoch). So n ranks with batch b together see what one rank with batch n·b sees.
#[derive(Clone, Debug)]
pub struct Sampler {
    len: usize,
    batch: usize,
    /// The shuffle seed; `None` keeps the file order.
    seed: Option<u64>,
    /// The number of tokens of each example, if examples are grouped by length.
    lengths: Option<Vec<usize>>,
    rank: usize,
    world: usize,
    state: SamplerState,
    /// The order of the current epoch, derived from `seed` and `state.epoch`.
    order: Vec<usize>,
}

impl Sampler {
    /// Creates a sampler over `len` examples in batches of `batch`, shuffled by `seed` (`None`: never shuffled).
    ///
    /// # Errors
    /// Fails if there are no examples or the batch size is zero.
    pub fn new(len: usize, batch: usize, seed: Option<u64>) -> Result<Self> {
        if len == 0 {
            return Err(Error::Data("there are no examples to sample from".into()));
        }
        if batch == 0 {
            return Err(Error::Config(
                "train.per_device_train_batch_size is 0; it must be at least 1".into(),
            ));
        }
        let state = SamplerState::default();
        let fresh = Self { len, batch, seed, lengths: None, rank: 0, world: 1, state, order: Vec::new() };
        Ok(Self { order: fresh.order(0), ..fresh })
    }

    /// Groups examples of similar length, as transformers' `group_by_length` does. The epoch's order is cut into runs
    /// of fifty batches, and each run is sorted from the longest to the shortest. The longest example of all comes
    /// first, so that running out of memory shows up immediately.
    pub fn grouped_by_length(self, lengths: Vec<usize>) -> Self {
        let grouped = Self { lengths: Some(lengths), ..self };
        Self { order: grouped.order(grouped.state.epoch), ..grouped }
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order = match self.seed {
            Some(seed) => permutation("training order", seed, epoch, self.len),
            None => (0..self.len).collect(),
        };
        let Some(lengths) = &self.lengths else { return order };
        let length = |i: &usize| lengths.get(*i).copied().unwrap_or(0);
        let run = self.batch.saturating_mul(self.world).saturating_mul(BATCHES_PER_RUN);
        for run in order.chunks_mut(run) {
            run.sort_by_key(|i| std::cmp::Reverse(length(i)));
        }
        let longest = (0..order.len()).max_by_key(|at| (length(&order[*at]), std::cmp::Reverse(*at)));
        if let Some(longest) = longest {
            order.swap(0, longest);
        }
        order
    }

    /// Restricts the sampler to the share of `rank` among `world` processes.
    ///
    /// # Errors
    /// Fails if `rank` is not below `world`.
    pub fn shard(self, rank: usize, world: usize) -> Result<Self> {
        if rank >= world {
            return Err(Error::Config(format!("rank {rank} of a world of {world}; ranks count from 0")));
        }
        let sharded = Self { rank, world, ..self };
        Ok(Self { order: sharded.order(sharded.state.epoch), ..sharded })
    }

    /// Continues from `state`, as if the batches before it had just been returned.
    ///
    /// # Errors
    /// Fails if the state is beyond the number of examples, that is, if the data changed.
    pub fn resume(mut self, state: SamplerState) -> Result<Self> {
        if state.position >= self.len {
            return Err(Error::Data(format!(
                "the checkpoint stands at example {} of its epoch but the data has {} now; resume with the data it was \
                 started with",
                state.position, self.len
            )));
        }
        self.order = self.order(state.epoch);
        self.state = state;
        Ok(self)
    }

    /// Returns the batches of the next step: `count` of them, fewer at the end of an epoch, which a step does not cross.
    pub fn next_step(&mut self, count: usize) -> Vec<Vec<usize>> {
        let mut batches = Vec::new();
        for _ in 0..count.max(1) {
            batches.push(self.next_batch());
            if self.at_epoch_border() {
                break;
            }
        }
        batches
    }

    /// Returns the next indices of this rank. There are fewer than `batch` only at the end of an epoch; with several
    /// ranks there may be none.
    pub fn next_batch(&mut self) -> Vec<usize> {
        let rest = &self.order[self.state.position..];
        // The only place that decides the size of a batch; a token budget would be applied to `rest` here.
        let global = rest.len().min(self.batch.saturating_mul(self.world));
        let share = global * self.rank / self.world..global * (self.rank + 1) / self.world;
        let indices = rest[share].to_vec();
        self.state.position += global;
        if self.state.position == self.len {
            self.state = SamplerState { epoch: self.state.epoch + 1, position: 0 };
            self.order = self.order(self.state.epoch);
        }
        indices
    }

    /// Returns the position of the sampler, for a checkpoint.
    pub fn state(&self) -> SamplerState {
        self.state
    }

    /// Returns the fractional number of epochs so far, logged as `epoch` in the metrics.
    pub fn epoch(&self) -> f64 {
        self.state.epoch as f64 + self.state.position as f64 / self.len as f64
    }

    /// Whether the last batch was the last of its epoch. Also true before the first batch.
    pub fn at_epoch_border(&self) -> bool {
        self.state.position == 0
    }

    /// Returns the number of batches per epoch for each rank; the last one may be partial.
    pub fn batches_per_epoch(&self) -> usize {
        self.len.div_ceil(self.batch.saturating_mul(self.world))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch_of(sampler: &mut Sampler) -> Vec<Vec<usize>> {
        (0..sampler.batches_per_epoch()).map(|_| sampler.next_batch()).collect()
    }

    #[test]
    fn every_index_once_an_epoch_and_another_order_each() {
        let mut sampler = Sampler::new(10, 4, Some(3)).unwrap();
        let (first, second) = (epoch_of(&mut sampler), epoch_of(&mut sampler));
        for epoch in [&first, &second] {
            assert_eq!(
                epoch.iter().map(Vec::len).collect::<Vec<_>>(),
                [4, 4, 2],
                "the last partial batch is kept"
            );
            let mut all = epoch.concat();
            all.sort_unstable();
            assert_eq!(all, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
        assert_eq!(sampler.state(), SamplerState { epoch: 2, position: 0 });
    }

    #[test]
    fn unshuffled_is_the_order_of_the_file() {
        let mut sampler = Sampler::new(3, 2, None).unwrap();
        let batches: Vec<_> = (0..4).map(|_| sampler.next_batch()).collect();
        assert_eq!(batches, [vec![0, 1], vec![2], vec![0, 1], vec![2]]);
    }

    #[test]
    fn grouping_sorts_runs_of_batches_and_keeps_every_index() {
        let lengths: Vec<usize> = (0..250).map(|i| (i * 37) % 101).collect();
        let mut sampler = Sampler::new(250, 2, Some(3)).unwrap().grouped_by_length(lengths.clone());
        let first = epoch_of(&mut sampler).concat();
        let of = |indices: &[usize]| indices.iter().map(|i| lengths[*i]).collect::<Vec<_>>();
        assert_eq!(lengths[first[0]], 100, "the longest of all comes first");
        for run in [&first[1..100], &first[101..200], &first[201..]] {
            // Swapping with the first example puts one out-of-place length somewhere.
            let rising = of(run).windows(2).filter(|pair| pair[0] < pair[1]).count();
            assert!(rising <= 1, "{run:?}");
        }
        let mut all = first.clone();
        all.sort_unstable();
        assert_eq!(all, (0..250).collect::<Vec<_>>());
        assert_ne!(first, epoch_of(&mut sampler).concat(), "another order each epoch");

        let state = sampler.state();
        let resumed = Sampler::new(250, 2, Some(3)).unwrap().grouped_by_length(lengths).resume(state);
        assert_eq!(resumed.unwrap().next_batch(), sampler.next_batch());
    }

    #[test]
    fn resumed_anywhere_equals_uninterrupted() {
        let mut whole = Sampler::new(11, 3, Some(5)).unwrap();
        for _ in 0..9 {
            let json = serde_json::to_string(&whole.state()).unwrap();
            let state = serde_json::from_str(&json).unwrap();
            let mut resumed = Sampler::new(11, 3, Some(5)).unwrap().resume(state).unwrap();
            let mut copy = whole.clone();
            for _ in 0..9 {
                assert_eq!(resumed.next_batch(), copy.next_batch());
            }
            whole.next_batch();
        }
    }

    #[test]
    fn ranks_cover_disjointly_what_one_rank_sees() {
        let mut one = Sampler::new(17, 6, Some(1)).unwrap();
        let mut ranks: Vec<_> =
            (0..3).map(|r| Sampler::new(17, 2, Some(1)).unwrap().shard(r, 3).unwrap()).collect();
        for _ in 0..7 {
            let together: Vec<_> = ranks.iter_mut().flat_map(Sampler::next_batch).collect();
            assert_eq!(together, one.next_batch());
            assert!(ranks.iter().all(|rank| rank.state() == one.state()));
        }
    }

    #[test]
    fn a_last_batch_smaller_than_the_world_leaves_some_ranks_idle() {
        let mut ranks: Vec<_> =
            (0..3).map(|r| Sampler::new(4, 1, None).unwrap().shard(r, 3).unwrap()).collect();
        let mut sizes = || ranks.iter_mut().map(|rank| rank.next_batch().len()).collect::<Vec<_>>();
        assert_eq!(sizes(), [1, 1, 1]);
        assert_eq!(sizes().iter().sum::<usize>(), 1);
    }

    #[test]
    fn epoch_counts_in_fractions() {
        let mut sampler = Sampler::new(10, 4, Some(0)).unwrap();
        assert!(sampler.at_epoch_border());
        sampler.next_batch();
        assert_eq!(sampler.epoch(), 0.4);
        assert!(!sampler.at_epoch_border());
        sampler.next_batch();
        sampler.next_batch();
        assert_eq!(sampler.epoch(), 1.0);
    }

    #[test]
    fn impossible_settings_are_errors() {
        assert!(Sampler::new(0, 1, None).is_err());
        assert!(Sampler::new(1, 0, None).is_err());
        assert!(Sampler::new(1, 1, None).unwrap().shard(2, 2).is_err());
        let beyond = SamplerState { epoch: 0, position: 5 };
        assert!(Sampler::new(5, 1, None).unwrap().resume(beyond).is_err());
    }
}
