//! `data.columns`: columns under the names that the schemas know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::fields::{Fields, named};
use crate::error::nearest;

/// New names of columns and where their values come from: a column, a field of one (`meta.question`), or nothing
/// (`null`), which leaves the column out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Columns(pub BTreeMap<String, Option<String>>);

impl Columns {
    /// Whether nothing is renamed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what is wrong with the names themselves.
    pub(super) fn problems(&self, key: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for (new, old) in &self.0 {
            let Some(old) = old else { continue };
            if new.is_empty() || old.is_empty() {
                wrong.push(format!("{key} has an empty name; give the name of a column"));
            }
            if let Some(other) = seen.insert(old, new) {
                wrong.push(format!("{key} reads {old} as {other} and as {new}; a column has one meaning"));
            }
        }
        wrong
    }

    /// Renames the columns of a row. A column that had one of the new names is replaced.
    pub(super) fn rename(&self, fields: &mut Fields) -> Result<(), String> {
        if self.is_empty() {
            return Ok(());
        }
        let mut renamed = Vec::new();
        for (new, old) in &self.0 {
            let Some(old) = old else { continue };
            let value = find(fields, old).ok_or_else(|| {
                let near = nearest(old, fields.keys().map(String::as_str));
                format!(
                    "data.columns reads `{new}` from `{old}`, which the row lacks; {}{}",
                    near.map_or_else(String::new, |near| format!("did you mean `{near}`? ")),
                    if fields.is_empty() {
                        "it has no columns".into()
                    } else {
                        format!("it has {}", named(fields))
                    }
                )
            })?;
            renamed.push((new.clone(), value.clone()));
        }
        // First all old names, so that two columns can change places.
        for (new, old) in &self.0 {
            fields.shift_remove(new);
            old.as_ref().and_then(|old| fields.shift_remove(old));
        }
        fields.extend(renamed);
        Ok(())
    }
}

/// Finds a column by its name, or a field of a column by its path.
pub(super) fn find<'a>(fields: &'a Fields, path: &str) -> Option<&'a Json> {
    if let Some(value) = fields.get(path) {
        return Some(value);
    }
    let mut parts = path.split('.');
    let mut value = fields.get(parts.next()?)?;
    for part in parts {
        value = match value {
            Json::Object(map) => map.get(part)?,
            Json::Array(list) => list.get(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn renamed(columns: &str, row: Json) -> Result<Json, String> {
        let columns: Columns = serde_yaml::from_str(columns).unwrap();
        let Json::Object(mut fields) = row else { panic!("an object") };
        columns.rename(&mut fields).map(|()| Json::Object(fields))
    }

    #[test]
    fn columns_are_renamed_swapped_left_out_and_taken_from_within() {
        let row = json!({"question": "q", "chosen": "a", "rejected": "b", "prompt": "old"});
        assert_eq!(
            renamed("{prompt: question}", row.clone()),
            Ok(json!({"prompt": "q", "chosen": "a", "rejected": "b"}))
        );
        assert_eq!(
            renamed("{chosen: rejected, rejected: chosen, prompt: null}", row),
            Ok(json!({"question": "q", "chosen": "b", "rejected": "a"}))
        );
        let nested = json!({"data": {"q": ["x", "y"]}, "a.b": 1});
        assert_eq!(
            renamed("{prompt: data.q.1, c: a.b}", nested),
            Ok(json!({"data": {"q": ["x", "y"]}, "prompt": "y", "c": 1}))
        );
    }

    #[test]
    fn a_missing_column_is_an_error_that_names_the_existing_ones() {
        let error = renamed("{prompt: qestion}", json!({"question": "q", "x": 1})).unwrap_err();
        for part in ["`prompt` from `qestion`", "did you mean `question`?", "it has `question`, `x`"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(renamed("{prompt: a.b}", json!({"a": 3})).unwrap_err().contains("it has `a`"));
        assert!(renamed("{prompt: a}", json!({})).unwrap_err().contains("no columns"));
    }

    #[test]
    fn names_are_checked() {
        let problems =
            |yaml: &str| serde_yaml::from_str::<Columns>(yaml).unwrap().problems("data.columns").join("\n");
        assert_eq!(problems("{prompt: q, x: null, y: null}"), "");
        assert!(problems("{prompt: q, chosen: q}").contains("reads q as chosen and as prompt"));
        assert!(problems("{prompt: ''}").contains("empty name"));
    }
}
