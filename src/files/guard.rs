//! What a command reads, and what it has written before, so that its outputs take the place of nothing else.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::{behind_links, is_special};
use crate::error::{Error, Result};

/// The bytes at the beginning of a file by which its kind is recognised.
const HEAD: u64 = 8 << 10;

/// The names that a message lists.
const TOLD: usize = 3;

/// The files and directories that a command reads. Its outputs are checked against them before the work.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    inputs: Vec<Input>,
}

/// A file or directory that is read.
#[derive(Clone, Debug)]
struct Input {
    /// What a message calls it, such as `the base`.
    what: String,
    /// Its path as it was named.
    named: PathBuf,
    /// Its place, links resolved.
    place: PathBuf,
}

impl Guard {
    /// Adds an input that a message calls `what`, with the files that links in a directory lead to. What is not on this
    /// machine is left out.
    pub fn add(&mut self, what: &str, path: &Path) {
        let Ok(place) = fs::canonicalize(path) else { return };
        let entries = fs::read_dir(&place).into_iter().flatten().flatten().map(|entry| entry.path());
        let linked = entries.filter(|entry| entry.is_symlink() && entry.is_file());
        let linked: Vec<PathBuf> = linked.filter_map(|entry| fs::canonicalize(entry).ok()).collect();
        for place in std::iter::once(place).chain(linked) {
            self.inputs.push(Input { what: what.into(), named: path.into(), place });
        }
    }

    /// Adds the files of a source of data: a file, those of a directory, or those of a glob.
    pub fn add_data(&mut self, source: &str) {
        let path = Path::new(source);
        let files: Vec<PathBuf> = if path.is_dir() {
            let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
            entries.filter(|entry| entry.is_file()).collect()
        } else if path.exists() {
            vec![path.to_path_buf()]
        } else {
            glob::glob(source).into_iter().flatten().flatten().collect()
        };
        files.iter().for_each(|file| self.add("one of the inputs", file));
    }

    /// Refuses an output file that is an input or a directory. Devices and pipes pass.
    ///
    /// # Errors
    /// [`Error::Config`] with the output and the input.
    pub fn check_file(&self, output: &Path) -> Result<()> {
        if is_special(output) {
            return Ok(());
        }
        let shown = output.display();
        if output.is_dir() {
            return Err(Error::Config(format!("the output {shown} is a directory; name a file")));
        }
        let place = place_of(output);
        self.inputs.iter().find(|input| input.place == place).map_or(Ok(()), |input| {
            Err(Error::Config(format!("the output {shown} is {}; name another file", input.what)))
        })
    }

    /// Refuses an output directory, which is replaced as a whole, if it is an input or contains one.
    ///
    /// # Errors
    /// [`Error::Config`] with the output and the input.
    pub fn check_directory(&self, output: &Path) -> Result<()> {
        let place = place_of(output);
        self.inputs.iter().find(|input| input.place.starts_with(&place)).map_or(Ok(()), |input| {
            Err(Error::Config(format!(
                "the output {} is {} or contains it ({}); name another directory",
                output.display(),
                input.what,
                input.named.display()
            )))
        })
    }

    /// Refuses a directory in which these files are written, if it or one of them is an input.
    ///
    /// # Errors
    /// [`Error::Config`] with the output and the input.
    pub fn check_folder(&self, output: &Path, files: &[&str]) -> Result<()> {
        let place = place_of(output);
        if let Some(input) = self.inputs.iter().find(|input| input.place == place) {
            return Err(Error::Config(format!(
                "the output {} is {}; name another directory",
                output.display(),
                input.what
            )));
        }
        files.iter().try_for_each(|file| self.check_file(&output.join(file)))
    }
}

/// Refuses to replace a file that is not `what`, as `is_result` tells by its first bytes. What is not there, an empty file, a
/// device and a pipe pass.
///
/// # Errors
/// [`Error::Config`] if it is another file; or if it cannot be read.
pub fn check_earlier(output: &Path, what: &str, is_result: impl FnOnce(&[u8]) -> bool) -> Result<()> {
    if !output.exists() || is_special(output) {
        return Ok(());
    }
    let mut head = Vec::new();
    let file = File::open(output).map_err(Error::read(output))?;
    file.take(HEAD).read_to_end(&mut head).map_err(Error::read(output))?;
    if head.is_empty() || is_result(&head) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "the output {} exists and is not {what}, so it is not replaced; name another file, or remove it first",
        output.display()
    )))
}

/// Refuses to replace a directory that holds more than the parts of `what`. `is_part` tells of a path in it, also of that of a
/// directory.
///
/// # Errors
/// [`Error::Config`] with the first names of what is no part; or if the directory cannot be read.
pub fn check_parts(directory: &Path, what: &str, is_part: &dyn Fn(&Path) -> bool) -> Result<()> {
    let mut others = Vec::new();
    collect_others(directory, Path::new(""), is_part, &mut others)?;
    others.sort();
    if others.is_empty() {
        return Ok(());
    }
    let more = if others.len() > TOLD { ", ..." } else { "" };
    others.truncate(TOLD);
    Err(Error::Config(format!(
        "the output {} would be replaced as a whole, and holds what is no part of {what}: {}{more}; name another directory, \
         or move that away",
        directory.display(),
        others.join(", ")
    )))
}

/// Adds the names of what is no part; a directory that is none is not searched.
fn collect_others(
    root: &Path,
    below: &Path,
    is_part: &dyn Fn(&Path) -> bool,
    others: &mut Vec<String>,
) -> Result<()> {
    let here = root.join(below);
    for entry in fs::read_dir(&here).map_err(Error::read(&here))? {
        let entry = entry.map_err(Error::read(&here))?;
        let at = below.join(entry.file_name());
        if !is_part(&at) {
            others.push(at.display().to_string());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_others(root, &at, is_part, others)?;
        }
    }
    Ok(())
}

/// The place that a path leads to, links resolved, whether or not anything is there.
fn place_of(path: &Path) -> PathBuf {
    let path = behind_links(path);
    let path = std::path::absolute(&path).unwrap_or(path);
    for here in path.ancestors() {
        let (Ok(real), Ok(rest)) = (fs::canonicalize(here), path.strip_prefix(here)) else { continue };
        // What is not there has no links, so that `..` is the name before it.
        let (mut place, mut turned) = (real, false);
        for part in rest.components() {
            if part == Component::ParentDir {
                turned = true;
                place.pop();
            } else {
                place.push(part);
            }
        }
        return if turned { place_of(&place) } else { place };
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place with a base, an adapter in it, and data.
    fn place() -> (tempfile::TempDir, Guard) {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("models/base/adapter")).unwrap();
        fs::create_dir_all(at("data")).unwrap();
        for name in ["models/base/config.json", "blob", "data/a.jsonl", "data/b.csv"] {
            fs::write(at(name), "x").unwrap();
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../../blob", at("models/base/model.safetensors")).unwrap();
            std::os::unix::fs::symlink("models/base", at("link")).unwrap();
            std::os::unix::fs::symlink("models/base/new.json", at("to-be")).unwrap();
        }
        let mut guard = Guard::default();
        guard.add("the base", &at("models/base"));
        guard.add("the adapter", &at("nowhere"));
        guard.add_data(at("data/*.jsonl").to_str().unwrap());
        (place, guard)
    }

    #[test]
    fn files_that_are_read_are_no_outputs() {
        let (place, mut guard) = place();
        let refused = |guard: &Guard, name: &str| {
            guard.check_file(&place.path().join(name)).map_err(|e| e.to_string()).err().unwrap_or_default()
        };
        for (name, words) in [
            ("data/a.jsonl", "is one of the inputs; name another file"),
            ("data/none/../a.jsonl", "is one of the inputs"),
            ("models", "is a directory; name a file"),
            #[cfg(unix)]
            ("blob", "is the base; name another file"),
            #[cfg(unix)]
            ("link/model.safetensors", "is the base; name another file"),
        ] {
            assert!(refused(&guard, name).contains(words), "{name}: {}", refused(&guard, name));
        }
        for name in
            ["data/b.csv", "data/new.jsonl", "models/base/new.json", "models/base2/config.json", "nowhere"]
        {
            assert_eq!(refused(&guard, name), "", "{name}");
        }
        guard.check_file(Path::new("/dev/null")).unwrap();
        guard.add_data(place.path().join("data").to_str().unwrap());
        assert!(refused(&guard, "data/b.csv").contains("is one of the inputs"));
    }

    #[test]
    fn directories_that_are_or_contain_what_is_read_are_not_replaced() {
        let (place, guard) = place();
        let at = |name: &str| place.path().join(name);
        for name in ["models/base", "models", "", "data", "models/base/adapter/.."] {
            let error = guard.check_directory(&at(name)).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains("or contains it"),
                "{name}: {error}"
            );
        }
        for name in ["models/base/adapter", "models/new", "new"] {
            guard.check_directory(&at(name)).unwrap();
        }
        for (name, is_fine) in [("models/base", false), ("models/base/new", true), ("models", true)] {
            assert_eq!(guard.check_folder(&at(name), &["a.csv"]).is_ok(), is_fine, "{name}");
        }
        for (file, is_fine) in [("a.jsonl", false), ("b.csv", true)] {
            assert_eq!(guard.check_folder(&at("data"), &[file]).is_ok(), is_fine, "{file}");
        }
    }

    #[test]
    fn only_earlier_results_are_replaced() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("page");
        let check = || check_earlier(&path, "a page", |head| head.starts_with(b"<page"));
        check().unwrap();
        for (bytes, is_fine) in [("", true), ("<page>", true), ("notes", false)] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(check().is_ok(), is_fine, "{bytes}");
        }
        assert!(check().unwrap_err().to_string().contains("exists and is not a page"));
        check_earlier(Path::new("/dev/null"), "a page", |_| false).unwrap();
    }

    #[test]
    fn directories_are_replaced_that_hold_nothing_else() {
        let (place, _) = place();
        let models = place.path().join("models");
        let refused = |parts: &[&str]| {
            let is_part = |path: &Path| parts.iter().any(|part| Path::new(part).starts_with(path));
            check_parts(&models, "a test", &is_part).map_err(|e| e.to_string()).err().unwrap_or_default()
        };
        let all = ["base/config.json", "base/adapter", "base/model.safetensors"];
        assert_eq!(refused(&all), "");
        let found = refused(&all[..1]);
        assert!(found.contains("no part of a test: base/adapter"), "{found}");
        assert!(refused(&[]).contains("no part of a test: base; name another directory"));
    }
}
