//! Columns with content that the schema of a row does not read. They are refused, not ignored: a question in another
//! column would be lost, and nothing would be said.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::example::Kind;
use super::super::fields::{Fields, MEDIA, is_empty, key, shortened};
use super::super::format::stands_for;
use super::super::messages::Message;
use super::draft::Draft;
use super::judgements::words;
use super::repeats::MARKS;

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

/// Columns that mean a part of the conversation where there is a single answer, or the whole row once more.
const SINGLE: [&str; 3] = ["prompt", "text", "completion"];

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

/// Parts of the names of columns that describe a row: they are never its question.
pub(super) const METADATA: [&str; 43] = [
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
pub(super) const COMMENTS: [&str; 13] = [
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
    draft: &Draft,
) -> Result<(), String> {
    let content = &draft.content;
    let is_single = matches!(draft.kind, Kind::Text | Kind::Judged { .. });
    for (name, value) in fields.iter().filter(|(name, value)| !known(name) && !is_missing(name, value)) {
        if MEDIA.contains(&name.as_str()) && !is_empty(value) {
            return Err(format!(
                "`{name}` is not read: models of texts have no place for it; remove the row, or the column if the texts do \
                 without it (data.columns: {{{name}: null}})"
            ));
        }
        let may_be_single = is_single && SINGLE.contains(&name.as_str());
        let part = PARTS.contains(&name.as_str()) || may_be_single || may_be_a_part(name, value);
        if !(part || implicit && may_be_the_prompt(name, value)) {
            continue;
        }
        let is_read = |text: &str| {
            is_within(text, content, part && !implicit) || may_be_single && renders(text, content)
        };
        let Some(lost) = texts(value).into_iter().find(|text| !is_read(text)) else { continue };
        return Err(problem(name, lost, implicit, content));
    }
    match content {
        Content::Text { .. } => refuse_template_fields(fields),
        Content::Chat { .. } => Ok(()),
    }
}

/// Describes the column `name` with the text `lost`.
fn problem(name: &str, lost: &str, implicit: bool, content: &Content) -> String {
    let (lost, key) = (shortened(lost), key(name));
    let is_tool = words(name).any(|word| word.starts_with("function") || word.starts_with("tool"));
    if is_tool && matches!(content, Content::Chat { .. }) {
        format!(
            "`{name}` ({lost:?}) is not read; name it tools, which the chat template reads (data.columns: {{tools: {key}}}), or \
             leave the column out (data.columns: {{{key}: null}})"
        )
    } else if implicit {
        let remedy = match name {
            "prompt" => "set data.format to preference, which reads it".to_owned(),
            _ => format!("name the prompt's column (data.columns: {{prompt: {key}}})"),
        };
        format!(
            "`{name}` ({lost:?}) is not read: the prompt is the common beginning of chosen and rejected ({:?}), which does \
             not contain it; {remedy}, or leave this one out (data.columns: {{{key}: null}})",
            shortened(beginning(content))
        )
    } else {
        let whole = whole(content);
        format!(
            "`{name}` ({lost:?}) is not read, and {whole} does not contain it; add it to {whole}, or leave the column out \
             (data.columns: {{{key}: null}})"
        )
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

/// Whether the value of the column `name` is NaN, which pandas writes where there is none.
pub(super) fn is_missing(name: &str, value: &Json) -> bool {
    stands_for(value) == Some(("NaN", name))
}

/// What would have to contain the content of a column.
fn whole(content: &Content) -> &'static str {
    match content {
        Content::Text { prompt, .. } if prompt.is_empty() => "the text",
        Content::Chat { prompt, .. } if prompt.is_empty() => "the conversation",
        Content::Text { .. } | Content::Chat { .. } => "the prompt",
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
pub(super) fn texts(value: &Json) -> Vec<&str> {
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
pub(super) fn is_within(text: &str, content: &Content, answers_too: bool) -> bool {
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

/// Whether `text` is the row once more, as one text: it has every line of the prompt and of the answers, in order, or every line
/// before the last answer and only marks beside them. Data sets have such a column beside messages, or beside an instruction
/// and its answer.
pub(super) fn renders(text: &str, content: &Content) -> bool {
    let parts: Vec<&str> = match content {
        Content::Text { prompt, answers } => {
            std::iter::once(prompt).chain(answers).map(String::as_str).collect()
        }
        Content::Chat { prompt, answers, .. } => {
            prompt.iter().chain(answers.iter().flatten()).map(Message::content).collect()
        }
    };
    if asks(text, &parts) {
        return true;
    }
    // Of a single part, `text` would be the longer one, with content of its own.
    if parts.iter().filter(|part| !part.trim().is_empty()).count() < 2 {
        return false;
    }
    let lines = parts.iter().flat_map(|part| part.lines());
    let mut lines = lines.map(str::trim).filter(|line| !line.is_empty());
    lines.try_fold(text, |rest, line| behind(line, rest)).is_some() || text.contains(parts.concat().trim())
}

/// Whether `text` has every line of all parts but the last, in order, and only marks beside them.
fn asks(text: &str, parts: &[&str]) -> bool {
    let Some((_, before)) = parts.split_last() else { return false };
    let lines = before.iter().flat_map(|part| part.lines()).map(str::trim).filter(|line| !line.is_empty());
    let (mut rest, mut beside) = (text, String::new());
    for line in lines {
        let Some(behind) = behind(line, rest) else { return false };
        beside.push_str(&rest[..rest.len() - behind.len() - line.len()]);
        beside.push(' ');
        rest = behind;
    }
    beside.push_str(rest);
    // Line ends are written as `\\n` in JSON.
    let beside = beside.replace("\\n", " ").to_lowercase();
    let words = beside.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    rest.len() < text.len() && words.into_iter().all(|word| MARKS.contains(&word))
}

/// Returns what stands behind the first `line` in `text` that is no part of a longer word.
fn behind<'a>(line: &str, text: &'a str) -> Option<&'a str> {
    let is_one_word = |left: Option<char>, right: Option<char>| {
        // Scripts without spaces between words begin at U+2E80.
        let is_letter = |c: char| c.is_alphanumeric() && c < '\u{2E80}';
        left.is_some_and(is_letter) && right.is_some_and(is_letter)
    };
    let places = text.match_indices(line).map(|(at, _)| (&text[..at], &text[at + line.len()..]));
    let mut whole = places.filter(|(before, after)| {
        !is_one_word(before.chars().next_back(), line.chars().next())
            && !is_one_word(line.chars().next_back(), after.chars().next())
    });
    whole.next().map(|(_, after)| after)
}

fn beginning(content: &Content) -> &str {
    match content {
        Content::Text { prompt, .. } => prompt,
        Content::Chat { prompt, .. } => prompt.last().map_or("", Message::content),
    }
}
