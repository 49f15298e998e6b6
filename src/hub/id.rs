//! Names given by the user: a repository of the Hub, with or without a revision.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The revision if none is named.
const DEFAULT_REVISION: &str = "main";

/// A repository and a revision of it: `owner/name[@revision]`.
///
/// The rules are those of `huggingface_hub.utils.validate_repo_id`, so that no two repositories share a directory of
/// the cache and none can name a directory outside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HubId {
    owner: String,
    name: String,
    revision: String,
}

impl HubId {
    /// Reads `owner/name[@revision]`; the revision is a branch, a tag or a commit, `main` if none is named.
    ///
    /// # Errors
    /// [`Error::Config`] naming the invalid part.
    pub fn parse(text: &str) -> Result<Self> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, DEFAULT_REVISION));
        let refuse = |why: &str| {
            Error::Config(format!("`{text}` is not a Hub id: {why}; write owner/name or owner/name@revision"))
        };
        let Some((owner, name)) = repository.split_once('/') else {
            return Err(refuse("there is no `/` between owner and name"));
        };
        for part in [owner, name] {
            check_name(part).map_err(|why| refuse(&format!("`{part}` {why}")))?;
        }
        check_revision(revision).map_err(|why| refuse(&format!("the revision `{revision}` {why}")))?;
        Ok(Self { owner: owner.into(), name: name.into(), revision: revision.into() })
    }

    /// `owner/name`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The same repository at another revision.
    ///
    /// # Errors
    /// [`Error::Config`] if `revision` is invalid.
    pub fn at(&self, revision: &str) -> Result<Self> {
        Self::parse(&format!("{}@{revision}", self.repository()))
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        if self.revision == DEFAULT_REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// Whether `text` is a full commit id, the name of a snapshot in the cache.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c));
    match name {
        "" => Err("is empty"),
        _ if name.len() > 96 => Err("is longer than 96 characters"),
        _ if name.contains(odd) => Err("may hold letters, digits, `-`, `_` and `.` only"),
        _ if name.contains("--") || name.contains("..") => Err("may not hold `--` or `..`"),
        _ if name.starts_with(['-', '.']) || name.ends_with(['-', '.']) => {
            Err("may not start or end with `-` or `.`")
        }
        _ if name.to_ascii_lowercase().ends_with(".git") => Err("may not end with `.git`"),
        _ => Ok(()),
    }
}

/// Git's own rules (`git check-ref-format`), narrowed to the usual characters of branches and tags.
fn check_revision(revision: &str) -> Result<(), &'static str> {
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "-_./+".contains(c));
    match revision {
        "" => Err("is empty"),
        _ if revision.len() > 200 => Err("is longer than 200 characters"),
        _ if revision.contains(odd) => Err("may hold letters, digits, `-`, `_`, `.`, `/` and `+` only"),
        _ if revision.contains("..") => Err("may not hold `..`"),
        _ if revision.split('/').any(|part| part.is_empty() || part.starts_with(['.', '-'])) => {
            Err("has an empty part or one that starts with `.` or `-`")
        }
        _ if revision.ends_with(['/', '.']) || revision.ends_with(".lock") => {
            Err("may not end with `/`, `.` or `.lock`")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_written() {
        for text in ["Qwen/Qwen2.5-0.5B-Instruct", "a/b@v1.0", "a/b_c@refs/pr/1", "o-1/n.2@feature/x"] {
            assert_eq!(HubId::parse(text).unwrap().to_string(), text);
        }
        let id = HubId::parse("a/b").unwrap();
        assert_eq!((id.revision(), id.repository()), ("main", "a/b".to_owned()));
        assert_eq!(id.at("dev").unwrap().to_string(), "a/b@dev");
    }

    #[test]
    fn path_tricks_and_odd_characters_are_refused() {
        for text in [
            "",
            "a",
            "/a",
            "a/",
            "a/b/c",
            "../b",
            "a/..",
            "/etc/passwd",
            "./b",
            "a/.b",
            "a/b\\c",
            "a b/c",
            "a/b?x",
            "a/b%2e",
            "a--b/c",
            "a/b.git",
            "~/b",
            "a/b\0",
            "C:/b",
            "á/b",
            "a/b@",
            "a/b@../x",
            "a/b@/x",
            "a/b@x/",
            "a/b@-x",
            "a/b@x//y",
            "a/b@x/.y",
            "a/b@x y",
            "a/b@x@y",
            "a/b@x.lock",
            "a/b@x:y",
            "a/b@x\ny",
        ] {
            let error = HubId::parse(text).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(error.to_string().contains("write owner/name"), "{error}");
        }
        assert!(HubId::parse(&format!("a/{}", "b".repeat(97))).is_err());
    }

    #[test]
    fn only_forty_lower_case_hex_digits_are_a_commit() {
        assert!(is_commit(&"0a".repeat(20)));
        assert!(!is_commit(&"0A".repeat(20)) && !is_commit(&"0a".repeat(19)) && !is_commit(&"0g".repeat(20)));
    }
}
