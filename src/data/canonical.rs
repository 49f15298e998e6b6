//! Records written as rows of the form that TRL calls explicit: the prompt stands apart from the answers.

use serde_json::{Map, Value as Json};

use super::content::Content;
use super::example::{GOLD, Kind};
use super::messages::Message;
use super::records::{Record, RecordReader};
use super::source::Row;
use super::wanted::Wanted;
use crate::error::Result;

/// Returns the row of a record. Reading it gives the same record.
///
/// # Errors
/// [`crate::Error::Record`] if no row gives this record: both answers repeat the messages of the prompt.
pub fn row(record: &Record) -> Result<Json> {
    let mut row = Map::new();
    let (prompt, answers): (Option<Json>, Vec<Json>) = match &record.content {
        Content::Text { prompt, answers } => (
            (!prompt.is_empty() || !matches!(record.kind, Kind::Text)).then(|| prompt.as_str().into()),
            answers.iter().map(|answer| answer.as_str().into()).collect(),
        ),
        Content::Chat { prompt, answers, .. } => (
            (!prompt.is_empty() || !matches!(record.kind, Kind::Text)).then(|| turns(prompt)),
            answers.iter().map(|answer| turns(answer)).collect(),
        ),
    };
    let is_whole = prompt.is_none();
    row.extend(prompt.map(|prompt| ("prompt".into(), prompt)));
    put_answers(&mut row, record, answers, is_whole);
    if let Content::Chat { tools, kwargs, .. } = &record.content {
        row.extend(tools.clone().map(|tools| ("tools".into(), tools)));
        row.extend(kwargs.clone().map(|kwargs| ("chat_template_kwargs".into(), Json::Object(kwargs))));
    }
    row.extend(record.source.as_deref().map(|source| ("source".into(), source.into())));
    let value = Json::Object(row);
    let reader = RecordReader::default().wanting(Wanted::Everything);
    let read = reader.read(Row { origin: record.origin.clone(), value: value.clone() })?;
    let Some(read) = read else { return Err(record.origin.error("the row was left out")) };
    // Another schema may have given the same record.
    if read == (Record { schema: read.schema, doubts: read.doubts.clone(), ..record.clone() }) {
        Ok(value)
    } else {
        Err(record.origin.error("it has no canonical form that reads back as it is; please report it"))
    }
}

fn put_answers(row: &mut Map<String, Json>, record: &Record, answers: Vec<Json>, is_whole: bool) {
    let is_chat = matches!(record.content, Content::Chat { .. });
    match record.kind {
        Kind::Pair { label, margin } => {
            row.extend(["chosen", "rejected", GOLD].map(String::from).into_iter().zip(answers));
            if record.labelled || label != 1.0 {
                row.insert("label".into(), shortest(label).into());
            }
            if margin != 0.0 {
                row.insert("margin".into(), shortest(margin).into());
            }
        }
        Kind::Ranked => {
            row.insert("completions".into(), Json::Array(answers));
        }
        Kind::Text if is_whole => {
            let name = if is_chat { "messages" } else { "text" };
            row.extend(answers.into_iter().map(|answer| (name.into(), answer)));
        }
        Kind::Judged { .. } | Kind::Text | Kind::Mismatched | Kind::Prompt => {
            row.extend(answers.into_iter().map(|answer| ("completion".into(), answer)));
            if let Kind::Judged { desirable } = record.kind {
                row.insert("label".into(), desirable.into());
            }
        }
    }
}

/// Returns the number with as few digits as give the same f32.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

fn turns(messages: &[Message]) -> Json {
    messages.iter().map(|message| Json::Object(message.fields().clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Input, records};

    #[test]
    fn every_kind_reads_back_as_it_was() {
        let user = r#"{"role": "user", "content": "q"}"#;
        let turn = |text: &str| format!(r#"{{"role": "assistant", "content": "{text}", "name": "n"}}"#);
        let (yes, no) = (turn("yes"), turn("no"));
        let lines = [
            r#"{"prompt": "a", "chosen": "b", "rejected": "c", "label": 0.1, "source": "s", "id": 4}"#.into(),
            r#"{"chosen": "x b", "rejected": "x c"}"#.into(),
            r#"{"prompt": "a", "chosen": "b", "rejected": "c", "reference": "b"}"#.into(),
            r#"{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.1, "label": 0.7}"#.into(),
            r#"{"chosen": "x b", "rejected": "x c", "reference": "x d"}"#.into(),
            r#"{"prompt": "", "chosen": "b", "rejected": "c"}"#.into(),
            format!(
                r#"{{"chosen": [{user}, {yes}], "rejected": [{user}, {no}], "tools": "[{{\"a\": 1}}]"}}"#
            ),
            format!(
                r#"{{"prompt": [{user}], "chosen": [{yes}], "rejected": [{no}], "chat_template_kwargs": {{"k": 1}}}}"#
            ),
            r#"{"prompt": "a", "completion": "b", "label": false}"#.into(),
            r#"{"prompt": "a", "completion": "b"}"#.into(),
            r#"{"prompt": "", "completion": "b"}"#.into(),
            r#"{"prompt": "a", "completions": ["b", "c", "d"]}"#.into(),
            format!(r#"{{"prompt": [{user}], "completions": [[{yes}], [{no}]]}}"#),
            r#"{"text": "b"}"#.into(),
            format!(r#"{{"messages": [{user}, {yes}], "tools": [], "source": "s"}}"#),
        ];
        for line in lines {
            let line: String = line;
            let record = records::load(&[Input::text("t", line)]).unwrap().remove(0);
            let value = row(&record).unwrap();
            let again = records::load(&[Input::text("t", value.to_string())]).unwrap().remove(0);
            assert_eq!(again, Record { schema: again.schema, ..record }, "{value}");
            assert_eq!(row(&again).unwrap(), value);
        }
    }

    /// Rows of every schema have a canonical form, and canonical rows may stand in one file.
    #[test]
    fn every_schema_has_a_canonical_form() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schemas");
        let (mut rows, mut expected) = (String::new(), Vec::new());
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().ends_with(".expected.jsonl") {
                continue;
            }
            let input = Input::text(path.to_str().unwrap(), std::fs::read_to_string(&path).unwrap());
            for record in records::load(&[input]).unwrap() {
                rows.push_str(&format!("{}\n", row(&record).unwrap()));
                expected.push(record);
            }
        }
        assert!(expected.len() > 50, "{}", expected.len());
        let read = records::load(&[Input::text("t", rows)]).unwrap();
        assert_eq!(read.len(), expected.len());
        for (read, expected) in read.into_iter().zip(expected) {
            let origin = read.origin.clone();
            assert_eq!(read, Record { origin, schema: read.schema, ..expected });
        }
    }
}
