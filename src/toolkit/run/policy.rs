//! The adapters of a run: those that are frozen, and the one to train.

use super::Examples;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::model::config::{LoraConfig, Reference};
use crate::model::decoder::Decoder;
use crate::model::initialisation::InitLoraWeights;
use crate::model::targets::LoraTargets;
use crate::objective::OnPolicy;
use crate::ops::svd::Iterations;
use crate::toolkit::{AdapterUse, Base};
use crate::train::eva;
use crate::trainable::{Adapter as Kind, Adapters, Dora, Frozen, Lora, Pissa, Policy};

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

    /// Returns the number of trained parameters.
    pub(super) fn parameters(&self) -> usize {
        match self {
            Self::New(adapters) => adapters.iter().map(Kind::parameters).sum(),
            Self::Continued(adapters) => adapters.values().len(),
        }
    }
}

/// The modules to train.
fn modules(config: &RunConfig, base: &Base) -> Result<Vec<Kind>> {
    let mut modules: Vec<String> = base.spec.linears().map(|linear| linear.module.clone()).collect();
    let head = base.spec.head.as_ref().map(|head| head.module.clone());
    modules.extend(head.clone());
    let targets = LoraTargets::resolve(&config.lora, &modules, head.as_deref())?;
    let loras = targets.0.iter().map(|target| {
        let linear = base.spec.linears().find(|linear| linear.module == target.module).ok_or_else(|| {
            Error::Config(format!(
                "lora.target_modules names {}, the language-model head, which cannot be adapted; remove it",
                target.module
            ))
        })?;
        let lora = Lora::new(linear, target.rank, target.alpha, target.scaling);
        Ok(kind(&config.lora, lora))
    });
    loras.collect()
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
    let (trained, note, is_own) = match start {
        Start::Continued(adapters) => (adapters, None, config.lora.reference == Reference::Init),
        Start::New(adapters) => {
            let (new, note) = initialised(config, (decoder, &policy), examples, adapters)?;
            // With B = 0 a copy is the base itself, until it moves.
            (new, note, config.train.sync_ref_model)
        }
    };
    policy.trained = trained;
    let objective = config.objective.resolve()?;
    let rewards = objective.needs().rewards;
    let has_values = matches!(objective.on_policy(), Some(OnPolicy::Proximal(_)));
    if (rewards || has_values) && policy.trained.score().is_none() {
        policy.trained = policy.trained.with_score(base.spec.hidden, config.seed)?;
    }
    // A reward model has no reference.
    if is_own && !rewards {
        policy.frozen.push(Frozen { adapters: policy.trained.copy(), reference_only: true });
    }
    Ok((policy, note))
}

/// A new adapter, and a notice.
fn initialised(
    config: &RunConfig,
    (decoder, policy): (&Decoder, &Policy),
    examples: &Examples,
    adapters: Vec<Kind>,
) -> Result<(Adapters, Option<String>)> {
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
