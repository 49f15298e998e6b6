//! Prompts alone, which the policy completes itself.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::example::Kind;
use super::super::fields::{Fields, given, named};
use super::super::messages::{kwargs, tools};
use super::draft::{Draft, filled, turns};
use super::name::Schema;
use super::table;

/// Reads the prompt of a row: of one that has answers too, whatever its schema, or of `prompt` alone. A string is completed
/// as it is, messages as the chat template renders them.
pub(in crate::data) fn prompt(mut fields: Fields, forced: Option<Schema>) -> Result<(Schema, Draft), String> {
    let mut alone = fields.clone();
    // A prompt is completed whatever is thought of its answers.
    let (schema, content) = match table::read(&mut fields, forced, &|_| true) {
        Ok((schema, draft)) => (schema, without_answers(draft.content)),
        Err(why) if forced.is_some() => return Err(why),
        Err(_) => (Schema::PromptCompletion, content(&mut alone)?),
    };
    let is_empty = match &content {
        Content::Text { prompt, .. } => prompt.trim().is_empty(),
        Content::Chat { prompt, .. } => prompt.is_empty(),
    };
    if is_empty {
        return Err("the row has no prompt to complete; give it a column `prompt`".into());
    }
    Ok((schema, Draft { kind: Kind::Prompt, labelled: false, content, doubts: Vec::new() }))
}

fn without_answers(content: Content) -> Content {
    match content {
        Content::Text { prompt, .. } => Content::Text { prompt, answers: Vec::new() },
        Content::Chat { prompt, tools, kwargs, .. } => {
            Content::Chat { prompt, answers: Vec::new(), tools, kwargs }
        }
    }
}

fn content(fields: &mut Fields) -> Result<Content, String> {
    let Some(prompt) = given(fields, "prompt").cloned() else {
        return Err(format!(
            "missing `prompt`; found {}. The policy completes the prompt of each row",
            named(fields)
        ));
    };
    if let Json::String(_) = &prompt {
        let prompt = filled("prompt", &prompt)?.to_string();
        return Ok(Content::Text { prompt, answers: Vec::new() });
    }
    let prompt = turns("prompt", &prompt)?;
    Ok(Content::Chat { prompt, answers: Vec::new(), tools: tools(fields)?, kwargs: kwargs(fields)? })
}
