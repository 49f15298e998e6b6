//! Completions as text and as JSON.

use serde::Serialize;

use super::reward::Group;
use crate::cli::GenerateArgs;
use crate::data::show::harmless;
use crate::error::{Error, Result};
use crate::generate::{Completion, FinishReason};
use crate::reward::kl_bound;

/// One object of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    prompt: &'a str,
    completion: &'a str,
    adapter: &'static str,
    /// Number of tokens without the end-of-text token.
    tokens: usize,
    finish_reason: FinishReason,
    /// Index of the prompt, from 0.
    prompt_index: usize,
    /// Index among the prompt's completions, from 0.
    completion_index: usize,
    /// The tokens as drawn, with the end-of-text token if there is one.
    token_ids: Vec<u32>,
    /// Log-prob of each of them under the model at temperature 1.
    logps: &'a [f32],
    /// Log-prob of each of them under the distribution that it was drawn from.
    sampling_logps: &'a [f32],
    #[serde(skip_serializing_if = "Option::is_none")]
    reward: Option<f64>,
    /// Whether it is the best of its prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    best: Option<bool>,
    /// log N − (N−1)/N, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    kl_bound: Option<f64>,
}

/// Returns the completions of a prompt as they are printed: all of them as JSON, the best of them as text with `--best-of`.
pub(super) fn show(args: &GenerateArgs, prompt: &str, group: &Group) -> Result<String> {
    let best = args.best_of.and(group.best());
    let mut text = String::new();
    for (i, completion) in group.completions.iter().enumerate() {
        let reward = group.rewards.as_ref().and_then(|rewards| rewards.get(i)).copied();
        if args.json {
            let line = line(args, (prompt, group.adapter), completion, reward, best);
            text.push_str(&serde_json::to_string(&line).map_err(|e| Error::Data(e.to_string()))?);
            text.push('\n');
        } else if best.is_none_or(|best| best == i) {
            if i == 0 || best.is_some() {
                text.push_str(&heading(args, prompt, group.adapter, group.prompt > 0));
            } else if args.compare {
                text.push_str(&side(group.adapter));
            }
            text.push_str(&label(args, i, reward));
            text.push_str(&completion.text);
            text.push('\n');
        }
    }
    Ok(text)
}

fn line<'a>(
    args: &GenerateArgs,
    (prompt, adapter): (&'a str, &'static str),
    completion: &'a Completion,
    reward: Option<f64>,
    best: Option<usize>,
) -> Line<'a> {
    Line {
        prompt,
        completion: &completion.text,
        adapter,
        tokens: completion.tokens.len(),
        finish_reason: completion.finish_reason,
        prompt_index: completion.prompt,
        completion_index: completion.index,
        token_ids: completion.drawn(),
        logps: &completion.logps,
        sampling_logps: &completion.sampling_logps,
        reward,
        best: best.map(|best| best == completion.index),
        kl_bound: args.best_of.map(kl_bound),
    }
}

/// What stands before the completions of a prompt.
pub(super) fn heading(args: &GenerateArgs, prompt: &str, adapter: &'static str, again: bool) -> String {
    let mut text = String::new();
    let heading = args.prompt.len() != 1 || args.compare;
    if heading && (adapter != "on" || !args.compare) {
        text.push_str(&format!("{}> {}\n", if again { "\n" } else { "" }, harmless(prompt)));
    }
    if args.compare {
        text.push_str(&side(adapter));
    }
    text
}

fn side(adapter: &str) -> String {
    format!("[adapter {adapter}]")
}

/// The number and the reward of a completion, where there are several or rewards.
fn label(args: &GenerateArgs, index: usize, reward: Option<f64>) -> String {
    let several = args.best_of.is_none() && args.completions() > 1;
    let parts = [several.then(|| (index + 1).to_string()), reward.map(|reward| format!("reward {reward}"))];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!("[{}]", parts.join(", ")) }
}
