//! `dpo-lora eval`: preference accuracy, margins, rewards.

use super::base::{self, Adapted};
use super::{print, print_json};
use crate::cli::EvalArgs;
use crate::data::{Sources, Truncation};
use crate::error::Result;
use crate::eval::preference::{self, Evaluation};
use crate::model::pass::Pass;
use crate::objective::ObjectiveConfig;

/// Pairs in a batch; the figures do not depend on it.
const BATCH: usize = 4;

pub(super) fn run(args: &EvalArgs) -> Result<()> {
    let Adapted { tokenizer, decoder, policy, .. } = base::open_policy(&args.model)?;
    let records = base::read_records(&Sources::from(args.data.as_str()))?;
    let pairs = base::tokenize_for(decoder.spec(), &tokenizer, &records, &Truncation::default())?;
    let reference = |packed: &_| decoder.logps(packed, &policy, Pass::Reference);
    let found = preference::evaluate(
        &decoder,
        &policy,
        &pairs.examples,
        BATCH,
        &ObjectiveConfig::default(),
        reference,
    )?;
    if args.json { print_json(&found) } else { print(table(&found, policy.is_adapted()).as_bytes()) }
}

/// The figures for a person.
fn table(found: &Evaluation, adapter: bool) -> String {
    let by = if adapter { "by reward" } else { "by log-prob; without an adapter every reward is 0" };
    format!(
        "pairs              {}\n\
         accuracy           {:.1} %  (95 %: {:.1} to {:.1} %; {by})\n\
         log-prob accuracy  {:.1} %\n\
         loss               {:.4}  (beta 0.1)\n\
         reward margin      {:+.4}  (chosen {:+.4}, rejected {:+.4})\n\
         KL                 {:+.4} nats a completion, {:+.5} a token  (mean log π_ref − log π_θ over the completions)\n\
         log-prob           chosen {:.2}, rejected {:.2}\n\
         perplexity         chosen {:.3}, rejected {:.3}\n",
        found.pairs,
        100.0 * found.accuracy,
        100.0 * found.accuracy_low,
        100.0 * found.accuracy_high,
        100.0 * found.logp_accuracy,
        found.loss,
        found.reward_margin,
        found.reward_chosen,
        found.reward_rejected,
        found.kl,
        found.kl_per_token,
        found.logp_chosen,
        found.logp_rejected,
        found.perplexity_chosen,
        found.perplexity_rejected,
    )
}
