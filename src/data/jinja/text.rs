//! Conversion of values to text: Python's `str` and `repr`.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::problem::{Out, Res, fail, spend};
use super::value::{Value, View};

/// `str(value)`.
pub(super) fn display(value: &Value) -> Res<String> {
    let mut out = Out::default();
    write(value, &mut out)?;
    Ok(out.text)
}

/// Writes `str(value)`.
pub(super) fn write(value: &Value, out: &mut Out) -> Res<()> {
    match value {
        Value::Undefined(_) => Ok(()),
        Value::Str(text) | Value::Markup(text) => out.push(&text.inner),
        other => write_repr(other, out),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> Res<String> {
    let mut out = Out::default();
    write_repr(value, &mut out)?;
    Ok(out.text)
}

fn write_repr(value: &Value, out: &mut Out) -> Res<()> {
    spend(1)?;
    match value {
        Value::Undefined(_) => out.push("Undefined"),
        Value::None => out.push("None"),
        Value::Bool(value) => out.push(if *value { "True" } else { "False" }),
        Value::Int(value) => out.push(&value.to_string()),
        Value::Float(value) => out.push(&float(*value)),
        Value::Str(text) => quoted(&text.inner, out),
        Value::Markup(text) => {
            out.push("Markup(")?;
            quoted(&text.inner, out)?;
            out.push(")")
        }
        Value::List(items) => listed(items, ["[", "]"], out),
        Value::Tuple(items) | Value::Group(items) => {
            listed(items, ["(", if items.len() == 1 { ",)" } else { ")" }], out)
        }
        Value::Dict(dict) => {
            out.push("{")?;
            for (index, (key, value)) in dict.entries().iter().enumerate() {
                out.push(if index > 0 { ", " } else { "" })?;
                write_repr(key, out)?;
                out.push(": ")?;
                write_repr(value, out)?;
            }
            out.push("}")
        }
        Value::View(view, _) => {
            out.push(match view {
                View::Keys => "dict_keys(",
                View::Values => "dict_values(",
                View::Items => "dict_items(",
            })?;
            listed(&value.items()?, ["[", "]"], out)?;
            out.push(")")
        }
        Value::Range(range) => {
            let stop = range.start + range.step * range.length as i128;
            match range.step {
                1 => out.push(&format!("range({}, {})", range.start, stop)),
                step => fail(format!("a range with a step of {step} is printed")),
            }
        }
        Value::Macro(closure) => {
            out.push("<Macro ")?;
            quoted(&closure.code.name, out)?;
            out.push(">")
        }
        Value::Loop(state) => {
            out.push(&format!("<LoopContext {}/{}>", state.index0.get() + 1, state.items.len()))
        }
        // jinja2 prints a memory address here, or something that a template was never meant to print.
        other => fail(format!("a {} is printed; print its items or its result", other.type_name())),
    }
}

fn listed(items: &[Value], [open, close]: [&str; 2], out: &mut Out) -> Res<()> {
    out.push(open)?;
    for (index, item) in items.iter().enumerate() {
        out.push(if index > 0 { ", " } else { "" })?;
        write_repr(item, out)?;
    }
    out.push(close)
}

/// Uses single quotes unless the text contains some and no double quotes; escapes non-printable characters.
fn quoted(text: &str, out: &mut Out) -> Res<()> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for ch in text.chars() {
        match ch {
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            ch if ch == quote => quoted.extend(['\\', ch]),
            ' '..='~' => quoted.push(ch),
            ch if prints(ch) => quoted.push(ch),
            ch => match u32::from(ch) {
                code @ ..0x100 => quoted.push_str(&format!("\\x{code:02x}")),
                code @ ..0x10000 => quoted.push_str(&format!("\\u{code:04x}")),
                code => quoted.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    quoted.push(quote);
    out.push(&quoted)
}

/// `str.isprintable` for one character.
fn prints(ch: char) -> bool {
    static OTHER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}]").ok());
    let mut bytes = [0; 4];
    let text = &*ch.encode_utf8(&mut bytes);
    !OTHER.as_ref().is_some_and(|other| other.is_match(text).unwrap_or(true))
}

/// `repr` of a float: the shortest digits, with a signed two-digit exponent below 1e-4 and from 1e16 on.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}
