//! Turns records into examples, following TRL 1.16 (`dpo_trainer.py`, `tokenize_fn`).

use rayon::prelude::*;

use super::example::{Example, Origin};
use super::messages::Message;
use super::records::{Content, Record};
use super::template::RenderOptions;
use super::tokenizer::ChatTokenizer;
use super::truncate::{Outcome, Truncation};
use crate::error::{Error, Result};

/// A record that is not used for training, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The origin of the record.
    pub origin: Origin,
    /// The reason: a sentence about `it`.
    pub why: String,
}

/// The tokenized records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokenized {
    /// The remaining examples, in order.
    pub examples: Vec<Example>,
    /// The dropped records, in order.
    pub dropped: Vec<Dropped>,
    /// The number of examples that lost tokens to `max_length` or `max_prompt_length`.
    pub truncated: usize,
}

/// Tokenizes `records` on all threads, keeping their order, and truncates them to the limits.
///
/// # Errors
/// Fails at the first record (in order) that [`tokenize`] rejects. Returns [`Error::Data`] if every record was dropped.
pub fn tokenize_all(
    tokenizer: &ChatTokenizer,
    records: &[Record],
    truncation: &Truncation,
) -> Result<Tokenized> {
    // Collect everything first, so that which of several errors is reported does not depend on thread timing.
    let outcomes: Vec<Result<(Example, Outcome)>> = records
        .par_iter()
        .map(|record| {
            let mut example = tokenize(tokenizer, record)?;
            let outcome = truncation.apply(&mut example, tokenizer.bos_id());
            Ok((example, outcome))
        })
        .collect();
    let mut tokenized = Tokenized::default();
    for outcome in outcomes {
        let (example, outcome) = outcome?;
        match outcome {
            Outcome::Dropped(why) => tokenized.dropped.push(Dropped { origin: example.origin, why }),
            Outcome::Truncated | Outcome::Whole => {
                tokenized.truncated += usize::from(outcome == Outcome::Truncated);
                tokenized.examples.push(example);
            }
        }
    }
    match tokenized.dropped.first() {
        Some(Dropped { origin, why }) if tokenized.examples.is_empty() => Err(Error::Data(format!(
            "nothing is left to train on: all {} pairs were dropped, {origin} because {why}; raise data.max_length, or set \
             data.max_prompt_length to keep the end of long prompts",
            records.len()
        ))),
        _ => Ok(tokenized),
    }
}

/// Tokenizes one record without truncation.
///
/// The prompt and, for each answer, prompt + answer are encoded. The longest common token prefix of all of them is the
/// example's prompt; the rest is the completion. Tokens that merge across the boundary thus move the boundary but never
/// change a sequence.
///
/// # Errors
/// Returns [`Error::Record`] if there is no chat template, the template rejects the conversation, there is no EOS
/// token, or a completion has no token to score.
pub fn tokenize(tokenizer: &ChatTokenizer, record: &Record) -> Result<Example> {
    let here = |e: Error| record.origin.error(e.to_string());
    let (prompt, whole) = sequences(tokenizer, &record.content).map_err(here)?;
    let border = whole.iter().map(|sequence| common(&prompt, sequence)).min().unwrap_or(0);
    let example = Example {
        prompt: prompt[..border].to_vec(),
        completions: whole.iter().map(|sequence| sequence[border..].to_vec()).collect(),
        kind: record.kind,
        origin: record.origin.clone(),
    };
    for index in 0..example.completions.len() {
        if example.scored(index) == 0 {
            let name = record.kind.field(index);
            let tokens = example.completions[index].len();
            return Err(record.origin.error(if example.prompt.is_empty() {
                format!(
                    "{name} has {tokens} token(s) and stands behind an empty prompt, where nothing predicts the first; give \
                     the record a prompt"
                )
            } else {
                format!("{name} adds no token to the prompt once rendered, so that there is nothing to score")
            }));
        }
    }
    Ok(example)
}

/// Returns the token ids of the prompt, and of the prompt with each answer.
fn sequences(tokenizer: &ChatTokenizer, content: &Content) -> Result<(Vec<u32>, Vec<Vec<u32>>)> {
    match content {
        Content::Text { prompt, answers } => {
            let whole = |answer: &String| {
                encode_text(tokenizer, &format!("{prompt}{}", with_eos(tokenizer, answer)?))
            };
            Ok((encode_text(tokenizer, prompt)?, answers.iter().map(whole).collect::<Result<_>>()?))
        }
        Content::Chat { prompt, answers, tools, kwargs } => {
            let encode = |answer: &[Message], add_generation_prompt| {
                let messages: Vec<_> = prompt.iter().chain(answer).collect();
                let options =
                    RenderOptions { add_generation_prompt, tools: tools.as_ref(), kwargs: kwargs.as_ref() };
                tokenizer.encode(&tokenizer.render_with(&messages, options)?, false)
            };
            let whole = answers.iter().map(|answer| encode(answer, false));
            // Templates need at least one message, and a standalone text has no prompt.
            let prompt_ids = if prompt.is_empty() { Vec::new() } else { encode(&[], true)? };
            Ok((prompt_ids, whole.collect::<Result<_>>()?))
        }
    }
}

/// Returns `answer` adjusted such that the encoded sequence ends with exactly one EOS. This is TRL's `add_eos`, except
/// that TRL gets two EOS tokens if the tokenizer itself adds one.
fn with_eos(tokenizer: &ChatTokenizer, answer: &str) -> Result<String> {
    let eos = tokenizer.special_token("eos_token").filter(|_| tokenizer.eos_id().is_some()).ok_or_else(|| {
        Error::Data(
            "a completion must end with the EOS token; name an eos_token of the vocabulary in tokenizer_config.json".into(),
        )
    })?;
    let bare = answer.strip_suffix(eos).unwrap_or(answer);
    Ok(if tokenizer.adds_eos() { bare.to_owned() } else { format!("{bare}{eos}") })
}

/// Encodes plain text, including the tokens that the tokenizer adds. A text that already starts with BOS gets only one,
/// where TRL gets two.
fn encode_text(tokenizer: &ChatTokenizer, text: &str) -> Result<Vec<u32>> {
    let mut ids = tokenizer.encode(text, true)?;
    if let (true, Some(bos)) = (tokenizer.adds_bos(), tokenizer.bos_id())
        && ids.starts_with(&[bos, bos])
    {
        ids.remove(0);
    }
    Ok(ids)
}

/// Returns the number of leading tokens that `left` and `right` share.
fn common(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// Checks that all tokens are within a model's `vocab_size` embeddings.
///
/// # Errors
/// Returns [`Error::Data`] with the token and both sizes: the tokenizer belongs to another model.
pub fn check_vocab(tokenizer: &ChatTokenizer, examples: &[Example], vocab_size: usize) -> Result<()> {
    for example in examples {
        let tokens = example.prompt.iter().chain(example.completions.iter().flatten());
        if let Some(id) = tokens.copied().find(|id| *id as usize >= vocab_size) {
            return Err(Error::Data(format!(
                "{}: token {id} ({:?}) does not exist in the model, whose vocabulary has {vocab_size} entries (the \
                 tokenizer's has {}); the tokenizer belongs to another model",
                example.origin,
                tokenizer.token(id).unwrap_or_default(),
                tokenizer.vocab_size()
            )));
        }
    }
    Ok(())
}

/// Checks that no example is longer than the model's `max_positions`.
///
/// # Errors
/// Returns [`Error::Data`] with the number of such examples, the longest one and the remedy.
pub fn check_positions(examples: &[Example], max_positions: usize) -> Result<()> {
    let too_long = || examples.iter().filter(|example| example.longest() > max_positions);
    // Takes the first of the longest examples; `max_by_key` alone would return the last.
    match too_long().rev().max_by_key(|example| example.longest()) {
        None => Ok(()),
        Some(longest) => Err(Error::Data(format!(
            "{} of {} examples are longer than the {max_positions} positions of the model (the longest, {}, has {} tokens); \
             set data.max_length to {max_positions} or less",
            too_long().count(),
            examples.len(),
            longest.origin,
            longest.longest()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::Kind;
    use super::super::schema::Schema;
    use super::super::tokenizer::tests::{CONFIG, tokenizer};
    use super::super::truncate::TruncationMode;
    use super::*;

    fn record(prompt: &str, chosen: &str, rejected: &str) -> Record {
        let content = Content::Text { prompt: prompt.into(), answers: vec![chosen.into(), rejected.into()] };
        Record {
            origin: Origin::new("t", 5),
            source: None,
            schema: Schema::Preference,
            labelled: true,
            kind: Kind::Pair { label: 0.5 },
            content,
        }
    }

    // Ids: <s> 0, </s> 1, a 2, b 3, c 4, space 5, ab 6.

    #[test]
    fn bos_and_eos_stand_exactly_once() {
        let expect = |bos, config: &str, prompt: &str| {
            let example = tokenize(&tokenizer(bos, config), &record(prompt, " c", " b</s>")).unwrap();
            (example.prompt, example.completions, example.kind.label())
        };
        let completions = vec![vec![5, 4, 1], vec![5, 3, 1]];
        // The space is common to all sequences except the prompt itself, so it stays in the completion.
        assert_eq!(expect(true, CONFIG, "a"), (vec![0, 2], completions.clone(), 0.5));
        assert_eq!(expect(true, CONFIG, "<s>a"), (vec![0, 2], completions.clone(), 0.5));
        assert_eq!(expect(false, CONFIG, "a"), (vec![2], completions.clone(), 0.5));
        let adds_eos = CONFIG.replacen('{', r#"{"add_eos_token": true, "#, 1);
        assert_eq!(expect(false, &adds_eos, "a"), (vec![2], completions, 0.5));
    }

    #[test]
    fn a_merge_moves_the_border_and_not_the_sequence() {
        let example = tokenize(&tokenizer(true, CONFIG), &record("ca", "b", "c")).unwrap();
        // "cab" is c·ab, so only <s>·c is common; "cac" keeps its a, now as part of the completion.
        assert_eq!(example.prompt, [0, 4]);
        assert_eq!(example.completions, [vec![6, 1], vec![2, 4, 1]]);
    }

    #[test]
    fn conversations_get_nothing_but_what_the_template_renders() {
        let [prompt, chosen, rejected] = [("user", "a"), ("assistant", "b"), ("assistant", "c")]
            .map(|(role, content)| vec![Message::new(role, content)]);
        let content = Content::Chat { prompt, answers: vec![chosen, rejected], tools: None, kwargs: None };
        let example = tokenize(&tokenizer(true, CONFIG), &Record { content, ..record("", "", "") }).unwrap();
        // Prompt "a</s> ", chosen "a</s>b</s>": no BOS, and the space of the generation prompt is not part of the
        // sequence.
        assert_eq!(example.prompt, [2, 1]);
        assert_eq!(example.completions, [vec![3, 1], vec![4, 1]]);
    }

    /// TRL's `SFTTrainer`: every token of a text except the first is scored.
    #[test]
    fn texts_of_their_own_stand_behind_no_prompt() {
        let text = Content::Text { prompt: String::new(), answers: vec!["ca".into()] };
        let record = |content| Record { content, kind: Kind::Text, ..record("", "", "") };
        let of =
            |bos, content: &Content| tokenize(&tokenizer(bos, CONFIG), &record(content.clone())).unwrap();
        let plain = of(true, &text);
        assert_eq!((plain.prompt.as_slice(), plain.scored(0)), (&[0][..], 3));
        assert_eq!(plain.completions, [[4, 2, 1]]);
        let bare = of(false, &text);
        assert_eq!((bare.prompt.len(), bare.scored(0)), (0, 2));
        let answers = vec![vec![Message::new("user", "a"), Message::new("assistant", "b")]];
        let chat = Content::Chat { prompt: Vec::new(), answers, tools: None, kwargs: None };
        let rendered = of(true, &chat);
        assert_eq!((rendered.prompt.len(), rendered.completions), (0, vec![vec![2, 1, 3, 1]]));
    }

    #[test]
    fn what_cannot_be_scored_is_an_error() {
        let message = |bos, prompt, chosen, config: &str| {
            tokenize(&tokenizer(bos, config), &record(prompt, chosen, "c")).unwrap_err().to_string()
        };
        // An empty prompt after BOS is fine; without BOS, the only token of chosen has no predecessor.
        assert!(tokenize(&tokenizer(true, CONFIG), &record("", "</s>", "c")).is_ok());
        let unpredicted = message(false, "", "</s>", CONFIG);
        assert!(unpredicted.starts_with("t:5: chosen has 1 token(s)"), "{unpredicted}");
        let no_eos = message(true, "a", "b", "{}");
        assert!(no_eos.contains("name an eos_token"), "{no_eos}");
        let silent = CONFIG.replace("m.content + eos_token", "m.role");
        let answer = |content| vec![Message::new("assistant", content)];
        let content = Content::Chat {
            prompt: vec![Message::new("a", "")],
            answers: vec![answer("b"), answer("c")],
            tools: None,
            kwargs: None,
        };
        let same = silent.replace("m.role", "messages[0].role if loop.first else ''").replace("> </", "></");
        let error = tokenize(&tokenizer(true, &same), &Record { content, ..record("", "", "") })
            .unwrap_err()
            .to_string();
        assert!(error.contains("chosen adds no token to the prompt"), "{error}");
    }

    #[test]
    fn dropped_and_truncated_are_counted_in_order() {
        let records = [record("a", "b", "c"), record("c c c c", "b", "c"), record("c", "a c b", "b")];
        let limit =
            Truncation { max_length: Some(4), mode: TruncationMode::KeepStart, ..Truncation::default() };
        let tokenized = tokenize_all(&tokenizer(true, CONFIG), &records, &limit).unwrap();
        assert_eq!(tokenized.examples.len(), 2);
        assert_eq!(tokenized.truncated, 1);
        assert_eq!(tokenized.examples[1].completions, [vec![2, 5], vec![3, 1]]);
        assert!(tokenized.dropped[0].why.contains("prompt of 8 tokens"), "{:?}", tokenized.dropped);
        let error = tokenize_all(&tokenizer(true, CONFIG), &records[1..2], &limit).unwrap_err().to_string();
        assert!(
            error.contains("all 1 pairs were dropped, t:5") && error.contains("raise data.max_length"),
            "{error}"
        );
    }

    #[test]
    fn tokens_and_lengths_must_fit_the_model() {
        let tokenizer = tokenizer(true, CONFIG);
        let examples = tokenize_all(
            &tokenizer,
            &[record("a", "b", "c"), record("a", "ab c", "c")],
            &Truncation::default(),
        );
        let examples = examples.unwrap().examples;
        assert!(check_vocab(&tokenizer, &examples, 7).is_ok());
        let error = check_vocab(&tokenizer, &examples, 6).unwrap_err().to_string();
        assert!(error.contains("token 6 (\"ab\")") && error.contains("6 entries"), "{error}");
        // <s> a | ab _ c </s>: 6 tokens; "aab c" is a·ab·_·c.
        assert!(check_positions(&examples, 6).is_ok());
        let error = check_positions(&examples, 5).unwrap_err().to_string();
        assert!(
            error.contains("1 of 2") && error.contains("has 6 tokens") && error.contains("data.max_length"),
            "{error}"
        );
    }
}
