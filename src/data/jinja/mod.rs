//! Jinja as transformers renders chat templates (`utils/chat_template_utils.py`, `_cached_compile_jinja_template`).
//!
//! transformers renders with jinja2's immutable sandbox, `trim_blocks`, `lstrip_blocks`, loop controls, its own `tojson`,
//! `raise_exception`, `strftime_now` and a `{% generation %}` block, over Python's values. A model was taught what that
//! prints, to the byte, so this is an interpreter of its own with Python's numbers, strings, methods, undefined values and
//! white space. What it does not have is refused by name. Steps, memory, output and depth of a rendering are bounded.
//! `tests/fixtures/jinja/constructs.json` has what jinja2 makes of each construct.

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

/// A template that is ready to be rendered, by any number of threads.
#[derive(Debug)]
pub struct Template {
    body: Vec<ast::Statement>,
}

impl Template {
    /// Reads `source`.
    ///
    /// # Errors
    /// What is not Jinja, with its line.
    pub fn parse(source: &str) -> Result<Self, Problem> {
        Ok(Self { body: parser::parse(source)? })
    }

    /// Renders it with `variables`, the last of a name counts; `now` is what `strftime_now` tells.
    ///
    /// # Errors
    /// What the template raises, what Python would raise, what is not supported, and what goes beyond the bounds.
    pub fn render<'a>(
        &self,
        variables: impl IntoIterator<Item = (&'a str, &'a Json)>,
        now: NaiveDateTime,
    ) -> Result<String, Problem> {
        let variables = variables.into_iter().map(|(name, json)| Ok((name.into(), Value::from_json(json)?)));
        render::Renderer::run(&self.body, variables.collect::<Result<_, Problem>>()?, now)
    }
}
