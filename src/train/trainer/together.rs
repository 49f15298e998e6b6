//! What ranks check and decide together.

use std::sync::atomic::Ordering;

use super::{Identity, Setup, Trainer};
use crate::error::{Error, Result};
use crate::ranks::Ranks;
use crate::report::Reporter;
use crate::train::nccl;

/// Keys that say how a machine computes, or where it keeps files, and change no bit.
const OF_THE_MACHINE: [&str; 4] = ["output_dir:", "gradient_checkpointing:", "threads:", "reference_cache:"];

/// A configuration without them, as YAML.
fn without_machine(config: &str) -> String {
    let is_shared = |line: &&str| !OF_THE_MACHINE.iter().any(|key| line.trim_start().starts_with(key));
    config.lines().filter(is_shared).collect::<Vec<_>>().join("\n")
}

impl Trainer {
    /// Checks that all ranks train the same.
    pub(super) fn agree(&self) -> Result<()> {
        let Setup { ranks, policy, identity, rollouts, .. } = &self.setup;
        let Identity { config, reference, .. } = identity;
        let start = format!(
            "step {}, {}",
            self.state.step,
            blake3::hash(bytemuck::cast_slice(policy.trained.values())).to_hex()
        );
        let (ends, rewards) = rollouts.as_ref().map_or_else(Default::default, |source| {
            (format!("{:?}", source.eos), source.identities.join(", "))
        });
        ranks.agree(&[
            ("its configuration", without_machine(config)),
            ("the training records (or how they are tokenized or truncated)", self.state.data.clone()),
            ("the held-out records (or how they are tokenized or truncated)", self.state.held_out.clone()),
            ("the tokens that end a completion (generation_config.json)", ends),
            ("the rewards (the files of their adapters)", rewards),
            (
                "the base, its storage type, its frozen adapters, or the instruction set of its processor",
                reference.clone(),
            ),
            ("the adapter that it begins with", start),
        ])
    }

    /// Connects the cards of all ranks, if that is asked for.
    pub(super) fn link(&mut self, reporter: &mut Reporter) -> Result<()> {
        let Setup { ranks, decoder, .. } = &self.setup;
        let asked = std::env::var(nccl::VARIABLE).ok();
        let (linked, why) = nccl::linked(ranks, decoder.backend(), asked.as_deref())?;
        self.cards = linked;
        why.iter().for_each(|why| reporter.warn(why));
        Ok(())
    }

    /// Returns the signal that any rank has received, and whether rank 0 stops early. Checks that all ranks still have the same
    /// parameters.
    pub(super) fn agreed(&self, stop_early: bool) -> Result<(u8, bool)> {
        let Setup { ranks, policy, decoder, stop, .. } = &self.setup;
        let signal = stop.load(Ordering::Relaxed);
        if ranks.is_alone() {
            return Ok((signal, stop_early));
        }
        let hash = blake3::hash(bytemuck::cast_slice(&decoder.newest_values(policy)?));
        let mut own = vec![signal, u8::from(stop_early)];
        own.extend(hash.as_bytes());
        let all = ranks.gather(own)?;
        self.same_parameters(ranks, &all)?;
        let signal = all.iter().filter_map(|rank| rank.first().copied()).max().unwrap_or(signal);
        Ok((signal, all.first().and_then(|rank| rank.get(1)) == Some(&1)))
    }

    /// Returns the signal that came while the checkpoint of this step was written, after which the run can end; 0 if there was
    /// none. Several ranks agree on a signal between two steps only.
    pub(super) fn signal_while_saving(&self) -> u8 {
        let Setup { ranks, stop, .. } = &self.setup;
        let is_saved = ranks.is_alone() && self.saved == Some(self.state.step);
        if is_saved { stop.load(Ordering::Relaxed) } else { 0 }
    }

    fn same_parameters(&self, ranks: &Ranks, all: &[Vec<u8>]) -> Result<()> {
        let hash = |rank: &Vec<u8>| rank.get(2..).map(<[u8]>::to_vec);
        let first = all.first().and_then(hash);
        match all.iter().position(|rank| hash(rank) != first) {
            None => Ok(()),
            Some(rank) => Err(Error::Ranks(format!(
                "{} has another adapter than rank 0 after step {}, although both made the same updates: its processor or memory \
                 computes other numbers. Go on without that machine from the last checkpoint",
                ranks.named(rank),
                self.state.step
            ))),
        }
    }
}
