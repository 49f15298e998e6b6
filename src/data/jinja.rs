//! The Jinja environment of transformers (`utils/chat_template_utils.py`, `_cached_compile_jinja_template`) on minijinja.
//!
//! transformers renders with jinja2's sandbox, `trim_blocks`, `lstrip_blocks`, loop controls, its own `tojson`,
//! `raise_exception`, `strftime_now` and a `{% generation %}` block; templates lean on Python's string methods. minijinja
//! has most of it; what it lacks or answers otherwise is here.

use std::fmt::Write as _;
use std::sync::LazyLock;

use chrono::NaiveDateTime;
use fancy_regex::Regex;
use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use serde_json::Value as Json;

/// Instructions that one rendering may take, about a second: a long conversation takes a thousandth, and a template with
/// endless loops ends.
const MOST_INSTRUCTIONS: u64 = 20_000_000;

/// An environment with the settings and names of transformers; `now` is what `strftime_now` tells.
pub fn environment(now: NaiveDateTime) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_fuel(Some(MOST_INSTRUCTIONS));
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_unknown_method_callback(python_method);
    env.add_filter("tojson", tojson);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", move |format: &str| strftime(now, format));
    // In Python strings and mappings have a length and items too; templates that ask `is sequence` rely on it.
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map)
    });
    env.add_test("iterable", |value: &Value| {
        value.is_undefined()
            || value.kind() == ValueKind::String
            || value.try_iter().is_ok() && !value.is_none()
    });
    env
}

/// `{% generation %}…{% endgeneration %}` only marks the assistant's tokens: rendered, it is a block with a scope of its
/// own, which `with` is too.
pub fn without_generation_blocks(source: &str) -> String {
    static TAG: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})").ok());
    match &*TAG {
        Some(tag) => tag.replace_all(source, "${1}${2}with${3}").into_owned(),
        None => source.to_owned(),
    }
}

fn strftime(now: NaiveDateTime, format: &str) -> Result<String, Error> {
    let mut text = String::new();
    // chrono reports an unknown conversion specifier as a formatting error.
    write!(text, "{}", now.format(format)).map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know the format {format:?}"))
    })?;
    Ok(text)
}

/// Python's methods: minijinja-contrib's, but for those it lacks and for `find`, `rfind` and `count`, which there tell
/// byte offsets (wrong as soon as a template slices text that is not ASCII) and never end on an empty argument.
fn python_method(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args);
    };
    let chars = |byte: usize| text[..byte].chars().count() as i64;
    match method {
        "find" | "index" | "rfind" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let found = if method.starts_with('r') { text.rfind(what) } else { text.find(what) };
            match found.map(chars) {
                Some(offset) => Ok(Value::from(offset)),
                None if method.ends_with("find") => Ok(Value::from(-1)),
                None => Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
            }
        }
        "count" => {
            let (what,): (&str,) = from_args(args)?;
            Ok(Value::from(text.matches(what).count()))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" => {
            let (sep,): (&str,) = from_args(args)?;
            let (head, tail) = text.split_once(sep).map_or((text, None), |(h, t)| (h, Some(t)));
            Ok([head, tail.map_or("", |_| sep), tail.unwrap_or("")].into_iter().collect())
        }
        "rpartition" => {
            let (sep,): (&str,) = from_args(args)?;
            let (head, tail) = text.rsplit_once(sep).map_or((None, text), |(h, t)| (Some(h), t));
            Ok([head.unwrap_or(""), head.map_or("", |_| sep), tail].into_iter().collect())
        }
        "split" | "rsplit" => split(text, method == "rsplit", args),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `str.split` and `str.rsplit`: `(sep=None, maxsplit=-1)`.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (sep, maxsplit, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let sep = sep.map_or_else(|| kwargs.get::<Option<&str>>("sep"), |sep| Ok(Some(sep)))?;
    let maxsplit = maxsplit.map_or_else(|| kwargs.get::<Option<i64>>("maxsplit"), |max| Ok(Some(max)))?;
    kwargs.assert_all_used()?;
    let pieces =
        maxsplit.and_then(|max| usize::try_from(max).ok()).map_or(usize::MAX, |max| max.saturating_add(1));
    let mut parts: Vec<&str> = match sep {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(sep) if from_right => text.rsplitn(pieces, sep).collect(),
        Some(sep) => text.splitn(pieces, sep).collect(),
        None => return Ok(split_whitespace(text, from_right, pieces).into_iter().collect()),
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().collect())
}

/// Runs of white space are one separator, and none stands at either end, but for the piece that the limit left whole.
fn split_whitespace(text: &str, from_right: bool, pieces: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_right { text.trim_end() } else { text.trim_start() };
    while !rest.is_empty() {
        let border =
            if from_right { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
        let (part, left) = match border {
            _ if parts.len() + 1 >= pieces => (rest, ""),
            None => (rest, ""),
            Some(at) if from_right => (rest[at..].trim_start(), rest[..at].trim_end()),
            Some(at) => (&rest[..at], rest[at..].trim_start()),
        };
        parts.push(part);
        rest = left;
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// transformers' `tojson`: Python's `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let default = [if indent.is_some() { "," } else { ", " }, ": "].map(String::from);
    let [item, key] = match separators {
        Some(pair) => <[String; 2]>::try_from(pair)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "separators are (item, key)"))?,
        None => default,
    };
    let style = JsonStyle {
        indent,
        item,
        key,
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, "cannot be written as JSON").with_source(e))?;
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(Value::from(out))
}

struct JsonStyle {
    indent: Option<usize>,
    item: String,
    key: String,
    ascii: bool,
    sort_keys: bool,
}

impl JsonStyle {
    fn write(&self, json: &Json, depth: usize, out: &mut String) {
        match json {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(number) => match number.as_f64() {
                Some(float) if number.is_f64() => out.push_str(&python_float(float)),
                _ => out.push_str(&number.to_string()),
            },
            Json::String(text) => self.string(text, out),
            Json::Array(items) => self.brackets(['[', ']'], items, depth, out, |item, out| {
                self.write(item, depth + 1, out);
            }),
            Json::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.brackets(['{', '}'], &entries, depth, out, |(key, value), out| {
                    self.string(key, out);
                    out.push_str(&self.key);
                    self.write(value, depth + 1, out);
                });
            }
        }
    }

    fn brackets<T>(
        &self,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        out: &mut String,
        write: impl Fn(&T, &mut String),
    ) {
        let new_line = |depth: usize, out: &mut String| {
            if let Some(width) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', width.saturating_mul(depth).min(1 << 12)));
            }
        };
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            new_line(depth + 1, out);
            write(item, out);
        }
        if !items.is_empty() {
            new_line(depth, out);
        }
        out.push(close);
    }

    fn string(&self, text: &str, out: &mut String) {
        for ch in Json::from(text).to_string().chars() {
            if self.ascii && !ch.is_ascii() {
                for unit in ch.encode_utf16(&mut [0; 2]) {
                    out.extend(format!("\\u{unit:04x}").chars());
                }
            } else {
                out.push(ch);
            }
        }
    }
}

/// Python's `repr` of a float: shortest digits, an exponent below 1e-4 and from 1e16 on, with a sign and two digits.
fn python_float(value: f64) -> String {
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, Error> {
        let now = NaiveDateTime::default() + chrono::TimeDelta::hours(30);
        environment(now).render_str(
            &without_generation_blocks(source),
            minijinja::context! {
                text => "añb</think>c d", object => minijinja::context! { b => 1.5, a => "<é>" },
            },
        )
    }

    /// Expected values: CPython 3.11's answers.
    #[test]
    fn string_methods_answer_as_python() {
        for (expression, expected) in [
            ("text.find('</think>')", "3"),
            ("text[text.find('</think>'):]", "</think>c d"),
            ("text.rfind('x')", "-1"),
            ("text.split('</think>')[-1]", "c d"),
            ("'a  b c '.split()", "['a', 'b', 'c']"),
            ("' a  b c '.split(None, 1)", "['a', 'b c ']"),
            ("'a,b,c'.split(',', maxsplit=1)", "['a', 'b,c']"),
            ("'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"),
            ("' a  b c '.rsplit(None, 1)", "[' a  b', 'c']"),
            ("'a-b-c'.partition('-')", "('a', '-', 'b-c')"),
            ("'abc'.rpartition('-')", "('', '', 'abc')"),
            ("'abab'.count('ab')", "2"),
            ("'ab'.count('')", "3"),
            ("'abc'.removeprefix('a').removesuffix('c')", "b"),
            ("'x'.startswith(('y', 'x'))", "True"),
        ] {
            let rendered = render(&format!("{{{{ {expression} }}}}")).unwrap();
            // Sequences print with minijinja's quotes and brackets; only their items matter.
            let plain = |text: &str| text.replace(['\'', '"', '(', ')', '[', ']'], "");
            assert_eq!(plain(&rendered), plain(expected), "{expression}");
        }
        assert!(render("{{ 'a'.split('') }}").is_err());
        assert!(render("{{ 'a'.index('b') }}").is_err());
    }

    /// Expected values: CPython 3.11's `json.dumps`.
    #[test]
    fn tojson_is_pythons_dumps() {
        for (arguments, expected) in [
            ("", r#"{"b": 1.5, "a": "<é>"}"#),
            ("(sort_keys=true)", r#"{"a": "<é>", "b": 1.5}"#),
            ("(ensure_ascii=true)", r#"{"b": 1.5, "a": "<\u00e9>"}"#),
            ("(separators=(',', ':'))", r#"{"b":1.5,"a":"<é>"}"#),
            ("(indent=2)", "{\n  \"b\": 1.5,\n  \"a\": \"<é>\"\n}"),
        ] {
            assert_eq!(render(&format!("{{{{ object | tojson{arguments} }}}}")).unwrap(), expected);
        }
        assert_eq!(
            render("{{ [[], {}, none, true, '🙂'] | tojson }}").unwrap(),
            r#"[[], {}, null, true, "🙂"]"#
        );
        assert_eq!(render("{{ '🙂' | tojson(ensure_ascii=true) }}").unwrap(), r#""\ud83d\ude42""#);
        for (value, expected) in [
            (1e16, "1e+16"),
            (1.5e-7, "1.5e-07"),
            (123456.0, "123456.0"),
            (0.0001, "0.0001"),
            (1e-5, "1e-05"),
        ] {
            assert_eq!(python_float(value), expected);
        }
    }

    #[test]
    fn blocks_controls_and_dates() {
        assert_eq!(render("a\n  {% generation %}\nb\n  {%- endgeneration %}\nc").unwrap(), "a\nbc");
        assert_eq!(
            render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
                .unwrap(),
            "01"
        );
        assert_eq!(render("{{ strftime_now('%d %b %Y %-d %H') }}").unwrap(), "02 Jan 1970 2 06");
        assert!(render("{{ strftime_now('%Q') }}").is_err());
        assert!(
            render("{{ raise_exception('no system role') }}")
                .unwrap_err()
                .to_string()
                .contains("no system role")
        );
        assert_eq!(
            render("{{ nothing }}{{ nothing is defined }}{{ 'a' is sequence }}").unwrap(),
            "FalseTrue"
        );
        assert!(render("{{ nothing.at.all }}").is_err());
    }
}
