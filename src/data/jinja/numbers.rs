//! Filters on numbers.

use super::arguments::Given;
use super::characters::is_space;
use super::problem::{Res, fail};
use super::value::Value;

pub(super) fn apply(name: &str, value: &Value, args: Given) -> Res<Value> {
    match name {
        "abs" => {
            args.none("abs")?;
            match (value, value.as_int()) {
                (Value::Float(value), _) => Ok(Value::Float(value.abs())),
                (_, Some(value)) => match value.checked_abs() {
                    Some(value) => Ok(Value::Int(value)),
                    None => fail("integers beyond 128 bits are not supported"),
                },
                (Value::Undefined(message), _) => fail(&**message),
                _ => fail(format!("bad operand type for abs(): '{}'", value.type_name())),
            }
        }
        "int" => {
            let args = args.bind("int", &["default", "base"])?;
            let default = || args.get("default").cloned().unwrap_or(Value::Int(0));
            int(value, args.int("base", 10)?, default)
        }
        "float" => {
            let args = args.bind("float", &["default"])?;
            let default = || args.get("default").cloned().unwrap_or(Value::Float(0.0));
            match (value, value.as_float()) {
                (Value::Undefined(message), _) => fail(&**message),
                (_, Some(value)) => Ok(Value::Float(value)),
                _ => Ok(value.as_str().and_then(parsed).map_or_else(default, Value::Float)),
            }
        }
        "round" => {
            let args = args.bind("round", &["precision", "method"])?;
            round(value, args.int("precision", 0)?, args.text("method")?.unwrap_or("common"))
        }
        _ => {
            let args = args.bind("filesizeformat", &["binary"])?;
            let number = value.as_float().or_else(|| value.as_str().and_then(parsed));
            let Some(bytes) = number else {
                return fail(format!("filesizeformat: could not convert a {} to float", value.type_name()));
            };
            Ok(Value::text(size(bytes, args.flag("binary"))))
        }
    }
}

/// Python's `float(text)`.
fn parsed(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space).to_ascii_lowercase();
    let plain = text.trim_start_matches(['+', '-']);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    match plain {
        _ if text.len() - plain.len() > 1 => None,
        "inf" | "infinity" => Some(sign * f64::INFINITY),
        "nan" => Some(f64::NAN),
        _ if !plain.starts_with(|ch: char| ch.is_ascii_digit() || ch == '.') => None,
        _ => without_underscores(plain)?.parse::<f64>().ok().map(|value| sign * value),
    }
}

/// Removes the underscores that are allowed between two digits.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_hexdigit);
    let fine = |at: usize| bytes[at] != b'_' || digit(at.checked_sub(1)) && digit(Some(at + 1));
    (0..bytes.len()).all(fine).then(|| text.replace('_', ""))
}

/// Python's `int(text, base)`. Returns `Ok(None)` if the text is not an integer.
fn integer(text: &str, base: u32) -> Res<Option<i128>> {
    let text = text.trim_matches(is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    let lower = digits.to_ascii_lowercase();
    let digits = lower.strip_prefix(prefix).unwrap_or(&lower);
    let Some(digits) = without_underscores(digits) else { return Ok(None) };
    if digits.is_empty() || !digits.chars().all(|ch| ch.is_digit(base)) {
        return Ok(None);
    }
    match i128::from_str_radix(&digits, base) {
        Ok(value) => Ok(Some(if negative { -value } else { value })),
        Err(_) => fail("integers beyond 128 bits are not supported"),
    }
}

fn truncated(value: f64) -> Res<Option<i128>> {
    if !value.is_finite() {
        return Ok(None);
    }
    if value.abs() > 1e38 {
        return fail("integers beyond 128 bits are not supported");
    }
    Ok(Some(value.trunc() as i128))
}

fn int(value: &Value, base: i128, default: impl Fn() -> Value) -> Res<Value> {
    if let Value::Undefined(message) = value {
        return fail(&**message);
    }
    if let Some(value) = value.as_int() {
        return Ok(Value::Int(value));
    }
    let found = match (value, value.as_str()) {
        (Value::Float(value), _) if value.is_infinite() => {
            return fail("cannot convert float infinity to integer");
        }
        (Value::Float(value), _) => truncated(*value)?,
        (_, Some(text)) => {
            let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base));
            let Some(base) = base else {
                return fail("int() base must be >= 2 and <= 36 (0 is not supported)");
            };
            match integer(text, base)? {
                Some(value) => Some(value),
                None => parsed(text).map_or(Ok(None), truncated)?,
            }
        }
        _ => None,
    };
    Ok(found.map_or_else(default, Value::Int))
}

fn round(value: &Value, precision: i128, method: &str) -> Res<Value> {
    if let Value::Undefined(message) = value {
        return fail(&**message);
    }
    let Some(float) = value.as_float() else {
        return fail(format!("type {} doesn't define __round__ method", value.type_name()));
    };
    let Ok(digits) = i32::try_from(precision) else { return fail("round: the precision is too large") };
    match method {
        "common" if matches!(value, Value::Float(_)) => {
            if !(0..=300).contains(&digits) {
                return fail("round: this precision is not supported");
            }
            let text = format!("{float:.*}", digits.unsigned_abs() as usize);
            Ok(Value::Float(text.parse().unwrap_or(float)))
        }
        "common" if digits >= 0 => Ok(Value::Int(value.as_int().unwrap_or(0))),
        "common" => fail("round: this precision is not supported"),
        "ceil" | "floor" => {
            let scale = 10_f64.powi(digits);
            let scaled = float * scale;
            let whole = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
            Ok(Value::Float(whole / scale))
        }
        other => fail(format!("round: method must be common, ceil or floor, not {other:?}")),
    }
}

fn size(bytes: f64, binary: bool) -> String {
    let base = if binary { 1024.0_f64 } else { 1000.0 };
    let units: [&str; 8] = if binary {
        ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
    } else {
        ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    };
    if bytes == 1.0 {
        return "1 Byte".into();
    }
    if bytes < base {
        return format!("{} Bytes", bytes.trunc());
    }
    let last = units.len() - 1;
    let at = (0..last).find(|at| bytes < base.powi(*at as i32 + 2)).unwrap_or(last);
    format!("{:.1} {}", base * bytes / base.powi(at as i32 + 2), units[at])
}
