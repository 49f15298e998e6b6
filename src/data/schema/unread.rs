//! Texts in columns that nothing reads, under names that do not say what they are. A run with them may be right, so they
//! are told of and not refused.

use serde_json::Value as Json;

use super::super::content::Content;
use super::super::doubt::{About, Doubt};
use super::super::example::GOLD;
use super::super::fields::{Fields, shortened};
use super::judgements::words;
use super::lost::{COMMENTS, METADATA, is_missing, is_within, renders, texts};

/// Words of names of columns that describe the row, beside those of [`METADATA`].
const DESCRIPTIONS: [&str; 23] = [
    "preference",
    "preferences",
    "critiques",
    "reasons",
    "statement",
    "elaboration",
    "labelling",
    "labeling",
    "annotation",
    "annotations",
    "author",
    "created",
    "time",
    "file",
    "filename",
    "path",
    "link",
    "email",
    "username",
    "version",
    "level",
    "difficulty",
    "country",
];
/// Words of names of columns with further answers.
const ANSWERS: [&str; 14] = [
    "chosen",
    "rejected",
    "response",
    "responses",
    "answer",
    "answers",
    "completion",
    "completions",
    "output",
    "outputs",
    "generation",
    "generations",
    "candidate",
    "candidates",
];
/// Words of [`METADATA`] that also name a question.
const BOTH: [&str; 6] = ["task", "source", "topic", "data", "origin", "type"];
/// The words of a text that is more than a name.
const FEW: usize = 3;
/// The words of a text that is no category.
const MANY: usize = 8;

/// Returns a doubt for each column with a text that is neither read nor repeated in what is.
pub(super) fn find(fields: &Fields, content: &Content, known: impl Fn(&str) -> bool) -> Vec<Doubt> {
    let of_column = |(name, value): (&String, &Json)| {
        if known(name) || ["tools", "chat_template_kwargs", GOLD].contains(&name.as_str()) {
            return None;
        }
        // Numbers and the like have none, and names are read anew for each row.
        let texts = texts(value);
        if texts.iter().all(|text| text.is_empty()) {
            return None;
        }
        let least = least(name).filter(|_| !is_missing(name, value))?;
        let is_read = |text: &str| is_within(text, content, true) || renders(text, content);
        let lost = texts.into_iter().find(|text| says(text, least) && !is_read(text))?;
        Some(Doubt::new(About::Unread, format!("`{name}` ({:?})", shortened(lost))))
    };
    fields.iter().filter_map(of_column).collect()
}

/// Whether `text` under the name of a column, or of a field, may be content.
pub(in crate::data) fn may_be_content(name: &str, text: &str) -> bool {
    least(name).is_some_and(|least| says(text, least))
}

/// The number of words from which on a text under this name is told of; `None` for names of metadata.
fn least(name: &str) -> Option<usize> {
    let words: Vec<String> = words(name).collect();
    let is = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let is_metadata = |word: &String| METADATA.contains(&word.as_str()) && !BOTH.contains(&word.as_str());
    if words.iter().any(is_metadata) || is(&COMMENTS) || is(&DESCRIPTIONS) || is(&ANSWERS) {
        return None;
    }
    Some(if is(&BOTH) { MANY } else { FEW })
}

/// Whether a text has as many words, or is a question of some. Scripts without spaces have a word for two characters.
fn says(text: &str, least: usize) -> bool {
    let spaced = text.split_whitespace().filter(|word| word.contains(char::is_alphabetic)).count();
    let dense = text.chars().filter(|c| *c >= '\u{2E80}' && c.is_alphabetic()).count() / 2;
    let words = spaced.max(dense);
    words >= least || words >= FEW && text.trim_end().ends_with('?')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_that_nobody_reads_are_told_from_metadata() {
        let content =
            Content::Text { prompt: "Which river is it?".into(), answers: vec!["a".into(), "b".into()] };
        let found = |name: &str, value: Json| {
            let fields = Fields::from_iter([(name.to_owned(), value)]);
            find(&fields, &content, |_| false).len()
        };
        let text = || json!("It is the longest river of France.");
        for name in ["evidence", "table", "persona", "user_query", "code", "title"] {
            assert_eq!(found(name, text()), 1, "{name}");
        }
        assert_eq!(found("facts", json!(["One", "The Loire is long."])), 1);
        assert_eq!(found("docs", json!([{"id": "1", "text": "The Loire is long."}])), 1);
        assert_eq!(found("task", json!("How long is it?")), 1);
        for (name, value) in [
            ("id", text()),
            ("rationale", text()),
            ("original_text", text()),
            ("responses", text()),
            ("evidence", json!("open questions")),
            ("evidence", json!("river is it?")),
            ("evidence", json!("2026-01-01 10 11 12")),
            ("task", json!("open question answering")),
            ("link", json!("https://a.b/c d e f")),
            ("evidence", json!(3)),
        ] {
            assert_eq!(found(name, value.clone()), 0, "{name}: {value}");
        }
    }
}
