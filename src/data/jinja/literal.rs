//! Number and string literals.

use super::token::Token;

/// Parses the number at the start of `text` and returns it with its length in bytes.
pub(super) fn number(text: &str) -> Result<(Token, usize), String> {
    let digits = |from: usize| -> usize {
        let rest = &text[from..];
        rest.find(|ch: char| !ch.is_ascii_digit() && ch != '_').unwrap_or(rest.len())
    };
    for (mark, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if text.len() > 2 && text.is_char_boundary(2) && text[..2].eq_ignore_ascii_case(mark) {
            let rest = &text[2..];
            let end = rest.find(|ch: char| !ch.is_digit(radix) && ch != '_').unwrap_or(rest.len());
            let value = i128::from_str_radix(&rest[..end].replace('_', ""), radix);
            return value
                .map(|value| (Token::Int(value), 2 + end))
                .map_err(|e| format!("{}: {e}", &text[..2 + end]));
        }
    }
    let mut end = digits(0);
    let whole = end;
    let after_dot =
        |at: usize| text[at..].starts_with('.') && text[at + 1..].starts_with(|ch: char| ch.is_ascii_digit());
    if after_dot(end) {
        end += 1 + digits(end + 1);
    }
    if text[end..].starts_with(['e', 'E']) {
        let signed = usize::from(text[end + 1..].starts_with(['+', '-']));
        if text[end + 1 + signed..].starts_with(|ch: char| ch.is_ascii_digit()) {
            end += 1 + signed + digits(end + 1 + signed);
        }
    }
    let plain = text[..end].replace('_', "");
    if end == whole {
        if plain.len() > 1 && plain.starts_with('0') && plain.bytes().any(|byte| byte != b'0') {
            return Err(format!("{plain}: an integer must not begin with 0"));
        }
        return plain
            .parse()
            .map(|value| (Token::Int(value), end))
            .map_err(|_| format!("{plain}: integers beyond 128 bits are not supported"));
    }
    plain.parse().map(|value| (Token::Float(value), end)).map_err(|e| format!("{plain}: {e}"))
}

/// Parses the quoted string at the start of `text` and returns it with its length in bytes.
pub(super) fn string(text: &str) -> Result<(String, usize), String> {
    let quote = text.chars().next().unwrap_or('"');
    let mut out = String::new();
    let mut at = quote.len_utf8();
    while let Some(ch) = text[at..].chars().next() {
        at += ch.len_utf8();
        if ch == quote {
            return Ok((out, at));
        }
        if ch == '\\' {
            at += escape(&text[at..], &mut out)?;
        } else {
            out.push(ch);
        }
    }
    Err("a string is not closed".into())
}

/// Writes the character of an escape sequence whose backslash has been read, and returns the length in bytes.
fn escape(text: &str, out: &mut String) -> Result<usize, String> {
    let escaped = text.chars().next().ok_or("a string is not closed")?;
    let digits = match escaped {
        '0'..='7' => {
            let length = text.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
            out.push(code(&text[..length], 8)?);
            return Ok(length);
        }
        'x' => 2,
        'u' => 4,
        'U' => 8,
        'N' => return Err("names of characters (\\N{...}) are not supported in strings".into()),
        _ => 0,
    };
    if digits > 0 {
        out.push(code(text.get(1..=digits).ok_or("an escape in a string is incomplete")?, 16)?);
        return Ok(1 + digits);
    }
    match escaped {
        '\n' => {}
        '\\' | '\'' | '"' => out.push(escaped),
        'a' => out.push('\x07'),
        'b' => out.push('\x08'),
        'f' => out.push('\x0c'),
        'n' => out.push('\n'),
        'r' => out.push('\r'),
        't' => out.push('\t'),
        'v' => out.push('\x0b'),
        other => out.extend(['\\', other]),
    }
    Ok(escaped.len_utf8())
}

fn code(digits: &str, radix: u32) -> Result<char, String> {
    let value = u32::from_str_radix(digits, radix)
        .map_err(|_| format!("\\{digits} is not a valid escape in a string"))?;
    char::from_u32(value).ok_or_else(|| format!("a string contains U+{value:04X}, which is not a character"))
}
