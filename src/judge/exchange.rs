//! One request to the endpoint and its answer: a line of the transcript.

use std::io;
use std::time::{Duration, Instant};

use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::Agent;
use ureq::http::Uri;

use super::answer::{Answer, Usage};
use super::config::JudgeConfig;
use super::prompt::Question;
use crate::error::Result;
use crate::http::{Token, connections, retry_after, trusted_certificates};

/// Most bytes of a response; a verdict has a few hundred.
const MOST_BYTES: u64 = 4 << 20;

/// Most bytes of a refused response that are kept.
const MOST_SHOWN: usize = 2000;

/// A request and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exchange {
    /// The question: the hash of the request.
    pub id: String,
    /// How often it had been asked before in this run, and 1.
    pub attempt: u32,
    /// The body of the request.
    pub request: Value,
    /// The HTTP status; `None` if there was no response.
    pub status: Option<u16>,
    /// The text of the answer, or the response if it had none.
    pub answer: Option<String>,
    /// How far the answer that was shown first is preferred: 1, ½ or 0.
    pub verdict: Option<f64>,
    /// Why there is no verdict.
    pub problem: Option<String>,
    /// Tokens sent, as the server counts them.
    pub prompt_tokens: Option<u64>,
    /// Tokens received.
    pub completion_tokens: Option<u64>,
    /// What it cost; estimated where the server did not say how many tokens it counted.
    pub cost: f64,
    /// The time until the answer.
    pub seconds: f64,
}

/// What follows from an exchange.
pub(super) enum Next {
    /// The answer has a verdict.
    Judged,
    /// The server answered, but not with a verdict: another attempt may give one.
    Unreadable,
    /// The server could not answer now. Carries the pause that it asked for.
    Later(Option<Duration>),
    /// The server refuses this question, such as one that is too long.
    Refused,
    /// It will never answer any: a wrong key, a wrong model.
    Never,
}

/// Connections to an endpoint.
pub(super) struct Endpoint<'a> {
    config: &'a JudgeConfig,
    agent: Agent,
    url: Uri,
    key: Option<Token>,
}

impl<'a> Endpoint<'a> {
    /// # Errors
    /// [`crate::error::Error::Config`] for a wrong address, key or file of certificates.
    pub fn new(config: &'a JudgeConfig) -> Result<Self> {
        let url = config.url()?;
        let timeout = Duration::from_secs_f64(config.timeout);
        let connections = connections(&url, timeout, trusted_certificates().as_deref())?;
        // A server that sends a byte now and then must not hold a request for ever.
        let agent = connections.timeout_global(Some(timeout)).build().new_agent();
        Ok(Self { config, agent, url, key: config.key()? })
    }

    /// What a question may cost: a token has about three bytes or more, and the answer at most `max_tokens`.
    pub fn most_cost(&self, question: &Question) -> f64 {
        let bytes = question.body.to_string().len() as u64;
        self.config.cost(bytes.div_ceil(3), u64::from(self.config.max_tokens.unwrap_or(1024)))
    }

    /// Asks a question once.
    pub fn ask(&self, question: &Question, attempt: u32) -> (Exchange, Next) {
        let began = Instant::now();
        let mut exchange = Exchange {
            id: question.id.clone(),
            attempt,
            request: question.body.clone(),
            status: None,
            answer: None,
            verdict: None,
            problem: None,
            prompt_tokens: None,
            completion_tokens: None,
            cost: 0.0,
            seconds: 0.0,
        };
        let next = match self.send(question) {
            Ok(response) => self.understand(&mut exchange, question, response),
            Err(Unsent { problem, may_pass, may_cost }) => {
                exchange.problem = Some(problem);
                exchange.cost = if may_cost { self.most_cost(question) } else { 0.0 };
                if may_pass { Next::Later(None) } else { Next::Never }
            }
        };
        exchange.seconds = began.elapsed().as_secs_f64();
        (exchange, next)
    }

    fn send(&self, question: &Question) -> Result<Response, Unsent> {
        let mut request = self.agent.post(&self.url).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", key.header());
        }
        let failed = |error: ureq::Error| self.unsent(&error);
        let mut response = request.send(question.body.to_string()).map_err(failed)?;
        let pause = response
            .headers()
            .get("retry-after")
            .and_then(|value| retry_after::pause(value.to_str().ok()?, Utc::now()));
        let status = response.status().as_u16();
        let body = match response.body_mut().with_config().limit(MOST_BYTES).read_to_vec() {
            Ok(body) => Some(body),
            Err(ureq::Error::BodyExceedsLimit(_)) => None,
            Err(error) => return Err(failed(error)),
        };
        // A server may repeat the key that it refuses.
        let body = body.map(|body| {
            let body = String::from_utf8_lossy(&body);
            self.key.as_ref().map_or_else(|| body.to_string(), |key| key.hidden_in(&body))
        });
        Ok(Response { status, pause, body })
    }

    fn unsent(&self, error: &ureq::Error) -> Unsent {
        let message = error.to_string();
        let problem = self.key.as_ref().map_or_else(|| message.clone(), |key| key.hidden_in(&message));
        // rustls's wording for a certificate that it does not trust.
        let untrusted = matches!(error, ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData);
        let may_pass = !untrusted
            && matches!(
                error,
                ureq::Error::Io(_)
                    | ureq::Error::Timeout(_)
                    | ureq::Error::HostNotFound
                    | ureq::Error::ConnectionFailed
                    | ureq::Error::Protocol(_)
            );
        // The server may go on, and ask for its money, when the time is over here.
        let may_cost = matches!(error, ureq::Error::Timeout(at) if *at != ureq::Timeout::Connect);
        Unsent { problem, may_pass, may_cost }
    }

    fn understand(&self, exchange: &mut Exchange, question: &Question, response: Response) -> Next {
        let Response { status, pause, body } = response;
        exchange.status = Some(status);
        if status != 200 {
            let body = body.unwrap_or_default();
            // What a server says about a wrong key may hold a part of it.
            let is_about_key = matches!(status, 401 | 403);
            exchange.answer = (!is_about_key).then(|| shortened(&body));
            exchange.problem = Some(if is_about_key {
                format!("the server refuses the key (status {status})")
            } else {
                format!("the server answers with status {status}")
            });
            let out_of_money = status == 429 && body.contains("insufficient_quota");
            let may_pass = matches!(status, 408 | 409 | 425 | 429 | 500..=599) && !out_of_money;
            return match status {
                _ if may_pass => Next::Later(pause),
                400 | 413 | 422 => Next::Refused,
                _ => Next::Never,
            };
        }
        let Some(body) = body else {
            exchange.problem =
                Some(format!("the response has more than {MOST_BYTES} bytes, the most that are read"));
            exchange.cost = self.most_cost(question);
            return Next::Unreadable;
        };
        let answer = Answer::read(&body);
        let Usage { prompt_tokens, completion_tokens } = answer.usage.unwrap_or_default();
        exchange.prompt_tokens = answer.usage.map(|_| prompt_tokens);
        exchange.completion_tokens = answer.usage.map(|_| completion_tokens);
        exchange.cost = match answer.usage {
            Some(_) => self.config.cost(prompt_tokens, completion_tokens),
            None if answer.is_error => 0.0,
            None => self.most_cost(question),
        };
        match answer.verdict {
            Ok(verdict) => {
                exchange.answer = Some(answer.text);
                exchange.verdict = Some(verdict);
                Next::Judged
            }
            Err(problem) => {
                exchange.answer = Some(shortened(&answer.text));
                exchange.problem = Some(problem);
                if answer.is_error { Next::Later(pause) } else { Next::Unreadable }
            }
        }
    }
}

/// A response of the server, in which the key is hidden.
struct Response {
    status: u16,
    pause: Option<Duration>,
    /// `None` if it is too long to be read.
    body: Option<String>,
}

/// Why there is no response.
struct Unsent {
    problem: String,
    may_pass: bool,
    may_cost: bool,
}

/// The beginning of a text that may be long.
fn shortened(text: &str) -> String {
    let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= MOST_SHOWN);
    end.map_or_else(|| text.to_string(), |end| format!("{}...", &text[..end]))
}
