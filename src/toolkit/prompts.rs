//! Prompts to complete: of a file of prompts, or of preference data with the answers that people chose.

use std::path::Path;

use serde_json::Value;

use super::embedded;
use super::records::feeds;
use crate::data::content::conversation;
use crate::data::{ChatTokenizer, Content, DataConfig, Message, RenderOptions, Sources, Wanted};
use crate::error::{Error, Result};
use crate::files;
use crate::model::decoder::Decoder;
use crate::model::pass::Pass;
use crate::trainable::Policy;

/// A prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// As people read it: without the marks of a chat template.
    pub text: String,
    /// As the model reads it.
    pub tokens: Vec<u32>,
    /// The answer that the data prefer, if they have one.
    pub chosen: Option<String>,
}

/// Reads the prompts of a file: one per line, or one JSON object with a `prompt` per line. A text is sent as the user's
/// message if `chat` says so, or says nothing and there is a template.
///
/// # Errors
/// If the file cannot be read, holds no prompts, or the template refuses one.
pub fn of_file(path: &Path, tokenizer: &ChatTokenizer, chat: Option<bool>) -> Result<Vec<Prompt>> {
    let chat = chat.unwrap_or(tokenizer.template().is_some());
    let prompt = |text: String| {
        let tokens = if chat {
            tokenizer.encode(&tokenizer.render(&[Message::new("user", &text)], true)?, false)?
        } else {
            tokenizer.encode(&text, true)?
        };
        Ok(Prompt { text, tokens, chosen: None })
    };
    texts(path)?.into_iter().map(|(text, _)| prompt(text)).collect()
}

/// Says what is wrong with a prompt of this many tokens, if it leaves the model no position for an answer: a clause such as
/// `300 tokens, and the model has 256 positions for it and the answer`.
///
/// # Errors
/// If the policy's virtual tokens do not fit the model.
pub fn without_room(tokens: usize, decoder: &Decoder, policy: &Policy) -> Result<Option<String>> {
    let (before, most) = (decoder.virtual_tokens(policy, Pass::Policy)?, decoder.spec().max_positions);
    let behind = if before > 0 { format!(" behind {before} virtual ones") } else { String::new() };
    let clause =
        || format!("{tokens} tokens{behind}, and the model has {most} positions for it and the answer");
    Ok((before + tokens >= most).then(clause))
}

/// Returns the texts of a file of prompts, each with its line, counted from 1.
///
/// # Errors
/// If the file cannot be read or holds no prompts.
pub fn texts(path: &Path) -> Result<Vec<(String, usize)>> {
    let name = path.to_string_lossy();
    let path = embedded::path(&name)?.unwrap_or_else(|| path.to_path_buf());
    let text = files::read_text(&path)?;
    let prompts = lines(&text, &path)?;
    if prompts.is_empty() {
        return Err(Error::Data(format!("{} holds no prompts", path.display())));
    }
    Ok(prompts)
}

/// Reads JSON lines with a `prompt`, or one prompt per line; each with its line.
fn lines(text: &str, path: &Path) -> Result<Vec<(String, usize)>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            if !line.trim_start().starts_with('{') {
                return Ok((line.to_string(), i + 1));
            }
            let error =
                |message: String| Error::Record { file: path.display().to_string(), line: i + 1, message };
            let value: Value = serde_json::from_str(line).map_err(|e| error(e.to_string()))?;
            match value.get("prompt") {
                Some(Value::String(prompt)) => Ok((prompt.clone(), i + 1)),
                _ => Err(error("`prompt` is missing or not a string".into())),
            }
        })
        .collect()
}

/// Reads the prompts of preference data in any format, with the first answer of each record. A text is sent as it is, as in
/// training; a conversation is rendered by the template.
///
/// # Errors
/// If the data cannot be read, hold no records, or the template refuses one.
pub fn of_records(source: &str, tokenizer: &ChatTokenizer) -> Result<Vec<Prompt>> {
    let sources = Sources::from(source);
    let config = DataConfig::new(sources.clone());
    let mut prompts = Vec::new();
    for feed in feeds(&sources, &config, Wanted::Whole)? {
        for input in &feed.inputs {
            for row in input.rows()? {
                let Some(record) = feed.reader.read(row?)? else { continue };
                let here = |e: Error| record.origin.error(e.to_string());
                prompts.push(of_content(&record.content, tokenizer).map_err(here)?);
            }
        }
    }
    if prompts.is_empty() {
        return Err(Error::Data(format!("{source} holds no records")));
    }
    Ok(prompts)
}

fn of_content(content: &Content, tokenizer: &ChatTokenizer) -> Result<Prompt> {
    match content {
        Content::Text { prompt, answers } => Ok(Prompt {
            text: prompt.clone(),
            tokens: tokenizer.encode(prompt, true)?,
            chosen: answers.first().cloned(),
        }),
        Content::Chat { prompt, answers, tools, kwargs } => {
            let options =
                RenderOptions { add_generation_prompt: true, tools: tools.as_ref(), kwargs: kwargs.as_ref() };
            let rendered = tokenizer.render_with(&prompt.iter().collect::<Vec<_>>(), options)?;
            Ok(Prompt {
                text: content.prompt_text(),
                tokens: tokenizer.encode(&rendered, false)?,
                chosen: answers.first().map(|answer| conversation(answer)),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Base, OpenOptions};
    use super::*;

    #[test]
    fn prompts_are_lines_or_objects() {
        let path = Path::new("p.jsonl");
        let found = lines("one\n\n{\"prompt\": \"two\", \"x\": 1}\n", path).unwrap();
        assert_eq!(found, [("one".to_string(), 1), ("two".to_string(), 3)]);
        let error = lines("one\n{\"text\": 1}\n", path).unwrap_err().to_string();
        assert!(error.starts_with("p.jsonl:2: `prompt`"), "{error}");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_prompt() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prompts");
        for (text, prompt) in [("\u{feff}one\ntwo\n", "one"), ("\u{feff}{\"prompt\": \"a\"}\n", "a")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(texts(&path).unwrap()[0], (prompt.to_string(), 1));
        }
        std::fs::write(&path, "\u{feff}\n").unwrap();
        assert!(texts(&path).unwrap_err().to_string().contains("holds no prompts"));
    }

    #[test]
    fn a_prompt_leaves_a_position_for_an_answer() {
        let base = Base::open_with("tiny-reviews", &OpenOptions::on_cpu()).unwrap();
        let decoder = base.decoder().unwrap();
        let most = decoder.spec().max_positions;
        let said = |tokens| without_room(tokens, &decoder, &Policy::default()).unwrap();
        assert_eq!(said(most - 1), None);
        let clause = format!("{most} tokens, and the model has {most} positions for it and the answer");
        assert_eq!(said(most), Some(clause));
    }

    #[test]
    fn a_conversation_is_text() {
        let messages = [Message::new("user", "a"), Message::new("assistant", "b")];
        assert_eq!(conversation(&messages), "user: a\n\nassistant: b");
        assert_eq!(conversation(&messages[..1]), "a");
    }
}
