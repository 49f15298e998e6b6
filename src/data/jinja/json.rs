//! transformers' `tojson`: Python's `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.

use super::arguments::Given;
use super::operators::order;
use super::problem::{Out, Res, fail, spend};
use super::sequences::merge_sort;
use super::text::float;
use super::value::Value;

struct Style {
    /// The indentation of one level.
    indent: Option<String>,
    item: String,
    key: String,
    ascii: bool,
    sort_keys: bool,
}

pub(super) fn tojson(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("tojson", &["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match args.given("indent") {
        None => None,
        Some(value) => match (value.as_int(), value.as_str()) {
            (Some(width), _) if width <= 1 << 12 => Some(" ".repeat(usize::try_from(width).unwrap_or(0))),
            (_, Some(text)) => Some(text.to_owned()),
            _ => return args.wrong("indent", value),
        },
    };
    let (item, key) = match args.given("separators") {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(value) => match &value.items()?[..] {
            [item, key] => match (item.as_str(), key.as_str()) {
                (Some(item), Some(key)) => (item.to_owned(), key.to_owned()),
                _ => return args.wrong("separators", value),
            },
            _ => return args.wrong("separators", value),
        },
    };
    let style =
        Style { indent, item, key, ascii: args.flag("ensure_ascii"), sort_keys: args.flag("sort_keys") };
    let mut out = Out::default();
    style.write(value, 0, &mut out)?;
    Ok(Value::text(out.text))
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut Out) -> Res<()> {
        spend(1)?;
        match value {
            Value::None => out.push("null"),
            Value::Bool(value) => out.push(if *value { "true" } else { "false" }),
            Value::Int(value) => out.push(&value.to_string()),
            Value::Float(value) => out.push(&number(*value)),
            Value::Str(text) | Value::Markup(text) => self.string(&text.inner, out),
            Value::List(items) | Value::Tuple(items) | Value::Group(items) => {
                self.brackets(["[", "]"], items, depth, out, |item, out| self.write(item, depth + 1, out))
            }
            Value::Dict(dict) => {
                let mut entries: Vec<&(Value, Value)> = dict.entries().iter().collect();
                if self.sort_keys {
                    let before = |a: &&(Value, Value), b: &&(Value, Value)| {
                        Ok(order(&a.0, &b.0, "<")?.is_some_and(std::cmp::Ordering::is_lt))
                    };
                    entries = merge_sort(entries, &before)?;
                }
                self.brackets(["{", "}"], &entries, depth, out, |(key, value), out| {
                    self.key(key, out)?;
                    out.push(&self.key)?;
                    self.write(value, depth + 1, out)
                })
            }
            other => fail(format!("Object of type {} is not JSON serializable", other.type_name())),
        }
    }

    fn key(&self, key: &Value, out: &mut Out) -> Res<()> {
        match key {
            Value::Str(text) | Value::Markup(text) => self.string(&text.inner, out),
            Value::None => out.push("\"null\""),
            Value::Bool(value) => out.push(if *value { "\"true\"" } else { "\"false\"" }),
            Value::Int(value) => out.push(&format!("\"{value}\"")),
            Value::Float(value) => out.push(&format!("\"{}\"", number(*value))),
            other => fail(format!("keys must be str, int, float, bool or None, not {}", other.type_name())),
        }
    }

    fn brackets<T>(
        &self,
        [open, close]: [&str; 2],
        items: &[T],
        depth: usize,
        out: &mut Out,
        write: impl Fn(&T, &mut Out) -> Res<()>,
    ) -> Res<()> {
        let new_line = |depth: usize, out: &mut Out| -> Res<()> {
            if let Some(indent) = &self.indent {
                out.push("\n")?;
                for _ in 0..depth {
                    out.push(indent)?;
                }
            }
            Ok(())
        };
        out.push(open)?;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push(&self.item)?;
            }
            new_line(depth + 1, out)?;
            write(item, out)?;
        }
        if !items.is_empty() {
            new_line(depth, out)?;
        }
        out.push(close)
    }

    fn string(&self, text: &str, out: &mut Out) -> Res<()> {
        spend(text.len() >> 8)?;
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('"');
        for ch in text.chars() {
            match ch {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\x08' => quoted.push_str("\\b"),
                '\x0c' => quoted.push_str("\\f"),
                '\0'..='\x1f' => quoted.push_str(&format!("\\u{:04x}", u32::from(ch))),
                ch if self.ascii && !ch.is_ascii() => {
                    for unit in ch.encode_utf16(&mut [0; 2]) {
                        quoted.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                ch => quoted.push(ch),
            }
        }
        quoted.push('"');
        out.push(&quoted)
    }
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.into()
    } else {
        float(value)
    }
}
