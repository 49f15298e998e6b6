//! An MLflow server, through its REST API 2.0 (<https://mlflow.org/docs/latest/rest-api.html>).

use std::thread::sleep;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Uri;

use super::tracker::{Described, Ended, Tracker};
use crate::error::{Error, Result};
use crate::http::connections;

/// Parameters and figures of one request: the limits of `log-batch`.
const MOST_PARAMETERS: usize = 100;
const MOST_METRICS: usize = 1000;

/// The longest value of a parameter.
const MOST_CHARACTERS: usize = 6000;

/// Attempts at a request, and the wait after the first one, which doubles.
const ATTEMPTS: u32 = 4;
const WAIT: Duration = Duration::from_millis(500);

/// How long a server may be silent.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The file of a run directory that says which run of the server it is.
const REMEMBERED: &str = "mlflow.json";

/// A server.
pub(super) struct Server {
    agent: Agent,
    /// Without a trailing `/`.
    uri: String,
    /// The value of the `Authorization` header; never printed.
    authorization: Option<String>,
    experiment: String,
    run: Option<String>,
}

impl Server {
    /// The server at `uri`; `lookup` reads the environment: `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and
    /// `MLFLOW_TRACKING_PASSWORD`.
    ///
    /// # Errors
    /// [`Error::Config`] if the address is invalid, or holds a password, which would appear in messages.
    pub fn new(uri: &str, experiment: String, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let parsed = uri.parse::<Uri>().ok().filter(|uri| uri.host().is_some() && uri.query().is_none());
        let authority =
            parsed.as_ref().and_then(Uri::authority).map(|authority| authority.as_str().to_string());
        if authority.is_none_or(|authority| authority.contains('@')) {
            return Err(Error::Config(
                "MLFLOW_TRACKING_URI is not the address of a server, or holds a user name; write http://HOST:PORT, and set \
                 MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
                    .into(),
            ));
        }
        let authorization = match (lookup("MLFLOW_TRACKING_TOKEN"), lookup("MLFLOW_TRACKING_USERNAME")) {
            (Some(token), _) => Some(format!("Bearer {token}")),
            (None, Some(name)) => {
                let password = lookup("MLFLOW_TRACKING_PASSWORD").unwrap_or_default();
                Some(format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
            }
            (None, None) => None,
        };
        if authorization.as_ref().is_some_and(|value| value.chars().any(char::is_control)) {
            return Err(Error::Config(
                "MLFLOW_TRACKING_TOKEN holds a line break or another control character".into(),
            ));
        }
        let address: Uri = uri.parse().map_err(|error| {
            Error::Config(format!("the tracking server {uri:?} is not an address: {error}"))
        })?;
        // No redirect is followed: it would carry the key to another host.
        let config = connections(&address, TIMEOUT, None)?.timeout_global(Some(TIMEOUT)).build();
        let uri = uri.trim_end_matches('/').to_string();
        Ok(Self { agent: config.into(), uri, authorization, experiment, run: None })
    }

    /// Posts to a method, or gets it if there is no body; tries again what may succeed later. Returns status and answer.
    fn ask(&self, method: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let mut attempt = 1;
        loop {
            match self.ask_once(method, body) {
                Ok((status, _)) if matches!(status, 429 | 500..=599) && attempt < ATTEMPTS => {}
                Ok(found) => return Ok(found),
                Err(_) if attempt < ATTEMPTS => {}
                Err(message) => return Err(Error::Data(message)),
            }
            sleep(WAIT * 2u32.pow(attempt - 1));
            attempt += 1;
        }
    }

    fn ask_once(&self, method: &str, body: Option<&Value>) -> std::result::Result<(u16, Value), String> {
        let url = format!("{}/api/2.0/mlflow/{method}", self.uri);
        let failed = |error: ureq::Error| format!("{} does not answer: {error}", self.uri);
        let answer = match body {
            Some(body) => {
                let mut request = self.agent.post(&url).header("Content-Type", "application/json");
                if let Some(authorization) = &self.authorization {
                    request = request.header("Authorization", authorization);
                }
                request.send(body.to_string())
            }
            None => {
                let mut request = self.agent.get(&url);
                if let Some(authorization) = &self.authorization {
                    request = request.header("Authorization", authorization);
                }
                request.call()
            }
        };
        let mut answer = answer.map_err(failed)?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().map_err(failed)?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// The answer of a method that must succeed.
    fn post(&self, method: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self.ask(method, Some(body))?;
        if status == 200 { Ok(answer) } else { Err(self.refused(method, status, &answer)) }
    }

    fn refused(&self, method: &str, status: u16, answer: &Value) -> Error {
        let said = answer["message"].as_str().unwrap_or_default();
        let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
        let log_in = match (status, &self.authorization) {
            (401 | 403, None) => {
                "; set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            }
            (401 | 403, Some(_)) => "; the key that is set may not do this",
            _ => "",
        };
        let colon = if said.is_empty() { "" } else { ": " };
        Error::Data(format!("{} answers {status} to {method}{colon}{said}{log_in}", self.uri))
    }

    /// The id of the experiment, which is created if there is none of that name.
    fn experiment(&self) -> Result<String> {
        let mut name = String::new();
        for byte in self.experiment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
                name.push(char::from(byte));
            } else {
                name.push_str(&format!("%{byte:02X}"));
            }
        }
        let method = format!("experiments/get-by-name?experiment_name={name}");
        let (status, answer) = self.ask(&method, None)?;
        let id = match status {
            200 => answer["experiment"]["experiment_id"].as_str().map(str::to_string),
            404 => {
                let made = self.post("experiments/create", &json!({"name": self.experiment}))?;
                made["experiment_id"].as_str().map(str::to_string)
            }
            _ => return Err(self.refused("experiments/get-by-name", status, &answer)),
        };
        id.ok_or_else(|| {
            Error::Data(format!("{} is no MLflow server: its answer names no experiment", self.uri))
        })
    }

    /// The run that a run directory was known as on this server.
    fn remembered(&self, run: &Described) -> Option<String> {
        let text =
            std::fs::read_to_string(run.directory.join(REMEMBERED)).ok().filter(|_| run.resumed.is_some())?;
        let found: Value = serde_json::from_str(&text).ok()?;
        (found["uri"] == self.uri.as_str()).then(|| found["run_id"].as_str().map(str::to_string)).flatten()
    }

    fn id(&self) -> &str {
        self.run.as_deref().unwrap_or_default()
    }
}

impl Tracker for Server {
    fn begin(&mut self, run: &Described, time: u64) -> Result<()> {
        if let Some(id) = self.remembered(run) {
            let (status, _) = self.ask("runs/update", Some(&json!({"run_id": id, "status": "RUNNING"})))?;
            if status == 200 {
                self.run = Some(id);
                return Ok(());
            }
        }
        let tags = [("mlflow.source.name", "dpo-lora"), ("mlflow.runName", run.name.as_str())];
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        let made = self.post(
            "runs/create",
            &json!({"experiment_id": self.experiment()?, "run_name": run.name, "start_time": time, "tags": tags}),
        )?;
        let id = made["run"]["info"]["run_id"].as_str().unwrap_or_default().to_string();
        if id.is_empty() {
            return Err(Error::Data(format!("{} is no MLflow server: its answer names no run", self.uri)));
        }
        let remembered = json!({"uri": self.uri, "run_id": id}).to_string();
        crate::files::write_bytes(&run.directory.join(REMEMBERED), remembered.as_bytes())?;
        self.run = Some(id);
        for part in run.settings.chunks(MOST_PARAMETERS) {
            // Names have letters, digits and a few signs; patterns of modules have others.
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-. :/".contains(c);
            let named =
                |key: &str| key.chars().map(|c| if is_plain(c) { c } else { '_' }).collect::<String>();
            let parameter = |(key, value): &(String, String)| json!({"key": named(key), "value": value.chars().take(MOST_CHARACTERS).collect::<String>()});
            let params: Vec<Value> = part.iter().map(parameter).collect();
            self.post("runs/log-batch", &json!({"run_id": self.id(), "params": params}))?;
        }
        Ok(())
    }

    fn log(&mut self, step: u64, values: &[(String, f64)], time: u64) -> Result<()> {
        for part in values.chunks(MOST_METRICS) {
            let metric = |(key, value): &(String, f64)| json!({"key": key, "value": value, "timestamp": time, "step": step});
            let metrics: Vec<Value> = part.iter().map(metric).collect();
            self.post("runs/log-batch", &json!({"run_id": self.id(), "metrics": metrics}))?;
        }
        Ok(())
    }

    fn end(&mut self, how: Ended, time: u64) -> Result<()> {
        let status = match how {
            Ended::Finished => "FINISHED",
            Ended::Failed => "FAILED",
            Ended::Killed => "KILLED",
        };
        self.post("runs/update", &json!({"run_id": self.id(), "status": status, "end_time": time}))
            .map(|_| ())
    }
}
