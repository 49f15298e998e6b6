//! `dpo-lora cache`: what the program keeps outside of run directories, and how to remove it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::{print_json, print_text, say};
use crate::cli::{CacheArgs, CacheCommand};
use crate::error::{Error, Result};
use crate::files;

/// The parts of the cache: prefix of the directory's name, and what is in it.
const PARTS: &[(&str, &str)] = &[
    ("reference", "reference log-probs of pairs; computed again when needed"),
    ("data", "tokenized data of more than 64 MB, and hashes of data files"),
    ("fingerprints", "fingerprints of bases"),
    ("tiny-reviews", "the embedded base and its pairs, unpacked"),
];

/// What an entry holds that another version, or another program, wrote.
const UNKNOWN: &str = "not known to this version";

/// The object of `--json`.
#[derive(Serialize)]
struct Found {
    directory: String,
    bytes: u64,
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    name: String,
    bytes: u64,
    files: usize,
    holds: &'static str,
    #[serde(skip)]
    path: PathBuf,
}

pub(super) fn run(args: &CacheArgs) -> Result<()> {
    let directory = files::cache_directory().ok_or_else(|| {
        Error::Config("there is no cache: neither XDG_CACHE_HOME nor HOME is an absolute path".into())
    })?;
    let found = found(&directory)?;
    match &args.command {
        Some(CacheCommand::Clear { .. }) if args.json => Err(Error::Config(
            "--json applies to the list of the cache, not to `cache clear`; leave it out".into(),
        )),
        Some(CacheCommand::Clear { parts }) => clear(&found, parts),
        None if args.json => print_json(&found),
        None => print_text(&table(&found)),
    }
}

fn found(directory: &Path) -> Result<Found> {
    let mut paths = match std::fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<PathBuf>>>()
            .map_err(Error::read(directory))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Error::read(directory)(e)),
    };
    paths.sort();
    let part = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let known = PARTS.iter().find(|(prefix, _)| name.starts_with(prefix));
        let holds = known.map_or(UNKNOWN, |(_, holds)| *holds);
        Part { bytes: files::size(&path), files: count(&path), holds, name, path }
    };
    let parts: Vec<Part> = paths.into_iter().map(part).collect();
    let bytes = parts.iter().map(|part| part.bytes).sum();
    Ok(Found { directory: directory.display().to_string(), bytes, parts })
}

/// Files within a path; a link is one file.
fn count(path: &Path) -> usize {
    if !path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return 1;
    }
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| count(&entry.path())).sum()
}

fn table(found: &Found) -> String {
    let size = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let width = found.parts.iter().map(|part| part.name.len()).max().unwrap_or(0);
    let mut text = format!("{} ({})\n", found.directory, size(found.bytes));
    for Part { name, bytes, files, holds, .. } in &found.parts {
        text.push_str(&format!("{name:width$} {:>10} {files:>6} files  {holds}\n", size(*bytes)));
    }
    text.push_str(if found.parts.is_empty() {
        "the cache is empty\n"
    } else {
        "remove it with: dpo-lora cache clear [NAME]...; models of the Hub are in the Hub's own cache\n"
    });
    text
}

/// Removes the named parts, or all that this version knows: these can be made again.
fn clear(found: &Found, names: &[String]) -> Result<()> {
    let known: Vec<&str> = found.parts.iter().map(|part| part.name.as_str()).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Error::Config(format!(
            "the cache holds no {name}; it holds {}",
            if known.is_empty() { "nothing".into() } else { known.join(", ") }
        )));
    }
    let wanted = |part: &Part| {
        if names.is_empty() { part.holds != UNKNOWN } else { names.contains(&part.name) }
    };
    for part in found.parts.iter().filter(|part| wanted(part)) {
        let path = &part.path;
        let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
        let removed = if is_directory { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        removed.map_err(Error::write(path))?;
        say(&format!("removed {} ({:.1} MB)", path.display(), part.bytes as f64 / 1e6));
    }
    Ok(())
}
