//! Parses macros and other blocks that enclose statements.

use std::sync::Arc;

use super::ast::{Args, Expr, Kind, Macro, Name};
use super::parser::Parser;
use super::problem::Res;
use super::token::Token;

impl Parser {
    fn signature(&mut self) -> Res<(Vec<Name>, Vec<Expr>)> {
        let (mut parameters, mut defaults) = (Vec::new(), Vec::new());
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !parameters.is_empty() {
                self.expect_op(",")?;
            }
            parameters.push(self.name()?);
            if self.skip_op("=") {
                defaults.push(self.expression()?);
            } else if parameters.last().is_some_and(|name| &**name == "caller") {
                return self.wrong("a parameter named caller needs a default");
            } else if !defaults.is_empty() {
                return self.wrong("a parameter without a default follows one with a default");
            }
        }
        self.expect_op(")")?;
        Ok((parameters, defaults))
    }

    /// Parses the macro of a body, starting at the end of its opening tag.
    fn macro_of(
        &mut self,
        name: Name,
        parameters: Vec<Name>,
        defaults: Vec<Expr>,
        end: &str,
    ) -> Res<Arc<Macro>> {
        self.names.push(Vec::new());
        let body = self.outside_loops(|parser| parser.closed(end));
        let read = self.names.pop().unwrap_or_default();
        let body = body?;
        let is_parameter = |special: &str| parameters.iter().any(|name| &**name == special);
        let uses = |special: &str| !is_parameter(special) && read.iter().any(|name| &**name == special);
        let (uses_caller, uses_varargs, uses_kwargs) = (uses("caller"), uses("varargs"), uses("kwargs"));
        for name in &read {
            self.reads(name);
        }
        Ok(Arc::new(Macro { name, parameters, defaults, body, uses_caller, uses_varargs, uses_kwargs }))
    }

    pub fn macro_tag(&mut self) -> Res<Kind> {
        let name = self.name()?;
        let (parameters, defaults) = self.signature()?;
        Ok(Kind::Macro(self.macro_of(name, parameters, defaults, "endmacro")?))
    }

    pub fn call_block(&mut self) -> Res<Kind> {
        let (parameters, defaults) = if self.is_op("(") { self.signature()? } else { Default::default() };
        let call = self.expression()?;
        if !matches!(call, Expr::Call(..)) {
            return self.wrong("{% call %} needs a call");
        }
        let block = self.macro_of(Name::from("caller"), parameters, defaults, "endcall")?;
        Ok(Kind::Call(call, block))
    }

    pub fn filter_block(&mut self) -> Res<Kind> {
        let name = self.name()?;
        let args = if self.is_op("(") { self.arguments()? } else { Args::default() };
        let first = Expr::Filter(None, name, Box::new(args));
        let filters = self.filters(Some(first))?;
        let body = self.closed("endfilter")?;
        match filters {
            Some(filters) => Ok(Kind::Filter(filters, body)),
            None => self.wrong("{% filter %} needs a filter"),
        }
    }

    pub fn with(&mut self) -> Res<Kind> {
        let mut values = Vec::new();
        while !matches!(self.peek(), Some(Token::BlockEnd)) {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.one_target()?;
            self.expect_op("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Kind::With(values, self.closed("endwith")?))
    }

    pub fn block(&mut self) -> Res<Kind> {
        self.name()?;
        if self.skip_name("scoped") || self.skip_name("required") {
            return self.wrong("blocks that are scoped or required are not supported");
        }
        let (body, _) = self.outside_loops(|parser| parser.body(&["endblock"]))?;
        if matches!(self.peek(), Some(Token::Name(_))) {
            self.next();
        }
        self.end_block()?;
        Ok(Kind::Block(body))
    }
}
