//! Jinja as transformers uses it for chat templates (`utils/chat_template_utils.py`, `_cached_compile_jinja_template`).
//!
//! transformers renders with jinja2's immutable sandbox, `trim_blocks`, `lstrip_blocks`, loop controls, its own
//! `tojson`, `raise_exception`, `strftime_now` and a `{% generation %}` block, on Python values. A model is trained on
//! exactly these bytes. This module is therefore a separate interpreter with Python's numbers, strings, methods,
//! undefined values and white space. Unsupported features are rejected by name. Steps, memory, output and depth of a
//! rendering are bounded. `tests/fixtures/jinja/constructs.json` contains jinja2's output for each construct.

mod arguments;
mod ast;
mod attributes;
mod blocks;
mod braces;
mod calls;
mod characters;
mod checks;
mod expressions;
mod filter_names;
mod filters;
mod format;
mod functions;
mod items;
mod json;
mod lexer;
mod literal;
mod loops;
mod methods;
mod numbers;
mod operators;
mod parser;
mod paths;
mod problem;
mod reading;
mod render;
mod scope;
mod sequences;
mod strings;
mod text;
mod texts;
mod token;
mod value;

use chrono::NaiveDateTime;
use serde_json::Value as Json;

pub use problem::Problem;
use value::Value;

/// A parsed template that any number of threads can render.
#[derive(Debug)]
pub struct Template {
    body: Vec<ast::Statement>,
}

impl Template {
    /// Parses `source`.
    ///
    /// # Errors
    /// Fails if `source` is not valid Jinja; the error contains the line.
    pub fn parse(source: &str) -> Result<Self, Problem> {
        Ok(Self { body: parser::parse(source)? })
    }

    /// Renders the template with `variables`; the last value of a repeated name wins. `strftime_now` returns `now`.
    ///
    /// # Errors
    /// Fails if the template raises an exception, Python would raise one, a feature is not supported, or a limit is
    /// exceeded.
    pub fn render<'a>(
        &self,
        variables: impl IntoIterator<Item = (&'a str, &'a Json)>,
        now: NaiveDateTime,
    ) -> Result<String, Problem> {
        let variables = variables.into_iter().map(|(name, json)| Ok((name.into(), Value::from_json(json)?)));
        render::Renderer::run(&self.body, variables.collect::<Result<_, Problem>>()?, now)
    }
}
