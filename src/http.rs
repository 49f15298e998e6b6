//! HTTP as all clients of the program use it: time-outs, trusted certificates, and tokens that are never shown.

pub(crate) mod retry_after;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::http::Uri;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::AgentScope;

use crate::error::{Error, Result};

/// What stands in a text in the place of a token.
const HIDDEN: &str = "[hidden]";
/// A shorter token is hidden where it stands alone: it may be a part of ordinary words.
const LONG: usize = 8;
/// A shorter one would be hidden in ordinary answers wherever it stands.
const SHORTEST: usize = 4;

/// An access token. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from its text, which is trimmed; `None` if the text is empty.
    ///
    /// # Errors
    /// [`Error::Config`] if it has characters that no token has, such as a line break in the middle.
    pub fn parse(text: &str, origin: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::Config(format!(
                "the token in {origin} holds a blank or a control character; set it to one token (hf_..., sk-...)"
            )));
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    /// The value of the `Authorization` header.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// A text without the token: a server may repeat what it was sent.
    pub(crate) fn hidden_in(&self, text: &str) -> String {
        if self.0.len() >= LONG {
            return text.replace(&self.0, HIDDEN);
        }
        let is_inside = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let (mut shown, mut from) = (String::new(), 0);
        for (at, _) in text.match_indices(&self.0) {
            let end = at + self.0.len();
            let stands_alone = !text[..at].ends_with(is_inside) && !text[end..].starts_with(is_inside);
            if stands_alone {
                shown.push_str(&text[from..at]);
                shown.push_str(HIDDEN);
                from = end;
            }
        }
        shown + &text[from..]
    }

    /// Whether the token is too short to be hidden in what a server answers.
    pub(crate) fn is_too_short(&self) -> bool {
        self.0.len() < SHORTEST
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

/// Returns the settings that all connections have in common. `endpoint` is the address that they go to, and `timeout` how
/// long a connection may be silent.
///
/// # Errors
/// [`Error::Config`] if the file of certificates holds none.
pub(crate) fn connections(
    endpoint: &Uri,
    timeout: Duration,
    trusted: Option<&Path>,
) -> Result<ConfigBuilder<AgentScope>> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(timeout))
        .timeout_recv_response(Some(timeout))
        .timeout_per_read(Some(timeout))
        .user_agent(concat!("dpo-lora/", env!("CARGO_PKG_VERSION")));
    if is_this_machine(endpoint) {
        config = config.proxy(None);
    }
    if let Some(path) = trusted {
        config = config.tls_config(TlsConfig::builder().root_certs(certificates(path)?).build());
    }
    Ok(config)
}

/// Whether an address is one of this machine, to which no proxy leads.
pub(crate) fn is_this_machine(address: &Uri) -> bool {
    matches!(address.host(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

/// The file of certificates that the environment names, if it names one.
pub(crate) fn trusted_certificates() -> Option<PathBuf> {
    let named = |name: &&str| std::env::var_os(name).filter(|value| !value.is_empty());
    ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"].iter().find_map(named).map(PathBuf::from)
}

fn certificates(path: &Path) -> Result<RootCerts> {
    let text = fs::read(path).map_err(Error::read(path))?;
    let mut found = Vec::new();
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(Error::Config(format!("{}: {error}", path.display()))),
        }
    }
    if found.is_empty() {
        return Err(Error::Config(format!(
            "{} holds no certificate; set SSL_CERT_FILE to a file of PEM certificates, or unset it",
            path.display()
        )));
    }
    Ok(RootCerts::new_with_certs(&found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let token = Token::parse(" sk-1 \n", "KEY").unwrap().unwrap();
        assert_eq!((format!("{token:?}").as_str(), token.header().as_str()), ("Token(...)", "Bearer sk-1"));
        assert_eq!(token.hidden_in("sk-1 is wrong: sk-1"), "[hidden] is wrong: [hidden]");
        assert_eq!(token.hidden_in("task-12, sk-1: \"sk-1\""), "task-12, [hidden]: \"[hidden]\"");
        let long = Token::parse("sk-1234567", "KEY").unwrap().unwrap();
        assert_eq!(long.hidden_in("asked with sk-1234567890"), "asked with [hidden]890");
        assert!(Token::parse("abc", "KEY").unwrap().unwrap().is_too_short() && !token.is_too_short());
        assert_eq!(Token::parse("\n", "KEY").unwrap(), None);
        assert!(Token::parse("a b", "KEY").unwrap_err().to_string().contains("KEY"));
    }

    #[test]
    fn a_file_of_certificates_must_hold_some() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let url = Uri::from_static("https://hub.example");
        let new = || connections(&url, Duration::from_secs(1), Some(&path)).map(drop);
        assert!(new().is_err());
        for text in ["", "no PEM", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(new().unwrap_err().exit_code(), 2, "{text}");
        }
    }
}
