//! Cells of CSV and TSV files. They have no types: the columns say which of them are numbers, booleans and lists. A
//! missing value that is spelt (`nan`) is a text like any other, here and in other formats; pandas writes an empty cell, but
//! `nan` where its columns were made texts.

use std::path::Path;

use serde_json::Value as Json;

use super::content::Content;
use super::doubt::{About, Doubt};
use super::example::Origin;
use super::fields::Fields;
use super::filter::Filter;
use super::format::Format;
use super::messages::Message;

/// The spellings that pandas reads or writes as missing values.
const SPELLINGS: [&str; 16] = [
    "nan", "NaN", "NAN", "-nan", "-NaN", "NaT", "NA", "#NA", "N/A", "n/a", "<NA>", "#N/A", "None", "null",
    "NULL", "Null",
];
/// Speakers whose whole message may be such a word: what a tool returned.
const TOOLS: [&str; 5] = ["tool", "function", "observation", "ipython", "environment"];

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

/// Reads `true`, `True`, `TRUE`, `false`, `False`, `FALSE` or a number in JSON's notation.
fn scalar(text: &str) -> Option<Json> {
    match text.trim() {
        "true" | "True" | "TRUE" => Some(Json::Bool(true)),
        "false" | "False" | "FALSE" => Some(Json::Bool(false)),
        number => serde_json::from_str(number).ok().filter(Json::is_number),
    }
}

/// Whether a text is a word for a missing value and nothing else.
fn spells_missing(text: &str) -> bool {
    SPELLINGS.contains(&text.trim())
}

/// Returns the doubt about the column `input` of a row, which is joined to its instruction.
pub(super) fn missing_input(fields: &Fields) -> Option<Doubt> {
    let text = fields.get("input")?.as_str().filter(|text| spells_missing(text))?;
    Some(Doubt::new(About::Cell, format!("input: {text:?}")))
}

/// Returns the doubt about a prompt or an answer that is such a word and nothing else.
pub(super) fn missing(content: &Content) -> Option<Doubt> {
    let texts: Vec<&str> = match content {
        Content::Text { prompt, answers } => {
            std::iter::once(prompt).chain(answers).map(String::as_str).collect()
        }
        Content::Chat { prompt, answers, .. } => {
            let spoken = prompt.iter().chain(answers.iter().flatten());
            spoken.filter(|message| !TOOLS.contains(&message.role())).map(Message::content).collect()
        }
    };
    let found = texts.into_iter().find(|text| spells_missing(text))?;
    Some(Doubt::new(About::Cell, format!("{found:?}")))
}

#[cfg(test)]
mod tests {
    use super::super::records::Record;
    use super::super::source::Input;
    use super::About;

    /// The number of such doubts about the only row of a file in JSON.
    fn doubts(json: &'static str) -> usize {
        let row = Input::text("t.jsonl", json).rows().unwrap().next().unwrap().unwrap();
        Record::parse(row).unwrap().doubts.iter().filter(|doubt| doubt.about == About::Cell).count()
    }

    #[test]
    fn a_missing_value_that_is_spelt_is_a_doubt_in_every_format() {
        for (count, json) in [
            (1, r#"{"prompt": "q", "chosen": "nan", "rejected": "b"}"#),
            (1, r#"{"prompt": "NaT", "chosen": "a", "rejected": "b"}"#),
            (0, r#"{"prompt": "q", "chosen": "nanny", "rejected": "b", "other": "nan"}"#),
            (1, r#"{"instruction": "i", "input": "nan", "chosen": "a", "rejected": "b"}"#),
            (1, r#"{"instruction": "", "input": "nan", "chosen": "a", "rejected": "None"}"#),
            (0, r#"{"instruction": "i", "input": "", "chosen": "a", "rejected": "b"}"#),
            (
                1,
                r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "None"}]}"#,
            ),
            (
                0,
                r#"{"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": "null"},
                    {"role": "assistant", "content": "a"}]}"#,
            ),
        ] {
            let line: &'static str = json.replace('\n', " ").leak();
            assert_eq!(doubts(line), count, "{json}");
        }
    }
}
