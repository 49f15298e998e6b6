//! Resolves the data sources in the YAML (a file, a glob, a directory, or a list of them) to readable inputs.

mod names;

use std::borrow::Cow;
use std::fs;
use std::path::{Component, Path, PathBuf, is_separator};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::format::{Format, SUPPORTED};
pub use super::format::{Row, Rows};
use super::sources::Sources;
use crate::error::{Error, Result, nearest};

/// Whether standard input has been read by this process.
static STDIN_READ: AtomicBool = AtomicBool::new(false);

/// One input to read records from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file and its detected format.
    File(PathBuf, Format),
    /// Standard input, which can be read once.
    Stdin,
    /// Named JSON Lines in memory, such as the embedded quickstart data.
    Text {
        /// The name used in origins.
        name: Arc<str>,
        /// The JSON Lines text.
        text: Cow<'static, str>,
    },
}

impl Input {
    /// Creates an input from JSON Lines in memory.
    pub fn text(name: impl Into<Arc<str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Text { name: name.into(), text: text.into() }
    }

    /// Returns the path of a regular file; `None` for text in memory and for pipes, which can be read only once.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path, _) if path.is_file() => Some(path),
            Self::File(..) | Self::Text { .. } | Self::Stdin => None,
        }
    }

    /// Returns the rows, lazily where the format allows it.
    ///
    /// # Errors
    /// Fails if a file cannot be opened or does not have its format at all. A single malformed row is an error among
    /// the rows.
    pub fn rows(&self) -> Result<Rows> {
        match self {
            Self::File(path, format) => format.open(path, path.display().to_string().into()),
            Self::Stdin if STDIN_READ.swap(true, Ordering::Relaxed) => Err(Error::Data(
                "`-` is standard input, which can be read only once; write the data to a file and name that file".into(),
            )),
            Self::Stdin => Format::Jsonl.read(std::io::stdin(), "standard input".into()),
            Self::Text { name, text } => Format::Jsonl.parse(text.clone().into_owned(), name.clone()),
        }
    }
}

/// Returns the inputs that `sources` name, in order. Files from globs and directories are sorted by path, so that every
/// machine sees the same order.
///
/// # Errors
/// Fails if a source does not exist, contains nothing readable or has an unsupported format. All problems are reported
/// in one message.
pub fn resolve(sources: &Sources) -> Result<Vec<Input>> {
    let (mut inputs, mut wrong, mut named_wrongly) = (Vec::new(), Vec::new(), true);
    for source in &sources.0 {
        match resolve_one(&source.path()) {
            Ok(found) => inputs.extend(found),
            Err(e) => {
                named_wrongly &= matches!(e, Error::Config(_));
                wrong.push(e.to_string());
            }
        }
    }
    let wrong = (!wrong.is_empty()).then(|| wrong.join("\n"));
    let error = if named_wrongly { Error::Config } else { Error::Data };
    wrong.map_or(Ok(inputs), |wrong| Err(error(wrong)))
}

fn resolve_one(source: &str) -> Result<Vec<Input>> {
    if source.starts_with("hub:") {
        return Err(Error::Data(format!(
            "`{source}` is a data set on the Hub, which this function does not download; read it with `Base::pairs`, or \
             name its files ({SUPPORTED})"
        )));
    }
    if source == "-" {
        return Ok(vec![Input::Stdin]);
    }
    let path = Path::new(source);
    // A file whose literal name contains brackets takes precedence over a glob.
    if path.is_dir() {
        directory(path)
    } else if path.exists() {
        Ok(vec![Input::File(path.to_path_buf(), Format::of(path)?)])
    } else if source.contains(['*', '?', '[']) {
        matches(source)
    } else {
        Err(Error::Config(missing(path)))
    }
}

/// Files that `datasets` writes beside the records, and that describe them.
const DESCRIPTIONS: [&str; 4] =
    ["dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"];

/// Whether a path is a file that a directory is read for.
fn is_data(path: &Path) -> bool {
    let describes = path.file_name().is_some_and(|name| DESCRIPTIONS.iter().any(|known| name == *known));
    !describes && Format::named(path).is_some() && path.is_file()
}

fn directory(dir: &Path) -> Result<Vec<Input>> {
    let files: Vec<PathBuf> = visible(dir)?.into_iter().filter(|path| is_data(path)).collect();
    let below = below(dir);
    if files.is_empty() {
        return Err(Error::Data(if below.is_empty() {
            format!("directory `{}` holds no file that can be read: {SUPPORTED}", dir.display())
        } else {
            format!(
                "directory `{}` holds no file that can be read itself, but its subdirectories do ({}); name one of them, or \
                 the files of one split (a glob)",
                dir.display(),
                named(&below)
            )
        }));
    }
    if !below.is_empty() {
        log::warn!(
            "directory `{}` is read without its subdirectories, which hold data, too ({}); if these belong to it, name their \
             directories beside it (a list)",
            dir.display(),
            named(&below)
        );
    }
    together(&files, |_| true)?;
    files.into_iter().map(|path| Format::of(&path).map(|format| Input::File(path, format))).collect()
}

fn matches(pattern: &str) -> Result<Vec<Input>> {
    let paths =
        glob::glob(pattern).map_err(|e| Error::Data(format!("`{pattern}` is not a valid glob: {e}")))?;
    let parts: Vec<glob::Pattern> =
        pattern.split(is_separator).filter_map(|part| glob::Pattern::new(part).ok()).collect();
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|e| Error::read(e.path().to_path_buf())(e.into()))?;
        if !path.is_dir() && is_meant(&path, &parts) {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::Config(format!(
            "`{pattern}` matches no file; relative patterns start in the working directory"
        )));
    }
    files.sort();
    together(&files, |name| parts.last().is_some_and(|last| last.matches(name)))?;
    files.into_iter().map(|path| Format::of(&path).map(|format| Input::File(path, format))).collect()
}

/// Whether a glob of these parts means a path: as in shells, no wildcard stands for the dot of a hidden name.
fn is_meant(path: &Path, parts: &[glob::Pattern]) -> bool {
    path.components().all(|component| {
        let name = component.as_os_str().to_string_lossy();
        let is_hidden = name.starts_with('.') && matches!(component, Component::Normal(_));
        !is_hidden || parts.iter().any(|part| part.as_str().starts_with('.') && part.matches(&name))
    })
}

/// Warns of files whose names say that they are not one data set, and refuses those that are not all of one.
fn together(files: &[PathBuf], wants: impl Fn(&str) -> bool) -> Result<()> {
    for note in names::splits(files).into_iter().chain(names::twins(files)) {
        log::warn!("{note}");
    }
    names::missing_shards(files, wants).map_or(Ok(()), |missing| Err(Error::Data(missing)))
}

/// The depth below a directory to which files are looked for.
const DEPTH: usize = 3;
/// The number of subdirectories in which they are looked for.
const MOST_DIRECTORIES: usize = 1000;

/// Returns the first file of each subdirectory of `dir` that has some. They are not read, but named.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![(dir.to_path_buf(), 0)];
    let mut at = 0;
    while let Some((directory, depth)) = left.get(at).filter(|_| at < MOST_DIRECTORIES).cloned() {
        at += 1;
        // What cannot be listed is not missed either.
        let entries = visible(&directory).unwrap_or_default();
        if depth > 0 {
            found.extend(entries.iter().find(|path| is_data(path)).cloned());
        }
        if depth < DEPTH {
            left.extend(entries.into_iter().filter(|path| path.is_dir()).map(|path| (path, depth + 1)));
        }
    }
    found
}

/// Lists the first files of subdirectories.
fn named(files: &[PathBuf]) -> String {
    let shown: Vec<String> = files.iter().take(6).map(|path| path.display().to_string()).collect();
    let more = if files.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn missing(path: &Path) -> String {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let siblings: Vec<String> = sorted_entries(parent)
        .unwrap_or_default()
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match nearest(&name, siblings.iter().map(String::as_str)) {
        Some(near) => format!("`{}` does not exist; did you mean `{near}`?", path.display()),
        None => format!("`{}` does not exist; relative paths start in the working directory", path.display()),
    }
}

/// The entries of a directory that are not hidden, sorted.
fn visible(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(sorted_entries(dir)?.into_iter().filter(|path| !names::is_hidden(path)).collect())
}

fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = read().map_err(Error::read(dir))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, names: &[&str]) {
        for name in names {
            fs::write(dir.join(name), "{}\n").unwrap();
        }
    }

    fn names(inputs: &[Input]) -> Vec<String> {
        let name = |input: &Input| match input {
            Input::File(path, _) => path.file_name().unwrap().to_string_lossy().into_owned(),
            Input::Stdin => "-".into(),
            Input::Text { name, .. } => name.to_string(),
        };
        inputs.iter().map(name).collect()
    }

    fn resolve_in(dir: &Path, sources: &[&str]) -> Result<Vec<Input>> {
        resolve(&sources.iter().map(|source| format!("{}/{source}", dir.display())).collect())
    }

    #[test]
    fn files_globs_directories_and_lists() {
        let dir = tempfile::tempdir().unwrap();
        files(dir.path(), &["b.jsonl", "a.json", "c.ndjson", "README.md", "d[1].jsonl", "e.csv.gz", "f.gz"]);
        assert_eq!(names(&resolve_in(dir.path(), &["b.jsonl"]).unwrap()), ["b.jsonl"]);
        assert_eq!(
            names(&resolve_in(dir.path(), &[""]).unwrap()),
            ["a.json", "b.jsonl", "c.ndjson", "d[1].jsonl", "e.csv.gz"]
        );
        assert_eq!(
            names(&resolve_in(dir.path(), &["*.json*"]).unwrap()),
            ["a.json", "b.jsonl", "d[1].jsonl"]
        );
        assert_eq!(names(&resolve_in(dir.path(), &["c.*", "a.json"]).unwrap()), ["c.ndjson", "a.json"]);
        assert_eq!(names(&resolve_in(dir.path(), &["d[1].jsonl"]).unwrap()), ["d[1].jsonl"]);
    }

    #[test]
    fn what_cannot_be_read_is_said_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        files(dir.path(), &["pairs.jsonl", "x.arrow"]);
        let message = resolve_in(dir.path(), &["pair.jsonl", "x.arrow", "*.csv", "pairs.jsonl"])
            .unwrap_err()
            .to_string();
        for part in [
            "did you mean `pairs.jsonl`?",
            ".arrow files cannot be read",
            "*.csv` matches no file",
            ".ndjson",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        fs::create_dir(dir.path().join("empty")).unwrap();
        assert!(resolve_in(dir.path(), &["empty"]).unwrap_err().to_string().contains("holds no file"));
        assert!(resolve(&"hub:a/b".into()).unwrap_err().to_string().contains("Hub"));
        assert!(resolve(&"[".into()).is_err());
    }

    #[test]
    fn hidden_files_are_read_only_by_their_name() {
        let dir = tempfile::tempdir().unwrap();
        files(dir.path(), &["a.jsonl", ".b.jsonl", "._a.jsonl"]);
        assert_eq!(names(&resolve_in(dir.path(), &[""]).unwrap()), ["a.jsonl"]);
        assert_eq!(names(&resolve_in(dir.path(), &["*.jsonl"]).unwrap()), ["a.jsonl"]);
        assert_eq!(names(&resolve_in(dir.path(), &[".b.jsonl"]).unwrap()), [".b.jsonl"]);
        assert_eq!(names(&resolve_in(dir.path(), &[".b*"]).unwrap()), [".b.jsonl"]);
    }

    #[test]
    fn subdirectories_with_data_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for part in ["repo/data", "repo/.git/x", "repo/default/test"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
            files(&dir.path().join(part), &["train-00000-of-00001.jsonl", "z.jsonl"]);
        }
        let message = resolve_in(dir.path(), &["repo"]).unwrap_err().to_string();
        for part in ["subdirectories do (", "data/train-00000-of-00001.jsonl, ", "default/test/train-"] {
            assert!(message.contains(part) && !message.contains(".git"), "{part}: {message}");
        }
        files(&dir.path().join("repo"), &["a.jsonl"]);
        assert_eq!(names(&resolve_in(dir.path(), &["repo"]).unwrap()), ["a.jsonl"]);
    }

    #[test]
    fn a_set_of_shards_is_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        files(dir.path(), &["t-00000-of-00003.jsonl", "t-00002-of-00003.jsonl"]);
        for source in ["", "t-*.jsonl"] {
            let message = resolve_in(dir.path(), &[source]).unwrap_err().to_string();
            assert!(message.contains("t-00001-of-00003 is missing"), "{message}");
        }
        for source in ["t-0000[02]-*.jsonl", "t-00000-of-00003.jsonl", "*-00002-*"] {
            assert!(resolve_in(dir.path(), &[source]).is_ok(), "{source}");
        }
    }

    #[test]
    fn text_in_memory_has_origins_too() {
        let rows: Result<Vec<Row>> =
            Input::text("quickstart", "{\"a\":1}\n\n{\"a\":2}\n").rows().unwrap().collect();
        assert_eq!(rows.unwrap()[1].origin.to_string(), "quickstart:3");
    }
}
