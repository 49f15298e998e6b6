//! Operators with Python's semantics.

use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{Binary, Comparison};
use super::characters::escape;
use super::format;
use super::problem::{Res, fail, room, spend};
use super::value::{Value, View};

fn used(value: &Value) -> Res<()> {
    match value {
        Value::Undefined(message) => fail(&**message),
        _ => Ok(()),
    }
}

fn unsupported<T>(op: &str, left: &Value, right: &Value) -> Res<T> {
    fail(format!("unsupported operand type(s) for {op}: '{}' and '{}'", left.type_name(), right.type_name()))
}

fn too_large<T>() -> Res<T> {
    fail("integers beyond 128 bits are not supported")
}

pub(super) fn binary(op: Binary, left: &Value, right: &Value) -> Res<Value> {
    used(left)?;
    if !(op == Binary::Mod && left.as_str().is_some()) {
        used(right)?;
    }
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return integers(op, a, b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return floats(op, a, b);
    }
    match (op, left, right) {
        (Binary::Add, Value::Str(a), Value::Str(b)) => joined(&a.inner, &b.inner).map(Value::text),
        (Binary::Add, Value::Markup(a), b) | (Binary::Add, b @ Value::Str(_), Value::Markup(a)) => {
            let Some(other) = b.as_str() else { return unsupported("+", left, right) };
            let other = if matches!(b, Value::Markup(_)) { other.to_owned() } else { escape(other) };
            let first = matches!(left, Value::Markup(_));
            let (first, last) = if first { (&a.inner, &other) } else { (&other, &a.inner) };
            joined(first, last).map(Value::markup)
        }
        (Binary::Add, Value::List(a), Value::List(b)) => {
            Value::list(a.iter().chain(b.iter()).cloned().collect())
        }
        (Binary::Add, Value::Tuple(a), Value::Tuple(b)) => {
            Value::tuple(a.iter().chain(b.iter()).cloned().collect())
        }
        (Binary::Mul, sequence, count) if count.as_int().is_some() => {
            repeated(sequence, count.as_int().unwrap_or(0))?.map_or_else(|| unsupported("*", left, right), Ok)
        }
        (Binary::Mul, count, sequence) if count.as_int().is_some() => {
            repeated(sequence, count.as_int().unwrap_or(0))?.map_or_else(|| unsupported("*", left, right), Ok)
        }
        (Binary::Mod, Value::Str(text), args) => format::percent(&text.inner, args).map(Value::text),
        (op, left, right) => unsupported(
            match op {
                Binary::Add => "+",
                Binary::Sub => "-",
                Binary::Mul => "*",
                Binary::Div => "/",
                Binary::FloorDiv => "//",
                Binary::Mod => "%",
                Binary::Pow => "**",
            },
            left,
            right,
        ),
    }
}

fn joined(left: &str, right: &str) -> Res<String> {
    room(left.len() + right.len())?;
    Ok([left, right].concat())
}

fn repeated(sequence: &Value, count: i128) -> Res<Option<Value>> {
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    let items = |items: &[Value]| -> Res<Vec<Value>> {
        let bytes = items.len().saturating_mul(count).saturating_mul(size_of::<Value>());
        room(bytes)?;
        Ok(items.iter().cycle().take(items.len() * count).cloned().collect())
    };
    Ok(Some(match sequence {
        Value::Str(text) | Value::Markup(text) => {
            room(text.inner.len().saturating_mul(count))?;
            let repeated = text.inner.repeat(count);
            if matches!(sequence, Value::Str(_)) { Value::text(repeated) } else { Value::markup(repeated) }
        }
        Value::List(list) => Value::list(items(list)?)?,
        Value::Tuple(list) => Value::tuple(items(list)?)?,
        _ => return Ok(None),
    }))
}

fn integers(op: Binary, a: i128, b: i128) -> Res<Value> {
    let found = match op {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div if b == 0 => return fail("division by zero"),
        Binary::Div => return Ok(Value::Float(a as f64 / b as f64)),
        Binary::FloorDiv | Binary::Mod if b == 0 => return fail("integer division or modulo by zero"),
        Binary::FloorDiv => {
            let quotient = a.checked_div(b);
            quotient.map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })
        }
        Binary::Mod => {
            let rest = a.checked_rem(b);
            rest.map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r })
        }
        Binary::Pow if b < 0 && a == 0 => return fail("zero to a negative power"),
        Binary::Pow if b < 0 => return Ok(Value::Float((a as f64).powf(b as f64))),
        Binary::Pow => match (a, u32::try_from(b)) {
            (0 | 1, _) => Some(if b == 0 { 1 } else { a }),
            (-1, _) => Some(if b % 2 == 0 { 1 } else { -1 }),
            (_, Ok(b)) => a.checked_pow(b),
            (_, Err(_)) => None,
        },
    };
    found.map_or_else(too_large, |value| Ok(Value::Int(value)))
}

fn floats(op: Binary, a: f64, b: f64) -> Res<Value> {
    let modulo = || {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest.abs().copysign(b) }
    };
    Ok(Value::Float(match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div | Binary::FloorDiv | Binary::Mod if b == 0.0 => return fail("float division by zero"),
        Binary::Div => a / b,
        Binary::Mod => {
            let rest = modulo();
            if a % b == 0.0 { 0.0_f64.copysign(b) } else { rest }
        }
        Binary::FloorDiv => {
            let quotient = ((a - modulo()) / b).round();
            if quotient == 0.0 { 0.0_f64.copysign(a / b) } else { quotient }
        }
        Binary::Pow if a < 0.0 && b.fract() != 0.0 => return fail("complex numbers are not supported"),
        Binary::Pow if a == 0.0 && b < 0.0 => return fail("zero to a negative power"),
        Binary::Pow => {
            let found = a.powf(b);
            if found.is_infinite() && a.is_finite() && b.is_finite() {
                return fail("numerical result out of range");
            }
            found
        }
    }))
}

pub(super) fn negative(value: &Value) -> Res<Value> {
    used(value)?;
    match (value, value.as_int()) {
        (Value::Float(value), _) => Ok(Value::Float(-value)),
        (_, Some(value)) => value.checked_neg().map_or_else(too_large, |value| Ok(Value::Int(value))),
        _ => fail(format!("bad operand type for unary -: '{}'", value.type_name())),
    }
}

pub(super) fn positive(value: &Value) -> Res<Value> {
    used(value)?;
    match (value, value.as_int()) {
        (Value::Float(value), _) => Ok(Value::Float(*value)),
        (_, Some(value)) => Ok(Value::Int(value)),
        _ => fail(format!("bad operand type for unary +: '{}'", value.type_name())),
    }
}

pub(super) fn compare(op: Comparison, left: &Value, right: &Value) -> Res<bool> {
    match op {
        Comparison::Eq => equal(left, right),
        Comparison::Ne => Ok(!equal(left, right)?),
        Comparison::In => contains(right, left),
        Comparison::NotIn => Ok(!contains(right, left)?),
        Comparison::Lt => Ok(order(left, right, "<")? == Some(Ordering::Less)),
        Comparison::Gt => Ok(order(left, right, ">")? == Some(Ordering::Greater)),
        Comparison::Le => Ok(order(left, right, "<=")?.is_some_and(Ordering::is_le)),
        Comparison::Ge => Ok(order(left, right, ">=")?.is_some_and(Ordering::is_ge)),
    }
}

/// Computes `left == right`.
pub(super) fn equal(left: &Value, right: &Value) -> Res<bool> {
    spend(1)?;
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return Ok(a == b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return Ok(a == b);
    }
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        return Ok(a == b);
    }
    Ok(match (left, right) {
        (Value::None, Value::None) | (Value::Undefined(_), Value::Undefined(_)) => true,
        (Value::List(a), Value::List(b)) => all_equal(a, b)?,
        (Value::Tuple(a) | Value::Group(a), Value::Tuple(b) | Value::Group(b)) => all_equal(a, b)?,
        (Value::Dict(a), Value::Dict(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            if a.entries().len() != b.entries().len() {
                return Ok(false);
            }
            for (key, value) in a.entries() {
                match b.get(&key.key()?) {
                    Some(other) if equal(value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(a), Value::Range(b)) => {
            a.length == b.length
                && (a.length == 0 || a.start == b.start && (a.length == 1 || a.step == b.step))
        }
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        (Value::Function(a), Value::Function(b)) => a == b,
        (
            Value::View(..) | Value::Iter(_) | Value::Method(_),
            Value::View(..) | Value::Iter(_) | Value::Method(_),
        ) => {
            return fail(format!(
                "two values of the types {} and {} are compared",
                left.type_name(),
                right.type_name()
            ));
        }
        _ => false,
    })
}

fn all_equal(a: &[Value], b: &[Value]) -> Res<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (a, b) in a.iter().zip(b) {
        if !equal(a, b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Compares `left` and `right`; returns `None` if a NaN is involved.
pub(super) fn order(left: &Value, right: &Value, op: &str) -> Res<Option<Ordering>> {
    spend(1)?;
    used(left)?;
    used(right)?;
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return Ok(Some(a.cmp(&b)));
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return Ok(a.partial_cmp(&b));
    }
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        return Ok(Some(a.cmp(b)));
    }
    match (left, right) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(a, b)? {
                    return order(a, b, op);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        }
        _ => fail(format!(
            "'{op}' not supported between instances of '{}' and '{}'",
            left.type_name(),
            right.type_name()
        )),
    }
}

/// Computes `item in container`.
pub(super) fn contains(container: &Value, item: &Value) -> Res<bool> {
    match container {
        Value::Str(text) | Value::Markup(text) => match item.as_str() {
            Some(item) => {
                spend(text.inner.len() >> 8)?;
                Ok(text.inner.contains(item))
            }
            None => fail(format!("'in <string>' requires string as left operand, not {}", item.type_name())),
        },
        Value::Dict(dict) | Value::View(View::Keys, dict) => {
            spend(1 + (dict.entries().len() >> 4))?;
            Ok(dict.get(&item.key()?).is_some())
        }
        Value::Range(range) => match item.as_int() {
            Some(value) => {
                let offset = value.saturating_sub(range.start);
                let inside =
                    offset % range.step == 0 && (0..range.length as i128).contains(&(offset / range.step));
                Ok(inside)
            }
            None => Ok(false),
        },
        Value::Iter(items) => loop {
            let Some(next) = items.borrow_mut().pop_front() else { return Ok(false) };
            if equal(&next, item)? {
                return Ok(true);
            }
        },
        Value::List(items) | Value::Tuple(items) | Value::Group(items) => {
            for own in items.iter() {
                if equal(own, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Undefined(_) => Ok(false),
        Value::View(..) => {
            for own in container.items()? {
                if equal(&own, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        other => fail(format!("argument of type '{}' is not a container or iterable", other.type_name())),
    }
}
