//! How filters access and compare the items of a sequence.

use super::problem::Res;
use super::strings;
use super::value::Value;

/// Resolves an attribute path as used in filters: `a.b.0`.
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

/// Returns the key by which values are compared, folded to one case unless `case_sensitive`.
pub(super) fn folded(value: Value, case_sensitive: bool) -> Res<Value> {
    match &value {
        Value::Str(text) if !case_sensitive => strings::plain(&text.inner, "lower"),
        _ => Ok(value),
    }
}
