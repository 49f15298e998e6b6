//! Requests to the Hub. Redirects are followed here rather than by the HTTP crate, because the Hub gives a file's ETag and
//! size on the redirect itself, and because the token must not leave the Hub.

use std::io::{self, Read};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body, SendBody};

use super::settings::Settings;
use super::url::{resolve, same_origin, show};
use crate::error::{Error, Result};
use crate::http::{Token, connections};

const MAX_REDIRECTS: usize = 10;
/// The longest wait before a retry that a server may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What to do about an answer that is not a Hub's.
pub(super) const ENDPOINT: &str =
    "set HF_ENDPOINT to the address of a Hub, or unset it, and see whether the network asks to sign in";

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may succeed later: a cut connection, a time-out, an overloaded server. Carries the wait that the server
    /// requests.
    Passing(String, Option<Duration>),
    /// It will not succeed later.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    pub(super) fn passing(message: impl Into<String>) -> Self {
        Self::Passing(message.into(), None)
    }

    pub(super) fn hub(message: impl Into<String>) -> Self {
        Self::Final(Error::Hub(message.into()))
    }
}

/// The headers of a file, before its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Linked {
    /// As the server sent it, with quotes.
    pub(super) etag: Option<String>,
    pub(super) size: Option<u64>,
    pub(super) commit: Option<String>,
}

/// The response at the end of all redirects.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    /// From the first response that had it.
    pub(super) linked: Linked,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(self.response.headers(), name)
    }
}

/// `GET` or `HEAD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
}

/// Connections to one endpoint.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: Uri,
    base: String,
    pub(super) token: Option<Token>,
    attempts: u32,
    backoff: Duration,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let endpoint = endpoint(&settings.endpoint)?;
        let config = connections(&endpoint, settings.timeout, settings.certificates.as_deref())?
            // The lengths that are compared are those of the file, not of a compressed form.
            .accept_encoding("identity");
        Ok(Self {
            agent: config.build().new_agent(),
            endpoint,
            base: settings.endpoint.trim_end_matches('/').to_owned(),
            token: settings.token.clone(),
            attempts: settings.attempts.max(1),
            backoff: settings.backoff,
        })
    }

    /// The address of `path` on the Hub.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The wait after `failures` (1, 2, ...) failed attempts in a row, or what the server asked for.
    pub(super) fn wait(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << failures.saturating_sub(1).min(6));
        asked.map_or(doubled, |asked| asked.clamp(doubled, MAX_RETRY_AFTER.max(doubled)))
    }

    /// One request for the bytes of `path` from offset `from`, with all its redirects.
    pub(super) fn send(&self, method: Method, path: &str, from: u64) -> Result<Answer, Failure> {
        let mut url = self.url(path).parse::<Uri>().map_err(|e| Failure::hub(format!("{path}: {e}")))?;
        let mut linked = Linked::default();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.request(method, &url, from)?;
            let headers = response.headers();
            let said = |name| header(headers, name).map(str::to_owned);
            linked.etag = linked.etag.or_else(|| said("x-linked-etag"));
            linked.size = linked.size.or_else(|| header(headers, "x-linked-size")?.parse().ok());
            linked.commit = linked.commit.or_else(|| said("x-repo-commit"));
            let next = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => self.follow(&url, headers)?,
                _ => return Ok(Answer { response, linked }),
            };
            // The redirect to the storage has everything a HEAD needs; the storage's own address is signed for GET.
            if method == Method::Head && linked.etag.is_some() && !same_origin(&next, &url) {
                return Ok(Answer { response, linked });
            }
            url = next;
        }
        Err(Failure::hub(format!("{} is redirected more than {MAX_REDIRECTS} times", self.url(path))))
    }

    fn request(&self, method: Method, url: &Uri, from: u64) -> Result<Response<Body>, Failure> {
        let mut request = match method {
            Method::Get => self.agent.get(url),
            Method::Head => self.agent.head(url),
        };
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| same_origin(url, &self.endpoint)) {
            request = request.header("Authorization", token.header());
        }
        request.call().map_err(|error| failure(url, &error))
    }

    /// Posts text to an address, with the token if it is the Hub's; returns the answer's JSON, or null. Redirects are not
    /// followed: a request that changes something is sent where it was meant to go.
    pub(super) fn post_to(
        &self,
        url: &str,
        headers: &[(String, String)],
        body: &str,
        fine: &[u16],
    ) -> Result<Value, Failure> {
        let url = address(url)?;
        let mut request = self.agent.post(&url);
        for (name, value) in self.authorized(&url, headers) {
            request = request.header(name, value);
        }
        let mut response = request.send(body).map_err(|error| failure(&url, &error))?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let answer = serde_json::from_str(&text).unwrap_or(Value::Null);
        match fine.contains(&status) {
            // A page for people.
            true if status < 300 && text.trim_start().starts_with('<') => {
                Err(Failure::hub(format!("{} does not answer as a Hub does; {ENDPOINT}", show(&url))))
            }
            true => Ok(answer),
            false => Err(self.refused(&url, status, &answer)),
        }
    }

    /// Puts bytes to an address of the storage.
    pub(super) fn put_to(
        &self,
        url: &str,
        headers: &[(String, String)],
        size: u64,
        bytes: &mut dyn Read,
    ) -> Result<(), Failure> {
        let url = address(url)?;
        let mut request = self.agent.put(&url).header("Content-Length", size.to_string());
        for (name, value) in self.authorized(&url, headers) {
            request = request.header(name, value);
        }
        let mut bytes = bytes;
        let response =
            request.send(SendBody::from_reader(&mut bytes)).map_err(|error| failure(&url, &error))?;
        match response.status().as_u16() {
            200 | 201 => Ok(()),
            status => Err(self.refused(&url, status, &Value::Null)),
        }
    }

    /// The headers of a request, with the token if it goes to the Hub and names none.
    fn authorized(&self, url: &Uri, headers: &[(String, String)]) -> Vec<(String, String)> {
        let mut all = headers.to_vec();
        let is_named = all.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if let Some(token) = self.token.as_ref().filter(|_| !is_named && same_origin(url, &self.endpoint)) {
            all.push(("Authorization".into(), token.header()));
        }
        all
    }

    /// The failure of a request that changes something.
    fn refused(&self, url: &Uri, status: u16, answer: &Value) -> Failure {
        let said = answer["error"].as_str().or_else(|| answer["message"].as_str()).unwrap_or_default();
        let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
        let colon = if said.is_empty() { "" } else { ": " };
        let remedy = match status {
            401 | 403 => "; the token may not write there: set HF_TOKEN to one that may",
            412 => "; somebody else has pushed in the meantime: look at what they changed, and run it again",
            413 => "; it is too large",
            _ => "",
        };
        let message = format!("{} answers {status}{colon}{said}{remedy}", show(url));
        if matches!(status, 408 | 425 | 429 | 500..=599) {
            Failure::passing(message)
        } else {
            Failure::hub(message)
        }
    }

    fn follow(&self, url: &Uri, headers: &HeaderMap) -> Result<Uri, Failure> {
        let location = header(headers, "location").unwrap_or_default();
        let next = resolve(url, location).ok_or_else(|| {
            let shown = location.split('?').next().unwrap_or_default();
            Failure::hub(format!("{} is redirected to `{shown}`, which is not an address", show(url)))
        })?;
        if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
            return Err(Failure::hub(format!(
                "{} is redirected to {} without encryption, which is not followed",
                show(url),
                show(&next)
            )));
        }
        Ok(next)
    }
}

fn address(text: &str) -> Result<Uri, Failure> {
    let url = text
        .parse::<Uri>()
        .ok()
        .filter(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some());
    // The rest may hold a signature.
    url.ok_or_else(|| {
        Failure::hub(format!("`{}` is not an address", text.split('?').next().unwrap_or_default()))
    })
}

fn endpoint(text: &str) -> Result<Uri> {
    let uri = text.parse::<Uri>().ok().filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.query().is_none()
    });
    // A user name and a password would appear in every message that names the address.
    uri.filter(|uri| !uri.authority().is_some_and(|authority| authority.as_str().contains('@'))).ok_or_else(|| {
        Error::Config(format!(
            "`{}` is not the address of a Hub; set HF_ENDPOINT to one such as https://huggingface.co, and HF_TOKEN to log in",
            text.rsplit('@').next().unwrap_or_default()
        ))
    })
}

fn failure(url: &Uri, error: &ureq::Error) -> Failure {
    let message = format!("{}: {error}", show(url));
    match error {
        // rustls's wording for a certificate that it does not trust.
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => Failure::hub(format!(
            "{message}; behind a proxy that opens connections, set SSL_CERT_FILE to its certificates"
        )),
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_) => Failure::passing(message),
        _ => Failure::hub(message),
    }
}

/// A header, if it is valid text.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_must_be_an_address() {
        for endpoint in
            ["", "hub.example", "ftp://hub.example", "/hub", "https://", "https://me:pass@hub.example"]
        {
            let settings = Settings { endpoint: endpoint.into(), ..Settings::new("c") };
            let error = Client::new(&settings).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{endpoint}");
            assert!(!error.to_string().contains("pass"), "{error}");
        }
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let client = Client::new(&Settings::new("c")).unwrap();
        let waits: Vec<_> = [1, 2, 3, 9, u32::MAX].map(|n| client.wait(n, None).as_millis()).into();
        assert_eq!(waits, [500, 1000, 2000, 32000, 32000]);
        assert_eq!(client.wait(1, Some(Duration::from_secs(7))).as_secs(), 7);
        assert_eq!(client.wait(1, Some(Duration::from_secs(9999))).as_secs(), 60);
    }
}
