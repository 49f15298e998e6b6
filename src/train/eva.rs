//! EVA: A starts with the principal components of its module's inputs over the first batches, and ranks move to the modules
//! where components explain more of the variance (Paischer et al. 2024, arXiv 2410.07170), as PEFT's
//! `initialize_lora_eva_weights` (0.21) does it. B is zero, so the policy starts as the reference.
//!
//! Modules with the same input share its components. A batch is a packed one: a prompt counts once, and the last token of
//! a completion, whose hidden state predicts nothing, is not computed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::data::{Dataset, PackedBatch};
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::initialisation::EvaConfig;
use crate::model::pass::Observer;
use crate::ops::Tensor;
use crate::ops::incremental_pca::IncrementalPca;
use crate::random::Stream;
use crate::trainable::{Adapters, Lora, Module, Policy};

/// The initialisation ends with an error after this many batches.
const MOST_BATCHES: usize = 1000;

/// The settings of the initialisation.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// PEFT's.
    pub config: EvaConfig,
    /// Records in a batch.
    pub batch: usize,
    /// Whether the scale is alpha/√r.
    pub use_rslora: bool,
    /// The seed of the iterations that find components.
    pub seed: u64,
}

/// Modules with one input.
struct Group {
    /// Indices of the modules in the model's order; the first is the leader.
    members: Vec<usize>,
    pca: IncrementalPca,
    /// Whether each component has converged.
    converged: Vec<bool>,
}

/// Returns the initial adapters of `loras` and a note on what was found. `policy` holds the frozen adapters.
///
/// # Errors
/// If batches have too few tokens, the inputs do not converge, or a record does not fit the model.
pub fn initialised(
    (decoder, policy): (&Decoder, &Policy),
    examples: &Dataset,
    loras: &[Lora],
    settings: &Settings,
) -> Result<(Adapters, String)> {
    if examples.is_empty() {
        return Err(Error::Train(
            "lora.init_lora_weights is eva, and there are no training records to begin with".into(),
        ));
    }
    let first = batch(decoder, examples, settings.batch, 0)?;
    let mut groups = groups((decoder, policy), &first, loras, settings)?;
    let budget: usize = loras.iter().map(|lora| lora.rank).sum();
    let mut ranks: Vec<usize> = vec![0; loras.len()];
    for group in &groups {
        group.members.iter().for_each(|member| ranks[*member] = group.pca.count());
    }
    for step in 0..=MOST_BATCHES {
        let open = |group: &Group| {
            let rank = ranks[group.members[0]];
            group.converged.iter().take(rank).filter(|converged| **converged).count() < rank
        };
        let wanted: Vec<bool> = groups.iter().map(open).collect();
        if !wanted.iter().any(|wanted| *wanted) {
            let note = described(step, loras, &ranks);
            return Ok((adapters(loras, &groups, &ranks, settings)?, note));
        }
        let batch = batch(decoder, examples, settings.batch, step)?;
        let inputs = inputs((decoder, policy), &batch, (&groups, &wanted), loras, settings)?;
        groups.par_iter_mut().zip(inputs).for_each(|(group, rows)| {
            if let Some(rows) = rows {
                group.add(&rows, settings);
            }
        });
        if groups.iter().any(|group| group.pca.is_empty()) {
            check_size(&groups, loras, examples.len().div_ceil(settings.batch.max(1)), step)?;
            continue;
        }
        ranks = distributed(&groups, loras.len(), budget);
    }
    Err(Error::Train(format!(
        "the components of init_lora_weights: eva have not converged after {MOST_BATCHES} batches; lower lora.eva_config.tau \
         (it is {})",
        settings.config.tau
    )))
}

/// Batch `step` of the records in their order, from the start again after the last.
fn batch(decoder: &Decoder, examples: &Dataset, size: usize, step: usize) -> Result<PackedBatch> {
    let size = size.max(1);
    let first = step % examples.len().div_ceil(size).max(1) * size;
    let indices: Vec<usize> = (first..(first + size).min(examples.len())).collect();
    let packed = PackedBatch::new(&examples.gather(&indices)?.iter().collect::<Vec<_>>());
    Ok(decoder.divided(&packed).into_owned())
}

/// The rows that count.
fn rows(batch: &PackedBatch, settings: &Settings) -> Vec<usize> {
    if !settings.config.use_label_mask {
        return (0..batch.tokens.len()).collect();
    }
    batch.trees.iter().flat_map(|tree| tree.completions.iter().cloned().flatten()).collect()
}

/// Finds which modules have the same input.
fn groups(
    (decoder, policy): (&Decoder, &Policy),
    first: &PackedBatch,
    loras: &[Lora],
    settings: &Settings,
) -> Result<Vec<Group>> {
    let hashes: RefCell<BTreeMap<String, blake3::Hash>> = RefCell::default();
    let see = |module: &str, x: &Tensor| {
        let hash = blake3::hash(bytemuck::cast_slice(x.numbers()));
        hashes.borrow_mut().insert(module.to_string(), hash);
        Ok(())
    };
    decoder.observe(first, policy, Observer(&see))?;
    let hashes = hashes.into_inner();
    let mut members: Vec<(blake3::Hash, Vec<usize>)> = Vec::new();
    for (i, lora) in loras.iter().enumerate() {
        let hash = hashes.get(&lora.module);
        let hash = *hash.ok_or_else(|| Error::Model(format!("{} has no input", lora.module)))?;
        match members.iter_mut().find(|(known, _)| *known == hash) {
            Some((_, members)) => members.push(i),
            None => members.push((hash, vec![i])),
        }
    }
    let group = |members: Vec<usize>| {
        let most = members.iter().map(|i| (loras[*i].rank as f64 * settings.config.rho).round_ties_even());
        let count = most.fold(0.0, f64::max) as usize;
        let Lora { module, inputs, rank, .. } = &loras[members[0]];
        if count > *inputs {
            return Err(Error::Config(format!(
                "lora.eva_config.rho allows {module} the rank {count} (r is {rank}), but it has {inputs} inputs; lower rho or \
                 lora.r"
            )));
        }
        Ok(Group { members, pca: IncrementalPca::new(count, *inputs), converged: vec![false; count] })
    };
    members.into_iter().map(|(_, members)| group(members)).collect()
}

/// The inputs of the wanted groups, as rows.
fn inputs(
    (decoder, policy): (&Decoder, &Policy),
    batch: &PackedBatch,
    (groups, wanted): (&[Group], &[bool]),
    loras: &[Lora],
    settings: &Settings,
) -> Result<Vec<Option<Vec<f32>>>> {
    let rows = rows(batch, settings);
    let places = groups.iter().enumerate().filter(|(i, _)| wanted[*i]);
    let places: BTreeMap<&str, usize> =
        places.map(|(i, group)| (loras[group.members[0]].module.as_str(), i)).collect();
    let found: RefCell<Vec<Option<Vec<f32>>>> = RefCell::new(vec![None; groups.len()]);
    let see = |module: &str, x: &Tensor| {
        if let Some(place) = places.get(module) {
            let ((_, width), x) = (x.shape(), x.numbers());
            let own = rows.iter().flat_map(|row| &x[row * width..(row + 1) * width]).copied().collect();
            found.borrow_mut()[*place] = Some(own);
        }
        Ok(())
    };
    decoder.observe(batch, policy, Observer(&see))?;
    Ok(found.into_inner())
}

/// Refuses batches that are too small for a group, once all records have been seen.
fn check_size(groups: &[Group], loras: &[Lora], batches: usize, step: usize) -> Result<()> {
    let empty = groups.iter().find(|group| group.pca.is_empty());
    let (Some(group), true) = (empty, step + 1 >= batches) else { return Ok(()) };
    Err(Error::Config(format!(
        "no batch has the {} tokens that init_lora_weights: eva needs for {}; raise train.per_device_train_batch_size, lower \
         lora.eva_config.rho or lora.r, or set use_label_mask: false",
        group.pca.count(),
        loras[group.members[0]].module
    )))
}

impl Group {
    /// Adds a batch, and compares the components with those before it.
    fn add(&mut self, rows: &[f32], settings: &Settings) {
        let before = self.pca.components.clone();
        let stream = Stream::new(settings.seed, "eva");
        if !self.pca.fit(rows, stream) || before.is_empty() {
            return;
        }
        let width = before.len() / self.pca.count().max(1);
        let pairs = before.chunks_exact(width).zip(self.pca.components.chunks_exact(width));
        let cosine = |(x, y): (&[f32], &[f32])| {
            let dot = |x: &[f32], y: &[f32]| -> f64 {
                x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
            };
            dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(1e-8)
        };
        self.converged = pairs.map(|pair| cosine(pair) >= settings.config.tau).collect();
    }
}

/// Gives the ranks to the components that explain most: `[modules]`. Modules of one input compete with equal shares, and
/// the leader gets the highest rank of its group.
fn distributed(groups: &[Group], modules: usize, budget: usize) -> Vec<usize> {
    let leaders = groups.iter().map(|group| (group.members[0], group));
    let followers = groups.iter().flat_map(|group| group.members[1..].iter().map(move |i| (*i, group)));
    let mut followers: Vec<(usize, &Group)> = followers.collect();
    followers.sort_by_key(|(module, _)| *module);
    let all = leaders.chain(followers.iter().copied());
    let mut shares: Vec<(f64, usize)> =
        all.flat_map(|(module, group)| group.pca.shares().map(move |share| (share, module))).collect();
    shares.sort_by(|(x, _), (y, _)| y.total_cmp(x));
    let mut ranks = vec![0; modules];
    shares.iter().take(budget).for_each(|(_, module)| ranks[*module] += 1);
    for (module, group) in followers {
        let leader = group.members[0];
        if ranks[leader] < ranks[module] {
            ranks.swap(leader, module);
        }
    }
    ranks
}

/// The adapters with these ranks. A module of rank 0 has none.
fn adapters(loras: &[Lora], groups: &[Group], ranks: &[usize], settings: &Settings) -> Result<Adapters> {
    let config = settings.config;
    let resized = |lora: &Lora, rank: usize| {
        let grown = lora.alpha * rank as f64 / lora.rank as f64;
        let alpha = if config.adjust_scaling_factors { grown } else { lora.alpha };
        let divisor = if settings.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        let module = Module { name: lora.module.clone(), inputs: lora.inputs, outputs: lora.outputs };
        Lora::new(module, rank, alpha, alpha / divisor)
    };
    let ranked = loras.iter().zip(ranks).filter(|(_, rank)| **rank > 0);
    let mut set = Adapters::zeros(ranked.map(|(lora, rank)| resized(lora, *rank)))?;
    let mut values = set.values().to_vec();
    for group in groups {
        for member in &group.members {
            let Some(lora) = set.find_lora(&loras[*member].module) else { continue };
            let rows = values[lora.a()].chunks_exact_mut(lora.inputs.max(1));
            let components = group.pca.components.chunks_exact(lora.inputs.max(1));
            for ((row, component), value) in rows.zip(components).zip(&group.pca.values) {
                let factor = if config.whiten { 1.0 / value.sqrt().max(f64::MIN_POSITIVE) } else { 1.0 };
                row.iter_mut().zip(component).for_each(|(a, x)| *a = (f64::from(*x) * factor) as f32);
            }
        }
    }
    set.update(|all| all.copy_from_slice(&values));
    Ok(set)
}

fn described(batches: usize, loras: &[Lora], ranks: &[usize]) -> String {
    let (least, most) = (ranks.iter().min().unwrap_or(&0), ranks.iter().max().unwrap_or(&0));
    let none = ranks.iter().filter(|rank| **rank == 0).count();
    let mut text =
        format!("eva: the components converged after {batches} batches; ranks from {least} to {most}");
    if none > 0 {
        text.push_str(&format!("; {none} of {} modules have none and are left out", loras.len()));
    }
    text
}
