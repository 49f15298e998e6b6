//! The rules of the code's structure: imports go down the ranks, files are short, and `unsafe` is only in listed files.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fancy_regex::Regex;

use circles::Graph;

#[path = "architecture/circles.rs"]
mod circles;

/// The ranks of the rooms. A room imports only rooms of lower ranks.
const RANKS: &[(&str, u8)] = &[
    ("error", 0),
    ("files", 0),
    ("http", 0),
    ("random", 0),
    ("device", 1),
    ("ranks", 1),
    ("report", 1),
    ("hub", 2),
    ("objective", 2),
    ("weights", 2),
    ("data", 3),
    ("ops", 3),
    ("trainable", 4),
    ("model", 5),
    ("adapter", 6),
    ("generate", 6),
    ("collect", 7),
    ("eval", 7),
    ("judge", 7),
    ("reward", 7),
    ("rollout", 7),
    ("train", 8),
    ("config", 9),
    ("toolkit", 10),
    ("cli", TOP),
    ("commands", TOP),
];

/// The rank of the program itself, whose rooms may import each other and everything else.
const TOP: u8 = 11;

/// Allowed imports within a rank: every room uses `error`.
const WITHIN_RANK: &[(&str, &str)] = &[("files", "error"), ("http", "error")];

/// The files that may contain `unsafe`: memory maps, the allocator, vector and tile instructions, and NVIDIA's libraries.
const UNSAFE: &[&str] = &[
    "adapter/peft/read.rs",
    "data/dataset/file.rs",
    "device/cuda/backend.rs",
    "device/cuda/survey.rs",
    "device/cuda.rs",
    "device/ffi.rs",
    "device/host.rs",
    "device/linked.rs",
    "device/products/offers.rs",
    "device/products.rs",
    "main.rs",
    "ops/gemm/amx.rs",
    "ops/gemm/amx_emulated.rs",
    "ops/gemm/amx_pack.rs",
    "ops/gemm/amx_row.rs",
    "ops/gemm/amx_rows.rs",
    "ops/gemm/avx2.rs",
    "ops/gemm/avx2_pack.rs",
    "ops/gemm/avx512.rs",
    "ops/gemm/avx512_pack.rs",
    "ops/gemm/fixed.rs",
    "ops/gemm/fixed_avx2.rs",
    "ops/gemm/fixed_chunk.rs",
    "ops/gemm/fixed_chunk_avx2.rs",
    "ops/gemm/fixed_chunk_avx512.rs",
    "ops/gemm/fixed_pack_avx2.rs",
    "ops/gemm/fixed_row.rs",
    "ops/gemm/fixed_row_bf16.rs",
    "ops/gemm/kernel.rs",
    "ops/gemm/mod.rs",
    "ops/gemm/neon.rs",
    "ops/gemm/neon_bf16.rs",
    "ops/gemm/neon_i8mm.rs",
    "ops/gemm/one_row.rs",
    "ops/gemm/packed.rs",
    "ops/gemm/panels.rs",
    "ops/gemm/quantised.rs",
    "ops/gemm/quantised_avx2.rs",
    "ops/gemm/quantised_avx512.rs",
    "ops/gemm/quantised_rows.rs",
    "ops/gemm/row_chunks.rs",
    "ops/gemm/strip.rs",
    "ops/gemm/task.rs",
    "ops/gemm/tile.rs",
    "ops/host.rs",
    "ops/simd.rs",
    "ops/tree_attention/tiles/squares.rs",
    "ranks/mpi.rs",
    "weights/frozen.rs",
    "weights/gguf/file.rs",
    "weights/safetensors.rs",
];

const LONGEST: usize = 400;

/// The number of public names at the crate's root, including modules.
const MOST_EXPORTS: usize = 60;

struct Source {
    /// The path below `src`, with `/`.
    name: String,
    /// The code without comments and tests.
    code: String,
    /// The number of lines before the tests.
    lines: usize,
}

impl Source {
    /// Returns the first part of the path: `data` of `data/pack.rs`, `config` of `config.rs`.
    fn room(&self) -> &str {
        self.name.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// Returns the number of modules between the crate's root and this file.
    fn depth(&self) -> usize {
        self.name.split('/').filter(|part| *part != "mod.rs").count()
    }
}

fn sources() -> Vec<Source> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    // A file named by `#[cfg(test)] mod tests;` consists of tests only, and so do its modules.
    let test_modules: BTreeSet<PathBuf> = paths
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let home = match path.file_stem().unwrap().to_str().unwrap() {
                "mod" | "lib" | "main" => path.parent().unwrap().to_path_buf(),
                stem => path.with_file_name(stem),
            };
            let names: Vec<String> = captures(r"#\[cfg\(test\)\]\s+(?:pub(?:\(\w+\))? )?mod (\w+);", &text);
            names.into_iter().map(move |name| home.join(name + ".rs"))
        })
        .collect();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let whole = before_tests(&text);
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        Source { name, code: without_comments(whole), lines: whole.lines().count() }
    };
    let is_test = |path: &Path| {
        test_modules.iter().any(|file| path == file || path.starts_with(file.with_extension("")))
    };
    paths.iter().filter(|path| !is_test(path)).map(read).collect()
}

fn captures(pattern: &str, text: &str) -> Vec<String> {
    let regex = Regex::new(pattern).unwrap();
    regex.captures_iter(text).map(|found| found.unwrap().get(1).unwrap().as_str().to_string()).collect()
}

/// Returns the text before the test module that ends a file.
fn before_tests(text: &str) -> &str {
    let end = Regex::new(r"#\[cfg\([^\]]*\btest\b[^\]]*\)\]\s+(?:pub(?:\(\w+\))? )?mod \w+ \{")
        .unwrap()
        .find(text)
        .unwrap();
    end.map_or(text, |end| &text[..end.start()])
}

fn without_comments(text: &str) -> String {
    let code = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    code.collect::<Vec<_>>().join("\n")
}

/// Returns the rooms that code names as `crate::room`, also in groups (`use crate::{a, b::{c, d}}`).
fn imports(code: &str) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = captures(r"\bcrate::(\w+)", code).into_iter().collect();
    for group in code.split("crate::{").skip(1) {
        let (mut depth, mut begins) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                _ if begins && c.is_alphanumeric() => {
                    let name = group[at..].split(|c: char| !c.is_alphanumeric() && c != '_').next();
                    found.extend(name.map(String::from));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn rank(room: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank)
}

/// Returns whether `room` may import `other`.
fn allowed(room: &str, other: &str) -> bool {
    match (rank(room), rank(other)) {
        _ if room == other || WITHIN_RANK.contains(&(room, other)) => true,
        (Some(TOP), Some(_)) => true,
        (Some(room), Some(other)) => other < room,
        _ => false,
    }
}

#[test]
fn rooms_import_lower_ranks_only() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !["lib.rs", "main.rs"].contains(&source.name.as_str())) {
        for other in imports(&source.code) {
            if !allowed(source.room(), &other) {
                wrong.push(format!("{} imports {other}", source.name));
            }
        }
        // `super::super::x` would evade the check.
        let chains = captures(r"((?:\bsuper::)+)", &source.code);
        if chains.iter().any(|chain| chain.matches("super::").count() >= source.depth()) {
            wrong.push(format!("{} leaves its room by super::", source.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let graph = Graph::new(sources.iter().map(|source| (source.name.as_str(), source.code.as_str())));
    let circles = graph.circles();
    assert!(circles.is_empty(), "move what they share into a file of its own: {circles:#?}");
}

#[test]
fn circles_are_found_however_they_are_written() {
    let circles = |files: &[(&'static str, &'static str)]| Graph::new(files.iter().copied()).circles();
    let below =
        [("a/mod.rs", "mod b;\npub mod c;\npub use b::B;"), ("a/b.rs", "use super::c::C;"), ("a/c.rs", "")];
    assert_eq!(circles(&below), [""; 0]);
    for (user, used) in [
        ("use super::c::C;", "use crate::a::b::B;"),
        ("use super::{d, c::{C, D}};", "fn f() -> super::b::B {}"),
        // Through the parent, which only re-exports it.
        ("use super::c::C as D;", "use crate::a::B;"),
        ("fn f() { crate::a::c::f() }", "use super::{B, d};"),
    ] {
        let circular =
            [("a/mod.rs", "mod b;\npub mod c;\npub use b::B;"), ("a/b.rs", user), ("a/c.rs", used)];
        assert_eq!(circles(&circular), ["a/b -> a/c -> a/b"], "{user} {used}");
    }
    // A parent and its child, a function of which the parent calls.
    let parent = [("a.rs", "mod b;\nfn f() { b::f() }"), ("a/b.rs", "use super::f;")];
    assert_eq!(circles(&parent), ["a -> a/b -> a"]);
    // Across rooms, and a longer one.
    let rooms = [
        ("a.rs", "use crate::b::X;"),
        ("b.rs", "use crate::c;"),
        ("c.rs", "pub(in crate::d) use crate::a::Y;"),
        ("d.rs", ""),
    ];
    assert_eq!(circles(&rooms), ["a -> b -> c -> a"]);
    // Visibility and renaming are not imports.
    let strangers = [("a.rs", "use serde::b;\npub(in crate::b) struct B;"), ("b.rs", "use crate::a::B;")];
    assert_eq!(circles(&strangers), [""; 0]);
}

/// Returns the public names at a crate's root.
fn exports(code: &str) -> Vec<String> {
    let mut found = captures(
        r"\bpub (?:async |const |unsafe )*(?:mod|fn|struct|enum|trait|type|const|static|union) (\w+)",
        code,
    );
    found.extend(captures(r"\bmacro_rules! (\w+)", code));
    found.extend(circles::uses(code).into_iter().filter(|used| used.exported).map(|used| used.path));
    found
}

#[test]
fn the_crate_exports_few_names() {
    let root = sources().into_iter().find(|source| source.name == "lib.rs").unwrap();
    let found = exports(&root.code);
    assert!(found.len() <= MOST_EXPORTS, "{} names are too many to learn: {found:#?}", found.len());
    assert!(
        found.iter().any(|name| name == "train") && found.iter().any(|name| name.ends_with("TrainConfig"))
    );
    let code =
        "pub mod a;\nmod b;\npub use a::{B, c::{D, E as F}};\nuse a::G;\npub const fn h() {}\npub struct I;";
    assert_eq!(exports(code), ["a", "h", "I", "a::B", "a::c::D", "a::c::E as F"]);
}

#[test]
fn every_room_has_a_rank() {
    let rooms: BTreeSet<String> = sources().iter().map(|source| source.room().to_string()).collect();
    let unranked: Vec<_> = rooms
        .iter()
        .filter(|room| rank(room).is_none() && !["lib", "main"].contains(&room.as_str()))
        .collect();
    assert!(unranked.is_empty(), "{unranked:?}");
}

#[test]
fn files_are_short() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|source| source.lines > LONGEST)
        .map(|source| format!("{}: {} lines without tests", source.name, source.lines))
        .collect();
    assert!(long.is_empty(), "over {LONGEST} lines there is a second responsibility: {long:#?}");
}

#[test]
fn unsafe_stands_where_it_is_named() {
    let regex = Regex::new(r"\bunsafe\s*(\{|fn|impl|extern)").unwrap();
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|source| regex.is_match(&source.code).unwrap())
        .map(|source| source.name)
        .collect();
    assert_eq!(found, UNSAFE);
}

#[test]
fn nothing_unwraps() {
    let unwraps: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.code.contains(".unwrap()"))
        .map(|source| source.name)
        .collect();
    assert!(unwraps.is_empty(), "{unwraps:?}");
}

#[test]
fn the_scanner_sees_what_it_should() {
    let code = "use crate::{model::{a, b::{c}}, train};\nfn f() { $crate::ops::g(crate::error::E) }";
    let found = imports(&without_comments(&format!("{code} // crate::cli\n")));
    assert_eq!(found, ["error", "model", "ops", "train"].map(String::from).into());
    assert_eq!(before_tests("a\n#[cfg(test)]\nmod tests {\n b }"), "a\n");
    assert_eq!(before_tests("#[cfg(test)]\nmod tests;\nfn f() {}"), "#[cfg(test)]\nmod tests;\nfn f() {}");
    for (room, other) in [("data", "config"), ("train", "config"), ("ops", "data"), ("eval", "nowhere")] {
        assert!(!allowed(room, other), "{room} {other}");
    }
    for (room, other) in [("cli", "model"), ("commands", "cli"), ("data", "data"), ("files", "error")] {
        assert!(allowed(room, other), "{room} {other}");
    }
}
