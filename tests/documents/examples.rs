//! Runs every `console` block of the book. Lines after `$ ` are commands, and the others are their output, in which
//! `...` matches any text. The blocks of a page share a directory, in which the quickstart has already run.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{blocks, pages, read, root};

/// A command and its expected output.
struct Example {
    command: String,
    printed: String,
}

fn examples(page: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    for block in blocks(&read(page)).into_iter().filter(|block| block.language == "console") {
        for line in block.text.lines() {
            match (line.strip_prefix("$ "), found.last_mut()) {
                (Some(command), _) => found.push(Example { command: command.into(), printed: String::new() }),
                (None, Some(last)) => {
                    last.printed.push_str(line);
                    last.printed.push('\n');
                }
                (None, None) => panic!("{page}: a console block begins with output"),
            }
        }
    }
    found
}

/// Whether `text` matches `pattern`, in which `...` matches any text.
fn matches(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.trim().split("...");
    let Some(mut rest) = text.trim().strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Runs a shell command with the program in its path, and returns its output on both streams.
fn run(command: &str, place: &Path) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_dpo-lora")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(program.to_path_buf()).chain(std::env::split_paths(&path)));
    let output = Command::new("sh")
        .args(["-c", &format!("{{ {command}\n}} 2>&1")])
        .current_dir(place)
        .env("PATH", path.unwrap())
        .env("XDG_CACHE_HOME", place.join("cache"))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The weights of the finished adapter, which is older than notes of the loss, with the note that the quickstart writes.
fn with_objective(weights: &[u8]) -> Vec<u8> {
    let (length, rest) = weights.split_first_chunk::<8>().unwrap();
    let (header, numbers) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
    header["__metadata__"]["dpo_lora.objective"] = r#"{"loss_type":"sigmoid","beta":0.5}"#.into();
    // The numbers begin at a multiple of 8 bytes.
    let header = header.to_string();
    let header = format!("{header:width$}", width = header.len().next_multiple_of(8));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), numbers].concat()
}

#[test]
fn every_console_block_prints_what_it_says() {
    let mut seen = 0;
    for page in pages() {
        let examples = examples(&page);
        if examples.is_empty() {
            continue;
        }
        let place = tempfile::tempdir().unwrap();
        let adapter = place.path().join("runs/quickstart/adapter");
        fs::create_dir_all(&adapter).unwrap();
        let from = root().join("adapters/tiny-reviews-favourable");
        fs::copy(from.join("adapter_config.json"), adapter.join("adapter_config.json")).unwrap();
        let weights = fs::read(from.join("adapter_model.safetensors")).unwrap();
        fs::write(adapter.join("adapter_model.safetensors"), with_objective(&weights)).unwrap();
        for Example { command, printed } in examples {
            seen += 1;
            let got = run(&command, place.path());
            assert!(matches(&got, &printed), "{page}: $ {command}\nprinted\n{got}\ninstead of\n{printed}");
        }
    }
    assert!(seen >= 20, "{seen}");
}

#[test]
fn dots_stand_for_any_text() {
    assert!(matches("a b c\n", "a ... c") && matches("a\nb\nc", "a\n...\nc") && matches("x", "..."));
    assert!(matches("abc", "abc") && matches("abab", "a...b") && matches("", ""));
    for (text, pattern) in [("abc", "ab"), ("abc", "b..."), ("abc", "...b"), ("ac", "a...b...c"), ("", "a")] {
        assert!(!matches(text, pattern), "{text} {pattern}");
    }
}
