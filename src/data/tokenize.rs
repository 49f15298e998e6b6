//! Turns records into examples, following TRL 1.16 (`dpo_trainer.py`, `tokenize_fn`).

use super::dataset::Dataset;
use super::doubt::{About, Doubt};
use super::example::Example;
use super::messages::Message;
use super::records::{Content, Record};
use super::rendered;
use super::template::RenderOptions;
use super::tokenizer::ChatTokenizer;
use crate::error::{Error, Result};

/// A record as token ids, and what its template lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokenized {
    /// The example.
    pub example: Example,
    /// The end of the rendered prompt that the rendered conversation does not contain, so that it is never trained on.
    /// `None` if the conversation begins with the whole prompt.
    pub lost: Option<String>,
    /// What its template did not write.
    pub doubts: Vec<Doubt>,
}

/// Tokenizes one record without truncation.
///
/// The prompt and, for each answer, prompt + answer are encoded. The longest common token prefix of all of them is the
/// example's prompt; the rest is the completion. Tokens that merge across the boundary thus move the boundary but never
/// change a sequence.
///
/// # Errors
/// Returns [`Error::Record`] if there is no chat template, the template rejects the conversation, there is no EOS
/// token, a completion has no token to score, or two completions have the same tokens.
pub fn tokenize(tokenizer: &ChatTokenizer, record: &Record) -> Result<Tokenized> {
    let here = |e: Error| record.origin.error(e.to_string());
    let Sequences { prompt, whole, lost, header, texts } =
        sequences(tokenizer, &record.content).map_err(here)?;
    let border = whole.iter().map(|sequence| common(&prompt, sequence)).min().unwrap_or(prompt.len());
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
    if let Some((first, second)) = example.equal() {
        let (first, second) = (record.kind.field(first), record.kind.field(second));
        return Err(record.origin.error(format!(
            "{first} and {second} are equal once they are rendered and tokenized; answers without a difference teach \
             nothing, remove the record or use a chat template that shows the difference"
        )));
    }
    let mut doubts =
        rendered::doubts(&record.content, record.kind, &texts).map_err(|what| record.origin.error(what))?;
    doubts.extend(endless(tokenizer, record, &example));
    doubts.extend(header.map(|text| Doubt::new(About::Header, format!("{text:?} is scored"))));
    // A prompt by itself ends in the EOS that the tokenizer adds. Prompts of other formats are put together here, and nobody can
    // write them in another way.
    let ends = tokenizer.adds_eos() && prompt.last().copied() == tokenizer.eos_id();
    let asked = &prompt[..prompt.len() - usize::from(ends)];
    if record.schema.mixes() && matches!(record.content, Content::Text { .. }) && border < asked.len() {
        let rest = tokenizer.decode(&asked[border..], false).unwrap_or_default();
        doubts.push(Doubt::new(About::Border, format!("the prompt ends in {rest:?}")));
    }
    Ok(Tokenized { example, lost, doubts })
}

/// The token ids of the prompt, and of the prompt with each answer.
struct Sequences {
    prompt: Vec<u32>,
    whole: Vec<Vec<u32>>,
    lost: Option<String>,
    header: Option<String>,
    /// The rendered conversations; none of plain texts.
    texts: Vec<String>,
}

fn sequences(tokenizer: &ChatTokenizer, content: &Content) -> Result<Sequences> {
    match content {
        Content::Text { prompt, answers } => {
            let whole = |answer: &String| {
                encode_text(tokenizer, &format!("{prompt}{}", with_eos(tokenizer, answer)?))
            };
            let whole = answers.iter().map(whole).collect::<Result<_>>()?;
            Ok(Sequences {
                prompt: encode_text(tokenizer, prompt)?,
                whole,
                lost: None,
                header: None,
                texts: Vec::new(),
            })
        }
        Content::Chat { prompt, answers, tools, kwargs } => {
            let render = |answer: &[Message], add_generation_prompt| {
                let messages: Vec<_> = prompt.iter().chain(answer).collect();
                let options =
                    RenderOptions { add_generation_prompt, tools: tools.as_ref(), kwargs: kwargs.as_ref() };
                tokenizer.render_with(&messages, options)
            };
            let texts = answers.iter().map(|answer| render(answer, false)).collect::<Result<Vec<_>>>()?;
            // Templates need at least one message, and a standalone text has no prompt.
            let prompt = if prompt.is_empty() { String::new() } else { render(&[], true)? };
            let encode = |text: &String| tokenizer.encode(text, false);
            let ids = if prompt.is_empty() { Vec::new() } else { encode(&prompt)? };
            let whole = texts.iter().map(encode).collect::<Result<_>>()?;
            let lost = texts.iter().find_map(|text| lost(&prompt, text));
            let header = texts.iter().zip(answers).find_map(|(text, answer)| header(&prompt, text, answer));
            Ok(Sequences { prompt: ids, whole, lost, header, texts })
        }
    }
}

/// Returns the doubt about a conversation of which no answer ends in EOS or another special token, before white space.
fn endless(tokenizer: &ChatTokenizer, record: &Record, example: &Example) -> Option<Doubt> {
    if !matches!(record.content, Content::Chat { .. }) || example.completions.is_empty() {
        return None;
    }
    let text = |id: u32, skip| tokenizer.decode(&[id], skip).unwrap_or_default();
    let mut last = String::new();
    for completion in &example.completions {
        let end = completion.iter().rev().find(|id| !text(**id, false).trim().is_empty())?;
        if tokenizer.eos_id() == Some(*end) || text(*end, true).is_empty() {
            return None;
        }
        last = text(*end, false);
    }
    Some(Doubt::new(About::End, format!("the last token is {last:?}")))
}

/// Returns what follows the part of `prompt` with which `whole` begins. The generation prompt often ends in white space
/// that the conversation does not repeat; that is no loss.
fn lost(prompt: &str, whole: &str) -> Option<String> {
    let border = prompt.char_indices().zip(whole.chars()).find(|((_, left), right)| left != right);
    let border = border.map_or(prompt.len().min(whole.len()), |((at, _), _)| at);
    let rest = &prompt[border..];
    (!rest.trim().is_empty()).then(|| rest.to_owned())
}

/// The fields of a message in which templates find its reasoning.
const REASONING: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// Returns the text between the prompt and the answer if it names the speaker, as models of chat know it or as the record does:
/// then it is the beginning of the assistant's turn.
fn header(prompt: &str, whole: &str, answer: &[Message]) -> Option<String> {
    // Reasoning stands there as well, and says anything.
    let thinks = |message: &&Message| REASONING.iter().any(|name| message.fields().contains_key(*name));
    let first = answer.first().filter(|_| !prompt.is_empty()).filter(|first| !thinks(first))?;
    let said = first.content().trim();
    let rest = whole.strip_prefix(prompt)?;
    let before = &rest[..rest.find(said).filter(|_| !said.is_empty())?];
    [first.role(), "assistant", "model"].iter().any(|name| before.contains(name)).then(|| before.to_owned())
}

/// Returns `answer` adjusted such that the encoded sequence ends with exactly one EOS. This is TRL's `add_eos`, except
/// that TRL gets two EOS tokens if the tokenizer itself adds one.
fn with_eos(tokenizer: &ChatTokenizer, answer: &str) -> Result<String> {
    let eos = tokenizer.special_token("eos_token").filter(|_| tokenizer.eos_id().is_some()).ok_or_else(|| {
        Error::Data(
            "a completion must end with the EOS token; name an eos_token of the vocabulary in tokenizer_config.json (of a GGUF file: tokenizer.ggml.eos_token_id)".into(),
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

/// Checks that all tokens of an example are within a model's `vocab_size` embeddings.
///
/// # Errors
/// Returns [`Error::Record`] with the token and both sizes: the tokenizer belongs to another model.
pub fn check_vocab(tokenizer: &ChatTokenizer, example: &Example, vocab_size: usize) -> Result<()> {
    let mut tokens = example.prompt.iter().chain(example.completions.iter().flatten());
    match tokens.find(|id| **id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(example.origin.error(format!(
            "token {id} ({:?}) does not exist in the model, whose vocabulary has {vocab_size} entries (the tokenizer's has \
             {}); the tokenizer belongs to another model",
            tokenizer.token(*id).unwrap_or_default(),
            tokenizer.vocab_size()
        ))),
    }
}

/// Checks that no example is longer than the model's `max_positions`.
///
/// # Errors
/// Returns [`Error::Data`] with the number of such examples, the longest one and the remedy.
pub fn check_positions(examples: &Dataset, max_positions: usize) -> Result<()> {
    let too_long = || examples.entries().filter(|entry| entry.longest() > max_positions);
    // The first of the longest examples; `max_by_key` alone would return the last.
    match too_long().min_by_key(|entry| std::cmp::Reverse(entry.longest())) {
        None => Ok(()),
        Some(longest) => Err(Error::Data(format!(
            "{} of {} examples are longer than the {max_positions} positions of the model (the longest, {}, has {} tokens); \
             set data.max_length to {max_positions} or less",
            too_long().count(),
            examples.len(),
            examples.origin(longest),
            longest.longest()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::Kind;
    use super::super::example::Origin;
    use super::super::schema::Schema;
    use super::super::tokenizer::tests::{CONFIG, tokenizer};
    use super::*;

    fn tokenize(tokenizer: &ChatTokenizer, record: &Record) -> Result<Example> {
        super::tokenize(tokenizer, record).map(|tokenized| tokenized.example)
    }

    fn record(prompt: &str, chosen: &str, rejected: &str) -> Record {
        let content = Content::Text { prompt: prompt.into(), answers: vec![chosen.into(), rejected.into()] };
        Record {
            origin: Origin::new("t", 5),
            source: None,
            schema: Schema::Preference,
            labelled: true,
            kind: Kind::pair(0.5),
            content,
            doubts: Vec::new(),
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
        let found = super::tokenize(&tokenizer(false, &adds_eos), &record("a", " c", " b")).unwrap();
        assert_eq!(found.doubts, []);
    }

    #[test]
    fn a_merge_moves_the_border_and_not_the_sequence() {
        let found = super::tokenize(&tokenizer(true, CONFIG), &record("ca", "b", "c")).unwrap();
        assert_eq!(found.doubts.iter().map(|doubt| doubt.about).collect::<Vec<_>>(), [About::Border]);
        let example = found.example;
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

    #[test]
    fn a_turn_that_the_prompt_does_not_begin_is_told_of() {
        let answer = [Message::new("assistant", " Paris.")];
        let turn = "<|user|>Hi<|assistant|>\nParis.";
        assert_eq!(header("<|user|>Hi", turn, &answer), Some("<|assistant|>\n".into()));
        assert_eq!(header("<|user|>Hi<|assistant|>\n", turn, &answer), None);
        // No speaker is named, as in Mistral's templates; and reasoning is no speaker.
        assert_eq!(header("[INST] Hi [/INST]", "[INST] Hi [/INST] Paris.", &answer), None);
        assert_eq!(header("<|user|>Hi", "<|user|>Hi<think>\n</think>Paris.", &answer), None);
        let mut thinking = answer[0].fields().clone();
        thinking.insert("reasoning_content".into(), "a model".into());
        let thinking = [Message::from_fields(thinking)];
        assert_eq!(header("<|user|>Hi", "<|user|>Hi<think>a model</think>Paris.", &thinking), None);
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
    fn tokens_and_lengths_must_fit_the_model() {
        let tokenizer = tokenizer(true, CONFIG);
        let records = [record("a", "b", "c"), record("a", "ab c", "c")];
        let examples: Vec<Example> = records.iter().map(|r| tokenize(&tokenizer, r).unwrap()).collect();
        let check_vocab = |size| examples.iter().try_for_each(|e| check_vocab(&tokenizer, e, size));
        assert!(check_vocab(7).is_ok());
        let error = check_vocab(6).unwrap_err().to_string();
        assert!(error.contains("token 6 (\"ab\")") && error.contains("6 entries"), "{error}");
        let examples = Dataset::from(examples);
        // <s> a | ab _ c </s>: 6 tokens; "aab c" is a·ab·_·c.
        assert!(check_positions(&examples, 6).is_ok());
        let error = check_positions(&examples, 5).unwrap_err().to_string();
        assert!(
            error.contains("1 of 2") && error.contains("has 6 tokens") && error.contains("data.max_length"),
            "{error}"
        );
    }

    #[test]
    fn answers_that_become_equal_are_refused() {
        let config = CONFIG.replace("m.content", "m.content | replace('c', 'b')");
        let answer = |content| vec![Message::new("assistant", content)];
        let content = Content::Chat {
            prompt: vec![Message::new("user", "a")],
            answers: vec![answer("b"), answer("c")],
            tools: None,
            kwargs: None,
        };
        let error = tokenize(&tokenizer(true, &config), &Record { content, ..record("", "", "") })
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("t:5: chosen and rejected are equal once they are rendered"), "{error}");
    }

    #[test]
    fn what_a_template_loses_of_its_prompt_is_returned() {
        assert_eq!(lost("<s>sys\n<a>", "<s>hi"), Some("sys\n<a>".into()));
        assert_eq!(lost("<s>hi<a>", "<s>hi<a>yes"), None);
        assert_eq!(lost("<s>hi \n", "<s>hi"), None, "white space is no loss");
        assert_eq!(lost("äb", "äc"), Some("b".into()));
    }
}
