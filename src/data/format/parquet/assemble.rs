//! Rows put together from the levels and values of their columns (Melnik et al. 2010, "Dremel", section 4.3).

use serde_json::{Map, Value as Json};

use super::column::Column;
use super::schema::{Items, Node, Shape};

/// Why there is no row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The columns contradict each other; nothing behind it can be read.
    Levels,
    /// One value has no JSON form: its column and what is wrong.
    Value(String),
}

/// The row that `columns` are at.
///
/// # Errors
/// If the columns do not fit each other, or a value is no text.
pub(super) fn row(fields: &[(String, Node)], columns: &mut [Column]) -> Result<Json, Fault> {
    let row = object(fields, false, columns)?;
    if columns.iter().any(|column| column.definition().is_some()) {
        return Err(Fault::Levels);
    }
    Ok(row)
}

fn object(fields: &[(String, Node)], is_sparse: bool, columns: &mut [Column]) -> Result<Json, Fault> {
    let mut found = Map::with_capacity(fields.len());
    for (name, node) in fields {
        let value = value(node, columns)?;
        if !(is_sparse && value.is_null()) {
            found.insert(name.clone(), value);
        }
    }
    Ok(Json::Object(found))
}

fn value(node: &Node, columns: &mut [Column]) -> Result<Json, Fault> {
    let first = columns.get(node.leaves.start).ok_or(Fault::Levels)?;
    if first.definition().ok_or(Fault::Levels)? < node.level {
        absent(node, node.level, columns)?;
        return Ok(Json::Null);
    }
    match &node.shape {
        Shape::Leaf(leaf) => {
            let column = columns.get_mut(node.leaves.start).ok_or(Fault::Levels)?;
            let name = std::mem::take(&mut column.name);
            let json = match column.take() {
                Some(scalar) => {
                    leaf.json(scalar, &name).map_err(|why| Fault::Value(format!("`{name}` {why}")))
                }
                None => Err(Fault::Levels),
            };
            column.name = name;
            json
        }
        Shape::Struct { fields, is_sparse } => object(fields, *is_sparse, columns),
        Shape::List(items) => {
            let mut found = Vec::new();
            each(node, items, columns, |columns| {
                found.push(value(&items.item, columns)?);
                Ok(())
            })?;
            Ok(Json::Array(found))
        }
        Shape::Map(items) => {
            let (key, content) = items.item.as_ref();
            let mut found = Map::new();
            each(node, items, columns, |columns| {
                let key = match value(key, columns)? {
                    Json::String(key) => key,
                    other => other.to_string(),
                };
                found.insert(key, value(content, columns)?);
                Ok(())
            })?;
            Ok(Json::Object(found))
        }
    }
}

/// Calls `read` at each element of a list or map.
fn each<T>(
    node: &Node,
    items: &Items<T>,
    columns: &mut [Column],
    mut read: impl FnMut(&mut [Column]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let first = node.leaves.start;
    if columns[first].definition().ok_or(Fault::Levels)? < items.level {
        return absent(node, items.level, columns);
    }
    loop {
        read(columns)?;
        let level = columns[first].repetition();
        let goes_on = level == Some(items.repetition);
        // All columns of an element are at the same place; what repeats deeper has been read.
        let agree = columns[node.leaves.clone()].iter().all(|column| {
            (column.repetition() == Some(items.repetition)) == goes_on
                && column.repetition().is_none_or(|level| level <= items.repetition)
        });
        if !agree {
            return Err(Fault::Levels);
        }
        if !goes_on {
            return Ok(());
        }
    }
}

/// Passes over a value that is not there: every column has one level for it, below `level`.
fn absent(node: &Node, level: i16, columns: &mut [Column]) -> Result<(), Fault> {
    for column in columns.get_mut(node.leaves.clone()).ok_or(Fault::Levels)? {
        if column.definition().ok_or(Fault::Levels)? >= level {
            return Err(Fault::Levels);
        }
        column.skip();
    }
    Ok(())
}
