//! Names from a server or an index file, checked before they become paths.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// The names of all files of a commit, as the server or a directory gave them; not checked yet.
pub(super) type Listing = BTreeSet<String>;

/// A file's path inside its repository: relative, with `/` between its parts; it cannot leave the directory that it is
/// joined to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RepoPath(String);

impl RepoPath {
    /// Checks `text`; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > 1024 {
            return Err("is empty or longer than 1024 bytes");
        }
        // `\` and `:` are separators on Windows; a cache may be shared.
        if text.contains(['\\', ':']) || text.contains(char::is_control) {
            return Err("holds `\\`, `:` or a control character");
        }
        if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("is absolute or holds `.`, `..` or an empty part");
        }
        Ok(Self(text.to_owned()))
    }

    /// The path, as the Hub writes it.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The path in the form of this system.
    pub(super) fn to_path(&self) -> PathBuf {
        self.0.split('/').collect()
    }

    /// The number of directories above it.
    pub(super) fn depth(&self) -> usize {
        self.0.matches('/').count()
    }

    /// The path in a URL: all but unreserved characters (RFC 3986, 2.3) and `/` percent-encoded.
    pub(super) fn to_url(&self) -> String {
        self.0.split('/').map(encode).collect::<Vec<_>>().join("/")
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One segment of a URL's path.
pub(super) fn encode(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_their_directory_are_refused() {
        for text in ["", "/a", "..", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "C:a", "a\nb", "a\0"] {
            assert!(RepoPath::parse(text).is_err(), "{text:?}");
        }
        let path = RepoPath::parse("data/train..v2.jsonl").unwrap();
        assert_eq!((path.depth(), path.to_path()), (1, PathBuf::from("data").join("train..v2.jsonl")));
    }

    #[test]
    fn urls_are_percent_encoded() {
        assert_eq!(RepoPath::parse("a b/é#?.json").unwrap().to_url(), "a%20b/%C3%A9%23%3F.json");
        assert_eq!(encode("refs/pr/1"), "refs%2Fpr%2F1");
    }
}
