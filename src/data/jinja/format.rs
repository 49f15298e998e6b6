//! `'%s' % x`, and the alignment of values within a width.

use super::problem::{Res, fail, room};
use super::text::{display, repr};
use super::value::Value;

/// The format of a value.
#[derive(Clone, Debug, Default)]
pub(super) struct Spec {
    pub fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    pub align: Option<char>,
    /// `+`, `-` or a space.
    pub sign: Option<char>,
    pub alternate: bool,
    pub zero: bool,
    pub width: usize,
    /// The thousands separator: `,` or `_`.
    pub group: Option<char>,
    pub precision: Option<usize>,
    pub kind: Option<char>,
}

/// Maximum width and precision. Rust's own formatting is limited to 65,535.
const WIDEST: usize = 60_000;

pub(super) fn digits(chars: &mut std::iter::Peekable<std::str::Chars>) -> Res<Option<usize>> {
    let mut found = None;
    while let Some(digit) = chars.peek().and_then(|ch| ch.to_digit(10)) {
        chars.next();
        let value = found.unwrap_or(0) * 10 + digit as usize;
        if value > WIDEST {
            return fail("a width or precision is too large");
        }
        found = Some(value);
    }
    Ok(found)
}

/// Computes `text % args`.
pub(super) fn percent(text: &str, args: &Value) -> Res<String> {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut next = 0;
    let mut named = false;
    let positional: Vec<Value> = match args {
        Value::Tuple(items) => items.to_vec(),
        other => vec![other.clone()],
    };
    while let Some(ch) = chars.next() {
        if ch != '%' {
            out.push(ch);
            continue;
        }
        let mut key = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let mut name = String::new();
            loop {
                match chars.next() {
                    Some(')') => break,
                    Some(ch) => name.push(ch),
                    None => return fail("incomplete format key"),
                }
            }
            key = Some(name);
        }
        let (spec, left) = percent_spec(&mut chars)?;
        if spec.kind == Some('%') {
            out.push('%');
            continue;
        }
        let value = match (key, args) {
            (Some(key), Value::Dict(dict)) => {
                named = true;
                dict.get_str(&key)
                    .cloned()
                    .map_or_else(|| fail(format!("the format key {key:?} is missing")), Ok)?
            }
            (Some(_), _) => return fail("format requires a mapping"),
            (None, _) => {
                next += 1;
                match positional.get(next - 1) {
                    Some(value) => value.clone(),
                    None => return fail("not enough arguments for format string"),
                }
            }
        };
        out.push_str(&percent_value(&spec, left, &value)?);
        room(out.len())?;
    }
    let spare = matches!(args, Value::Dict(_) | Value::List(_)) || named;
    if next < positional.len() && !spare {
        return fail("not all arguments converted during string formatting");
    }
    Ok(out)
}

fn percent_spec(chars: &mut std::iter::Peekable<std::str::Chars>) -> Res<(Spec, bool)> {
    let mut spec = Spec::default();
    let mut left = false;
    while let Some(flag) = chars.peek().copied().filter(|ch| "-+ #0".contains(*ch)) {
        chars.next();
        match flag {
            '-' => left = true,
            '+' => spec.sign = Some('+'),
            ' ' if spec.sign.is_none() => spec.sign = Some(' '),
            ' ' => {}
            '#' => spec.alternate = true,
            _ => spec.zero = true,
        }
    }
    spec.width = digits(chars)?.unwrap_or(0);
    if chars.peek() == Some(&'.') {
        chars.next();
        spec.precision = Some(digits(chars)?.unwrap_or(0));
    }
    while chars.peek().is_some_and(|ch| "hlL".contains(*ch)) {
        chars.next();
    }
    spec.kind = chars.next();
    if spec.kind.is_none() {
        return fail("incomplete format");
    }
    Ok((spec, left))
}

fn percent_value(spec: &Spec, left: bool, value: &Value) -> Res<String> {
    let mut spec = spec.clone();
    spec.align = Some(if left { '<' } else { '>' });
    let kind = spec.kind.unwrap_or('s');
    if left {
        spec.zero = false;
    }
    match kind {
        's' | 'r' => {
            spec.zero = false;
            let text = if kind == 's' { display(value)? } else { repr(value)? };
            Ok(padded(&spec, "", &cut(&spec, &text)))
        }
        'c' => match (value.as_str(), value.as_int()) {
            (Some(text), _) if text.chars().count() == 1 => Ok(padded(&spec, "", text)),
            (_, Some(code)) => match u32::try_from(code).ok().and_then(char::from_u32) {
                Some(ch) => Ok(padded(&spec, "", &ch.to_string())),
                None => fail("%c arg not in range"),
            },
            _ => fail("%c requires an int or a unicode character"),
        },
        'd' | 'i' | 'u' => match (value.as_int(), value) {
            (Some(value), _) => integer(&spec, value, 10),
            (None, Value::Float(value)) if value.abs() < 1e38 => integer(&spec, value.trunc() as i128, 10),
            _ => fail(format!("%{kind} format: a real number is required, not {}", value.type_name())),
        },
        'x' | 'X' | 'o' => match value.as_int() {
            Some(value) => integer(&spec, value, if kind == 'o' { 8 } else { 16 }),
            None => fail(format!("%{kind} format: an integer is required, not {}", value.type_name())),
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.as_float() {
            Some(value) => real(&spec, value),
            None => fail(format!("must be real number, not {}", value.type_name())),
        },
        other => fail(format!("unsupported format character {other:?}")),
    }
}

pub(super) fn cut(spec: &Spec, text: &str) -> String {
    match spec.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text.to_owned(),
    }
}

/// Returns `text` with `sign` before it, padded to the width.
pub(super) fn padded(spec: &Spec, sign: &str, text: &str) -> String {
    let length = sign.chars().count() + text.chars().count();
    let missing = spec.width.saturating_sub(length);
    let zeros = spec.zero && spec.align != Some('<') && spec.fill.is_none();
    let fill = |count: usize| -> String {
        let fill = if zeros { '0' } else { spec.fill.unwrap_or(' ') };
        std::iter::repeat_n(fill, count).collect()
    };
    match spec.align {
        _ if zeros => format!("{sign}{}{text}", fill(missing)),
        Some('=') => format!("{sign}{}{text}", fill(missing)),
        Some('<') => format!("{sign}{text}{}", fill(missing)),
        Some('^') => format!("{}{sign}{text}{}", fill(missing / 2), fill(missing - missing / 2)),
        _ => format!("{}{sign}{text}", fill(missing)),
    }
}

pub(super) fn sign(spec: &Spec, negative: bool) -> &'static str {
    match spec.sign {
        _ if negative => "-",
        Some('+') => "+",
        Some(' ') => " ",
        _ => "",
    }
}

pub(super) fn grouped(text: &str, group: Option<char>) -> String {
    let Some(group) = group else { return text.to_owned() };
    let (whole, rest) = text.find('.').map_or((text, ""), |at| text.split_at(at));
    let mut out = String::new();
    for (place, ch) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            out.push(group);
        }
        out.push(ch);
    }
    out + rest
}

pub(super) fn integer(spec: &Spec, value: i128, radix: u32) -> Res<String> {
    let size = value.unsigned_abs();
    let upper = spec.kind == Some('X');
    let (mark, mut text) = match radix {
        16 if upper => ("0X", format!("{size:X}")),
        16 => ("0x", format!("{size:x}")),
        8 => ("0o", format!("{size:o}")),
        2 => ("0b", format!("{size:b}")),
        _ => ("", size.to_string()),
    };
    if let Some(precision) = spec.precision {
        text = format!("{text:0>precision$}");
    }
    let sign = format!("{}{}", sign(spec, value < 0), if spec.alternate { mark } else { "" });
    if spec.group.is_some() && (spec.zero || radix != 10) {
        return fail("this combination of grouping and filling is not supported");
    }
    Ok(padded(spec, &sign, &grouped(&text, spec.group)))
}

pub(super) fn real(spec: &Spec, value: f64) -> Res<String> {
    let kind = spec.kind.unwrap_or('g');
    let size = value.abs();
    let precision = spec.precision.unwrap_or(6);
    let text = if !value.is_finite() {
        if value.is_nan() { "nan".into() } else { "inf".into() }
    } else {
        match kind.to_ascii_lowercase() {
            'f' => format!("{size:.precision$}"),
            'e' => exponential(size, precision),
            '%' => format!("{:.precision$}%", size * 100.0),
            _ => general(size, precision.max(1), spec.alternate),
        }
    };
    let text = if kind.is_ascii_uppercase() { text.to_uppercase() } else { text };
    if spec.group.is_some() && spec.zero {
        return fail("this combination of grouping and filling is not supported");
    }
    Ok(padded(spec, sign(spec, value.is_sign_negative() && !value.is_nan()), &grouped(&text, spec.group)))
}

fn exponential(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `%g`: formats `precision` significant digits without trailing zeros.
fn general(size: f64, precision: usize, keeps_zeros: bool) -> String {
    let scientific = exponential(size, precision - 1);
    let exponent: i32 = scientific.split_once('e').and_then(|(_, text)| text.parse().ok()).unwrap_or(0);
    let short = |text: &str| {
        let trimmed = if text.contains('.') && !keeps_zeros { text.trim_end_matches('0') } else { text };
        trimmed.trim_end_matches('.').to_owned()
    };
    if exponent < -4 || exponent >= precision as i32 {
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        return format!("{}e{exponent}", short(mantissa));
    }
    let decimals = usize::try_from(precision as i32 - 1 - exponent).unwrap_or(0);
    short(&format!("{size:.decimals$}"))
}
