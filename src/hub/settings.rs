//! Settings of the Hub client, read from the environment as Python's `huggingface_hub` does.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::http::Token;

/// The Hub unless `HF_ENDPOINT` names another.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Settings of a [`Hub`](super::Hub).
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cache, shared with Python: it holds `models--owner--name/` and `datasets--owner--name/`.
    pub cache: PathBuf,
    /// Scheme, host and possibly a path, without a trailing `/`.
    pub endpoint: String,
    /// Sent to the endpoint only, never to a host it redirects to.
    pub token: Option<Token>,
    /// PEM certificates to trust instead of Mozilla's, such as those of a company's proxy.
    pub certificates: Option<PathBuf>,
    /// Whether the network is never used.
    pub offline: bool,
    /// How often a request is tried that fails for a temporary reason; the count restarts when bytes were received.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles each time.
    pub backoff: Duration,
    /// How long a connection may be silent.
    pub timeout: Duration,
}

impl Settings {
    /// Settings for `cache`, and the defaults for everything else.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            endpoint: DEFAULT_ENDPOINT.into(),
            token: None,
            certificates: None,
            offline: false,
            attempts: 5,
            backoff: Duration::from_millis(500),
            timeout: Duration::from_secs(30),
        }
    }

    /// The settings of the process's environment.
    ///
    /// # Errors
    /// As [`Settings::from_lookup`].
    pub fn from_env() -> Result<Self> {
        Self::from_lookup(|name| env::var_os(name), env::home_dir())
    }

    /// The settings of an environment: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_OFFLINE`, `SSL_CERT_FILE` (or `REQUESTS_CA_BUNDLE`), and `XDG_CACHE_HOME` for the default of `HF_HOME`. An empty variable counts as unset.
    ///
    /// # Errors
    /// [`Error::Config`] if the endpoint or the token is invalid, or there is no place for the cache.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Result<Self> {
        let value = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let path = |name: &str| value(name).map(|value| expand(Path::new(&value), home.as_deref()));
        let text = |name: &str| value(name).map(|value| value.to_string_lossy().into_owned());

        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home.as_ref().map(|home| home.join(".cache").join("huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| hf_home.as_ref().map(|home| home.join("hub")));
        let cache = cache.ok_or_else(|| {
            Error::Config("there is no home directory to keep the Hub's files in; set HF_HOME".into())
        })?;

        let mut settings = Self::new(cache);
        if let Some(endpoint) = text("HF_ENDPOINT") {
            settings.endpoint = endpoint.trim_end_matches('/').to_owned();
        }
        settings.token = match text("HF_TOKEN") {
            Some(token) => Token::parse(&token, "HF_TOKEN")?,
            None => {
                let file = path("HF_TOKEN_PATH").or_else(|| hf_home.map(|home| home.join("token")));
                file.map_or(Ok(None), |file| token_file(&file))?
            }
        };
        settings.certificates = path("SSL_CERT_FILE").or_else(|| path("REQUESTS_CA_BUNDLE"));
        settings.offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
            .iter()
            .find_map(|name| text(name))
            .is_some_and(|value| is_true(&value));
        Ok(settings)
    }
}

fn token_file(path: &Path) -> Result<Option<Token>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Token::parse(&text, &path.display().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::read(path)(e)),
    }
}

/// `~` and `~/...`, which Python expands too, because shells do not inside quotes or unit files.
fn expand(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_path_buf(),
    }
}

/// `huggingface_hub.constants.ENV_VARS_TRUE_VALUES`.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], home: Option<&Path>) -> Result<Settings> {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| OsString::from(v));
        Settings::from_lookup(lookup, home.map(Path::to_path_buf))
    }

    #[test]
    fn an_empty_environment_means_the_home_directory() {
        let settings = settings(&[("HF_HOME", ""), ("HF_HUB_OFFLINE", "")], Some(Path::new("h"))).unwrap();
        assert_eq!(settings.cache, Path::new("h/.cache/huggingface/hub"));
        assert_eq!((settings.endpoint.as_str(), settings.offline), (DEFAULT_ENDPOINT, false));
        assert_eq!(settings.token, None);
        assert!(self::settings(&[], None).unwrap_err().to_string().contains("HF_HOME"));
    }

    #[test]
    fn the_nearer_variable_wins() {
        let home = Some(Path::new("h"));
        let cache = |variables| settings(variables, home).unwrap().cache;
        assert_eq!(cache(&[("XDG_CACHE_HOME", "x")]), Path::new("x/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "x"), ("HF_HOME", "~/y")]), Path::new("h/y/hub"));
        assert_eq!(cache(&[("HF_HOME", "y"), ("HF_HUB_CACHE", "z")]), Path::new("z"));
        for (value, offline) in
            [("1", true), ("true", true), ("YES", true), ("on", true), ("0", false), ("no", false)]
        {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)], home).unwrap().offline, offline, "{value}");
        }
        let certificates =
            settings(&[("REQUESTS_CA_BUNDLE", "r"), ("SSL_CERT_FILE", "s")], home).unwrap().certificates;
        assert_eq!(certificates.as_deref(), Some(Path::new("s")));
        let endpoint = settings(&[("HF_ENDPOINT", "http://mirror/")], home).unwrap().endpoint;
        assert_eq!(endpoint, "http://mirror");
    }

    #[test]
    fn tokens_come_from_the_variable_or_a_file_and_are_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        let from_file = settings(&[("HF_HOME", home)], None).unwrap();
        assert_eq!(from_file.token.as_ref().unwrap().header(), "Bearer hf_file");
        assert!(!format!("{from_file:?}").contains("hf_file"));
        let from_variable = settings(&[("HF_HOME", home), ("HF_TOKEN", " hf_var ")], None).unwrap();
        assert_eq!(from_variable.token.unwrap().header(), "Bearer hf_var");
        let other = dir.path().join("other");
        let from_path =
            settings(&[("HF_HOME", home), ("HF_TOKEN_PATH", other.to_str().unwrap())], None).unwrap();
        assert_eq!(from_path.token, None);
        assert!(settings(&[("HF_HOME", home), ("HF_TOKEN", "a\nb")], None).is_err());
    }
}
