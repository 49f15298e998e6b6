//! Constructs of templates compared with jinja2 in transformers' environment (`fixtures/jinja/constructs.py`): the same
//! text, or a refusal.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::Path;

use chrono::DateTime;
use dpo_lora::data::jinja::Template;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Constructs {
    now: i64,
    context: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    /// jinja2's output, or an error if there is none.
    text: Option<String>,
    error: Option<String>,
}

/// The maximum number of constructs that jinja2 renders and this program does not; each is named in the output.
const MOST_REFUSED: usize = 5;

#[test]
fn every_construct_gives_jinja2s_text_or_is_refused() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jinja/constructs.json");
    let all: Constructs = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let now = DateTime::from_timestamp(all.now, 0).unwrap().naive_utc();
    let (mut same, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for case in &all.cases {
        let variables = all.context.iter().map(|(name, value)| (name.as_str(), value));
        let found = Template::parse(&case.template).and_then(|template| template.render(variables, now));
        match (found, &case.text) {
            (Ok(text), Some(expected)) if text == *expected => same += 1,
            (Err(_), None) => same += 1,
            (Err(problem), Some(_)) => refused.push(format!("{:?}: {problem}", case.template)),
            (Ok(text), Some(expected)) => {
                wrong.push(format!("{:?}: {text:?}, expected {expected:?}", case.template));
            }
            (Ok(text), None) => wrong.push(format!(
                "{:?}: {text:?}, where jinja2 says {}",
                case.template,
                case.error.as_deref().unwrap_or_default()
            )),
        }
    }
    println!("{same} of {} the same; refused: {refused:#?}", all.cases.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(all.cases.len() >= 250 && refused.len() <= MOST_REFUSED, "{refused:#?}");
}
