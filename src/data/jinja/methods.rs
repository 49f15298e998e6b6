//! Methods of strings, lists, mappings, cyclers and loops.

use super::arguments::Given;
use super::braces;
use super::characters::is_space;
use super::operators::equal;
use super::problem::{Res, fail, room, spend};
use super::strings;
use super::value::{Value, View};

/// Calls the method `name` of `value`.
pub(super) fn call(value: &Value, name: &str, args: Given) -> Res<Value> {
    match value {
        Value::Dict(dict) => match name {
            "get" => {
                let args = args.bind("get", &["key", "default"])?;
                let found = dict.get(&args.required("key")?.key()?);
                Ok(found.or(args.get("default")).cloned().unwrap_or(Value::None))
            }
            "copy" => args.none("copy").map(|()| value.clone()),
            _ => {
                args.none("the method")?;
                let view = match name {
                    "keys" => View::Keys,
                    "values" => View::Values,
                    _ => View::Items,
                };
                Ok(Value::View(view, dict.clone()))
            }
        },
        Value::List(items) | Value::Tuple(items) => {
            if name == "copy" {
                return args.none("copy").map(|()| value.clone());
            }
            let args = args.bind("the method", &["value"])?;
            let wanted = args.required("value")?;
            let mut count = 0;
            for (place, item) in items.iter().enumerate() {
                if equal(item, wanted)? {
                    if name == "index" {
                        return Ok(Value::Int(place as i128));
                    }
                    count += 1;
                }
            }
            if name == "index" { fail("the value is not in the list") } else { Ok(Value::Int(count)) }
        }
        Value::Cycler(state) => {
            args.none("the method of a cycler")?;
            let current = state.1.get();
            state.1.set(if name == "reset" { 0 } else { (current + 1) % state.0.len().max(1) });
            Ok(if name == "reset" {
                Value::None
            } else {
                state.0.get(current).cloned().unwrap_or(Value::None)
            })
        }
        Value::Loop(state) => super::loops::call(state, name, args),
        Value::Str(text) => {
            spend(1 + (text.inner.len() >> 8))?;
            string(&text.inner, name, args)
        }
        other => fail(format!("'{}' object has no method {name}", other.type_name())),
    }
}

fn string(text: &str, name: &str, args: Given) -> Res<Value> {
    match name {
        "format" => braces::format(text, &args, &|value, key, is_item| {
            let index = key.parse::<i128>().ok().filter(|_| is_item);
            let key = index.map_or_else(|| Value::text(key), Value::Int);
            let found = if is_item {
                super::items::item(value, &key)?
            } else {
                super::items::attribute(value, key.as_str().unwrap_or(""))?
            };
            if found.is_undefined() { fail("a field of a format string is undefined") } else { Ok(found) }
        })
        .map(Value::text),
        "split" | "rsplit" => strings::split(text, name == "rsplit", args),
        "strip" | "lstrip" | "rstrip" => {
            let args = args.bind("strip", &["chars"])?;
            let chars = args.text("chars")?;
            let strips = |ch: char| chars.map_or_else(|| is_space(ch), |chars| chars.contains(ch));
            Ok(Value::text(match name {
                "strip" => text.trim_matches(strips),
                "lstrip" => text.trim_start_matches(strips),
                _ => text.trim_end_matches(strips),
            }))
        }
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => {
            search(text, name, args)
        }
        "replace" => {
            let args = args.bind("replace", &["old", "new", "count"])?;
            let (Some(old), Some(new)) = (args.text("old")?, args.text("new")?) else {
                return fail("replace needs two strings");
            };
            strings::replace(text, old, new, args.int("count", -1)?).map(Value::text)
        }
        "join" => {
            let args = args.bind("join", &["items"])?;
            let mut out = String::new();
            for (index, item) in args.required("items")?.items()?.iter().enumerate() {
                let Some(item) = item.as_str() else {
                    return fail(format!(
                        "sequence item {index}: expected str instance, {} found",
                        item.type_name()
                    ));
                };
                out.push_str(if index > 0 { text } else { "" });
                out.push_str(item);
                room(out.len())?;
            }
            Ok(Value::text(out))
        }
        "removeprefix" | "removesuffix" | "partition" | "rpartition" => {
            let args = args.bind("the method", &["text"])?;
            let Some(what) = args.text("text")? else { return fail("the method needs a string") };
            strings::cut(text, name, what)
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let args = args.bind("the method", &["width", "fillchar"])?;
            let width = args.required("width")?.as_int();
            let Some(width) = width else { return fail("a width must be an integer") };
            let fill = args.text("fillchar")?.unwrap_or(" ");
            strings::justified(text, name, width, fill).map(Value::text)
        }
        "splitlines" => {
            let args = args.bind("splitlines", &["keepends"])?;
            let lines = strings::lines(text, args.flag("keepends"));
            Value::list(lines.into_iter().map(Value::text).collect())
        }
        "expandtabs" => {
            let args = args.bind("expandtabs", &["tabsize"])?;
            strings::expand_tabs(text, args.int("tabsize", 8)?).map(Value::text)
        }
        _ => {
            args.none("the method")?;
            strings::plain(text, name)
        }
    }
}

/// Methods that search for a text within a range of another one.
fn search(text: &str, name: &str, args: Given) -> Res<Value> {
    let chars_before = |byte: usize| Value::Int(text[..byte].chars().count() as i128);
    let args = args.bind("the method", &["what", "start", "end"])?;
    let Some((from, to)) = strings::window(text, args.given("start"), args.given("end"))? else {
        return match name {
            "startswith" | "endswith" => Ok(Value::Bool(false)),
            "find" | "rfind" => Ok(Value::Int(-1)),
            "count" => Ok(Value::Int(0)),
            _ => fail("substring not found"),
        };
    };
    let part = &text[from..to];
    let what = args.required("what")?;
    if let ("startswith" | "endswith", Value::Tuple(any)) = (name, what) {
        let mut found = false;
        for one in any.iter() {
            let Some(one) = one.as_str() else { return args.wrong("what", one) };
            found |= if name == "startswith" { part.starts_with(one) } else { part.ends_with(one) };
        }
        return Ok(Value::Bool(found));
    }
    let Some(what) = what.as_str() else { return args.wrong("what", what) };
    match name {
        "startswith" => Ok(Value::Bool(part.starts_with(what))),
        "endswith" => Ok(Value::Bool(part.ends_with(what))),
        "count" => Ok(Value::Int(part.matches(what).count() as i128)),
        _ => match if name.starts_with('r') { part.rfind(what) } else { part.find(what) } {
            Some(at) => Ok(chars_before(from + at)),
            None if name.ends_with("find") => Ok(Value::Int(-1)),
            None => fail("substring not found"),
        },
    }
}
