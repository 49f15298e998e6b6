//! Parses expressions with jinja2's operator precedence.

use super::ast::{Args, Binary, Comparison, Expr, Literal};
use super::parser::Parser;
use super::problem::Res;
use super::token::Token;

impl Parser {
    /// Parses an expression without a top-level comma.
    pub fn expression(&mut self) -> Res<Expr> {
        self.deeper(Self::conditional)
    }

    fn conditional(&mut self) -> Res<Expr> {
        let mut value = self.or()?;
        while self.skip_name("if") {
            self.link()?;
            let condition = self.or()?;
            let otherwise = if self.skip_name("else") { Some(Box::new(self.expression()?)) } else { None };
            value = Expr::Conditional(Box::new(condition), Box::new(value), otherwise);
        }
        Ok(value)
    }

    fn or(&mut self) -> Res<Expr> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            self.link()?;
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Res<Expr> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            self.link()?;
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Res<Expr> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.deeper(Self::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Res<Expr> {
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let comparison = match self.peek() {
                Some(Token::Op("==")) => Comparison::Eq,
                Some(Token::Op("!=")) => Comparison::Ne,
                Some(Token::Op("<")) => Comparison::Lt,
                Some(Token::Op("<=")) => Comparison::Le,
                Some(Token::Op(">")) => Comparison::Gt,
                Some(Token::Op(">=")) => Comparison::Ge,
                Some(Token::Name(name)) if name == "in" => Comparison::In,
                Some(Token::Name(name))
                    if name == "not" && matches!(self.look(), Some(Token::Name(name)) if name == "in") =>
                {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            others.push((comparison, self.sum()?));
        }
        Ok(if others.is_empty() { first } else { Expr::Compare(Box::new(first), others) })
    }

    /// Parses left-associative operators over `operand`.
    fn chain(&mut self, operators: &[(&str, Binary)], operand: fn(&mut Self) -> Res<Expr>) -> Res<Expr> {
        let mut left = operand(self)?;
        while let Some((op, binary)) = operators.iter().find(|(op, _)| self.is_op(op)) {
            self.expect_op(op)?;
            self.link()?;
            left = Expr::Binary(*binary, Box::new(left), Box::new(operand(self)?));
        }
        Ok(left)
    }

    fn sum(&mut self) -> Res<Expr> {
        self.chain(&[("+", Binary::Add), ("-", Binary::Sub)], Self::concat)
    }

    fn concat(&mut self) -> Res<Expr> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_op("~") {
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Res<Expr> {
        let operators =
            [("*", Binary::Mul), ("/", Binary::Div), ("//", Binary::FloorDiv), ("%", Binary::Mod)];
        self.chain(&operators, |parser| parser.chain(&[("**", Binary::Pow)], |parser| parser.unary(true)))
    }

    fn unary(&mut self, filtered: bool) -> Res<Expr> {
        let value = if self.skip_op("-") {
            Expr::Negative(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else if self.skip_op("+") {
            Expr::Positive(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if filtered { self.filtered(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Res<Expr> {
        let literal = match self.next() {
            Some(Token::Name(name)) => match name.as_str() {
                "true" | "True" => Literal::Bool(true),
                "false" | "False" => Literal::Bool(false),
                "none" | "None" => Literal::None,
                _ => {
                    let name = name.as_str().into();
                    self.reads(&name);
                    return Ok(Expr::Name(name));
                }
            },
            Some(Token::Str(mut text)) => {
                while let Some(Token::Str(more)) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                Literal::Str(text)
            }
            Some(Token::Int(value)) => Literal::Int(value),
            Some(Token::Float(value)) => Literal::Float(value),
            Some(Token::Op("(")) => {
                let value = self.tuple(true, Some(")"))?;
                self.expect_op(")")?;
                return Ok(value);
            }
            Some(Token::Op("[")) => return Ok(Expr::List(self.listed("]", Self::expression)?)),
            Some(Token::Op("{")) => {
                let entry = |parser: &mut Self| {
                    let key = parser.expression()?;
                    parser.expect_op(":")?;
                    Ok((key, parser.expression()?))
                };
                return Ok(Expr::Dict(self.listed("}", entry)?));
            }
            _ => {
                self.back();
                return self.wrong(format!("unexpected {}", self.shown()));
            }
        };
        Ok(Expr::Literal(literal))
    }

    /// Parses comma-separated items up to and including `end`; a trailing comma is allowed.
    fn listed<T>(&mut self, end: &str, item: impl Fn(&mut Self) -> Res<T>) -> Res<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_op(end) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.is_op(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        self.expect_op(end)?;
        Ok(items)
    }

    /// Parses an expression, or several separated by commas. `end` is what may follow a trailing comma: `)` if the
    /// tuple is in parentheses, or a word.
    pub fn tuple(&mut self, conditions: bool, end: Option<&str>) -> Res<Expr> {
        let item = |parser: &mut Self| {
            if conditions { parser.expression() } else { parser.deeper(Self::or) }
        };
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() && !is_tuple {
                break;
            }
            if self.tuple_ends(end) {
                break;
            }
            items.push(item(self)?);
            if self.skip_op(",") {
                is_tuple = true;
            } else {
                break;
            }
        }
        if !is_tuple && let Some(only) = items.pop() {
            return Ok(only);
        }
        if items.is_empty() && end != Some(")") {
            return self.wrong(format!("expected an expression, found {}", self.shown()));
        }
        Ok(Expr::Tuple(items))
    }

    fn tuple_ends(&self, end: Option<&str>) -> bool {
        match self.peek() {
            None | Some(Token::BlockEnd | Token::VariableEnd | Token::Op(")")) => true,
            Some(Token::Name(name)) => end == Some(name.as_str()),
            Some(_) => false,
        }
    }

    fn postfix(&mut self, mut value: Expr) -> Res<Expr> {
        loop {
            self.link()?;
            if self.skip_op(".") {
                value = match self.peek() {
                    Some(Token::Name(_)) => Expr::Attribute(Box::new(value), self.name()?),
                    Some(Token::Int(index)) => {
                        let index = Expr::Literal(Literal::Int(*index));
                        self.next();
                        Expr::Item(Box::new(value), Box::new(index))
                    }
                    _ => return self.wrong(format!("expected a name or a number, found {}", self.shown())),
                };
            } else if self.skip_op("[") {
                value = self.subscript(value)?;
            } else if self.is_op("(") {
                value = Expr::Call(Box::new(value), Box::new(self.arguments()?));
            } else {
                return Ok(value);
            }
        }
    }

    fn subscript(&mut self, value: Expr) -> Res<Expr> {
        let part = |parser: &mut Self| -> Res<Option<Expr>> {
            if parser.is_op(":") || parser.is_op("]") { Ok(None) } else { parser.expression().map(Some) }
        };
        let start = part(self)?;
        if !self.skip_op(":") {
            let Some(first) = start else { return self.wrong("an index is missing") };
            if !self.is_op(",") {
                self.expect_op("]")?;
                return Ok(Expr::Item(Box::new(value), Box::new(first)));
            }
            let mut items = vec![first];
            while self.skip_op(",") {
                items.push(self.expression()?);
            }
            self.expect_op("]")?;
            return Ok(Expr::Item(Box::new(value), Box::new(Expr::Tuple(items))));
        }
        let stop = part(self)?;
        let step = if self.skip_op(":") { part(self)? } else { None };
        self.expect_op("]")?;
        Ok(Expr::Slice(Box::new(value), Box::new([start, stop, step])))
    }

    /// Parses filters, tests and calls after a value.
    fn filtered(&mut self, mut value: Expr) -> Res<Expr> {
        loop {
            self.link()?;
            if self.is_op("|") {
                value = match self.filters(Some(value))? {
                    Some(value) => value,
                    None => return self.wrong("a filter is missing"),
                };
            } else if self.is_name("is") {
                value = self.test(value)?;
            } else if self.is_op("(") {
                value = Expr::Call(Box::new(value), Box::new(self.arguments()?));
            } else {
                return Ok(value);
            }
        }
    }

    /// Parses any number of `|name(...)`. Without a value they apply to the enclosing block.
    pub fn filters(&mut self, mut value: Option<Expr>) -> Res<Option<Expr>> {
        while self.skip_op("|") {
            self.link()?;
            let name = self.dotted()?;
            let args = if self.is_op("(") { self.arguments()? } else { Args::default() };
            value = Some(Expr::Filter(value.map(Box::new), name, Box::new(args)));
        }
        Ok(value)
    }

    fn dotted(&mut self) -> Res<super::ast::Name> {
        let mut name = self.name()?;
        while self.skip_op(".") {
            name = format!("{name}.{}", self.name()?).into();
        }
        Ok(name)
    }

    fn test(&mut self, value: Expr) -> Res<Expr> {
        self.next();
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let mut args = Args::default();
        let follows = match self.peek() {
            Some(Token::Name(name)) => !["else", "or", "and"].contains(&name.as_str()),
            Some(Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Op("[" | "{")) => true,
            _ => false,
        };
        if self.is_op("(") {
            args = self.arguments()?;
        } else if follows {
            if self.is_name("is") {
                return self.wrong("tests cannot be chained with `is`");
            }
            let argument = self.primary()?;
            args.positional.push(self.postfix(argument)?);
        }
        let test = Expr::Test(Box::new(value), name, Box::new(args));
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }

    pub fn arguments(&mut self) -> Res<Args> {
        self.expect_op("(")?;
        let mut args = Args::default();
        let mut comma = false;
        while !self.is_op(")") {
            if comma {
                self.expect_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            comma = true;
            let named = matches!((self.peek(), self.look()), (Some(Token::Name(_)), Some(Token::Op("="))));
            if self.skip_op("*") {
                if args.list.is_some() || args.map.is_some() {
                    return self.wrong("invalid arguments: a second *");
                }
                args.list = Some(Box::new(self.expression()?));
            } else if args.map.is_some() {
                return self.wrong("invalid arguments: ** must be the last");
            } else if self.skip_op("**") {
                args.map = Some(Box::new(self.expression()?));
            } else if named {
                let name = self.name()?;
                self.next();
                args.named.push((name, self.expression()?));
            } else if args.list.is_some() || !args.named.is_empty() {
                return self.wrong("invalid arguments: one without a name follows one with a name");
            } else {
                args.positional.push(self.expression()?);
            }
        }
        self.expect_op(")")?;
        Ok(args)
    }
}
