//! What a judge answered: the completion of an OpenAI-compatible server, and the verdict in its text.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The parts of a response that are read. What may have several forms is read as any JSON: a verdict must not be lost because
/// of what stands around it.
#[derive(Debug, Default, Deserialize)]
struct Response {
    #[serde(default)]
    choices: Option<Vec<Option<Choice>>>,
    #[serde(default)]
    usage: Value,
    #[serde(default)]
    error: Value,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default)]
    message: Option<Message>,
    #[serde(default)]
    finish_reason: Value,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    content: Value,
}

impl Message {
    /// The text: a string, or the parts of a list that are text, joined.
    fn text(self) -> Option<String> {
        match self.content {
            Value::String(text) => Some(text),
            Value::Array(parts) => {
                let texts: Vec<&str> = parts.iter().filter_map(text_of_part).collect();
                (!texts.is_empty()).then(|| texts.concat())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        }
    }
}

/// The text of a part of an answer; `None` of a part that is none, such as a model's thoughts.
fn text_of_part(part: &Value) -> Option<&str> {
    let is_text = |kind: &Value| kind.is_null() || matches!(kind.as_str(), Some("text" | "output_text"));
    match part {
        Value::String(text) => Some(text.as_str()),
        _ if part.get("type").is_none_or(is_text) => part.get("text")?.as_str(),
        _ => None,
    }
}

/// The tokens of an exchange, as the server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Sent.
    pub prompt_tokens: u64,
    /// Received.
    pub completion_tokens: u64,
}

impl Usage {
    /// Reads what a server says; `None` unless both are counts.
    fn read(usage: &Value) -> Option<Self> {
        let tokens = |key: &str| count(usage.get(key)?);
        Some(Self {
            prompt_tokens: tokens("prompt_tokens")?,
            completion_tokens: tokens("completion_tokens")?,
        })
    }
}

/// A whole number of 0 or more, which some servers write as `7.0`.
fn count(value: &Value) -> Option<u64> {
    /// Greater ones are no counts of tokens.
    const MOST: f64 = 1e15;
    let number = value.as_f64()?;
    (number.fract() == 0.0 && (0.0..=MOST).contains(&number)).then_some(number as u64)
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
        if !response.error.is_null() {
            return Self { is_error: true, ..broken(body, format!("the server reports {}", response.error)) };
        }
        let usage = Usage::read(&response.usage);
        // One is asked for; the first with a text is read.
        let read = |choice: Choice| Some((choice.message?.text()?, choice.finish_reason));
        let found = response.choices.unwrap_or_default().into_iter().flatten().find_map(read);
        let Some((text, finish_reason)) = found else {
            return Self { usage, ..broken(body, "the response holds no text".into()) };
        };
        let verdict = verdict(&text).map_err(|why| match finish_reason.as_str() {
            Some("length") => format!("{why}; the answer was cut off: raise max_tokens"),
            _ => why,
        });
        Self { text, usage, verdict, is_error: false }
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
    use serde_json::json;

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
            (r#"{"choices": null}"#, "holds no text"),
            (r#"{"choices": [null]}"#, "holds no text"),
            (r#"{"choices": [{"finish_reason": "stop"}]}"#, "holds no text"),
            (r#"{"choices": [{"message": null}]}"#, "holds no text"),
            (r#"{"choices": [{"message": {"content": []}}]}"#, "holds no text"),
            (
                r#"{"choices": [{"message": {"content": [{"type": "thinking", "text": "{\"verdict\": \"A\"}"}]}}]}"#,
                "holds no text",
            ),
            (
                r#"{"choices": [{"message": {"content": "hm"}, "finish_reason": "length"}]}"#,
                "raise max_tokens",
            ),
        ] {
            let answer = Answer::read(body);
            assert!(answer.verdict.as_ref().unwrap_err().contains(why) && !answer.is_error, "{answer:?}");
        }
        assert!(Answer::read(r#"{"error": {"message": "overloaded"}}"#).is_error);
        assert!(Answer::read(r#"{"error": {"message": "overloaded"}, "choices": null}"#).is_error);
    }

    #[test]
    fn a_verdict_is_read_whatever_stands_around_it() {
        let body = |content: Value, usage: Value| {
            json!({"choices": [{"message": {"content": content}, "finish_reason": 0}], "usage": usage})
                .to_string()
        };
        let text = json!("{\"verdict\": \"B\"}");
        // Counts that are none are not taken for counts.
        for usage in [
            json!(null),
            json!("none"),
            json!([]),
            json!({}),
            json!({"prompt_tokens": null, "completion_tokens": 3}),
            json!({"prompt_tokens": -1, "completion_tokens": 3}),
            json!({"prompt_tokens": 7.5, "completion_tokens": 3}),
            json!({"prompt_tokens": "7", "completion_tokens": 3}),
            json!({"prompt_tokens": 7}),
        ] {
            let answer = Answer::read(&body(text.clone(), usage.clone()));
            assert_eq!((answer.verdict, answer.usage), (Ok(0.0), None), "{usage}");
        }
        let counted = Some(Usage { prompt_tokens: 7, completion_tokens: 0 });
        let usage = json!({"prompt_tokens": 7.0, "completion_tokens": 0});
        let parts = json!([
            {"type": "thinking", "thinking": "{\"verdict\": \"A\"}"},
            {"type": "text", "text": "{\"verdict\": "},
            {"type": "text", "text": "\"B\"}"}
        ]);
        let untyped = json!([{"type": null, "text": "B"}]);
        for content in [text, parts, json!([{"text": "B"}]), untyped, json!(["B"])] {
            let answer = Answer::read(&body(content.clone(), usage.clone()));
            assert_eq!((answer.verdict, answer.usage), (Ok(0.0), counted), "{content}");
        }
        for before in ["", "null, ", r#"{"message": null}, "#] {
            let body = format!(r#"{{"choices": [{before}{{"message": {{"content": "A"}}}}]}}"#);
            assert_eq!(Answer::read(&body).verdict, Ok(1.0), "{body}");
        }
    }
}
