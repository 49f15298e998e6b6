//! Filters on texts.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::arguments::Given;
use super::characters::{escape, is_space};
use super::format;
use super::problem::{Res, fail, room, spend};
use super::strings;
use super::text::display;
use super::value::Value;

pub(super) fn apply(name: &str, value: &Value, args: Given) -> Res<Value> {
    if let Value::Markup(_) = value {
        return match name {
            "striptags" => fail("the filter striptags is not supported"),
            "replace" => apply(name, &Value::text(display(value)?), args),
            _ => fail(format!("the filter {name} of escaped text is not supported")),
        };
    }
    match name {
        "indent" => return indent(value, args),
        "truncate" => return truncate(value, args),
        "wordwrap" => return fail("the filter wordwrap is not supported"),
        "striptags" => return fail("the filter striptags is not supported"),
        "xmlattr" => return xmlattr(value, args),
        "urlencode" => {
            args.none("urlencode")?;
            return urlencode(value).map(Value::text);
        }
        "format" => {
            let text = display(value)?;
            return match (args.positional.is_empty(), args.named.is_empty()) {
                (false, false) => fail("can't handle positional and keyword arguments at the same time"),
                (true, false) => {
                    let entries = args.named.into_iter().map(|(name, value)| (Value::text(&*name), value));
                    format::percent(&text, &Value::dict(entries.collect())?)
                }
                _ => format::percent(&text, &Value::tuple(args.positional)?),
            }
            .map(Value::text);
        }
        _ => {}
    }
    let text = display(value)?;
    spend(1 + (text.len() >> 8))?;
    match name {
        "upper" | "lower" => {
            args.none(if name == "upper" { "upper" } else { "lower" })?;
            strings::plain(&text, name)
        }
        "capitalize" => args.none("capitalize").map(|()| Value::text(strings::capitalized(&text))),
        "title" => args.none("title").map(|()| Value::text(title(&text))),
        "trim" => {
            let args = args.bind("trim", &["chars"])?;
            let chars = args.text("chars")?;
            Ok(Value::text(
                text.trim_matches(|ch| chars.map_or_else(|| is_space(ch), |chars| chars.contains(ch))),
            ))
        }
        "center" => {
            let args = args.bind("center", &["width"])?;
            strings::justified(&text, "center", args.int("width", 80)?, " ").map(Value::text)
        }
        "replace" => {
            let args = args.bind("replace", &["old", "new", "count"])?;
            let count = match args.given("count") {
                None => -1,
                Some(_) => args.int("count", -1)?,
            };
            strings::replace(&text, &args.shown("old")?, &args.shown("new")?, count).map(Value::text)
        }
        _ => {
            args.none("wordcount")?;
            static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").ok());
            if !text.is_ascii() {
                return fail("wordcount of text that is not ASCII is not supported");
            }
            let count = WORD.as_ref().map_or(0, |word| word.find_iter(&text).count());
            Ok(Value::Int(count as i128))
        }
    }
}

/// Capitalizes letters after white space and brackets, and lowercases the others.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut first = true;
    for ch in text.chars() {
        if is_space(ch) || "-({[<".contains(ch) {
            out.push(ch);
            first = true;
        } else if first {
            out.extend(ch.to_uppercase());
            first = false;
        } else {
            out.extend(ch.to_lowercase());
        }
    }
    out
}

fn indent(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("indent", &["width", "first", "blank"])?;
    let Some(text) = value.as_str() else {
        return fail(match value {
            Value::Undefined(message) => message.to_string(),
            other => format!("indent: a {} is not a string", other.type_name()),
        });
    };
    let by = match args.get("width") {
        None => "    ".to_owned(),
        Some(width) => match (width.as_str(), width.as_int()) {
            (Some(text), _) => text.to_owned(),
            (_, Some(width)) => {
                let width = usize::try_from(width).unwrap_or(0);
                room(width)?;
                " ".repeat(width)
            }
            _ => return args.wrong("width", width),
        },
    };
    let whole = format!("{text}\n");
    let lines = strings::lines(&whole, false);
    room(whole.len() + lines.len().saturating_mul(by.len()))?;
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let indents = if index == 0 { args.flag("first") } else { args.flag("blank") || !line.is_empty() };
        if indents {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(Value::text(out))
}

fn truncate(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("truncate", &["length", "killwords", "end", "leeway"])?;
    let Some(text) = value.as_str() else {
        return fail(format!("truncate: a {} is not a string", value.type_name()));
    };
    let length = args.int("length", 255)?;
    let leeway = if args.given("leeway").is_some() { args.int("leeway", 5)? } else { 5 };
    let end = args.text("end")?.unwrap_or("...");
    let end_length = end.chars().count() as i128;
    if length < end_length || leeway < 0 {
        return fail(format!("truncate: expected length >= {end_length}, got {length}"));
    }
    if text.chars().count() as i128 <= length + leeway {
        return Ok(value.clone());
    }
    let kept: String = text.chars().take(usize::try_from(length - end_length).unwrap_or(0)).collect();
    let kept =
        if args.flag("killwords") { &kept } else { kept.rsplit_once(' ').map_or(&*kept, |(head, _)| head) };
    Ok(Value::text(format!("{kept}{end}")))
}

fn quote(text: &str, for_query: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            b'/' if !for_query => out.push('/'),
            b' ' if for_query => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn urlencode(value: &Value) -> Res<String> {
    let pairs = match value {
        Value::Dict(dict) => dict
            .entries()
            .iter()
            .map(|(key, value)| Ok((key.clone(), value.clone())))
            .collect::<Res<Vec<_>>>()?,
        Value::List(items) | Value::Tuple(items) => items
            .iter()
            .map(|pair| match &pair.items()?[..] {
                [key, value] => Ok((key.clone(), value.clone())),
                _ => fail("urlencode needs pairs"),
            })
            .collect::<Res<Vec<_>>>()?,
        other => return Ok(quote(&display(other)?, false)),
    };
    let mut parts = Vec::new();
    for (key, value) in pairs {
        parts.push(format!("{}={}", quote(&display(&key)?, true), quote(&display(&value)?, true)));
    }
    Ok(parts.join("&"))
}

fn xmlattr(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("xmlattr", &["autospace"])?;
    let Value::Dict(dict) = value else { return fail("xmlattr needs a mapping") };
    let mut parts = Vec::new();
    for (key, value) in dict.entries() {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = display(key)?;
        if key.contains([' ', '\t', '\n', '\r', '\x0c', '\x0b', '/', '>', '=']) {
            return fail(format!("invalid character in attribute name: {key:?}"));
        }
        let shown =
            if let Value::Markup(text) = value { text.inner.clone() } else { escape(&display(value)?) };
        parts.push(format!("{}=\"{shown}\"", escape(&key)));
    }
    let joined = parts.join(" ");
    let space = args.get("autospace").is_none_or(Value::truth) && !joined.is_empty();
    Ok(Value::text(if space { format!(" {joined}") } else { joined }))
}
