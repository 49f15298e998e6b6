//! JSON data as template values that print as Python prints them: `['a', 'b']`, where minijinja says `["a", "b"]`.
//!
//! Templates rarely print a list or a mapping on purpose, but some pass one through `upper` or `~` (Gemma 4 does with the
//! types of a tool's parameters), and then the model was taught Python's spelling.

use std::fmt;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use serde_json::Value as Json;

/// `json` as a template value.
pub fn to_value(json: &Json) -> Value {
    match json {
        Json::Array(items) => Value::from_object(List(items.iter().map(to_value).collect())),
        Json::Object(map) => {
            Value::from_object(Dict(map.iter().map(|(key, value)| (key.clone(), to_value(value))).collect()))
        }
        scalar => Value::from_serialize(scalar),
    }
}

#[derive(Debug)]
struct List(Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(self.0.iter(), f)
    }
}

/// Entries in their order; looked up one by one, as messages and schemas have few.
#[derive(Debug)]
struct Dict(Vec<(String, Value)>);

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(key, _)| Value::from(key)).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (key, value)) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { ", " } else { "" })?;
            write_string(key, f)?;
            f.write_str(": ")?;
            write_repr(value, f)?;
        }
        f.write_str("}")
    }
}

fn write_list<'a>(items: impl Iterator<Item = &'a Value>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("[")?;
    for (index, item) in items.enumerate() {
        f.write_str(if index > 0 { ", " } else { "" })?;
        write_repr(item, f)?;
    }
    f.write_str("]")
}

/// Python's `repr`; nested lists and mappings are [`List`] and [`Dict`] and print themselves.
fn write_repr(value: &Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => write_string(text, f),
        _ => write!(f, "{value}"),
    }
}

/// Single quotes, unless the text has some and no double ones.
fn write_string(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    write!(f, "{quote}")?;
    for ch in text.chars() {
        match ch {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            '\r' => f.write_str("\\r"),
            '\t' => f.write_str("\\t"),
            ch if ch == quote => write!(f, "\\{ch}"),
            ch if ch.is_control() => write!(f, "\\x{:02x}", u32::from(ch)),
            ch => write!(f, "{ch}"),
        }?;
    }
    write!(f, "{quote}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Expected values: CPython 3.11's `str`.
    #[test]
    fn prints_as_python() {
        let data = json!([1, 1.5, true, null, "a'b", "a'\"b", "é\n\u{1}", [], {}, {"k": ["v"]}]);
        let expected = r#"[1, 1.5, True, None, "a'b", 'a\'"b', 'é\n\x01', [], {}, {'k': ['v']}]"#;
        assert_eq!(to_value(&data).to_string(), expected);
    }

    #[test]
    fn behaves_as_data() {
        let env = minijinja::Environment::new();
        let ask = |expression: &str| {
            let context = minijinja::context! { x => to_value(&json!({"b": [1, 2, 3], "a": {"c": "d"}})) };
            env.render_str(&format!("{{{{ {expression} }}}}"), context).unwrap()
        };
        assert_eq!(ask("x.b[1:] | length ~ x.b[-1] ~ x.a.c ~ x['a']['c']"), "23dd");
        assert_eq!(ask("x | list | join(',')"), "b,a");
        assert_eq!(
            ask("x.b | sum ~ (x.b == [1, 2, 3]) ~ (x.a is mapping) ~ ('c' in x.a) ~ (2 in x.b)"),
            "6TrueTrueTrueTrue"
        );
        assert_eq!(ask("x.nothing is defined"), "False");
    }
}
