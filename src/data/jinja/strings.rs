//! Python's string methods.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::arguments::Given;
use super::characters::is_space;
use super::problem::{Res, fail, room};
use super::value::Value;

/// `str.split` and `str.rsplit`: `(sep=None, maxsplit=-1)`.
pub(super) fn split(text: &str, from_right: bool, args: Given) -> Res<Value> {
    let args = args.bind("split", &["sep", "maxsplit"])?;
    let most = args.int("maxsplit", -1)?;
    let pieces = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match args.text("sep")? {
        Some("") => return fail("empty separator"),
        Some(sep) if from_right => text.rsplitn(pieces, sep).collect(),
        Some(sep) => text.splitn(pieces, sep).collect(),
        None => return texts(split_spaces(text, from_right, pieces)),
    };
    if from_right {
        parts.reverse();
    }
    texts(parts)
}

fn texts(parts: Vec<&str>) -> Res<Value> {
    room(parts.len() * 64)?;
    Value::list(parts.into_iter().map(Value::text).collect())
}

/// Splits at runs of white space, with none at either end except in the remainder that the limit leaves unsplit.
fn split_spaces(text: &str, from_right: bool, pieces: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let start = |text: &'_ str| -> usize { text.len() - text.trim_start_matches(is_space).len() };
    let mut rest = if from_right { text.trim_end_matches(is_space) } else { &text[start(text)..] };
    while !rest.is_empty() {
        let border = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let (part, left) = match border {
            _ if parts.len() + 1 >= pieces => (rest, ""),
            None => (rest, ""),
            Some(at) if from_right => {
                (&rest[at + start(&rest[at..])..], rest[..at].trim_end_matches(is_space))
            }
            Some(at) => (&rest[..at], &rest[at + start(&rest[at..])..]),
        };
        parts.push(part);
        rest = left;
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// Returns the byte range of the characters from `start` to `end`, with slice semantics; `None` if `start` is after
/// `end`.
pub(super) fn window(text: &str, start: Option<&Value>, end: Option<&Value>) -> Res<Option<(usize, usize)>> {
    if start.is_none() && end.is_none() {
        return Ok(Some((0, text.len())));
    }
    let count = text.chars().count() as i128;
    let place = |value: Option<&Value>, default: i128| match value {
        None => Ok(default),
        Some(value) => match value.as_int() {
            Some(at) if at < 0 => Ok((at + count).max(0)),
            Some(at) => Ok(at),
            None => fail("slice indices must be integers"),
        },
    };
    let (start, end) = (place(start, 0)?, place(end, count)?.min(count));
    if start > end {
        return Ok(None);
    }
    let byte = |chars: i128| {
        let chars = usize::try_from(chars).unwrap_or(usize::MAX);
        text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at)
    };
    Ok(Some((byte(start), byte(end))))
}

pub(super) fn replace(text: &str, old: &str, new: &str, count: i128) -> Res<String> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let found = text.matches(old).count().min(most);
    room(text.len() + found.saturating_mul(new.len()))?;
    Ok(text.replacen(old, new, most))
}

pub(super) fn cut(text: &str, name: &str, what: &str) -> Res<Value> {
    match name {
        "removeprefix" => return Ok(Value::text(text.strip_prefix(what).unwrap_or(text))),
        "removesuffix" => return Ok(Value::text(text.strip_suffix(what).unwrap_or(text))),
        _ if what.is_empty() => return fail("empty separator"),
        _ => {}
    }
    let found = if name == "partition" { text.split_once(what) } else { text.rsplit_once(what) };
    let parts = match found {
        Some((head, tail)) => [head, what, tail],
        None if name == "partition" => [text, "", ""],
        None => ["", "", text],
    };
    Value::tuple(parts.into_iter().map(Value::text).collect())
}

pub(super) fn justified(text: &str, name: &str, width: i128, fill: &str) -> Res<String> {
    let mut fills = fill.chars();
    let (Some(fill), None) = (fills.next(), fills.next()) else {
        return fail("the fill character must be exactly one character long");
    };
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(text.chars().count());
    room(missing.saturating_mul(4))?;
    let filled = |fill: char, count: usize| -> String { std::iter::repeat_n(fill, count).collect() };
    Ok(match name {
        "ljust" => format!("{text}{}", filled(fill, missing)),
        "rjust" => format!("{}{text}", filled(fill, missing)),
        "zfill" => {
            let (sign, digits) = if text.starts_with(['+', '-']) { text.split_at(1) } else { ("", text) };
            format!("{sign}{}{digits}", filled('0', missing))
        }
        // CPython's rule for an odd number of fill characters.
        _ => {
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", filled(fill, left), filled(fill, missing - left))
        }
    })
}

/// `str.splitlines`.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let ends = |ch: char| {
        matches!(ch, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let length = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(if keep { &rest[..at + length] } else { &rest[..at] });
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

pub(super) fn expand_tabs(text: &str, size: i128) -> Res<String> {
    let size = usize::try_from(size).unwrap_or(0);
    room(text.matches('\t').count().saturating_mul(size))?;
    let mut out = String::new();
    let mut column = 0;
    for ch in text.chars() {
        match ch {
            '\t' => {
                let spaces = size.checked_rem(size).map_or(0, |_| size - column % size);
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(ch);
                column = 0;
            }
            ch => {
                out.push(ch);
                column += 1;
            }
        }
    }
    Ok(out)
}

/// Returns the text with the first character in upper case and the others in lower case.
pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase(),
        None => String::new(),
    }
}

fn title(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for ch in text.chars() {
        if inside {
            out.extend(ch.to_lowercase())
        } else {
            out.extend(ch.to_uppercase())
        }
        inside = ch.is_lowercase() || ch.is_uppercase();
    }
    out
}

fn is_title(text: &str) -> bool {
    let (mut inside, mut any) = (false, false);
    for ch in text.chars() {
        if ch.is_uppercase() && inside || ch.is_lowercase() && !inside {
            return false;
        }
        inside = ch.is_lowercase() || ch.is_uppercase();
        any |= inside;
    }
    any
}

pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
}

pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
}

/// Whether the text is not empty and every character is in the classes.
fn all(text: &str, ascii: fn(&u8) -> bool, classes: &Regex) -> bool {
    !text.is_empty()
        && if text.is_ascii() {
            text.as_bytes().iter().all(ascii)
        } else {
            classes.is_match(text).unwrap_or(false)
        }
}

/// Calls a method without arguments.
pub(super) fn plain(text: &str, name: &str) -> Res<Value> {
    static CLASSES: LazyLock<Option<[Regex; 3]>> = LazyLock::new(|| {
        let new = |regex| Regex::new(regex).ok();
        Some([new(r"^\p{L}+$")?, new(r"^[\p{L}\p{N}]+$")?, new(r"^\p{Nd}+$")?])
    });
    let Some([letters, words, digits]) = &*CLASSES else { return fail("classes of characters are missing") };
    Ok(match name {
        "upper" => Value::text(text.to_uppercase()),
        "lower" => Value::text(text.to_lowercase()),
        "casefold" if text.is_ascii() => Value::text(text.to_lowercase()),
        "capitalize" => Value::text(capitalized(text)),
        "title" => Value::text(title(text)),
        "swapcase" => Value::text(
            text.chars()
                .flat_map(|ch| -> Vec<char> {
                    if ch.is_uppercase() { ch.to_lowercase().collect() } else { ch.to_uppercase().collect() }
                })
                .collect::<String>(),
        ),
        "isalpha" => Value::Bool(all(text, u8::is_ascii_alphabetic, letters)),
        "isalnum" => Value::Bool(all(text, u8::is_ascii_alphanumeric, words)),
        "isdecimal" => Value::Bool(all(text, u8::is_ascii_digit, digits)),
        "isdigit" | "isnumeric" if text.chars().all(|ch| ch.is_ascii() || !ch.is_numeric()) => {
            Value::Bool(all(text, u8::is_ascii_digit, digits))
        }
        "isspace" => Value::Bool(!text.is_empty() && text.chars().all(is_space)),
        "islower" => Value::Bool(is_lower(text)),
        "isupper" => Value::Bool(is_upper(text)),
        "istitle" => Value::Bool(is_title(text)),
        "isascii" => Value::Bool(text.is_ascii()),
        "isidentifier" if text.is_ascii() => {
            let starts = text.starts_with(|ch: char| ch.is_ascii_alphabetic() || ch == '_');
            Value::Bool(starts && text.chars().all(|ch| ch.is_ascii_alphanumeric() || ch == '_'))
        }
        "isprintable" if text.is_ascii() => {
            Value::Bool(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
        }
        other => return fail(format!("the method {other} of this string is not supported")),
    })
}
