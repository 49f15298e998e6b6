//! Which kind of JSON a text holds, whatever its name: a record per line, one array, or an array inside an object.

use std::io::{Cursor, Read};

use serde_json::{Map, Value as Json};

use super::elements;
use super::jsonl;
use super::lines::{Bytes, Line, read_line, skip_space};
use super::place::Place;
use super::row::{Row, Rows, parse_json};
use crate::error::{Error, Result};

/// The longest object that is read as a whole: a file whose records are in one of its fields. Bytes.
const MOST_WRAPPED: usize = 128 << 20;
/// Fields that only a record has. An object with one of them is a record, not a wrapper of records.
const RECORD: [&str; 22] = [
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "completions",
    "messages",
    "text",
    "conversations",
    "conversation",
    "question",
    "response",
    "instruction",
    "context",
    "summaries",
    "answers",
    "preferred_output",
    "non_preferred_output",
    "individual_preference",
    "generations",
    "responses",
    "overall_preference",
    "conversation_a",
];

/// Returns the rows of `reader`. `lines` tells whether the name is that of JSON Lines.
///
/// # Errors
/// If the file holds neither records nor an array of them, or several arrays.
pub(super) fn rows(mut reader: Bytes, place: Place, lines: bool) -> Result<Rows> {
    let (first, skipped) = skip_space(&mut reader).map_err(Error::read(&place.path))?;
    match first {
        None if lines => Ok(jsonl::rows(reader, place, skipped)),
        None => Err(place.error("the file is empty; a .json file holds one array of objects")),
        Some(b'[') if !lines => Ok(elements::rows(reader, place, skipped + 1)),
        Some(b'[' | b'{') => by_first_line(reader, place, skipped, lines),
        Some(_) if lines => Ok(jsonl::rows(reader, place, skipped)),
        Some(_) => Err(place
            .row(skipped + 1)
            .error("a .json file must hold one array of objects, or one object per line")),
    }
}

fn by_first_line(mut reader: Bytes, place: Place, skipped: usize, lines: bool) -> Result<Rows> {
    let mut first = Vec::new();
    let line = read_line(&mut reader, &mut first, MOST_WRAPPED).map_err(Error::read(&place.path))?;
    let is_array = first.starts_with(b"[");
    let parsed = match line {
        Line::Whole | Line::End => parse_json(first.trim_ascii_end()),
        Line::TooLong if is_array => {
            return Ok(elements::rows(chained(first, reader), place, skipped + 1));
        }
        Line::TooLong => return Err(place.row(skipped + 1).error(jsonl::too_long(MOST_WRAPPED))),
    };
    match parsed {
        Ok(value) => {
            let (next, blank) = skip_space(&mut reader).map_err(Error::read(&place.path))?;
            Ok(match (value, next) {
                (Json::Array(values), None) if !values.is_empty() && values.iter().all(Json::is_object) => {
                    log::info!("{}: the file holds one JSON array and is read as such", place.name);
                    elements::of(values, place)
                }
                // A line of JSON Lines with several fields is a record, whatever lists it holds.
                (Json::Object(fields), None) if !lines || fields.len() == 1 => {
                    one_object(fields, place, skipped + 1)?
                }
                (value, _) => {
                    let row = Row { origin: place.row(skipped + 1), value };
                    Box::new(std::iter::once(Ok(row)).chain(jsonl::rows(reader, place, skipped + 1 + blank)))
                }
            })
        }
        Err(broken) if broken.unfinished && is_array => {
            Ok(elements::rows(chained(first, reader), place, skipped + 1))
        }
        Err(broken) if broken.unfinished => over_several_lines(first, reader, place, skipped, lines),
        Err(_) => Ok(jsonl::rows(chained(first, reader), place, skipped)),
    }
}

fn chained(first: Vec<u8>, rest: Bytes) -> Bytes {
    Box::new(Cursor::new(first).chain(rest))
}

/// An object that does not end in its line: a wrapper, a record that is printed over several lines, or a line that is
/// cut off.
fn over_several_lines(
    mut text: Vec<u8>,
    mut reader: Bytes,
    place: Place,
    skipped: usize,
    lines: bool,
) -> Result<Rows> {
    let first = text.len();
    let left = (MOST_WRAPPED - first.min(MOST_WRAPPED)) as u64 + 1;
    reader.by_ref().take(left).read_to_end(&mut text).map_err(Error::read(&place.path))?;
    let second = text[first..].split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    let is_cut_line = second.is_some_and(|line| matches!(parse_json(line.trim_ascii()), Ok(Json::Object(_))));
    if text.len() > MOST_WRAPPED {
        return if lines || is_cut_line {
            Ok(jsonl::rows(chained(text, reader), place, skipped))
        } else {
            Err(place.error(format!(
                "an object over several lines is read as a whole, of at most {} MiB; write its records one per line \
                 (jq -c '.FIELD[]' {} > pairs.jsonl)",
                MOST_WRAPPED >> 20,
                place.name
            )))
        };
    }
    match parse_json(text.trim_ascii_end()) {
        Ok(Json::Object(fields)) => one_object(fields, place, skipped + 1),
        Ok(_) => Err(place.row(skipped + 1).error("the file must hold one array of objects, or one object per line")),
        Err(_) if is_cut_line => Ok(jsonl::rows(chained(text, reader), place, skipped)),
        Err(broken) if broken.is_syntax() => Err(place.row(skipped + broken.line).error(format!(
            "{}; a file holds one object per line (jq -c . {} writes them so), one array of objects, or one object with \
             such an array",
            broken.message(0),
            place.name
        ))),
        Err(broken) => Err(place.row(skipped + broken.line).error(broken.message(0))),
    }
}

/// Describes the layout of an object that holds all rows by column or by index, as pandas writes them.
fn by_column(fields: &Map<String, Json>) -> Option<&'static str> {
    let all = |is: &dyn Fn(&Json) -> bool| fields.len() > 1 && fields.values().all(is);
    let of_scalars =
        |list: &[Json]| !list.is_empty() && !list.iter().any(|value| value.is_object() || value.is_array());
    let is_index =
        |map: &Map<String, Json>| !map.is_empty() && map.keys().all(|key| key.parse::<u64>().is_ok());
    let is_split = fields.get("columns").is_some_and(Json::is_array)
        && fields.get("data").and_then(|data| data.get(0)).is_some_and(Json::is_array);
    if is_split {
        Some("the names of the columns and the rows as lists (orient=\"split\" of pandas)")
    } else if all(&|value| value.as_array().is_some_and(|list| of_scalars(list))) {
        Some("a list for each column (to_dict(\"list\") of pandas)")
    } else if all(&|value| value.as_object().is_some_and(is_index)) {
        Some("the values of each column by their index (the default of to_json of pandas)")
    } else if is_index(fields) && fields.values().all(Json::is_object) {
        Some("the rows by their index (orient=\"index\" of pandas)")
    } else {
        None
    }
}

/// Returns the rows of an answer of the Hub's viewer: `{"rows": [{"row_idx": ..., "row": {...}}, ...]}`.
fn viewed(fields: &mut Map<String, Json>) -> Option<Vec<Json>> {
    let rows = fields.get_mut("rows")?.as_array_mut()?;
    let is_viewed = !rows.is_empty() && rows.iter().all(|row| row.get("row").is_some_and(Json::is_object));
    let row = |row: Json| match row {
        Json::Object(mut row) => row.remove("row").unwrap_or_default(),
        other => other,
    };
    is_viewed.then(|| std::mem::take(rows).into_iter().map(row).collect())
}

/// The only object of a file: a record, or an object with an array of records in it.
fn one_object(mut fields: Map<String, Json>, place: Place, line: usize) -> Result<Rows> {
    if let Some(layout) = by_column(&fields) {
        return Err(place.row(line).error(format!(
            "the object holds {layout}; write one object per record (pandas: to_json(..., orient=\"records\", lines=True))"
        )));
    }
    if let Some(rows) = viewed(&mut fields) {
        log::info!("{}: the records are the rows that the viewer of the Hub showed", place.name);
        return Ok(elements::of(rows, place));
    }
    let is_rows = |value: &Json| match value {
        Json::Array(values) => {
            !values.is_empty() && values.iter().all(|row| row.is_object() && !is_message(row))
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_) => false,
    };
    let is_record = RECORD.iter().any(|name| fields.contains_key(*name));
    let found: Vec<String> = fields
        .iter()
        .filter(|(_, value)| !is_record && is_rows(value))
        .map(|(name, _)| name.clone())
        .collect();
    match found.as_slice() {
        [] => {
            let row = Row { origin: place.row(line), value: Json::Object(fields) };
            Ok(Box::new(std::iter::once(Ok(row))))
        }
        [name] => {
            log::info!("{}: the records are those of its field `{name}`", place.name);
            match fields.remove(name) {
                Some(Json::Array(values)) => Ok(elements::of(values, place)),
                // Not reached: the field was an array.
                Some(_) | None => Err(place.error(format!("`{name}` is not an array"))),
            }
        }
        several => Err(place.row(line).error(format!(
            "the object has several arrays of objects: {}; write the one that holds the records to a file of its own \
             (jq -c '.{}[]' {} > pairs.jsonl)",
            several.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            several[0],
            place.name
        ))),
    }
}

/// Whether this is a message of a conversation rather than a record.
fn is_message(value: &Json) -> bool {
    [("role", "content"), ("from", "value")]
        .iter()
        .any(|(who, what)| value.get(who).is_some() && value.get(what).is_some())
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn read(format: Format, text: &'static str) -> Result<Vec<Row>> {
        format.parse(text, "t.json".into())?.collect()
    }

    fn values(format: Format, text: &'static str) -> Vec<i64> {
        read(format, text).unwrap().iter().map(|row| row.value["a"].as_i64().unwrap()).collect()
    }

    fn refused(text: &'static str) -> String {
        read(Format::Json, text).unwrap_err().to_string()
    }

    #[test]
    fn lines_and_arrays_are_read_under_either_name() {
        for format in [Format::Json, Format::Jsonl] {
            for text in [
                "{\"a\": 1}\n{\"a\": 2}\n",
                "\n\n{\"a\": 1}\n\n{\"a\": 2}",
                "[{\"a\": 1}, {\"a\": 2}]\n",
                "[\n{\"a\": 1},\n{\"a\": 2}\n]\n",
                "\u{feff}[\n{\"a\": 1},{\"a\": 2}]",
                "{\"data\": [{\"a\": 1}, {\"a\": 2}]}",
                "{\n \"version\": \"1\",\n \"data\": [\n  {\"a\": 1},\n  {\"a\": 2}\n ]\n}\n",
                "{\"data\": [{\"a\": 1},\n{\"a\": 2}]}",
            ] {
                assert_eq!(values(format, text), [1, 2], "{format:?} {text}");
            }
            assert_eq!(values(format, "{\"a\": 7}"), [7]);
            assert_eq!(values(format, "{\n \"a\": 7\n}"), [7]);
        }
        let rows = read(Format::Json, "\n{\"a\": 1}\n{\"a\": 2}\n").unwrap();
        assert_eq!(rows.iter().map(|row| row.origin.line).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_record_with_a_list_of_objects_is_no_wrapper() {
        for text in [
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}",
            "{\n\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", \"tools\": [{\"name\": \"f\"}]}",
        ] {
            let rows = read(Format::Jsonl, text).unwrap();
            assert!(rows.len() == 1 && rows[0].value.is_object() && rows[0].origin.line == 1, "{rows:?}");
        }
        // A list in a line of JSON Lines is a broken record, to be named as one.
        assert_eq!(read(Format::Jsonl, "\n[1]").unwrap()[0].origin.line, 2);
        assert!(
            read(Format::Jsonl, "[{\"a\": 1}]\n[{\"a\": 2}]").unwrap().iter().all(|row| row.value.is_array())
        );
    }

    #[test]
    fn several_arrays_are_named() {
        let message = refused("{\n\"train\": [{\"a\": 1}],\n\"n\": [1], \"test\": [{\"a\": 2}]}");
        assert!(message.starts_with("t.json:1: ") && message.contains("`train`, `test`"), "{message}");
    }

    #[test]
    fn what_is_neither_is_an_error_with_its_place() {
        assert!(refused("\n3").starts_with("t.json:2: a .json file must hold one array of objects"));
        assert!(refused("").starts_with("t.json: the file is empty"));
        let message = refused("{\n \"data\": [\n  {\"a\" 1}\n ]\n}");
        assert!(message.starts_with("t.json:3: not valid JSON at column 8: expected `:`"), "{message}");
        let message = refused("{\n \"a\": 1\n}\n{\n \"a\": 2\n}\n");
        assert!(
            message.starts_with("t.json:4: not valid JSON at column 1: trailing")
                && message.contains("jq -c .")
        );
        assert!(refused("{\n \"data\": [").contains("EOF"));
        let message = refused("{\n \"data\": [\n  {\"a\": 1, \"a\": 2}\n ]\n}");
        assert!(message.starts_with("t.json:3: ") && message.ends_with("remove one of the two"), "{message}");
    }
}
