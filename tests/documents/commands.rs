//! Every command line in the documents parses, and every `--set` names a key.

use dpo_lora::RunConfig;
use dpo_lora::command_line;

use super::{blocks, documents, read};

/// Returns the words of a command line, split like in a shell, up to a comment, a redirection or another command.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut quote, mut is_inside) = (None, false);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                if !is_inside {
                    words.push(String::new());
                }
                is_inside = true;
            }
            (None, ' ') => is_inside = false,
            (None, '#') if !is_inside => break,
            (None, '>' | '|' | ';' | '&') => break,
            (_, c) => {
                if !is_inside {
                    words.push(String::new());
                }
                is_inside = true;
                words.last_mut().unwrap().push(c);
            }
        }
    }
    assert_eq!(quote, None, "a quote has no end: {line}");
    words
}

/// Returns the program's arguments on a line of a code block, if it runs the program.
fn arguments(line: &str) -> Option<Vec<String>> {
    let line = line.trim().trim_start_matches("$ ");
    let rest = ["dpo-lora ", "cargo run --release -- "].iter().find_map(|start| line.strip_prefix(start))?;
    Some(words(rest))
}

/// Returns the document and the arguments of every command line.
fn command_lines() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for document in documents() {
        for block in blocks(&read(&document)) {
            found.extend(block.text.lines().filter_map(arguments).map(|words| (document.clone(), words)));
        }
    }
    found
}

#[test]
fn every_command_line_parses() {
    let lines = command_lines();
    assert!(lines.len() > 40, "{}", lines.len());
    let mut wrong = Vec::new();
    for (document, words) in lines {
        if let Err(error) = command_line()
            .try_get_matches_from(std::iter::once("dpo-lora").chain(words.iter().map(String::as_str)))
        {
            let first = error.to_string().lines().next().unwrap_or_default().to_string();
            wrong.push(format!("{document}: dpo-lora {}: {first}", words.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_set_names_a_key_and_gives_it_a_valid_value() {
    let base = "model: {base: b}\ndata: {train: d, eval: e}\ntrain: {eval_steps: 1}\n";
    let mut seen = 0;
    for (document, words) in command_lines() {
        let program = std::iter::once("dpo-lora").chain(words.iter().map(String::as_str));
        let Ok(found) = command_line().try_get_matches_from(program) else { continue };
        let Some(("train", train)) = found.subcommand() else { continue };
        let overrides: Vec<String> = train.get_many("overrides").into_iter().flatten().cloned().collect();
        // The page on troubleshooting shows what is refused; its examples are run.
        if overrides.is_empty() || document.ends_with("troubleshooting.md") {
            continue;
        }
        seen += 1;
        let read = RunConfig::from_yaml(base, &document, &overrides);
        assert!(read.is_ok(), "{document}: {:?}: {}", overrides, read.unwrap_err());
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn every_command_is_in_the_book() {
    let page = read("docs/src/commands.md");
    for command in command_line().get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        let row = format!("| `dpo-lora {name}");
        assert!(page.contains(&row), "docs/src/commands.md has no row for {name}");
    }
}

#[test]
fn lines_are_split_as_a_shell_does() {
    assert_eq!(words("a 'b c' --d=\"e f\"g # h"), ["a", "b c", "--d=e fg"]);
    assert_eq!(words("a > b"), ["a"]);
    assert_eq!(words("x=a#b"), ["x=a#b"]);
    assert_eq!(arguments("$ dpo-lora train -c x").unwrap(), ["train", "-c", "x"]);
    assert!(arguments("vllm serve").is_none());
}
