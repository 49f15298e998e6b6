//! The settings of a judge, a YAML file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ureq::http::Uri;

use super::template::Template;
use crate::error::{Error, Problems, Result};
use crate::http::Token;

/// An OpenAI-compatible endpoint (`POST ENDPOINT/chat/completions`) that compares answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeConfig {
    /// Scheme, host and path up to `/chat/completions`, such as `https://api.openai.com/v1`.
    pub endpoint: String,
    /// The name of the model.
    pub model: String,
    /// The environment variable that holds the key; `null` for a server without keys.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// What makes an answer the better one; it completes the standard question.
    #[serde(default = "default_criterion")]
    pub criterion: String,
    /// The question instead of the standard one, with `{prompt}`, `{first}`, `{second}` and possibly `{criterion}`.
    #[serde(default)]
    pub prompt: Option<String>,
    /// Whether every pair is judged in both orders, and the verdicts are averaged. Else it is judged in one order, which is
    /// drawn from its texts.
    #[serde(default = "yes")]
    pub both_orders: bool,
    /// Sampling temperature of the judge; `null` leaves it to the server.
    #[serde(default = "zero")]
    pub temperature: Option<f64>,
    /// Most tokens of an answer; `null` leaves it to the server.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: Option<u32>,
    /// More keys of the request's body.
    #[serde(default)]
    pub extra: Map<String, Value>,
    /// Seconds after which a request is given up.
    #[serde(default = "default_timeout")]
    pub timeout: f64,
    /// How often a question is asked before the run stops, or the question is left out because no answer was readable.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
    /// Seconds before the second attempt; they double each time.
    #[serde(default = "one")]
    pub backoff: f64,
    /// Requests at a time.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// Most requests a minute.
    #[serde(default)]
    pub requests_per_minute: Option<f64>,
    /// Most requests of a transcript, all runs together.
    #[serde(default)]
    pub max_requests: Option<u64>,
    /// The price of a million tokens that are sent.
    #[serde(default)]
    pub price_per_million_input_tokens: Option<f64>,
    /// The price of a million tokens that are received.
    #[serde(default)]
    pub price_per_million_output_tokens: Option<f64>,
    /// Most that the requests of a transcript may cost, all runs together, in the unit of the prices.
    #[serde(default)]
    pub max_cost: Option<f64>,
}

fn default_criterion() -> String {
    "which answer is more helpful, correct and clear".into()
}

fn yes() -> bool {
    true
}

fn zero() -> Option<f64> {
    Some(0.0)
}

fn one() -> f64 {
    1.0
}

fn default_max_tokens() -> Option<u32> {
    Some(256)
}

fn default_timeout() -> f64 {
    60.0
}

fn default_attempts() -> u32 {
    5
}

fn default_concurrency() -> usize {
    4
}

/// Keys of the body that have settings of their own.
const OWN: [&str; 5] = ["model", "messages", "temperature", "max_tokens", "stream"];

/// The longest time that is waited for anything, in seconds.
const LONGEST: f64 = 3600.0;

/// The most requests at a time.
const MOST_AT_A_TIME: usize = 64;

impl JudgeConfig {
    /// Settings for an endpoint and a model, and the defaults for everything else.
    pub fn new(endpoint: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            model: model.into(),
            api_key_env: None,
            criterion: default_criterion(),
            prompt: None,
            both_orders: true,
            temperature: zero(),
            max_tokens: default_max_tokens(),
            extra: Map::new(),
            timeout: default_timeout(),
            attempts: default_attempts(),
            backoff: one(),
            concurrency: default_concurrency(),
            requests_per_minute: None,
            max_requests: None,
            price_per_million_input_tokens: None,
            price_per_million_output_tokens: None,
            max_cost: None,
        }
    }

    /// Reads a YAML file.
    ///
    /// # Errors
    /// [`Error::Config`] with everything that is wrong in it.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::read(path))?;
        Self::from_yaml(&text, &path.display().to_string())
    }

    /// Reads YAML; `origin` names it in messages.
    ///
    /// # Errors
    /// As [`JudgeConfig::from_file`].
    pub fn from_yaml(text: &str, origin: &str) -> Result<Self> {
        let keys: serde_yaml::Value = serde_yaml::from_str(text)
            .map_err(|_| Error::Config(format!("{origin} is not valid YAML with one key per line")))?;
        if keys.get("api_key").is_some() {
            return Err(Error::Config(format!(
                "{origin}: api_key is not read, because a file is no place for a key; put it into an environment variable and \
                 name that in api_key_env"
            )));
        }
        let config: Self = serde_yaml::from_str(text).map_err(|e| Error::Config(format!("{origin}: {e}")))?;
        config.check().map_err(|e| Error::Config(format!("{origin}: {e}")))?;
        Ok(config)
    }

    /// # Errors
    /// [`Error::Config`] with every value that is not possible.
    pub(super) fn check(&self) -> Result<()> {
        let mut problems = Problems::default();
        problems.absorb(self.url().map(drop));
        problems
            .require(!self.model.trim().is_empty(), || "model is empty; name the endpoint's model".into());
        problems.absorb(Template::parse(self.prompt.as_deref()).map(drop));
        let finite = |value: f64| value.is_finite() && value >= 0.0;
        problems.require(self.max_tokens != Some(0), || "max_tokens is 0; it must be 1 or more".into());
        problems.require(self.timeout > 0.0 && self.timeout <= LONGEST, || {
            format!("timeout is {}; it must be above 0 and at most {LONGEST} seconds", self.timeout)
        });
        problems.require(finite(self.backoff) && self.backoff <= LONGEST, || {
            format!("backoff is {}; it must be from 0 to {LONGEST} seconds", self.backoff)
        });
        problems.require(self.attempts > 0, || "attempts is 0; it must be 1 or more".into());
        problems.require((1..=MOST_AT_A_TIME).contains(&self.concurrency), || {
            format!("concurrency is {}; it must be from 1 to {MOST_AT_A_TIME}", self.concurrency)
        });
        if let Some(rate) = self.requests_per_minute.filter(|rate| !(rate.is_finite() && *rate >= 1.0 / 60.0))
        {
            problems.add(format!("requests_per_minute is {rate:?}; it must be at least 1/60, or null"));
        }
        let prices = [
            ("price_per_million_input_tokens", self.price_per_million_input_tokens),
            ("price_per_million_output_tokens", self.price_per_million_output_tokens),
        ];
        let numbers = [("temperature", self.temperature), ("max_cost", self.max_cost)];
        for (key, value) in numbers.into_iter().chain(prices) {
            if let Some(value) = value.filter(|value| !finite(*value)) {
                problems.add(format!("{key} is {value:?}; it must be a number of 0 or more, or null"));
            }
        }
        problems.require(self.max_cost.is_none() || prices.iter().all(|(_, price)| price.is_some()), || {
            "max_cost needs price_per_million_input_tokens and price_per_million_output_tokens".into()
        });
        for key in self.extra.keys().filter(|key| OWN.contains(&key.as_str())) {
            problems.add(format!("extra holds {key}, which is not set there"));
        }
        problems.finish()
    }

    /// The address of the requests.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not an address, or may hold a key.
    pub(super) fn url(&self) -> Result<Uri> {
        let text = format!("{}/chat/completions", self.endpoint.trim_end_matches('/'));
        let uri = text.parse::<Uri>().ok();
        // A key in the address would appear in every message that names it.
        let has_secret = self.endpoint.contains(['@', '?', '#']);
        uri.filter(|uri| {
            !has_secret && matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        })
        .ok_or_else(|| {
            let shown = if has_secret { "..." } else { &self.endpoint };
            Error::Config(format!(
                "endpoint is `{shown}`; it must be an address such as https://api.openai.com/v1, without a user, a key or a \
                 query"
            ))
        })
    }

    /// The key, from the environment.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no such variable. The message does not repeat its name, which may be the key itself by
    /// mistake.
    pub(super) fn key(&self) -> Result<Option<Token>> {
        let Some(name) = &self.api_key_env else { return Ok(None) };
        let missing = || {
            Error::Config(
                "the environment variable that api_key_env names is not set; export it, or set api_key_env to null for a \
                 server without keys"
                    .into(),
            )
        };
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name {
            return Err(Error::Config(
                "api_key_env is not the name of an environment variable (letters, digits and _); it must never be the key \
                 itself"
                    .into(),
            ));
        }
        let value = std::env::var(name).map_err(|_| missing())?;
        let key = Token::parse(&value, "the variable of api_key_env")?.ok_or_else(missing)?;
        if key.is_too_short() {
            return Err(Error::Config(
                "the key in the variable of api_key_env has fewer than four characters: hiding it would change what the judge \
                 answers; set a longer key, or set api_key_env to null for a server without keys"
                    .into(),
            ));
        }
        Ok(Some(key))
    }

    /// What tokens cost.
    pub(super) fn cost(&self, input: u64, output: u64) -> f64 {
        let price = |per_million: Option<f64>, tokens: u64| per_million.unwrap_or(0.0) * tokens as f64 / 1e6;
        price(self.price_per_million_input_tokens, input)
            + price(self.price_per_million_output_tokens, output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &str) -> Result<JudgeConfig> {
        JudgeConfig::from_yaml(&format!("endpoint: http://localhost:1/v1\nmodel: m\n{more}"), "judge.yaml")
    }

    #[test]
    fn defaults_are_those_of_the_file_without_them() {
        let read = serde_json::to_value(read("").unwrap()).unwrap();
        assert_eq!(read, serde_json::to_value(JudgeConfig::new("http://localhost:1/v1", "m")).unwrap());
        assert_eq!(
            super::JudgeConfig::new("https://a.b/v1/", "m").url().unwrap(),
            "https://a.b/v1/chat/completions"
        );
    }

    #[test]
    fn wrong_values_are_named_together() {
        let error =
            read("timeout: 0\nattempts: 0\nmax_cost: 1\nextra: {model: x}\nprompt: '{first}'\n").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        for part in ["timeout is 0", "attempts is 0", "max_cost needs", "extra holds model", "{second}"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(read("modle: x\n").unwrap_err().to_string().contains("modle"));
        assert!(JudgeConfig::from_yaml("[", "j").is_err() && JudgeConfig::from_yaml("", "j").is_err());
    }

    #[test]
    fn wrong_numbers_are_named_as_they_are_written() {
        for (key, value) in [
            ("requests_per_minute", "1e-30"),
            ("requests_per_minute", "-2.5"),
            ("temperature", "-0.5"),
            ("max_cost", "-1.5"),
            ("price_per_million_input_tokens", "-0.25"),
            ("price_per_million_output_tokens", "-0.25"),
        ] {
            let error = read(&format!("{key}: {value}\n")).unwrap_err().to_string();
            assert!(error.contains(&format!("{key} is {value}; it must be ")), "{error}");
            assert!(!error.contains("Some"), "{error}");
        }
    }

    #[test]
    fn a_key_is_never_repeated() {
        for text in
            ["api_key: sk-secret\n", "api_key_env: sk-secret\n", "api_key_env: NO_SUCH_VARIABLE_secret\n"]
        {
            let error = read(text).and_then(|config| config.key()).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for endpoint in ["https://secret@h/v1", "https://h/v1?key=secret"] {
            let error = JudgeConfig::new(endpoint, "m").check().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn prices_are_per_million() {
        let config = read("price_per_million_input_tokens: 2\nprice_per_million_output_tokens: 8\n").unwrap();
        assert!((config.cost(1000, 250) - 0.004).abs() < 1e-12);
    }
}
