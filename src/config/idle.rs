//! Settings that have no effect beside others. Each is refused unless it has its default: a resolved configuration names every
//! key, and a stage takes back by the default what is set for all stages.

use serde::Serialize;
use serde_yaml::Value;

use super::document::show;
use crate::error::Problems;
use crate::model::config::LoraConfig;
use crate::objective::{Modifiers, ObjectiveConfig, Sigmoid};
use crate::train::config::TrainConfig;
use crate::train::optimizer::OptimizerKind;

/// Names every setting that has no effect, and the remedy.
pub(super) fn check(
    train: &TrainConfig,
    objective: &ObjectiveConfig,
    lora: &LoraConfig,
    problems: &mut Problems,
) {
    of_optimizer(train, problems);
    of_reference(train, problems);
    if objective.resolve().is_ok() {
        of_objective(objective, problems);
    }
    of_lora(lora, train, problems);
}

/// Refuses a value that is not the default; `why` continues a sentence about it.
fn refuse<T: PartialEq + Serialize>(
    (key, why): (&str, &str),
    (value, default): (&T, &T),
    problems: &mut Problems,
) {
    let shown = |value: &T| show(&serde_yaml::to_value(value).unwrap_or_default());
    problems.require(value == default, || {
        format!(
            "{key} is {}, and {why}: it has no effect; remove the line, or write {}, the default",
            shown(value),
            shown(default)
        )
    });
}

fn of_optimizer(train: &TrainConfig, problems: &mut Problems) {
    let reads_epsilon = match train.optim {
        OptimizerKind::AdamW | OptimizerKind::AdamW8Bit | OptimizerKind::ScheduleFreeAdamW => true,
        // By AdamW, for what is not a matrix.
        OptimizerKind::Muon => true,
        OptimizerKind::Lion | OptimizerKind::RmsProp | OptimizerKind::Sgd => false,
    };
    let reads_betas = reads_epsilon || train.optim == OptimizerKind::Lion;
    let optimizer = show(&serde_yaml::to_value(train.optim).unwrap_or_default());
    let why = format!("train.optim is {optimizer}, which does not read it");
    let default = TrainConfig::default();
    for (key, value, default, is_read) in [
        ("train.adam_beta1", train.adam_beta1, default.adam_beta1, reads_betas),
        ("train.adam_beta2", train.adam_beta2, default.adam_beta2, reads_betas),
        ("train.adam_epsilon", train.adam_epsilon, default.adam_epsilon, reads_epsilon),
    ] {
        if !is_read {
            refuse((key, why.as_str()), (&value, &default), problems);
        }
    }
}

fn of_reference(train: &TrainConfig, problems: &mut Problems) {
    if train.sync_ref_model {
        return;
    }
    let why = "train.sync_ref_model is false, so that the reference does not move";
    let default = TrainConfig::default();
    let alphas = (&train.ref_model_mixup_alpha, &default.ref_model_mixup_alpha);
    refuse(("train.ref_model_mixup_alpha", why), alphas, problems);
    let steps = (&train.ref_model_sync_steps, &default.ref_model_sync_steps);
    refuse(("train.ref_model_sync_steps", why), steps, problems);
}

fn of_objective(objective: &ObjectiveConfig, problems: &mut Problems) {
    let (modifiers, default) = (&objective.modifiers, Modifiers::default());
    if modifiers.beta_end.is_none() {
        let why = "objective.beta_end is null, so that beta stays the same";
        let schedules = (&modifiers.beta_schedule, &default.beta_schedule);
        refuse(("objective.beta_schedule", why), schedules, problems);
    }
    let written = serde_yaml::to_value(objective).unwrap_or_default();
    let kind = written.get("f_divergence_type").and_then(Value::as_str).unwrap_or("reverse_kl");
    let alpha = written.get("f_alpha_divergence_coef").and_then(Value::as_f64);
    if let Some(alpha) = alpha.filter(|_| kind != "alpha_divergence") {
        let why = format!("objective.f_divergence_type is {kind}, which has no coefficient");
        let alphas = (&alpha, &Sigmoid::default().f_alpha_divergence_coef);
        refuse(("objective.f_alpha_divergence_coef", why.as_str()), alphas, problems);
    }
}

/// What a prefix, or adapter layers, in place of LoRA do not have. `model` refuses what is switched on.
fn of_lora(lora: &LoraConfig, train: &TrainConfig, problems: &mut Problems) {
    let default = LoraConfig::default();
    let is_prefix = lora.prefix_tuning.is_some();
    if !is_prefix && lora.adapter_layers.is_none() {
        return;
    }
    let key = if is_prefix { "prefix_tuning" } else { "adapter_layers" };
    let why = format!("lora.{key} is set, which takes the place of LoRA");
    let why = why.as_str();
    refuse(("lora.r", why), (&lora.r, &default.r), problems);
    refuse(("lora.lora_alpha", why), (&lora.lora_alpha, &default.lora_alpha), problems);
    if is_prefix {
        // Adapter layers stand behind target modules, and have biases, to which the ratio applies.
        let (targets, layers) = (&lora.target_modules, &lora.layers_to_transform);
        refuse(("lora.target_modules", why), (targets, &default.target_modules), problems);
        refuse(("lora.layers_to_transform", why), (layers, &default.layers_to_transform), problems);
        refuse(("train.loraplus_lr_ratio", why), (&train.loraplus_lr_ratio, &None), problems);
    }
}

#[cfg(test)]
mod tests {
    use super::super::RunConfig;

    fn read(settings: &[&str]) -> crate::error::Result<RunConfig> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let config =
            RunConfig::from_yaml("model: {base: m}\ndata: {train: d.jsonl}\n", "run.yaml", &settings)?;
        config.check_idle().map(|()| config)
    }

    #[test]
    fn what_has_no_effect_is_refused_with_its_default() {
        const PREFIX: &str = "lora.prefix_tuning={num_virtual_tokens: 4}";
        for (settings, part) in [
            (
                vec!["train.optim=sgd", "train.adam_beta1=0.8"],
                "train.adam_beta1 is 0.8, and train.optim is sgd, which does not read it: it has no effect; remove the line, \
                 or write 0.9, the default",
            ),
            (vec!["train.optim=rmsprop", "train.adam_beta2=0.95"], "write 0.999, the default"),
            (vec!["train.optim=lion", "train.adam_epsilon=1e-6"], "write 1e-8, the default"),
            (vec!["train.ref_model_mixup_alpha=0.7"], "train.sync_ref_model is false"),
            (vec!["train.ref_model_sync_steps=2"], "write 512, the default"),
            (vec!["objective.beta_schedule=cosine"], "objective.beta_end is null"),
            (
                vec!["objective.f_alpha_divergence_coef=0.3", "objective.f_divergence_type=forward_kl"],
                "objective.f_divergence_type is forward_kl, which has no coefficient",
            ),
            (vec!["objective.f_alpha_divergence_coef=0.3"], "f_divergence_type is reverse_kl"),
            (vec![PREFIX, "lora.r=8"], "lora.r is 8, and lora.prefix_tuning is set"),
            (vec![PREFIX, "lora.lora_alpha=8"], "lora.lora_alpha is 8"),
            (vec![PREFIX, "lora.target_modules=[q_proj, v_proj]"], "is [q_proj, v_proj], and"),
            (vec![PREFIX, "train.loraplus_lr_ratio=16"], "train.loraplus_lr_ratio is 16"),
            (vec!["lora.adapter_layers={}", "lora.r=8"], "lora.adapter_layers is set, which takes the place"),
        ] {
            let message = read(&settings).unwrap_err().to_string();
            assert!(message.contains(part), "{part} in {message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }

    #[test]
    fn what_has_an_effect_or_its_default_is_accepted() {
        for settings in [
            vec!["train.optim=lion", "train.adam_beta1=0.8", "train.adam_beta2=0.9"],
            vec!["train.optim=adamw_8bit", "train.adam_epsilon=1e-6"],
            vec!["train.optim=sgd", "train.adam_beta1=0.9", "train.adam_epsilon=1.0e-8"],
            vec!["train.sync_ref_model=true", "train.ref_model_sync_steps=2"],
            vec!["objective.beta_schedule=cosine", "objective.beta_end=0.01"],
            vec!["objective.f_divergence_type=alpha_divergence", "objective.f_alpha_divergence_coef=0.3"],
            vec!["lora.prefix_tuning={}", "lora.r=16", "lora.lora_alpha=32"],
            vec!["lora.adapter_layers={}", "lora.target_modules=[q_proj]", "train.loraplus_lr_ratio=16"],
        ] {
            let config = read(&settings).unwrap_or_else(|error| panic!("{settings:?}: {error}"));
            let again = RunConfig::from_yaml(&config.to_yaml().unwrap(), "config.yaml", &[]).unwrap();
            assert_eq!(again, config, "the resolved configuration is accepted");
        }
    }
}
