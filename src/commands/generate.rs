//! `dpo-lora generate`: completions, of the policy or of both sides.

mod prompts;
mod reward;
mod show;

use std::io::IsTerminal;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use self::prompts::Prompts;
use self::reward::{Group, OfGroup, Rewarded, Sums};
use self::show::{heading, show};
use super::adapted::{adapted, base_on};
use super::output::{print, say};
use super::together;
use crate::cli::GenerateArgs;
use crate::data::show::harmless;
use crate::data::{ChatTokenizer, Message};
use crate::error::Result;
use crate::generate::{Groups, Limits, Request, Rollouts, SamplingConfig, complete_streaming};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::ranks::Ranks;
use crate::report::Activity;
use crate::toolkit::{Adapted, Base, reward_in_short};
use crate::trainable::Policy;

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    together::shared(together::FROM_THE_START, |ranks| generate(args, ranks))
}

fn generate(args: &GenerateArgs, ranks: &Ranks) -> Result<()> {
    let sampling = args.sampling()?;
    if let Some(idle) = args.idle() {
        log::warn!("{idle}");
    }
    let base = base_on(ranks, &args.model)?;
    let adapted = ranks.once_per_machine(|| adapted(&base, &args.model))?;
    let Adapted { tokenizer, decoder, policy, .. } = &adapted;
    policy.trained.refuse_score("generate")?;
    let asked = Prompts::read(args)?;
    let requests = requests(args, tokenizer, &asked.texts, &sampling)?;
    asked.check(&requests, &adapted)?;
    let prompts = asked.texts;
    together::agree(ranks, &adapted, fingerprint(&prompts, &requests))?;
    warn(&base);
    let mut rewarded = ranks.once_per_machine(|| Rewarded::new(args, &base, decoder))?;
    let reward = args.reward.as_ref().map(reward_in_short).transpose()?;
    ranks.agree(&[("its reward (the files of its adapter)", reward.unwrap_or_default())])?;
    let limits =
        Limits { max_new_tokens: args.max_new_tokens, eos: base.eos(tokenizer), stop: args.stop.clone() };
    let on = if policy.is_adapted() { (Pass::Policy, "on") } else { (Pass::Reference, "off") };
    let sides = if args.compare { vec![(Pass::Reference, "off"), on] } else { vec![on] };
    let plain = !args.json && args.reward.is_none() && args.completions() == 1 && ranks.is_alone();
    if plain && requests.len() == 1 && std::io::stdout().is_terminal() {
        let side = |pass| (decoder, tokenizer, (policy, pass));
        return streamed(args, side, (&prompts[0], &requests[0]), &sides, &limits);
    }
    // Each rank completes some windows of prompts.
    let window = rewarded.prompts_together(args.completions()).min(requests.len().div_ceil(ranks.size()));
    let windows = Windows { prompts: requests.len(), size: window.max(1) };
    let own: Vec<usize> = ranks.items(windows.count()).flat_map(|item| windows.range(item)).collect();
    let mut groups = Vec::new();
    for (pass, _) in &sides {
        let requests = own.iter().map(|prompt| requests[*prompt].clone()).collect();
        let all = Rollouts::new(decoder, tokenizer, requests, (policy, *pass), &limits)?;
        groups.push(all.by_request());
    }
    let activity = Activity::new("completing prompts", requests.len() as u64);
    let is_shown = !args.json && std::io::stdout().is_terminal();
    let mut sums = Sums::default();
    let work = |item| {
        let groups = drawn(&mut groups, &sides, windows.range(item))?;
        Shown::of(args, &prompts, rewarded.score(groups, &prompts, &requests)?)
    };
    ranks.in_turn(windows.count(), work, |item, shown: Shown| {
        // A completion may hold what would act on a terminal; a file gets it as it is.
        let text = if is_shown { harmless(&shown.text) } else { shown.text };
        print(text.as_bytes())?;
        sums.add(&shown.rewards);
        activity.advance(windows.range(item).len() as u64);
        Ok(())
    })?;
    drop(activity);
    rewarded.summary(&sums).iter().for_each(|line| say(line));
    Ok(())
}

/// Returns a text that differs for other prompts, and for others of their tokens.
fn fingerprint(prompts: &[String], requests: &[Request]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (prompt, request) in prompts.iter().zip(requests) {
        hasher.update(format!("{prompt:?} {:?}\n", request.prompt).as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Prompts that are completed and scored together.
struct Windows {
    prompts: usize,
    size: usize,
}

impl Windows {
    fn count(&self) -> usize {
        self.prompts.div_ceil(self.size)
    }

    fn range(&self, index: usize) -> Range<usize> {
        let first = index * self.size;
        first..self.prompts.min(first + self.size)
    }
}

/// What is printed of a window of prompts, and the rewards of each of its groups.
#[derive(Serialize, Deserialize)]
struct Shown {
    text: String,
    rewards: Vec<OfGroup>,
}

impl Shown {
    fn of(args: &GenerateArgs, prompts: &[String], groups: Vec<Group>) -> Result<Self> {
        let mut text = String::new();
        for group in &groups {
            text.push_str(&show(args, &prompts[group.prompt], group)?);
        }
        Ok(Self { text, rewards: groups.iter().filter_map(Group::rewarded).collect() })
    }
}

/// Says which settings of the model are not applied.
fn warn(base: &Base) {
    let unapplied = base.unapplied_settings();
    if !unapplied.is_empty() {
        say(&format!(
            "warning: generation_config.json asks for {}, which transformers applies and this command does not",
            unapplied.join(", ")
        ));
    }
}

/// Makes a request of each prompt. Each has its own random stream, the same for both sides.
fn requests(
    args: &GenerateArgs,
    tokenizer: &ChatTokenizer,
    prompts: &[String],
    sampling: &SamplingConfig,
) -> Result<Vec<Request>> {
    let chat = args.chat().unwrap_or(tokenizer.template().is_some());
    let request = |(i, prompt): (usize, &String)| {
        let prompt = encode(tokenizer, prompt, chat)?;
        Ok(Request { prompt, sampling: sampling.for_prompt(i), completions: args.completions() })
    };
    prompts.iter().enumerate().map(request).collect()
}

/// Draws the completions of some prompts: those of the first prompt on all sides, then of the next.
fn drawn(
    groups: &mut [Groups<Rollouts>],
    sides: &[(Pass, &'static str)],
    prompts: Range<usize>,
) -> Result<Vec<Group>> {
    let mut drawn = Vec::new();
    for prompt in prompts {
        for (groups, (_, adapter)) in groups.iter_mut().zip(sides) {
            let mut completions = groups.next().transpose()?.unwrap_or_default();
            // The requests of a rank have numbers of their own.
            completions.iter_mut().for_each(|completion| completion.prompt = prompt);
            drawn.push(Group { prompt, adapter, completions, rewards: None });
        }
    }
    Ok(drawn)
}

/// Shows each side's completion while it grows.
fn streamed<'a>(
    args: &GenerateArgs,
    side: impl Fn(Pass) -> (&'a Decoder, &'a ChatTokenizer, (&'a Policy, Pass)),
    (prompt, request): (&str, &Request),
    sides: &[(Pass, &'static str)],
    limits: &Limits,
) -> Result<()> {
    for (pass, adapter) in sides {
        print(heading(args, prompt, adapter, false).as_bytes())?;
        let mut show = |piece: &str| print(harmless(piece).as_bytes());
        let (decoder, tokenizer, side) = side(*pass);
        complete_streaming(decoder, tokenizer, request, side, limits, &mut show)?;
        print(b"\n")?;
    }
    Ok(())
}

/// Returns the token ids of a prompt: as it is, or as the user's turn of the chat template.
fn encode(tokenizer: &ChatTokenizer, prompt: &str, chat: bool) -> Result<Vec<u32>> {
    if !chat {
        return tokenizer.encode(prompt, true);
    }
    let text = tokenizer.render(&[Message::new("user", prompt)], true)?;
    tokenizer.encode(&text, false)
}
