//! What a judge answered: the completion of an OpenAI-compatible server, and the verdict in its text.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The parts of a response that are read.
#[derive(Debug, Default, Deserialize)]
struct Response {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    message: Message,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
}

/// The tokens of an exchange, as the server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Usage {
    /// Sent.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Received.
    #[serde(default)]
    pub completion_tokens: u64,
}

/// A response that was understood as far as possible.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    /// The text of the answer; the whole response where it has none.
    pub text: String,
    pub usage: Option<Usage>,
    /// How far the answer that was shown first is preferred (1, ½ or 0), or why that is not known.
    pub verdict: Result<f64, String>,
    /// Whether the server reports an error of its own.
    pub is_error: bool,
}

impl Answer {
    /// Reads the body of a response.
    pub fn read(body: &str) -> Self {
        let broken = |text: &str, why: String| Self {
            text: text.into(),
            usage: None,
            verdict: Err(why),
            is_error: false,
        };
        let response: Response = match serde_json::from_str(body) {
            Ok(response) => response,
            Err(error) => {
                return broken(body, format!("the response is not that of a chat completion: {error}"));
            }
        };
        if let Some(error) = response.error.filter(|error| !error.is_null()) {
            return Self { is_error: true, ..broken(body, format!("the server reports {error}")) };
        }
        let Some(Choice { message: Message { content: Some(text) }, finish_reason }) =
            response.choices.into_iter().next()
        else {
            return Self { usage: response.usage, ..broken(body, "the response holds no text".into()) };
        };
        let verdict = verdict(&text).map_err(|why| match finish_reason.as_deref() {
            Some("length") => format!("{why}; the answer was cut off: raise max_tokens"),
            _ => why,
        });
        Self { text, usage: response.usage, verdict, is_error: false }
    }
}

/// Returns the verdict of an answer: 1 for A, 0 for B, ½ for a tie.
fn verdict(text: &str) -> Result<f64, String> {
    // Models that think aloud weigh both sides first.
    let said = text.rsplit("</think>").next().unwrap_or(text).trim();
    let mut found: Vec<f64> = objects(said)
        .iter()
        .filter_map(|object| object.get("verdict"))
        .map(|value| {
            value.as_str().and_then(named).ok_or_else(|| format!("the verdict is {value}, not A, B or tie"))
        })
        .collect::<Result<_, _>>()?;
    found.extend(named(said).filter(|_| found.is_empty()));
    match found.split_first() {
        None => Err("the answer names no verdict".into()),
        Some((first, rest)) if rest.iter().all(|other| other == first) => Ok(*first),
        Some(_) => Err("the answer contradicts itself".into()),
    }
}

/// The verdict that a word stands for.
fn named(word: &str) -> Option<f64> {
    let bare = word.trim_matches(|c: char| c.is_whitespace() || "[]()\"'`*.".contains(c));
    match bare.to_ascii_lowercase().as_str() {
        "a" => Some(1.0),
        "b" => Some(0.0),
        "tie" | "c" => Some(0.5),
        _ => None,
    }
}

/// The JSON objects in a text, from the left; what is inside one is not searched again.
fn objects(text: &str) -> Vec<Map<String, Value>> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find('{') {
        let mut stream = serde_json::Deserializer::from_str(&rest[at..]).into_iter::<Map<String, Value>>();
        match stream.next() {
            Some(Ok(object)) => {
                found.push(object);
                rest = &rest[at + stream.byte_offset()..];
            }
            _ => rest = &rest[at + 1..],
        }
        // An answer that repeats itself needs no end.
        if found.len() >= 1000 {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_in_the_forms_that_judges_use() {
        for (text, expected) in [
            (r#"{"verdict": "A"}"#, 1.0),
            ("```json\n{\"verdict\": \"b\"}\n```", 0.0),
            (r#"Both are good. {"reason": "{x}", "verdict": "tie"}"#, 0.5),
            (r#"<think>{"verdict": "A"}? No.</think>{"verdict": "B"}"#, 0.0),
            (r#"{"verdict": "A"} {"verdict": "A"} {"verdict": "A"}"#, 1.0),
            ("[[B]]", 0.0),
            (" **A**.", 1.0),
        ] {
            assert_eq!(verdict(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "A is better, or B.",
            r#"{"verdict": "A"} {"verdict": "B"}"#,
            r#"{"verdict": 1}"#,
            r#"{"verdict": "neither"}"#,
            r#"{"verdict": "A""#,
            "{{{{",
        ] {
            assert!(verdict(text).is_err(), "{text}");
        }
    }

    #[test]
    fn responses_are_read_or_refused_with_a_reason() {
        let good = r#"{"choices": [{"message": {"role": "assistant", "content": "{\"verdict\": \"A\"}"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}"#;
        let answer = Answer::read(good);
        assert_eq!(answer.verdict, Ok(1.0));
        assert_eq!(answer.usage, Some(Usage { prompt_tokens: 7, completion_tokens: 3 }));
        for (body, why) in [
            ("<html>", "not that of a chat completion"),
            ("{", "not that of a chat completion"),
            ("{}", "holds no text"),
            (r#"{"choices": []}"#, "holds no text"),
            (r#"{"choices": [{"message": {"content": null}}]}"#, "holds no text"),
            (
                r#"{"choices": [{"message": {"content": "hm"}, "finish_reason": "length"}]}"#,
                "raise max_tokens",
            ),
        ] {
            let answer = Answer::read(body);
            assert!(answer.verdict.as_ref().unwrap_err().contains(why) && !answer.is_error, "{answer:?}");
        }
        assert!(Answer::read(r#"{"error": {"message": "overloaded"}}"#).is_error);
    }
}
