//! Columns with content that the schema of a row does not read. They are refused, not ignored: a question in another
//! column would be lost, and nothing would be said.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::fields::{Fields, shortened};
use super::super::messages::Message;
use super::judgements::words;

/// Columns that mean a part of the conversation wherever they stand.
const PARTS: [&str; 17] = [
    "question",
    "instruction",
    "input",
    "query",
    "problem",
    "context",
    "history",
    "system",
    "system_prompt",
    "conversation",
    "conversations",
    "messages",
    "trajectory",
    "passage",
    "document",
    "prompt",
    "dialogue",
];

/// Beginnings of words of the names of such columns.
const BEGINNINGS: [&str; 10] = [
    "system",
    "context",
    "passage",
    "document",
    "article",
    "instruction",
    "function",
    "tool",
    "choice",
    "option",
];

/// Columns with what is not text.
const MEDIA: [&str; 8] = ["image", "images", "video", "videos", "audio", "audios", "image_path", "image_url"];

/// Parts of the names of columns that describe a row: they are never its question.
const METADATA: [&str; 43] = [
    "id",
    "uuid",
    "hash",
    "key",
    "index",
    "source",
    "origin",
    "original",
    "dataset",
    "data",
    "split",
    "subset",
    "model",
    "models",
    "generator",
    "judge",
    "annotator",
    "score",
    "scores",
    "rating",
    "ratings",
    "reward",
    "rank",
    "margin",
    "category",
    "categories",
    "domain",
    "topic",
    "task",
    "tag",
    "tags",
    "type",
    "label",
    "lang",
    "language",
    "license",
    "url",
    "date",
    "timestamp",
    "meta",
    "metadata",
    "status",
    "raw",
];

/// Further words of this kind, which stand for texts about the answers.
const COMMENTS: [&str; 13] = [
    "rationale",
    "rationales",
    "reason",
    "explanation",
    "feedback",
    "critique",
    "comment",
    "comments",
    "note",
    "notes",
    "judgement",
    "judgment",
    "name",
];

/// Refuses content that was not read. `known` are the columns of the schema; `implicit` says that the prompt is the
/// common beginning of the answers.
pub(super) fn refuse_lost(
    fields: &Fields,
    known: impl Fn(&str) -> bool,
    implicit: bool,
    content: &Content,
) -> Result<(), String> {
    for (name, value) in fields.iter().filter(|(name, _)| !known(name)) {
        if MEDIA.contains(&name.as_str()) && !is_empty(value) {
            return Err(format!(
                "`{name}` is not read: models of texts have no place for it; remove the row, or the column if the texts do \
                 without it (data.columns: {{{name}: null}})"
            ));
        }
        let part = PARTS.contains(&name.as_str()) || may_be_a_part(name, value);
        if !(part || implicit && may_be_the_prompt(name, value)) {
            continue;
        }
        let Some(lost) = texts(value).into_iter().find(|text| !is_within(text, content, part && !implicit))
        else {
            continue;
        };
        let is_tool = words(name).any(|word| word.starts_with("function") || word.starts_with("tool"));
        return Err(if is_tool && matches!(content, Content::Chat { .. }) {
            format!(
                "`{name}` ({:?}) is not read; name it tools, which the chat template reads (data.columns: {{tools: {name}}}), or \
                 leave the column out (data.columns: {{{name}: null}})",
                shortened(lost)
            )
        } else if implicit {
            format!(
                "`{name}` ({:?}) is not read: the prompt is the common beginning of chosen and rejected ({:?}), which does \
                 not contain it; name the prompt's column (data.columns: {{prompt: {name}}}), or leave this one out \
                 (data.columns: {{{name}: null}})",
                shortened(lost),
                shortened(beginning(content))
            )
        } else {
            format!(
                "`{name}` ({:?}) is not read, and the prompt does not contain it; add it to the prompt, or leave the column \
                 out (data.columns: {{{name}: null}})",
                shortened(lost)
            )
        });
    }
    match content {
        Content::Text { .. } => refuse_template_fields(fields),
        Content::Chat { .. } => Ok(()),
    }
}

/// Strings are used as they are: no chat template reads tools or its arguments.
fn refuse_template_fields(fields: &Fields) -> Result<(), String> {
    for name in ["tools", "chat_template_kwargs"] {
        if fields.get(name).is_some_and(|value| !is_empty(value)) {
            return Err(format!(
                "{name} is for a chat template, and the texts of this row are strings, which none renders; give lists of \
                 messages, or leave the column out (data.columns: {{{name}: null}})"
            ));
        }
    }
    Ok(())
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.trim().is_empty() || text.trim() == "[]",
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => map.values().all(Json::is_null),
        Json::Bool(_) | Json::Number(_) => false,
    }
}

/// Whether an unknown column may be the question: several words, or messages, under a name that is not about the row.
fn may_be_the_prompt(name: &str, value: &Json) -> bool {
    let content = match value {
        Json::String(text) => text.trim().contains(char::is_whitespace),
        Json::Array(list) => {
            list.iter().any(|entry| entry.get("content").or_else(|| entry.get("value")).is_some())
        }
        _ => false,
    };
    content && !is_about_the_row(name)
}

/// Whether the name is one for what the user gives beside the question, and the value has a text.
fn may_be_a_part(name: &str, value: &Json) -> bool {
    let is_named = words(name).any(|word| BEGINNINGS.iter().any(|part| word.starts_with(part)));
    let is_read = ["tools", "chat_template_kwargs"].contains(&name);
    let has_text = || texts(value).iter().any(|text| text.contains(char::is_alphanumeric));
    is_named && !is_read && !is_about_the_row(name) && has_text()
}

/// Whether a name says that the column describes the row, or comments on its answers.
fn is_about_the_row(name: &str) -> bool {
    words(name).any(|word| METADATA.contains(&word.as_str()) || COMMENTS.contains(&word.as_str()))
}

/// Returns all texts within a value, apart from speakers.
fn texts(value: &Json) -> Vec<&str> {
    match value {
        Json::String(text) => vec![text.trim()],
        Json::Array(list) => list.iter().flat_map(texts).collect(),
        // The recursion is as deep as the JSON, which its parser limits to 128.
        Json::Object(map) => {
            let spoken = map.iter().filter(|(name, _)| !["role", "from", "type"].contains(&name.as_str()));
            spoken.flat_map(|(_, value)| texts(value)).collect()
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => Vec::new(),
    }
}

/// Whether `text` is part of the prompt, or of an answer if `answers_too`.
fn is_within(text: &str, content: &Content, answers_too: bool) -> bool {
    let said = |messages: &[Message]| messages.iter().any(|message| message.says(text));
    match content {
        Content::Text { prompt, answers } => {
            prompt.contains(text) || answers_too && answers.iter().any(|answer| answer.contains(text))
        }
        Content::Chat { prompt, answers, .. } => {
            said(prompt) || answers_too && answers.iter().any(|answer| said(answer))
        }
    }
}

fn beginning(content: &Content) -> &str {
    match content {
        Content::Text { prompt, .. } => prompt,
        Content::Chat { prompt, .. } => prompt.last().map_or("", Message::content),
    }
}
