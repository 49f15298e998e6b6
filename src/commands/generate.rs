//! `dpo-lora generate`: completions, of the policy or of both sides.

use std::io::IsTerminal;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::adapted::{adapted, base};
use super::output::{print, print_json, say};
use crate::cli::GenerateArgs;
use crate::data::{ChatTokenizer, Message};
use crate::error::{Error, Result};
use crate::generate::{
    Completion, FinishReason, Limits, Request, SamplingConfig, TOGETHER, complete_all, complete_streaming,
};
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::report::Activity;
use crate::toolkit::{Adapted, embedded};
use crate::trainable::Policy;

/// One object of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    prompt: &'a str,
    completion: &'a str,
    adapter: &'static str,
    tokens: usize,
    finish_reason: FinishReason,
}

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    let base = base(&args.model)?;
    let Adapted { tokenizer, decoder, policy, .. } = adapted(&base, &args.model)?;
    policy.trained.refuse_score("generate")?;
    let prompts = prompts(args)?;
    let unapplied = base.unapplied_settings();
    if !unapplied.is_empty() {
        say(&format!(
            "warning: generation_config.json asks for {}, which transformers applies and this command does not",
            unapplied.join(", ")
        ));
    }
    let chat = args.chat().unwrap_or(tokenizer.template().is_some());
    let limits =
        Limits { max_new_tokens: args.max_new_tokens, eos: base.eos(&tokenizer), stop: args.stop.clone() };
    let on = if policy.is_adapted() { (Pass::Policy, "on") } else { (Pass::Reference, "off") };
    let passes = if args.compare { vec![(Pass::Reference, "off"), on] } else { vec![on] };
    let mut requests = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.iter().enumerate() {
        // Each prompt has its own random stream, the same for both sides.
        let sampling = SamplingConfig {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            seed: args.seed.wrapping_add(i as u64),
        };
        requests.push(Request { prompt: encode(&tokenizer, prompt, chat)?, sampling });
    }
    let decode = Decode { args, decoder: &decoder, tokenizer: &tokenizer, policy: &policy, limits: &limits };
    // A device completes many prompts in the time of one.
    if std::io::stdout().is_terminal() && !args.json && (requests.len() == 1 || !decoder.steps_together()) {
        return decode.streamed(&prompts, &requests, &passes);
    }
    let activity = Activity::new("completing prompts", requests.len() as u64);
    // One prompt at a time where the decoder computes one at a time, so that each is shown when it is done.
    let together = if decoder.steps_together() { TOGETHER } else { 1 };
    for (first, requests) in requests.chunks(together).enumerate() {
        let sides = passes
            .iter()
            .map(|(pass, _)| complete_all(&decoder, &tokenizer, requests, (&policy, *pass), &limits))
            .collect::<Result<Vec<_>>>()?;
        for i in 0..requests.len() {
            for ((_, adapter), completions) in passes.iter().zip(&sides) {
                let number = first * together + i;
                show(args, &prompts[number], adapter, &completions[i], number > 0)?;
            }
        }
        activity.advance(requests.len() as u64);
    }
    Ok(())
}

/// What all completions have in common.
struct Decode<'a> {
    args: &'a GenerateArgs,
    decoder: &'a Decoder,
    tokenizer: &'a ChatTokenizer,
    policy: &'a Policy,
    limits: &'a Limits,
}

impl Decode<'_> {
    /// Shows each completion while it grows.
    fn streamed(
        &self,
        prompts: &[String],
        requests: &[Request],
        passes: &[(Pass, &'static str)],
    ) -> Result<()> {
        let Self { args, decoder, tokenizer, policy, limits } = *self;
        for (i, (prompt, request)) in prompts.iter().zip(requests).enumerate() {
            for (pass, adapter) in passes {
                print(heading(args, prompt, adapter, i > 0).as_bytes())?;
                let mut show = |piece: &str| print(piece.as_bytes());
                complete_streaming(decoder, tokenizer, request, (policy, *pass), limits, &mut show)?;
                print(b"\n")?;
            }
        }
        Ok(())
    }
}

/// Returns the token ids of a prompt: as it is, or as the user's turn of the chat template.
fn encode(tokenizer: &ChatTokenizer, prompt: &str, chat: bool) -> Result<Vec<u32>> {
    if !chat {
        return tokenizer.encode(prompt, true);
    }
    let text = tokenizer.render(&[Message::new("user", prompt)], true)?;
    tokenizer.encode(&text, false)
}

fn show(
    args: &GenerateArgs,
    prompt: &str,
    adapter: &'static str,
    found: &Completion,
    again: bool,
) -> Result<()> {
    if args.json {
        let (completion, tokens) = (found.text.as_str(), found.tokens.len());
        return print_json(&Line { prompt, completion, adapter, tokens, finish_reason: found.finish_reason });
    }
    let mut text = heading(args, prompt, adapter, again);
    text.push_str(&found.text);
    text.push('\n');
    print(text.as_bytes())
}

/// What stands before a completion.
fn heading(args: &GenerateArgs, prompt: &str, adapter: &'static str, again: bool) -> String {
    let mut text = String::new();
    let heading = args.prompt.len() != 1 || args.compare;
    if heading && (adapter != "on" || !args.compare) {
        text.push_str(&format!("{}> {prompt}\n", if again { "\n" } else { "" }));
    }
    if args.compare {
        text.push_str(&format!("[adapter {adapter}]"));
    }
    text
}

/// Returns the prompts of the command line or of a file.
fn prompts(args: &GenerateArgs) -> Result<Vec<String>> {
    let Some(path) = &args.prompts else { return Ok(args.prompt.clone()) };
    let name = path.to_string_lossy();
    let path = embedded::path(&name)?.unwrap_or_else(|| path.clone());
    let text = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
    let prompts = read_prompts(&text, &path)?;
    if prompts.is_empty() {
        return Err(Error::Data(format!("{} holds no prompts", path.display())));
    }
    Ok(prompts)
}

/// Reads JSON lines with a `prompt`, or one prompt per line.
fn read_prompts(text: &str, path: &Path) -> Result<Vec<String>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            if !line.trim_start().starts_with('{') {
                return Ok(line.to_string());
            }
            let error =
                |message: String| Error::Record { file: path.display().to_string(), line: i + 1, message };
            let value: Value = serde_json::from_str(line).map_err(|e| error(e.to_string()))?;
            match value.get("prompt") {
                Some(Value::String(prompt)) => Ok(prompt.clone()),
                _ => Err(error("`prompt` is missing or not a string".into())),
            }
        })
        .collect()
}
