//! What filters read of the items of a sequence, and compare.

use super::problem::Res;
use super::strings;
use super::value::Value;

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

/// What values are compared by where case does not count.
pub(super) fn folded(value: Value, case_sensitive: bool) -> Res<Value> {
    match &value {
        Value::Str(text) if !case_sensitive => strings::plain(&text.inner, "lower"),
        _ => Ok(value),
    }
}
