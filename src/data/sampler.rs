//! The order in which examples come: deterministic, endless over epochs, resumable, sharded by rank.

use serde::{Deserialize, Serialize};

use super::shuffle::permutation;
use crate::error::{Error, Result};

/// Where a [`Sampler`] stands; all a checkpoint needs to keep of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerState {
    /// Epochs that are complete.
    pub epoch: u64,
    /// Examples of the present epoch already handed out, by all ranks together; always below their number.
    pub position: usize,
}

/// Hands out batches of example indices, epoch after epoch.
///
/// All ranks walk the same order; of each global batch (`batch · world` indices, fewer at the end of an epoch) rank r
/// takes the r-th share. So n ranks with batch b see, together, what one rank with batch n·b sees.
#[derive(Clone, Debug)]
pub struct Sampler {
    len: usize,
    batch: usize,
    /// `None`: the order of the file.
    seed: Option<u64>,
    rank: usize,
    world: usize,
    state: SamplerState,
    /// The order of the present epoch, derived from `seed` and `state.epoch`.
    order: Vec<usize>,
}

impl Sampler {
    /// A sampler over `len` examples in batches of `batch`, shuffled by `seed` (`None`: never shuffled).
    ///
    /// # Errors
    /// No examples, or a batch of zero.
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
        Ok(Self { len, batch, seed, rank: 0, world: 1, state, order: order(seed, 0, len) })
    }

    /// The share of `rank` among `world` processes.
    ///
    /// # Errors
    /// `rank` is not below `world`.
    pub fn shard(self, rank: usize, world: usize) -> Result<Self> {
        if rank >= world {
            return Err(Error::Config(format!("rank {rank} of a world of {world}; ranks count from 0")));
        }
        Ok(Self { rank, world, ..self })
    }

    /// Continues from `state`, as if the batches before it had just been handed out.
    ///
    /// # Errors
    /// The state belongs to more examples than there are: the data changed.
    pub fn resume(mut self, state: SamplerState) -> Result<Self> {
        if state.position >= self.len {
            return Err(Error::Data(format!(
                "the checkpoint stands at example {} of its epoch but the data has {} now; resume with the data it was \
                 started with",
                state.position, self.len
            )));
        }
        self.order = order(self.seed, state.epoch, self.len);
        self.state = state;
        Ok(self)
    }

    /// The next indices of this rank. Only at the end of an epoch are there fewer than `batch`; with several ranks,
    /// possibly none.
    pub fn next_batch(&mut self) -> Vec<usize> {
        let rest = &self.order[self.state.position..];
        // The one place that decides how long a batch is; a token budget would count `rest` here.
        let global = rest.len().min(self.batch.saturating_mul(self.world));
        let share = global * self.rank / self.world..global * (self.rank + 1) / self.world;
        let indices = rest[share].to_vec();
        self.state.position += global;
        if self.state.position == self.len {
            self.state = SamplerState { epoch: self.state.epoch + 1, position: 0 };
            self.order = order(self.seed, self.state.epoch, self.len);
        }
        indices
    }

    /// Where the sampler stands, for a checkpoint.
    pub fn state(&self) -> SamplerState {
        self.state
    }

    /// Epochs so far with their fraction, as `epoch` in the metrics.
    pub fn epoch(&self) -> f64 {
        self.state.epoch as f64 + self.state.position as f64 / self.len as f64
    }

    /// Whether the last batch was the last of its epoch (also true before the first).
    pub fn at_epoch_border(&self) -> bool {
        self.state.position == 0
    }

    /// Batches each rank gets from one epoch; the last may be partial.
    pub fn batches_per_epoch(&self) -> usize {
        self.len.div_ceil(self.batch.saturating_mul(self.world))
    }
}

fn order(seed: Option<u64>, epoch: u64, len: usize) -> Vec<usize> {
    match seed {
        Some(seed) => permutation("training order", seed, epoch, len),
        None => (0..len).collect(),
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
