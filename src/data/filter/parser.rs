//! A condition as a tree, by recursive descent: or, and, not, comparison, sum, product, minus, value.

use serde_json::Value as Json;

use super::ast::{Arithmetic, Comparison, Expr, Function};
use super::lexer::{Token, tokens};

/// The deepest nesting of parentheses, functions, `not` and `-`.
const DEEPEST: usize = 32;

/// Parses a condition. Errors begin as what follows the name of the setting.
pub(super) fn parse(text: &str) -> Result<Expr, String> {
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Err("is empty; leave it out to keep every row".into());
    }
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0 };
    let expr = parser.any()?;
    match parser.tokens.get(parser.at) {
        None => Ok(expr),
        Some(_) => Err(parser.expected("an operator")),
    }
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(_, token)| token)
    }

    fn expected(&self, what: &str) -> String {
        match self.tokens.get(self.at) {
            Some((column, token)) => {
                format!("at column {column}: expected {what}, found `{}`", token.shown())
            }
            None => format!("at its end: expected {what}"),
        }
    }

    /// Takes the next token if it is this sign.
    fn sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Sign(next)) if *next == sign);
        self.at += usize::from(found);
        found
    }

    /// Takes the next token if it is this keyword.
    fn keyword(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Name(next, false)) if next == word);
        self.at += usize::from(found);
        found
    }

    /// Runs `inner` one level deeper.
    fn deeper(&mut self, inner: impl FnOnce(&mut Self) -> Result<Expr, String>) -> Result<Expr, String> {
        if self.depth == DEEPEST {
            return Err(format!("is nested more than {DEEPEST} deep"));
        }
        self.depth += 1;
        let found = inner(self);
        self.depth -= 1;
        found
    }

    fn any(&mut self) -> Result<Expr, String> {
        let mut list = vec![self.all()?];
        while self.keyword("or") {
            list.push(self.all()?);
        }
        Ok(single(list, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr, String> {
        let mut list = vec![self.negation()?];
        while self.keyword("and") {
            list.push(self.negation()?);
        }
        Ok(single(list, Expr::All))
    }

    fn negation(&mut self) -> Result<Expr, String> {
        if self.keyword("not") {
            return self.deeper(|parser| Ok(Expr::Not(Box::new(parser.negation()?))));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr, String> {
        let left = self.chain(Self::product, &[Arithmetic::Add, Arithmetic::Subtract])?;
        let Some(comparison) = self.comparison_sign() else { return Ok(left) };
        let right = self.chain(Self::product, &[Arithmetic::Add, Arithmetic::Subtract])?;
        if let (Some((column, _)), Some(_)) = (self.tokens.get(self.at), self.comparison_sign()) {
            return Err(format!("at column {column}: comparisons are not chained; join them with and"));
        }
        Ok(Expr::Compare(comparison, Box::new([left, right])))
    }

    fn comparison_sign(&mut self) -> Option<Comparison> {
        let Some(Token::Sign(sign)) = self.peek() else { return None };
        let (_, comparison) = Comparison::ALL.iter().find(|(known, _)| known == sign)?;
        self.at += 1;
        Some(*comparison)
    }

    fn product(&mut self) -> Result<Expr, String> {
        self.chain(Self::minus, &[Arithmetic::Multiply, Arithmetic::Divide])
    }

    /// Reads operands of `inner` joined by any of `operators`.
    fn chain(
        &mut self,
        inner: fn(&mut Self) -> Result<Expr, String>,
        operators: &[Arithmetic],
    ) -> Result<Expr, String> {
        let first = inner(self)?;
        let mut rest = Vec::new();
        while let Some(operator) = operators.iter().find(|operator| self.sign(operator.sign())) {
            rest.push((*operator, inner(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Chain(Box::new(first), rest) })
    }

    fn minus(&mut self) -> Result<Expr, String> {
        if self.sign("-") {
            return self.deeper(|parser| Ok(Expr::Minus(Box::new(parser.minus()?))));
        }
        self.value()
    }

    fn value(&mut self) -> Result<Expr, String> {
        let Some((column, token)) = self.tokens.get(self.at) else { return Err(self.expected("a value")) };
        let value = match token {
            Token::Number(number) => Expr::Value(written(*number)),
            Token::Text(text) => Expr::Value(text.as_str().into()),
            Token::Sign("(") => {
                self.at += 1;
                let inner = self.deeper(Self::any)?;
                return self.closed(inner);
            }
            Token::Sign(_) => return Err(self.expected("a value")),
            Token::Name(word, false) => match word.as_str() {
                "true" => Expr::Value(true.into()),
                "false" => Expr::Value(false.into()),
                "null" => Expr::Value(Json::Null),
                "and" | "or" | "not" => return Err(self.expected("a value")),
                _ if matches!(self.tokens.get(self.at + 1), Some((_, Token::Sign("(")))) => {
                    return self.call(*column, word);
                }
                _ => Expr::Path(word.clone()),
            },
            Token::Name(word, true) => Expr::Path(word.clone()),
        };
        self.at += 1;
        Ok(value)
    }

    fn call(&mut self, column: usize, name: &str) -> Result<Expr, String> {
        let Some((_, function)) = Function::ALL.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = Function::ALL.iter().map(|(name, _)| *name).collect();
            return Err(format!("at column {column}: no function `{name}`; there are {}", known.join(", ")));
        };
        self.at += 2;
        let argument = self.deeper(Self::any)?;
        if *function == Function::Has && !matches!(argument, Expr::Path(_)) {
            return Err(format!("at column {column}: has needs the name of a column"));
        }
        self.closed(Expr::Call(*function, Box::new(argument)))
    }

    fn closed(&mut self, inner: Expr) -> Result<Expr, String> {
        if self.sign(")") { Ok(inner) } else { Err(self.expected("`)`")) }
    }
}

/// Whole numbers are shown without a fraction.
fn written(number: f64) -> Json {
    if number.fract() == 0.0 && number.abs() < 1e15 { (number as i64).into() } else { number.into() }
}

fn single(mut list: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    match (list.len(), list.pop()) {
        (1, Some(one)) => one,
        (_, last) => {
            list.extend(last);
            many(list)
        }
    }
}
