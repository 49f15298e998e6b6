//! The question to a judge: a prompt and two answers in the order in which they are shown.

use serde_json::{Value, json};

use super::config::JudgeConfig;
use super::template::Template;
use crate::error::{Error, Result};

/// Two answers to a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The prompt.
    pub prompt: String,
    /// The two answers.
    pub answers: [String; 2],
}

impl Comparison {
    /// The order in which the answers are shown if they are shown in one order only: a coin that is tossed from the texts. So
    /// neither side has a preferred place, another run shows the same, and so does a comparison whose sides are exchanged.
    pub(super) fn drawn_order(&self) -> [usize; 2] {
        let mut sorted = [0usize, 1];
        sorted.sort_by_key(|at: &usize| self.answers[*at].as_str());
        let mut hasher = blake3::Hasher::new();
        for text in [&self.prompt, &self.answers[sorted[0]], &self.answers[sorted[1]]] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        if hasher.finalize().as_bytes()[0].is_multiple_of(2) { sorted } else { [sorted[1], sorted[0]] }
    }
}

/// A question: the body of its request and its name in the transcript.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    /// BLAKE3 of the body.
    pub id: String,
    pub body: Value,
}

/// Makes the questions of a configuration.
pub(super) struct Questions<'a> {
    config: &'a JudgeConfig,
    template: Template<'a>,
}

impl<'a> Questions<'a> {
    /// # Errors
    /// As [`Template::parse`].
    pub fn of(config: &'a JudgeConfig) -> Result<Self> {
        Ok(Self { config, template: Template::parse(config.prompt.as_deref())? })
    }

    /// The question with the answers in this order.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn question(&self, prompt: &str, first: &str, second: &str) -> Result<Question> {
        let config = self.config;
        let text = self.template.filled(&config.criterion, prompt, [first, second]);
        let mut body = json!({"model": config.model, "messages": [{"role": "user", "content": text}]});
        if let Some(fields) = body.as_object_mut() {
            fields.extend(config.temperature.map(|value| ("temperature".to_string(), json!(value))));
            fields.extend(config.max_tokens.map(|value| ("max_tokens".to_string(), json!(value))));
            fields.extend(config.extra.clone());
        }
        let bytes =
            serde_json::to_vec(&body).map_err(|e| Error::Judge(format!("a question is not JSON: {e}")))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(config.endpoint.trim_end_matches('/').as_bytes()).update(b"\0").update(&bytes);
        let id = hasher.finalize().to_hex()[..32].to_string();
        Ok(Question { id, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_order_is_drawn_and_favours_no_side() {
        let pair = |i: usize, answers: [&str; 2]| Comparison {
            prompt: format!("question {i}"),
            answers: answers.map(String::from),
        };
        let first = (0..1000).filter(|i| pair(*i, ["good", "poor"]).drawn_order() == [0, 1]).count();
        // 500, with a standard deviation of 16.
        assert!((400..600).contains(&first), "{first}");
        for i in 0..50 {
            let [one, other] = pair(i, ["good", "poor"]).drawn_order();
            assert_eq!(pair(i, ["good", "poor"]).drawn_order(), [one, other]);
            // The text that is shown first does not depend on its side.
            assert_eq!(pair(i, ["poor", "good"]).drawn_order(), [1 - one, 1 - other]);
        }
    }

    #[test]
    fn places_are_filled_once() {
        let config = JudgeConfig {
            prompt: Some("{second}|{first}|{prompt}|{x}".into()),
            ..JudgeConfig::new("http://h", "m")
        };
        let question = Questions::of(&config).unwrap().question("{first}", "{second}", "b").unwrap();
        assert_eq!(question.body["messages"][0]["content"], "b|{second}|{first}|{x}");
        assert_eq!((&question.body["temperature"], &question.body["max_tokens"]), (&json!(0.0), &json!(256)));
    }

    #[test]
    fn the_standard_question_holds_everything_and_orders_differ() {
        let config = JudgeConfig::new("http://h", "m");
        let template = Questions::of(&config).unwrap();
        let (one, other) =
            (template.question("P", "x1", "x2").unwrap(), template.question("P", "x2", "x1").unwrap());
        let text = one.body["messages"][0]["content"].as_str().unwrap();
        assert!(
            text.contains(&config.criterion) && text.contains("<answer_a>\nx1\n") && text.contains("\nP\n")
        );
        assert_ne!(one.id, other.id);
        assert_eq!(one, template.question("P", "x1", "x2").unwrap());
        let warmer = JudgeConfig { temperature: Some(1.0), ..config.clone() };
        assert_ne!(Questions::of(&warmer).unwrap().question("P", "x1", "x2").unwrap().id, one.id);
    }
}
