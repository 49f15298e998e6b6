//! `value.name` and `value[key]`, resolved like in jinja2's sandbox.

use super::attributes;
use super::problem::{Res, fail, room};
use super::value::Value;

/// Returns the undefined value for something that does not exist.
fn missing(value: &Value, name: &str) -> Value {
    let message = match value {
        Value::None => format!("'None' has no attribute '{name}'"),
        other => format!("'{} object' has no attribute '{name}'", other.type_name()),
    };
    Value::undefined(message)
}

/// Resolves `value.name`: an attribute, otherwise an item.
pub(super) fn attribute(value: &Value, name: &str) -> Res<Value> {
    if let Value::Undefined(message) = value {
        return fail(&**message);
    }
    if let Some(found) = attributes::attribute(value, name)? {
        return Ok(found);
    }
    let item = match value {
        Value::Dict(dict) => dict.get_str(name).cloned(),
        _ => None,
    };
    Ok(item.unwrap_or_else(|| missing(value, name)))
}

/// Resolves `value[key]`: an item, otherwise an attribute.
pub(super) fn item(value: &Value, key: &Value) -> Res<Value> {
    let at = |length: usize| {
        let index = key.as_int()?;
        let index = if index < 0 { index + length as i128 } else { index };
        usize::try_from(index).ok().filter(|index| *index < length)
    };
    let found = match value {
        Value::Undefined(message) => return fail(&**message),
        Value::Dict(dict) => match key.key() {
            Ok(key) => dict.get(&key).cloned(),
            Err(_) => None,
        },
        Value::List(items) | Value::Tuple(items) | Value::Group(items) => {
            at(items.len()).map(|index| items[index].clone())
        }
        Value::Range(range) => at(range.length).map(|index| range.at(index)),
        Value::Str(text) | Value::Markup(text) if key.as_int().is_some() => {
            let index = at(text.inner.chars().count());
            index.and_then(|index| text.inner.chars().nth(index)).map(|ch| Value::text(ch.to_string()))
        }
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    if let Some(name) = key.as_str() {
        return Ok(attributes::attribute(value, name)?.unwrap_or_else(|| missing(value, name)));
    }
    Ok(missing(value, &super::text::display(key).unwrap_or_default()))
}

/// Computes `value[start:stop:step]`.
pub(super) fn slice(value: &Value, parts: [Option<Value>; 3]) -> Res<Value> {
    if let Value::Undefined(message) = value {
        return fail(&**message);
    }
    let mut numbers = [None; 3];
    for (number, part) in numbers.iter_mut().zip(&parts) {
        *number = match part {
            None | Some(Value::None) => None,
            // jinja2 returns an undefined value where Python raises a type error.
            Some(part) => match part.as_int() {
                Some(value) => Some(value),
                None => return Ok(missing(value, "slice")),
            },
        };
    }
    let [start, stop, step] = numbers;
    let step = step.unwrap_or(1);
    if step == 0 {
        return fail("slice step cannot be zero");
    }
    let pick = |length: usize| places(length as i128, start, stop, step);
    Ok(match value {
        Value::Str(text) | Value::Markup(text) => {
            let all: Vec<char> = text.inner.chars().collect();
            room(all.len() * 4)?;
            let part: String = pick(all.len()).map(|place| all[place]).collect();
            if matches!(value, Value::Str(_)) { Value::text(part) } else { Value::markup(part) }
        }
        Value::List(items) => Value::list(pick(items.len()).map(|place| items[place].clone()).collect())?,
        Value::Tuple(items) | Value::Group(items) => {
            Value::tuple(pick(items.len()).map(|place| items[place].clone()).collect())?
        }
        Value::Range(range) => Value::list(pick(range.length).map(|place| range.at(place)).collect())?,
        other => missing(other, "slice"),
    })
}

/// Python's `slice.indices`.
fn places(length: i128, start: Option<i128>, stop: Option<i128>, step: i128) -> impl Iterator<Item = usize> {
    let clamp = |value: i128| {
        let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
        (if value < 0 { value.saturating_add(length) } else { value }).clamp(low, high)
    };
    let (first, last) = if step > 0 { (0, length) } else { (length - 1, -1) };
    let mut at = start.map_or(first, clamp);
    let end = stop.map_or(last, clamp);
    std::iter::from_fn(move || {
        let inside = if step > 0 { at < end } else { at > end };
        let place = usize::try_from(at).ok().filter(|_| inside)?;
        at = at.saturating_add(step);
        Some(place)
    })
}
