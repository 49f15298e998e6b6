//! What a run would take: `--dry-run`, and the check of the processor's memory.

mod strings;

use super::super::Base;
use super::examples::Examples;
use super::on_device;
use crate::config::RunConfig;
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::ranks::{ALONE, Ranks};
use crate::rollout::Drawing;
use crate::train::checkpoint;
use crate::train::config::{Recompute, TrainConfig};
use crate::train::course::Course;
use crate::train::memory;
use crate::train::plan::{Memory, Tokens};
use crate::train::rollouts::paced;
use crate::trainable::{Adapter, Adapters, Policy};

/// What a run will take, as numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Optimizer steps.
    pub steps: u64,
    /// Passes over the records.
    pub epochs: f64,
    /// Packed tokens of all steps.
    pub tokens: f64,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Parameters that are trained.
    pub parameters: usize,
    /// Peak bytes: of the GPU's memory if `is_on_gpu`, else resident.
    pub peak: usize,
    /// Whether a GPU computes.
    pub is_on_gpu: bool,
}

/// What a run trains, as far as its memory depends on it. An adapter that is continued has a kind of its own, whatever the
/// keys of `lora` say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trained {
    parameters: usize,
    /// Embeddings and heads that are trained, whole or in rows.
    tables: usize,
    is_dora: bool,
    is_pissa: bool,
    /// Parts of which a backward pass adds to the gradient more than once: with accumulation, a micro-batch has a gradient of
    /// its own.
    is_added: bool,
}

impl Trained {
    pub(super) fn of<'a>(adapters: impl Iterator<Item = &'a Adapter>) -> Self {
        let mut all = Self::default();
        for adapter in adapters {
            all.parameters += adapter.parameters();
            all.tables += usize::from(adapter.replaces_table());
            all.is_dora |= matches!(adapter, Adapter::Dora(_));
            all.is_added |= !adapter.adds_once();
            all.is_pissa |= matches!(adapter, Adapter::Pissa(_));
        }
        all
    }
}

/// Returns what a run will take.
///
/// # Errors
/// If the objective is invalid.
pub(super) fn expected(
    config: &RunConfig,
    base: &Base,
    policy: &Policy,
    pairs: &Examples,
    on_device: Option<&on_device::Fit>,
) -> Result<Expected> {
    let Course { steps, epochs, .. } = course(config, pairs, &policy.trained)?;
    let uses = config.drawing()?.map_or(1, |drawing| drawing.iterations);
    let trained = Trained::of(policy.trained.iter());
    let (parameters, (tokens, memory)) = (trained.parameters, expect(config, base, (trained, &ALONE), pairs));
    Ok(Expected {
        steps,
        epochs,
        tokens: tokens.packed as f64 * epochs * uses as f64,
        longest: pairs.train.longest().max(pairs.eval.longest()),
        parameters,
        peak: on_device.map_or(memory.total(), |fit| fit.plan.total()),
        is_on_gpu: on_device.is_some(),
    })
}

/// What a run would work on; all of it was checked to get this far.
pub(super) fn described(
    (config, ranks): (&RunConfig, &Ranks),
    base: &Base,
    (decoder, policy): (&Decoder, &Policy),
    pairs: &Examples,
    on_device: Option<&on_device::Fit>,
) -> Result<String> {
    let (modules, parameters) = (policy.trained.len(), policy.trained.values().len());
    let longest = pairs.train.longest().max(pairs.eval.longest());
    let mut text = format!(
        "{}: {}, {} layers, {}; {modules} modules would be adapted, {parameters} parameters trained\n{} training {}, {} \
         held out; the longest sequence has {longest} tokens",
        base.name,
        base.spec.model_type,
        base.spec.layers.len(),
        decoder.storage(),
        pairs.train.len(),
        if config.drawing()?.is_some() { "prompts" } else { "pairs" },
        pairs.eval.len()
    );
    for note in &pairs.notes {
        text.push('\n');
        text.push_str(note);
    }
    let course = course(config, pairs, &policy.trained)?;
    text.push_str(&format!("\n{course}"));
    for warning in course.warnings() {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    let TrainConfig { per_device_train_batch_size: batch, gradient_accumulation_steps: accumulation, .. } =
        config.train;
    let (tokens, memory) = expect(config, base, (Trained::of(policy.trained.iter()), ranks), pairs);
    let records = pairs.train.len().max(1);
    let per_step =
        tokens.packed as f64 / records as f64 * batch.saturating_mul(accumulation).min(records) as f64;
    let mb = |bytes: usize| bytes as f64 / 1e6;
    text.push_str(&format!(
        "\n{per_step:.0} packed tokens a step ({} in the largest micro-batch); sharing prompts saves {:.0} % of {:.0}",
        tokens.largest_batch,
        100.0 * tokens.saved(),
        per_step / (1.0 - tokens.saved()),
    ));
    match on_device {
        None => text.push_str(&format!(
            "\nexpected peak memory {:.0} MB: weights {:.0}, activations {:.0}, buffers {:.0}, adapter {:.0}, \
             tokenizer {:.0}",
            mb(memory.total()),
            mb(memory.weights),
            mb(memory.activations),
            mb(memory.working),
            mb(memory.adapter),
            mb(memory.tokenizer()),
        )),
        Some(fit) => text.push_str(&fit.described()),
    }
    if !ranks.is_alone() {
        let kept = kept(config, &tokens, ranks.size());
        text.push_str(&format!(
            "\n{} ranks, {} of them on this machine; each but the first keeps the gradients of about {kept} micro-batches, {:.0} \
             MB more",
            ranks.size(),
            ranks.neighbours(),
            mb(4 * parameters * kept),
        ));
    }
    if let Some(warning) = checkpoint::room(&config.output_dir, parameters, &config.train, course.steps) {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text.push_str("\nnothing was written");
    Ok(text)
}

/// The steps and learning rates of a run.
pub(super) fn course(config: &RunConfig, pairs: &Examples, trained: &Adapters) -> Result<Course> {
    let objective = config.objective.resolve()?;
    let drawing = config.drawing()?;
    let pace = paced(&config.train, drawing.as_ref(), &objective)?;
    let mut course = Course::new(&pace, &config.lora, pairs.train.len(), objective.needs());
    // The steps of a generation pass over its prompts once.
    course.epochs /= drawing.map_or(1, |drawing| drawing.iterations) as f64;
    // An adapter that is continued has a kind of its own, whatever the keys of `lora` say.
    Ok(if trained.iter().any(Adapter::is_beside) { course.of_unknown_strength() } else { course })
}

/// The tokens of the data and the memory that this rank will take.
fn expect(config: &RunConfig, base: &Base, trained: (Trained, &Ranks), pairs: &Examples) -> (Tokens, Memory) {
    let TrainConfig { per_device_train_batch_size: batch, max_tokens_per_batch: most, .. } = config.train;
    let tokens = match config.drawing() {
        Ok(Some(drawing)) => Tokens::counted(drawn(config, &drawing, pairs), batch, most),
        // An invalid section is refused elsewhere.
        Ok(None) | Err(_) => Tokens::of(&pairs.train, batch, most),
    };
    (tokens, memory_of(config, base, trained, &tokens))
}

/// The sizes of records with the longest completions that rollouts may draw: of one completion, or of two for a loss of pairs.
fn drawn<'a>(
    config: &RunConfig,
    drawing: &Drawing,
    pairs: &'a Examples,
) -> impl Iterator<Item = (usize, usize, usize)> + use<'a> {
    let is_pair = config.objective.resolve().is_ok_and(|objective| objective.on_policy().is_none());
    let (count, longest) = (if is_pair { 2 } else { 1 }, drawing.max_completion_length);
    pairs.train.entries().map(move |entry| {
        let prompt = entry.packed();
        (prompt + count * longest, count * (prompt + longest), count * longest)
    })
}

/// The micro-batches of a step that one of so many ranks computes, about.
fn kept(config: &RunConfig, tokens: &Tokens, ranks: usize) -> usize {
    // The micro-batches of a loss of drawn completions are not cut.
    let is_cut = config.objective.resolve().is_ok_and(|objective| objective.on_policy().is_none());
    let parts = if is_cut { tokens.parts } else { 1 };
    (config.train.gradient_accumulation_steps.max(1) * parts).div_ceil(ranks)
}

fn memory_of(
    config: &RunConfig,
    base: &Base,
    (trained, ranks): (Trained, &Ranks),
    tokens: &Tokens,
) -> Memory {
    let parameters = trained.parameters;
    let recompute = config.train.gradient_checkpointing == Recompute::On;
    let mut memory = Memory::expect(
        &base.spec,
        base.bytes(),
        (parameters, config.train.optim.state_bytes()),
        tokens.largest_batch,
        tokens.largest_scored,
        recompute,
    );
    memory.strings = strings::count(base);
    if trained.is_pissa {
        // The matrices that it starts from, in f32.
        memory.adapter += 4 * parameters;
    }
    let accumulates =
        config.train.gradient_accumulation_steps > 1 || config.train.max_tokens_per_batch.is_some();
    if !ranks.is_first() {
        // Until the running sum arrives.
        memory.adapter += 4 * parameters * kept(config, tokens, ranks.size());
    } else if trained.is_added && accumulates {
        memory.adapter += 4 * parameters;
    }
    if config.reference_is_a_copy() {
        // The reference's own adapter, in f32.
        memory.adapter += 4 * parameters;
    }
    // The tables that are computed with, beside the trained numbers.
    memory.adapter += 4 * trained.tables * base.spec.vocab_size * base.spec.hidden;
    if trained.is_dora {
        // The product of each module with the weight and the low-rank matrices.
        let outputs = base.spec.linears().map(|linear| linear.outputs);
        let layers = base.spec.layers.len().max(1);
        let kept = if recompute { outputs.sum::<usize>() / layers } else { outputs.sum() };
        memory.activations += 4 * tokens.largest_batch * kept;
    }
    memory
}

/// The peak memory of a run on the processor over records of these (packed rows, unpacked tokens, scored tokens).
pub(super) fn memory_for(
    config: &RunConfig,
    base: &Base,
    trained: Trained,
    sizes: impl Iterator<Item = (usize, usize, usize)>,
) -> Memory {
    let TrainConfig { per_device_train_batch_size: batch, max_tokens_per_batch: most, .. } = config.train;
    memory_of(config, base, (trained, &ALONE), &Tokens::counted(sizes, batch, most))
}

/// Refuses what will not fit into memory; a note if it is close. Where the configuration leaves it open, blocks are computed
/// again if the run does not fit otherwise. The ranks of a machine share its memory.
pub(super) fn fit(
    config: &mut RunConfig,
    base: &Base,
    (trained, ranks): (Trained, &Ranks),
    pairs: &Examples,
) -> Result<Option<String>> {
    let Some(available) = ranks.available().or_else(memory::available) else { return Ok(None) };
    let room = memory::Room { available, ranks: ranks.neighbours() };
    let check = |config: &RunConfig| {
        let memory = expect(config, base, (trained, ranks), pairs).1;
        memory::check(&memory, base.converted_bytes(), room)
    };
    if base.forced {
        return Ok(
            check(config).unwrap_or_else(|error| Some(format!("{error}; it is begun because of --force")))
        );
    }
    if config.train.gradient_checkpointing != Recompute::Auto {
        return check(config);
    }
    match check(config) {
        Ok(None) => Ok(None),
        close => {
            config.train.gradient_checkpointing = Recompute::On;
            let again = check(config);
            match (close, again) {
                (Err(_), Ok(note)) => Ok(note),
                (Ok(note), _) => {
                    config.train.gradient_checkpointing = Recompute::Auto;
                    Ok(note)
                }
                (Err(error), Err(_)) => Err(error),
            }
        }
    }
}
