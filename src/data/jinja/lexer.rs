//! Splits a template into text and tags: jinja2's lexer with `trim_blocks` and `lstrip_blocks`.

use super::characters::is_space;
use super::problem::{Problem, Res};
use super::token::Token;

/// Operators, longest first.
const OPERATORS: &[&str] = &[
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    /// Whether the last text read ended with a line break.
    line_start: bool,
    tokens: Vec<(Token, usize)>,
}

/// Returns the tokens and their lines.
///
/// # Errors
/// Fails on an unterminated tag or a character that does not start a token.
pub(super) fn tokens(source: &str) -> Res<Vec<(Token, usize)>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, line_start: true, tokens: Vec::new() };
    lexer.template()?;
    Ok(lexer.tokens)
}

#[derive(Clone, Copy, PartialEq)]
enum Tag {
    Variable,
    Block,
    Comment,
    Raw,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count();
        self.line_start = passed.ends_with('\n');
        self.at += bytes;
    }

    fn wrong<T>(&self, what: impl Into<String>) -> Res<T> {
        Err(Problem::new(what).at(self.line))
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn template(&mut self) -> Res<()> {
        while !self.rest().is_empty() {
            let Some((text, tag)) = self.next_tag() else {
                let text = self.rest().to_owned();
                self.push(Token::Text(text));
                return Ok(());
            };
            let start = self.at;
            let line_start = self.line_start;
            let opening = self.at + text;
            let sign = self.source[opening + 2..].chars().next().filter(|sign| "-+".contains(*sign));
            let kept = self.stripped(start, opening, tag, sign, line_start);
            if !kept.is_empty() {
                self.push(Token::Text(kept));
            }
            self.advance(text);
            match tag {
                Tag::Comment => self.comment()?,
                Tag::Raw => self.raw()?,
                Tag::Variable | Tag::Block => {
                    self.advance(2 + usize::from(sign.is_some()));
                    self.push(if tag == Tag::Block { Token::BlockBegin } else { Token::VariableBegin });
                    self.inside(tag)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the number of bytes before the next tag, and its kind.
    fn next_tag(&self) -> Option<(usize, Tag)> {
        let rest = self.rest();
        let mut from = 0;
        while let Some(found) = rest[from..].find('{') {
            let at = from + found;
            let tag = match rest.as_bytes().get(at + 1) {
                Some(b'{') => Some(Tag::Variable),
                Some(b'#') => Some(Tag::Comment),
                Some(b'%') => Some(if raw_begin(&rest[at..]).is_some() { Tag::Raw } else { Tag::Block }),
                _ => None,
            };
            if let Some(tag) = tag {
                return Some((at, tag));
            }
            from = at + 1;
        }
        None
    }

    /// Returns the text before a tag, without the white space that the tag strips.
    fn stripped(&self, start: usize, end: usize, tag: Tag, sign: Option<char>, line_start: bool) -> String {
        let text = &self.source[start..end];
        match sign {
            Some('-') => return text.trim_end_matches(is_space).to_owned(),
            None if tag != Tag::Variable => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                if (line > 0 || line_start) && text[line..].chars().all(is_space) {
                    return text[..line].to_owned();
                }
            }
            _ => {}
        }
        text.to_owned()
    }

    /// Skips the tag end `close` and the white space that it strips after it.
    fn pass_end(&mut self, close: &str, trims: bool) -> bool {
        let rest = self.rest();
        let dashed = rest.strip_prefix('-').and_then(|rest| rest.strip_prefix(close));
        let plus =
            if trims { rest.strip_prefix('+').and_then(|rest| rest.strip_prefix(close)) } else { None };
        let length = if let Some(behind) = dashed {
            rest.len() - behind.trim_start_matches(is_space).len()
        } else if let Some(behind) = plus {
            rest.len() - behind.len()
        } else if let Some(behind) = rest.strip_prefix(close) {
            let behind = if trims { behind.strip_prefix('\n').unwrap_or(behind) } else { behind };
            rest.len() - behind.len()
        } else {
            return false;
        };
        self.advance(length);
        true
    }

    fn comment(&mut self) -> Res<()> {
        self.advance(2);
        let Some(end) = self.rest().find("#}") else { return self.wrong("a comment is not closed with #}") };
        let signed = end > 0 && self.rest()[..end].ends_with(['-', '+']);
        self.advance(end - usize::from(signed));
        self.pass_end("#}", true);
        Ok(())
    }

    fn raw(&mut self) -> Res<()> {
        let Some(length) = raw_begin(self.rest()) else {
            return self.wrong("the beginning of a raw block is invalid");
        };
        self.advance(length);
        let start = self.at;
        let line_start = self.line_start;
        let mut from = 0;
        while let Some(found) = self.rest()[from..].find("{%") {
            let at = from + found;
            let tag = &self.rest()[at + 2..];
            let sign = tag.chars().next().filter(|sign| "-+".contains(*sign));
            let word = tag[usize::from(sign.is_some())..].trim_start_matches(is_space);
            if let Some(behind) = word.strip_prefix("endraw") {
                let behind = behind.trim_start_matches(is_space);
                let length = self.rest().len() - behind.len();
                if ["%}", "-%}", "+%}"].iter().any(|end| behind.starts_with(end)) {
                    let text = self.stripped(start, start + at, Tag::Raw, sign, line_start);
                    if !text.is_empty() {
                        self.push(Token::Text(text));
                    }
                    self.advance(length);
                    self.pass_end("%}", true);
                    return Ok(());
                }
            }
            from = at + 2;
        }
        self.wrong("a raw block is not closed with {% endraw %}")
    }

    /// Reads the tokens up to the end of the tag.
    fn inside(&mut self, tag: Tag) -> Res<()> {
        let (close, end) =
            if tag == Tag::Block { ("%}", Token::BlockEnd) } else { ("}}", Token::VariableEnd) };
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let spaces = self.rest().len() - self.rest().trim_start_matches(is_space).len();
            self.advance(spaces);
            if self.rest().is_empty() {
                return self.wrong(format!("a tag is not closed with {close}"));
            }
            let line = self.line;
            if open.is_empty() && self.pass_end(close, tag == Tag::Block) {
                self.tokens.push((end, line));
                return Ok(());
            }
            let token = self.token()?;
            if let Token::Op(op) = token {
                match op {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" => match open.pop() {
                        Some(expected) if expected == op => {}
                        Some(expected) => {
                            return self.wrong(format!("unexpected {op:?}, expected {expected:?}"));
                        }
                        None => return self.wrong(format!("unexpected {op:?}")),
                    },
                    _ => {}
                }
            }
            self.tokens.push((token, line));
        }
    }

    fn token(&mut self) -> Res<Token> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return self.wrong("the tag ends too early") };
        if first.is_ascii_digit() {
            let (token, length) = super::literal::number(rest).map_err(|e| Problem::new(e).at(self.line))?;
            self.advance(length);
            return Ok(token);
        }
        if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|ch: char| !ch.is_alphanumeric() && ch != '_').unwrap_or(rest.len());
            let name = rest[..end].to_owned();
            self.advance(end);
            return Ok(Token::Name(name));
        }
        if first == '\'' || first == '"' {
            let (text, length) = super::literal::string(rest).map_err(|e| Problem::new(e).at(self.line))?;
            self.advance(length);
            return Ok(Token::Str(text));
        }
        match OPERATORS.iter().find(|op| rest.starts_with(**op)) {
            Some(op) => {
                self.advance(op.len());
                Ok(Token::Op(op))
            }
            None => self.wrong(format!("unexpected character {first:?}")),
        }
    }
}

/// Returns the length in bytes of a `{% raw %}` at the start of `text`, including stripped white space.
fn raw_begin(text: &str) -> Option<usize> {
    let tag = text.strip_prefix("{%")?;
    let tag = tag.strip_prefix(['-', '+']).unwrap_or(tag).trim_start_matches(is_space);
    let tag = tag.strip_prefix("raw")?.trim_start_matches(is_space);
    let behind = match tag.strip_prefix("-%}") {
        Some(behind) => behind.trim_start_matches(is_space),
        None => tag.strip_prefix("%}")?,
    };
    Some(text.len() - behind.len())
}
