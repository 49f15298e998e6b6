//! Parses statements: jinja2's parser with the tags that transformers supports.

use std::sync::Arc;

use super::ast::{For, Kind, Name, Statement, Target};
use super::lexer::tokens;
use super::problem::{Problem, Res};
use super::token::Token;

/// Maximum nesting of expressions and blocks; jinja2's limit is Python's recursion limit.
const DEEPEST: usize = 100;

/// Maximum number of operators, filters and calls in one statement.
const MOST_LINKS: usize = 1000;

pub(super) struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
    /// Number of operators, filters and calls in the current statement so far.
    links: usize,
    /// Number of loops around the statement, within its macro.
    loops: usize,
    /// Names that the macro being parsed reads.
    pub names: Vec<Vec<Name>>,
}

/// Parses the statements of a template.
///
/// # Errors
/// Fails if the source is not valid Jinja or uses a tag that transformers does not support.
pub(super) fn parse(source: &str) -> Res<Vec<Statement>> {
    let mut parser =
        Parser { tokens: tokens(source)?, at: 0, depth: 0, links: 0, loops: 0, names: vec![Vec::new()] };
    let (body, _) = parser.statements(&[])?;
    Ok(body)
}

impl Parser {
    pub fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    pub fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    pub fn look(&self) -> Option<&Token> {
        self.tokens.get(self.at + 1).map(|(token, _)| token)
    }

    pub fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).map(|(token, _)| token.clone());
        self.at += 1;
        token
    }

    /// Moves back by one token.
    pub fn back(&mut self) {
        self.at = self.at.saturating_sub(1);
    }

    pub fn wrong<T>(&self, what: impl Into<String>) -> Res<T> {
        Err(Problem::new(what).at(self.line()))
    }

    pub fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(Token::Op(found)) if *found == op)
    }

    pub fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    pub fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    pub fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub fn expect_op(&mut self, op: &str) -> Res<()> {
        if self.skip_op(op) { Ok(()) } else { self.wrong(format!("expected {op:?}, found {}", self.shown())) }
    }

    pub fn name(&mut self) -> Res<Name> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = Name::from(name.as_str());
                self.at += 1;
                Ok(name)
            }
            _ => self.wrong(format!("expected a name, found {}", self.shown())),
        }
    }

    pub fn shown(&self) -> String {
        match self.peek() {
            None => "the end of the template".into(),
            Some(Token::Name(name)) => format!("{name:?}"),
            Some(Token::Op(op)) => format!("{op:?}"),
            Some(Token::BlockEnd) => "the end of the tag".into(),
            Some(Token::VariableEnd) => "the end of the print".into(),
            Some(other) => format!("{other:?}"),
        }
    }

    /// Records that `name` is read.
    pub fn reads(&mut self, name: &Name) {
        if let Some(names) = self.names.last_mut() {
            names.push(name.clone());
        }
    }

    /// Counts one more operator, filter or call in the statement.
    pub fn link(&mut self) -> Res<()> {
        self.links += 1;
        if self.links > MOST_LINKS { self.wrong("an expression is too long") } else { Ok(()) }
    }

    /// Runs `parse` one nesting level deeper.
    pub fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Res<T>) -> Res<T> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.wrong(format!("more than {DEEPEST} nested expressions or blocks"));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    pub fn end_block(&mut self) -> Res<()> {
        match self.peek() {
            Some(Token::BlockEnd) => {
                self.at += 1;
                Ok(())
            }
            _ => self.wrong(format!("expected the end of the tag, found {}", self.shown())),
        }
    }

    /// Parses statements up to and including the name of a tag in `until`; with no names, parses all of them.
    fn statements(&mut self, until: &[&str]) -> Res<(Vec<Statement>, String)> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            self.links = 0;
            let kind = match self.next() {
                None if until.is_empty() => return Ok((body, String::new())),
                None => {
                    return self.wrong(format!("the template ends before {{% {} %}}", until.join(" or ")));
                }
                Some(Token::Text(text)) => Kind::Text(text),
                Some(Token::VariableBegin) => {
                    let printed = self.tuple(true, None)?;
                    match self.next() {
                        Some(Token::VariableEnd) => Kind::Print(printed),
                        _ => {
                            self.at -= 1;
                            return self
                                .wrong(format!("expected the end of the print, found {}", self.shown()));
                        }
                    }
                }
                Some(Token::BlockBegin) => {
                    if let Some(Token::Name(name)) = self.peek()
                        && until.contains(&name.as_str())
                    {
                        let name = name.clone();
                        self.at += 1;
                        return Ok((body, name));
                    }
                    self.deeper(|parser| parser.tag())?
                }
                Some(_) => return self.wrong("a tag is out of place"),
            };
            body.push(Statement { line, kind });
        }
    }

    /// Parses the body of a block, starting at the end of its opening tag.
    pub fn body(&mut self, until: &[&str]) -> Res<(Vec<Statement>, String)> {
        self.end_block()?;
        self.statements(until)
    }

    pub fn closed(&mut self, until: &str) -> Res<Vec<Statement>> {
        let (body, _) = self.body(&[until])?;
        self.end_block()?;
        Ok(body)
    }

    fn tag(&mut self) -> Res<Kind> {
        let name = self.name()?;
        match &*name {
            "for" => self.for_loop(),
            "if" => self.if_chain(),
            "set" => self.set(),
            "macro" => self.macro_tag(),
            "call" => self.call_block(),
            "filter" => self.filter_block(),
            "with" => self.with(),
            "block" => self.block(),
            "generation" => self.outside_loops(|parser| Ok(Kind::Scope(parser.closed("endgeneration")?))),
            "autoescape" => {
                if !self.skip_name("false") && !self.skip_name("False") {
                    return self.wrong("only {% autoescape false %} is supported");
                }
                Ok(Kind::Scope(self.closed("endautoescape")?))
            }
            "print" => {
                let printed = self.tuple(true, None)?;
                self.end_block()?;
                Ok(Kind::Print(printed))
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return self.wrong(format!("{name} outside of a loop"));
                }
                self.end_block()?;
                Ok(if &*name == "break" { Kind::Break } else { Kind::Continue })
            }
            "include" | "import" | "from" | "extends" => {
                self.wrong(format!("{{% {name} %}} needs other templates, and a chat template has none"))
            }
            other => self.wrong(format!("unknown tag {other:?}")),
        }
    }

    /// Runs `parse` in a context where `break` and `continue` have no loop.
    pub fn outside_loops<T>(&mut self, parse: impl FnOnce(&mut Self) -> Res<T>) -> Res<T> {
        let loops = std::mem::take(&mut self.loops);
        let parsed = parse(self);
        self.loops = loops;
        parsed
    }

    fn for_loop(&mut self) -> Res<Kind> {
        let target = self.target(false)?;
        if !self.skip_name("in") {
            return self.wrong(format!("expected \"in\", found {}", self.shown()));
        }
        let iterable = self.tuple(false, Some("recursive"))?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let (body, end) = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if end == "else" { self.closed("endfor")? } else { self.no_more()? };
        Ok(Kind::For(Arc::new(For { target, iterable, condition, recursive, body, otherwise })))
    }

    /// Parses the end of a closing tag and returns no statements.
    fn no_more(&mut self) -> Res<Vec<Statement>> {
        self.end_block()?;
        Ok(Vec::new())
    }

    fn if_chain(&mut self) -> Res<Kind> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false, None)?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            match end.as_str() {
                "elif" => {}
                "else" => return Ok(Kind::If(branches, self.closed("endif")?)),
                _ => return Ok(Kind::If(branches, self.no_more()?)),
            }
        }
    }

    fn set(&mut self) -> Res<Kind> {
        let target = self.target(true)?;
        if self.skip_op("=") {
            let value = self.tuple(true, None)?;
            self.end_block()?;
            return Ok(Kind::Set(target, value));
        }
        let filters = self.filters(None)?;
        Ok(Kind::SetBlock(target, filters, self.closed("endset")?))
    }

    /// Parses `a`, `a, b`, `(a, (b, c))`, and, with `attributes`, `a.b`.
    fn target(&mut self, attributes: bool) -> Res<Target> {
        if attributes && matches!(self.look(), Some(Token::Op("."))) {
            let name = self.name()?;
            self.at += 1;
            return Ok(Target::Attribute(name, self.name()?));
        }
        let first = self.one_target()?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.skip_op(",") {
            targets.push(self.one_target()?);
        }
        Ok(Target::Tuple(targets))
    }

    pub fn one_target(&mut self) -> Res<Target> {
        if self.skip_op("(") {
            let mut inner = Vec::new();
            let mut tuple = false;
            while !self.is_op(")") {
                inner.push(self.deeper(Self::one_target)?);
                if !self.skip_op(",") {
                    break;
                }
                tuple = true;
            }
            self.expect_op(")")?;
            return match (tuple, inner.pop()) {
                (false, Some(target)) if inner.is_empty() => Ok(target),
                (_, Some(last)) => {
                    inner.push(last);
                    Ok(Target::Tuple(inner))
                }
                (_, None) => self.wrong("an empty tuple cannot be assigned to"),
            };
        }
        let name = self.name()?;
        if ["true", "false", "none", "True", "False", "None"].contains(&&*name) {
            return self.wrong(format!("{name} cannot be assigned to"));
        }
        Ok(Target::Name(name))
    }
}
