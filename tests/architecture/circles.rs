//! Finds the imports of each file, and circles among them.
//!
//! File `a` imports file `b` if a path in `a` leads into `b`, in a `use` or elsewhere. A re-exported name leads to its
//! definition. Declaring or re-exporting a child is not an import of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fancy_regex::Regex;

/// A `use` at the beginning of a line: whether it is exported, and its paths. The anchor excludes the word in texts.
const USE: &str = r"(?m)^[ \t]*(pub(?:\([^)]*\))?\s+)?use ([\w:{},*$\s]+);";

/// The imports of files, by module path such as `data/pack`.
pub struct Graph<'a> {
    code: BTreeMap<String, &'a str>,
    /// The re-exported names of each module, with their paths.
    exports: BTreeMap<String, BTreeMap<String, String>>,
    imports: BTreeMap<String, BTreeSet<String>>,
}

/// A path in a `use`.
pub struct Used {
    pub path: String,
    /// Whether it is a `pub use`.
    pub exported: bool,
}

impl<'a> Graph<'a> {
    /// Creates the graph of files, given their names below `src` and their code without comments and tests. `lib.rs`
    /// and `main.rs` are not part of it.
    pub fn new(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let of = |name: &str| name.trim_end_matches(".rs").trim_end_matches("/mod").to_string();
        let code: BTreeMap<String, &str> = files
            .into_iter()
            .filter(|(name, _)| !["lib.rs", "main.rs"].contains(name))
            .map(|(name, code)| (of(name), code))
            .collect();
        let mut graph = Self { code, exports: BTreeMap::new(), imports: BTreeMap::new() };
        let mut exports = BTreeMap::<String, BTreeMap<String, String>>::new();
        for (module, code) in &graph.code {
            for used in uses(code).into_iter().filter(|used| used.exported) {
                let (path, name) = renamed(&used.path);
                exports.entry(module.clone()).or_default().insert(name, path);
            }
        }
        graph.exports = exports;
        graph.imports = graph.code.keys().map(|module| (module.clone(), graph.imports_of(module))).collect();
        graph
    }

    fn imports_of(&self, module: &str) -> BTreeSet<String> {
        let code = self.code[module];
        let mut found = BTreeSet::new();
        for used in uses(code) {
            let target = self.resolve(module, &renamed(&used.path).0);
            let of_child = |target: &String| target.starts_with(&format!("{module}/"));
            found.extend(target.filter(|target| !(used.exported && of_child(target))));
        }
        let elsewhere = Regex::new(&format!(r"{USE}|\bpub\(in [^)]*\)")).unwrap().replace_all(code, "");
        let paths = Regex::new(r"(?<![\w:])\w+(?:::\w+)+").unwrap();
        for path in paths.find_iter(&elsewhere) {
            found.extend(self.resolve(module, path.unwrap().as_str()));
        }
        found.remove(module);
        found
    }

    /// Returns the module that a path in `from` leads to; `None` for other crates and for types.
    fn resolve(&self, from: &str, path: &str) -> Option<String> {
        let mut at = from.to_string();
        let mut parts = path.split("::").peekable();
        match parts.peek()?.trim_start_matches('$') {
            "crate" => {
                at.clear();
                parts.next();
            }
            "self" => {
                parts.next();
            }
            "super" => {
                while parts.next_if_eq(&"super").is_some() {
                    at = at.rsplit_once('/').map_or_else(String::new, |(parent, _)| parent.to_string());
                }
            }
            child if self.code.contains_key(&inner(from, child)) => {}
            _ => return None,
        }
        while let Some(next) = parts.peek().map(|part| inner(&at, part)) {
            if !self.code.contains_key(&next) {
                break;
            }
            at = next;
            parts.next();
        }
        // A re-exported name, unless it is one of the file's own.
        let exported = parts.peek().filter(|_| at != from).and_then(|name| self.exports.get(&at)?.get(*name));
        let defined = exported.and_then(|path| self.resolve(&at, path));
        defined.or(Some(at)).filter(|module| self.code.contains_key(module))
    }

    /// Returns circles as `a -> b -> a`: one for each file that is on any, without repetitions.
    pub fn circles(&self) -> Vec<String> {
        let (mut told, mut circles) = (BTreeSet::new(), Vec::new());
        for module in self.imports.keys() {
            if told.contains(module) {
                continue;
            }
            if let Some(circle) = self.circle(module) {
                circles.push(circle.join(" -> "));
                told.extend(circle);
            }
        }
        circles
    }

    /// Returns the shortest circle through a module.
    fn circle(&self, module: &str) -> Option<Vec<String>> {
        let mut before = BTreeMap::<&str, &str>::new();
        let mut queue = VecDeque::from([module]);
        while let Some(at) = queue.pop_front() {
            for next in self.imports.get(at).into_iter().flatten() {
                if next == module {
                    let mut way = vec![module.to_string(), at.to_string()];
                    let mut at = at;
                    while let Some(previous) = before.get(at) {
                        way.push((*previous).to_string());
                        at = previous;
                    }
                    way.reverse();
                    return Some(way);
                }
                if next != module && !before.contains_key(next.as_str()) {
                    before.insert(next, at);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

fn inner(module: &str, child: &str) -> String {
    if module.is_empty() { child.to_string() } else { format!("{module}/{child}") }
}

/// Returns the path and the name under which it is used.
fn renamed(path: &str) -> (String, String) {
    match path.split_once(" as ") {
        Some((path, name)) => (path.trim().to_string(), name.trim().to_string()),
        None => (path.to_string(), path.rsplit("::").next().unwrap().to_string()),
    }
}

/// Returns the paths of all `use`s.
pub fn uses(code: &str) -> Vec<Used> {
    let regex = Regex::new(USE).unwrap();
    let mut found = Vec::new();
    for captures in regex.captures_iter(code).map(Result::unwrap) {
        let exported = captures.get(1).is_some();
        let paths = expanded(captures.get(2).unwrap().as_str());
        found.extend(paths.into_iter().map(|path| Used { path, exported }));
    }
    found
}

/// Returns the single paths of `a::{b, c::{d, e}}`.
fn expanded(path: &str) -> Vec<String> {
    let path = path.trim();
    let Some((before, group)) = path.split_once('{') else { return vec![path.to_string()] };
    let group = group.strip_suffix('}').unwrap();
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in group.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else {
            parts.last_mut().unwrap().push(c);
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| expanded(&format!("{before}{part}"))).collect()
}
