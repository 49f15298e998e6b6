//! The other files of a model directory: tokenizer, chat templates, the model's own code, licence.
//! Every small file that is not a weight is copied, so that files that a later version of transformers looks for are there.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

/// Largest size of a file with an unknown name. The largest tokenizers have 40 MB.
const LARGEST: u64 = 64 << 20;
/// Limit of nested directories.
const DEEPEST: usize = 4;

/// Files that every model may have; they are copied wherever a link leads and however large they are.
pub(super) const KNOWN: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tekken.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];
/// Files that the merge writes itself, or that only describe the base.
const OWN: &[&str] =
    &["config.json", "adapter_config.json", "trainer_state.json", "README.md", "params.json"];
/// Suffixes of weights in any format, and of what a training run leaves.
const WEIGHTS: &[&str] = &[
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "h5",
    "msgpack",
    "gguf",
    "ggml",
    "onnx",
    "onnx_data",
    "ot",
    "npz",
    "npy",
    "pkl",
    "pickle",
    "tflite",
    "mlmodel",
    "nemo",
    "pdparams",
    "distcp",
    "zip",
    "tar",
    "gz",
    "zst",
    "pyc",
    "tmp",
    "lock",
    "incomplete",
];
/// Directories that transformers reads independently of the configuration.
const TEMPLATES: &str = "additional_chat_templates";

/// A file to be copied: its path in the model's directory, and the path of its bytes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Companion {
    pub name: PathBuf,
    from: PathBuf,
}

/// The files to copy, and those left out though they may matter (with the reason), each sorted.
#[derive(Debug, Default)]
pub(super) struct Companions {
    pub copied: Vec<Companion>,
    pub left_out: Vec<String>,
}

impl Companions {
    /// Lists the companions of a model directory.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn of(directory: &Path) -> Result<Self> {
        let root = std::fs::canonicalize(directory).map_err(Error::read(directory))?;
        let search = Search { home: home(&root), named: named(&root), directory: root };
        let mut found = Self::default();
        search.walk(Path::new(""), 0, &mut found)?;
        found.copied.sort();
        found.left_out.sort();
        Ok(found)
    }

    /// Copies them, with the permissions of new files (a Hub cache may be read-only).
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn copy(&self, directory: &Path) -> Result<()> {
        for Companion { name, from } in &self.copied {
            let mut source = File::open(from).map_err(Error::read(from))?;
            let to = directory.join(name);
            files::write_atomically(&to, |out| std::io::copy(&mut source, out).map(|_| ()))?;
        }
        Ok(())
    }
}

/// Where links may lead: the directory itself, and for a snapshot in the Hub's cache, whose files are links to `blobs`, its
/// repository.
fn home(root: &Path) -> PathBuf {
    let snapshots = root.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
    let repository = snapshots.and_then(Path::parent).filter(|repository| repository.join("blobs").is_dir());
    repository.unwrap_or(root).to_path_buf()
}

/// All strings in the configurations: `auto_map` names modules, `modules.json` names directories.
fn named(root: &Path) -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    for file in [
        "config.json",
        "tokenizer_config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "modules.json",
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        collect(&serde_json::from_str(&text).unwrap_or_default(), &mut texts);
    }
    texts
}

fn collect(value: &Value, texts: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            texts.insert(text.clone());
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, texts)),
        Value::Object(map) => map.values().for_each(|value| collect(value, texts)),
        _ => {}
    }
}

struct Search {
    directory: PathBuf,
    home: PathBuf,
    named: BTreeSet<String>,
}

impl Search {
    fn walk(&self, below: &Path, depth: usize, found: &mut Companions) -> Result<()> {
        let here = self.directory.join(below);
        for entry in std::fs::read_dir(&here).map_err(Error::read(&here))? {
            let entry = entry.map_err(Error::read(&here))?;
            let Some(name) = entry.file_name().to_str().map(String::from) else { continue };
            let (path, at) = (entry.path(), below.join(&name));
            // A broken link is ignored.
            let Ok(real) = std::fs::canonicalize(&path) else { continue };
            if name.starts_with('.') {
                continue;
            }
            if real.is_dir() {
                let wanted = depth < DEEPEST && (depth > 0 || self.names_directory(&name, &real));
                if wanted && real.starts_with(&self.home) {
                    self.walk(&at, depth + 1, found)?;
                }
            } else if real.is_file() {
                self.file(at, &name, real, depth, found)?;
            }
        }
        Ok(())
    }

    /// Whether a configuration names the directory, or it has code that code at the top may import.
    fn names_directory(&self, name: &str, real: &Path) -> bool {
        let begins = |text: &String| {
            text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
        };
        let holds_code = || real.join("__init__.py").is_file();
        name == TEMPLATES || self.named.iter().any(begins) || holds_code()
    }

    fn file(
        &self,
        at: PathBuf,
        name: &str,
        real: PathBuf,
        depth: usize,
        found: &mut Companions,
    ) -> Result<()> {
        let top = depth == 0;
        if is_weight(name) || top && OWN.contains(&name) {
            return Ok(());
        }
        if !(top && KNOWN.contains(&name)) {
            if !real.starts_with(&self.home) {
                found.left_out.push(format!("{} (a link out of the directory)", at.display()));
                return Ok(());
            }
            let bytes = std::fs::metadata(&real).map_err(Error::read(&real))?.len();
            if bytes > LARGEST {
                found.left_out.push(format!("{} ({} MB)", at.display(), bytes >> 20));
                return Ok(());
            }
        }
        found.copied.push(Companion { name: at, from: real });
        Ok(())
    }
}

/// Whether a file holds weights, an index of weights, or output of a training run.
fn is_weight(name: &str) -> bool {
    let name = name.to_lowercase();
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    WEIGHTS.contains(&end) || name.ends_with(".index.json") || name.starts_with("events.out.tfevents")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            std::fs::create_dir_all(directory.join(name).parent().unwrap()).unwrap();
            std::fs::write(directory.join(name), text).unwrap();
        }
    }

    fn names(found: &Companions) -> Vec<String> {
        found.copied.iter().map(|one| one.name.to_str().unwrap().replace('\\', "/")).collect()
    }

    #[test]
    fn everything_small_that_is_no_weight_is_copied() {
        let place = tempfile::tempdir().unwrap();
        write(
            place.path(),
            &[
                ("config.json", r#"{"auto_map": {"AutoModel": "deep.modeling.Tiny"}}"#),
                ("modules.json", r#"[{"path": "1_Pooling"}]"#),
                ("configuration_tiny.py", "code"),
                ("deep/modeling.py", "code"),
                ("helpers/__init__.py", "code"),
                ("1_Pooling/config.json", "{}"),
                ("additional_chat_templates/tool_use.jinja", "{{ messages }}"),
                ("tekken.json", "{}"),
                ("spiece.model", "x"),
                ("LICENSE", "free"),
                ("NOTICE.txt", "take notice"),
                ("model.safetensors", "w"),
                ("model.safetensors.index.json", "{}"),
                ("pytorch_model.bin", "w"),
                ("training_args.bin", "w"),
                ("trainer_state.json", "{}"),
                ("README.md", "the base's card"),
                (".git/config", "x"),
                (".gitattributes", "x"),
                ("onnx/model.onnx", "w"),
                ("checkpoint-10/config.json", "{}"),
                ("data/pairs.jsonl", "{}"),
            ],
        );
        let found = Companions::of(place.path()).unwrap();
        let wanted = [
            "1_Pooling/config.json",
            "LICENSE",
            "NOTICE.txt",
            "additional_chat_templates/tool_use.jinja",
            "configuration_tiny.py",
            "deep/modeling.py",
            "helpers/__init__.py",
            "modules.json",
            "spiece.model",
            "tekken.json",
        ];
        assert_eq!(names(&found), wanted);
        assert_eq!(found.left_out, Vec::<String>::new());
        let to = tempfile::tempdir().unwrap();
        found.copy(to.path()).unwrap();
        assert_eq!(std::fs::read(to.path().join("deep/modeling.py")).unwrap(), b"code");
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_in_the_directory_or_in_the_caches_repository() {
        use std::os::unix::fs::symlink;
        let place = tempfile::tempdir().unwrap();
        let repository = place.path().join("models--a--b");
        let snapshot = repository.join("snapshots/0123");
        write(
            place.path(),
            &[("secret.txt", "secret"), ("elsewhere/tokenizer.json", "{}"), ("tree/a.py", "x")],
        );
        write(&repository, &[("blobs/aa", "code"), ("blobs/bb", "{}")]);
        std::fs::create_dir_all(&snapshot).unwrap();
        symlink("../../blobs/aa", snapshot.join("modeling.py")).unwrap();
        symlink("../../blobs/bb", snapshot.join("preprocessor_config.json")).unwrap();
        symlink(place.path().join("secret.txt"), snapshot.join("notes.txt")).unwrap();
        symlink(place.path().join("tree"), snapshot.join("additional_chat_templates")).unwrap();
        symlink("nowhere", snapshot.join("gone.py")).unwrap();
        // The tokenizer is wherever the user has linked it to.
        symlink(place.path().join("elsewhere/tokenizer.json"), snapshot.join("tokenizer.json")).unwrap();
        symlink("..", snapshot.join("loop")).unwrap();
        let found = Companions::of(&snapshot).unwrap();
        assert_eq!(names(&found), ["modeling.py", "preprocessor_config.json", "tokenizer.json"]);
        assert_eq!(found.left_out, ["notes.txt (a link out of the directory)"]);
        // In another place, a directory of this name has no meaning.
        let plain = place.path().join("snapshots/4567");
        std::fs::create_dir_all(&plain).unwrap();
        symlink(place.path().join("secret.txt"), plain.join("notes.txt")).unwrap();
        assert_eq!(names(&Companions::of(&plain).unwrap()), Vec::<String>::new());
    }
}
