//! A JSON array of objects. Rows count from 1.

use std::sync::Arc;

use serde_json::Value as Json;

use super::super::example::Origin;
use super::row::{Row, Rows, parse_json, without_bom};
use crate::error::Result;

/// Returns the rows of the array in `bytes`.
pub fn rows(bytes: &[u8], name: Arc<str>) -> Result<Rows> {
    let array = match parse_json(without_bom(bytes)) {
        Ok(Json::Array(array)) => array,
        Ok(_) => {
            return Err(Origin::new(name, 1)
                .error("a .json file must hold one array of objects, or an object a line"));
        }
        Err((line, message)) => return Err(Origin::new(name, line).error(message)),
    };
    Ok(Box::new(
        array
            .into_iter()
            .zip(1..)
            .map(move |(value, row)| Ok(Row { origin: Origin::new(name.clone(), row), value })),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn read(text: &'static str) -> Result<Vec<Row>> {
        Format::Json.parse(text, "t.json".into())?.collect()
    }

    #[test]
    fn rows_count_from_one() {
        let rows = read("[\n {\"a\": 1},\n\n {\"a\": 2}\n]").unwrap();
        assert_eq!(rows.iter().map(|row| row.origin.line).collect::<Vec<_>>(), [1, 2]);
        assert!(read("[]").unwrap().is_empty());
    }

    #[test]
    fn json_lines_under_the_name_of_json_are_read_as_lines() {
        let rows = read("\n{\"a\": 1}\n{\"a\": 2}\n").unwrap();
        assert_eq!(rows.iter().map(|row| row.origin.line).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn what_is_no_array_is_an_error_with_its_place() {
        assert!(read("3").unwrap_err().to_string().contains("one array of objects"));
        let message = read("[{\"a\": 1},\n {\"a\" 2}]").unwrap_err().to_string();
        assert!(message.starts_with("t.json:2: not valid JSON at column 7: expected `:`"), "{message}");
        assert!(read("").is_err());
    }
}
