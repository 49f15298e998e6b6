//! `dpo-lora eval`: preference accuracy, margins, rewards.

use serde_json::{Map, Value};

use crate::cli::EvalPairsArgs;
use crate::commands::adapted::{adapted, base_on};
use crate::commands::output::{print_json, print_text, say};
use crate::commands::together;
use crate::error::{Error, Result};
use crate::eval::preference::Summary;
use crate::objective::{Objective, ObjectiveConfig};
use crate::ranks::Ranks;
use crate::toolkit::Adapted;

pub(super) fn run(args: &EvalPairsArgs) -> Result<()> {
    together::shared(together::FROM_THE_START, |ranks| evaluate(args, ranks))
}

fn evaluate(args: &EvalPairsArgs, ranks: &Ranks) -> Result<()> {
    let base = base_on(ranks, &args.model)?;
    let adapted = ranks.once_per_machine(|| adapted(&base, &args.model))?;
    let objective = objective(&adapted, args.beta)?;
    let pairs = together::read(ranks, || adapted.pairs(&args.data))?;
    pairs.notes.iter().for_each(|note| say(note));
    together::agree(ranks, &adapted, pairs.examples.fingerprint())?;
    let Some(found) = adapted.evaluate_on(ranks, &objective, &pairs)? else { return Ok(()) };
    let found = found.summary();
    if args.json {
        return print_json(&found);
    }
    print_text(&table(&found, &objective, adapted.policy.is_adapted())?)
}

/// Returns the objective that the adapter was trained with, or DPO with a warning; with another β if one is given.
///
/// # Errors
/// If it has no β, or the given one is not possible.
pub(super) fn objective(adapted: &Adapted, beta: Option<f64>) -> Result<Objective> {
    match beta {
        None => Ok(adapted.objective("name --config RUN/config.yaml or --beta")),
        Some(beta) => {
            let trained = adapted.trained.objective.clone().unwrap_or_default();
            ObjectiveConfig::from(&trained).with("beta", beta).resolve()
        }
    }
}

/// The figures as a table for people. Figures that the records or the objective lack are left out.
fn table(found: &Summary, objective: &Objective, adapter: bool) -> Result<String> {
    let by = if adapter { "by reward" } else { "by log-prob; without an adapter every reward is 0" };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut lines = vec![("pairs", found.pairs.to_string())];
    if let (Some(share), Some(low), Some(high)) = (found.accuracy, found.accuracy_low, found.accuracy_high) {
        let interval = format!("95 %: {:.1} to {}", 100.0 * low, percent(high));
        lines.push(("accuracy", format!("{}  ({interval}; {by})", percent(share))));
    }
    if let Some(share) = found.logp_accuracy {
        lines.push(("log-prob accuracy", percent(share)));
    }
    if let Some(loss) = found.loss {
        lines.push(("loss", format!("{loss:.4}  ({})", named(objective)?)));
    }
    if let (Some(margin), Some(chosen), Some(rejected)) =
        (found.reward_margin, found.reward_chosen, found.reward_rejected)
    {
        lines
            .push(("reward margin", format!("{margin:+.4}  (chosen {chosen:+.4}, rejected {rejected:+.4})")));
    }
    if let (Some(kl), Some(per_token)) = (found.kl, found.kl_per_token) {
        lines.push(("KL", format!("{kl:+.4} nats per completion, {per_token:+.5} per token")));
    }
    if let (Some(brier), Some(error)) = (found.brier, found.calibration_error) {
        lines.push((
            "calibration",
            format!("error {error:.4} over ten bins, Brier score {brier:.4}  (σ(Δ) against the labels)"),
        ));
    }
    if found.logp_chosen.is_none() {
        return Ok(lines.into_iter().map(|(name, value)| format!("{name:<18} {value}\n")).collect());
    }
    lines.push(("log-prob", sides(found.logp_chosen, found.logp_rejected, 2)));
    lines.push(("perplexity", sides(found.perplexity_chosen, found.perplexity_rejected, 3)));
    Ok(lines.into_iter().map(|(name, value)| format!("{name:<18} {value}\n")).collect())
}

/// `sigmoid, beta 0.5`: a loss, its β and what else differs from the defaults.
fn named(objective: &Objective) -> Result<String> {
    let usual = keys(&Objective::default())?;
    let found = keys(objective)?;
    let text = |loss: &Value| loss.as_str().map_or_else(|| loss.to_string(), String::from);
    let mut named = vec![found.get("loss_type").map(text).unwrap_or_default()];
    let differs = |key: &str, value: &Value| key == "beta" || usual.get(key) != Some(value);
    let told = found
        .iter()
        .filter(|(key, value)| *key != "loss_type" && !value.is_null() && differs(key.as_str(), value));
    named.extend(told.map(|(key, value)| format!("{key} {value}")));
    Ok(named.join(", "))
}

fn keys(objective: &Objective) -> Result<Map<String, Value>> {
    serde_json::from_str(&objective.to_json()?)
        .map_err(|e| Error::Data(format!("the objective is no object: {e}")))
}

/// `chosen 1.00, rejected 2.00`, or the one side that exists.
fn sides(chosen: Option<f64>, rejected: Option<f64>, digits: usize) -> String {
    let side = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {value:.digits$}"));
    let both: Vec<String> =
        [side("chosen", chosen), side("rejected", rejected)].into_iter().flatten().collect();
    both.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_named_by_what_differs() {
        assert_eq!(named(&Objective::default()).unwrap(), "sigmoid, beta 0.1");
        let of = |json: &str| {
            let config: ObjectiveConfig = serde_json::from_str(json).unwrap();
            named(&config.resolve().unwrap()).unwrap()
        };
        let told = of(r#"{"loss_type": "sigmoid", "beta": 0.5, "label_smoothing": 0.25}"#);
        assert_eq!(told, "sigmoid, beta 0.5, label_smoothing 0.25");
        assert_eq!(of(r#"{"loss_type": "ipo"}"#), "ipo, beta 0.1");
    }
}
