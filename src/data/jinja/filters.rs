//! Filters: `value | name`.

use super::arguments::Given;
use super::characters::escape;
use super::filter_names::{exists, refused};
use super::json::tojson;
use super::paths::attribute;
use super::problem::{Res, fail};
use super::text::display;
use super::value::Value;
use super::{checks, numbers, sequences, texts};

/// Computes `value | name(...)`.
pub(super) fn apply(name: &str, value: Value, args: Given) -> Res<Value> {
    match name {
        "tojson" => tojson(&value, args),
        "d" | "default" => {
            let args = args.bind("default", &["default_value", "boolean"])?;
            let replaced = value.is_undefined() || args.flag("boolean") && !value.truth();
            Ok(if replaced {
                args.get("default_value").cloned().unwrap_or_else(|| Value::text(""))
            } else {
                value
            })
        }
        "string" => {
            args.none("string")?;
            if matches!(value, Value::Markup(_)) { Ok(value) } else { display(&value).map(Value::text) }
        }
        "safe" => {
            args.none("safe")?;
            display(&value).map(Value::markup)
        }
        "e" | "escape" | "forceescape" => {
            args.none("escape")?;
            match value {
                Value::Markup(_) if name != "forceescape" => Ok(value),
                other => Ok(Value::markup(escape(&display(&other)?))),
            }
        }
        "length" | "count" => {
            args.none("length")?;
            match value.length() {
                Some(length) => Ok(Value::Int(length as i128)),
                None => fail(format!("object of type '{}' has no len()", value.type_name())),
            }
        }
        "attr" => {
            let args = args.bind("attr", &["name"])?;
            let Some(name) = args.text("name")? else { return fail("attr needs a name") };
            let found = super::attributes::attribute(&value, name)?;
            Ok(found.unwrap_or_else(|| Value::undefined(format!("no attribute '{name}'"))))
        }
        "abs" | "int" | "float" | "round" | "filesizeformat" => numbers::apply(name, &value, args),
        "capitalize" | "center" | "format" | "indent" | "lower" | "replace" | "striptags" | "title"
        | "trim" | "truncate" | "upper" | "urlencode" | "wordcount" | "wordwrap" | "xmlattr" => {
            texts::apply(name, &value, args)
        }
        "map" => map(&value, args),
        "select" | "reject" | "selectattr" | "rejectattr" => select(name, &value, args),
        _ if refused(name) => fail(format!("the filter {name} is not supported")),
        _ if exists(name) => sequences::apply(name, &value, args),
        _ => fail(format!("no filter named {name:?}")),
    }
}

fn map(value: &Value, args: Given) -> Res<Value> {
    if !value.truth() {
        return Ok(Value::iter(Vec::new()));
    }
    let items = value.items()?;
    let mapped: Res<Vec<Value>> = if args.positional.is_empty() {
        let args = args.bind("map", &["attribute", "default"])?;
        let Some(path) = args.get("attribute") else { return fail("map requires a filter argument") };
        let default = args.given("default");
        items.iter().map(|item| attribute(item, path, default)).collect()
    } else {
        let mut args = args;
        let name = display(&args.positional.remove(0))?;
        items.into_iter().map(|item| apply(&name, item, args.clone())).collect()
    };
    Ok(Value::iter(mapped?))
}

fn select(name: &str, value: &Value, args: Given) -> Res<Value> {
    if !value.truth() {
        return Ok(Value::iter(Vec::new()));
    }
    let mut args = args;
    let path = if name.ends_with("attr") {
        if args.positional.is_empty() {
            return fail("missing parameter for attribute name");
        }
        Some(args.positional.remove(0))
    } else {
        None
    };
    let test = if args.positional.is_empty() { None } else { Some(display(&args.positional.remove(0))?) };
    let wanted = name.starts_with("select");
    let mut kept = Vec::new();
    for item in value.items()? {
        let tested = path.as_ref().map_or_else(|| Ok(item.clone()), |path| attribute(&item, path, None))?;
        let holds = match &test {
            Some(test) => checks::check(test, &tested, args.clone())?,
            None => tested.truth(),
        };
        if holds == wanted {
            kept.push(item);
        }
    }
    Ok(Value::iter(kept))
}
