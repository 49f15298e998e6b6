//! `'{}'.format(x)`.

use super::arguments::Given;
use super::format::{Spec, cut, digits, grouped, integer, padded, real, sign};
use super::problem::{Res, fail, room};
use super::text::{display, float, repr};
use super::value::Value;

/// Computes `text.format(...)`; `look` resolves attributes (`.name`) and items (`[key]`).
pub(super) fn format(
    text: &str,
    args: &Given,
    look: &dyn Fn(&Value, &str, bool) -> Res<Value>,
) -> Res<String> {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut automatic = 0;
    while let Some(ch) = chars.next() {
        match ch {
            '{' | '}' if chars.peek() == Some(&ch) => {
                chars.next();
                out.push(ch);
            }
            '}' => return fail("single '}' encountered in format string"),
            '{' => {
                let mut field = String::new();
                loop {
                    match chars.next() {
                        Some('}') => break,
                        Some('{') => {
                            return fail("fields within fields of a format string are not supported");
                        }
                        Some(ch) => field.push(ch),
                        None => return fail("expected '}' before end of string"),
                    }
                }
                out.push_str(&self::field(&field, args, &mut automatic, look)?);
                room(out.len())?;
            }
            ch => out.push(ch),
        }
    }
    Ok(out)
}

fn field(
    field: &str,
    args: &Given,
    automatic: &mut usize,
    look: &dyn Fn(&Value, &str, bool) -> Res<Value>,
) -> Res<String> {
    let (name, spec) = field.split_once(':').unwrap_or((field, ""));
    let (name, conversion) = name.split_once('!').map_or((name, None), |(name, how)| (name, Some(how)));
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut path) = name.split_at(end);
    let place = if first.is_empty() {
        *automatic += 1;
        Some(*automatic - 1)
    } else {
        first.parse().ok()
    };
    let found = match place {
        Some(place) => args.positional.get(place).cloned(),
        None => args.named.iter().find(|(own, _)| **own == *first).map(|(_, value)| value.clone()),
    };
    let Some(mut value) = found else { return fail(format!("the format field {first:?} is not given")) };
    while !path.is_empty() {
        let (key, is_item, rest) = if let Some(inner) = path.strip_prefix('[') {
            let Some((key, rest)) = inner.split_once(']') else {
                return fail("missing ']' in format string");
            };
            (key, true, rest)
        } else {
            let inner = path.strip_prefix('.').unwrap_or(path);
            let end = inner.find(['.', '[']).unwrap_or(inner.len());
            (&inner[..end], false, &inner[end..])
        };
        value = look(&value, key, is_item)?;
        path = rest;
    }
    let value = match conversion {
        None => value,
        Some("s") => Value::text(display(&value)?),
        Some("r") => Value::text(repr(&value)?),
        Some(other) => return fail(format!("unknown conversion {other:?} in format string")),
    };
    formatted(&value, spec)
}

/// Computes `format(value, spec)`.
fn formatted(value: &Value, text: &str) -> Res<String> {
    if text.is_empty() {
        return display(value);
    }
    let spec = brace_spec(text)?;
    match (value, spec.kind) {
        (Value::Str(text) | Value::Markup(text), None | Some('s')) if spec.sign.is_none() && !spec.zero => {
            let spec = Spec { align: spec.align.or(Some('<')), ..spec };
            Ok(padded(&spec, "", &cut(&spec, &text.inner)))
        }
        (Value::Int(_) | Value::Bool(_), None | Some('d' | 'x' | 'X' | 'o' | 'b'))
            if spec.precision.is_none() =>
        {
            let radix = match spec.kind {
                Some('x' | 'X') => 16,
                Some('o') => 8,
                Some('b') => 2,
                _ => 10,
            };
            integer(&spec, value.as_int().unwrap_or(0), radix)
        }
        (Value::Int(_) | Value::Bool(_) | Value::Float(_), Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
            real(&spec, value.as_float().unwrap_or(f64::NAN))
        }
        (Value::Float(value), None) if spec.precision.is_none() => {
            let text = float(value.abs());
            Ok(padded(&spec, sign(&spec, value.is_sign_negative()), &grouped(&text, spec.group)))
        }
        _ => fail(format!("the format {text:?} of a {} is not supported", value.type_name())),
    }
}

fn brace_spec(text: &str) -> Res<Spec> {
    let mut spec = Spec::default();
    let all: Vec<char> = text.chars().collect();
    let mut from = 0;
    if all.get(1).is_some_and(|ch| "<>^=".contains(*ch)) {
        (spec.fill, spec.align) = (Some(all[0]), Some(all[1]));
        from = 2;
    } else if all.first().is_some_and(|ch| "<>^=".contains(*ch)) {
        spec.align = Some(all[0]);
        from = 1;
    }
    let rest: String = all[from..].iter().collect();
    let mut chars = rest.chars().peekable();
    if let Some(sign) = chars.next_if(|ch| "+- ".contains(*ch)) {
        spec.sign = Some(sign);
    }
    spec.alternate = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() && spec.align.is_none() {
        spec.zero = true;
    }
    spec.width = digits(&mut chars)?.unwrap_or(0);
    spec.group = chars.next_if(|ch| ",_".contains(*ch));
    if chars.next_if_eq(&'.').is_some() {
        match digits(&mut chars)? {
            Some(precision) => spec.precision = Some(precision),
            None => return fail("format specifier missing precision"),
        }
    }
    spec.kind = chars.next();
    if chars.next().is_some() {
        return fail(format!("invalid format specifier {text:?}"));
    }
    Ok(spec)
}
