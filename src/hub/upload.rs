//! Uploads files as one commit: `api/repos/create`, `preupload` (which files are large), Git LFS for those, and `commit`, as
//! `huggingface_hub` does (`_commit_api.py`, `lfs.py`).

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use serde_json::{Map, Value, json};

use super::connection::Hub;
use super::http::Failure;
use super::id::HubId;
use super::retry::{give_up, retry};
use crate::error::{Error, Result};

/// Bytes of a file from which the Hub decides how it is stored.
const SAMPLE: usize = 512;

/// Git LFS's media type.
const LFS: &str = "application/vnd.git-lfs+json";

/// A file to upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its path in the repository.
    pub name: String,
    /// Its bytes.
    pub content: Content,
}

/// The bytes of an [`Upload`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file of this machine.
    File(PathBuf),
    /// In memory.
    Bytes(Vec<u8>),
}

/// What is known of a file before it is uploaded.
struct Measured {
    size: u64,
    /// SHA-256 in hexadecimal, its name in Git LFS.
    oid: String,
    sample: Vec<u8>,
}

impl Upload {
    fn read(&self) -> Result<Vec<u8>> {
        match &self.content {
            Content::Bytes(bytes) => Ok(bytes.clone()),
            Content::File(path) => std::fs::read(path).map_err(Error::read(path)),
        }
    }

    fn measured(&self) -> Result<Measured> {
        match &self.content {
            Content::Bytes(bytes) => measured(&mut bytes.as_slice()).map_err(Error::read(&self.name)),
            Content::File(path) => {
                let mut file = File::open(path).map_err(Error::read(path))?;
                measured(&mut file).map_err(Error::read(path))
            }
        }
    }
}

fn measured(from: &mut impl Read) -> std::io::Result<Measured> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let (mut size, mut sample, mut buffer) = (0, Vec::new(), vec![0; 1 << 18]);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        let bytes = &buffer[..read];
        sample.extend(&bytes[..read.min(SAMPLE - sample.len().min(SAMPLE))]);
        hash.update(bytes);
        size += read as u64;
    }
    let oid = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Measured { size, oid, sample })
}

impl Hub {
    /// Uploads files to a model repository in one commit; the repository is created if there is none. Returns the address of
    /// the repository.
    ///
    /// # Errors
    /// [`Error::Config`] without a token or in offline mode; [`Error::Hub`] if the Hub refuses, with its words.
    pub fn upload(&self, id: &HubId, files: &[Upload], message: &str, private: bool) -> Result<String> {
        if self.settings.offline {
            return Err(Error::Config("HF_HUB_OFFLINE is set, so that nothing is uploaded; unset it".into()));
        }
        if self.settings.token.is_none() {
            return Err(Error::Config(
                "there is no token to upload with; set HF_TOKEN to one that may write, or run `hf auth login`".into(),
            ));
        }
        let measured = files.iter().map(Upload::measured).collect::<Result<Vec<_>>>()?;
        self.create(id, private)?;
        let large = self.large(id, files, &measured)?;
        let of = |wanted: bool| {
            files
                .iter()
                .zip(&measured)
                .zip(&large)
                .filter(move |(_, is_large)| **is_large == wanted)
                .map(|(file, _)| file)
        };
        self.store(id, &of(true).collect::<Vec<_>>())?;
        let mut lines = vec![json!({"key": "header", "value": {"summary": message, "description": ""}})];
        for (file, _) in of(false) {
            let content = STANDARD.encode(file.read()?);
            lines.push(json!({"key": "file", "value": {"content": content, "path": file.name, "encoding": "base64"}}));
        }
        for (file, found) in of(true) {
            lines.push(json!({"key": "lfsFile", "value": {
                "path": file.name, "algo": "sha256", "oid": found.oid, "size": found.size}}));
        }
        let body = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let revision = id.revision().replace('/', "%2F");
        let path = format!("api/models/{}/commit/{revision}", id.repository());
        self.post(&path, "application/x-ndjson", &body, &[200, 201])?;
        Ok(self.client.url(&id.repository()))
    }

    /// Creates the repository, if there is none.
    fn create(&self, id: &HubId, private: bool) -> Result<()> {
        let (owner, name) =
            id.repository().split_once('/').map(|(o, n)| (o.to_owned(), n.to_owned())).unwrap_or_default();
        let body = json!({"name": name, "organization": owner, "type": "model", "private": private});
        // 409: it exists. 403: the token may not create repositories; whether it may write to this one shows next.
        self.post("api/repos/create", "application/json", &body.to_string(), &[200, 201, 403, 409])
            .map(|_| ())
    }

    /// Which files Git LFS stores.
    fn large(&self, id: &HubId, files: &[Upload], measured: &[Measured]) -> Result<Vec<bool>> {
        let described: Vec<Value> = files
            .iter()
            .zip(measured)
            .map(|(file, found)| json!({"path": file.name, "sample": STANDARD.encode(&found.sample), "size": found.size}))
            .collect();
        let revision = id.revision().replace('/', "%2F");
        let path = format!("api/models/{}/preupload/{revision}", id.repository());
        let answer =
            self.post(&path, "application/json", &json!({"files": described}).to_string(), &[200])?;
        let modes = answer["files"].as_array().cloned().unwrap_or_default();
        files
            .iter()
            .map(|file| {
                let mode = modes.iter().find(|mode| mode["path"] == file.name.as_str());
                match mode.and_then(|mode| mode["uploadMode"].as_str()) {
                    Some("lfs") => Ok(true),
                    Some("regular") => Ok(false),
                    _ => Err(Error::Hub(format!("the Hub does not say how {} is to be uploaded", file.name))),
                }
            })
            .collect()
    }

    /// Sends large files to the storage that the Hub names, those that it does not have.
    fn store(&self, id: &HubId, files: &[(&Upload, &Measured)]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let objects: Vec<Value> =
            files.iter().map(|(_, found)| json!({"oid": found.oid, "size": found.size})).collect();
        let body = json!({
            "operation": "upload", "transfers": ["basic"], "objects": objects, "hash_algo": "sha256",
            "ref": {"name": id.revision()},
        });
        let path = format!("{}.git/info/lfs/objects/batch", id.repository());
        let answer = self.post(&path, LFS, &body.to_string(), &[200])?;
        let objects = answer["objects"].as_array().cloned().unwrap_or_default();
        for (file, found) in files {
            let object = objects.iter().find(|object| object["oid"] == found.oid.as_str());
            let object = object
                .ok_or_else(|| Error::Hub(format!("the Hub's storage does not mention {}", file.name)))?;
            if let Some(error) = object["error"]["message"].as_str() {
                let said: String = error.chars().filter(|c| !c.is_control()).take(200).collect();
                return Err(Error::Hub(format!("the Hub's storage refuses {}: {said}", file.name)));
            }
            let actions = &object["actions"];
            // Without actions the bytes are there already.
            if let Some(href) = actions["upload"]["href"].as_str() {
                self.put(file, found, href, &headers(&actions["upload"]["header"]))?;
                if let Some(href) = actions["verify"]["href"].as_str() {
                    let body = json!({"oid": found.oid, "size": found.size}).to_string();
                    let mut headers = headers(&actions["verify"]["header"]);
                    headers.push(("Content-Type".into(), LFS.into()));
                    self.tried(|| self.client.post_to(href, &headers, &body, &[200, 201]))?;
                }
            }
        }
        Ok(())
    }

    fn put(&self, file: &Upload, found: &Measured, href: &str, headers: &[(String, String)]) -> Result<()> {
        if headers.iter().any(|(name, _)| name == "chunk_size") {
            return Err(Error::Hub(format!(
                "{} has {} bytes, which the Hub stores in parts only; that is not supported: upload it with `hf upload`",
                file.name, found.size
            )));
        }
        self.progress.begin(&file.name, Some(found.size), 0);
        self.tried(|| match &file.content {
            Content::Bytes(bytes) => self.client.put_to(href, headers, found.size, &mut bytes.as_slice()),
            Content::File(path) => {
                let failed = |e| Failure::Final(Error::read(path)(e));
                let mut opened = File::open(path).map_err(failed)?;
                opened.rewind().map_err(|e| Failure::Final(Error::read(path)(e)))?;
                self.client.put_to(href, headers, found.size, &mut opened)
            }
        })?;
        self.progress.advance(found.size);
        self.progress.end();
        Ok(())
    }

    fn post(&self, path: &str, kind: &str, body: &str, fine: &[u16]) -> Result<Value> {
        let url = self.client.url(path);
        let mut headers = vec![("Content-Type".to_string(), kind.to_string())];
        if kind == LFS {
            headers.push(("Accept".into(), LFS.into()));
        }
        self.tried(|| self.client.post_to(&url, &headers, body, fine))
    }

    fn tried<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let attempts = self.client.attempts();
        retry(&self.client, attempts, &*self.progress, |_| attempt()).map_err(|failure| match failure {
            Failure::Passing(reason, _) => {
                Error::Hub(format!("{reason}; gave up at attempt {attempts} of {attempts}"))
            }
            failure => give_up(failure, attempts),
        })
    }
}

/// Headers that an LFS action names.
fn headers(value: &Value) -> Vec<(String, String)> {
    let none = Map::new();
    let named = value.as_object().unwrap_or(&none).iter();
    named.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_string()))).collect()
}

/// Files of an adapter that programs load, and those that a repository has beside them.
const OF_ADAPTER: &[&str] = &[
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "README.md",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "LICENCE",
    "LICENCE.md",
    "LICENCE.txt",
    "NOTICE",
    "NOTICE.md",
    "NOTICE.txt",
    ".gitattributes",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The directory of named chat templates.
const TEMPLATES: &str = "additional_chat_templates";

/// Extensions of figures that a model card may show.
const FIGURES: &[&str] = &["png", "svg", "jpg", "jpeg", "webp", "gif"];

/// The files of a directory that belong to an adapter, by name, and the names of what does not: it stays here, for it may
/// be anything.
///
/// # Errors
/// If the directory cannot be read.
pub fn files_of(directory: &Path) -> Result<(Vec<Upload>, Vec<String>)> {
    let (mut files, mut left_out) = (Vec::new(), Vec::new());
    for (name, path) in entries(directory)? {
        if path.is_dir() && name == TEMPLATES {
            for (inner, path) in entries(&path)? {
                let name = format!("{name}/{inner}");
                match inner.ends_with(".jinja") && path.is_file() {
                    true => files.push(Upload { name, content: Content::File(path) }),
                    false => left_out.push(name),
                }
            }
        } else if path.is_file() && is_of_adapter(&name) {
            files.push(Upload { name, content: Content::File(path) });
        } else {
            left_out.push(if path.is_dir() { format!("{name}/") } else { name });
        }
    }
    Ok((files, left_out))
}

fn is_of_adapter(name: &str) -> bool {
    let extension = Path::new(name).extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let is_figure = extension.is_some_and(|extension| FIGURES.contains(&extension.as_str()));
    OF_ADAPTER.contains(&name) || is_figure && !name.starts_with('.')
}

/// Names and paths of a directory, sorted.
fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(Error::read(directory))? {
        let path = entry.map_err(Error::read(directory))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        found.push((name, path));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_measured_as_git_lfs_names_it() {
        let found = measured(&mut &[b'a'; 1000][..]).unwrap();
        // printf 'a%.0s' {1..1000} | sha256sum
        assert_eq!(found.oid, "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3");
        assert_eq!((found.size, found.sample.len()), (1000, SAMPLE));
        assert_eq!(measured(&mut &b""[..]).unwrap().size, 0);
    }

    #[test]
    fn only_what_belongs_to_an_adapter_is_uploaded() {
        let place = tempfile::tempdir().unwrap();
        let kept = [
            "LICENCE",
            "adapter_config.json",
            "adapter_model.bin",
            "adapter_model.safetensors",
            "curves.PNG",
            "tokenizer.json",
        ];
        let not = [".env", ".key.png", "notes.txt", "optimizer.safetensors", "pairs.jsonl"];
        for name in kept.iter().chain(&not) {
            std::fs::write(place.path().join(name), name).unwrap();
        }
        let templates = place.path().join(TEMPLATES);
        std::fs::create_dir(&templates).unwrap();
        std::fs::create_dir(place.path().join("checkpoints")).unwrap();
        for name in ["tool_use.jinja", "secret"] {
            std::fs::write(templates.join(name), name).unwrap();
        }
        let (files, left_out) = files_of(place.path()).unwrap();
        let mut names: Vec<String> = files.into_iter().map(|file| file.name).collect();
        names.retain(|name| name != "additional_chat_templates/tool_use.jinja");
        assert_eq!(names, kept);
        assert_eq!(left_out[..4], [".env", ".key.png", "additional_chat_templates/secret", "checkpoints/"]);
        assert_eq!(left_out[4..], not[2..]);
    }
}
