//! `dpo-lora generate`: completions, of the policy or of both sides.

mod prompts;
mod reward;
mod show;

use std::io::IsTerminal;

use self::reward::{Group, Rewarded};
use self::show::{heading, show};
use super::adapted::{adapted, base};
use super::output::{print, say};
use crate::cli::GenerateArgs;
use crate::data::{ChatTokenizer, Message};
use crate::error::Result;
use crate::generate::{Groups, Limits, Request, Rollouts, SamplingConfig, complete_streaming};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::report::Activity;
use crate::toolkit::{Adapted, Base};
use crate::trainable::Policy;

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    let sampling = args.sampling()?;
    let base = base(&args.model)?;
    let Adapted { tokenizer, decoder, policy, .. } = adapted(&base, &args.model)?;
    policy.trained.refuse_score("generate")?;
    let prompts = prompts::read(args)?;
    warn(&base);
    let mut rewarded = Rewarded::new(args, &base, &decoder)?;
    let requests = requests(args, &tokenizer, &prompts, &sampling)?;
    let limits =
        Limits { max_new_tokens: args.max_new_tokens, eos: base.eos(&tokenizer), stop: args.stop.clone() };
    let on = if policy.is_adapted() { (Pass::Policy, "on") } else { (Pass::Reference, "off") };
    let sides = if args.compare { vec![(Pass::Reference, "off"), on] } else { vec![on] };
    let plain = !args.json && args.reward.is_none() && args.completions() == 1;
    if plain && requests.len() == 1 && std::io::stdout().is_terminal() {
        let side = |pass| (&decoder, &tokenizer, (&policy, pass));
        return streamed(args, side, (&prompts[0], &requests[0]), &sides, &limits);
    }
    let mut groups = Vec::new();
    for (pass, _) in &sides {
        let all = Rollouts::new(&decoder, &tokenizer, requests.clone(), (&policy, *pass), &limits)?;
        groups.push(all.by_request());
    }
    let activity = Activity::new("completing prompts", requests.len() as u64);
    let mut first = 0;
    while first < requests.len() {
        let end = (first + rewarded.prompts_together(args.completions())).min(requests.len());
        for group in rewarded.score(drawn(&mut groups, &sides, first..end)?, &prompts, &requests)? {
            show(args, &prompts[group.prompt], &group)?;
        }
        activity.advance((end - first) as u64);
        first = end;
    }
    drop(activity);
    rewarded.summary().iter().for_each(|line| say(line));
    Ok(())
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
    prompts: std::ops::Range<usize>,
) -> Result<Vec<Group>> {
    let mut drawn = Vec::new();
    for prompt in prompts {
        for (groups, (_, adapter)) in groups.iter_mut().zip(sides) {
            let completions = groups.next().transpose()?.unwrap_or_default();
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
        let mut show = |piece: &str| print(piece.as_bytes());
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
