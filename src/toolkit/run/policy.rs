//! The adapters of a run: those that are frozen, and the one to train.

use super::Examples;
use super::continued;
use super::plan::Trained;
use crate::adapter::peft;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::model::beside::{PrefixConfig, PrefixInit};
use crate::model::config::{LoraConfig, TargetModules, TokenIndices};
use crate::model::decoder::Decoder;
use crate::model::initialisation::InitLoraWeights;
use crate::model::spec::{LayerSpec, LinearSpec};
use crate::model::targets::{LoraTarget, LoraTargets};
use crate::objective::{Needs, OnPolicy};
use crate::ops::svd::Iterations;
use crate::toolkit::{AdapterUse, Base};
use crate::train::eva;
use crate::train::optimizer::OptimizerKind;
use crate::train::trainer;
use crate::trainable::{
    Adapter as Kind, Adapters, Bottleneck, Dora, Frozen, Lora, Pissa, Policy, TokenRows, Whole,
};

/// What a run trains, before it has values.
#[derive(Debug)]
pub(super) enum Start {
    /// New adapters.
    New(Vec<Kind>),
    /// The adapter of `lora.init_from`.
    Continued(Adapters),
}

impl Start {
    /// Reads or chooses what the configuration names.
    pub(super) fn of(config: &RunConfig, base: &Base) -> Result<Self> {
        match &config.lora.init_from {
            Some(path) => {
                // A reward model may go on with one.
                let score = config.objective.resolve()?.needs().rewards;
                let purpose = AdapterUse { score, ..AdapterUse::default() };
                Ok(Self::Continued(base.adapter_for(path, purpose)?))
            }
            None => Ok(Self::New(modules(config, base)?)),
        }
    }

    /// Gives the configuration the shape of the adapter that is continued.
    pub(super) fn note_shape(&self, config: &mut RunConfig, base: &Base) {
        if let Self::Continued(adapters) = self {
            continued::fill(&mut config.lora, adapters, base);
        }
    }

    /// Returns what is trained, as far as memory depends on it.
    pub(super) fn trained(&self) -> Trained {
        match self {
            Self::New(adapters) => Trained::of(adapters.iter()),
            Self::Continued(adapters) => Trained::of(adapters.iter()),
        }
    }
}

/// The modules to train.
fn modules(config: &RunConfig, base: &Base) -> Result<Vec<Kind>> {
    if let Some(PrefixConfig { num_virtual_tokens: tokens, .. }) = config.lora.prefix_tuning {
        let hidden = config.lora.prefix_tuning.and_then(PrefixConfig::projection);
        return match hidden {
            Some(hidden) => peft::projected_prefixes(&base.spec, tokens, hidden),
            None => Ok(peft::prefixes(&base.spec, tokens)?.into_iter().map(Kind::from).collect()),
        };
    }
    if let Some(layers) = &config.lora.adapter_layers {
        let act = layers.activation()?;
        let of = |linear: &LinearSpec| Bottleneck::new(linear, layers.bottleneck_size, act).into();
        return Ok(layer_modules(&config.lora, base)?.into_iter().map(of).collect());
    }
    let targets = targets(&config.lora, base)?;
    let mut all: Vec<Kind> = targets
        .iter()
        .map(|(target, linear)| {
            kind(&config.lora, Lora::new(*linear, target.rank, target.alpha, target.scaling))
        })
        .collect();
    all.extend(whole(&config.lora, base)?);
    all.extend(token_rows(&config.lora, base)?);
    Ok(all)
}

/// Whether two configurations give the same modules the same ranks and factors, however they say so.
pub(crate) fn adapt_alike(one: &LoraConfig, other: &LoraConfig, base: &Base) -> bool {
    let modules = |lora| targets(lora, base).map(|all| all.into_iter().map(|(target, _)| target));
    match (modules(one), modules(other)) {
        (Ok(one), Ok(other)) => one.eq(other),
        _ => false,
    }
}

/// The linear modules that `target_modules` names.
fn targets<'b>(lora: &LoraConfig, base: &'b Base) -> Result<Vec<(LoraTarget, &'b LinearSpec)>> {
    let mut modules: Vec<String> = base.spec.linears().map(|linear| linear.module.clone()).collect();
    let head = base.spec.head.as_ref().map(|head| head.module.clone());
    modules.extend(head.clone());
    let targets = LoraTargets::resolve(lora, &modules, head.as_deref())?;
    let found = targets.0.into_iter().map(|target| {
        let linear = base.spec.linears().find(|linear| linear.module == target.module);
        let linear = linear.ok_or_else(|| {
            Error::Config(format!(
                "lora.target_modules names {}, the language-model head, which cannot be adapted; remove it, or train all of it \
                 with lora.modules_to_save",
                target.module
            ))
        })?;
        Ok((target, linear))
    });
    found.collect()
}

/// The modules behind which adapter layers stand: those that end attention and the MLP, or those that are named.
fn layer_modules<'b>(lora: &LoraConfig, base: &'b Base) -> Result<Vec<&'b LinearSpec>> {
    if lora.target_modules != TargetModules::AllLinear {
        return Ok(targets(lora, base)?.into_iter().map(|(_, linear)| linear).collect());
    }
    let ends = |layer: &'b LayerSpec| [&layer.attention.output, layer.mlp.down()];
    Ok(base.spec.layers.iter().flat_map(ends).collect())
}

/// The modules that are trained whole.
fn whole(lora: &LoraConfig, base: &Base) -> Result<Vec<Kind>> {
    let (spec, head) = (&base.spec, base.spec.head_linear());
    let mut all = Vec::new();
    for name in lora.modules_to_save.iter().flatten() {
        // As in PEFT, a name is the end of a module's path.
        let found = if head.module.ends_with(name) {
            Whole::new(head.module.clone(), (head.outputs, head.inputs), head.bias)
        } else if spec.embedding.ends_with(name) {
            Whole::new(spec.embedding.clone(), (spec.vocab_size, spec.hidden), false)
        } else {
            return Err(Error::Config(format!(
                "lora.modules_to_save names {name}; only the embedding, {}, and the head, {}, can be trained whole",
                spec.embedding, head.module
            )));
        };
        all.push(found.into());
    }
    Ok(all)
}

/// The rows of the embedding that are trained.
fn token_rows(lora: &LoraConfig, base: &Base) -> Result<Option<Kind>> {
    let (Some(indices), spec) = (&lora.trainable_token_indices, &base.spec) else { return Ok(None) };
    if let TokenIndices::ByModule(all) = indices
        && let Some(name) = all.keys().find(|name| !spec.embedding.ends_with(name.as_str()))
    {
        return Err(Error::Config(format!(
            "lora.trainable_token_indices names {name}; only rows of the embedding, {}, can be trained, and a head that is tied \
             to it uses them too",
            spec.embedding
        )));
    }
    let tokens = indices.of(&spec.embedding, true).unwrap_or_default();
    if let Some(token) = tokens.iter().find(|token| **token as usize >= spec.vocab_size) {
        return Err(Error::Config(format!(
            "lora.trainable_token_indices names token {token}, and the base has {}; name tokens of its tokenizer",
            spec.vocab_size
        )));
    }
    Ok(Some(TokenRows::new(spec.embedding.clone(), tokens.to_vec(), spec.hidden).into()))
}

/// The kind of adapter that the configuration names.
fn kind(config: &LoraConfig, lora: Lora) -> Kind {
    match config.init_lora_weights {
        InitLoraWeights::Kaiming if config.use_dora => Dora::new(lora).into(),
        InitLoraWeights::Kaiming | InitLoraWeights::Eva => lora.into(),
        InitLoraWeights::Pissa(iterations) => {
            let iterations = iterations.map_or(Iterations::UntilSettled, Iterations::Fixed);
            Pissa::new(lora, iterations).into()
        }
    }
}

/// Refuses what a device does not train, before anything is read.
pub(super) fn check_device(config: &RunConfig, base: &Base) -> Result<()> {
    let lora = &config.lora;
    let set = [
        ("modules_to_save", lora.modules_to_save.is_some()),
        ("trainable_token_indices", lora.trainable_token_indices.is_some()),
        ("prefix_tuning", lora.prefix_tuning.is_some()),
        ("adapter_layers", lora.adapter_layers.is_some()),
    ];
    if let Some((key, _)) = set.into_iter().find(|(_, set)| *set && base.backend.is_some()) {
        return Err(Error::Config(format!(
            "lora.{key} is set, which is computed on the processor only; set model.device: cpu, or leave it out"
        )));
    }
    if config.objective.resolve()?.needs().rewards && base.backend.is_some() {
        return Err(Error::Config(
            "objective.loss_type is reward: reward models are trained on the processor only; set model.device: cpu (--device cpu)"
                .into(),
        ));
    }
    if config.drawing()?.is_some() && base.backend.is_some() {
        return Err(Error::Config(
            "rollout.reward is set: what the policy draws is trained on the processor only; set model.device: cpu (--device cpu)"
                .into(),
        ));
    }
    let init = config.lora.init_lora_weights;
    match init {
        InitLoraWeights::Pissa(_) | InitLoraWeights::Eva if base.backend.is_some() => {
            Err(Error::Config(format!(
                "lora.init_lora_weights is {init}, which is computed on the processor only; set model.device: cpu, or \
             lora.init_lora_weights: true"
            )))
        }
        InitLoraWeights::Pissa(_) | InitLoraWeights::Eva | InitLoraWeights::Kaiming => Ok(()),
    }
}

/// The frozen adapters and the one to train.
pub(super) fn policy(
    config: &RunConfig,
    base: &Base,
    (decoder, examples): (&Decoder, &Examples),
    start: Start,
) -> Result<(Policy, Option<String>)> {
    let mut policy = Policy::default();
    for path in &config.model.adapter {
        policy.frozen.push(Frozen { adapters: base.adapter(path, false)?, reference_only: false });
    }
    let (trained, note) = match start {
        Start::Continued(adapters) => (adapters, None),
        Start::New(adapters) => initialised(config, (decoder, &policy), examples, adapters)?,
    };
    policy.trained = trained;
    let objective = config.objective.resolve()?;
    let rewards = objective.needs().rewards;
    let has_values = matches!(objective.on_policy(), Some(OnPolicy::Proximal(_)));
    if (rewards || has_values) && policy.trained.iter().any(Kind::is_beside) {
        return Err(Error::Config(
            "objective.loss_type trains a scalar head (reward, ppo), which stands beside LoRA only; remove \
             lora.prefix_tuning or lora.adapter_layers, or start from another adapter"
                .into(),
        ));
    }
    check_replaced(&policy)?;
    if config.train.optim == OptimizerKind::Muon
        && (rewards || has_values || policy.trained.iter().any(Kind::replaces_table))
    {
        return Err(Error::Config(
            "train.optim is muon, which is not made for embeddings and heads, and one is trained; write optim: adamw".into(),
        ));
    }
    if (rewards || has_values) && policy.trained.score().is_none() {
        policy.trained = policy.trained.with_score(base.spec.hidden, config.seed)?;
    }
    check_positions(&policy, base, (examples, objective.needs()))?;
    // A reward model has no reference.
    if config.reference_is_a_copy() && !rewards {
        policy.frozen.push(Frozen { adapters: policy.trained.copy(), reference_only: true });
    }
    Ok((policy, note))
}

/// Refuses a trained copy, or trained rows, of a table that a frozen adapter replaces already: it would begin as the base's
/// and undo the frozen one in the policy alone.
fn check_replaced(policy: &Policy) -> Result<()> {
    for own in policy.trained.iter().filter(|adapter| adapter.replaces_table()) {
        let module = own.module();
        let is_replaced = |frozen: &Frozen| frozen.adapters.find(module).is_some_and(Kind::replaces_table);
        if policy.frozen.iter().any(is_replaced) {
            return Err(Error::Config(format!(
                "model.adapter has {module} of its own, which this run would train from the base's; continue that adapter \
                 with lora.init_from, or leave {module} out"
            )));
        }
    }
    Ok(())
}

/// Refuses sequences that do not fit the positions: a prompt before the completion of another record, and a prefix behind which
/// the longest sequence has none left.
fn check_positions(policy: &Policy, base: &Base, (examples, needs): (&Examples, Needs)) -> Result<()> {
    let tokens = policy.trained.iter().map(Kind::virtual_tokens).max().unwrap_or(0);
    let most = base.spec.max_positions;
    trainer::check_positions((&examples.train, &examples.eval), needs, most)?;
    let longest = examples.train.longest_for(needs).max(examples.eval.longest_for(needs));
    if tokens > 0 && tokens + longest > most {
        return Err(Error::Config(format!(
            "the longest sequence has {longest} tokens, and {tokens} virtual ones before them exceed the base's {most} positions; \
             lower data.max_length to {} or lora.prefix_tuning.num_virtual_tokens",
            most.saturating_sub(tokens)
        )));
    }
    Ok(())
}

/// A new adapter, and a notice.
fn initialised(
    config: &RunConfig,
    (decoder, policy): (&Decoder, &Policy),
    examples: &Examples,
    adapters: Vec<Kind>,
) -> Result<(Adapters, Option<String>)> {
    if let Some(PrefixConfig { init_weights: PrefixInit::Zero, .. }) = config.lora.prefix_tuning {
        let mut zeros = Adapters::initialised(adapters, config.seed)?;
        if zeros.prefix_encoder().is_some() {
            // As in PEFT only the last map is zero; the gradient of the whole network would be zero otherwise.
            zeros.clear_projections();
        } else {
            zeros.update(|values| values.fill(0.0));
        }
        return Ok((zeros, None));
    }
    if config.lora.init_lora_weights != InitLoraWeights::Eva {
        let linear = |module: &str| decoder.linear(module);
        return Ok((Adapters::initialised_on(adapters, config.seed, linear)?, None));
    }
    let settings = eva::Settings {
        config: config.lora.eva_config.unwrap_or_default(),
        batch: config.train.per_device_train_batch_size,
        use_rslora: config.lora.use_rslora,
        seed: config.seed,
    };
    let loras: Vec<Lora> = adapters.iter().filter_map(Kind::low_rank).cloned().collect();
    let (found, said) = eva::initialised((decoder, policy), &examples.train, &loras, &settings)?;
    Ok((found, Some(said)))
}
