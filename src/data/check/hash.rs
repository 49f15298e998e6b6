//! Hashes of what a record says, by which repeated ones are found. 64 bits: among a million records two that differ
//! have the same hash with a probability of 3·10⁻⁸.

use blake3::Hasher;
use serde_json::Value as Json;

use crate::data::{Content, Kind, Message, Record};

/// The hashes of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// Of the prompt and the set of answers, whatever their order.
    pub content: u64,
    /// Of the preference between the answers: two records with equal `content` and different `order` contradict each
    /// other.
    pub order: u32,
    /// Of the prompt; `None` if it is empty.
    pub prompt: Option<u64>,
}

impl Hashes {
    /// Hashes a record. Its origin, source and the size of its label do not count.
    pub fn of(record: &Record) -> Self {
        let (prompt, is_empty, mut answers) = match &record.content {
            Content::Text { prompt, answers } => {
                let texts = answers.iter().map(|answer| finish(|hasher| text(hasher, answer)));
                (finish(|hasher| text(hasher, prompt)), prompt.is_empty(), texts.collect::<Vec<_>>())
            }
            Content::Chat { prompt, answers, tools, kwargs } => {
                let turns = |turns: &[Message], hasher: &mut Hasher| {
                    turns.iter().for_each(|turn| object(hasher, turn.fields().iter()));
                };
                let shared = finish(|hasher| {
                    turns(prompt, hasher);
                    hasher.update(b"|");
                    tools.iter().for_each(|tools| json(hasher, tools));
                    kwargs.iter().for_each(|kwargs| object(hasher, kwargs.iter()));
                });
                let answers = answers.iter().map(|answer| finish(|hasher| turns(answer, hasher)));
                (shared, prompt.is_empty(), answers.collect())
            }
        };
        let order = order(record.kind, &answers);
        answers.sort_unstable();
        let content = finish(|hasher| {
            hasher.update(kind(record.kind)).update(&prompt.to_le_bytes());
            answers.iter().for_each(|answer| {
                hasher.update(&answer.to_le_bytes());
            });
        });
        Self { content, order, prompt: (!is_empty).then_some(prompt) }
    }
}

fn kind(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Pair { .. } => b"pair",
        Kind::Ranked => b"ranked",
        Kind::Judged { .. } => b"judged",
        Kind::Text => b"text",
        Kind::Mismatched => b"mismatched",
        Kind::Prompt => b"prompt",
    }
}

/// Which answer is preferred. A label below 0.5 prefers the one that stands second.
fn order(kind: Kind, answers: &[u64]) -> u32 {
    match kind {
        Kind::Pair { label, .. } => {
            let ascends = answers.first() < answers.get(1);
            u32::from(if label < 0.5 { !ascends } else { ascends })
        }
        Kind::Ranked => finish(|hasher| {
            answers.iter().for_each(|answer| {
                hasher.update(&answer.to_le_bytes());
            });
        }) as u32,
        Kind::Judged { desirable } => u32::from(desirable),
        Kind::Text | Kind::Mismatched | Kind::Prompt => 0,
    }
}

fn finish(feed: impl FnOnce(&mut Hasher)) -> u64 {
    let mut hasher = Hasher::new();
    feed(&mut hasher);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

/// The length stands first, so that no two lists of texts look the same.
fn text(hasher: &mut Hasher, text: &str) {
    hasher.update(b"s").update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
}

fn json(hasher: &mut Hasher, value: &Json) {
    match value {
        Json::String(string) => text(hasher, string),
        Json::Array(list) => {
            hasher.update(b"[").update(&(list.len() as u64).to_le_bytes());
            list.iter().for_each(|item| json(hasher, item));
        }
        Json::Object(map) => object(hasher, map.iter()),
        Json::Null | Json::Bool(_) | Json::Number(_) => text(hasher, &value.to_string()),
    }
}

/// The order of the keys does not count.
fn object<'a>(hasher: &mut Hasher, fields: impl Iterator<Item = (&'a String, &'a Json)>) {
    let mut fields: Vec<_> = fields.collect();
    fields.sort_unstable_by_key(|(key, _)| *key);
    hasher.update(b"{").update(&(fields.len() as u64).to_le_bytes());
    for (key, value) in fields {
        text(hasher, key);
        json(hasher, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Input, records};

    fn of(line: &'static str) -> Hashes {
        Hashes::of(&records::load(&[Input::text("t", line)]).unwrap()[0])
    }

    #[test]
    fn the_order_of_answers_is_apart_from_the_content() {
        let pair = of(r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#);
        let turned = of(r#"{"prompt": "a", "chosen": "c", "rejected": "b"}"#);
        assert_eq!((pair.content, pair.prompt), (turned.content, turned.prompt));
        assert_ne!(pair.order, turned.order);
        // The same preference, said by the label.
        assert_eq!(pair, of(r#"{"prompt": "a", "chosen": "c", "rejected": "b", "label": 0.2}"#));
        assert_eq!(pair, of(r#"{"prompt": "a", "chosen": "b", "rejected": "c", "label": 0.9}"#));
        assert_ne!(pair.content, of(r#"{"prompt": "a", "completions": ["b", "c"]}"#).content);
        let judged = |label| {
            Hashes::of(&{
                let line = format!(r#"{{"prompt": "a", "completion": "b", "label": {label}}}"#);
                records::load(&[Input::text("t", line)]).unwrap().remove(0)
            })
        };
        assert_eq!(judged(true).content, judged(false).content);
        assert_ne!(judged(true).order, judged(false).order);
    }

    #[test]
    fn keys_in_another_order_are_the_same_message_and_borders_count() {
        let chat = |message: &str| {
            let line = format!(r#"{{"messages": [{message}]}}"#);
            Hashes::of(&records::load(&[Input::text("t", line)]).unwrap()[0]).content
        };
        let one = chat(r#"{"role": "assistant", "content": "a"}"#);
        assert_eq!(one, chat(r#"{"content": "a", "role": "assistant"}"#));
        assert_ne!(one, chat(r#"{"role": "assistant", "content": "b"}"#));
        let text = |a: &str, b: &str| {
            let line = format!(r#"{{"prompt": "{a}", "completion": "{b}"}}"#);
            Hashes::of(&records::load(&[Input::text("t", line)]).unwrap()[0]).content
        };
        assert_ne!(text("ab", "c"), text("a", "bc"));
        assert_eq!(of(r#"{"text": "a"}"#).prompt, None);
    }
}
