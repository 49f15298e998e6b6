//! Cells of CSV and TSV files. They have no types: the columns say which of them are numbers, booleans and lists. A
//! missing value that is spelt (`nan`) is a text like any other; pandas writes an empty cell.

use std::path::Path;

use serde_json::Value as Json;

use super::content::Content;
use super::doubt::{About, Doubt};
use super::example::Origin;
use super::fields::Fields;
use super::filter::Filter;
use super::format::Format;

/// The spellings that pandas reads as missing values.
const SPELLINGS: [&str; 13] =
    ["nan", "NaN", "NAN", "-nan", "NA", "N/A", "n/a", "<NA>", "#N/A", "None", "null", "NULL", "Null"];

/// Columns whose meaning is a number or a boolean.
const SCALARS: [&str; 16] = [
    "label",
    "kto_tag",
    "margin",
    "votes_chosen",
    "chosen_votes",
    "wins_chosen",
    "chosen_wins",
    "votes_rejected",
    "rejected_votes",
    "wins_rejected",
    "rejected_wins",
    "preference_strength",
    "better_response_id",
    "overall_preference",
    "labels",
    "choice",
];
/// Columns whose meaning is a list.
const LISTS: [&str; 7] = ["completions", "scores", "ranks", "ratings", "rating", "generations", "answers"];
/// Columns whose meaning is a text, whatever is written in them.
const TEXTS: [&str; 15] = [
    "prompt",
    "chosen",
    "rejected",
    "reference",
    "completion",
    "text",
    "question",
    "instruction",
    "input",
    "output",
    "system",
    "response",
    "response_0",
    "response_1",
    "response_2",
];

/// Whether the rows of a file are cells, which have no types.
pub(super) fn are_of(origin: &Origin) -> bool {
    matches!(Format::named(Path::new(&*origin.file)), Some(Format::Csv | Format::Tsv))
}

/// Gives the cells of columns with a number, a boolean or a list their type. Other cells stay texts, which their readers
/// refuse.
pub(super) fn read(fields: &mut Fields) {
    for (name, value) in fields.iter_mut() {
        let Json::String(text) = value else { continue };
        let found = if SCALARS.contains(&name.as_str()) {
            scalar(text)
        } else if LISTS.contains(&name.as_str()) {
            serde_json::from_str(text).ok().filter(Json::is_array)
        } else {
            None
        };
        if let Some(found) = found {
            *value = found;
        }
    }
}

/// Returns the row as a condition sees it: the numbers and booleans that it reads have their type, apart from columns of
/// texts.
pub(super) fn compared(fields: &Fields, filter: &Filter) -> Fields {
    let typed = |(name, value): (&String, &Json)| {
        let is_text = TEXTS.contains(&name.as_str()) || !filter.reads(name);
        let found = value.as_str().filter(|_| !is_text).and_then(scalar);
        (name.clone(), found.unwrap_or_else(|| value.clone()))
    };
    fields.iter().map(typed).collect()
}

/// Reads `true`, `false`, `True`, `False` or a number in JSON's notation.
fn scalar(text: &str) -> Option<Json> {
    match text.trim() {
        "true" | "True" => Some(Json::Bool(true)),
        "false" | "False" => Some(Json::Bool(false)),
        number => serde_json::from_str(number).ok().filter(Json::is_number),
    }
}

/// Returns the doubt about a prompt or an answer of a file of cells that is one of these words and nothing else.
pub(super) fn missing(origin: &Origin, content: &Content) -> Option<Doubt> {
    if !are_of(origin) {
        return None;
    }
    let texts: Vec<&str> = match content {
        Content::Text { prompt, answers } => {
            std::iter::once(prompt).chain(answers).map(String::as_str).collect()
        }
        Content::Chat { prompt, answers, .. } => {
            prompt.iter().chain(answers.iter().flatten()).map(super::messages::Message::content).collect()
        }
    };
    let found = texts.into_iter().find(|text| SPELLINGS.contains(&text.trim()))?;
    Some(Doubt::new(About::Cell, format!("{found:?}")))
}
