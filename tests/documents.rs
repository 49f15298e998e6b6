//! The README and the book agree with the repository: links and paths exist, commands parse, and examples run.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "documents/book.rs"]
mod book;
#[path = "documents/commands.rs"]
mod commands;
#[path = "documents/configuration.rs"]
mod configuration;
#[path = "documents/examples.rs"]
mod examples;
#[path = "documents/trl.rs"]
mod trl;

use std::fs;
use std::path::{Path, PathBuf};

/// The maximum number of lines of the README.
const README_LINES: usize = 150;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the pages of the book, `docs/src/*.md`, sorted.
fn pages() -> Vec<String> {
    let entries = fs::read_dir(root().join("docs/src")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| format!("docs/src/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
    names.retain(|name| name.ends_with(".md"));
    names.sort();
    names
}

/// Returns the README, the guides beside it, and every page of the book.
fn documents() -> Vec<String> {
    let beside = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(String::from);
    beside.into_iter().chain(pages()).collect()
}

/// A code block of a document.
struct Block {
    /// The text after the fence (`yaml`, `console`, ...); empty for an indented block.
    language: String,
    text: String,
}

/// Returns the fenced and the indented code blocks of a document.
fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let (mut is_fenced, mut was_indented) = (false, false);
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            is_fenced = !is_fenced;
            was_indented = false;
            if is_fenced {
                found.push(Block { language: language.trim().into(), text: String::new() });
            }
            continue;
        }
        let indented = if is_fenced { None } else { line.strip_prefix("    ") };
        if indented.is_some() && !was_indented {
            found.push(Block { language: String::new(), text: String::new() });
        }
        was_indented = indented.is_some();
        let code = if is_fenced { Some(line) } else { indented };
        if let (Some(code), Some(block)) = (code, found.last_mut()) {
            block.text.push_str(code);
            block.text.push('\n');
        }
    }
    assert!(!is_fenced, "a code block has no end");
    found
}

/// Returns a document without its fenced and indented code blocks.
fn prose(text: &str) -> String {
    let mut is_fenced = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.starts_with("```") {
            is_fenced = !is_fenced;
        } else if !is_fenced && !line.starts_with("    ") {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines; move text to docs/src");
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let readme = read("README.md");
    // A comment may follow a command.
    let has = |command: &str| readme.lines().any(|line| line.split(" #").next().unwrap().trim() == command);
    let command = "cargo test --release";
    assert!(has(command));
    assert!(read(".ci/run").lines().any(|line| line == command));
    assert!(has("cargo run --release -- train"));
}

#[test]
fn every_family_is_in_the_book() {
    let page = read("docs/src/models.md");
    let families = read("src/model/families/mod.rs");
    let names: Vec<&str> =
        families.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next()).collect();
    assert!(names.len() >= 15, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/src/models.md does not name {missing:?}");
}

/// Returns the files and folders of the repository that prose names in code spans, such as `tests/faults`.
#[test]
fn every_path_that_a_document_names_exists() {
    const TOP: [&str; 8] = ["src/", "tests/", "examples/", "configs/", "adapters/", "docs/", "fuzz/", ".ci/"];
    // Made by a run of something, not committed.
    const MADE: [&str; 1] = ["fuzz/state"];
    let mut missing = Vec::new();
    for document in documents() {
        let text = prose(&read(&document));
        for word in text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace) {
            let is_path = TOP.iter().any(|top| word.starts_with(top));
            let is_pattern = word.contains("NAME") || word.contains('*') || word.contains('{');
            if is_path && !is_pattern && !MADE.contains(&word) && !root().join(word).exists() {
                missing.push(format!("{document} names {word}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn blocks_and_prose_are_told_apart() {
    let text = "a `src/x`\n\n    one\n    two\n\n```yaml\nthree: 3\n    four: 4\n```\nb\n";
    let found: Vec<(String, String)> =
        blocks(text).into_iter().map(|block| (block.language, block.text)).collect();
    let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
    assert_eq!(found, [pair("", "one\ntwo\n"), pair("yaml", "three: 3\n    four: 4\n")]);
    assert_eq!(prose(text), "a `src/x`\n\n\nb\n");
}

fn folder_of(document: &str) -> PathBuf {
    root().join(document).parent().unwrap().to_path_buf()
}
