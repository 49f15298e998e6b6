//! A condition as a list of tokens with their columns.

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Number(f64),
    Text(String),
    /// A word, with the fields behind its dots; true if it stands in backquotes and is no keyword.
    Name(String, bool),
    /// An operator or a parenthesis.
    Sign(&'static str),
}

impl Token {
    /// The token as it is written, for messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::Name(name, _) => name.clone(),
            Self::Sign(sign) => (*sign).into(),
        }
    }
}

/// The longest condition, in bytes.
const LONGEST: usize = 10_000;

/// Longer signs first.
const SIGNS: [&str; 12] = ["==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "(", ")"];

/// Signs of other languages.
const FOREIGN: [(char, &str); 4] = [('=', "=="), ('&', "and"), ('|', "or"), ('!', "not")];

/// Returns the tokens and their 1-based columns in characters.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, String> {
    if text.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let Some(c) = rest.chars().next() else { return Ok(found) };
        let column = text[..text.len() - rest.len()].chars().count() + 1;
        let at = |message: String| format!("at column {column}: {message}");
        let (token, length) = if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Token::Sign(sign), sign.len())
        } else if c == '"' || c == '\'' {
            quoted(rest, c).ok_or_else(|| at("the text has no end".into()))?
        } else if c.is_ascii_digit() {
            number(rest).map_err(at)?
        } else if c.is_alphabetic() || c == '_' || c == '`' {
            name(rest).map_err(at)?
        } else if let Some((_, instead)) = FOREIGN.iter().find(|(foreign, _)| *foreign == c) {
            return Err(at(format!("`{c}` is no operator; use {instead}")));
        } else {
            return Err(at(format!("unexpected `{c}`")));
        };
        found.push((column, token));
        rest = &rest[length..];
    }
}

/// Reads a text in quotes and returns its length with them. A backslash keeps the next character.
fn quoted(rest: &str, quote: char) -> Option<(Token, usize)> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    loop {
        match characters.next()? {
            (at, c) if c == quote => return Some((Token::Text(text), at + c.len_utf8())),
            (_, '\\') => match characters.next()?.1 {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                other => text.push(other),
            },
            (_, c) => text.push(c),
        }
    }
}

fn number(rest: &str) -> Result<(Token, usize), String> {
    let bytes = rest.as_bytes();
    let exponent = |at: usize| {
        matches!(bytes[at - 1], b'e' | b'E') && rest[..at - 1].ends_with(|c: char| c.is_ascii_digit())
    };
    let part = |(at, byte): (usize, &u8)| {
        byte.is_ascii_alphanumeric() || *byte == b'.' || matches!(byte, b'+' | b'-') && at > 0 && exponent(at)
    };
    let length = bytes.iter().enumerate().position(|entry| !part(entry)).unwrap_or(bytes.len());
    let written = &rest[..length];
    match written.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((Token::Number(number), length)),
        _ => Err(format!("`{written}` is no number")),
    }
}

/// Reads words joined by dots; words with other characters stand in backquotes.
fn name(rest: &str) -> Result<(Token, usize), String> {
    let mut path = String::new();
    let (mut at, mut marked) = (0, false);
    loop {
        let word = &rest[at..];
        if let Some(inside) = word.strip_prefix('`') {
            let end = inside.find('`').ok_or("the name has no end; write it in backquotes")?;
            path.push_str(&inside[..end]);
            at += end + 2;
            marked = true;
        } else {
            let end = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len());
            if end == 0 {
                return Err("expected a name behind `.`".into());
            }
            path.push_str(&word[..end]);
            at += end;
        }
        if !rest[at..].starts_with('.') {
            return Ok((Token::Name(path, marked), at));
        }
        path.push('.');
        at += 1;
    }
}
