//! What the documents say is what the repository does.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let command = "cargo test --release";
    assert!(read("README.md").lines().any(|line| line.trim() == command));
    assert!(read(".ci/run").lines().any(|line| line == command));
    assert!(read("README.md").lines().any(|line| line.trim() == "cargo run --release -- train"));
}

#[test]
fn every_path_that_a_document_links_to_is_there() {
    for document in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = read(document);
        // `](target)` of Markdown links, without those that leave the repository or stay on the page.
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let path = target.split('#').next().unwrap();
            let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists();
            assert!(there, "{document} links to {target}, which is not there");
        }
    }
}

#[test]
fn the_readme_names_every_family() {
    let readme = read("README.md");
    let families = read("src/model/families/mod.rs");
    let names: Vec<&str> =
        families.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next()).collect();
    assert!(names.len() >= 15, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "the README does not name {missing:?}");
}

#[test]
fn the_readme_names_every_command() {
    use clap::CommandFactory;
    let readme = read("README.md");
    for command in dpo_lora::cli::Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        assert!(readme.contains(&format!("dpo-lora {name}")), "the README does not say what {name} does");
    }
}
