//! Filters: `value | name`.

use super::arguments::Given;
use super::json::tojson;
use super::methods::escape;
use super::problem::{Res, fail};
use super::render::Renderer;
use super::text::display;
use super::value::Value;
use super::{checks, numbers, sequences, strings, texts};

const NAMES: &str = "abs attr batch capitalize center count d default dictsort e escape filesizeformat first float forceescape \
    format groupby indent int items join last length list lower map max min reject rejectattr replace reverse round safe \
    select selectattr slice sort string striptags sum title tojson trim truncate unique upper urlencode wordcount wordwrap \
    xmlattr";

/// Those of jinja2 that are refused: they are random, or lay out for the web or a terminal.
const REFUSED: &str = "random pprint urlize";

/// Whether jinja2 has a filter of that name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.split(' ').chain(REFUSED.split(' ')).any(|known| known == name)
}

/// `value | name(...)`.
pub(super) fn apply(renderer: &Renderer, name: &str, value: Value, args: Given) -> Res<Value> {
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
            let found = super::methods::attribute(&value, name)?;
            Ok(found.unwrap_or_else(|| Value::undefined(format!("no attribute '{name}'"))))
        }
        "abs" | "int" | "float" | "round" | "filesizeformat" => numbers::apply(name, &value, args),
        "capitalize" | "center" | "format" | "indent" | "lower" | "replace" | "striptags" | "title"
        | "trim" | "truncate" | "upper" | "urlencode" | "wordcount" | "wordwrap" | "xmlattr" => {
            texts::apply(name, &value, args)
        }
        "map" => map(renderer, &value, args),
        "select" | "reject" | "selectattr" | "rejectattr" => select(name, &value, args),
        _ if REFUSED.split(' ').any(|refused| refused == name) => {
            fail(format!("the filter {name} is not supported"))
        }
        _ if exists(name) => sequences::apply(name, &value, args),
        _ => fail(format!("no filter named {name:?}")),
    }
}

/// An attribute as filters name it: `a.b.0`.
pub(super) fn attribute(value: &Value, path: &Value, default: Option<&Value>) -> Res<Value> {
    let Some(path) = path.as_str() else {
        return match path {
            Value::None => Ok(value.clone()),
            other => super::items::item(value, other),
        };
    };
    let mut found = value.clone();
    for part in path.split('.') {
        let number = part.parse::<i128>().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()));
        let key = number.map_or_else(|| Value::text(part), Value::Int);
        found = super::items::item(&found, &key)?;
        if let (true, Some(default)) = (found.is_undefined(), default) {
            found = default.clone();
        }
    }
    Ok(found)
}

fn map(renderer: &Renderer, value: &Value, args: Given) -> Res<Value> {
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
        items.into_iter().map(|item| apply(renderer, &name, item, args.clone())).collect()
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

/// What values are compared by where case does not count.
pub(super) fn folded(value: Value, case_sensitive: bool) -> Res<Value> {
    match &value {
        Value::Str(text) if !case_sensitive => strings::plain(&text.inner, "lower"),
        _ => Ok(value),
    }
}
